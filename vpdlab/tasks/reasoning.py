"""Procedural reasoning: any family of reasoning-gym, with a critic for those whose metadata supports one.

Problems, answers and scores come from reasoning-gym (https://github.com/open-thought/reasoning-gym). Ours are two
splits that share no words, a guard before scorers that would evaluate the answer as Python, and notes that stand on
their own (the teacher never sees the attempt they are about) and never give the right answer.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import random
import re
import typing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import localcontext
from fractions import Fraction
from functools import partial
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks import read_answer
from vpdlab.tasks.common.options import typed, typed_options
from vpdlab.tasks.common.splits import drop_duplicates, split_of
from vpdlab.types import Outcome, Problem, Rollout

SYSTEM = """Think step by step, then give the final answer in this form:
<answer>
...
</answer>
Put only the final answer between the tags, written in the way the question asks for."""
FORM = "The answer is not written in the form that the question asks for: it must be the final answer alone."
# Families whose problems depend on Python's hash seed, so that another process makes other ones.
UNSTEADY = ("isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder")
# Families without one reference answer name a possible one in their metadata.
EXAMPLES = ("example_answer", "example_correct_answer")
# What a scorer may raise on words that it does not expect; the words are at fault then, not the scorer.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Reasoning:
    """One family of reasoning-gym; the score of its own scorer is the reward.

    Args:
        family: name of the family, such as ``"chain_sum"``.
        size: training problems that are generated (fewer remain where some repeat).
        heldout: held-out problems that are generated.
        seed: picks both splits.
        family_options: the family's own options, such as ``max_terms=3``.

    All problems are made here, at once: most families take microseconds a problem, a few search for seconds.

    Raises:
        UserError: for an unknown family or option, or a value that the family refuses.
    """

    name = "reasoning"

    @typed_options
    def __init__(
        self, family: str = "chain_sum", size: int = 2000, heldout: int = 256, seed: int = 0, **family_options: Any
    ) -> None:
        for option, count in (("size", size), ("heldout", heldout)):
            if count < 1:
                raise UserError(f"task reasoning: {option} is {count!r}, but must be a whole number above 0")
        self.family = family
        self._entries: dict[str, dict[str, Any]] = {}  # the scorers want tuples and the like: not JSON, so kept here
        made: dict[str, list[Problem]] = {}
        for split, count in (("train", size), ("test", heldout)):
            # Item i is drawn from its data set's seed + i: neighbouring seeds would share nearly all problems.
            start = random.Random(f"{family} {seed} {split}").getrandbits(31)
            self._dataset = _generator(family, {**family_options, "seed": start, "size": count})
            try:
                with localcontext():  # decimal_arithmetic sets the precision of all decimals, and leaves it so
                    entries = [self._dataset[index] for index in range(count)]
            except UNREADABLE as error:
                raise UserError(f"family {family} makes no problem with {family_options}: {error}") from error
            made[split] = [self._problem(entry) for entry in entries]
            pairs = zip(made[split], entries, strict=True)
            self._entries |= {problem.id: entry for problem, entry in reversed(list(pairs))}  # the first of equal ones
        # A family may give one question several right answers, of which its scorer takes any.
        train, test, said = drop_duplicates(made["train"], made["test"], told=lambda problem: None)
        self._problems = {"train": train, "test": test}
        parts = [f"reasoning, {family}: {len(train)} train, {len(test)} test problems"] + ([said] if said else [])
        parts += ["other problems in another process unless PYTHONHASHSEED is fixed"] if family in UNSTEADY else []
        self.summary: str = "; ".join(parts)

    def _problem(self, entry: dict[str, Any]) -> Problem:
        metadata = entry["metadata"]
        answer = entry["answer"] or next((metadata[key] for key in EXAMPLES if metadata.get(key)), "")
        digest = hashlib.sha256(entry["question"].encode()).hexdigest()[:12]
        problem_id = f"{self.family}-{digest}"  # from the words: equal words, equal id, in every run and split
        kept = json.loads(json.dumps(metadata, default=str, skipkeys=True))  # what a record can hold of it
        return Problem(problem_id, entry["question"], str(answer), SYSTEM, {"family": self.family, "metadata": kept})

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
        return split_of(self.name, self._problems, split, f"{self.summary}: widen the family's options")

    def verify(self, rollout: Rollout) -> Outcome:
        """Reward: the family's score in [0, 1], partial scores included. Raises UserError for a foreign problem."""
        entry = self._entries.get(rollout.problem.id)
        if entry is None:
            raise UserError(f"problem {rollout.problem.id!r} was not made by this task: build it with the same options")
        answer, why_none = read_answer(rollout)
        if not answer:
            return Outcome(0.0, why_none)
        reward = self._score(answer, entry)
        notes = "The answer is right." if reward >= 1 else explain(self.family, entry, answer)
        return Outcome(reward, notes, " ".join(answer.split()))

    def _score(self, answer: str, entry: dict[str, Any]) -> float:
        if not _harmless(self.family, answer):
            return 0.0
        if self.family == "game_of_life_halting" and answer.casefold() != str(entry["answer"]).casefold():
            return 0.0  # its own scorer takes any words for a yes
        if self.family == "puzzle24" and sorted(map(int, re.findall(r"\d{1,9}", answer))) != sorted(
            entry["metadata"]["numbers"]
        ):
            return 0.0  # its own scorer takes any four numbers
        try:
            score = float(self._dataset.score_answer(answer, entry))
        except UNREADABLE:
            return 0.0
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0


