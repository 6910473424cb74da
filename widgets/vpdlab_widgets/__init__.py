"""Notebook widgets for vpdlab: plain data in, a selection out.

Every widget takes lists and dicts, reports its selection in the `selected` trait, and writes itself as one offline page
with `to_html()`. The package needs neither torch nor vpdlab, so a laptop without either can open a recorded run.

A widget is three files here, NAME.py, NAME.js and NAME.css; its class is exported because they are there.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from vpdlab_widgets.base import LabWidget, write_page

_FOLDER = Path(__file__).parent
_MODULES = sorted(path.stem for path in _FOLDER.glob("*.js") if path.with_suffix(".py").is_file())


def _classes(module: str) -> dict[str, type[LabWidget]]:
    """The widgets that a module defines, by name."""
    names = vars(importlib.import_module(f"{__name__}.{module}"))
    return {
        name: kind for name, kind in names.items()
        if isinstance(kind, type) and issubclass(kind, LabWidget) and kind.__module__ == f"{__name__}.{module}"
    }  # fmt: skip


globals().update(found := {name: kind for module in _MODULES for name, kind in _classes(module).items()})
__all__ = [*sorted(found), "LabWidget", "write_page"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:  # type checkers cannot see what the folder exports
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
