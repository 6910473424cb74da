"""Discovery at test time: how many attempts each method needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab.show.plots.style import band, dress, label, line_style


def discovery_figure(curves: Sequence[Mapping[str, Any]]) -> Any:
    """discovery@k: the share of problems that k attempts solve, with its 95 % interval.

    Args:
        curves: one dict per method and k: method, k, solved, low, high (`study.discover.curves`).
    """
    import plotly.graph_objects as go

    methods = list(dict.fromkeys(row["method"] for row in curves))
    figure = go.Figure()
    for name in methods:
        mine = [row for row in curves if row["method"] == name]
        at, style = [row["k"] for row in mine], line_style(methods, name)
        low, high = ([row[edge] for row in mine] for edge in ("low", "high"))
        solved = [row["solved"] for row in mine]
        shown = label(name)
        line = go.Scatter(x=at, y=solved, name=shown, legendgroup=shown, mode="lines+markers", **style)
        figure.add_traces([*band(at, low, high, style["line"]["color"], shown), line])
    dress(figure, 420, "attempts at a problem")
    figure.update_xaxes(type="log", tickvals=[2**power for power in range(17)])
    figure.update_yaxes(title="solved", tickformat=".0%", range=[0, 1.04])
    return figure.update_layout(hovermode="x unified")
