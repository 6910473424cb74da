"""Forecasts: signs of a few batches, by hand and on the tiny model, and a regression with an honest interval."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from toy import equal, toy_run, weights

from vpdlab.errors import UserError
from vpdlab.learn.m_step import survey
from vpdlab.learn.methods import METHODS
from vpdlab.study import forecast
from vpdlab.study.forecast import Fit, Signs

PLAIN = Signs(0.1, 0.6, 0.2, 0.5, 0.1, math.nan, 64)


def test_features_by_hand() -> None:
    assert PLAIN.features == pytest.approx((1.0, 0.4, 0.96, 0.5, 0.1))
    assert dataclasses.replace(PLAIN, cosine=math.nan).features[-1] == 0.0


def test_signs_train_nothing_and_are_repeatable(tmp_path) -> None:
    run = toy_run(tmp_path, method="joint")
    before = weights(run)
    found = forecast.signs(run, batches=2)
    assert equal(weights(run), before)
    assert found == forecast.signs(run, batches=2) or math.isnan(found.belief)
    assert 0 <= found.success <= 1 and 0 <= found.teacher <= 1 and 0 <= found.signal <= 1
    assert math.isnan(found.cosine) or -1 <= found.cosine <= 1
    assert found.rollouts == 2 * run.config.prompts * run.config.group
    with pytest.raises(UserError, match="batches is 1"):
        forecast.signs(run, batches=1)


def test_the_gradients_are_those_of_the_methods(tmp_path) -> None:
    """Against torch's own gradient of the loss of one batch."""
    run = toy_run(tmp_path, method="joint")
    batch = run.batch(1)
    for name in ("sdpo", "grpo"):
        ours = forecast._gradient(run, [batch], METHODS[name])
        run.policy.fresh()
        total = torch.zeros(())
        for seen, _, _ in survey(run.learner, batch, METHODS["joint"]):
            total = total + METHODS[name].loss(seen)
        own = [weight for weight in run.policy.model.parameters() if weight.requires_grad]
        grads = torch.autograd.grad(total, own, allow_unused=True)
        wanted = torch.cat(
            [torch.zeros_like(w).flatten() if g is None else g.flatten() for w, g in zip(own, grads, strict=True)]
        )
        assert torch.allclose(ours, wanted.float(), rtol=1e-4, atol=1e-6)


def many(rule, conditions: int = 6, runs: int = 5) -> tuple[list[Signs], list[float], list[str]]:
    rng = np.random.default_rng(0)
    found, gains, names = [], [], []
    for condition in range(conditions):
        for _ in range(runs):
            one = Signs(*rng.uniform(0, 1, 5).tolist(), math.nan, 128)
            found.append(one)
            gains.append(rule(one) + rng.normal(0, 0.01))
            names.append(f"c{condition}")
    return found, gains, names


def test_a_regression_finds_what_decides() -> None:
    found, gains, names = many(lambda one: 0.8 * one.gap)
    fitted = forecast.fit(found, gains, names)
    assert fitted.weights[1] == pytest.approx(0.8, abs=0.3)
    assert (fitted.runs, fitted.conditions) == (30, 6)
    told = [fitted.gain(one).value for one in found]
    assert np.corrcoef(told, np.clip(gains, [-o.success for o in found], [1 - o.success for o in found]))[0, 1] > 0.9


def test_ranks_by_hand() -> None:
    assert forecast.rank_correlation([0.1, 0.2, 0.3], [1, 5, 9]) == 1
    assert forecast.rank_correlation([0.1, 0.2, 0.3], [9, 5, 1]) == -1
    assert forecast.rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(forecast.rank_correlation([1, 1], [1, 2]))


def test_the_interval_comes_from_conditions_that_were_left_out() -> None:
    """Where each condition has an offset of its own, the residuals within the fit would flatter."""
    found, _, names = many(lambda one: 0.0)
    offset = {f"c{n}": (-1) ** n * 0.4 for n in range(6)}
    fitted = forecast.fit(found, [offset[name] for name in names], names)
    assert fitted.error > 0.35
    with pytest.raises(UserError, match="at least 3 conditions, not on 2"):
        forecast.fit(found[:10], [0.0] * 10, ["a"] * 5 + ["b"] * 5)


def test_a_forecast_stays_possible() -> None:
    gain = Fit((5.0, 0, 0, 0, 0), 0.3, 10, 3, 0.5).gain(PLAIN)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.9, 0.9, 0.9))
    gain = Fit((0.0, 0, 0, 0, 0), 0.3, 10, 3, 0.5).gain(PLAIN)
    assert (gain.low, gain.high) == pytest.approx((-0.1, 0.3))


def test_fits_are_saved_and_damage_is_named(tmp_path) -> None:
    path = tmp_path / "fit.json"
    fits = {"sdpo": Fit((0.1, 0.2, 0.3, 0.4, 0.5), 0.2, 12, 4, 0.9)}
    forecast.write(fits, path)
    assert forecast.read(path) == fits
    for text in (
        "{",
        "[]",
        '{"sdpo": {}}',
        '{"sdpo": {"weights": [1], "error": 1, "runs": 1, "conditions": 1, "rank": 1}}',
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=str(path)):
            forecast.read(path)
