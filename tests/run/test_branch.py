"""Branches: begun with another run's checkpoint, equal to it without a change, and never at its expense."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy import Parity, equal, weights

from vpdlab import cli
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import load_run
from vpdlab.run import Run, branch
from vpdlab.show.widget_data import change_marks, compared_runs

TOUR = {
    "steps": 4,
    "prompts": 2,
    "group": 3,
    "eval_every": -1,
    "checkpoint_every": 2,
    "checkpoint_keep": 9,
    "record_tokens": 2,
}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run of four iterations with checkpoints of 0, 2 and 4, whose lr was changed after the first."""
    folder = tmp_path_factory.mktemp("original") / "x"
    run = Run.open(RunConfig.make("tour-common", **TOUR, out=str(folder)))
    for row in run.steps():
        if row["step"] == 1:
            run.control.change(lr=5e-4)
    return folder


@pytest.fixture
def x(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "x"))


def finished(run: Run) -> Run:
    for _ in run.steps():
        pass
    return run


def test_without_a_change_it_goes_on_as_the_original(x, tmp_path):
    before = bytes_of(x)
    run = finished(Run.branch(f"{x}@2", out=str(tmp_path / "y")))
    other = tmp_path / "y"
    assert bytes_of(x) == before
    final = "final/model.safetensors"
    assert (other / final).read_bytes() == (x / final).read_bytes()
    one, two = load_run(x), load_run(other)
    assert two.rollouts() == one.rollouts()
    timeless = [{k: v for k, v in row.items() if "seconds" not in k and "peak" not in k} for row in two.rows]
    assert timeless == [{k: row[k] for k in timeless[0]} for row in one.rows]
    assert two.status["state"] == "complete"
    assert run.origin is not None
    assert (run.origin.run, run.origin.step) == ("x", 2)


def test_a_change_is_recorded_with_what_was_before(x, tmp_path):
    run = Run.branch(f"{x}@2", out=str(tmp_path / "y"), beta=1.0)
    for row in run.steps():
        if row["step"] == 3:
            run.control.change(beta=2.0)
    record = load_run(tmp_path / "y")
    assert [row["beta"] for row in record.rows] == [0.1, 0.1, 1.0, 2.0]
    assert [row["lr"] for row in record.rows] == [1e-4, 5e-4, 5e-4, 5e-4]
    assert [(one.step, str(one)) for one in record.changes] == [
        (1, "lr 0.0001 → 0.0005"), (2, "beta 0.1 → 1"), (3, "beta 1 → 2")
    ]  # fmt: skip
    assert (record.config["beta"], record.config["lr"]) == (1.0, 5e-4)
    assert [record.config_at(step)["beta"] for step in (1, 2, 3, 4)] == [0.1, 0.1, 1.0, 2.0]
    assert [record.config_at(step)["lr"] for step in (1, 2)] == [1e-4, 5e-4]
    marks = change_marks(record.changes, record.origin)
    assert {"step": 2, "text": "branched from x"} in marks
    compared = compared_runs([load_run(x), record])
    assert [one["method"] for one in compared] == ["vpd", "vpd from 2: beta 1"]
    assert [one["origin"] for one in compared] == [None, {"run": "x", "step": 2}]


def test_a_branch_can_be_resumed_and_branched_again(x, tmp_path):
    run = Run.branch(f"{x}@2", out=str(tmp_path / "y"), e_every=1, steps=6)
    for row in run.steps():
        if row["step"] == 5:
            break
    resumed = finished(Run.open(run.config.but(resume=True)))
    whole = finished(Run.branch(f"{x}@2", out=str(tmp_path / "whole"), e_every=1, steps=6))
    assert equal(weights(resumed), weights(whole))
    again = finished(Run.branch(f"{tmp_path / 'y'}@4", out=str(tmp_path / "z"), noise_drop=0.5))
    assert again.origin is not None
    assert again.origin.before is not None
    assert (again.origin.run, again.origin.step, again.origin.before.run) == ("y", 4, "x")
    assert [str(one) for one in load_run(tmp_path / "z").changes] == [
        "lr 0.0001 → 0.0005", "steps 4 → 6", "e_every 5 → 1", "noise_drop 0 → 0.5"
    ]  # fmt: skip


def test_other_problems_may_be_learned_from_the_fork_on(x, tmp_path):
    run = finished(Run.branch(f"{x}@4", out=str(tmp_path / "y"), steps=5, task_args=("digits=3",)))
    assert "3 digits" in run.task.summary
    assert [one.setting for one in load_run(tmp_path / "y").changes if one.step == 4] == ["task_args", "steps"]


def test_parts_of_ones_own_are_handed_in_again(tmp_path):
    config = RunConfig.make("tour-common", **TOUR, out=str(tmp_path / "x"))
    finished(Run.open(config, task=Parity()))
    with pytest.raises(UserError, match="passed from Python"):
        Run.branch(f"{tmp_path / 'x'}@2", out=str(tmp_path / "y"))
    assert not (tmp_path / "y").exists()
    run = finished(Run.branch(f"{tmp_path / 'x'}@2", out=str(tmp_path / "y"), parts={"task": Parity()}))
    assert run.task.name == "parity"


