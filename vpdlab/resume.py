"""Going on with a run: what its checkpoint holds, what must still be the same, and that nobody else writes its folder.

Problems and random streams are functions of the seed and the iteration, so the data's position is the step. What is
carried from step to step beside it is in `Keeper.save`: a test holds that a resumed run ends in the same weights as
one that was never disturbed, bit for bit.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpdlab import processes
from vpdlab.checkpoint import (
    Checkpoints,
    Groups,
    Saved,
    fitting,
    load_policy,
    load_random_states,
    policy_tensors,
    random_states,
)
from vpdlab.config import RunConfig
from vpdlab.critics import Criticism
from vpdlab.errors import UserError
from vpdlab.identity import digest, plain
from vpdlab.learner import Learner
from vpdlab.net import printable
from vpdlab.policy import Policy, end_ids
from vpdlab.prompts import Renderer
from vpdlab.record import LINES, Recorder, RunRecord, checks, prepare, refuse_links, refuse_newer, state_of
from vpdlab.tasks import HANDED_IN, Task

FREE = frozenset(
    {
        "out", "steps", "resume", "resume_anyway", "checkpoint_every", "checkpoint_keep", "eval_every", "device",
        "threads", "minibatch_tokens", "sampler_rows", "logit_mib", "record_tokens", "record_top", "critic_seconds",
        "critic_calls", "critic_tokens", "critic_jobs", "critic_cache", "max_skipped",
        "tracker", "shard", "vllm_url", "vllm_memory", "vllm_lora", "vllm_folder",
    }
)  # fmt: skip
"""Settings that a resumed run may change: how long, how fast, what is written. All others make the run what it is."""


def settings(config: RunConfig) -> dict[str, Any]:
    """The config as it is recorded: that a run was resumed is no property of the run."""
    return dataclasses.replace(config, resume=False, resume_anyway=False).to_dict()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block no other process, and no other run of this one, may write the run in `folder`.

    The system itself lets go when the process dies, however it dies.

    Raises:
        UserError: where someone else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{folder} is being written by process {file.read().strip() or '?'}: wait for it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            print(f"{folder}: this file system has no locks: do not train here twice at once", file=sys.stderr)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def find(config: RunConfig) -> Saved | None:
    """The checkpoint that a run goes on from; None where its folder holds no run yet. Says what it leaves aside.

    Raises:
        UserError: where there is a run and none of its checkpoints can be used, or the settings do not fit.
    """
    folder = config.folder
    refuse_newer(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    begun = (folder / "config.json").exists() or any((folder / name).exists() for name in LINES)
    if not begun and not any(checkpoints.steps()):  # that of step 0 alone was left by a run killed before it began
        print(f"{folder} holds no run yet: it begins", flush=True)
        return None
    with locked(folder):
        saved, rejected = checkpoints.newest(lambda one: _record_fault(folder, one))
    if saved is None:
        why = f"none of its checkpoints can be used: {'; '.join(rejected)}" if rejected else "it has no checkpoint"
        raise UserError(
            f"{folder} holds a run ({state_of(folder)}) that cannot be resumed, since {why}; nothing was changed:"
            " remove the folder to begin anew, or choose another with out"
        )
    for line in rejected:
        print(printable(line), flush=True)
    refuse_changes(config, saved)
    print(f"{folder} goes on from step {saved.step} of {config.steps}", flush=True)
    return saved


def _record_fault(folder: Path, saved: Saved) -> str:
    """Why what was recorded cannot be cut where a checkpoint was taken; "" where it can."""
    for name in LINES:
        size, mark = (folder / name).stat().st_size if (folder / name).exists() else 0, saved.state["record"][name]
        if size < mark:
            return f"{name} has {size} bytes, but had {mark} when it was saved"
    try:
        rows, _ = recorded(folder, saved)
    except UserError as error:
        return str(error)
    return "" if [row["step"] for row in rows[-1:]] == [saved.step][: saved.step] else "metrics.jsonl has changed since"


def recorded(folder: Path, saved: Saved) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of metrics and of evaluations up to a checkpoint. Raises UserError for damaged ones."""
    rows, evals = (RunRecord(folder).lines(name, saved.state["record"][name]) for name in LINES)
    for number, row in enumerate(evals, 1):
        if reason := checks.fault(row, {}, checks.NEEDED["eval.jsonl"]):
            raise UserError(f"{folder / 'eval.jsonl'} line {number} cannot be read: {reason}")
    return rows, evals


