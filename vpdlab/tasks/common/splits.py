"""Duplicates, unique ids and the hold-out split: one implementation for all tasks.

A problem is identified by its exact text (system turn and prompt): `C1CCCCC1` and `c1ccccc1` are different molecules,
and indentation matters. Only problems that match character for character count as duplicates.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from vpdlab.errors import UserError


class Worded(Protocol):
    """A record with an id and a prompt, and optionally a system turn."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> str: ...


One = TypeVar("One", bound=Worded)


def drop_duplicates(
    train: Iterable[One], test: Iterable[One], agree_on: Callable[[One], Any] = lambda one: getattr(one, "answer", None)
) -> tuple[list[One], list[One], str]:
    """Keep each problem once: the first within a split, the held-out one across splits. Also makes ids unique.

    Args:
        agree_on: the fields on which duplicates should agree (the reference answer); disagreements are reported.

    Returns:
        (train, test, a summary of what was dropped; "" if nothing was).
    """
    kept: dict[str, dict[str, One]] = {"test": {}, "train": {}}
    repeated, overlapping, contradicting = 0, 0, []
    for split, problems in (("test", test), ("train", train)):
        for problem in problems:
            key = text_of(problem)
            first = kept["test"].get(key) or kept[split].get(key)
            if first is None:
                kept[split][key] = problem
                continue
            repeated += key in kept[split]
            overlapping += key not in kept[split]
            if agree_on(first) != agree_on(problem):
                contradicting.append(problem.id)
    counts = [f"{repeated} duplicate(s)"] * bool(repeated)
    counts += [f"{overlapping} from train that are also in test"] * bool(overlapping)
    summary = "dropped " + ", ".join(counts) if counts else ""
    if contradicting:
        summary += f"; {len(contradicting)} of them had a different answer from the one kept (e.g. {contradicting[0]})"
    lists = with_unique_ids(list(kept["train"].values()), list(kept["test"].values()))
    return lists[0], lists[1], summary


def with_unique_ids(*splits: Sequence[One]) -> list[list[One]]:
    """Append a digest of the text to every id that occurs more than once.

    Ids therefore do not depend on the order of the data, and two problems are never counted as one.
    """
    counts = Counter(problem.id for problems in splits for problem in problems)
    named = [
        [
            dataclasses.replace(one, id=f"{one.id}-{_digest(text_of(one))[:12]}") if counts[one.id] > 1 else one  # type: ignore[type-var]
            for one in problems
        ]
        for problems in splits
    ]
    again = Counter(problem.id for problems in named for problem in problems)
    if again and again.most_common(1)[0][1] > 1:
        raise UserError(f"two problems have the id {again.most_common(1)[0][0]!r}: rename one")
    return named


def hold_out(task: str, problems: Sequence[One], share: float, seed: int) -> tuple[list[One], list[One]]:
    """Split into (train, test) by a digest of seed and text, independent of file order; neither side is empty.

    Raises:
        UserError: for fewer than two problems.
    """
    if len(problems) < 2:
        raise UserError(f"task {task}: {len(problems)} problem(s) cannot be split into train and test")
    ranked = sorted(range(len(problems)), key=lambda index: _digest(f"{seed}\n{text_of(problems[index])}"))
    chosen = set(ranked[: min(max(1, round(share * len(problems))), len(problems) - 1)])
    parts: tuple[list[One], list[One]] = ([], [])
    for index, problem in enumerate(problems):
        parts[index in chosen].append(problem)
    return parts


def split_of(task: str, problems: Mapping[str, Sequence[One]], split: str, summary: str) -> Sequence[One]:
    """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
    if split not in problems:
        raise UserError(f"task {task} has no split {split!r}: choose train or test")
    if not problems[split]:
        raise UserError(f"task {task} has no {split} problems ({summary})")
    return problems[split]


def text_of(problem: Worded) -> str:
    """The text that identifies a problem: system turn and prompt, unchanged."""
    return f"{getattr(problem, 'system', '')}\0{problem.prompt}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
