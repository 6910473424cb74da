"""The widgets that a notebook's cell made end when the cell runs again; each run would add models that nobody sees.

Only a widget that was made and shown by the earlier run, and shown nowhere else, is closed: its output is gone. One
that the new run shows again, or that another cell shows, stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from IPython.core.getipython import get_ipython
from ipywidgets import Widget


class Place(NamedTuple):
    """A cell, and which of its runs."""

    cell: str
    run: str


_made: WeakKeyDictionary[Widget, Place] = WeakKeyDictionary()
_shown: WeakKeyDictionary[Widget, dict[str, str]] = WeakKeyDictionary()  # cell -> its last run that showed the widget
_watched: list[Any] = []  # the shell whose cells are watched


def made(widget: Widget) -> None:
    """Note the cell that makes a widget; outside of a notebook nothing is noted."""
    if (place := _here()) is not None:
        _made[widget] = place


def shown(widget: Widget) -> None:
    """Note a cell that shows a widget."""
    if (place := _here()) is not None:
        _shown.setdefault(widget, {})[place.cell] = place.run


def _after_cell(result: Any) -> None:
    place = _here()
    if place is None:
        return
    for widget, born in list(_made.items()):
        cells = _shown.get(widget, {})
        outdated = born.cell == place.cell and born.run != place.run
        if outdated and list(cells) == [place.cell] and cells[place.cell] != place.run:
            del _made[widget]
            widget.close()


def _here() -> Place | None:
    """The running cell; None outside of one, and in a frontend that does not name its cells."""
    shell: Any = get_ipython()
    parent = (shell.get_parent() if hasattr(shell, "get_parent") else None) or {}
    cell = (parent.get("metadata") or {}).get("cellId")
    if not cell:
        return None
    if shell not in _watched:
        shell.events.register("post_run_cell", _after_cell)
        _watched[:] = [shell]
    return Place(cell, parent["header"]["msg_id"])