def refuse_changes(config: RunConfig, saved: Saved) -> None:
    """Raises UserError, naming them, for settings that make the run what it is and differ from the checkpoint's."""
    then, now = RunConfig().to_dict() | saved.state["config"], config.to_dict()
    free = set(FREE)
    if config.method == "reweight" and not config.reweight_steps:
        free.remove("steps")  # the teacher's share falls to 0 over the whole run
    changed = [f"{name} {_show(then[name])} (now {_show(now[name])})" for name in now if then[name] != now[name]
               and name not in free]  # fmt: skip
    if changed and not config.resume_anyway:
        raise UserError(
            f"{config.folder} began with {', '.join(changed)}: give it the same settings, or add --resume-anyway"
        )
    if str(then["task"]).startswith(HANDED_IN) and now["task"] != then["task"]:
        raise UserError(
            f"{config.folder} began with a task that was handed in from Python"
            f" ({then['task'].removeprefix(HANDED_IN)}): resume it in Python with Run.open(config, task=...)"
        )
    if config.steps < saved.step:
        raise UserError(f"steps is {config.steps}, but {config.folder} is at step {saved.step} already")


def _show(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value) or "''"


@dataclass
class Keeper:
    """Saves a run's checkpoints, and puts one back.

    Attributes:
        environment: what the run runs on (`environment.describe`).
        prompts: sum of the token ids of all student prompts.
        saved_step: the iteration of the last checkpoint; -1 for none.
    """

    config: RunConfig
    learner: Learner
    criticism: Criticism | None
    task: Task
    render: Renderer
    environment: dict[str, Any]
    prompts: str = ""
    saved_step: int = -1

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.config.folder / "checkpoints", self.config.checkpoint_keep)

    def save(self, step: int, recorder: Recorder | None) -> None:
        """Save the run as it is after iteration `step`; what was recorded until then reaches the disk first.

        Every process takes part: one may hold a part of the weights. The main one writes.
        """
        if step == self.saved_step:
            return
        groups = policy_tensors(self.learner.policy, self._copies())
        processes.by_main(lambda: self._write(step, groups, recorder))
        self.saved_step = step

    def _write(self, step: int, groups: Groups, recorder: Recorder | None) -> None:
        marks = recorder.flush() if recorder is not None else {"step": 0} | dict.fromkeys(LINES, 0)
        tensors, plain = random_states(self.learner.policy.device)  # nothing draws from them in one process alone
        state = {
            "beta": self.learner.beta,
            "shift": self.learner.shift,
            "spent": self._spent(),
            "random": plain,
            "record": marks,
            "config": settings(self.config),
            "inputs": self.inputs,
            "environment": self.environment,
        }
        self.checkpoints.save(step, groups | {"random": tensors}, state)

    def begin(self) -> None:
        """Make ready for a run from its start: a kill before its first iteration must not leave it without one."""
        processes.by_main(self._clear)
        if self.config.checkpoint_every:
            self.save(0, None)

    def _clear(self) -> None:
        prepare(self.config.folder)
        self.checkpoints.sweep()
        for step in self.checkpoints.steps():  # of a run that was killed before it began
            self.checkpoints.remove(step)

    def load(self, saved: Saved) -> None:
        """Put everything back as it was. Raises UserError where the inputs are not what they were, or nothing fits."""
        then = saved.state["inputs"]
        changed = [name for name, value in self.inputs.items() if then.get(name, value) != value]
        if changed and not self.config.resume_anyway:
            raise UserError(
                f"{self.config.folder} began with other {' and '.join(changed)}: their content has changed since; put"
                " them back, or add --resume-anyway"
            )
        for line in _other_ground(saved.state["environment"], self.environment):
            print(printable(line), flush=True)
        with fitting(saved):
            load_policy(self.learner.policy, self._copies(), saved)
        self.learner.beta, self.learner.shift = saved.state["beta"], saved.state["shift"]
        if budget := self._budget():
            budget.calls -= saved.state["spent"]["calls"]
            budget.tokens -= saved.state["spent"]["tokens"]

    def go_on(self, saved: Saved) -> None:
        """Under the lock, right before the first step: the generators, and what stands in the way of new checkpoints.

        Raises:
            UserError: where another process has carried the run on since the checkpoint was read.
        """
        processes.by_main(lambda: self._clear_behind(saved))
        with fitting(saved):
            load_random_states(self.learner.policy.device, saved)
        self.saved_step = saved.step

    def _clear_behind(self, saved: Saved) -> None:
        if tuple(self.checkpoints.steps()) != saved.beside:
            raise UserError(f"{self.config.folder} has changed since it was opened: open it again")
        self.checkpoints.sweep()
        for step in self.checkpoints.steps():
            if step > saved.step:
                self.checkpoints.set_aside(step)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Sums of what the settings only name, files above all, and what they must contain on resume."""
        task, chat = self.environment["task_identity"], self.render.chat
        return {
            "problems and their data": task["problems"],
            "verify function": task["judge"],
            "prompt templates": digest(dataclasses.asdict(self.render.templates)),
            "chat template": digest([chat.source, plain(chat.variables)]),
            "tokenizer": digest(_tokenizer(self.render.tokenizer)),
            "model config": digest(_model_config(self.learner.policy)),
            "rendered prompts": self.prompts,
            "base weights": _frozen_weights(self.learner.policy),
        }

    def _copies(self) -> dict[str, list[Tensor]]:
        """The copies of weights that are kept beside the live ones, by what they are for."""
        critic = self.criticism.critic if self.criticism is not None else None
        kept = {
            "teacher-copy": self.learner.teacher.kept,
            "anchor": self.learner.anchor,
            "critic": getattr(critic, "weights", None),
        }
        return {name: copy.values for name, copy in kept.items() if copy is not None}

    def _budget(self) -> Any:
        return getattr(self.criticism.critic, "budget", None) if self.criticism is not None else None

    def _spent(self) -> dict[str, int]:
        """What the critic's server was asked so far."""
        budget, config = self._budget(), self.config
        if budget is None:
            return {"calls": 0, "tokens": 0}
        return {"calls": config.critic_calls - budget.calls, "tokens": config.critic_tokens - budget.tokens}


