"""A run that is paused, stepped, changed and resumed: what it computes, what is recorded, what is refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from toy import Parity, equal, toy_model, weights

from vpdlab.config import LIVE, RunConfig
from vpdlab.errors import UserError
from vpdlab.record import Change, RunRecord, load_run
from vpdlab.run import Run

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "e_every": 2, "steps": 5,
    "record_tokens": 2, "alpha": 1.0, "eval_every": -1, "checkpoint_every": 2, "checkpoint_keep": 9,
}  # fmt: skip


def opened(out: Path, record: bool = True, **fields: Any) -> Run:
    config = RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(out))
    return Run.open(config, record=record, task=Parity())


def trained(out: Path, **fields: Any) -> Run:
    run = opened(out, **fields)
    for _ in run.steps():
        pass
    return run


def until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Run:
    """A run that nobody disturbed."""
    return trained(tmp_path_factory.mktemp("whole") / "run")


def test_a_paused_run_computes_the_same(whole, tmp_path):
    run = opened(tmp_path / "run")
    states: list[tuple[str, int]] = []
    run.control.watch(lambda shown: states.append((shown["state"], shown["step"])))
    run.control.pause()
    thread = threading.Thread(target=lambda: list(run.steps()))
    thread.start()
    until(lambda: run.control.waiting)
    assert run.rows == []
    run.control.step()
    until(lambda: len(run.rows) == 1 and run.control.waiting)
    run.control.save()
    until(lambda: run.saved_steps() == [0, 1])
    run.control.step(2)
    until(lambda: len(run.rows) == 3 and run.control.waiting)
    run.control.go_on()
    thread.join(30)
    assert equal(weights(run), weights(whole))
    assert load_run(tmp_path / "run").rollouts() == load_run(whole.config.folder).rollouts()
    assert states[0] == ("ready", 0)
    assert states[-1] == ("complete", 5)
    assert {("paused", 0), ("paused", 1), ("paused", 3), ("running", 3)} <= set(states)
    assert not (tmp_path / "run" / "events.jsonl").exists()


def test_changes_take_effect_at_the_next_iteration_and_are_recorded(tmp_path):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 2:
            run.control.change(lr=5e-4, beta=1.0)
            run.control.change(noise_drop=1.0)
            assert run.control.shown()["pending"] == {"lr": 5e-4, "beta": 1.0, "noise_drop": 1.0}
    record = load_run(tmp_path / "run")
    assert [row["lr"] for row in record.rows] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert [row["beta"] for row in record.rows] == [0.1, 0.1, 1.0, 1.0, 1.0]
    assert [row["signal_share"] for row in record.rows][2:] == [0, 0, 0]
    assert sorted(map(str, record.changes)) == ["beta 0.1 → 1", "lr 0.001 → 0.0005", "noise_drop 0 → 1"]
    assert {change.step for change in record.changes} == {2}
    assert record.config["lr"] == 1e-3
    assert [record.config_at(step)["lr"] for step in (2, 3)] == [1e-3, 5e-4]
    assert [record.config_at(step)["beta"] for step in (2, 3)] == [0.1, 1.0]
    assert (run.begun.lr, run.config.lr) == (1e-3, 5e-4)


def test_e_steps_run_as_often_as_they_are_asked_for(tmp_path):
    run = opened(tmp_path / "run", e_every=0)
    for row in run.steps():
        if row["step"] == 3:
            run.control.change(e_every=1)
    assert [row["e_loss"] is not None for row in run.rows][:3] == [False] * 3
    assert any(row["e_loss"] is not None for row in run.rows[3:])


@pytest.mark.parametrize("saved", [2, 3], ids=["changed right after the checkpoint", "changed before it"])
def test_a_resumed_run_goes_on_with_the_changed_values(tmp_path, saved):
    fields = {"kl_target": 0.01} if saved == 3 else {}
    change = {"lr": 5e-4, "beta": 0.7}
    run = opened(tmp_path / "whole", **fields)
    for row in run.steps():
        if row["step"] == 2:
            run.control.change(**change)
    broken = opened(tmp_path / "broken", **fields)
    for row in broken.steps():
        if row["step"] == 2:
            broken.control.change(**change)
        if row["step"] == 3:
            if saved == 2:
                break  # the newest checkpoint is that of step 2, which was saved before the change
            broken.control.save()
        if row["step"] == 4:
            break
    resumed = trained(tmp_path / "broken", resume=True, **fields)
    assert [row["beta"] for row in resumed.rows] == [row["beta"] for row in run.rows]
    assert [row["lr"] for row in resumed.rows] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert equal(weights(resumed), weights(run))
    assert resumed.config.lr == 5e-4
    changes = load_run(tmp_path / "broken").changes
    assert [(one.step, one.setting) for one in changes] == [(2, "beta"), (2, "lr")]


def test_a_change_after_the_checkpoint_is_lost_with_its_iterations(tmp_path):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 3:
            run.control.change(lr=0.5)
        if row["step"] == 4:
            (tmp_path / "run" / "checkpoints" / "step-000004" / "state.json").write_text("damaged")
            break
    assert [change.step for change in load_run(tmp_path / "run").changes] == [3]
    resumed = trained(tmp_path / "run", resume=True)
    assert [row["lr"] for row in resumed.rows] == [1e-3] * 5
    assert load_run(tmp_path / "run").changes == []


def test_a_checkpoint_whose_changes_were_edited_is_not_used(tmp_path, capsys):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 1:
            run.control.change(lr=5e-4)
        if row["step"] == 4:
            break
    events = tmp_path / "run" / "events.jsonl"
    events.write_text(events.read_text().replace("0.0005", "0.5"))
    resumed = opened(tmp_path / "run", resume=True)
    assert (len(resumed.rows), resumed.config.lr) == (0, 1e-3)  # that of step 0, before any change
    said = capsys.readouterr().out
    assert all(f"step-00000{step} cannot be used: events.jsonl has changed since" in said for step in (2, 4))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 1, "setting": "task", "was": "x", "now": "own"}', "cannot be changed while a run goes on"),
        ('{"step": 1, "setting": "lr", "was": 0.1, "now": "<script>"}', "'now': lr is '<script>'"),
        ('{"step": -1, "setting": "lr", "was": 0.1, "now": 0.2}', "field 'step' is -1"),
        ('{"step": 1, "setting": ["lr"], "was": 0.1, "now": 0.2}', "field 'setting' is"),
        ("[" * 100_000, "nested too deep"),
        ("\udcff", "invalid start byte"),
    ],
)
def test_a_damaged_line_is_named(whole, tmp_path, line, message):
    (tmp_path / "config.json").write_bytes((whole.config.folder / "config.json").read_bytes())
    (tmp_path / "events.jsonl").write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(UserError, match=r"events.jsonl line 1 is damaged") as refused:
        RunRecord(tmp_path).own_changes()
    assert message in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "own"}, "task cannot be changed while a run goes on: it can for"),
        ({"ltr": 1.0}, "there is no setting 'ltr'"),
        ({"lr": -1.0}, "lr is -1.0, but must be between"),
        ({"lr": "fast"}, "lr is 'fast', but must be of type float"),
        ({"noise_drop": 0.8, "noise_shuffle": 0.8}, "noise shares add up to 1.6"),
        ({"e_lr": 0.1}, "e_lr is 0, so the E-step has no optimiser of its own"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_is_pending(tmp_path, fields, message):
    run = opened(tmp_path / "run", record=False)
    with pytest.raises(UserError, match=message):
        run.control.change(**fields)
    assert run.control.shown()["pending"] == {}


def test_what_this_run_reads_is_offered(tmp_path):
    names = [one["name"] for one in opened(tmp_path / "a", record=False).control.shown()["settings"]]
    assert {"lr", "beta", "e_every", "noise_drop"} <= set(names) <= set(LIVE)
    assert not {"e_lr", "teacher_rate", "rl_weight"} & set(names)
    grpo = opened(tmp_path / "b", record=False, method="grpo").control.shown()["settings"]
    assert "e_every" not in [one["name"] for one in grpo]


def test_a_run_stopped_while_paused_is_evaluated_and_saved(tmp_path):
    run = opened(tmp_path / "run", eval_every=0, eval_problems=2, eval_samples=1)
    run.control.step(2)
    thread = threading.Thread(target=lambda: list(run.steps()))
    thread.start()
    until(lambda: run.control.waiting)
    run.control.stop()
    thread.join(30)
    record = load_run(tmp_path / "run")
    assert record.status["state"] == run.control.state == "stopped"
    assert [row["step"] for row in record.eval_rows] == [0, 2]
    assert run.saved_steps()[-1] == 2
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_insisting_on_another_value_is_a_change_too(tmp_path):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 3:
            break
    resumed = trained(tmp_path / "run", resume_anyway=True, lr=5e-4)
    again = load_run(tmp_path / "run")
    assert [row["lr"] for row in resumed.rows] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert [(one.step, one.setting, one.now) for one in again.changes] == [(2, "lr", 5e-4)]
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-000005" / "state.json").read_text())
    assert (state["config"]["lr"], state["changes"][0]["now"]) == (1e-3, 5e-4)


def test_a_listener_that_fails_does_not_end_the_run(tmp_path, capsys):
    run, heard = opened(tmp_path / "run"), []

    def fails(shown: dict[str, Any]) -> None:
        heard.append(shown["step"])
        if shown["step"]:
            raise RuntimeError("nobody home")

    with pytest.raises(TypeError):
        run.control.watch(5)  # type: ignore[arg-type]
    run.control.watch(fails)
    assert len(list(run.steps())) == len(run.rows) > 1
    said = capsys.readouterr().err
    assert heard[-1] == 1 and said.count("RuntimeError: nobody home") == said.count("a listener") == 1


# -- requests that come too late, or are none --------------------------------------------------------------------------

REQUESTS: dict[str, Any] = {
    "pause": lambda control: control.pause(), "step": lambda control: control.step(),
    "go_on": lambda control: control.go_on(), "save": lambda control: control.save(),
    "stop": lambda control: control.stop(), "change": lambda control: control.change(lr=5e-4),
}  # fmt: skip


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=list(REQUESTS))
def test_a_run_that_has_ended_hears_no_request(whole, request_of):
    before = whole.control.shown()
    with pytest.raises(UserError, match=r"the run has ended \(complete\): .*resume") as refused:
        request_of(whole.control)
    assert "\n" not in str(refused.value)
    assert whole.control.shown() == before


def test_a_run_that_failed_before_its_first_iteration_has_ended_too(whole, tmp_path):
    run = opened(tmp_path / "run")
    (tmp_path / "run").rmdir()
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(FileExistsError):
        list(run.steps())
    assert run.control.state == "failed"
    with pytest.raises(UserError, match=r"the run has ended \(failed\)"):
        run.control.go_on()


@pytest.mark.parametrize("count", [1.5, True, "2", None, 0, -1, [2]])
def test_what_is_no_number_of_iterations_is_named(tmp_path, count):
    run = opened(tmp_path / "run", record=False)
    with pytest.raises(UserError, match="count is ") as refused:
        run.control.step(count)
    assert repr(count) in str(refused.value)
    assert run.control.state == "ready"


def test_what_is_asked_in_the_last_iteration_is_done(tmp_path):
    run = opened(tmp_path / "run", checkpoint_every=0)
    for row in run.steps():
        if row["step"] == 5:
            run.control.change(lr=5e-4)
            run.control.save()
    assert run.saved_steps() == [5]
    assert [(one.step, one.setting, one.now) for one in load_run(tmp_path / "run").changes] == [(5, "lr", 5e-4)]
    assert trained(tmp_path / "run", resume=True, steps=6).rows[-1]["lr"] == 5e-4


def paused(run: Run, after: int) -> threading.Thread:
    """A run on a thread of its own, paused after some iterations."""
    run.control.step(after)
    thread = threading.Thread(target=lambda: list(run.steps()))
    thread.start()
    until(lambda: run.control.waiting and len(run.rows) == after)
    return thread


def test_a_change_that_is_taken_back_while_the_run_is_paused_leaves_no_event(whole, tmp_path):
    run = opened(tmp_path / "run")
    thread = paused(run, 2)
    run.control.change(lr=5e-4, beta=1.0)
    time.sleep(0.5)  # the loop looks on meanwhile
    assert run.control.shown()["pending"] == {"lr": 5e-4, "beta": 1.0}
    run.control.change(lr=1e-3)
    assert run.control.shown()["pending"] == {"beta": 1.0}
    run.control.change(beta=0.1)
    assert run.control.shown()["pending"] == {}
    run.control.go_on()
    thread.join(30)
    assert not (tmp_path / "run" / "events.jsonl").exists()
    assert equal(weights(run), weights(whole))


def test_a_checkpoint_saved_while_paused_has_the_changes_made_before_it(tmp_path):
    run = opened(tmp_path / "run")
    thread = paused(run, 1)
    run.control.change(lr=5e-4)
    run.control.save()
    until(lambda: 1 in run.saved_steps() and not run.control.shown()["pending"])
    assert Run.branch(f"{tmp_path / 'run'}@1", str(tmp_path / "b"), {"task": Parity()}).config.lr == 5e-4
    run.control.stop()
    thread.join(30)
    assert [change.now for change in load_run(tmp_path / "run").changes] == [5e-4]


def test_the_record_of_a_run_that_has_ended_is_not_continued(whole, tmp_path):
    lines = (whole.config.folder / "metrics.jsonl").read_bytes()
    count = len(whole.evals)
    with pytest.raises(UserError, match="has ended, and its record with it"):
        whole.evaluate(5)
    with pytest.raises(UserError, match="its run has ended"):
        whole.recorder.change(Change(5, "lr", 1e-3, 5e-4))
    assert len(whole.evals) == count and not (whole.config.folder / "events.jsonl").exists()
    assert (whole.config.folder / "metrics.jsonl").read_bytes() == lines
    assert load_run(whole.config.folder).status["state"] == "complete"


def test_a_checkpoint_that_is_there_already_takes_no_change_along(tmp_path):
    run = opened(tmp_path / "run")
    thread = paused(run, 2)  # which checkpoint_every has saved
    run.control.change(lr=5e-4)
    run.control.save()
    time.sleep(0.5)  # the loop acts meanwhile
    assert run.control.shown()["pending"] == {"lr": 5e-4}
    run.control.change(lr=1e-3)
    run.control.stop()
    thread.join(30)
    assert not (tmp_path / "run" / "events.jsonl").exists()
