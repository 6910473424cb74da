"""Simplex: student, teacher and target as points of a triangle, for three responses; drag the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, fallback_table

POINTS = ("q", "student")
_SMALLEST = 1e-4
"""Least probability of a point: at the edge of the triangle logarithms end."""


class Simplex(LabWidget):
    """Exact EM on three responses: the student π, the teacher q and the target π* as points of a triangle.

    The reader drags q, or moves it with the arrow keys, and sees the bound F(q), its gap KL(q‖π*), and where the next
    M-step takes the student. Buttons do an exact E-step (q to π*) and the M-step (the student to where the arrow ends),
    so that EM can be run by hand. The formulas are those of `vpdlab.study.tabular`; they are computed in the browser,
    no kernel is needed.

    An M-step is `updates` updates of gradient descent with step size `lr` on the student's logits, or, with `line`, the
    minimum of the loss on that line. `selected` is the point that the arrow keys move.

    Args:
        names: of the three responses.
        reward: of each, any numbers.
        student, q: probabilities of the three under π and q; default: equal ones, and q as the student.
        beta: units of reward per nat.
        loss: of the M-step: "reverse" is KL(π‖q), "forward" KL(q‖π).
        line: () for a student that can be anywhere; else two points, between which it can be.
        lr, updates: of the gradient descent.
        title: plain text above the triangle.

    Raises:
        TypeError: a keyword is unknown.
        ValueError: a point is not three positive probabilities that sum to 1, or there are not three names and rewards.
    """

    _parts = ("mathematics",)
    names = traitlets.List(traitlets.Unicode(), ["A", "B", "C"]).tag(sync=True)
    reward = traitlets.List(traitlets.Float(), [1.0, 0.0, 0.0]).tag(sync=True)
    student = traitlets.List(traitlets.Float(), [1 / 3, 1 / 3, 1 / 3]).tag(sync=True)
    q = traitlets.List(traitlets.Float()).tag(sync=True)
    beta = traitlets.Float(0.5, min=1e-3, max=1e3).tag(sync=True)
    loss = traitlets.Enum(["reverse", "forward"], "reverse").tag(sync=True)
    line = traitlets.List(traitlets.List(traitlets.Float())).tag(sync=True)
    lr = traitlets.Float(0.5, min=0.0, max=1e3).tag(sync=True)
    updates = traitlets.Int(4, min=1, max=1000).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Enum(POINTS, "q").tag(sync=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if "q" not in kwargs:
            self.q = list(self.student)

    @traitlets.validate("student", "q")
    def _check_point(self, proposal: Mapping[str, Any]) -> list[float]:
        return _point(proposal["value"], proposal["trait"].name)

    @traitlets.validate("line")
    def _check_line(self, proposal: Mapping[str, Any]) -> list[list[float]]:
        ends = proposal["value"]
        if ends and len(ends) != 2:
            raise ValueError(f"line has {len(ends)} points: it needs two, or none")
        return [_point(end, f"line[{place}]", least=0.0) for place, end in enumerate(ends)]

    @traitlets.validate("names", "reward")
    def _check_three(self, proposal: Mapping[str, Any]) -> list[Any]:
        if len(proposal["value"]) != 3:
            raise ValueError(f"{proposal['trait'].name} has {len(proposal['value'])} values: there are three responses")
        return proposal["value"]

    def fallback(self) -> str:
        """The three responses and their probabilities."""
        rows = [
            {"name": name, "reward": reward, "student": mine, "teacher": its}
            for name, reward, mine, its in zip(self.names, self.reward, self.student, self.q, strict=True)
        ]
        columns = [("name", "response"), ("reward", "reward"), ("student", "student π"), ("teacher", "teacher q")]
        return fallback_table(f"{self._title()} (it can be dragged where JavaScript runs)", columns, rows)


def _point(values: list[float], name: str, least: float = _SMALLEST) -> list[float]:
    """Three probabilities, none below `least`."""
    if len(values) != 3 or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{name} is {values}: it needs three probabilities")
    if abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"{name} sums to {sum(values):g}: three probabilities sum to 1")
    if min(values) < least:
        raise ValueError(f"{name} is {values}: each probability must be at least {least:g}")
    return list(values)
