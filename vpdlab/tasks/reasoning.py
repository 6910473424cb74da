"""Procedural reasoning: any family of reasoning-gym, with a critic for those whose metadata supports one.

Problems, answers and scores come from reasoning-gym (https://github.com/open-thought/reasoning-gym). This module adds
disjoint splits, a safety check for scorers that would evaluate the answer as Python, and feedback (`common.critics`).
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
from collections.abc import Sequence
from decimal import localcontext
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks import read_answer
from vpdlab.tasks.common.critics import explain
from vpdlab.tasks.common.options import typed, typed_options
from vpdlab.tasks.common.splits import drop_duplicates, split_of
from vpdlab.types import Outcome, Problem, Rollout

SYSTEM = """Think step by step, then give the final answer in this form:
<answer>
...
</answer>
Put only the final answer between the tags, written in the way the question asks for."""
# Families whose problems depend on Python's hash seed and therefore differ between processes.
UNSTEADY = ("isomorphic_strings", "polynomial_multiplication", "ransom_note", "word_ladder")
# Families without a single reference answer have an example answer in their metadata.
EXAMPLES = ("example_answer", "example_correct_answer")
# What a scorer may raise on an answer that it does not expect; the answer then scores 0.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Reasoning:
    """One family of reasoning-gym; the reward is the score of its own scorer.

    Args:
        family: name of the family, such as ``"chain_sum"``.
        size: training problems to generate (duplicates are then dropped).
        heldout: held-out problems to generate.
        seed: random seed of both splits.
        family_options: the family's own options, such as ``max_terms=3``.

    All problems are generated at once: most families take microseconds a problem, a few search for seconds.

    Raises:
        UserError: for an unknown family or option, or a value that the family rejects.
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
        self._entries: dict[str, dict[str, Any]] = {}  # as the scorers need them (with tuples, which JSON lacks)
        made: dict[str, list[Problem]] = {}
        for split, count in (("train", size), ("test", heldout)):
            # Item i is drawn with its data set's seed + i, so consecutive seeds would share nearly all problems.
            start = random.Random(f"{family} {seed} {split}").getrandbits(31)
            self._dataset = _generator(family, {**family_options, "seed": start, "size": count})
            try:
                with localcontext():  # decimal_arithmetic changes the global decimal precision
                    entries = [self._dataset[index] for index in range(count)]
            except UNREADABLE as error:
                raise UserError(f"family {family} cannot generate problems with {family_options}: {error}") from error
            made[split] = [self._problem(entry) for entry in entries]
            pairs = zip(made[split], entries, strict=True)
            self._entries |= {problem.id: entry for problem, entry in reversed(list(pairs))}  # the first of duplicates
        # A question may have several right answers, any of which the scorer accepts.
        train, test, dropped = drop_duplicates(made["train"], made["test"], agree_on=lambda problem: None)
        self._problems = {"train": train, "test": test}
        parts = [f"reasoning, {family}: {len(train)} train, {len(test)} test problems"] + ([dropped] if dropped else [])
        parts += ["problems differ between processes unless PYTHONHASHSEED is set"] if family in UNSTEADY else []
        self.summary: str = "; ".join(parts)

    def _problem(self, entry: dict[str, Any]) -> Problem:
        metadata = entry["metadata"]
        answer = entry["answer"] or next((metadata[key] for key in EXAMPLES if metadata.get(key)), "")
        digest = hashlib.sha256(entry["question"].encode()).hexdigest()[:12]
        problem_id = f"{self.family}-{digest}"  # from the text, so that it is the same in every run and split
        kept = json.loads(json.dumps(metadata, default=str, skipkeys=True))  # the part that a record can store
        return Problem(problem_id, entry["question"], str(answer), SYSTEM, {"family": self.family, "metadata": kept})

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
        return split_of(self.name, self._problems, split, f"{self.summary}: widen the family's options")

    def verify(self, rollout: Rollout) -> Outcome:
        """Reward: the family's score in [0, 1], which may be partial. Raises UserError for another task's problem."""
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
        if not _safe(self.family, answer):
            return 0.0
        if self.family == "game_of_life_halting" and answer.casefold() != str(entry["answer"]).casefold():
            return 0.0  # its own scorer takes any text for a yes
        if self.family == "puzzle24" and sorted(map(int, re.findall(r"\d{1,9}", answer))) != sorted(
            entry["metadata"]["numbers"]
        ):
            return 0.0  # its own scorer accepts any four numbers
        try:
            score = float(self._dataset.score_answer(answer, entry))
        except UNREADABLE:
            return 0.0
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0


def _generator(family: str, options: dict[str, Any]) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS or family == "composite":  # composite is a mixture of families
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
        raise UserError(f"family {family} rejects {given or 'its options'}: {error}") from error


# The scorers of these families pass the answer to Python's eval, directly or in sympy's parser. A model wrote it, so
# only plain lists and arithmetic of bounded size are let through.
LITERALS = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
FORMULAS = ("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration")
FUNCTIONS = {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh"}
PLAIN = (ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.List, ast.Tuple)
ARITHMETIC = (*PLAIN[:-2], ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.Call)


def _safe(family: str, answer: str) -> bool:
    """Whether the family's scorer may read the answer."""
    if family == "coin_flip":  # a fraction of "1e999999999" would fill the memory
        return len(answer) < 100 and not re.search(r"[eE][+-]?\d{3}", answer)
    if family not in LITERALS + FORMULAS:
        return True
    try:
        nodes = list(ast.walk(ast.parse(answer.strip(), mode="eval")))
    except SyntaxError:
        return family in LITERALS  # not Python: these compare it as text; sympy would rewrite and evaluate it
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
