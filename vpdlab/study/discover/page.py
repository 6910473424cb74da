"""The report of a discovery: a table, a picture, and an offline page beside discover.jsonl."""

from __future__ import annotations

import json
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
    import nbformat

    from vpdlab.show.markup import in_markdown
    from vpdlab.show.page import notebook_to_page
    from vpdlab.show.plots import discovery_figure

    table = markdown(standings(found, limit))
    text = f"{table}\n\nAn unsolved search counts with {limit} attempts. Made by {in_markdown(command)}.\n"
    (out / "discover.md").write_text(text, encoding="utf-8")
    figure = nbformat.v4.new_code_cell("")
    data = json.loads(discovery_figure(curves(found, limit)).to_json())
    figure.outputs = [nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": data})]
    cells = [
        nbformat.v4.new_markdown_cell("# Attempts to the first success"), figure, nbformat.v4.new_markdown_cell(text),
    ]  # fmt: skip
    notebook = out / "discover.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    try:
        return notebook_to_page(notebook, out / "discover.html")
    finally:
        notebook.unlink()
