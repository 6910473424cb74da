"""A page from texts and figures, without a notebook of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpdlab.show.page.writing import notebook_to_page


def write_parts(parts: Sequence[Any], target: Path) -> Path:
    """Write an offline page of Markdown texts and plotly figures, in their order; its path.

    Args:
        target: the page; a notebook stands beside it while it is made.
    """
    import nbformat

    cells = [nbformat.v4.new_markdown_cell(part) if isinstance(part, str) else _shown(part) for part in parts]
    notebook = target.with_suffix(".ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    try:
        return notebook_to_page(notebook, target)
    finally:
        notebook.unlink()


def _shown(figure: Any) -> Any:
    """A cell that shows a figure."""
    import nbformat

    data = {"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    return nbformat.v4.new_code_cell("", execution_count=1, outputs=[nbformat.v4.new_output("display_data", data)])
