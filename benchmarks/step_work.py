"""Shared by step.py and step_trl.py: common settings, token counts and timings of steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import common

TOP_K = 20
SETTINGS: dict[str, Any] = {"lr": 1e-5, "weight_decay": 0.01, "grad_clip": 1.0, "temperature": 1.0}


@dataclass
class Work:
    """Tokens of one step, without padding."""

    student: int
    teacher: int
    response: int

    def flops(self, body: int, head: int, e_step: bool) -> float:
        trained = self.student + (self.teacher if e_step else 0)
        responses = self.response * (14 if e_step else 8)  # student 6, teacher 2; the E-step 6 more
        return float(body) * (6 * trained + 2 * self.teacher) + float(head) * responses


@dataclass
class Times:
    """Seconds and tokens of each measured step of one implementation."""

    rollout: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def add(self, rollout: float, whole: common.Seconds, work: Work) -> None:
        self.rollout.append(rollout)
        self.update.append(whole.clock - rollout)
        self.processor.append(whole.processor)
        self.work.append(work)

    def numbers(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)

    @classmethod
    def of(cls, numbers: dict[str, Any]) -> Times:
        """From `numbers`."""
        return cls(**{**numbers, "work": [Work(**one) for one in numbers["work"]]})

    @property
    def whole(self) -> list[float]:
        return [a + b for a, b in zip(self.rollout, self.update, strict=True)]


def checked(what: str, loss: float | None) -> None:
    if loss is None or not math.isfinite(loss):
        raise SystemExit(f"{what}: the loss is {loss}: nothing was learned, so the measurement is void")
