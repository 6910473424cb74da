"""The digits in a response, and which steps of it are right.

A response is judged by its digits alone. Any text may stand around them: names, operations, an explanation.

* Four digits are one number, with or without spaces, commas and the like between them: "2 4 7 9", "2479", "2, 4, 7, 9".
  Longer runs are split into fours; a run of another length is no number. Blocks of thought and the numbers of steps
  ("Step 2:", "2.") are left out.
* As many numbers as steps, or as operations: each must be the result of its step or operation.
* Any other count: the numbers must follow the path of the solution (the problem's digits, then the result of each
  operation) in order. Results may be left out or repeated, so that the final digits alone are enough.
* The last number must be the final result. Digits after it that form no number make the response wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vpdlab.tasks.common.lexicon.operations import Digits, trace

THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
LABEL = re.compile(r"\bstep\s*[0-9]{1,2}\b|^[ \t]*[(#]?[0-9]{1,2}[.):](?=\s)", re.IGNORECASE | re.MULTILINE)
# Single digits with separators between them, or digits without a gap.
RUN = re.compile(r"""[0-9](?![0-9])(?:[\s,;|*_'"\[\]-]{1,6}[0-9](?![0-9]))*|[0-9]{2,}""")


@dataclass(frozen=True)
class Judgement:
    """How a response did.

    Attributes:
        steps: for each step whether it is right; None where the response shows nothing that belongs to it.
        answer: the final digits without spaces; None where the response does not end in a number.
    """

    steps: tuple[bool | None, ...]
    answer: str | None

    @property
    def right(self) -> bool:
        """Whether the response is a success."""
        return all(self.steps)


def numbers(text: str) -> tuple[list[Digits], bool]:
    """The four-digit numbers in a text, in order, and whether its last digits belong to one.

    >>> numbers("Step 1: zork rising 2 4 7 9, vinto plus 3580")
    ([(2, 4, 7, 9), (3, 5, 8, 0)], True)
    >>> numbers("2479, then 35")
    ([(2, 4, 7, 9)], False)
    """
    found, complete = [], False
    spoken = THOUGHTS.sub(" ", text).rpartition("</think>")[2]  # some chat templates open the block in the prompt
    for run in RUN.findall(LABEL.sub(" ", spoken)):
        digits = [int(digit) for digit in re.findall("[0-9]", run)]
        complete = len(digits) % 4 == 0
        if complete:
            found += [(*digits[at : at + 4],) for at in range(0, len(digits), 4)]
    return found, complete


def judge(text: str, meanings: Sequence[Sequence[str]], start: Sequence[int]) -> Judgement:
    """Judge a response to a problem.

    Args:
        text: the response.
        meanings: for each step the operations that its name stands for, all steps with equally many.
        start: the problem's digits.
    """
    found, complete = numbers(text)
    answer = "".join(map(str, found[-1])) if complete else None
    flat = [(operation,) for meaning in meanings for operation in meaning]
    for units in (meanings, flat):
        if complete and len(found) == len(units):
            right = _one_by_one(found, units, start)
            width = len(units) // len(meanings)
            return Judgement(tuple(all(right[at : at + width]) for at in range(0, len(right), width)), answer)
    return Judgement(_along_the_path(found, complete, meanings, start), answer)


def _one_by_one(found: Sequence[Digits], units: Sequence[Sequence[str]], start: Sequence[int]) -> list[bool]:
    """Whether each number is what its unit makes of the number before it."""
    before = [tuple(start), *found[:-1]]
    return [trace(unit, was)[-1] == now for unit, was, now in zip(units, before, found, strict=True)]


def _along_the_path(
    found: Sequence[Digits], complete: bool, meanings: Sequence[Sequence[str]], start: Sequence[int]
) -> tuple[bool | None, ...]:
    """The steps of a response that follows the path of the solution up to some point."""
    path = [tuple(start), *trace([operation for meaning in meanings for operation in meaning], start)]
    at = {0}  # positions in the path that the last number may have
    for number in found:
        following = {place for place in range(min(at), len(path)) if path[place] == number}
        if not following:
            complete = False
            break
        at = following
    steps, end = len(meanings), len(path) - 1
    if complete and max(at) == end:
        return (True,) * steps
    wrong = min(max(at) // (end // steps), steps - 1)
    return tuple(True if step < wrong else False if step == wrong else None for step in range(steps))
