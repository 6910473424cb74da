"""Compare final answers: mathematics with math-verify, and by other rules what math-verify would misread.

Before the comparison, notations that math-verify does not know (`1 000`, `3 1/2`, `1.5e3`, non-ASCII digits and signs)
are rewritten (`math_notation`). `same` itself compares what math-verify would misread:

* times of day (12:30 would be 2/5), dates (a subtraction or a fraction), ratios (a quotient);
* quantities: if both sides have a unit, currency or number base, these must match; one side may omit it. Units are not
  converted;
* lists: same number of items, matched one to one; in parentheses or brackets also in the same order;
* numbers among words (2 hours 30 minutes, 7 remainder 3): the same ones in the same order;
* words: compared letter by letter, ignoring case (math-verify reads a product of letters: Paris = Pairs);
* the letter of a choice, with or without the text of the choice;
* small numbers: math-verify rounds to six decimals, so they must also agree to four digits (`math_worker`).

Left to math-verify: 50% equals both 50 and 0.5; 1/3 equals 0.333333 but not 0.3333; an open interval equals a pair;
x = 5 equals 5; a list without brackets is unordered; so is a product of one-letter names (ab = ba).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from fractions import Fraction

from vpdlab.tasks.common.math_notation import NUMBER, numbers_in_latex, tidy, unreadable, words_of
from vpdlab.tasks.common.math_units import quantity, unit_alias

Equal = Callable[[str, str], bool]
"""Whether math-verify considers two LaTeX formulas equal."""

LONGEST = 12  # items of a list of which each is compared with each
TIME = re.compile(r"([0-9]{1,2})(?::([0-5][0-9]))?(?::([0-5][0-9]))?\s*(?:([ap])\.?\s*m\.?)?", re.I)
RATIO = re.compile(r"[^:,;]+(?::[^:,;]+)+")
SLASHED = re.compile(r"([0-9]{1,2})[/.]([0-9]{1,2})[/.]([0-9]{4}|[0-9]{2})")
ISO = re.compile(r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})")
DATES = ("%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%B %d %Y", "%b %d %Y")
DAYS = ("%B %d", "%b %d", "%d %B", "%d %b")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WORD = re.compile(r"[^\W\d_]+(?:[\s'.-]+[^\W\d_]+)*\.?")
CHOICE = re.compile(r"\(?([A-Za-z])(?:[).:]+\s*|$)(.*)", re.S)
PRODUCTS = ("abcd", "klmn", "pqrst", "uvwxyz")  # names of variables and points that stand side by side
MIXTURE = re.compile(
    rf"{NUMBER}(?:\s*(?:[^\W\d_]{{2,}}|[hmsrd°'\"])\.?,?\s*{NUMBER})+\s*(?:[^\W\d_]+\.?|[°'\"]{{1,2}})?", re.I
)
TOKENS = re.compile(rf"{NUMBER}|[^\W\d_]+|[°'\"]")


def same(gold: str, answer: str, equal: Equal) -> bool:
    """Whether an answer equals the expected one."""
    gold, answer = numbers_in_latex(tidy(gold)), numbers_in_latex(tidy(answer))
    wanted, given = words_of(gold), words_of(answer)
    if wanted == given and wanted:
        return True
    if unreadable(gold) or unreadable(answer):
        return False
    for judge in (
        _same_time, _same_date, _same_list, _same_ratio, _same_mixture, _same_words, _same_choice, _same_quantity,
    ):  # fmt: skip
        verdict = judge(wanted, given, equal)
        if verdict is not None:
            return verdict
    return equal(gold, answer)


# -- kinds: each returns True or False for answers of its kind, None for others ---------------


def _same_time(gold: str, answer: str, equal: Equal) -> bool | None:
    first, second = _time(gold), _time(answer)
    if first and second:
        (wanted, marked), (given, also) = first, second  # one of them may omit its "pm"
        return wanted == given or (marked != also and (wanted[0] % 12, *wanted[1:]) == (given[0] % 12, *given[1:]))
    if first:
        return False
    fraction = "/" in gold or "\\frac" in gold  # 1:30 may denote the fraction
    return False if second and ":" in answer and not fraction else None


def _time(text: str) -> tuple[tuple[int, int, int], bool] | None:
    match = TIME.fullmatch(text)
    if match is None or not (match[2] or match[4]) or int(match[1]) > 24:
        return None
    hour = int(match[1])
    if match[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (match[4].lower() == "p")
    return (hour, int(match[2] or 0), int(match[3] or 0)), bool(match[4]) or hour > 12


def _same_date(gold: str, answer: str, equal: Equal) -> bool | None:
    wanted, given = _dates(gold), _dates(answer)
    return wanted == given if wanted or given else None


def _dates(text: str) -> tuple[int, ...]:
    """A date as (year, month, day), with year 0 if it has none; () if the text is not a date. 1/2/2024, which is
    ambiguous, only equals itself."""
    text = re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b", "", text)
    if match := ISO.fullmatch(text):
        year, month, day = map(int, match.groups())
        return (year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else ()
    if match := SLASHED.fullmatch(text):
        one, two, year = map(int, match.groups())
        if not 1 <= min(one, two) <= 12 or max(one, two) > 31:
            return ()
        sure = one == two or max(one, two) > 12
        return (year, min(one, two), max(one, two)) if sure else (year, one, two, 0)
    if not any(month in text.casefold() for month in MONTHS):
        return ()
    for form in (*DATES, *DAYS):
        whole = form if "%Y" in form else f"{form} %Y"
        with contextlib.suppress(ValueError):
            made = datetime.strptime(text if whole == form else f"{text} 2000", whole)
            return made.year * (whole == form), made.month, made.day
    return ()


def _same_list(gold: str, answer: str, equal: Equal) -> bool | None:
    (left, right, wanted), (open_, close, given) = _items(gold), _items(answer)
    if len(wanted) < 2 or len(given) < 2:
        return None
    if left and open_ and (left, right) != (open_, close):
        return False
    if len(wanted) != len(given):
        return False
    if left == "[" and not open_:  # an interval, not a list
        return False
    named = any("=" in item for item in wanted) != any("=" in item for item in given)
    if named or (left or open_) in ("(", "["):
        return all(same(one, two, equal) for one, two in zip(wanted, given, strict=True))
    missing, rest = [], list(given)
    for one in wanted:
        rest.remove(one) if one in rest else missing.append(one)
    if len(missing) > LONGEST:
        return None
    for one in missing:
        partner = next((two for two in rest if same(one, two, equal)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return True


def _items(text: str) -> tuple[str, str, list[str]]:
    """(opening bracket, closing bracket, items); the brackets are empty if there are none."""
    left, right = "", ""
    bare = text.replace("\\{", "{").replace("\\}", "}")
    if bare[:1] in ("(", "[", "{") and bare[-1:] in (")", "]", "}") and _closes(bare) == len(bare) - 1:
        left, right, bare = bare[0], bare[-1], bare[1:-1]
    parts, depth, start = [], 0, 0
    bare = bare if left else re.sub(r",?\s*\b(?:and|or)\b\s*", ",", bare)
    for index, char in enumerate(bare):
        depth += (char in "([{") - (char in ")]}")
        if char in ",;" and depth == 0:
            parts.append(bare[start:index].strip())
            start = index + 1
    return left, right, [part for part in (*parts, bare[start:].strip()) if part]


def _closes(text: str) -> int:
    """Index at which the bracket that opens the text is closed."""
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return index
    return -1


def _same_ratio(gold: str, answer: str, equal: Equal) -> bool | None:
    wanted, given = (text.split(":") if RATIO.fullmatch(text) else [text] for text in (gold, answer))
    if len(wanted) == len(given) == 1:
        return None
    if len(wanted) != len(given):  # a ratio of two may be written as a fraction, not as a decimal number
        if max(len(wanted), len(given)) > 2:
            return False
        other = gold if len(wanted) == 1 else answer
        return None if "/" in other or "\\frac" in other else False
    numbers = [[_fraction(part) for part in parts] for parts in (wanted, given)]
    if None not in numbers[0] and None not in numbers[1]:
        return _proportional(numbers[0], numbers[1])  # type: ignore[arg-type]
    return None if len(wanted) == 2 else all(same(one, two, equal) for one, two in zip(wanted, given, strict=True))


def _fraction(text: str) -> Fraction | None:
    text = text.strip()
    return Fraction(text) if re.fullmatch(rf"{NUMBER}", text) and len(text) < 40 else None


def _proportional(first: Sequence[Fraction], second: Sequence[Fraction]) -> bool:
    if not any(first) or not any(second):
        return list(first) == list(second)
    return all(a * sum(second) == b * sum(first) for a, b in zip(first, second, strict=True))


def _same_mixture(gold: str, answer: str, equal: Equal) -> bool | None:
    """Numbers among words (2 hours 30 minutes, 7 remainder 3): the same ones in the same order."""
    mixtures = [text for text in (gold, answer) if MIXTURE.fullmatch(text)]
    if len(mixtures) < 2:  # math-verify drops quotation marks: 5'3" would equal 53
        return False if any(mark in text for text in mixtures for mark in "'\"") else None
    parts = [
        [unit_alias(word.casefold()) or word.casefold() for word in TOKENS.findall(text)] for text in (gold, answer)
    ]
    numbers = [[_fraction(part) or part for part in side] for side in parts]
    return numbers[0] == numbers[1]


def _same_words(gold: str, answer: str, equal: Equal) -> bool | None:
    wanted, given = _word(gold), _word(answer)
    if wanted is None and given is None:
        return None
    return wanted == given if wanted and given else None if wanted is None else False


def _word(text: str) -> str | None:
    """Case-folded words; None for formulas and for letters that may be a product (abc, PQ)."""
    if not WORD.fullmatch(text):
        return None
    letters = text.casefold()
    if len(letters) == 1 or (len(letters) == 2 and not set(letters) & set("eiou")):
        return None
    if len(set(letters)) == len(letters) and any(set(letters) <= set(names) for names in PRODUCTS):
        return None
    return " ".join(re.split(r"[\s'.-]+", letters)).strip()


def _same_choice(gold: str, answer: str, equal: Equal) -> bool | None:
    wanted, given = CHOICE.fullmatch(gold), CHOICE.fullmatch(answer)
    if wanted is None or given is None or not (wanted[2] or given[2]):
        return None
    return wanted[1].upper() == given[1].upper()


def _same_quantity(gold: str, answer: str, equal: Equal) -> bool | None:
    (number, unit), (other, also) = quantity(gold), quantity(answer)
    if (number, other) == (gold, answer):
        return None
    return not (unit and also and unit != also) and equal(number, other)
