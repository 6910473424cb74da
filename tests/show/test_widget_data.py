"""Run records in the form that the widgets take."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpdlab.record import load_run
from vpdlab.show.widget_data import eval_points, lens_records


def test_points_are_accuracies_with_their_intervals() -> None:
    evaluation = {"step": 0, "accuracy": 0.25, "accuracy_low": 0.15, "accuracy_high": 0.35}
    assert eval_points([evaluation]) == [{"step": 0, "accuracy": 0.25, "low": 0.15, "high": 0.35}]
    assert eval_points([]) == []


def test_the_lens_takes_the_beta_that_each_step_used() -> None:
    records = [{"step": 1, "response_ids": None}, {"step": 3, "response_ids": None}, {"step": 9, "response_ids": None}]
    assert [item["beta"] for item in lens_records(records, beta={1: 0.1, 3: 0.4})] == [0.1, 0.4, None]
    assert [item["beta"] for item in lens_records(records, beta=0.2)] == [0.2, 0.2, 0.2]


def test_a_run_knows_the_betas_of_its_steps(tmp_path: Path) -> None:
    from toy import toy_run

    run = toy_run(record=True, out=str(tmp_path / "run"), beta=0.1, kl_target=1e-9, eval_every=-1, steps=3)
    list(run.steps())
    record = load_run(tmp_path / "run")
    betas = record.betas
    assert betas[1] == 0.1 == record.config["beta"]
    assert betas[3] > betas[1]
    (item, *_) = lens_records(record.rollouts(3), beta=betas)
    assert item["beta"] == betas[3]
    row = next(row for row in record.rollouts(3) if row["implicit_reward"] is not None)
    assert row["implicit_reward"] == pytest.approx(betas[3] * (row["teacher_sum"] - row["student_sum"]))
