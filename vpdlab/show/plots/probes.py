"""What the task's probes found over the evaluations: a panel a group, a line each; and the curves of belief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab_widgets.palette import EITHER

from vpdlab.show.plots.style import GREY, band, dress, label, number, numbers
from vpdlab.show.probes import probe_groups, words

HUES = [EITHER[f"method{number}"] for number in (2, 1, 3, 4, 5, 6)]
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
TITLE = "Whom does the teacher believe? P(told | voice) on held-out words"
GUESS = 1 / 16
"""Probability of the told operation for a reader that guesses among the sixteen of task lexicon."""


def belief_figure(
    runs: Any,
    *,
    group: str = "belief",
    title: str = TITLE,
    names: Mapping[str, str] | None = None,
    rollouts: int = 0,
    chance: float | None = GUESS,
) -> Any:
    """Belief in each voice over the evaluations: a colour a voice, a dash pattern a method.

    Args:
        runs: a run, a record (`load_run(folder)`) or lines of eval.jsonl; a list of runs or records that differ in
            their seed, drawn as their mean and their range; or a name, such as the method's, -> one of these.
        group: which probes: "belief", "belief_in_slang", "teacher_accuracy" or another task's.
        title: plain text.
        names: voice -> its name in the legend, such as "Bob (lies)".
        rollouts: rollouts per iteration (prompts x group), to draw over rollouts; 0: over iterations.
        chance: value of a reader that guesses, a dotted line; None for no line.

    Returns:
        A plotly `Figure`; without any such probe it says so.
    """
    import plotly.graph_objects as go

    named = runs if isinstance(runs, Mapping) else {"": runs}
    drawn = {name: _curves(_seeds(one), group) for name, one in named.items()}
    voices = list(dict.fromkeys(voice for curves in drawn.values() for voice in curves))
    figure = go.Figure()
    for place, (name, curves) in enumerate(drawn.items()):
        for voice, curve in curves.items():
            shown = (names or {}).get(voice, voice)
            scaled = {step * (rollouts or 1): values for step, values in curve.items()}
            figure.add_traces(_mean(scaled, f"{shown}, {name}" if name else shown, voices.index(voice), place))
    if voices and chance is not None:
        figure.add_trace(_guessing(figure, chance))
    if not voices:
        figure.add_annotation(text=label(f"no probes of the group {group!r}"), showarrow=False)
    what = "probability" if group.startswith("belief") else "share"
    return _dress(figure, title, "rollouts" if rollouts else "iteration", what)


def probe_panels(evals: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Group -> its lines over the evaluations, for a panel of `training_figure` each; groups without numbers are left
    out."""
    panels = []
    for group, lines in probe_groups(evals).items():
        steps = [row["step"] for row in evals]
        traces = [
            _line(steps, values, words(line), at).update(
                hovertemplate=f"{label(words(group), 60)} {label(line, 60)}: %{{y:.3f}}<extra></extra>"
            )
            for at, (line, values) in enumerate(lines.items())
            if any(number(value) is not None for value in values)
        ]
        if traces:
            panels.append((words(group), traces))
    return panels


def _seeds(source: Any) -> list[Sequence[Mapping[str, Any]]]:
    """The evaluations of each run in `source` (`belief_figure`)."""
    if isinstance(source, Sequence) and not all(isinstance(one, Mapping) for one in source):
        return [rows for one in source for rows in _seeds(one)]
    own = next((name for name in ("eval_rows", "evals") if hasattr(source, name)), "")  # of a record, of a run
    return [getattr(source, own) if own else source]


def _curves(seeds: Sequence[Sequence[Mapping[str, Any]]], group: str) -> dict[str, dict[int, list[float | None]]]:
    """Voice -> step -> the value of each run that was evaluated there."""
    found: dict[str, dict[int, list[float | None]]] = {}
    for rows in seeds:
        for voice, values in probe_groups(rows).get(group, {}).items():
            for row, value in zip(rows, values, strict=True):
                found.setdefault(voice, {}).setdefault(row["step"], []).append(value)
    return found


def _mean(curve: Mapping[int, Sequence[float | None]], name: str, at: int, place: int) -> list[Any]:
    """The mean over runs as a line, and their range as a band where there are several."""
    steps = sorted(curve)
    known = [[value for value in numbers(curve[step]) if value is not None] for step in steps]
    line = _line(steps, [sum(values) / len(values) if values else None for values in known], name, at, place)
    line.legendgroup = line.name
    if max(map(len, known)) < 2:
        return [line]
    low, high = ([end(values) if values else None for values in known] for end in (min, max))
    return [*band(steps, low, high, HUES[at % len(HUES)], line.name), line]


def _line(steps: Sequence[Any], values: Sequence[float | None], name: str, at: int, place: int = 0) -> Any:
    import plotly.graph_objects as go

    style = {"color": HUES[at % len(HUES)], "width": 2.5, "dash": DASHES[place % len(DASHES)]}
    return go.Scatter(
        x=numbers(steps), y=numbers(values), name=label(name, 60), mode="lines+markers", line=style,
        marker={"size": 8, "symbol": SYMBOLS[at % len(SYMBOLS)]}, hovertemplate="%{y:.1%}",
    )  # fmt: skip


def _guessing(figure: Any, chance: float) -> Any:
    import plotly.graph_objects as go

    steps = [step for trace in figure.data for step in trace.x if step is not None]
    return go.Scatter(
        x=[min(steps), max(steps)], y=[chance, chance], name=f"guessing ({chance:.2%})", mode="lines",
        line={"color": GREY, "width": 1.5, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip


def _dress(figure: Any, title: str, x_title: str, y_title: str) -> Any:
    dress(figure, 420, x_title).update_yaxes(range=[-0.02, 1.04], tickformat=".0%", title=y_title)
    heading = {"text": label(title), "font": {"size": 15}, "x": 0, "xref": "paper", "yref": "container", "y": 0.97}
    return figure.update_layout(title=heading | {"yanchor": "top"}, margin={"t": 76}, hovermode="x unified")
