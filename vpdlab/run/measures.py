"""Measures of an evaluation: avg@k, pass@k, maj@k, each with a bootstrap interval over problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vpdlab.study.intervals import interval
from vpdlab.types import Outcome


def average_at_k(outcomes: Sequence[Outcome]) -> float:
    """Share of successes among the k responses to one problem."""
    return sum(outcome.success for outcome in outcomes) / len(outcomes)


def pass_at_k(outcomes: Sequence[Outcome]) -> float:
    """1 if any of the k responses to one problem succeeds, else 0."""
    return float(any(outcome.success for outcome in outcomes))


def majority_at_k(outcomes: Sequence[Outcome]) -> float:
    """1 if the most frequent answer is right. Responses without an answer do not vote; a tie between several answers
    is averaged, as if one of them were drawn at random."""
    votes = Counter(outcome.answer for outcome in outcomes if outcome.answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {outcome.answer for outcome in outcomes if outcome.success}
    leaders = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in leaders) / len(leaders)


MEASURES: dict[str, Callable[[Sequence[Outcome]], float]] = {
    "accuracy": average_at_k,
    "pass_at_k": pass_at_k,
    "maj_at_k": majority_at_k,
}


def summarise(groups: Mapping[int, Sequence[Outcome]]) -> dict[str, Any]:
    """The measures over problems: `accuracy` (avg@k), `pass_at_k`, `maj_at_k`, each with `_low` and `_high`.

    Args:
        groups: index of a problem -> its k outcomes.

    Raises:
        ValueError: there are no problems, or they do not all have the same k.
    """
    sizes = {len(outcomes) for outcomes in groups.values()}
    if len(sizes) != 1:
        raise ValueError(f"every problem needs the same number of responses, found {sorted(sizes)}")
    row: dict[str, Any] = {"k": sizes.pop(), "problems": len(groups)}
    for name, measure in MEASURES.items():
        values = [measure(outcomes) for outcomes in groups.values()]
        low, high = interval(values)
        row |= {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}
    return row
