"""Evaluate any student on held-out problems, and export it as a Hugging Face folder or a PEFT adapter.

A student is given as a run folder (its newest student is used), a run's final/, a checkpoint, or any model that
`--model` accepts.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpdlab import manifest, zoo
from vpdlab.config import RunConfig
from vpdlab.errors import HANDED_IN, UserError, notice
from vpdlab.files import staged_folder
from vpdlab.learn.identity import problems_sum
from vpdlab.model.adapters import save_adapter
from vpdlab.model.policy import Policy
from vpdlab.net import printable
from vpdlab.paths import user_path
from vpdlab.record import LINES, holds_settings, load_run, refuse_links, refuse_within, state_of, writing
from vpdlab.run import Run
from vpdlab.run.checkpoint import NAME, Checkpoints, Saved, load_weights, weights_by_name
from vpdlab.run.resume import settings

SHAPE = ("model", "lora_rank", "adapter_rank", "teacher", "precision")  # settings that the saved weights depend on


@dataclass(frozen=True)
class Student:
    """A student and where it comes from.

    Attributes:
        place: model folder or name; for a checkpoint, its folder.
        config: settings of its run; None for a model that no run trained.
        step: the iteration after which it was saved; None if unknown.
        saved: the checkpoint; None for an ordinary model folder.
        problems: checksum of the run's problems (`identity.problems_sum`); "" if not recorded.
    """

    place: str
    config: RunConfig | None = None
    step: int | None = None
    saved: Saved | None = None
    problems: str = ""

    @property
    def words(self) -> str:
        """Its name in messages."""
        return self.place if self.step is None else f"{self.place} (step {self.step})"


def find_student(place: str, step: int | None = None) -> Student:
    """Find a student by name.

    Args:
        place: a run folder, a run's final/, a checkpoint, or a model.
        step: which checkpoint of a run folder to use.

    Raises:
        UserError: if there is none, or its checkpoint is damaged.
    """
    folder = user_path("the student", place)
    if NAME.fullmatch(folder.name) and folder.parent.name == "checkpoints":
        return _of_checkpoint(folder.parent, int(folder.name.removeprefix("step-")))
    if is_run(folder):
        return _of_checkpoint(folder / "checkpoints", step) if step is not None else _newest(folder)
    if step is not None:
        raise UserError(f"{place} is no run's folder, so it has no checkpoint {step}")
    if folder.name == "final" and is_run(folder.parent):
        return _final(folder.parent)
    return Student(zoo.resolve(place))


def newest_checkpoint(run: str) -> int | None:
    """The step of a run's newest usable checkpoint; None if it has none or `run` is not a run folder."""
    saved, _ = Checkpoints(user_path("the run", run) / "checkpoints").newest()
    return saved.step if saved is not None else None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, damaged or not."""
    lines = any((folder / name).exists() for name in ("status.json", *LINES))
    return lines or holds_settings(folder)


def _final(run: Path) -> Student:
    record = load_run(run)
    if not zoo.is_model(run / "final"):
        raise UserError(f"{run} has no final/ ({state_of(run)})")
    listed, wanted = run / "final" / manifest.NAME, record.status.get("final_manifest")
    if wanted and (not listed.is_file() or manifest.checksum(listed) != wanted):
        raise UserError(
            f"{run / 'final'} is not what this run wrote: its {manifest.NAME} is not the one of status.json; name a"
            " checkpoint, or copy the folder elsewhere to use it as a model of its own"
        )
    if listed.exists():
        zoo.check_whole(run / "final")
    else:
        notice(f"{run / 'final'} has no {manifest.NAME}, as earlier versions left it: its files are not checked")
    problems = _problems(record.environment)
    return Student(str(run / "final"), record.settings(), record.status.get("final"), problems=problems)


def _problems(environment: Mapping[str, Any]) -> str:
    return str(environment.get("task_identity", {}).get("problems", ""))


def _newest(run: Path) -> Student:
    """final/ if it was saved after the last iteration, otherwise the newest usable checkpoint."""
    status = load_run(run).status
    saved, rejected = Checkpoints(run / "checkpoints").newest()
    for line in rejected:
        print(printable(line), file=sys.stderr)
    if zoo.is_model(run / "final") and (status.get("final", status["step"]) == status["step"] or saved is None):
        return _final(run)
    if saved is None:
        raise UserError(f"{run} has neither a final/ nor a checkpoint ({state_of(run)})")
    return _student(saved)


def _of_checkpoint(folder: Path, step: int) -> Student:
    checkpoints = Checkpoints(folder)
    if step not in checkpoints.steps():
        there = ", ".join(map(str, reversed(checkpoints.steps()))) or "none"
        raise UserError(f"{folder.parent} has no checkpoint of step {step}: it has {there}")
    found = checkpoints.read(step)
    if isinstance(found, str):
        raise UserError(f"{checkpoints.place(step)} cannot be used: {found}")
    return _student(found)


def _student(saved: Saved) -> Student:
    config, problems = RunConfig.make(**saved.state["config"]), _problems(saved.state["environment"])
    return Student(str(saved.path), config, saved.step, saved, problems)


# -- held-out numbers --------------------------------------------------------------------------------------------------


def evaluate(student: Student, config: RunConfig) -> dict[str, Any]:
    """Evaluate a student on the held-out problems of `config`; returns a line in the format of eval.jsonl.

    Raises:
        UserError: if settings contradict the student's own.
    """
    own = student.config
    for name in SHAPE if own is not None else ():
        if getattr(config, name) != getattr(own, name):
            raise UserError(f"{name} is {getattr(config, name)}, but the run's is {getattr(own, name)}: leave it out")
    run = Run.open(alone(student, config), record=False)
    same = own is not None and (config.task, config.data, config.task_args) == (own.task, own.data, own.task_args)
    if same and student.problems not in ("", problems_sum(run.task)):
        notice(f"the problems of task {config.task} are not those of the run: their content has changed since")
    if student.saved is not None:
        load_weights(weights_by_name(run.learner.policy), student.saved, "student")
    return run.evaluate(student.step or 0)


def alone(student: Student, config: RunConfig) -> RunConfig:
    """Settings that load this student without anything that its evaluation does not need."""
    fields: dict[str, Any] = {
        "method": "rft", "method_args": (), "feedback": ("verifier",), "critic": "live", "critic_learns": False,
        "anchor": "dynamic", "eval_teacher": False, "prompts": 1, "kl_target": 0.0, "shard": False, "follow_file": "",
        "teacher": "adapter" if student.saved is not None and config.teacher == "adapter" else "shared",
    }  # fmt: skip
    if student.saved is None:
        fields |= {"model": student.place, "lora_rank": 0}
    if config.sampler.startswith(HANDED_IN):
        fields["sampler"] = "transformers"
    return RunConfig(**settings(config) | fields).asked_for(())


# -- files -------------------------------------------------------------------------------------------------------------


def export(student: Student, out: Path, adapter: str = "") -> None:
    """Write a student as a Hugging Face folder, or one of its adapters as a PEFT folder.

    Args:
        out: a folder that does not exist yet or is empty.
        adapter: "student" or "teacher" for that role's LoRA adapter; "" for the whole student with adapters merged.

    Raises:
        UserError: if the folder is not empty or lies in a run's folder, or the run has no such adapter.
        RunFailed: if it cannot be written.
    """
    refuse_within(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already: name another folder")
    if adapter:
        _check_adapter(student, adapter)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if student.saved is None:
            _copy(Path(student.place), out)
        elif adapter:
            _save_adapter(_load(student, student.saved), out, adapter)
        else:
            _load(student, student.saved).save(out)


def _copy(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder on this machine: there is nothing to export")
    refuse_links(folder)  # never export what a link points to
    with staged_folder(out) as staged:
        shutil.copytree(folder, staged, dirs_exist_ok=True)


def load_policy(student: Student, config: RunConfig) -> Policy:
    """The policy of a student, with `config`'s temperature, device and precision."""
    same = {
        name: getattr(config, name)
        for name in ("temperature", "device", "minibatch_tokens", "logit_mib", "max_context")
    }
    if student.saved is None or student.config is None:
        return Policy.load(config.but(model=student.place, lora_rank=0, teacher="shared", shard=False))
    return _load(replace(student, config=student.config.but(**same)), student.saved)