def _generator(family: str, options: dict[str, Any]) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS or family == "composite":  # composite is a mixture of families, not one
        close = difflib.get_close_matches(family, DATASETS, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {len(DATASETS) - 1}, such as chain_sum"
        raise UserError(f"reasoning-gym has no family {family!r}: {hint}")
    kind = DATASETS[family][1]
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            takes = ", ".join(name for name in known if name not in ("seed", "size")) or "none"
            raise UserError(f"family {family} has no option {option!r}: it takes {takes}")
    options = typed(f"family {family}", options, typing.get_type_hints(kind))
    try:
        return reasoning_gym.create_dataset(family, **options)
    except (AssertionError, *UNREADABLE) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if name not in ("seed", "size"))
        raise UserError(f"family {family} refuses {given or 'its options'}: {error}") from error


# The scorers of these families hand the answer to Python's eval, bare or inside sympy's parser. A model wrote it,
# so only plain lists, and only arithmetic of a bounded size, get that far.
LITERALS = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
FORMULAS = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
FUNCTIONS = {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh"}
PLAIN = (ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.List, ast.Tuple)
ARITHMETIC = (*PLAIN[:-2], ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Call)


def _harmless(family: str, answer: str) -> bool:
    if family == "coin_flip":  # a fraction of "1e999999999" would fill the memory
        return len(answer) < 100 and not re.search(r"[eE][+-]?\d{3}", answer)
    if family not in LITERALS + FORMULAS:
        return True
    try:
        nodes = list(ast.walk(ast.parse(answer.strip(), mode="eval")))
    except SyntaxError:
        return family in LITERALS  # not Python at all: compared as text there; sympy would rewrite and run it
    except (MemoryError, RecursionError, ValueError):
        return False
    if family in LITERALS:
        return all(isinstance(node, PLAIN) for node in nodes)
    return len(answer) <= 500 and all(isinstance(node, ARITHMETIC) and _bounded(node) for node in nodes)


def _bounded(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and abs(node.value) < 10**15
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        inside = [part for side in (node.left, node.right) for part in ast.walk(side)]
        exponents = [part.value for part in ast.walk(node.right) if isinstance(part, ast.Constant)]
        small = len(exponents) <= 2 and all(isinstance(value, int | float) and value <= 100 for value in exponents)
        return small and not any(isinstance(part, ast.Pow) for part in inside)  # no towers
    return True


def explain(family: str, entry: Mapping[str, Any], answer: str) -> str:
    """What is wrong with `answer`, in words that never give the right one."""
    reference, given = (" ".join(text.casefold().split()) for text in (str(entry["answer"] or ""), answer))
    critic = CRITICS.get(family)
    if critic and given != reference and (said := critic(entry["metadata"], answer, str(entry["answer"]))) is not None:
        return said
    if reference and re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", given):  # a quote would give the answer away
        return FORM
    shown = " ".join(answer.split())
    return f'The answer "{shown if len(shown) <= 80 else shown[:79] + "…"}" is not right.'


# A critic reads (metadata, answer, reference); it returns None where it has nothing particular to say.
Critic = Callable[[Mapping[str, Any], str, str], str | None]


def _number(text: str) -> Fraction | None:
    plain = re.fullmatch(r"[-+]?(\d{1,3}(,\d{3})+|\d{1,30})(\.\d{1,30})?", text.strip().replace("−", "-"))
    return Fraction(plain[0].replace(",", "")) if plain and len(text) < 80 else None


def _size(_: Mapping[str, Any], answer: str, reference: str, digits: bool = False) -> str | None:
    given, right = _number(answer), _number(reference)
    if given is None or right is None or given == right:
        return None
    if given * right < 0:
        return f"The answer {answer} has the wrong sign."
    said = f"The answer {answer} is too {'high' if given > right else 'low'}."
    if not digits or given % 1 or right % 1:
        return said
    return said + (" Its last digit is right." if given % 10 == right % 10 else " Its last digit is wrong too.")


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
    wrong = next((place for place in range(len(right)) if given[place] != right[place]), None)
    if wrong is None:
        return FORM
    return f'The answer lists the right items, but "{shown[wrong][:40]}" does not belong at place {wrong + 1}.'


def _spelling(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    if len(answer) != len(reference):
        return f"The answer has {len(answer)} characters, but the word has {len(reference)}."
    pairs = zip(answer.casefold(), reference.casefold(), strict=True)
    wrong = next((place for place, (given, right) in enumerate(pairs, 1) if given != right), None)
    return f'In the answer "{answer}" the letter at place {wrong} is the first that is wrong.' if wrong else FORM


def _fraction(metadata: Mapping[str, Any], answer: str, reference: str) -> str | None:
    found = re.fullmatch(r"\$?\s*(?:\\d?frac)?\s*\{?\s*(\d{1,18})\s*(?:/|\}\s*\{)\s*(\d{1,18})\s*\}?\s*\$?", answer)
    if found is None or int(found[2]) == 0:
        return FORM
    top, bottom = int(found[1]), int(found[2])
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
