"""Convert and validate what a judge returns: any numeric type is accepted, anything else is a one-line error."""

from __future__ import annotations

import numbers
from dataclasses import replace
from decimal import Decimal
from typing import Any

from vpdlab.errors import UserError, whole_text
from vpdlab.tasks.common.reading import shown
from vpdlab.types import Outcome

LONGEST = 100_000  # characters of notes and answers; no prompt takes more


def as_outcome(value: Any) -> Outcome:
    """What a user's function may return, as an Outcome: an Outcome, a number, True or False, or (one of these, notes).

    >>> as_outcome((True, "The sum is right.")).reward
    1.0
    """
    notes = None
    given = value
    if isinstance(value, tuple) and len(value) == 2:
        value, notes = value
    if isinstance(value, Outcome):
        return value if notes is None else replace(value, notes=notes)
    number = as_number(value)
    if number is None or not isinstance(notes, str | None):
        raise TypeError(f"it returned {shown(given)}: return an Outcome, a number in [0, 1], or (number, notes)")
    return Outcome(number, notes)


def as_number(value: Any) -> float | None:
    """A real number (Python, numpy, torch, Fraction, Decimal) as a float; None for anything else."""
    if not isinstance(value, numbers.Real | Decimal) and callable(getattr(value, "item", None)):
        try:
            value = value.item()  # numpy's scalars, and arrays and tensors of one element
        except (TypeError, ValueError, RuntimeError):  # more than one element
            return None
    if not isinstance(value, numbers.Real | Decimal):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError):
        return None


def checked(where: str, value: Any) -> Outcome:
    """Validate a judge's result and return it as an Outcome of plain float and plain text.

    Raises:
        UserError: if the reward is not a number in [0, 1] (NaN included), or notes or answer are not text.
    """
    try:
        outcome = as_outcome(value)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None
    reward = as_number(outcome.reward)
    if reward is None or not 0.0 <= reward <= 1.0:
        raise UserError(f"{where}: the reward is {shown(outcome.reward)}, but must be a number between 0 and 1")
    for what, text in (("the notes are", outcome.notes), ("the answer is", outcome.answer)):
        if not isinstance(text, str | None):
            raise UserError(f"{where}: {what} {shown(text)}, but must be text or None")
    if outcome.right not in (None, True, False):
        raise UserError(f"{where}: right is {shown(outcome.right)}, but must be true, false or None")
    if outcome.turn is not None and (as_number(outcome.turn) is None or outcome.turn < 1):
        raise UserError(f"{where}: turn is {shown(outcome.turn)}, but must be a whole number from 1, or None")
    right = None if outcome.right is None else bool(outcome.right)
    turn = None if outcome.turn is None else int(outcome.turn)
    return Outcome(reward, _whole(outcome.notes), _whole(outcome.answer), right, turn)


def _whole(text: str | None) -> str | None:
    """Plain `str` of at most `LONGEST` characters, with lone surrogates replaced by U+FFFD."""
    return None if text is None else whole_text(str.__str__(text)[:LONGEST])
