"""Retry: any task as a conversation. A wrong answer is followed by the verifier's words, and another attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from vpdlab.tasks import Task, verify_all
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.types import Outcome, Problem

WORDS = "{notes}\n\nNow solve the problem correctly."
RESTATED = "{problem}\n\nFeedback on an earlier attempt:\n{notes}\n\nNow solve the problem correctly."
SILENT = "That is wrong."


class Retry:
    """Attempts at a problem until one is right, as in a conversation (the multi-turn baseline of SDPO's section on
    test-time training, arXiv 2601.20802).

    Args:
        task: verifies each attempt; its words on a wrong one are the next user turn.
        restate: whether that turn repeats the problem, as a teacher's prompt does.
        about: what the outcome's notes are about: the whole "episode", or its "last" attempt, so that they are
            distilled into that attempt alone.
    """

    name = "retry"

    def __init__(self, task: Task, restate: bool = False, about: Literal["episode", "last"] = "episode") -> None:
        self.task, self.restate, self.about = task, restate, about

    def start(self, problem: Problem) -> list[Message]:
        """The problem, as the task asks it."""
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """The verifier's words; of a right attempt, the outcome."""
        return self.step_many([episode], [text])[0]

    def step_many(self, episodes: Sequence[Episode], texts: Sequence[str]) -> list[Reply | Outcome]:
        """`step` of many episodes, whose attempts are verified together where the task can."""
        attempts = [episode.attempt(text) for episode, text in zip(episodes, texts, strict=True)]
        verified = verify_all(self.task, attempts)
        return [self._answer(episode, one.verified) for episode, one in zip(episodes, verified, strict=True)]

    def end(self, episode: Episode, why: str) -> Outcome:
        """What the verifier said of the last attempt."""
        return episode.state["last"]

    def _answer(self, episode: Episode, outcome: Outcome) -> Reply | Outcome:
        episode.state["last"] = replace(outcome, turn=episode.attempts if self.about == "last" else None)
        if outcome.success:
            return episode.state["last"]
        template = RESTATED if self.restate else WORDS
        return Reply(template.format(problem=episode.problem.prompt, notes=outcome.notes or SILENT))
