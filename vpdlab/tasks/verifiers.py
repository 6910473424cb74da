"""Environments of the package `verifiers`: data sets and rubrics. Several turns need environment=verifiers too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks.common.episodes import opened
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.splits import split_of
from vpdlab.tasks.common.verifiers_package import Conversation, judged, load, rows
from vpdlab.types import Outcome, Problem, Rollout


class Verifiers:
    """The problems of an environment of the package `verifiers`, and its rubric's reward.

    Args:
        environment: its name, as `verifiers.load_environment` takes it.
        arguments: its arguments, as JSON.
        success: the rubric's reward from which a response is right.
        heldout: training rows for evaluation, the last ones, where the environment has no evaluation set.
        seconds: limit of each answer of the environment, and of its rubric.

    Raises:
        UserError: where the package or the environment is missing, or a row's prompt is no chat that ends with the
            user's turn.
    """

    name = "verifiers"

    @typed_options
    def __init__(
        self, environment: str = "", arguments: str = "{}", success: float = 1.0, heldout: int = 64,
        seconds: float = 30.0,
    ) -> None:  # fmt: skip
        if not environment:
            raise UserError("task verifiers: environment is empty: name one, for instance environment=gsm8k")
        try:
            given = json.loads(arguments)
        except ValueError as error:
            raise UserError(f"task verifiers: arguments is {arguments!r}, but must be JSON: {error}") from error
        if not isinstance(given, dict):
            raise UserError(f"task verifiers: arguments is {arguments!r}, but must be a JSON object")
        self.package, self.success, self.seconds = load(environment, given), success, seconds
        train, test = rows(self.package, "train"), rows(self.package, "test")
        if not test:
            train, test = train[:-heldout], train[-heldout:]
        self.rows = {
            f"{split}-{number}": row for split, found in (("train", train), ("test", test))
            for number, row in enumerate(found)
        }  # fmt: skip
        self._problems = {
            split: [_problem(name, row) for name, row in self.rows.items() if name.startswith(split)]
            for split in ("train", "test")
        }
        self.summary = f"verifiers, {environment}: {len(train)} train problems, {len(test)} test problems"

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test". Raises UserError for another name or an empty split."""
        return split_of("verifiers", self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """The rubric's reward of a response as a conversation of one turn."""
        talk = self.conversation(rollout.problem)
        talk.add(rollout.text, [])
        return judged(talk.reward(), self.success, None)

    def conversation(self, problem: Problem) -> Conversation:
        """A new conversation about a problem. Raises UserError for a problem of another task."""
        if problem.id not in self.rows:
            raise UserError(f"problem {problem.id!r} was not made by this task: build it with the same options")
        return Conversation(self.package, self.rows[problem.id], self.seconds)


def _problem(name: str, row: dict[str, Any]) -> Problem:
    try:
        return opened(Problem(name, "", str(row.get("answer", ""))), row["prompt"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"task verifiers, row {name}: its prompt cannot be used: {error}") from error
