"""The page of a comparison: its claims, curves, beliefs and tables, beside the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab.compare.runs import Cell
from vpdlab.compare.standings import curves, markdown
from vpdlab.record import load_run
from vpdlab.show.markup import in_markdown
from vpdlab.show.probes import probe_groups, words

MOST = 3
"""Conditions whose probes are drawn."""


def write(
    cells: Sequence[Cell],
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    command: str,
    title: str = "Methods on the same problems",
    more: str = "",
) -> Path:
    """Write compare.json, compare.md and compare.html (an offline page with the figures) to the comparison's folder.

    Args:
        cells: the runs.
        rows: of `standings.summarise`.
        out: the folder.
        command: what made it.
        title: heading of the page.
        more: Markdown to put before the figures.
    """
    from vpdlab.show.page import write_parts
    from vpdlab.show.plots import compare_figure

    lines = curves(cells)
    (out / "compare.json").write_text(json.dumps({"rows": rows, "curves": lines}, indent=2) + "\n", encoding="utf-8")
    made = f"Made by {in_markdown(command)}."
    (out / "compare.md").write_text(f"{more}\n\n{markdown(rows)}\n{made}\n".lstrip(), encoding="utf-8")
    return write_parts(
        [f"# {title}\n\n{more}", compare_figure(lines), *beliefs(cells), f"{markdown(rows)}\n{made}"],
        out / "compare.html",
    )


def beliefs(cells: Sequence[Cell]) -> list[Any]:
    """A figure for each condition and each group of its probes: the mean over seeds, a dash pattern a method.

    Of more than `MOST` conditions none are drawn: they would bury the rest.
    """
    from vpdlab.show.plots import belief_figure

    figures, conditions = [], dict.fromkeys(cell.preset for cell in cells)
    for condition in conditions if len(conditions) <= MOST else ():
        records: dict[str, list[Any]] = {}
        for cell in cells:
            if cell.preset == condition:
                records.setdefault(cell.label, []).append(load_run(cell.folder))
        rows = [row for group in records.values() for record in group for row in record.eval_rows]
        for group in probe_groups(rows):
            title = f"{condition}: {words(group)}"
            figures.append(belief_figure(records, group=group, title=title, chance=None))
    return figures
