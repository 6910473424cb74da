"""Checkpoints: a resumed run is the run that was never disturbed; a damaged checkpoint is named; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from places import TESTS
from toy import Parity, equal, toy_model, weights

from vpdlab import cli
from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.feedback.endpoint import Budget
from vpdlab.learn.m_step import Method
from vpdlab.learn.methods import METHODS, distillation
from vpdlab.record import METRICS, load_run, rollouts
from vpdlab.run import Run, checkpoint, train
from vpdlab.run.checkpoint import Checkpoints, Saved
from vpdlab.run.resume import FREE, locked

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "e_every": 1, "steps": 4,
    "eval_problems": 2, "eval_samples": 2, "record_tokens": 2, "alpha": 1.0, "eval_every": 2, "eval_teacher": False,
    "checkpoint_every": 2,
}  # fmt: skip
CARRIED = ("beta", "shift", "spent", "inputs", "random")
TIMED = {name for name in METRICS if name.startswith(("seconds", "peak"))}


def opened(out: Path, **fields: Any) -> Run:
    return Run.open(RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(out)), task=Parity())


def trained(out: Path, stop: int = 0, **fields: Any) -> Run:
    """A run to its end, or left after iteration `stop`."""
    run = opened(out, **fields)
    for row in run.steps():
        if row["step"] == stop:
            break
    return run


def stir(number: int = 12345) -> None:
    """Generators as another process has them."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(number)


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in {*TIMED, "seconds"}} for row in rows]


def sums(out: Path, step: int) -> dict[str, str]:
    """Sums of all tensors of a checkpoint, by file."""
    files = json.loads((out / "checkpoints" / f"step-{step:06d}" / "manifest.json").read_text())["files"]
    return {name: file["sha256"] for name, file in files.items() if name != "state.json"}


def same(one: Path, other: Path, step: int = 4, carried: tuple[str, ...] = CARRIED) -> None:
    """Both runs hold the same, to the last bit of weights, moments, copies and generators."""
    assert sums(one, step) == sums(other, step)
    a, b = load_run(one), load_run(other)
    assert untimed(a.rows) == untimed(b.rows)
    assert untimed(a.eval_rows) == untimed(b.eval_rows)
    assert a.rollouts() == b.rollouts()
    assert a.status["state"] == b.status["state"] == "complete"
    states = [json.loads((out / "checkpoints" / f"step-{step:06d}" / "state.json").read_text()) for out in (one, other)]
    for name in carried:
        assert states[0][name] == states[1][name]


# -- a resumed run is the same run -------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    **{teacher: {"teacher": teacher} for teacher in ("shared", "ema", "snapshot", "frozen", "trust-region", "adapter")},
    "grpo": {"method": "grpo"},
    "grpo near its average": {"method": "grpo", "kl_coef": 0.1},
    "reweight": {"method": "reweight", "teacher": "ema"},
    "lora and adapter": {"lora_rank": 2, "teacher": "adapter", "e_lr": 1e-3},
    "two optimisers": {"e_lr": 1e-3, "e_minibatch": 1},
    "fixed anchor": {"anchor": "fixed"},
    "own responses": {"e_sample": "teacher", "teacher": "ema"},
    "e-steps stop": {"e_patience": 1, "eval_every": 1, "eval_teacher": True},
    "beta follows": {"kl_target": 0.01, "shift": "ema", "warmup": 3},
    "frozen critic": {"feedback": ["critique"], "critic": "frozen", "critic_max_tokens": 4},
}
MORE: dict[str, dict[str, Any]] = {
    **{
        name: {"method": name, "teacher": "ema"}
        for name in ("sdpo", "joint", "sdar", "distil", "reshape", "rft", "nsr", "rltf")
    },
    "pi-distill": {"method": "pi-distill"},
    "opsd": {"method": "opsd", "teacher": "frozen", "feedback": ["reference"]},
    "lora": {"lora_rank": 2, "teacher": "ema", "anchor": "fixed"},
    "learning critic": {"feedback": ["critique"], "critic_learns": True, "critic_max_tokens": 4},
    "noise": {"noise_drop": 0.2, "noise_shuffle": 0.3},
    "bfloat16": {"precision": "bfloat16"},
    "kto, sequence mean": {"e_objective": "kto", "aggregate": "sequence", "teacher": "snapshot"},
}


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, kind):
    """Left after iteration 3, so that it goes back to 2: what was recorded of 3 happens again."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    fields = {"steps": 3, "eval_every": -1, **(KINDS | MORE)[kind]}
    stir(1)
    run = trained(whole, **fields)
    stir(1)
    trained(broken, stop=3, **fields)
    stir(2)
    again = trained(broken, resume=True, **fields)
    assert again.resumed is not None and again.resumed.step == 2
    assert equal(weights(run), weights(again))
    assert sums(whole, 2)["student.safetensors"] != sums(whole, 3)["student.safetensors"]
    same(whole, broken, step=3)


def test_a_resumed_run_with_merged_rollouts_is_the_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "MERGED", 2)
    stir(1)
    trained(tmp_path / "whole", steps=6, checkpoint_every=3)
    stir(1)
    trained(tmp_path / "broken", stop=5, steps=6, checkpoint_every=3)  # steps 3 and 4 lie in one file
    assert (tmp_path / "broken" / "rollouts" / "steps-000003-000004.parquet").exists()
    stir(2)
    trained(tmp_path / "broken", resume=True, steps=6, checkpoint_every=3)
    same(tmp_path / "whole", tmp_path / "broken", step=6)


def test_the_global_generators_go_on_too(tmp_path, monkeypatch):
    """Nothing here draws from them, but a task or a method of one's own may."""

    def noisy(seen):
        drawn = torch.rand(()) + random.random() + np.random.random()
        return distillation(seen) * float(drawn)

    monkeypatch.setitem(METHODS, "noisy", Method("noisy", "", noisy))
    for name, stop in (("whole", 0), ("broken", 3)):
        stir(1)
        trained(tmp_path / name, stop=stop, method="noisy")
    stir(2)
    trained(tmp_path / "broken", resume=True, method="noisy")
    same(tmp_path / "whole", tmp_path / "broken")


