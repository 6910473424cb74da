"""Runs over their iterations, and runs compared over their rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab.show.plots.probes import probe_panels
from vpdlab.show.plots.style import GREY, STUDENT, TEACHER, dress, label, labels, line_style, number, numbers

PANELS = (
    # title, unit, [(key, name, colour, dash)]
    ("success", "share", [("success_rate", "success rate of the rollouts", STUDENT, "solid")]),
    ("margin", "reward units", [("margin", "margin", TEACHER, "solid"), ("delta", "shift δ", GREY, "dot")]),
    ("KL(student‖teacher)", "nats per token", [("kl", "KL", STUDENT, "solid")]),
    ("entropy", "nats per token", [("entropy", "entropy", STUDENT, "solid")]),
    ("length", "tokens", [("length", "length", STUDENT, "solid")]),
)


def training_figure(rows: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]] = ()) -> Any:
    """Accuracy, the task's probes, margin, KL, entropy and length over iterations; ticks mark the E-steps.

    A panel without any number is left out: a method without a teacher has no margin.

    Args:
        rows: lines of metrics.jsonl. A null is a gap.
        evals: lines of eval.jsonl: held-out accuracy with its interval, and a panel for each group of probes.

    Returns:
        A plotly `Figure`.
    """
    from plotly.subplots import make_subplots

    shown = [
        (title, unit, _metric_lines(rows, lines, first=place == 0))
        for place, (title, unit, lines) in enumerate(PANELS)
        if place == 0 or _has_data(rows, lines)
    ]
    probes = probe_panels(evals)
    shown[1:1] = [(title, "at evaluations", lines) for title, lines in probes]
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.175 / len(shown))
    for place, (title, unit, lines) in enumerate(shown, start=1):
        for line in lines:
            figure.add_trace(line, row=place, col=1)
        figure.update_yaxes(
            title={"text": f"{label(title, 24)}<br><span style='font-size:0.85em'>{unit}</span>"}, row=place, col=1
        )
    if evals:
        figure.add_trace(_accuracy(evals), row=1, col=1)
    _mark_e_steps(figure, rows)
    dress(figure, 170 * len(shown), "")
    _dress_probes(figure, range(2, 2 + len(probes)))
    figure.update_xaxes(dtick=1 if len(rows) <= 12 else None)  # there is no iteration 1.5
    figure.update_xaxes(title="iteration", row=len(shown), col=1)
    return figure.update_layout(hovermode="x unified")


def _dress_probes(figure: Any, panels: Sequence[int]) -> None:
    """Give each of these panels (1 is the first) an axis with 0, and a legend of its own over its right end."""
    for place in panels:
        figure.update_traces(legend=f"legend{place}", row=place, col=1)
        top = figure.layout[f"yaxis{place}"].domain[1]
        figure.update_yaxes(rangemode="tozero", row=place, col=1)
        own = {"orientation": "h", "x": 1, "xanchor": "right", "y": top, "yanchor": "bottom"}
        figure.update_layout({f"legend{place}": own})


def _has_data(rows: Sequence[Mapping[str, Any]], lines: Sequence[tuple[str, ...]]) -> bool:
    return any(number(row[key]) is not None for row in rows for key, *_ in lines)


def _metric_lines(rows: Sequence[Mapping[str, Any]], lines: Sequence[tuple[str, ...]], first: bool) -> list[Any]:
    """The lines of one panel; a metric that most rows lack is drawn as points."""
    import plotly.graph_objects as go

    traces = []
    for key, name, colour, dash in lines:
        values = numbers([row[key] for row in rows])
        count = sum(value is not None for value in values)
        if count:
            trace = go.Scatter(
                x=numbers([row["step"] for row in rows]), y=values, name=name,
                mode="markers" if count < max(2, len(values) / 2) else "lines",
                line={"color": colour, "dash": dash, "width": 2}, marker={"color": colour, "size": 6},
                showlegend=len(lines) > 1 or first, legend="legend",
            )  # fmt: skip
            traces.append(trace)
    return traces


def _accuracy(evals: Sequence[Mapping[str, Any]]) -> Any:
    import plotly.graph_objects as go

    values = numbers([e["accuracy"] for e in evals])
    highs, lows = (numbers([e[f"accuracy_{end}"] for e in evals]) for end in ("high", "low"))
    return go.Scatter(
        x=numbers([e["step"] for e in evals]), y=values, name="held-out accuracy, 95 % interval", mode="lines+markers",
        line={"color": GREY, "width": 2}, marker={"size": 8, "symbol": "diamond"},
        error_y={
            "type": "data", "symmetric": False, "color": GREY, "thickness": 1.2,
            "array": [_minus(high, v) for high, v in zip(highs, values, strict=True)],
            "arrayminus": [_minus(v, low) for low, v in zip(lows, values, strict=True)],
        },
    )  # fmt: skip


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _mark_e_steps(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add a tick to the first panel's lower edge for each iteration with an E-step."""
    import plotly.graph_objects as go

    marked = numbers([row["step"] for row in rows if row["e_loss"] is not None])
    if marked:
        ticks = go.Scatter(
            x=marked, y=[0] * len(marked), name="E-step", mode="markers", hoverinfo="skip",
            marker={"symbol": "line-ns-open", "size": 10, "color": GREY},
        )  # fmt: skip
        figure.add_trace(ticks, row=1, col=1)


def lines_figure(x: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float | None]]], x_title: str) -> Any:
    """Lines over one axis in stacked panels: panel title -> line name -> values. A None is a gap."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=labels(list(panels))
    )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    shown: set[str] = set()
    several = any(len(lines) > 1 for lines in panels.values())
    for place, lines in enumerate(panels.values(), start=1):
        for name, values in lines.items():
            mode = "lines+markers" if len(x) < 40 else "lines"
            line = go.Scatter(
                x=numbers(x), y=numbers(values), name=label(name), mode=mode, legendgroup=label(name),
                **line_style(names, name),
                showlegend=several and name not in shown,
            )  # fmt: skip
            shown.add(name)
            figure.add_trace(line, row=place, col=1)
    dress(figure, 148 + 190 * len(panels), "")
    figure.update_xaxes(title=label(x_title), row=len(panels), col=1)
    figure.update_annotations(font={"size": 13})
    return figure.update_layout(margin={"t": 88}, legend={"y": 1.06 + 0.06 / len(panels)})
