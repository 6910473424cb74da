"""A notebook file, read and validated; nothing about it is taken for granted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat

from vpdlab import manifest
from vpdlab.errors import UserError, first_line

_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_LARGEST = 1 << 29  # bytes


def read_notebook(path: Path) -> Any:
    """The executed notebook. Raises UserError where it is missing, invalid, or was never executed."""
    try:
        text = manifest.read_small(path, _LARGEST).decode("utf-8")
        document = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot read the notebook ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or JSON nested too deeply
        raise UserError(f"{path}: this is not a Jupyter notebook (not valid JSON)") from error
    if not isinstance(document, dict) or document.get("nbformat") != 4:
        raise UserError(f"{path}: this is not a Jupyter notebook of format 4")
    try:
        nbformat.validate(document)
        notebook = nbformat.reads(text, as_version=4)
    except nbformat.ValidationError as error:
        reason = error.message.splitlines()[0][:200]
        raise UserError(f"{path}: this is not a Jupyter notebook ({reason})") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: this is not a Jupyter notebook ({first_line(error)})") from error
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if code and not any(cell.execution_count or cell.outputs for cell in code):
        raise UserError(f"{path}: the notebook was never executed; run it first, then export it")
    return notebook


def pop_widget_states(notebook: Any) -> dict[str, Any]:
    """Remove the saved widget states from a notebook; model id -> those entries that have the expected shape."""
    saved: Any = notebook.metadata.pop("widgets", {})
    for key in (_WIDGET_STATE, "state"):
        saved = saved.get(key, {}) if isinstance(saved, Mapping) else {}
    return {
        str(key): entry for key, entry in as_dict(saved).items() if isinstance(as_dict(entry).get("state"), Mapping)
    }


def first_heading(notebook: Any) -> str | None:
    """The text of the first top-level heading; None without one."""
    for cell in notebook.cells:
        found = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if found:
            return found.group(1).strip()
    return None


def took(metadata: Mapping[str, Any]) -> str:
    """How long a cell ran, by what papermill, JupyterLab or nbclient noted; empty for no time to speak of."""
    seconds = as_dict(metadata.get("papermill")).get("duration")
    if not isinstance(seconds, int | float):
        ran = as_dict(metadata.get("execution"))
        try:
            begin, end = (
                datetime.fromisoformat(str(ran.get(key))) for key in ("iopub.execute_input", "shell.execute_reply")
            )
            seconds = (end - begin).total_seconds()
        except (TypeError, ValueError):  # not noted, or not a time
            return ""
    if not 0.1 <= seconds < 1e7:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def as_dict(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """The value as a list if it is a list or tuple, else an empty one."""
    return list(value) if isinstance(value, list | tuple) else []
