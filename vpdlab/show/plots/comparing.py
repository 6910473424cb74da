"""Several runs compared: held-out accuracy over rollouts or seconds, a panel a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab_widgets.palette import CLEAR, tinted

from vpdlab.show.plots.style import GREY, band, dress, label, labels, line_style, numbers

MOST = 3
"""Panels in a row."""
OVER = ("rollouts", "seconds")


def compare_figure(curves: Sequence[Mapping[str, Any]]) -> Any:
    """Held-out accuracy, a panel per preset or condition: the mean over seeds, and their range as a band.

    Two buttons choose what it is drawn over: rollouts, or seconds of training (their mean over seeds) where all curves
    have them.

    Args:
        curves: one dict per run: preset, method, seed, rollouts, accuracy and perhaps seconds (`standings.curves`).
    """
    from plotly.subplots import make_subplots

    presets = list(dict.fromkeys(curve["preset"] for curve in curves))
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    width = min(MOST, len(presets))
    height = -(-len(presets) // width)
    figure = make_subplots(
        rows=height, cols=width, subplot_titles=labels(presets), shared_yaxes=True, horizontal_spacing=0.04,
        vertical_spacing=0.28 / height,
    )  # fmt: skip
    named: set[str] = set()
    seconds: list[list[float | None]] = []
    for place, preset in enumerate(presets):
        for method in methods:
            mine = [curve for curve in curves if curve["preset"] == preset and curve["method"] == method]
            for trace in _band(mine, method, methods, legend=method not in named) if mine else ():
                figure.add_trace(trace, row=place // width + 1, col=place % width + 1)
                seconds.append(_mean_seconds(mine))
            named |= {method} if mine else set()
    dress(figure, 130 + 290 * height, "rollouts")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%").update_yaxes(title="held-out accuracy", col=1)
    figure.update_layout(hovermode="x unified", margin={"t": 100}, legend={"y": 1.0 + 0.2 / height})
    return figure.update_layout(updatemenus=[_choice(figure, seconds)]) if all(seconds) else figure


def _choice(figure: Any, seconds: Sequence[Sequence[float | None]]) -> dict[str, Any]:
    """Two buttons that redraw all curves over rollouts or seconds; a dot marks the chosen one.

    Plotly's own mark is a white button, on which nothing can be read on a dark page.
    """
    axes = [f"{axis}.title.text" for axis in figure.layout if axis.startswith("xaxis")]
    points = {"rollouts": [list(trace.x) for trace in figure.data], "seconds": [list(one) for one in seconds]}
    marked = {name: {one: f"{'●' if one == name else '○'} {one}" for one in OVER} for name in OVER}
    buttons = []
    for name in OVER:
        named = {f"updatemenus[0].buttons[{i}].label": marked[name][one] for i, one in enumerate(OVER)}
        update = [{"x": points[name]}, dict.fromkeys(axes, name) | named]
        buttons.append({"label": marked[OVER[0]][name], "method": "update", "args": update})
    return {
        "type": "buttons", "direction": "right", "buttons": buttons, "showactive": False, "x": 1, "xanchor": "right",
        "y": 1.0 + 60 / figure.layout.height, "yanchor": "bottom", "pad": {"t": 0, "r": 0}, "bgcolor": CLEAR,
        "bordercolor": tinted(GREY, 0.5), "font": {"color": GREY},
    }  # fmt: skip


def _mean_seconds(curves: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Seconds at each evaluation, the mean over seeds; empty where a curve has none."""
    if not all(curve.get("seconds") for curve in curves):
        return []
    return numbers([sum(at) / len(at) for at in zip(*(curve["seconds"] for curve in curves), strict=True)])


def _band(curves: Sequence[Mapping[str, Any]], name: str, names: Sequence[str], legend: bool) -> Sequence[Any]:
    """The mean line of one method, and the range over its seeds."""
    import plotly.graph_objects as go

    style = line_style(names, name)
    points = numbers(curves[0]["rollouts"])
    at = list(zip(*(curve["accuracy"] for curve in curves), strict=True))
    lows, highs, means = [min(v) for v in at], [max(v) for v in at], [sum(v) / len(v) for v in at]
    name = label(name)
    line = go.Scatter(
        x=points, y=means, mode="lines+markers", name=name, legendgroup=name, showlegend=legend,
        hovertemplate="%{y:.1%}", **style,
    )  # fmt: skip
    return *band(points, lows, highs, style["line"]["color"], name), line
