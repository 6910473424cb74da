"""Generated sums of integers, with a critic that comments on the answer digit by digit.

The critique is self-contained: it quotes each digit, since the teacher never sees the attempt. "The tens digit 4 is too
low. The ones digit 5 is right."
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence

from vpdlab.errors import UserError
from vpdlab.tasks.common.options import typed_options
from vpdlab.types import Outcome, Problem, Rollout

PLACES = ("ones", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands", "millions")
SIGNS = {"+": 1, "-": -1}


def held_out(a: int, b: int) -> bool:
    """Whether a pair belongs to the held-out tenth. Neither order nor seed matters, so a pair that is held out here is
    held out everywhere (including the apprentice's own training)."""
    low, high = sorted((a, b))
    return zlib.crc32(f"{low},{high}".encode()) % 10 == 0


class Arithmetic:
    """Addition (or subtraction) of numbers with a fixed number of digits.

    Args:
        digits: digits of each number, 1 to 6.
        operations: "+", "-" or "+-".
        size: training problems; fewer if there are not enough pairs.
        heldout: held-out problems.
        seed: random seed of the problems. The split does not depend on it.

    Raises:
        UserError: for arguments out of range.
    """

    name = "arithmetic"

    @typed_options
    def __init__(
        self, digits: int = 2, operations: str = "+", size: int = 2000, heldout: int = 512, seed: int = 0
    ) -> None:
        if not 1 <= digits <= 6:
            raise UserError(f"task arithmetic: digits is {digits!r}, but must be a whole number from 1 to 6")
        if operations not in ("+", "-", "+-", "-+"):
            raise UserError(f"task arithmetic: operations is {operations!r}, but must be '+', '-' or '+-'")
        for name, count in (("size", size), ("heldout", heldout)):
            if count < 1:
                raise UserError(f"task arithmetic: {name} is {count!r}, but must be a whole number above 0")
        self.digits, self.operations = digits, operations
        self._problems = {
            "train": self._draw(random.Random(f"train {seed}"), size, False),
            "test": self._draw(random.Random(f"test {seed}"), heldout, True),
        }
        counts = {split: len(problems) for split, problems in self._problems.items()}
        self.summary = f"arithmetic, {digits} digits: {counts['train']} training and {counts['test']} held-out problems"

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test"; the two share no pair of numbers."""
        if split not in self._problems:
            raise UserError(f"task arithmetic: there is no split {split!r}: choose train or test")
        return self._problems[split]

    def verify(self, rollout: Rollout) -> Outcome:
        """Compare the last integer of the response with the sum; the notes comment on each digit."""
        numbers = re.findall(r"(-?)0*([0-9]+)", rollout.text)
        if not numbers:
            return Outcome(0.0, "The answer has no number.")
        sign, digits = numbers[-1]  # kept as text: int() rejects a number of thousands of digits
        given = digits if digits == "0" else sign + digits
        return Outcome(float(given == rollout.problem.answer), critique(given, rollout.problem.answer), given)

    def _draw(self, rng: random.Random, count: int, test: bool) -> list[Problem]:
        low, high = (0 if self.digits == 1 else 10 ** (self.digits - 1)), 10**self.digits - 1
        pairs = (high - low + 1) ** 2 * len(self.operations)
        drawn: dict[str, Problem] = {}
        # At least one draw in ten belongs to the split; the bound ends the search when there are too few pairs.
        for _ in range(40 * min(count, pairs) + 1000):
            a, b, sign = rng.randint(low, high), rng.randint(low, high), rng.choice(self.operations)
            if held_out(a, b) == test:
                name = f"{a}{sign}{b}"
                drawn.setdefault(name, Problem(name, f"What is {a} {sign} {b}?", str(a + SIGNS[sign] * b)))
            if len(drawn) == count:
                break
        return list(drawn.values())


def critique(given: str, right: str) -> str:
    """Feedback on a number: one short sentence per digit, most significant first, that quotes the digit.

    A digit is right, too high or too low, never by how much. A wrong sign or number of digits comes first.
    """
    sentences = []
    if given.startswith("-") != right.startswith("-"):
        sentences.append(f"The sign of {given} is wrong.")
    given, right = given.lstrip("-"), right.lstrip("-")
    if len(given) != len(right):
        few = "few" if len(given) < len(right) else "many"
        return " ".join([*sentences, f"The number {given} has too {few} digits."])
    for power in range(len(given) - 1, -1, -1):
        digit, wanted = given[-1 - power], right[-1 - power]
        verdict = "right" if digit == wanted else "too low" if digit < wanted else "too high"
        sentences.append(f"The {PLACES[power]} digit {digit} is {verdict}.")
    return " ".join(sentences)