def test_a_run_that_is_stopped_gently_goes_on_without_asking_for_checkpoints(tmp_path):
    trained(tmp_path / "whole", checkpoint_every=4)
    run, rows = opened(tmp_path / "run", checkpoint_every=0), []
    for row in run.steps():
        rows.append(row)
        if row["step"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
    assert load_run(tmp_path / "run").status["state"] == "stopped"
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [1]
    trained(tmp_path / "run", resume=True, checkpoint_every=4)
    assert sums(tmp_path / "run", 4) == sums(tmp_path / "whole", 4)
    assert [row["step"] for row in load_run(tmp_path / "run").rows] == [1, 2, 3, 4]


def test_a_complete_run_may_be_made_longer(tmp_path):
    trained(tmp_path / "whole")
    trained(tmp_path / "run", steps=2)
    again = trained(tmp_path / "run", steps=4, resume=True)
    assert equal(weights(again), weights(Run.open(RunConfig.make(model=str(tmp_path / "whole" / "final")), False)))
    done = trained(tmp_path / "run", steps=4, resume=True)  # nothing is left to do, and that is no error
    assert [row["step"] for row in done.rows] == [1, 2, 3, 4]
    assert load_run(tmp_path / "run").status["state"] == "complete"
    with pytest.raises(UserError, match="steps is 3, but .*run is at step 4 already"):
        opened(tmp_path / "run", steps=3, resume=True)


def test_resume_begins_where_there_is_no_run_yet(tmp_path, capsys):
    trained(tmp_path / "run", resume=True)
    assert "holds no run yet: starting a new one" in capsys.readouterr().out
    config = load_run(tmp_path / "run").config
    assert config["resume"] is False  # it is no property of the run


def test_the_environment_of_each_resume_is_recorded(tmp_path):
    trained(tmp_path / "run", stop=3)
    started = load_run(tmp_path / "run").status["started"]
    trained(tmp_path / "run", resume=True)
    record = load_run(tmp_path / "run")
    assert [entry["step"] for entry in record.environment["resumed"]] == [2]
    assert record.environment["resumed"][0]["environment"]["packages"] == record.environment["packages"]
    assert record.status["started"] == started and record.status["final"] == 4


def test_what_a_critics_server_was_asked_counts_on(tmp_path):
    run = opened(tmp_path / "run", feedback=["critique"], critic_max_tokens=4)
    run.critic.critic.budget = Budget(run.config.critic_calls - 5, run.config.critic_tokens - 700)
    train._open_record(run)
    saved = Checkpoints(tmp_path / "run" / "checkpoints").read(0)
    assert isinstance(saved, Saved) and saved.state["spent"] == {"calls": 5, "tokens": 700}
    again = opened(tmp_path / "two", feedback=["critique"], critic_max_tokens=4, critic_calls=100)
    again.critic.critic.budget = Budget(100, again.config.critic_tokens)
    again.keeper().load(saved)
    assert again.critic.critic.budget.calls == 95


# -- what must be the same ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """A run left after iteration 4 of 6, with checkpoints of 2 and 4."""
    out = tmp_path_factory.mktemp("left") / "run"
    stir(1)
    trained(out, stop=4, steps=6, checkpoint_keep=2)
    return out


@pytest.fixture
def run_folder(left, tmp_path) -> Path:
    return Path(shutil.copytree(left, tmp_path / "run"))


def test_other_settings_are_named_and_may_be_insisted_on(run_folder):
    with pytest.raises(UserError) as refused:
        opened(run_folder, resume=True, steps=6, lr=5e-4, feedback=["verifier", "sibling"], seed=3)
    message = str(refused.value)
    assert "began with seed 0 (now 3), feedback verifier (now verifier sibling), lr 0.001 (now 0.0005)" in message
    assert "\n" not in message and "--resume-anyway" in message
    run = trained(run_folder, resume_anyway=True, steps=6, lr=5e-4)
    assert [row["lr"] for row in run.rows] == [1e-3] * 4 + [5e-4] * 2
    record = load_run(run_folder)
    assert record.config["lr"] == 1e-3  # what it began with; the change is recorded beside it
    assert [(change.step, change.setting, change.now) for change in record.changes] == [(4, "lr", 5e-4)]
    assert [record.config_at(step)["lr"] for step in (4, 5)] == [1e-3, 5e-4]


def test_settings_that_only_say_how_may_change(run_folder):
    run = trained(
        run_folder, resume=True, steps=5, eval_every=-1, checkpoint_every=1, minibatch_tokens=50, record_tokens=0,
        threads=1, sampler_rows=2,
    )  # fmt: skip
    assert len(run.rows) == 5
    assert [row["step"] for row in run.evals] == [0, 2, 4]
    assert set(RunConfig().to_dict()) >= FREE


def test_evaluations_that_begin_late_do_not_claim_the_start(tmp_path):
    trained(tmp_path / "run", steps=2, eval_every=-1)
    run = trained(tmp_path / "run", steps=4, eval_every=1, resume=True)
    assert [row["step"] for row in run.evals] == [3, 4]


def test_a_schedule_over_the_whole_run_pins_its_length(tmp_path):
    trained(tmp_path / "run", stop=2, method="reweight")
    with pytest.raises(UserError, match=r"began with steps 4 \(now 9\)"):
        opened(tmp_path / "run", resume=True, method="reweight", steps=9)
    opened(tmp_path / "run", resume_anyway=True, method="reweight", steps=9)


def test_a_teacher_that_was_not_saved_cannot_be_insisted_on(run_folder):
    with pytest.raises(UserError, match="holds no teacher-copy: it was saved with other settings"):
        opened(run_folder, resume_anyway=True, steps=6, teacher="ema")


def test_problems_and_templates_must_be_the_same(run_folder, tmp_path):
    class Other(Parity):
        def load(self, split):
            return super().load(split)[::-1]

    (tmp_path / "mine.yaml").write_text("feedback: |2\n\n  Hint: {text}\n")
    config = RunConfig.make(model=toy_model(), **SMALL | {"steps": 6}, out=str(run_folder), resume=True)
    with pytest.raises(UserError, match="began with other problems .*: their content has changed since"):
        Run.open(config, task=Other())
    with pytest.raises(UserError, match=r"began with templates '' \(now .*mine.yaml\)"):
        opened(run_folder, resume=True, steps=6, templates=str(tmp_path / "mine.yaml"))
    config = RunConfig.make(**config.to_dict() | {"resume_anyway": True})
    assert Run.open(config, task=Other()).resumed is not None


def test_a_base_under_an_adapter_must_be_the_same(tmp_path):
    model = Path(shutil.copytree(toy_model(), tmp_path / "model"))
    fields = {"model": str(model), "lora_rank": 2}
    trained(tmp_path / "run", stop=2, **fields)
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="began with other base weights"):
        opened(tmp_path / "run", resume=True, **fields)


