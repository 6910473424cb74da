"""When a program's output counts as the expected one."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

# A number as programs print it. `Decimal` itself takes more: digits of every script, and "1_2".
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
BLANK = " \t\r\f\v"
LONGEST = 100  # characters of a number that is compared by its value


def same_output(expected: str, got: bytes) -> bool:
    """Whether an output is the expected one: line by line, or by numbers that are equal (1.50 and 1.5).

    White space (of ASCII) at the ends of lines, and empty lines at the end, do not count. Bytes that are no UTF-8 are
    never right.
    """
    try:
        text = got.decode("utf-8")
    except UnicodeDecodeError:
        return False
    wanted, found = (_lines(each) for each in (expected, text))
    return len(wanted) == len(found) and all(map(_same_line, wanted, found))


def _lines(text: str) -> list[str]:
    return [line.strip(BLANK) for line in text.rstrip(BLANK + "\n").split("\n")]


def _same_line(wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    left, right = (re.split(rf"[{BLANK}]+", line) for line in (wanted, found))
    return len(left) == len(right) and all(a == b or _same_number(a, b) for a, b in zip(left, right, strict=True))


def _same_number(wanted: str, found: str) -> bool:
    if not all(len(word) <= LONGEST and NUMBER.fullmatch(word) for word in (wanted, found)):
        return False
    try:
        return Decimal(wanted) == Decimal(found)
    except InvalidOperation:  # an exponent beyond what Decimal takes
        return False
