"""Plotly figures from the plain rows of a run. Backgrounds are transparent: they take the theme of the page.

Plotly reads a small HTML, links among it, and formulas in every label, so whatever is text goes through `label`, and
whatever is a number through `numbers`: a text in its place would become a label of its own.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from vpdlab_widgets.base import visible

ORANGE, BLUE, GREY = "#E66101", "#0072B2", "#7F7F7F"
PANELS = (
    # title, unit, [(key, name, colour, dash)]
    ("success", "share", [("success_rate", "success of the rollouts", ORANGE, "solid")]),
    ("margin", "reward units", [("margin", "margin", ORANGE, "solid"), ("delta", "shift δ", BLUE, "dot")]),
    ("KL(student‖teacher)", "nats a token", [("kl", "KL", ORANGE, "solid")]),
    ("entropy", "nats a token", [("entropy", "entropy", ORANGE, "solid")]),
    ("length", "tokens", [("length", "length", ORANGE, "solid")]),
)


def label(text: Any, limit: int = 200) -> str:
    """Text as a label, legend, title or hover text that shows just this text.

    >>> label('<a href="x">$1</a>')
    '&lt;a href="x"&gt;&#36;1&lt;/a&gt;'
    """
    text = visible(text)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return html.escape(text, quote=False).replace("$", "&#36;")


def labels(texts: Sequence[Any]) -> list[str]:
    """Several texts as labels."""
    return [label(text) for text in texts]


def numbers(values: Sequence[Any]) -> list[float | None]:
    """Numbers, with a gap for whatever is none."""
    return [number(value) for value in values]


def number(value: Any) -> float | None:
    """A number; None for whatever is none, endless ones among them."""
    return value if isinstance(value, Real) and abs(value) < 1e300 else None  # type: ignore[return-value]


def training_figure(rows: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]] = ()) -> Any:
    """Accuracy, margin, KL, entropy and length over iterations; E-steps are marked along the lower edge.

    A panel without any number is left out: a method without a teacher has no margin.

    Args:
        rows: lines of metrics.jsonl. A null is a gap.
        evals: lines of eval.jsonl: held-out accuracy with its interval.

    Returns:
        A plotly `Figure`.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shown = [panel for panel in PANELS if panel is PANELS[0] or _has_data(rows, panel)]
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.175 / len(shown))
    steps = numbers([row["step"] for row in rows])
    for number, (title, unit, lines) in enumerate(shown, start=1):
        for key, name, colour, dash in lines:
            values = numbers([row[key] for row in rows])
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
    _dress(figure, 170 * len(shown), "")
    figure.update_xaxes(dtick=1 if len(steps) <= 12 else None)  # there is no iteration 1.5
    figure.update_xaxes(title="iteration", row=len(shown), col=1)
    return figure.update_layout(hovermode="x unified")


def _has_data(rows: Sequence[Mapping[str, Any]], panel: tuple[str, str, list[tuple[str, ...]]]) -> bool:
    return any(number(row[key]) is not None for row in rows for key, *_ in panel[2])


