"""Rollouts of all recorded iterations that a query finds, read one file at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vpdlab_widgets import query as queries

from vpdlab.record import RunRecord
from vpdlab.show.causes import rollouts_at
from vpdlab.show.widget_data import rollout_rows, thinned

_COLUMNS = (
    *queries.TEXTS, "step", "group", "index", "success", "reward", "signal", "finished", "truncated",
    "implicit_reward", "kl", "mask", "response_ids", "turn_roles", "turn_texts",
)  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """What a query found.

    Attributes:
        places: (step, place among the rollouts of that step) of each match, in order.
        looked: number of rollouts that were looked at.
    """

    places: tuple[tuple[int, int], ...]
    looked: int

    def __str__(self) -> str:
        return f"{len(self.places)} of {self.looked} rollouts"


def find(run: RunRecord, query: str = "", outcome: str = "all", steps: Sequence[int] | None = None) -> Slice:
    """Look through the rollouts of a run, iteration by iteration, with little memory.

    Args:
        query: terms and text as in `RolloutTable`: ``kl>0.5 outcome=wrong source:sibling``
            (`vpdlab_widgets.query`).
        outcome: "all", "right", "wrong" or "no signal".
        steps: iterations to look through; None for all recorded ones.
    """
    terms, text = queries.parse(query)
    places: list[tuple[int, int]] = []
    looked = 0
    for step in run.steps if steps is None else steps:
        rows = rollout_rows(run.columns(list(_COLUMNS), [step]).to_pylist())
        looked += len(rows)
        places += [
            (step, i)
            for i, row in enumerate(rows)
            if queries.has_outcome(row, outcome) and queries.matches(row, terms, text)
        ]
    return Slice(tuple(places), looked)


def records(run: RunRecord, found: Slice, most: int = 500) -> list[dict[str, Any]]:
    """The rollouts of a slice as whole records, for `lens_records` and `rollout_rows`; evenly spaced ones where there
    are more than `most`."""
    return rollouts_at(run, thinned(found.places, most))


def line(run: RunRecord, found: Slice, shown: int) -> str:
    """What was found, in one line.

    Args:
        shown: how many of the rollouts are shown.
    """
    less = "" if shown == len(found.places) else f"; {shown} of them are shown"
    return f"{found} of {len(run.steps)} iterations{less}"
