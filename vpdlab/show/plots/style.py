"""What every figure shares: colours, labels that are only text, numbers that are only numbers, the layout.

Plotly renders a subset of HTML, including links, and formulas in every label. So all text passes through `label` and
all numbers through `numbers`: a string among the numbers would become a label of its own.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from numbers import Real
from typing import Any

from vpdlab_widgets import palette
from vpdlab_widgets.base import shortened, visible

STUDENT, TEACHER, RIGHT, WRONG, GREY = (
    palette.EITHER[name] for name in ("student", "teacher", "right", "wrong", "grey")
)

MODE_BAR = {"bgcolor": palette.CLEAR, "color": palette.tinted(GREY, 0.6), "activecolor": GREY}
"""Colours of plotly's own buttons, which it would derive from a background; there is none here."""

SIDES = ("student", "teacher")
"""Lines that have the colour of their side, whatever else is drawn."""


def label(text: Any, limit: int = 200) -> str:
    """Text as a label, legend, title or hover text that shows exactly this text.

    >>> label('<a href="x">$1</a>')
    '&lt;a href="x"&gt;&#36;1&lt;/a&gt;'
    """
    return html.escape(shortened(visible(text), limit), quote=False).replace("$", "&#36;")


def labels(texts: Sequence[Any]) -> list[str]:
    """Several texts as labels."""
    return [label(text) for text in texts]


def numbers(values: Sequence[Any]) -> list[float | None]:
    """The values with None, a gap in the plot, for everything that is not a finite number."""
    return [number(value) for value in values]


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    return value if isinstance(value, Real) and abs(value) < 1e300 else None  # type: ignore[return-value]


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Tokens as tick labels; white space is shown as a dot."""
    return [label(token.strip()) or "·" for token in tokens]


def quoted(token: str) -> str:
    """A token as a category label, in quotes so that white space shows."""
    return f"“{label(token)}”"


def line_style(names: Sequence[str], name: str) -> dict[str, Any]:
    """Plotly's settings of one of several methods or other lines: its own in colour, dash and marker.

    Dashed lines are above solid ones: where two are equal, both show.
    """
    style = palette.STYLES[palette.slots(names)[list(names).index(name)]]
    colour = palette.EITHER[name if name in SIDES else style.colour]
    dash = ",".join(f"{length}px" for length in style.dash) or "solid"
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "symbol": style.marker, "size": 7},
        "zorder": 2 if style.dash else 1,
    }


def band(points: Sequence[Any], lows: Sequence[Any], highs: Sequence[Any], colour: str, group: str) -> list[Any]:
    """The area between two lines, as two traces that are shown and hidden with the legend's `group`."""
    import plotly.graph_objects as go

    shared: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "legendgroup": group, "hoverinfo": "skip"}
    edge = go.Scatter(x=points, y=highs, showlegend=False, **shared)
    shade = palette.tinted(colour, 0.16)
    return [edge, go.Scatter(x=points, y=lows, fill="tonexty", fillcolor=shade, showlegend=False, **shared)]


def dress(figure: Any, height: int, x_title: str) -> Any:
    """Apply the common layout: height in pixels, grey text and grid lines that read on light and dark pages."""
    grid = {"gridcolor": palette.tinted(GREY, 0.25), "zerolinecolor": palette.tinted(GREY, 0.5), "automargin": True}
    figure.update_xaxes(title=x_title, **grid)
    figure.update_yaxes(**grid)
    return figure.update_layout(
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        paper_bgcolor=palette.CLEAR,
        plot_bgcolor=palette.CLEAR,
        font={"color": GREY, "size": 12},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
        modebar=MODE_BAR,
    )


def colour_bar(title: str, **ticks: Any) -> dict[str, Any]:
    """A heat map's colour bar; its title is beside it, where no tick label is."""
    return {"title": {"text": title, "side": "right"}, "thickness": 12, **ticks}


def dress_heatmap(figure: Any, height: int, x_title: str) -> Any:
    """The common layout for a heat map: first row at the top, no lines between the tiles."""
    dress(figure, height, x_title).update_layout(margin={"t": 44})  # room for the mode bar
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return figure.update_xaxes(showgrid=False, zeroline=False)