def _accuracy(evals: Sequence[Mapping[str, Any]]) -> Any:
    import plotly.graph_objects as go

    values = numbers([e["accuracy"] for e in evals])
    highs, lows = (numbers([e[f"accuracy_{end}"] for e in evals]) for end in ("high", "low"))
    return go.Scatter(
        x=numbers([e["step"] for e in evals]), y=values, name="held-out accuracy, 95 % interval", mode="lines+markers",
        line={"color": BLUE, "width": 2}, marker={"size": 7},
        error_y={
            "type": "data", "symmetric": False, "color": BLUE, "thickness": 1.2,
            "array": [_minus(high, v) for high, v in zip(highs, values, strict=True)],
            "arrayminus": [_minus(v, low) for low, v in zip(lows, values, strict=True)],
        },
    )  # fmt: skip


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _mark_e_steps(figure: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """A tick on the first panel's lower edge for each iteration with an E-step."""
    import plotly.graph_objects as go

    marked = numbers([row["step"] for row in rows if row["e_loss"] is not None])
    if marked:
        ticks = go.Scatter(
            x=marked, y=[0] * len(marked), name="E-step", mode="markers", hoverinfo="skip",
            marker={"symbol": "line-ns-open", "size": 10, "color": GREY},
        )  # fmt: skip
        figure.add_trace(ticks, row=1, col=1)


def lines_figure(x: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float | None]]], x_title: str) -> Any:
    """Lines over one axis, a panel below the other: panel's title -> line's name -> values. A None is a gap."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=labels(list(panels))
    )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    shown: set[str] = set()
    several = any(len(lines) > 1 for lines in panels.values())
    for number, lines in enumerate(panels.values(), start=1):
        for name, values in lines.items():
            mode = "lines+markers" if len(x) < 40 else "lines"
            line = go.Scatter(
                x=numbers(x), y=numbers(values), name=label(name), mode=mode, legendgroup=label(name),
                line={"color": COLOURS[names.index(name) % len(COLOURS)], "width": 2}, marker={"size": 6},
                showlegend=several and name not in shown,
            )  # fmt: skip
            shown.add(name)
            figure.add_trace(line, row=number, col=1)
    _dress(figure, 120 + 190 * len(panels), "")
    figure.update_xaxes(title=label(x_title), row=len(panels), col=1)
    figure.update_annotations(font={"size": 13})
    return figure.update_layout(margin={"t": 60}, legend={"y": 1.06 + 0.06 / len(panels)})


COLOURS = (ORANGE, BLUE, "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7A5195", "#8C564B", "#4C9A2A", GREY)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def compare_figure(curves: Sequence[Mapping[str, Any]]) -> Any:
    """Held-out accuracy over rollouts, a panel for each preset: the mean of the seeds, and their range as a band.

    Args:
        curves: one dict a run: preset, method, seed, rollouts, accuracy (`standings.curves`).
    """
    from plotly.subplots import make_subplots

    presets = list(dict.fromkeys(curve["preset"] for curve in curves))
    methods = list(dict.fromkeys(curve["method"] for curve in curves))
    figure = make_subplots(
        rows=1, cols=len(presets), subplot_titles=labels(presets), shared_yaxes=True, horizontal_spacing=0.04
    )
    for column, preset in enumerate(presets, start=1):
        for number, method in enumerate(methods):
            mine = [curve for curve in curves if curve["preset"] == preset and curve["method"] == method]
            for trace in _band(mine, method, number, legend=column == 1) if mine else ():
                figure.add_trace(trace, row=1, col=column)
    _dress(figure, 420, "rollouts")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title="held-out accuracy", tickformat=".0%", col=1)
    return figure.update_layout(hovermode="x unified", margin={"t": 90}, legend={"y": 1.12})


def _band(curves: Sequence[Mapping[str, Any]], name: str, number: int, legend: bool) -> Sequence[Any]:
    """The line of one method, and the range of its seeds."""
    import plotly.graph_objects as go

    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
    points = numbers(curves[0]["rollouts"])
    at = list(zip(*(curve["accuracy"] for curve in curves), strict=True))
    lows, highs, means = [min(v) for v in at], [max(v) for v in at], [sum(v) / len(v) for v in at]
    name = label(name)
    shared = {"legendgroup": name, "hoverinfo": "skip", "showlegend": False}
    edge = go.Scatter(x=points, y=highs, mode="lines", line={"width": 0}, **shared)
    fill = go.Scatter(
        x=points, y=lows, mode="lines", line={"width": 0}, fill="tonexty", fillcolor=f"{_rgba(colour, 0.16)}", **shared
    )
    line = go.Scatter(
        x=points, y=means, mode="lines+markers", name=name, legendgroup=name, showlegend=legend,
        line={"color": colour, "dash": dash, "width": 2}, marker={"size": 6}, hovertemplate="%{y:.1%}",
    )  # fmt: skip
    return edge, fill, line


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def implicit_reward_figure(rewards: Mapping[str, Sequence[float]], success: Sequence[bool], shift: float) -> Any:
    """Implicit rewards of right and wrong responses, one row of dots a moment, with the shift between them.

    Args:
        rewards: moment -> r~ of each rollout.
        success: r of each rollout.
        shift: δ.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for right, name, colour in ((True, "right", BLUE), (False, "wrong", ORANGE)):
        values = {
            moment: [v for v, s in zip(all_, success, strict=True) if s == right] for moment, all_ in rewards.items()
        }
        figure.add_trace(
            go.Box(
                x=[v for column in values.values() for v in column],
                y=[label(moment) for moment, column in values.items() for _ in column],
                name=name, orientation="h", boxpoints="all", jitter=0.6, pointpos=0, line={"color": colour},
                fillcolor="rgba(0,0,0,0)", marker={"color": colour, "size": 4, "opacity": 0.6},
            )
        )  # fmt: skip
    figure.add_vline(x=shift, line={"color": GREY, "dash": "dot"}, annotation_text="shift δ", annotation_position="top")
    figure.update_layout(boxmode="group")
    figure.update_yaxes(autorange="reversed")
    return _dress(figure, 300, "implicit reward β (log q − log π)")


