"""What a checkpoint holds of a run: saving it, and putting it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from vpdlab import processes
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.learn.identity import digest, plain, weights_sum
from vpdlab.learn.parts import Parts
from vpdlab.learn.state import Learner
from vpdlab.model.budget import resplit
from vpdlab.model.determinism import caveat
from vpdlab.model.policy import Policy
from vpdlab.model.traits import end_ids
from vpdlab.net import printable
from vpdlab.record import LINES, Change, Recorder, prepare
from vpdlab.run.checkpoint import (
    Checkpoints,
    Groups,
    RandomStates,
    Saved,
    fitting,
    load_policy,
    load_random_states,
    policy_tensors,
    random_states,
)
from vpdlab.run.resume import settings


@dataclass
class Keeper:
    """Saves a run's checkpoints, and restores one.

    Attributes:
        environment: what the run runs on (`environment.describe`).
        begun: the settings that the run began with.
        changes: those that were changed since.
        saved_step: the iteration of the last checkpoint; -1 for none.
    """

    parts: Parts
    environment: dict[str, Any]
    begun: RunConfig
    changes: Sequence[Change] = ()
    saved_step: int = -1

    @property
    def config(self) -> RunConfig:
        return self.parts.config

    @property
    def learner(self) -> Learner:
        return self.parts.learner

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.config.folder / "checkpoints", self.config.checkpoint_keep)

    def save(
        self, step: int, recorder: Recorder | None, random: RandomStates | None = None, unevaluated: bool = False
    ) -> None:
        """Save the run after iteration `step`; its record up to then is flushed to disk first.

        Every process takes part, since each may hold a part of the weights; rank 0 writes.

        Args:
            random: states of the random generators after that iteration; None for those of now.
            unevaluated: whether its evaluation is due and failed.
        """
        if step == self.saved_step:
            return
        groups = policy_tensors(self.learner.policy, self._copies())
        processes.by_main(lambda: self._write(step, groups, recorder, random, unevaluated))
        self.saved_step = step

    def _write(
        self, step: int, groups: Groups, recorder: Recorder | None, random: RandomStates | None, unevaluated: bool
    ) -> None:
        marks = recorder.flush() if recorder is not None else {"step": 0} | dict.fromkeys(LINES, 0)
        tensors, plain = random or random_states(self.learner.policy.device)  # every process draws the same from them
        state = {
            "beta": self.learner.beta,
            "shift": self.learner.shift,
            "spent": self._spent(),
            "random": plain,
            "record": marks,
            "config": settings(self.begun),
            "changes": [change.to_dict() for change in self.changes],
            "inputs": self.inputs,
            "environment": self.environment,
            **({"unevaluated": True} if unevaluated else {}),
        }
        self.checkpoints.save(step, groups | {"random": tensors}, state)

    def begin(self) -> None:
        """Prepare the folder for a new run: a kill before its first iteration must not leave it without a
        checkpoint."""
        processes.by_main(self._clear)
        if self.config.checkpoint_every:
            self.save(0, None)

    def _clear(self) -> None:
        prepare(self.config.folder)
        self.checkpoints.sweep()
        for step in self.checkpoints.steps():  # of a run that was killed before it began
            self.checkpoints.remove(step)

    def load(self, saved: Saved) -> None:
        """Restore everything. Raises UserError where the inputs changed, or the checkpoint does not fit."""
        lines = self.check(saved)
        promise = caveat(self.learner.policy.device, self.config.deterministic)
        for line in [*lines, promise] if promise else lines:
            print(printable(line), flush=True)
        self.restore(saved)
        if budget := self._budget():
            budget.calls -= saved.state["spent"]["calls"]
            budget.tokens -= saved.state["spent"]["tokens"]

    def check(self, saved: Saved) -> list[str]:
        """A line for what else the checkpoint was saved on. Raises UserError where the inputs changed."""
        then = saved.state["inputs"]
        changed = [name for name, value in self.inputs.items() if then.get(name, value) != value]
        if changed and not self.config.resume_anyway:
            raise UserError(
                f"{self.config.folder} began with other {' and '.join(changed)}: their content has changed since;"
                " restore them, or add --resume-anyway"
            )
        return _environment_changes(saved.state["environment"], self.environment)

    def restore(self, saved: Saved, moments: bool = True) -> None:
        """Restore student and teacher; without `moments` only as far as scoring and sampling need it.

        Raises:
            UserError: the checkpoint does not fit.
        """
        resplit(self.learner.policy, saved.state["environment"], self.environment["device_name"])
        with fitting(saved):
            load_policy(self.learner.policy, self._copies(), saved, moments)
        self.learner.beta, self.learner.shift = saved.state["beta"], saved.state["shift"]

    def go_on(self, saved: Saved) -> None:
        """Under the lock, right before the first step: restore the generators, and clear the way for new checkpoints.

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
        task, render = self.environment["task_identity"], self.parts.render
        return {
            "problems and their data": task["problems"],
            "verify function": task["judge"],
            "prompt templates": digest(dataclasses.asdict(render.templates)),
            "chat template": digest([render.chat.source, plain(render.chat.variables)]),
            "tokenizer": digest(_tokenizer(render.tokenizer)),
            "model config": digest(_model_config(self.learner.policy)),
            "rendered prompts": self.parts.checked.digest if self.parts.checked is not None else "",
            "base weights": _frozen_weights(self.learner.policy),
            **{f"handed-in {name}": one["sum"] for name, one in self.parts.handed_in.items() if name != "policy"},
        }

    def _copies(self) -> dict[str, list[Tensor]]:
        """The copies of weights that are kept beside the live ones, by what they are for."""
        critic = self.parts.critic.critic if self.parts.critic is not None else None
        kept = {
            "teacher-copy": self.learner.teacher.kept,
            "anchor": self.learner.anchor,
            "reference": self.learner.reference,
            "critic": getattr(critic, "weights", None),
        }
        return {name: copy.values for name, copy in kept.items() if copy is not None}

    def _budget(self) -> Any:
        return getattr(self.parts.critic.critic, "budget", None) if self.parts.critic is not None else None

    def _spent(self) -> dict[str, int]:
        """What the critic's server was asked so far."""
        budget, config = self._budget(), self.config
        if budget is None:
            return {"calls": 0, "tokens": 0}
        return {"calls": config.critic_calls - budget.calls, "tokens": config.critic_tokens - budget.tokens}


def _environment_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line where versions or hardware differ from the checkpoint's."""
    pairs = {"python": (then["python"], now["python"]), "device": (then["device_name"], now["device_name"])}
    pairs["processes"] = (then.get("processes", 1), now["processes"])
    pairs |= {name: (then["packages"].get(name), version) for name, version in now["packages"].items()}
    changed = [f"{name} {old} (now {new})" for name, (old, new) in pairs.items() if old != new]
    return [f"it ran with {', '.join(changed)}: results may not be bit-identical"] if changed else []


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
    frozen = [(name, weight) for name, weight in policy.model.named_parameters() if id(weight) not in trained]
    return weights_sum(frozen) if frozen else ""
