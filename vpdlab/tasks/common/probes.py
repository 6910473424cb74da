"""Probes: what a task measures of the policy at each evaluation, beside accuracy.

A task may have ``probes(reader) -> Mapping[str, float | None]``. The reader scores fixed responses under the run's
current weights and holds what the teacher answered at this evaluation; the result is recorded in eval.jsonl under
``probes`` and drawn in the timeline. Names of the form "belief/Ada" and "belief/Bob" share a panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vpdlab.errors import UserError, shown
from vpdlab.tasks.common.outcomes import as_number
from vpdlab.types import Feedback, Problem

MOST, LONGEST, LARGEST = 200, 60, 2.0**63
"""Bounds of a result: number of probes, characters of a name, size of a value (the record's own)."""


@dataclass(frozen=True)
class Question:
    """A fixed response to score in a context.

    Attributes:
        problem: the problem.
        response: the text to score, as the model would write it; nothing is appended to it.
        feedback: what the feedback prompt shows; None: the student's plain prompt.
        spans: (start, end) of the characters that count: each token that overlaps one of them. The tokens before are
            given, those after have no effect. (): the whole response.
    """

    problem: Problem
    response: str
    feedback: Feedback | None = None
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the teacher made of feedback on a failed held-out response of the student.

    Attributes:
        feedback: the feedback that it was shown.
        success: whether its own answer is right.
    """

    feedback: Feedback
    success: bool


class Reader(Protocol):
    """What `probes` is given."""

    @property
    def step(self) -> int:
        """The iteration after which the evaluation takes place; 0 before training."""
        ...

    @property
    def problems(self) -> Sequence[Problem]:
        """The held-out problems of this evaluation."""
        ...

    @property
    def answers(self) -> Sequence[Answer]:
        """The teacher's answers of this evaluation, one for each problem that the student failed."""
        ...

    def logp(self, questions: Sequence[Question], by: Literal["teacher", "student"] = "teacher") -> list[float]:
        """Log-probability (nats) of each question's response, at the run's sampling temperature.

        All questions are scored in as few passes as the token budget allows, so ask them in one call. With several
        processes each must ask the same.

        Args:
            by: whose weights: the M-step's teacher as it is now (live, moving average, snapshot, ...), or the student.

        Raises:
            UserError: for a response without tokens, spans that no token overlaps, or a prompt that is too long.
        """
        ...


def checked(found: Any) -> dict[str, float | None]:
    """The result of `probes` as plain numbers; NaN and infinities become None, as everywhere in the record.

    Raises:
        UserError: if it is anything but a mapping from short names to numbers or None.
    """
    if not isinstance(found, Mapping):
        raise UserError(f"it returned {shown(found)}: return a dict of names and numbers")
    if len(found) > MOST:
        raise UserError(f"it returned {len(found)} values, but at most {MOST} are recorded")
    return {_name(name): _value(name, value) for name, value in found.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST or not name.isprintable():
        raise UserError(f"{shown(name)} is no name: use printable text of at most {LONGEST} characters")
    return str(name)


def _value(name: str, value: Any) -> float | None:
    number = None if value is None else as_number(value)
    if number is None and value is not None:
        raise UserError(f"{name!r} is {shown(value)}, but must be a number or None")
    if number is None or not math.isfinite(number):
        return None
    if abs(number) >= LARGEST:
        raise UserError(f"{name!r} is {number}, but the record holds numbers up to 2**63")
    return number
