"""The claims of a study, each confirmed, refuted or left open by its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpdlab.compare.runs import Cell
from vpdlab.compare.standings import final_beliefs, finals, spread
from vpdlab.compare.studies import Claim
from vpdlab.show.markup import in_markdown


def verdicts(claims: Sequence[Claim], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """One plain dict per claim whose runs are all among `cells`.

    A difference of at least `by`, of accuracies or of beliefs, is confirmed where the 95 % interval over seeds and
    problems lies above 0, and refuted where it ends below `by`. A run below a level is confirmed or refuted where its
    whole interval lies on one side. Anything else is open.

    Args:
        claims: of a study.
        cells: complete runs.

    Returns:
        Dicts with the keys claim, verdict, value, low, high (percent or percentage points) and seeds (their number).
    """
    by_run: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_run.setdefault((cell.preset, cell.label), []).append(cell)
    found = []
    for claim in claims:
        if all(run in by_run for run in claim.runs):
            found.append({"claim": claim.claim} | _judged(claim, _values(claim, [by_run[run] for run in claim.runs])))
    return found


def _values(claim: Claim, runs: Sequence[Sequence[Cell]]) -> np.ndarray:
    """[seeds, problems] what a claim speaks of, or [seeds, 1] for beliefs, which are means over the task's probes."""
    if claim.trusts is not None:
        first, second = (final_beliefs(runs[0], voice) for voice in claim.trusts)
        return (first - second)[:, None]
    ends = [finals(cells) for cells in runs]
    seeds = min(map(len, ends))
    return ends[0][:seeds] if len(ends) == 1 else ends[0][:seeds] - ends[1][:seeds]


def _judged(claim: Claim, found: np.ndarray) -> dict[str, Any]:
    seeds, values = len(found), 100 * found
    measured = spread("value", values)
    value, low, high = measured["value"], measured["value_low"], measured["value_high"]
    if claim.below is not None:
        confirmed, refuted = high < claim.below, low >= claim.below
    else:
        confirmed, refuted = value >= claim.by and low > 0, high < claim.by
    verdict = "confirmed" if confirmed else "refuted" if refuted else "open"
    return {"verdict": verdict, "value": value, "low": low, "high": high, "seeds": seeds}


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The verdicts as a Markdown table."""
    lines = ["| claim | here | measured, in points | seeds |", "|---|---|---|---|"]
    for row in found:
        measured = f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        lines.append(f"| {in_markdown(row['claim']).strip('`')} | {row['verdict']} | {measured} | {row['seeds']} |")
    return "\n".join(lines)
