"""One turn: the task by itself. Episodes of it are the responses that a run without an environment samples."""

from __future__ import annotations

from collections.abc import Sequence

from vpdlab.tasks import Task, verify_all
from vpdlab.tasks.common.episodes import Episode, Message, messages
from vpdlab.types import Outcome, Problem


class OneTurn:
    """A task as an environment: the first turn is the last, and the task verifies it."""

    name = "one_turn"

    def __init__(self, task: Task) -> None:
        self.task = task

    def start(self, problem: Problem) -> list[Message]:
        """The problem, as the task asks it."""
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Outcome:
        """What the task says of it."""
        return self.step_many([episode], [text])[0]

    def step_many(self, episodes: Sequence[Episode], texts: Sequence[str]) -> list[Outcome]:
        """What the task says of each."""
        attempts = [episode.attempt(text) for episode, text in zip(episodes, texts, strict=True)]
        return [attempt.verified for attempt in verify_all(self.task, attempts)]