@pytest.mark.parametrize(
    ("place", "fields", "message"),
    [
        ("@3", {}, "has no checkpoint of step 3: it has 0, 2, 4"),
        ("@two", {}, "write RUN@STEP"),
        ("/rollouts", {}, "holds no run"),
        ("@2", {"betta": 1.0}, "there is no setting 'betta'"),
        ("@2", {"e_lr": 0.1}, "holds no e-optimizer: it was saved with other settings"),
        ("@2", {"model": "reader"}, "model is reader, but the weights at .*step-000002 are of model apprentice"),
        ("@4", {"steps": 3}, "steps is 3, but the branch begins after step 4"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(x, tmp_path, place, fields, message):
    with pytest.raises(UserError, match=message):
        Run.branch(f"{x}{place}", out=str(tmp_path / "y"), **fields)
    assert not (tmp_path / "y").exists()


def test_a_folder_with_a_run_is_not_branched_into(x):
    before = bytes_of(x)
    with pytest.raises(UserError, match="already holds a run"):
        Run.branch(f"{x}@2", out=str(x))
    assert bytes_of(x) == before


@pytest.mark.parametrize("place", ["x/y", "x/checkpoints/y", "x/../x/rollouts/a/b", "link/y"])
def test_a_branch_is_not_written_into_the_folder_of_its_original(x, place):
    (x.parent / "link").symlink_to(x)
    before = bytes_of(x)
    with pytest.raises(UserError, match=r"lies in the folder of the run .*/x: choose another folder"):
        Run.branch(f"{x}@2", out=str(x.parent / place))
    assert bytes_of(x) == before


def test_no_run_is_written_into_the_folder_of_another(x):
    before = bytes_of(x)
    for config in (RunConfig.make("tour-common", **TOUR, out=str(x / "new")),
                   RunConfig.make("tour-common", **TOUR, out=str(x / "new"), resume=True)):  # fmt: skip
        with pytest.raises(UserError, match="lies in the folder of the run"):
            Run.open(config)
    assert bytes_of(x) == before


def test_a_run_may_be_named_by_a_path_and_by_nothing_else(x, tmp_path):
    assert Run.branch(x, out=str(tmp_path / "y")).resumed is not None
    for place in (None, 3, ["runs/x"]):
        with pytest.raises(UserError, match="the run to branch is "):
            Run.branch(place)  # type: ignore[arg-type]


def test_a_damaged_or_edited_checkpoint_is_named(x, tmp_path):
    state = x / "checkpoints" / "step-000002" / "state.json"
    state.write_text(state.read_text().replace('"beta": 0.1', '"beta": 9.9'))
    with pytest.raises(UserError, match=r"step-000002 cannot be used: state.json"):
        Run.branch(f"{x}@2", out=str(tmp_path / "y"))
    assert branch.find_fork(str(x)).step == 4


def test_rollouts_that_cannot_be_read_are_left_out(x, tmp_path, capsys):
    (x / "rollouts" / "step-000001.parquet").write_bytes(b"PAR1 no parquet PAR1")
    Run.branch(f"{x}@2", out=str(tmp_path / "y"))
    assert load_run(tmp_path / "y").steps == [2]
    assert "the rollouts of steps 1 to 1 are left out" in capsys.readouterr().err


@pytest.mark.parametrize("origin", [3, {"run": "a"}, {"run": "\x1b[31m", "step": 1, "changes": [], "before": None},
                                    {"run": "a", "step": 1, "changes": [{"step": 1}], "before": None}])  # fmt: skip
def test_an_origin_that_is_none_is_named(x, origin):
    path = x / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"origin": origin}))
    with pytest.raises(UserError, match=r"environment.json cannot be read: field 'origin'"):
        _ = load_run(x).origin


# -- the command -------------------------------------------------------------------------------------------------------


def command(folder: Path, *words: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "vpdlab", "train", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_command_branches_and_says_what_is_wrong(x, tmp_path):
    done = command(tmp_path, "--from", "x@2", "--beta", "1", "--out", "y")
    assert done.returncode == 0, done.stderr
    assert load_run(tmp_path / "y").config["beta"] == 1.0
    assert [row["beta"] for row in load_run(tmp_path / "y").rows] == [0.1, 0.1, 1.0, 1.0]
    wrong = command(tmp_path, "--from", "x@3", "--beta", "1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "vpdlab: x has no checkpoint of step 3: it has 0, 2, 4\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "{x}@2", "--resume"], "leave --resume out"),
        (["--from", "{x}@2", "--preset", "words"], "leave --preset out"),
        (["--from="], "--from is empty"),
        (["--from"], "expected one argument"),
    ],
)
def test_options_that_contradict_are_refused(original, capsys, words, message):
    assert cli.main(["train", *(word.format(x=original) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_recorded_settings_that_run_code_are_asked_for(x, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = x / "checkpoints" / "step-000002" / "state.json"
    found = json.loads(state.read_text())
    found["config"] |= {"task": "own", "task_args": ["verify=evil.py:verify"], "data": "x.jsonl"}
    state.write_text(json.dumps(found))
    from vpdlab import manifest

    manifest.write(state.parent)
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")
    assert cli.main(["train", "--from", f"{x}@2", "--out", "y"]) == 2
    assert "which runs that code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "y").exists()


def test_the_default_folder_is_beside_the_original(x, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--from", f"{x}@4", "--steps", "5"]) == 0
    assert load_run(tmp_path / "x-from-4").status["step"] == 5
