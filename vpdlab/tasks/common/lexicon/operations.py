"""Operations on four digits, their opposites, and how a solution is written.

Results keep four digits: adding, subtracting and doubling wrap around after 9 (9 plus one is 0, twice 7 is 4), halving
rounds down.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

Digits = tuple[int, ...]
Meaning = tuple[str, ...]
"""What a name stands for: one or more operations, carried out in order."""

OPERATIONS: dict[str, Callable[[Digits], Digits]] = {
    "mirror": lambda d: d[::-1],
    "keep": lambda d: d,
    "rising": lambda d: tuple(sorted(d)),
    "falling": lambda d: tuple(sorted(d, reverse=True)),
    "plus": lambda d: tuple((x + 1) % 10 for x in d),
    "minus": lambda d: tuple((x - 1) % 10 for x in d),
    "double": lambda d: tuple(2 * x % 10 for x in d),
    "half": lambda d: tuple(x // 2 for x in d),
    "left": lambda d: d[1:] + d[:1],
    "right": lambda d: d[3:] + d[:3],
    "firsts": lambda d: d[:1] * 4,
    "lasts": lambda d: d[3:] * 4,
    "ends": lambda d: (d[3], d[1], d[2], d[0]),
    "middle": lambda d: (d[0], d[2], d[1], d[3]),
    "blocks": lambda d: d[2:] + d[:2],
    "pairs": lambda d: (d[1], d[0], d[3], d[2]),
}
"""Name -> function from four digits to four digits. The name is the English word that a solution uses for it."""

KINDS = tuple(OPERATIONS)
OPPOSITES = dict(zip(KINDS[::2], KINDS[1::2], strict=True)) | dict(zip(KINDS[1::2], KINDS[::2], strict=True))
"""Operation -> its opposite; the opposite of an opposite is the operation itself."""

CHECKED = ((4, 7, 2, 9), (8, 1, 6, 3), (5, 0, 9, 7), (2, 6, 5, 8))


def trace(meaning: Sequence[str], digits: Sequence[int]) -> list[Digits]:
    """The digits after each operation.

    >>> trace(["rising", "plus"], [4, 7, 2, 9])
    [(2, 4, 7, 9), (3, 5, 8, 0)]
    """
    found, now = [], tuple(digits)
    for operation in meaning:
        now = OPERATIONS[operation](now)
        found.append(now)
    return found


def spaced(digits: Sequence[int]) -> str:
    """Digits as a problem and a solution write them: "4 7 2 9"."""
    return " ".join(map(str, digits))


def solution(names: Sequence[str], meanings: Sequence[Sequence[str]], digits: Sequence[int]) -> str:
    """The reference response: each name, its operations, and the digits after each operation.

    >>> solution(["zork", "vinto"], [["rising"], ["plus"]], [4, 7, 2, 9])
    'zork rising 2 4 7 9, vinto plus 3 5 8 0'
    """
    steps, now = [], tuple(digits)
    for name, meaning in zip(names, meanings, strict=True):
        results = trace(meaning, now)
        parts = [f"{operation} {spaced(after)}" for operation, after in zip(meaning, results, strict=True)]
        steps.append(" ".join([name, *parts]))
        now = results[-1]
    return ", ".join(steps)


def opposite(meaning: Meaning) -> Meaning:
    """Each operation's opposite, in the same order."""
    return tuple(OPPOSITES[operation] for operation in meaning)


def effect(meaning: Meaning) -> tuple[Digits, ...]:
    """What a meaning does to a few numbers. Two meanings with the same effect are the same function."""
    return tuple(trace(meaning, digits)[-1] for digits in CHECKED)


def random_meaning(rng: random.Random, length: int) -> Meaning:
    """A meaning of `length` different operations.

    No single operation replaces it (one up, then one down does nothing), and its opposite does something else.
    """
    shorter = {effect((kind,)) for kind in KINDS} if length > 1 else set()
    while True:
        meaning = tuple(rng.sample(KINDS, length))
        if effect(meaning) not in shorter and effect(meaning) != effect(opposite(meaning)):
            return meaning


def held_out(digits: Sequence[int]) -> bool:
    """Whether a number belongs to the held-out tenth. It does so for every seed, for every option and for the training
    of a bundled model."""
    return zlib.crc32("".join(map(str, digits)).encode()) % 10 == 0


def telling(digits: Digits) -> bool:
    """Whether all operations give different results, so that the result shows which operation was used."""
    return len({function(digits) for function in OPERATIONS.values()}) == len(OPERATIONS)


@cache
def telling_numbers(test: bool) -> tuple[Digits, ...]:
    """All telling numbers of one split: 2664 for training, 266 held out."""
    return tuple(digits for digits in product(range(10), repeat=4) if held_out(digits) == test and telling(digits))