def token_figure(words: Sequence[str], kl: Sequence[float]) -> Any:
    """KL(student‖teacher) of each response token as a bar over its text, in nats."""
    import plotly.graph_objects as go

    places = list(range(len(words)))
    figure = go.Figure(
        go.Bar(x=places, y=numbers(kl), marker={"color": ORANGE}, hovertemplate="%{y:.3f} nats<extra></extra>")
    )
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=_tokens(words))
    figure.update_yaxes(title="KL(student‖teacher), nats")
    return _dress(figure, 280, "token of the response")


def _tokens(words: Sequence[str]) -> list[str]:
    """Tokens below their bars: what is only white space is a dot."""
    return [label(word.strip()) or "·" for word in words]


def _quoted(word: str) -> str:
    return f"“{label(word)}”"


def top_figure(tops: Mapping[str, Sequence[tuple[str, float]]], title: str) -> Any:
    """The likeliest tokens of student and teacher side by side, as probabilities.

    Args:
        tops: "student" and "teacher" -> (token text, probability), likeliest first.
    """
    import plotly.graph_objects as go

    order = list(dict.fromkeys(word for column in tops.values() for word, _ in column))
    figure = go.Figure()
    for side, colour in (("student", ORANGE), ("teacher", BLUE)):
        p = dict(tops[side])
        figure.add_trace(
            go.Bar(
                x=[_quoted(w) for w in order], y=numbers([p.get(w) for w in order]), name=side, marker={"color": colour}
            )
        )
    figure.update_yaxes(title="probability")
    figure.update_xaxes(type="category")
    figure.update_layout(title={"text": label(title), "font": {"size": 14}})
    return _dress(figure, 320, "next token")


SIGNED = ((0.0, BLUE), (0.5, "rgba(127,127,127,0.08)"), (1.0, ORANGE))


def push_figure(words: Sequence[str], weights: Mapping[str, Sequence[float]], scale: Mapping[str, float]) -> Any:
    """What each method asks of each written token: orange to become likelier, blue to become less likely.

    Args:
        words: the response's tokens.
        weights: method -> the push on each token (`anatomy.Push.weight`).
        scale: method -> the push that gets the full colour, since methods differ in size.
    """
    import plotly.graph_objects as go

    names, places = list(weights), list(range(len(words)))
    colours = [[value / scale[name] for value in weights[name]] for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=colours, x=places, y=labels(names), customdata=[list(weights[name]) for name in names], zmin=-1, zmax=1,
            colorscale=SIGNED, xgap=2, ygap=2, hovertemplate="%{y}: %{customdata:+.4f}<extra></extra>",
            colorbar={"title": "push", "tickvals": [-1, 0, 1], "ticktext": ["rarer", "0", "likelier"], "thickness": 12},
        )
    )  # fmt: skip
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=_tokens(words))
    return _tiles(figure, 80 + 30 * len(names), "token of the response")


def likeness_figure(names: Sequence[str], values: Sequence[Sequence[float]]) -> Any:
    """Cosines between methods, each with each: 1 the same direction, 0 nothing in common, -1 opposite."""
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Heatmap(
            z=values, x=labels(names), y=labels(names), zmin=-1, zmax=1, xgap=2, ygap=2,
            colorscale=((0.0, BLUE), (0.5, "#6E6E6E"), (1.0, "#C85400")),  # opaque: white words read on all of it
            texttemplate="%{z:.2f}", textfont={"color": "white"}, hovertemplate="%{y}, %{x}: %{z:.3f}<extra></extra>",
            colorbar={"title": "cosine", "thickness": 12},
        )
    )  # fmt: skip
    return _tiles(figure, 80 + 36 * len(names), "")


def _tiles(figure: Any, height: int, x_title: str) -> Any:
    """A heat map's look: the first row on top, no lines between the tiles."""
    _dress(figure, height, x_title).update_layout(margin={"t": 20})
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return figure.update_xaxes(showgrid=False, zeroline=False)


def move_figure(moves: Mapping[str, Mapping[str, float]], unit: str = "push, largest = 1") -> Any:
    """The push on some tokens at one place, side by side for several methods: method -> token text -> push."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, row) in enumerate(moves.items()):
        words = [_quoted(word) for word in row]
        bar = go.Bar(
            x=words, y=numbers(list(row.values())), name=label(name), marker={"color": COLOURS[number % len(COLOURS)]}
        )
        figure.add_trace(bar)
    figure.update_xaxes(type="category")
    figure.update_yaxes(title=label(unit))
    return _dress(figure, 340, "next token")


def _dress(figure: Any, height: int, x_title: str) -> Any:
    """What all figures share: height in pixels, grey words and lines that read on a light and on a dark page."""
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
