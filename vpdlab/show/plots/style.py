"""What every figure shares: colours, labels that are only text, numbers that are only numbers, the layout.

Plotly renders a subset of HTML, including links, and formulas in every label. So all text passes through `label` and
all numbers through `numbers`: a string among the numbers would become a label of its own.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from numbers import Real
from typing import Any

from vpdlab_widgets.base import shortened, visible

ORANGE, BLUE, GREY = "#E66101", "#0072B2", "#7F7F7F"
COLOURS = (ORANGE, BLUE, "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7A5195", "#8C564B", "#4C9A2A", GREY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


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


def faded(colour: str, alpha: float) -> str:
    """A colour of the form #RRGGBB with an opacity, for the area of a band.

    >>> faded("#0072B2", 0.16)
    'rgba(0,114,178,0.16)'
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Tokens as tick labels; white space is shown as a dot."""
    return [label(token.strip()) or "·" for token in tokens]


def quoted(token: str) -> str:
    """A token as a category label, in quotes so that white space shows."""
    return f"“{label(token)}”"


def dress(figure: Any, height: int, x_title: str) -> Any:
    """Apply the common layout: height in pixels, grey text and grid lines that read on light and dark pages."""
    grid = {"gridcolor": "rgba(127,127,127,0.25)", "zerolinecolor": "rgba(127,127,127,0.5)", "automargin": True}
    figure.update_xaxes(title=x_title, **grid)
    figure.update_yaxes(**grid)
    return figure.update_layout(
        height=height,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
    )


def dress_heatmap(figure: Any, height: int, x_title: str) -> Any:
    """The common layout for a heat map: first row at the top, no lines between the tiles."""
    dress(figure, height, x_title).update_layout(margin={"t": 20})
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return figure.update_xaxes(showgrid=False, zeroline=False)
