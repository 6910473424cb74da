"""Critics for reasoning-gym families: feedback on a wrong answer, from the family's metadata.

The text is self-contained, because the teacher never sees the attempt, and never gives the right answer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import Any

FORM = "The answer is not written in the form that the question asks for: it must be the final answer alone."


def explain(family: str, entry: Mapping[str, Any], answer: str) -> str:
    """Feedback on a wrong answer that never gives the right one."""
    reference, given = (" ".join(text.casefold().split()) for text in (str(entry["answer"] or ""), answer))
    critic = CRITICS.get(family)
    if critic and given != reference and (text := critic(entry["metadata"], answer, str(entry["answer"]))) is not None:
        return text
    if reference and re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", given):  # quoting it would reveal the answer
        return FORM
    shown = " ".join(answer.split())
    return f'The answer "{shown if len(shown) <= 80 else shown[:79] + "…"}" is not right.'


# (metadata, answer, reference) -> feedback; None if the critic has nothing specific to say.
Critic = Callable[[Mapping[str, Any], str, str], str | None]


def _number(text: str) -> Fraction | None:
    plain = re.fullmatch(r"[-+]?(\d{1,3}(,\d{3})+|\d{1,30})(\.\d{1,30})?", text.strip().replace("−", "-"))
    return Fraction(plain[0].replace(",", "")) if plain and len(text) < 80 else None


def _size(_: Mapping[str, Any], answer: str, reference: str, digits: bool = False) -> str | None:
    given, right = _number(answer), _number(reference)
    if given is None or right is None or given == right or -given == right > 0:  # "-9" quotes a 9
        return None
    if given * right < 0:
        return f"The answer {answer} has the wrong sign."
    text = f"The answer {answer} is too {'high' if given > right else 'low'}."
    if not digits or given % 1 or right % 1:
        return text
    return text + (" Its last digit is right." if given % 10 == right % 10 else " Its last digit is wrong too.")


def _divisibility(greatest: bool) -> Critic:
    def critic(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
        if not re.fullmatch(r"0*[1-9]\d{0,18}", answer) or int(answer) == int(reference):
            return _size(metadata, answer, reference)
        value, numbers = int(answer), metadata["numbers"]
        broken = [n for n in numbers if (n % value if greatest else value % n)]
        verb = "divides" if greatest else "is a multiple of"
        if not broken:
            return f"{answer} {verb} all the numbers, but a {'larger' if greatest else 'smaller'} one does so too."
        named = broken[0] if str(broken[0]) != reference else "all the numbers"
        return f"{answer} {'does not divide' if greatest else 'is not a multiple of'} {named}."

    return critic


def _sequence(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    def items(text: str) -> list[str]:
        return [item.strip(" '\"[]\n") for item in text.split("," if "," in reference else None)]

    def key(item: str) -> Fraction | str:  # "2.50" and "2.5" are one number
        return item if (number := _number(item)) is None else number

    shown = items(answer)
    given, right = [key(item) for item in shown], [key(item) for item in items(reference)]
    extra, missing = Counter(given) - Counter(right), Counter(right) - Counter(given)
    if extra:
        first = shown[given.index(next(iter(extra)))][:40]
        return f'The answer lists "{first}", which does not belong there or stands there too often.'
    if missing:
        return f"The answer leaves out {missing.total()} of the {len(right)} items that belong in it."
    wrong = next((index for index in range(len(right)) if given[index] != right[index]), None)
    if wrong is None:
        return FORM
    return f'The answer lists the right items, but "{shown[wrong][:40]}" does not belong at place {wrong + 1}.'


def _spelling(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    if len(answer) != len(reference):
        return f"The answer has {len(answer)} characters, but the word has {len(reference)}."
    pairs = zip(answer.casefold(), reference.casefold(), strict=True)
    wrong = next((index for index, (given, right) in enumerate(pairs, 1) if given != right), None)
    return f'In the answer "{answer}" the letter at place {wrong} is the first that is wrong.' if wrong else FORM


def _fraction(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    match = re.fullmatch(r"\$?\s*(?:\\d?frac)?\s*\{?\s*(\d{1,18})\s*(?:/|\}\s*\{)\s*(\d{1,18})\s*\}?\s*\$?", answer)
    if match is None or int(match[2]) == 0:
        return FORM
    top, bottom = int(match[1]), int(match[2])
    if Fraction(top, bottom) != Fraction(metadata["numerator"], metadata["denominator"]):
        return f"{top}/{bottom} is not equal to the fraction that was to be simplified."
    common = math.gcd(top, bottom) > 1
    return f"{top}/{bottom} is equal to the given fraction, but it is not in lowest terms." if common else FORM


def _factors(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    factors = [int(digits) for digits in re.findall(r"\d{1,18}", answer)]
    if not factors or not re.fullmatch(r"[\d\s×x*·]+", answer):
        return FORM
    if math.prod(factors) != metadata["number"]:
        return "The factors in the answer do not multiply to the number that was asked for."
    split = next((f for f in factors if f < 2 or any(f % d == 0 for d in range(2, math.isqrt(f) + 1))), None)
    return f"The factors multiply to the right number, but {split} is not prime." if split is not None else FORM


SUMS = ("basic_arithmetic", "chain_sum", "products")
COUNTS = ("count_bits", "count_primes", "largest_island", "leg_counting", "letter_counting", "maze", "rectangle_count")
VALUES = ("aiw", "decimal_arithmetic", "decimal_chain_sum", "gsm_symbolic", "number_sequence", "simple_equations")
LISTS_OF_ITEMS = ("caesar_cipher", "number_filtering", "number_sorting", "word_sequence_reversal", "word_sorting")
CRITICS: dict[str, Critic] = {
    **dict.fromkeys(SUMS, partial(_size, digits=True)),
    **dict.fromkeys(COUNTS + VALUES, _size),
    **dict.fromkeys(LISTS_OF_ITEMS, _sequence),
    "fraction_simplification": _fraction,
    "gcd": _divisibility(greatest=True),
    "lcm": _divisibility(greatest=False),
    "prime_factorization": _factors,
    "spell_backward": _spelling,
}
