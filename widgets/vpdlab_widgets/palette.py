"""The colours of every widget, plot and offline page, all from `palette.json`.

The student is blue, the teacher orange; right is teal, wrong red. Widgets have one set of colours on a light page and
one on a dark page. Plots are drawn once for both, so theirs (`EITHER`) have a contrast of at least 3 on either one. A
method has one of sixteen line styles, of which any two differ in at least two of colour, dash and marker.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PALETTE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
EITHER: dict[str, str] = PALETTE["either"]
UNDER_WHITE: dict[str, str] = PALETTE["under_white"]
"""Opaque colours that white text reads on."""
CLEAR = "rgba(0,0,0,0)"

# Variables of a widget -> JupyterLab's variable that it follows; the page theme's colour is for other notebooks.
_FOLLOWED = {
    "fg": "ui-font-color1", "muted": "ui-font-color2", "bg": "layout-color0", "raised": "layout-color1",
    "sunken": "layout-color2", "line": "border-color2", "focus": "brand-color1",
}  # fmt: skip
_NAMES = {"student": "blue", "teacher": "orange", "right": "good", "wrong": "bad"}


class Style(NamedTuple):
    """How the lines of one method are drawn."""

    colour: str
    """Name of the colour in a set of the palette."""
    dash: Sequence[int]
    """Lengths of dashes and gaps in pixels; empty is a solid line."""
    marker: str
    """Name of a plotly symbol."""


STYLES = [Style(*one) for one in PALETTE["styles"]]


def slots(names: Sequence[str]) -> list[int]:
    """The index in `STYLES` of each method: always the same for a known name, the free ones in order for all others.

    >>> slots(["sdpo", "mine", "vpd"])
    [1, 2, 0]
    """
    known: list[str] = PALETTE["methods"]
    taken = {known.index(name) for name in names if name in known}
    every = range(len(STYLES))
    others = itertools.chain((slot for slot in every if slot not in taken), itertools.cycle(every))
    return [known.index(name) if name in known else next(others) for name in names]


def tinted(colour: str, alpha: float) -> str:
    """A hexadecimal colour with an opacity, as CSS and plotly write it.

    >>> tinted("#ff8000", 0.5)
    'rgba(255,128,0,0.5)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def script() -> str:
    """The palette as the first line of a widget's module."""
    return f"export const PALETTE = {json.dumps(PALETTE, separators=(',', ':'))};\n"


def widget_css() -> str:
    """The variables of a widget, on a light and on a dark page."""
    followed = {name: f"var(--jp-{source}, {PALETTE['page']['light'][source]})" for name, source in _FOLLOWED.items()}
    # Behind text, the light page's hues are used on both: what differs is how much of them, see base.css.
    heat = {"up": PALETTE["light"]["teacher"], "down": PALETTE["light"]["student"]}
    dark = _variables(PALETTE["dark"])
    return (
        _rule(".vpd", followed | _variables(PALETTE["light"]) | heat)
        + _rule('[data-jp-theme-light="false"] .vpd,\n[data-vpd-theme="dark"] .vpd', dark)
        + f"@media (prefers-color-scheme: dark) {{\n{_rule('.vpd-view .vpd', dark)}}}\n"
    )


def page_css() -> str:
    """The colours of an offline page, for the colour scheme of the reader's system."""
    light, dark = ({f"--jp-{name}": value for name, value in PALETTE["page"][one].items()} for one in ("light", "dark"))
    return f"{_rule(':root', light, '')}@media (prefers-color-scheme: dark) {{\n{_rule(':root', dark, '')}}}\n"


def _variables(colours: Mapping[str, str]) -> dict[str, str]:
    return {_NAMES.get(name, name): value for name, value in colours.items()}


def _rule(selector: str, variables: Mapping[str, str], prefix: str = "--vpd-") -> str:
    lines = "".join(f"  {prefix}{name}: {value};\n" for name, value in variables.items())
    return f"{selector} {{\n{lines}}}\n"
