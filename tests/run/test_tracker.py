"""Trackers: what they are told, that a failing one ends nothing, and that accelerate's global state is left alone."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import PartialState
from toy import Parity, toy_run

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import load_run


class FakeRun:
    """What `wandb.init` and `trackio.init` return, as far as accelerate looks at it."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.settings: dict[str, Any] = {}
        self.how: dict[str, Any] = {}
        self.finished, self.fails_at = 0, -1

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if step is not None and step == self.fails_at:
            raise ConnectionError("no route")
        self.logged.append((step or 0, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def fake(request, monkeypatch) -> tuple[str, FakeRun]:
    """A tracker's package with nothing in it but what accelerate calls."""
    run, module = FakeRun(), types.ModuleType(request.param)
    module.__spec__ = types.SimpleNamespace(name=request.param)  # type: ignore[assignment]

    def init(**how):
        run.how = how
        return run

    def update(values, allow_val_change):
        run.settings = values

    module.init, module.config = init, types.SimpleNamespace(update=update)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, run


def run_with(tracker: str, out: Path, **fields: Any) -> Any:
    PartialState._reset_state()
    run = toy_run(record=True, out=str(out), tracker=tracker, device="cpu", eval_every=2, steps=3, **fields)
    list(run.steps())
    assert PartialState._shared_state == {}
    return run


def test_a_tracker_hears_every_line(fake, tmp_path):
    name, told = fake
    run = run_with(name, tmp_path / "mine")
    assert told.how["project"] == "vpdlab" and told.how["name"] == "mine" and told.how["resume"] == "never"
    assert told.finished == 1
    assert told.settings["lr"] == 1e-3 and told.settings["feedback"] == "verifier"
    rows = [values for _, values in told.logged if "kl" in values]
    assert [values["kl"] for values in rows] == [row["kl"] for row in run.rows]
    assert [step for step, values in told.logged if "eval/accuracy" in values] == [0, 2, 3]
    assert all(isinstance(v, int | float) for _, values in told.logged for v in values.values())


def test_a_tracker_that_fails_is_left_behind_and_the_run_goes_on(fake, tmp_path, capsys):
    name, told = fake
    told.fails_at = 2
    run_with(name, tmp_path / "run")
    err = capsys.readouterr().err
    assert err.count("failed and was disabled at step 2: ConnectionError('no route')") == 1
    assert [row["step"] for row in load_run(tmp_path / "run").rows] == [1, 2, 3]
    assert load_run(tmp_path / "run").status["state"] == "complete"
    assert max(step for step, _ in told.logged) == 1


def test_a_global_state_that_was_there_stays(fake, tmp_path):
    state = PartialState(cpu=True)
    try:
        before = dict(PartialState._shared_state)
        run = toy_run(record=True, out=str(tmp_path / "run"), tracker=fake[0], device="cpu", steps=1)
        list(run.steps())
        assert PartialState._shared_state == before and state.num_processes == 1
    finally:
        PartialState._reset_state()


def test_without_one_nothing_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate.tracking", None)
    list(toy_run(record=True, out=str(tmp_path / "run"), steps=1).steps())


def test_a_tracker_that_is_not_here_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("vpdlab.run.tracker.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="tracker wandb needs a package that is not installed: pip install wandb"):
        toy_run(tracker="wandb")
    with pytest.raises(UserError, match="tracker is 'mlflow': choose one of tensorboard, trackio, wandb"):
        RunConfig(tracker="mlflow")


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra of its own")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_with("tensorboard", tmp_path / "run", checkpoint_every=2)
    again = toy_run(
        record=True, out=str(tmp_path / "run"), tracker="tensorboard", device="cpu", eval_every=2, steps=4,
        resume_anyway=True, checkpoint_every=2,
    )  # fmt: skip
    list(again.steps())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("kl")
    assert [point.step for point in scalars] == [1, 2, 3, 4]
    assert [point.value for point in scalars][:3] == pytest.approx([row["kl"] for row in run.rows], rel=1e-6)
    PartialState._reset_state()


def test_a_tracker_hears_the_probes_of_the_task(fake, tmp_path):
    name, told = fake
    task = Parity()
    task.probes = lambda reader: {"belief/Ada": 0.5, "unknown": None}  # type: ignore[attr-defined]
    run_with(name, tmp_path / "mine", task=task)
    heard = [values for _, values in told.logged if "eval/accuracy" in values]
    assert [values["eval/probes/belief/Ada"] for values in heard] == [0.5] * 3
    assert not any("eval/probes/unknown" in values for values in heard)