def _other_ground(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line where versions or hardware are others than at the checkpoint."""
    pairs = {"python": (then["python"], now["python"]), "device": (then["device_name"], now["device_name"])}
    pairs["processes"] = (then.get("processes", 1), now["processes"])
    pairs |= {name: (then["packages"].get(name), version) for name, version in now["packages"].items()}
    changed = [f"{name} {old} (now {new})" for name, (old, new) in pairs.items() if old != new]
    return [f"it ran with {', '.join(changed)}: what follows need not be equal bit for bit"] if changed else []


def _tokenizer(tokenizer: Any) -> list[Any]:
    """All that decides how text becomes tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # slow ones have none
    words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return [type(tokenizer).__name__, words, plain(tokenizer.special_tokens_map)]


def _model_config(policy: Policy) -> list[Any]:
    """What the weights are computed with, and the tokens that end a response; not what a save changes."""
    written = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "return_dict"}
    config = policy.model.config.to_dict()
    kept = {key: value for key, value in config.items() if key not in written}
    return [plain(kept), sorted(end_ids(policy.model, policy.tokenizer))]


def _frozen_weights(policy: Policy) -> str:
    """A sum of the weights under a student's adapter; "" where all weights are trained: the checkpoint has those."""
    trained = {id(parameter) for parameter in [*policy.parameters, *policy.teacher_parameters]}
    content, frozen = hashlib.sha256(), False
    for name, parameter in policy.model.named_parameters():
        if id(parameter) not in trained:
            frozen = True
            content.update(name.encode())
            content.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest() if frozen else ""
