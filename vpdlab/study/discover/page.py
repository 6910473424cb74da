"""The report of a discovery: a table, a picture, and an offline page beside discover.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpdlab.study.discover.results import Found
from vpdlab.study.discover.standings import curves, markdown, standings


def write_page(found: Sequence[Found], limit: int, out: Path, command: str) -> Path:
    """Write discover.md and discover.html to the folder; the path of the page.

    Args:
        limit: most attempts of a search.
        command: what made it.
    """
    from vpdlab.show.markup import in_markdown
    from vpdlab.show.page import write_parts
    from vpdlab.show.plots import discovery_figure

    table = markdown(standings(found, limit))
    text = f"{table}\n\nAn unsolved search counts with {limit} attempts. Made by {in_markdown(command)}.\n"
    (out / "discover.md").write_text(text, encoding="utf-8")
    figure = discovery_figure(curves(found, limit))
    return write_parts(["# Attempts to the first success", figure, text], out / "discover.html")