def _load(student: Student, saved: Saved) -> Policy:
    """The policy of a checkpoint, with all trained weights loaded."""
    assert student.config is not None
    policy = Policy.load(replace(student.config, shard=False))
    load_weights(weights_by_name(policy), saved, "student")
    if policy.decoupled:
        load_weights(weights_by_name(policy, role="teacher"), saved, "teacher")
    return policy


def _check_adapter(student: Student, adapter: str) -> None:
    config = student.config
    if config is None or student.saved is None:
        raise UserError(f"{student.place} has its adapters merged: name a checkpoint of the run with --checkpoint")
    if adapter == "student" and not config.lora_rank:
        raise UserError("the student of this run has no adapter: all its weights were trained (lora_rank 0)")
    if adapter == "teacher" and config.teacher != "adapter":
        raise UserError(f"the teacher of this run has no adapter: it was of the kind {config.teacher}")


def _save_adapter(policy: Policy, out: Path, role: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors as peft does.

    An adapter needs its base weights. If the whole student was trained, the base of the teacher's adapter exists
    nowhere else, so it is written to OUT/base.
    """
    out.mkdir(exist_ok=True)
    base = ""
    if role == "teacher" and not policy.config.lora_rank:
        base = str((out / "base").resolve())
        policy.save(out / "base")
    with policy.as_teacher() if role == "teacher" else contextlib.nullcontext():
        save_adapter(policy.model, out, base)
