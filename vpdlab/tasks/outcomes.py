"""What judges give back, as an Outcome: numbers of any make, and one line for what is no verdict."""

from __future__ import annotations

import numbers
from dataclasses import replace
from decimal import Decimal
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks.reading import shown
from vpdlab.types import Outcome

HALVES = range(0xD800, 0xE000)  # halves of a character, which no text file, tokenizer or table can hold


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
    """A number as a float, whoever made it (Python, numpy, torch, a fraction); None for what is no single number."""
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
    """A judge's answer as an Outcome of a plain float, plain text and nothing that a record cannot hold.

    Raises:
        UserError: for a reward that is no number in [0, 1] (NaN included), notes or an answer that are no text.
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
    return Outcome(reward, _whole(outcome.notes), _whole(outcome.answer))


def _whole(text: str | None) -> str | None:
    """Plain text, with a replacement character for each half of a character."""
    return None if text is None else "".join("\ufffd" if ord(char) in HALVES else char for char in str.__str__(text))