def test_other_versions_are_said(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("vpdlab.run.environment.versions", lambda: {"torch": "9.9"})
    opened(run_folder, resume=True, steps=6)
    assert "torch 2" in (said := capsys.readouterr().out) and "(now 9.9): results may not be bit-identical" in said


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1  # in the last tensor: both safetensors and torch would read it without a word
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit": (lambda new, old: flip(new / "student.safetensors"), "student.safetensors is not what was"),
    "a truncated file": (lambda new, old: os.truncate(new / "optimizer.safetensors", 99), "has 99 bytes instead of"),
    "a lost file": (lambda new, old: (new / "random.safetensors").unlink(), "random.safetensors is missing"),
    "no manifest": (lambda new, old: (new / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda new, old: os.truncate(new / "manifest.json", 60), "manifest.json is damaged"),
    "an empty manifest": (lambda new, old: (new / "manifest.json").write_text('{"files": {}}'), "is damaged"),
    "another state": (lambda new, old: flip(new / "state.json"), "state.json is not what was written"),
    "a file of another": (
        lambda new, old: shutil.copy(old / "optimizer.safetensors", new), "optimizer.safetensors is not what was",
    ),
    "another checkpoint": (
        lambda new, old: (shutil.rmtree(new), shutil.copytree(old, new)), "it is that of step 2",
    ),
    "a folder for a file": (
        lambda new, old: ((new / "state.json").unlink(), (new / "state.json").mkdir()), "state.json is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_stepped_back_from(run_folder, capsys, damage):
    place = run_folder / "checkpoints"
    hurt, reason = DAMAGES[damage]
    hurt(place / "step-000004", place / "step-000002")
    run = opened(run_folder, resume=True, steps=6)
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if "cannot be used" in line]
    assert line.startswith(f"{place / 'step-000004'} cannot be used: ") and reason in line
    assert "resuming from step 2" in said
    assert run.resumed is not None and run.resumed.step == 2 and len(run.rows) == 2


def test_a_run_that_stepped_back_ends_as_the_undisturbed_one(run_folder, tmp_path):
    stir(1)
    trained(tmp_path / "whole", steps=6)
    flip(run_folder / "checkpoints" / "step-000004" / "student.safetensors")
    trained(run_folder, resume=True, steps=6)
    same(tmp_path / "whole", run_folder, step=6)
    assert (run_folder / "checkpoints" / "rejected-step-000004").is_dir()  # not deleted: it may be of use to someone
    assert Checkpoints(run_folder / "checkpoints").steps() == [6, 4]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


def test_without_a_whole_checkpoint_it_refuses_and_touches_nothing(run_folder, capsys):
    for step in (2, 4):
        flip(run_folder / "checkpoints" / f"step-{step:06d}" / "student.safetensors")
    before = contents(run_folder)
    args = ["train", "--resume", "--out", str(run_folder), "--steps", "6"]
    assert cli.main(args) == 2
    err = capsys.readouterr().err.strip()
    assert "\n" not in err and "none of its checkpoints can be used" in err
    assert err.count("student.safetensors is not what was written") == 2 and "nothing was changed" in err
    assert contents(run_folder) == before


def test_a_run_without_any_checkpoint_is_not_begun_anew(tmp_path):
    trained(tmp_path / "run", stop=2, checkpoint_every=0)
    before = contents(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"holds a run \(stopped at step 2\) that cannot be resumed, since it has no ch"
    ):
        opened(tmp_path / "run", resume=True, checkpoint_every=0)
    assert contents(tmp_path / "run") == before


def test_a_record_shorter_than_its_checkpoint_steps_back_too(run_folder, capsys):
    lines = (run_folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run_folder / "metrics.jsonl").write_bytes(b"".join(lines[:3]))
    run = opened(run_folder, resume=True, steps=6)
    assert "step-000004 cannot be used: metrics.jsonl has" in capsys.readouterr().out
    assert len(run.rows) == 2


def test_a_half_written_line_and_later_rollouts_are_cut(run_folder):
    for name in ("metrics.jsonl", "eval.jsonl"):
        with (run_folder / name).open("ab") as file:
            file.write(b'{"step": 5, "rew')
    shutil.copy(run_folder / "rollouts" / "step-000004.parquet", run_folder / "rollouts" / "step-000009.parquet")
    (run_folder / "rollouts" / ".step-000005.parquet.new").write_bytes(b"PAR1")
    run = opened(run_folder, resume=True, steps=6)
    for row in run.steps():
        assert load_run(run_folder).steps == [1, 2, 3, 4] if row["step"] == 4 else True
    record = load_run(run_folder)
    assert [row["step"] for row in record.rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in record.eval_rows] == [0, 2, 4, 6]
    assert record.steps == [1, 2, 3, 4, 5, 6]
    assert list((run_folder / "rollouts").glob(".*")) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts", "checkpoints"])
def test_what_an_earlier_run_left_is_not_mixed_with_a_new_one(run_folder, name):
    for path in [*run_folder.iterdir()]:
        if path.name != name:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(run_folder)
    with pytest.raises(UserError, match=f"holds {name}.* of an earlier run, but no config.json: choose another folder"):
        opened(run_folder)
    assert contents(run_folder) == before


def test_a_checkpoint_is_enough_without_config_and_status(run_folder):
    for name in ("config.json", "status.json", "environment.json"):
        (run_folder / name).unlink()
    trained(run_folder, resume=True, steps=6)
    assert load_run(run_folder).status["state"] == "complete"


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_the_second_of_two_is_refused(run_folder):
    first, second = (opened(run_folder, resume=True, steps=6) for _ in range(2))
    going = first.steps()
    next(going)
    with pytest.raises(UserError, match=f"is being written by process {os.getpid()}: wait for it"):
        opened(run_folder, resume=True, steps=6)
    with pytest.raises(UserError, match="is being written by process"):
        next(second.steps())
    going.close()
    trained(run_folder, resume=True, steps=6)
    with pytest.raises(UserError, match="has changed since it was opened: open it again"):
        next(opened_before(run_folder, second).steps())


def opened_before(folder: Path, run: Run) -> Run:
    """The same run, as if its first try had not been refused."""
    run.started = False
    return run


def test_a_process_that_dies_lets_go(tmp_path):
    program = (
        "import sys, time, pathlib; from vpdlab.run.resume import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"written by process {process.pid}"), locked(tmp_path / "run"):
            pass
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path / "run"):
        pass


# -- a disk that is full -----------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    real = checkpoint._write

    def full(folder, groups, state):
        real(folder, {"student": groups["student"]}, state)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = opened(tmp_path / "run")
    with pytest.raises(RunFailed) as failed:
        for row in run.steps():
            if row["step"] == 3:
                monkeypatch.setattr(checkpoint, "_write", full)
    assert "cannot write the checkpoint" in str(failed.value) and "No space left on device" in str(failed.value)
    assert "that of step 2 is as it was" in str(failed.value) and "\n" not in str(failed.value)
    status = load_run(tmp_path / "run").status
    assert status["state"] == "failed" and "No space left" in status["reason"]
    assert list((tmp_path / "run" / "checkpoints").glob(".*")) == []
    monkeypatch.setattr(checkpoint, "_write", real)
    trained(tmp_path / "whole")
    trained(tmp_path / "run", resume=True)
    same(tmp_path / "whole", tmp_path / "run", carried=CARRIED[:-1])  # python's generator began elsewhere


def test_a_second_interrupt_within_a_save_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    real = checkpoint._write

    def interrupted(folder, groups, state):
        real(folder, groups, state)
        raise KeyboardInterrupt

    run = opened(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        for row in run.steps():
            if row["step"] == 3:
                monkeypatch.setattr(checkpoint, "_write", interrupted)
    assert load_run(tmp_path / "run").status["state"] == "stopped"
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-000000", "step-000002"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("missing: the right to mount a tmpfs (run as root)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_really_is_full(small_disk, tmp_path):
    """It fills up to some mark below what a checkpoint takes; whatever could not be written, the run goes on later."""
    fields = {"eval_every": -1, "checkpoint_every": 1, "steps": 9}
    whole = trained(tmp_path / "whole", **fields)
    out, ballast, words = small_disk / "run", small_disk / "ballast", []
    for room in (4_000_000, 2_500_000, 900_000, 20_000, 0):
        run = opened(out, **fields, resume=True)
        with pytest.raises(RunFailed) as failed:
            for _ in run.steps():
                with ballast.open("ab") as file:
                    while (free := shutil.disk_usage(small_disk).free) > room:
                        file.write(bytes(min(free - room, 1 << 16)))
                        file.flush()
        words.append(str(failed.value))
        ballast.unlink()
        assert load_run(out).rows
    assert all("cannot write " in line and "No space left on device" in line for line in words), words
    assert any("student.safetensors" in line or "the checkpoint" in line for line in words), words
    assert any("metrics.jsonl" in line or "rollouts" in line for line in words), words
    run = trained(out, **fields, resume=True)
    assert equal(weights(run), weights(whole))
    assert untimed(load_run(out).rows) == untimed(load_run(tmp_path / "whole").rows)


def test_at_least_two_are_kept(tmp_path):
    trained(tmp_path / "run", checkpoint_every=1)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [4, 3]
    with pytest.raises(UserError, match="checkpoint_keep is 1, but must be between 2 and"):
        RunConfig(checkpoint_keep=1)


# -- from the command line ---------------------------------------------------------------------------------------------


def test_the_command_goes_on_with_the_runs_own_settings(tmp_path, capsys):
    args = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if not isinstance(value, bool)]
    out = tmp_path / "run"
    assert cli.main(["train", *args, "--model", toy_model(), "--out", str(out), "--steps=2"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(out), "--steps=3"]) == 0
    said = capsys.readouterr().out
    assert "resuming from step 2" in said and "iteration 3/3" in said and "iteration 2/3" not in said
    record = load_run(out)
    assert record.config["lr"] == 1e-3 and [row["step"] for row in record.rows] == [1, 2, 3]
    assert cli.main(["train", "--out", str(out), "--resume", "--lr", "0.5"]) == 2
    assert "began with lr 0.001 (now 0.5)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_notebook_goes_on_with_the_same_name(tmp_path):
    out = tmp_path / "run"
    args = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items() if not isinstance(value, bool)]
    command = ["notebook", "train", *args, "--model", toy_model(), "--out", str(out)]
    assert cli.main([*command, "--steps=2"]) == 0
    first = load_run(out).rows
    assert cli.main([*command, "--steps=3"]) == 2  # not without being asked to
    assert cli.main([*command, "-p", "steps", "3", "-p", "resume", "True"]) == 0
    record = load_run(out)
    assert record.rows[:2] == first and [row["step"] for row in record.rows] == [1, 2, 3]
    assert record.status["state"] == "complete"
    executed = (out / "train.ipynb").read_text()
    assert "resuming from step 2" in executed and "iteration 3/3" in executed


# -- killed ------------------------------------------------------------------------------------------------------------

KILLS = 30


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_thirty_kills_lose_nothing(tmp_path):
    """SIGKILL at random moments, many of them within a save, each time resumed: the same weights, no gap, no repeat."""
    fields = {"steps": 45, "eval_every": 15, "checkpoint_every": 1, "teacher": "ema", "prompts": 4, "max_new_tokens": 9}
    config = RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, threads=1)
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps(config.to_dict()))
    program = TESTS / "killed.py"
    command = [sys.executable, str(program), str(settings)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(program.parent), *sys.path])}
    subprocess.run([*command, str(tmp_path / "whole"), "0"], env=env, check=True, timeout=120, capture_output=True)
    out = tmp_path / "killed"
    done = subprocess.run(
        [*command, str(out), str(KILLS)], env=env, check=False, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == KILLS and told["saving"] >= 5, told
    same(tmp_path / "whole", out, step=45, carried=CARRIED[:-1])
    from safetensors.torch import load_file

    finals = [load_file(folder / "final" / "model.safetensors") for folder in (tmp_path / "whole", out)]
    assert equal(*finals)
    assert [row["step"] for row in load_run(out).rows] == list(range(1, 46))


# -- a failure on the way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [RunFailed("the sandbox is gone"), UserError("verify failed on problem train-3"), KeyError("answer"),
     MemoryError("no room")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("fields", [{}, {"teacher": "adapter", "e_every": 1}])
def test_what_was_learned_is_saved_where_a_judge_fails_and_the_run_ends_as_if_it_had_not(
    error, fields, tmp_path, capsys
):
    class Failing(Parity):
        broken = True
        count = 0

        def verify(self, rollout):
            Failing.count += 1
            torch.rand(1)  # a failed iteration must not move the generators that the resumed one draws from
            if self.broken and Failing.count > 15:  # in the third iteration
                raise error
            return super().verify(rollout)

    fields = {**SMALL, "model": toy_model(), "steps": 4, "checkpoint_every": 0, "eval_every": -1, "follow": 0, **fields}
    stir()
    whole = Run.open(RunConfig.make(**fields, out=str(tmp_path / "whole")), task=Failing())
    Failing.broken, Failing.count = False, 0
    list(whole.steps())
    drawn = torch.get_rng_state()
    Failing.broken, Failing.count = True, 0
    stir()
    run = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run")), task=Failing())
    with pytest.raises(type(error), match=str(error)):
        list(run.steps())
    assert run.control.state == "failed"
    assert len(run.rows) == 2
    assert f"is saved as of step {len(run.rows)}" in capsys.readouterr().err
    status = load_run(tmp_path / "run").status
    assert (status["state"], status["step"]) == ("failed", len(run.rows))
    Failing.broken = False
    again = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run"), resume=True), task=Failing())
    list(again.steps())
    assert equal(weights(again), weights(whole))
    assert torch.equal(drawn, torch.get_rng_state())


def failing_method(error: BaseException) -> Method:
    """Raises once, in its second iteration."""
    asked: list[Any] = []

    def sometimes(seen):
        asked.append(seen)
        if len(asked) == 2:
            raise error
        return distillation(seen)

    return Method("mine", "fails in its second iteration", sometimes, views="both")


def test_a_method_that_fails_before_it_has_changed_a_weight_loses_nothing(tmp_path, capsys):
    method = failing_method(ZeroDivisionError("no tokens"))
    fields = {**SMALL, "model": toy_model(), "checkpoint_every": 0, "e_every": 0, "eval_every": -1, "steps": 3}
    run = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run")), task=Parity(), method=method)
    with pytest.raises(ZeroDivisionError):
        list(run.steps())
    assert run.saved_steps() == [1]
    assert "is saved as of step 1" in capsys.readouterr().err
    assert load_run(tmp_path / "run").status["reason"] == "ZeroDivisionError: no tokens"
    resumed = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run"), resume=True), task=Parity(), method=method)
    assert [row["step"] for row in resumed.steps()] == [2, 3]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_who_asks_to_end_at_once_does_not_wait_for_a_checkpoint(error, tmp_path):
    fields = {**SMALL, "model": toy_model(), "checkpoint_every": 0, "e_every": 0, "eval_every": -1}
    run = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run")), task=Parity(), method=failing_method(error))
    with pytest.raises(type(error)):
        list(run.steps())
    assert len(run.rows) == 1 and run.saved_steps() == []
    assert load_run(tmp_path / "run").status["state"] == run.control.state


@pytest.mark.parametrize("fails", [2, 4], ids=["on the way", "at the end"])
@pytest.mark.parametrize("fields", [{}, {"e_patience": 1, "eval_teacher": True}], ids=["plain", "e_patience"])
def test_an_evaluation_that_fails_is_made_up_for(fails, fields, tmp_path, capsys):
    class Failing(Parity):
        step = 0

        def verify(self, rollout):
            if rollout.problem.id.startswith("test") and Failing.step == fails:
                raise LookupError("no such reference")
            return super().verify(rollout)

    fields = {**SMALL, "model": toy_model(), "checkpoint_every": 0, **fields}
    whole = Run.open(RunConfig.make(**fields, out=str(tmp_path / "whole")), task=Failing())
    list(whole.steps())
    run = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run")), task=Failing())

    def follow(shown):
        Failing.step = shown["step"] + 1

    run.control.watch(follow)
    with pytest.raises(LookupError):
        list(run.steps())
    assert f"is saved as of step {fails}" in capsys.readouterr().err
    Failing.step = 0
    again = Run.open(RunConfig.make(**fields, out=str(tmp_path / "run"), resume=True), task=Failing())
    list(again.steps())
    assert [row["step"] for row in again.evals] == [row["step"] for row in whole.evals] == [0, 2, 4]
    assert equal(weights(again), weights(whole))


def test_where_evaluations_end_the_e_steps_they_are_part_of_the_result(tmp_path):
    fields = {"e_patience": 1, "eval_every": 1, "eval_teacher": True}
    trained(tmp_path / "run", steps=2, **fields)
    with pytest.raises(UserError, match=r"began with eval_every 1 \(now 2\)"):
        opened(tmp_path / "run", steps=4, resume=True, **fields | {"eval_every": 2})
    run = opened(tmp_path / "run", steps=4, resume=True, **fields)
    assert run.learner.teacher_accuracy == [row["teacher_accuracy"] for row in run.evals] != []
