"""nbconvert's exporter of offline pages: `jupyter nbconvert --to vpdlab`, and an entry of JupyterLab's export menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbconvert.exporters import Exporter
from traitlets import default

from vpdlab.show.page.writing import page_of


class PageExporter(Exporter):
    """An executed notebook as a page that needs no network; nbconvert's own HTML shows no widget without one."""

    export_from_notebook = "Offline page (widgets stay alive)"
    output_mimetype = "text/html"

    @default("file_extension")
    def _file_extension(self) -> str:
        return ".html"

    def from_notebook_node(self, nb: Any, resources: Any = None, **kwargs: Any) -> tuple[str, dict[str, Any]]:
        """The page and nbconvert's resources. Raises UserError where something cannot be put on a page."""
        notebook, resources = super().from_notebook_node(nb, resources, **kwargs)
        where = resources.get("metadata", {})
        source = Path(where.get("path") or ".") / f"{where.get('name') or 'notebook'}.ipynb"
        return page_of(notebook, source), resources
