"""Checkpoints: a kill at any moment leaves a complete one, and one with a changed byte is never loaded.

runs/NAME/checkpoints/step-000040/
  student.safetensors …  weights, copies of weights, optimiser states, torch's random states, as named tensors
  state.json             step, beta, shift, random states of Python and NumPy, sizes of the record, settings, versions
  manifest.json          size and SHA-256 of each file

A checkpoint is written to a hidden folder, synced to disk file by file, and renamed into place. Neither safetensors
nor torch detects a flipped byte, hence the checksums. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vpdlab import manifest
from vpdlab.errors import RunFailed, UserError, reason
from vpdlab.files import read_small, staged_folder
from vpdlab.model.policy import Policy
from vpdlab.model.sharding import local, part_of, whole
from vpdlab.record import LINES, changes, checks, writing

FORMAT = 1
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW, by parameter
SPENT, RANDOM, MARKS = ("calls", "tokens"), ("python", "numpy"), ("step", *LINES)
NAME = re.compile(r"step-(0\d{5}|[1-9]\d{5,8})", re.ASCII)
Groups = dict[str, dict[str, Tensor]]
RandomStates = tuple[dict[str, Tensor], dict[str, Any]]
STATE: dict[str, checks.Check] = {
    "step": checks.is_count, "beta": lambda value: isinstance(value, float) and value > 0, "shift": checks.is_number,
    "spent": lambda value: not checks.fault(value, dict.fromkeys(SPENT, checks.is_count), SPENT),
    "random": lambda value: not checks.fault(value, dict.fromkeys(RANDOM, checks.listed(lambda _: True)), RANDOM),
    "record": lambda value: not checks.fault(value, dict.fromkeys(MARKS, checks.is_count), MARKS),
    "config": lambda value: not checks.config_fault(value, checks.NEEDED["config.json"]), "inputs": checks.is_table,
    "environment": lambda value: not checks.fault(value, checks.ENVIRONMENT, ("python", "device_name", "packages")),
}  # fmt: skip
"""What state.json holds."""
LATER: dict[str, checks.Check] = {"unevaluated": lambda value: value is True,
                                  "changes": checks.listed(lambda one: not changes.fault(one))}  # fmt: skip
"""What may be missing: an older version, or an ordinary checkpoint, does not have it."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose checksums match.

    Attributes:
        path: its folder.
        step: the iteration after which it was saved.
        state: the content of state.json.
        beside: steps of all checkpoints present when it was read.
    """

    path: Path
    step: int
    state: dict[str, Any]
    beside: tuple[int, ...]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """A copy of a group's tensors, on the CPU. Raises UserError for a group that was not saved."""
        file = self.path / f"{group}.safetensors"
        if not file.is_file():
            raise UserError(f"{self.path} holds no {group}: it was saved with other settings")
        try:
            return {name: value.clone() for name, value in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} cannot be read: {reason(error)}") from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: runs/NAME/checkpoints.
        keep: number of checkpoints to keep, at least two in case the disk damages the newest.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), max(2, keep)

    def steps(self) -> list[int]:
        """Iterations with a checkpoint, complete or not, newest first."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def place(self, step: int) -> Path:
        """The folder of an iteration's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def save(self, step: int, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of an iteration, then remove the oldest beyond `keep`.

        Raises:
            RunFailed: if it cannot be written. Partial files are removed and older checkpoints are left untouched.
        """
        place = self.place(step)
        try:
            with staged_folder(place) as staged:
                _write(staged, groups, {"format": FORMAT, "step": step, **state})
                if place.exists():
                    self.set_aside(step)
        except (OSError, SafetensorError) as error:
            whole = f"; that of step {self.steps()[0]} is as it was" if self.steps() else ""
            raise RunFailed(f"cannot write the checkpoint {place}: {reason(error)}{whole}") from error
        with writing(self.folder):
            for old in self.steps()[self.keep :]:
                self.remove(old)
        return place

    def newest(self, fits: Callable[[Saved], str] = lambda saved: "") -> tuple[Saved | None, list[str]]:
        """The newest usable checkpoint, and one line with the reason for each newer one that was rejected.

        Args:
            fits: returns why a complete checkpoint cannot be used, or "" if it can.
        """
        rejected = []
        for step in self.steps():
            found = self.read(step)
            fault = found if isinstance(found, str) else fits(found)
            if isinstance(found, Saved) and not fault:
                return found, rejected
            rejected.append(f"{self.place(step)} cannot be used: {fault}")
        return None, rejected

    def read(self, step: int) -> Saved | str:
        """The checkpoint of an iteration, or why it cannot be used. Checks every byte."""
        place = self.place(step)
        try:
            if fault := manifest.damage(place):
                return fault
            state = checks.parse(read_small(place / "state.json").decode("utf-8"))
        except (OSError, ValueError) as error:
            return reason(error)
        if fault := checks.fault(state, {}, ("format", "step")):
            return f"state.json: {fault}"
        if state["format"] != FORMAT:
            return f"it has format {state['format']}, this version reads {FORMAT}"
        if fault := checks.fault(state, STATE | LATER, tuple(STATE)):
            return f"state.json: {fault}"
        if state["step"] != step:
            return f"it is that of step {state['step']}"
        return Saved(place, step, state, tuple(self.steps()))

    def set_aside(self, step: int) -> None:
        """Rename an unusable checkpoint out of the way instead of deleting it."""
        aside = self.place(step).with_name(f"rejected-step-{step:06d}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.unlink(missing_ok=True)
        self.place(step).rename(aside)

    def sweep(self) -> None:
        """Delete partly written or partly deleted checkpoints of a killed process."""
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove(self, step: int) -> None:
        """Delete a checkpoint."""
        hidden = self.folder / f".step-{step:06d}.old"  # a partly deleted one must not keep its name
        self.place(step).rename(hidden)
        shutil.rmtree(hidden)


@contextlib.contextmanager
def fitting(saved: Saved) -> Iterator[None]:
    """Turn errors from unexpected checkpoint contents into UserErrors: somebody else may have made the checkpoint, with
    matching checksums."""
    try:
        yield
    except UserError:
        raise
    except (IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{saved.path} does not fit this run: {type(error).__name__}: {reason(error)}") from error


def _write(folder: Path, groups: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    for name, tensors in groups.items():
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    manifest.write(folder)


# -- what is in a checkpoint -------------------------------------------------------------------------------------------


def weights_by_name(policy: Policy, values: list[Tensor] | None = None, role: str = "student") -> dict[str, Tensor]:
    """A role's trainable weights by their names in the model, or `values` (a copy of them) under the same names."""
    names = {id(parameter): name for name, parameter in policy.model.named_parameters()}
    live = policy.parameters if role == "student" else policy.teacher_parameters
    return {names[id(mine)]: value.detach() for mine, value in zip(live, values or live, strict=True)}


