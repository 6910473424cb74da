"""Noise on feedback, for studies: how much of a method's gain survives critiques that are missing, misplaced or false.

Each rollout with feedback is affected by at most one kind of noise, drawn from its own seed and recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vpdlab.types import Feedback, Rollout

if TYPE_CHECKING:
    from vpdlab.config import RunConfig

OPPOSITES = [
    ("right", "wrong"), ("correct", "incorrect"), ("true", "false"), ("high", "low"), ("higher", "lower"),
    ("above", "below"), ("more", "fewer"), ("more", "less"), ("many", "few"), ("much", "little"), ("large", "small"),
    ("larger", "smaller"), ("greater", "smaller"), ("long", "short"), ("always", "never"), ("all", "none"),
    ("first", "last"), ("before", "after"), ("increase", "decrease"), ("increases", "decreases"), ("add", "subtract"),
    ("passed", "failed"), ("is", "is not"), ("are", "are not"), ("does", "does not"), ("should", "should not"),
]  # fmt: skip
_SWAP = {b: a for a, b in reversed(OPPOSITES)} | {a: b for a, b in reversed(OPPOSITES)}
_WORD = re.compile(r"\b(" + "|".join(sorted(map(re.escape, _SWAP), key=len, reverse=True)) + r")\b", re.IGNORECASE)
_VERBS = ("is", "are", "does", "should")


def contradict(text: str) -> str:
    """The opposite of a critique: its words of judgement are swapped for their opposites, or else it is denied.

    >>> contradict("The tens digit 7 is too low. The ones digit 1 is right.")
    'The tens digit 7 is too high. The ones digit 1 is wrong.'
    >>> contradict("The answer chose option B.")
    'It is not true that: The answer chose option B.'
    """
    judging = [match[0] for match in _WORD.finditer(text) if match[0].lower().removesuffix(" not") not in _VERBS]

    def swap(match: re.Match[str]) -> str:
        word = match[0]
        if judging and word.lower().removesuffix(" not") in _VERBS:
            return word  # "is not low" for "is high" would say the same again
        other = _SWAP[word.lower()]
        return other.capitalize() if word[0].isupper() else other

    swapped = _WORD.sub(swap, text)
    return swapped if swapped != text else f"It is not true that: {text}"


def _drop(note: Feedback, others: Sequence[Feedback], rng: np.random.Generator) -> Feedback:
    return Feedback(reason="dropped by noise")


def _shuffle(note: Feedback, others: Sequence[Feedback], rng: np.random.Generator) -> Feedback:
    """What was said about another problem."""
    if not others:
        return note
    other = others[int(rng.integers(len(others)))]
    return replace(note, critique=other.critique, demonstration=other.demonstration, source=other.source)


def _truncate(note: Feedback, others: Sequence[Feedback], rng: np.random.Generator) -> Feedback:
    """The first half of the words, of critique and demonstration."""

    def half(text: str | None) -> str | None:
        words = text.split() if text else []
        return " ".join(words[: max(1, len(words) // 2)]) if words else text

    return replace(note, critique=half(note.critique), demonstration=half(note.demonstration))


def _contradict(note: Feedback, others: Sequence[Feedback], rng: np.random.Generator) -> Feedback:
    """A demonstration cannot be contradicted; it stays."""
    return replace(note, critique=contradict(note.critique)) if note.critique else note


KINDS: dict[str, Callable[[Feedback, Sequence[Feedback], np.random.Generator], Feedback]] = {
    "drop": _drop, "shuffle": _shuffle, "truncate": _truncate, "contradict": _contradict
}  # fmt: skip


def shares(config: RunConfig) -> dict[str, float]:
    """Kind -> fraction of rollouts with feedback that it affects."""
    return {kind: getattr(config, f"noise_{kind}") for kind in KINDS}


def with_noise(
    rollouts: Sequence[Rollout], feedback: Sequence[Feedback], share: dict[str, float], seed: Sequence[int]
) -> list[Feedback]:
    """The same feedback, some of it corrupted; `Feedback.noise` names the kind where it changed something.

    Args:
        share: kind -> fraction of rollouts with feedback (`shares`); they add up to 1 at most.
        seed: equal seeds affect the same rollouts with the same kinds, however many rollouts follow.
    """
    if not any(share.values()):
        return list(feedback)
    edges, hit = np.cumsum([share[kind] for kind in KINDS]), []
    for row, note in enumerate(feedback):
        place = np.random.default_rng([*seed, row]).random()
        hit.append(next((kind for kind, edge in zip(KINDS, edges, strict=True) if note.signal and place < edge), ""))
    return [_hit(row, hit[row], rollouts, feedback, [*seed, row, 1]) for row in range(len(rollouts))]


def _hit(row: int, kind: str, rollouts: Sequence[Rollout], feedback: Sequence[Feedback], seed: list[int]) -> Feedback:
    note = feedback[row]
    if not kind:
        return note
    elsewhere = [
        other for rollout, other in zip(rollouts, feedback, strict=True)
        if other.signal and rollout.problem.id != rollouts[row].problem.id
    ]  # fmt: skip
    changed = KINDS[kind](note, elsewhere, np.random.default_rng(seed))
    return replace(changed, noise=kind) if changed != note else note
