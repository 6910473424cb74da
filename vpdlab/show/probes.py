"""The probes of a run's evaluations, for people: by group, as a table and as lines.

A probe is named "belief/Ada": the group is what is measured, the rest says of whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def probe_groups(evals: Sequence[Row]) -> dict[str, dict[str, list[float | None]]]:
    """Group -> line -> a value for each evaluation, in the order in which they first occur; None where there is none.

    >>> probe_groups([{"probes": {"belief/Ada": 0.25, "drift": 1.0}}, {"probes": {"belief/Ada": 0.5}}])
    {'belief': {'Ada': [0.25, 0.5]}, 'drift': {'drift': [1.0, None]}}
    """
    found: dict[str, dict[str, list[float | None]]] = {}
    for name in dict.fromkeys(name for row in evals for name in row.get("probes") or {}):
        group, _, line = name.partition("/")
        found.setdefault(group, {})[line or group] = [(row.get("probes") or {}).get(name) for row in evals]
    return found


def probe_table(evals: Sequence[Row]) -> list[dict[str, Any]]:
    """A row a probe: first, last and largest value over the evaluations, and the change; empty without probes."""
    rows = []
    for group, lines in probe_groups(evals).items():
        for line, values in lines.items():
            known = [value for value in values if value is not None]
            ends = [f"{value:.3g}" for value in (known[0], known[-1], max(known))] if known else ["–"] * 3
            change = f"{known[-1] - known[0]:+.3g}" if len(known) > 1 else "–"
            name = words(group) if line == group else f"{words(group)}: {line}"
            rows.append({"probe": name, "first": ends[0], "last": ends[1], "largest": ends[2], "change": change})
    return rows


def probe_lines(evals: Sequence[Row]) -> list[str]:
    """First and last value of each probe as text, one line a group.

    >>> probe_lines([{"probes": {"belief/Ada": 0.2, "belief/Bob": 0.1}}, {"probes": {"belief/Ada": 0.9}}])
    ['belief: Ada 0.20 -> 0.90, Bob 0.10']
    """
    found = []
    for group, lines in probe_groups(evals).items():
        parts = []
        for line, values in lines.items():
            known = [f"{value:.2f}" for value in values if value is not None]
            ends = " -> ".join(dict.fromkeys([known[0], known[-1]])) if known else "-"
            parts.append(ends if line == group else f"{line} {ends}")
        found.append(f"{words(group)}: {', '.join(parts)}")
    return found


def words(group: str) -> str:
    """A group's name as a title: "teacher_accuracy" is "teacher accuracy"."""
    return group.replace("_", " ")