def policy_tensors(policy: Policy, copies: Mapping[str, list[Tensor]]) -> Groups:
    """A policy's trained weights, optimiser states, and the given copies of its weights, gathered from all shards.
    Every rank must call this; only rank 0 gets the complete tensors."""
    groups = {"student": weights_by_name(policy), "optimizer": _moments(policy.optimizer, policy.parameters)}
    if policy.decoupled:
        groups["teacher"] = weights_by_name(policy, role="teacher")
    if policy.e_optimizer is not policy.optimizer:
        groups["e-optimizer"] = _moments(policy.e_optimizer, policy.teacher_parameters)
    groups |= {name: weights_by_name(policy, values) for name, values in copies.items()}
    return {group: {name: whole(value) for name, value in tensors.items()} for group, tensors in groups.items()}


def load_policy(policy: Policy, copies: Mapping[str, list[Tensor]], saved: Saved, moments: bool = True) -> None:
    """Restore in place what `policy_tensors` saved, optimiser states with `moments`. Raises UserError for a misfit."""
    load_weights(weights_by_name(policy), saved, "student")
    if policy.decoupled:
        load_weights(weights_by_name(policy, role="teacher"), saved, "teacher")
    if moments:
        _load_moments(policy.optimizer, policy.parameters, saved, "optimizer")
    if moments and policy.e_optimizer is not policy.optimizer:
        _load_moments(policy.e_optimizer, policy.teacher_parameters, saved, "e-optimizer")
    for name, values in copies.items():
        load_weights(weights_by_name(policy, values), saved, name)


def load_weights(mine: Mapping[str, Tensor], saved: Saved, group: str) -> None:
    """Copy a group into tensors of the same names and shapes. Raises UserError if they differ."""
    found = saved.tensors(group)
    shapes = [{name: tuple(value.shape) for name, value in side.items()} for side in (mine, found)]
    if shapes[0] != shapes[1]:
        odd = sorted(name for name in mine.keys() | found.keys() if shapes[0].get(name) != shapes[1].get(name))
        raise UserError(f"the {group} in {saved.path} does not fit this model: {odd[0]} differs")
    for name, value in found.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise UserError(f"the {group} in {saved.path} cannot be used: {name} holds numbers that are not finite")
        local(mine[name]).copy_(local(part_of(value, mine[name])))


def _moments(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """AdamW's moments, keyed by the parameter's index regardless of parameter groups."""
    states = ((index, optimizer.state.get(parameter, {})) for index, parameter in enumerate(parameters))
    return {f"{index}.{key}": value for index, values in states for key, value in values.items()}


def _load_moments(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], saved: Saved, group: str) -> None:
    """Restore the moments; learning rates and weight decay come from the config. Raises UserError if they do not fit.

    Shapes and types are checked here because fused AdamW would read past a moment that is too small.
    """
    places = {id(p): place for place, p in enumerate(p for part in optimizer.param_groups for p in part["params"])}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.tensors(group).items():
        index, _, key = name.partition(".")
        mine = parameters[int(index)] if index.isascii() and index.isdigit() and int(index) < len(parameters) else None
        shape = () if key == "step" else None if mine is None else mine.shape
        if mine is None or key not in MOMENTS or value.shape != shape or not value.is_floating_point():
            raise UserError(f"the {group} in {saved.path} does not fit this model: {name} differs")
        if not value.isfinite().all() or (key != "exp_avg" and bool((value < 0).any())):
            raise UserError(f"the {group} in {saved.path} cannot be used: {name} holds numbers that AdamW never has")
        moment = value if key == "step" else part_of(value, mine)  # a scalar, never sharded
        state.setdefault(places[id(mine)], {})[key] = moment
    for place, found in state.items():
        if set(found) != set(MOMENTS):
            raise UserError(f"the {group} in {saved.path} does not fit this model: parameter {place} has half a state")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_states(device: torch.device) -> RandomStates:
    """States of the global random generators: torch's as tensors, Python's and NumPy's as plain values."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        tensors["mps"] = torch.mps.get_rng_state()
    kind, keys, *rest = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [kind, np.asarray(keys).tolist(), *rest]}


def load_random_states(device: torch.device, saved: Saved) -> None:
    """Restore the global random generators. A device of a different kind keeps its current state."""
    tensors = saved.tensors("random")
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    elif device.type == "mps" and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])
    version, keys, gauss = saved.state["random"]["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, keys, place, *rest = saved.state["random"]["numpy"]
    if not checks.is_count(place) or place > len(keys):  # NumPy does not check, and would read past its state
        raise ValueError(f"numpy's random state stands at {place!r}")
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, *rest))
