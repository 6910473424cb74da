"""When a program's output counts as the expected one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A number as programs print it. `Decimal` itself accepts more: digits of any script, and "1_2".
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BLANK = " \t\r\f\v"
LONGEST = 100  # characters of a number that is compared by value


def same_output(expected: str, got: bytes) -> bool:
    """Whether an output equals the expected one line by line; equal numbers (1.50 and 1.5) count as equal.

    Leading and trailing ASCII white space and empty lines at the end are ignored. Bytes that are not UTF-8 never match.
    """
    try:
        text = got.decode("utf-8")
    except UnicodeDecodeError:
        return False
    left, right = _lines(expected), _lines(text)
    return len(left) == len(right) and all(map(_same_line, left, right))


def _lines(text: str) -> list[str]:
    return [line.strip(BLANK) for line in text.rstrip(BLANK + "\n").split("\n")]


def _same_line(expected: str, got: str) -> bool:
    if expected == got:
        return True
    left, right = (re.split(rf"[{BLANK}]+", line) for line in (expected, got))
    return len(left) == len(right) and all(a == b or _same_number(a, b) for a, b in zip(left, right, strict=True))


def _same_number(expected: str, got: str) -> bool:
    if not all(len(word) <= LONGEST and NUMBER.fullmatch(word) for word in (expected, got)):
        return False
    try:
        return Decimal(expected) == Decimal(got)
    except InvalidOperation:  # an exponent out of Decimal's range
        return False
