"""Figures of one batch of rollouts, and of one response token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vpdlab_widgets.palette import CLEAR

from vpdlab.show.plots.style import (
    GREY,
    RIGHT,
    STUDENT,
    TEACHER,
    WRONG,
    dress,
    label,
    numbers,
    quoted,
    token_labels,
)


def implicit_reward_figure(rewards: Mapping[str, Sequence[float]], success: Sequence[bool], shift: float) -> Any:
    """Implicit rewards of right and wrong responses, a row of dots per stage, with the shift between them.

    Args:
        rewards: stage (such as "before the E-step") -> r~ of each rollout.
        success: r of each rollout.
        shift: δ.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for right, name, colour in ((True, "right", RIGHT), (False, "wrong", WRONG)):
        values = {
            stage: [v for v, s in zip(all_, success, strict=True) if s == right] for stage, all_ in rewards.items()
        }
        figure.add_trace(
            go.Box(
                x=[v for column in values.values() for v in column],
                y=[label(stage) for stage, column in values.items() for _ in column],
                name=name, orientation="h", boxpoints="all", jitter=0.6, pointpos=0, line={"color": colour},
                fillcolor=CLEAR, marker={"color": colour, "size": 4, "opacity": 0.6},
            )
        )  # fmt: skip
    figure.add_vline(x=shift, line={"color": GREY, "dash": "dot"}, annotation_text="shift δ", annotation_position="top")
    figure.update_layout(boxmode="group")
    figure.update_yaxes(autorange="reversed")
    return dress(figure, 300, "implicit reward β (log q − log π)")


def token_figure(tokens: Sequence[str], kl: Sequence[float]) -> Any:
    """KL(student‖teacher) in nats, a bar over each token of the response."""
    import plotly.graph_objects as go

    places = list(range(len(tokens)))
    figure = go.Figure(
        go.Bar(x=places, y=numbers(kl), marker={"color": TEACHER}, hovertemplate="%{y:.3g} nats<extra></extra>")
    )
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=token_labels(tokens))
    figure.update_yaxes(title="KL(student‖teacher), nats")
    return dress(figure, 280, "token of the response").update_xaxes(zeroline=False)  # it would cross the first token


def top_figure(tops: Mapping[str, Sequence[tuple[str, float]]], title: str) -> Any:
    """The most probable next tokens of student and teacher side by side.

    Args:
        tops: "student" and "teacher" -> (token text, probability), most probable first.
        title: plain text.
    """
    import plotly.graph_objects as go

    order = list(dict.fromkeys(token for column in tops.values() for token, _ in column))
    figure = go.Figure()
    for side, colour in (("student", STUDENT), ("teacher", TEACHER)):
        p = dict(tops[side])
        figure.add_trace(
            go.Bar(
                x=[quoted(token) for token in order],
                y=numbers([p.get(token) for token in order]),
                name=side,
                marker={"color": colour},
            )
        )
    figure.update_yaxes(title="probability")
    figure.update_xaxes(type="category")
    figure.update_layout(title={"text": label(title), "font": {"size": 14}})
    return dress(figure, 320, "next token")
