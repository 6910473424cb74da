"""Lookup: in the world of made-up words, the policy may ask what a word means before it answers, at a price."""

from __future__ import annotations

import random

from vpdlab.errors import UserError
from vpdlab.tasks import Task, verify_all
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.tasks.common.lexicon.frames import Wording
from vpdlab.tasks.common.options import typed_options
from vpdlab.types import Outcome, Problem

SYSTEM = 'You may ask what a word means, one word a turn: write "zork?" for zork. {price}Then answer.'
UNKNOWN = "There is no word {word} in the problem."


class Lookup:
    """Made-up words that can be looked up.

    A turn that is a single word, or a word and a question mark, is a question; any other turn is the answer. The reply
    to a question is true, and in the words of the task's phrases.

    Args:
        task: of kind lexicon.
        price: taken off the reward of a right answer for each question; what is right stays right (`Outcome.right`).
        explain: whether a system turn says how to ask, for models that do not know.

    Raises:
        UserError: for another task, or a price out of range.
    """

    name = "lookup"

    @typed_options
    def __init__(self, task: Task, price: float = 0.1, explain: bool = False) -> None:
        if getattr(task, "meanings", None) is None:
            raise UserError(f"environment lookup needs task lexicon, which has words with meanings; not {task.name}")
        if not 0 <= price <= 1:
            raise UserError(f"environment lookup: price is {price}, but must be a number from 0 to 1")
        self.task, self.price, self.explain = task, price, explain

    def start(self, problem: Problem) -> list[Message]:
        """The problem; with `explain` also how to ask."""
        cost = f"Each question costs {self.price:g} of the reward. " if self.price else ""
        return messages(problem, SYSTEM.format(price=cost) if self.explain else "")

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """The meaning of the word that was asked for, or the outcome of an answer."""
        word = text.strip().removesuffix("?").strip()
        if not word.isalpha():
            return self._judged(episode, text)
        asked = episode.state["asked"] = episode.state.get("asked", 0) + 1
        meanings = dict(zip(episode.problem.data["names"], episode.problem.data["meanings"], strict=True))
        if word not in meanings:
            return Reply(UNKNOWN.format(word=word))
        rng = random.Random(f"{episode.problem.id} {episode.index} {asked}")
        return Reply(Wording().sentence(rng, word, meanings[word]))

    def _judged(self, episode: Episode, text: str) -> Outcome:
        outcome = verify_all(self.task, [episode.attempt(text)])[0].verified
        cost = self.price * episode.state.get("asked", 0)
        reward = max(0.0, outcome.reward - cost)
        return Outcome(reward, outcome.notes, outcome.answer, outcome.success)
