"""Before a run: what a few batches say of how much a method will gain.

`signs` samples a few batches and trains nothing. `Fit` is a ridge regression of the gain in held-out accuracy on these
signs, one per method, with an interval from runs under conditions that the regression did not see. The bundled fit
(`forecast.json`) comes from the runs of the study `words`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from vpdlab.credit import leave_one_out_mean
from vpdlab.errors import FAULTS, UserError, in_one_line
from vpdlab.learn.answers import answered
from vpdlab.learn.m_step import Method, survey
from vpdlab.learn.methods import METHODS
from vpdlab.learn.parts import Parts
from vpdlab.learn.state import Batch

METHODS_FORECAST = ("sdpo", "vpd", "grpo")
BUNDLED = Path(__file__).with_suffix(".json")
COVER = 0.8
"""Share of the left-out runs that an interval covers."""
RIDGE = 0.05
LEAST = 3
"""Conditions that a fit needs: each is left out in turn."""


@dataclass(frozen=True)
class Signs:
    """What a few batches show of a problem set, a model and its critics.

    Attributes:
        success: share of the student's rollouts that are right.
        teacher: share of its failures that the teacher gets right, shown the feedback on them; 0 without any feedback.
        sibling: share of the student's other rollouts of the same problems that are right.
        signal: share of groups with both a success and a failure.
        cosine: of the step that distils the teacher and the step that raises success, both for the student, each
            estimated on batches of its own; NaN where there was no success at all.
        belief: mean over voices of the probability that the teacher does what it is told (probes "belief/..."); NaN for
            a task without such probes.
        rollouts: how many it took.
    """

    success: float
    teacher: float
    sibling: float
    signal: float
    cosine: float
    belief: float
    rollouts: int

    @property
    def gap(self) -> float:
        """How much better the teacher is than the student, on the problems that the student failed."""
        return self.teacher - self.sibling

    @property
    def features(self) -> tuple[float, ...]:
        """What the regression sees: the gap, how undecided the teacher is, the signal, the cosine (0 if unknown)."""
        cosine = 0.0 if math.isnan(self.cosine) else self.cosine
        return (1.0, self.gap, 4 * self.teacher * (1 - self.teacher), self.signal, cosine)


def signs(parts: Parts, batches: int = 4, belief: float = math.nan) -> Signs:
    """Sample a few batches and look at them; no weight changes.

    Args:
        parts: with a method that sees all rollouts in both views (`joint`), as `compare.forecasts.signs_of` opens them.
        batches: at least 2: the two gradients come from different ones.
        belief: from the task's probes, where it has them.

    Raises:
        UserError: for fewer than 2 batches.
    """
    if batches < 2:
        raise UserError(f"batches is {batches}, but a forecast needs at least 2")
    seen = [parts.batch(step) for step in range(1, batches + 1)]
    answers = [answered(parts, batch.select(~batch.success)) for batch in seen]
    rights = torch.cat([answer.success for answer in answers]).float()
    beside = torch.cat([leave_one_out_mean(batch.success.float(), batch.groups)[~batch.success] for batch in seen])
    mixed = [len(set(batch.success[batch.groups == g].tolist())) == 2 for batch in seen for g in batch.groups.unique()]
    success = torch.cat([batch.success for batch in seen]).float()
    return Signs(
        success.mean().item(),
        rights.mean().item() if len(rights) else 0.0,
        beside.mean().item() if len(beside) else 0.0,
        float(np.mean(mixed)),
        _cosine(parts, seen),
        belief,
        len(success),
    )


def _cosine(parts: Parts, batches: Sequence[Batch]) -> float:
    """Cosine of the two steps, the mean over both ways to share the batches among them."""
    found = []
    for first, second in ((batches[::2], batches[1::2]), (batches[1::2], batches[::2])):
        distil = _gradient(parts, first, METHODS["sdpo"])
        outcome = _gradient(parts, second, METHODS["grpo"])
        norm = (distil.norm() * outcome.norm()).item()
        if norm > 0:
            found.append((distil @ outcome).item() / norm)
    return float(np.mean(found)) if found else math.nan


def _gradient(parts: Parts, batches: Sequence[Batch], method: Method) -> Tensor:
    """[P] gradient of a method's loss with respect to the student's weights, the sum over batches."""
    policy = parts.policy
    policy.fresh()
    for batch in batches:
        for seen, _, _ in survey(parts.learner, batch, METHODS["joint"]):
            policy.backward(method.loss(seen))
    own = [weight for weight in policy.model.parameters() if weight.requires_grad]
    found = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in own])
    policy.fresh()
    return found.float()


# -- from signs to gains -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """A forecast of the change in held-out accuracy, in shares of 1.

    Attributes:
        value: the expected gain.
        low, high: the interval; it covers `COVER` of the runs under conditions that the fit had not seen.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A regression for one method.

    Attributes:
        weights: one for each of `Signs.features`.
        error: half the width of the interval.
        runs, conditions: how many it was fitted on.
        rank: rank correlation of forecast and outcome over these runs, each forecast without its own condition.
    """

    weights: tuple[float, ...]
    error: float
    runs: int
    conditions: int
    rank: float

    def gain(self, found: Signs) -> Gain:
        """The forecast; what is impossible (below 0 or above 100 % in the end) is cut off."""
        low, high = -found.success, 1 - found.success
        value, *ends = (min(max(at, low), high) for at in (self._at(found) + d for d in (0.0, -self.error, self.error)))
        return Gain(value, *ends)

    def _at(self, found: Signs) -> float:
        return float(np.dot(self.weights, found.features))


def fit(found: Sequence[Signs], gains: Sequence[float], conditions: Sequence[str]) -> Fit:
    """Fit the gains of one method's runs.

    Args:
        found, gains, conditions: of each run: its signs, its gain in held-out accuracy, and the name of its condition.

    Raises:
        UserError: for fewer than `LEAST` conditions.
    """
    unseen = left_out(found, gains, conditions)
    x, y = np.array([one.features for one in found]), np.array(gains)
    error, rank = float(np.quantile(np.abs(y - unseen), COVER)), rank_correlation(unseen, gains)
    return Fit(tuple(map(float, _ridge(x, y))), error, len(y), len(set(conditions)), rank)


def left_out(found: Sequence[Signs], gains: Sequence[float], conditions: Sequence[str]) -> list[float]:
    """The forecast of each run by a regression on the runs of all other conditions (arguments as in `fit`)."""
    names = sorted(set(conditions))
    if len(names) < LEAST:
        raise UserError(f"a forecast is fitted on at least {LEAST} conditions, not on {len(names)}")
    x, y, told = np.array([one.features for one in found]), np.array(gains), np.zeros(len(gains))
    for name in names:
        out = np.array([condition == name for condition in conditions])
        told[out] = x[out] @ _ridge(x[~out], y[~out])
    return told.tolist()


def rank_correlation(told: Sequence[float], measured: Sequence[float]) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN where one side is constant.

    >>> rank_correlation([1, 2, 3], [10, 30, 20])
    0.5
    """
    return round(float(pd.Series(told).rank().corr(pd.Series(measured).rank())), 12)


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    penalty = RIDGE * len(y) * np.diag([0.0] + [1.0] * (x.shape[1] - 1))  # the constant is free
    return np.linalg.solve(x.T @ x + penalty, x.T @ y)


def write(fits: Mapping[str, Fit], path: Path) -> None:
    """Save fits as JSON."""
    path.write_text(json.dumps({name: asdict(one) for name, one in fits.items()}, indent=2) + "\n", encoding="utf-8")


def read(path: Path = BUNDLED) -> dict[str, Fit]:
    """The saved fits: method -> fit.

    Raises:
        UserError: where the file is missing or is no such file.
    """
    names = {field.name for field in fields(Fit)}
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {
            method: Fit(tuple(map(float, one["weights"])), **{n: one[n] for n in names - {"weights"}})
            for method, one in stored.items()
        }
    except (OSError, KeyError, TypeError, AttributeError, *FAULTS) as error:
        raise UserError(f"{path} holds no forecast: {in_one_line(error)}") from error
    width = len(Signs(0, 0, 0, 0, 0, 0, 0).features)
    for method, one in found.items():
        if len(one.weights) != width or not np.isfinite([*one.weights, one.error]).all():
            raise UserError(f"{path}: the weights of {method} are not {width} finite numbers")
    return found
