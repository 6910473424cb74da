"""Plotly figures from the plain rows of a run. Backgrounds are transparent: they take the theme of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ORANGE, BLUE, GREY = "#E66101", "#0072B2", "#7F7F7F"
PANELS = (
    # title, unit, [(key, name, colour, dash)]
    ("success", "share", [("success_rate", "success of the rollouts", ORANGE, "solid")]),
    ("margin", "reward units", [("margin", "margin", ORANGE, "solid"), ("delta", "shift δ", BLUE, "dot")]),
    ("KL(student‖teacher)", "nats a token", [("kl", "KL", ORANGE, "solid")]),
    ("entropy", "nats a token", [("entropy", "entropy", ORANGE, "solid")]),
    ("length", "tokens", [("length", "length", ORANGE, "solid")]),
)


def training_figure(rows: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]] = ()) -> Any:
    """Accuracy, margin, KL, entropy and length over iterations; E-steps are marked along the lower edge.

    Args:
        rows: lines of metrics.jsonl. A null is a gap.
        evals: lines of eval.jsonl: held-out accuracy with its interval.

    Returns:
        A plotly `Figure`.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.035)
    steps = [row["step"] for row in rows]
    for number, (title, unit, lines) in enumerate(PANELS, start=1):
        for key, name, colour, dash in lines:
            values = [row[key] for row in rows]
            if any(value is not None for value in values):
                sparse = sum(value is not None for value in values) < len(values) / 2
                line = go.Scatter(
                    x=steps, y=values, name=name, mode="markers" if sparse else "lines",
                    line={"color": colour, "dash": dash, "width": 2}, marker={"color": colour, "size": 6},
                    showlegend=len(lines) > 1 or number == 1, legend="legend",
                )  # fmt: skip
                figure.add_trace(line, row=number, col=1)
        figure.update_yaxes(
            title={"text": f"{title}<br><span style='font-size:0.85em'>{unit}</span>"}, row=number, col=1
        )
    if evals:
        figure.add_trace(_accuracy(evals), row=1, col=1)
    _mark_e_steps(figure, rows)
    figure.update_xaxes(title="iteration", row=len(PANELS), col=1)
    grid = {"gridcolor": "rgba(127,127,127,0.25)", "zerolinecolor": "rgba(127,127,127,0.5)", "automargin": True}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    figure.update_layout(
        height=170 * len(PANELS),
        margin={"l": 70, "r": 20, "t": 50, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0},
        hovermode="x unified",
    )
    return figure


def _accuracy(evals: Sequence[Mapping[str, Any]]) -> Any:
    import plotly.graph_objects as go

    values = [e["accuracy"] for e in evals]
    return go.Scatter(
        x=[e["step"] for e in evals], y=values, name="held-out accuracy, 95 % interval", mode="lines+markers",
        line={"color": BLUE, "width": 2}, marker={"size": 7},
        error_y={
            "type": "data", "symmetric": False, "color": BLUE, "thickness": 1.2,
            "array": [e["accuracy_high"] - v for e, v in zip(evals, values, strict=True)],
            "arrayminus": [v - e["accuracy_low"] for e, v in zip(evals, values, strict=True)],
        },
    )  # fmt: skip


def _mark_e_steps(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A tick on the first panel's lower edge for each iteration with an E-step."""
    import plotly.graph_objects as go

    marked = [row["step"] for row in rows if row["e_loss"] is not None]
    if marked:
        ticks = go.Scatter(
            x=marked, y=[0] * len(marked), name="E-step", mode="markers", hoverinfo="skip",
            marker={"symbol": "line-ns-open", "size": 10, "color": GREY},
        )  # fmt: skip
        figure.add_trace(ticks, row=1, col=1)
