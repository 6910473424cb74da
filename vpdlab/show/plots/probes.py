"""What the task's probes found over the evaluations: a panel a group, a line each; and the curves of belief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab.show.plots.style import BLUE, COLOURS, GREY, ORANGE, dress, label, number, numbers
from vpdlab.show.probes import probe_groups, words

HUES = (BLUE, ORANGE, *COLOURS[2:])
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
TITLE = "Whom does the teacher believe? P(told | voice) on held-out words"
GUESS = 1 / 16
"""Probability of the told operation for a reader that guesses among the sixteen of task lexicon."""


def belief_figure(
    evals: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    group: str = "belief",
    title: str = TITLE,
    names: Mapping[str, str] | None = None,
    rollouts: int = 0,
    chance: float | None = GUESS,
) -> Any:
    """Belief in each voice over the evaluations of a run, or of several: a colour a voice, a dash pattern a run.

    Args:
        evals: lines of eval.jsonl (`run.evals`, `load_run(folder).eval_rows`), or run name -> such lines.
        group: which probes: "belief", "belief_in_slang", "teacher_accuracy" or another task's.
        title: plain text.
        names: voice -> its name in the legend, such as "Bob (lies)".
        rollouts: rollouts per iteration (prompts x group), to draw over rollouts; 0: over iterations.
        chance: value of a reader that guesses, a dotted line; None for no line.

    Returns:
        A plotly `Figure`; without any such probe it says so.
    """
    import plotly.graph_objects as go

    runs = evals if isinstance(evals, Mapping) else {"": evals}
    drawn = {run: probe_groups(rows).get(group, {}) for run, rows in runs.items()}
    voices = list(dict.fromkeys(voice for lines in drawn.values() for voice in lines))
    figure = go.Figure()
    for place, (run, lines) in enumerate(drawn.items()):
        steps = [row["step"] * (rollouts or 1) for row in runs[run]]
        for voice, values in lines.items():
            shown = (names or {}).get(voice, voice)
            figure.add_trace(_line(steps, values, f"{shown}, {run}" if run else shown, voices.index(voice), place))
    if voices and chance is not None:
        figure.add_trace(_guessing(figure, chance))
    if not voices:
        figure.add_annotation(text=label(f"no probes of the group {group!r}"), showarrow=False)
    return _dress(figure, title, "rollouts" if rollouts else "iteration")


def _dress(figure: Any, title: str, x_title: str) -> Any:
    dress(figure, 420, x_title).update_yaxes(range=[-0.02, 1.04], tickformat=".0%", title="probability")
    heading = {"text": label(title), "font": {"size": 15}, "x": 0, "xref": "paper", "yref": "container", "y": 0.97}
    return figure.update_layout(title=heading | {"yanchor": "top"}, margin={"t": 76}, hovermode="x unified")


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


def _line(steps: Sequence[Any], values: Sequence[float | None], name: str, at: int, run: int = 0) -> Any:
    import plotly.graph_objects as go

    style = {"color": HUES[at % len(HUES)], "width": 2.5, "dash": DASHES[run % len(DASHES)]}
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
