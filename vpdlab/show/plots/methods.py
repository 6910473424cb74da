"""Methods side by side on the same rollouts: the push of each on the student's logits (`vpdlab.study.anatomy`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab_widgets.palette import UNDER_WHITE, tinted

from vpdlab.show.plots.style import (
    GREY,
    STUDENT,
    TEACHER,
    dress,
    dress_heatmap,
    label,
    labels,
    line_style,
    numbers,
    quoted,
    token_labels,
)

SIGNED = ((0.0, STUDENT), (0.5, tinted(GREY, 0.08)), (1.0, TEACHER))  # up and down, as in the widgets
OPAQUE = tuple(zip((0.0, 0.5, 1.0), (UNDER_WHITE[name] for name in ("student", "grey", "teacher")), strict=True))


def push_figure(tokens: Sequence[str], weights: Mapping[str, Sequence[float]], scale: Mapping[str, float]) -> Any:
    """The push of each method on each sampled token: orange raises its probability, blue lowers it.

    Args:
        tokens: the response's tokens.
        weights: method -> the push on each token (`anatomy.Push.weight`).
        scale: method -> the push that is drawn in full colour, since methods differ in magnitude.
    """
    import plotly.graph_objects as go

    names, places = list(weights), list(range(len(tokens)))
    colours = [[value / scale[name] for value in weights[name]] for name in names]
    title = {"text": "push", "side": "right"}  # above the bar it would lie on the topmost label
    bar = {"title": title, "tickvals": [-1, 0, 1], "ticktext": ["less likely", "0", "more likely"], "thickness": 12}
    figure = go.Figure(
        go.Heatmap(
            z=colours, x=places, y=labels(names), customdata=[list(weights[name]) for name in names], zmin=-1, zmax=1,
            colorscale=SIGNED, xgap=2, ygap=2, hovertemplate="%{y}: %{customdata:+.3g}<extra></extra>", colorbar=bar,
        )
    )  # fmt: skip
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=token_labels(tokens))
    return dress_heatmap(figure, 80 + 30 * len(names), "token of the response")


def likeness_figure(names: Sequence[str], values: Sequence[Sequence[float]]) -> Any:
    """Cosine similarity between methods, pairwise: 1 is the same direction, 0 orthogonal, -1 opposite."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Heatmap(
            z=values, x=labels(names), y=labels(names), zmin=-1, zmax=1, xgap=2, ygap=2,
            colorscale=OPAQUE,
            texttemplate="%{z:.2f}", textfont={"color": "white"}, hovertemplate="%{y}, %{x}: %{z:.3g}<extra></extra>",
            colorbar={"title": {"text": "cosine", "side": "right"}, "thickness": 12},
        )
    )  # fmt: skip
    return dress_heatmap(figure, 80 + 36 * len(names), "")


def move_figure(moves: Mapping[str, Mapping[str, float]], unit: str = "push, largest = 1") -> Any:
    """The push on several candidate tokens at one position, a colour per method: method -> token text -> push."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, row in moves.items():
        style, symbol = line_style(list(moves), name)
        bar = go.Bar(
            x=[quoted(token) for token in row],
            y=numbers(list(row.values())),
            name=label(name),
            marker={"color": style["color"], "pattern": {"shape": "/" if symbol["symbol"].endswith("-open") else ""}},
        )
        figure.add_trace(bar)
    figure.update_xaxes(type="category")
    figure.update_yaxes(title=label(unit))
    return dress(figure, 340, "next token")
