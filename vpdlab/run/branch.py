"""Branch a recorded run: a new run that begins with a checkpoint of another one, and with its record up to there.

vpdlab train --from runs/x@40 --beta 1 --out runs/y

The new folder is complete before it gets its name: the history up to the fork, a copy of the checkpoint, and `origin`
in environment.json. From then on it is a run like any other, resumed from that checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdlab import manifest
from vpdlab.config import HINTS, RunConfig
from vpdlab.errors import RunFailed, UserError, notice, reason
from vpdlab.files import staged_folder
from vpdlab.net import printable
from vpdlab.paths import user_path
from vpdlab.record import (
    FOLLOWED,
    LINES,
    ROLLOUTS,
    Change,
    Origin,
    RunRecord,
    changed,
    differences,
    load_run,
    refuse_newer,
    rollouts,
)
from vpdlab.record.changes import parse
from vpdlab.record.folder import prepare, write_json, write_lines
from vpdlab.record.schema import SCHEMA
from vpdlab.run.checkpoint import Checkpoints, Saved
from vpdlab.run.resume import record_fault, settings

INPUTS = ("task", "data", "task_args", "environment", "environment_args", "templates", "chat_args", "method", "sampler")
"""Settings whose content a checkpoint has sums of (`Keeper.inputs`): a branch that changes one has its own inputs."""


@dataclass(frozen=True)
class Fork:
    """A checkpoint of a recorded run, as the beginning of another one.

    Attributes:
        record: the original run.
        saved: its checkpoint, whose checksums match.
        config: the settings that the original run had there.
    """

    record: RunRecord
    saved: Saved
    config: RunConfig

    @property
    def step(self) -> int:
        """The last iteration that both runs share."""
        return self.saved.step


def find_fork(place: str | Path) -> Fork:
    """The fork that `runs/x@40` names, or `runs/x`: the newest usable checkpoint of that run.

    Raises:
        UserError: there is no run, no such checkpoint, or it cannot be used; the message names those that exist.
    """
    name, step = _named(str(user_path("the run to branch", place)))
    folder = Path(name)
    record = load_run(folder)
    refuse_newer(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    there = ", ".join(map(str, reversed(checkpoints.steps()))) or "none"
    if step is None:
        saved, rejected = checkpoints.newest(lambda one: record_fault(folder, one))
        for line in rejected:
            notice(printable(line))
        if saved is None:
            raise UserError(f"{folder} has no checkpoint to branch from: it has {there}")
    else:
        if step not in checkpoints.steps():
            raise UserError(f"{folder} has no checkpoint of step {step}: it has {there}")
        found = checkpoints.read(step)
        fault = found if isinstance(found, str) else record_fault(folder, found)
        if isinstance(found, str) or fault:
            raise UserError(f"{checkpoints.place(step)} cannot be used: {fault}")
        saved = found
    config = changed(RunConfig.make(**saved.state["config"]), parse(saved.state.get("changes", ())))
    return Fork(record, saved, config.but(resume=False, resume_anyway=False))


def _named(place: str) -> tuple[str, int | None]:
    name, at, step = place.rpartition("@")
    if not at or Path(place).is_dir():
        return place, None
    if not re.fullmatch(r"[0-9]{1,9}", step):
        raise UserError(f"from is {place!r}: write RUN@STEP, for instance runs/x@40, or RUN for its newest checkpoint")
    return name, int(step)


def default_out(fork: Fork) -> str:
    """The folder of a branch that was given none: beside the original, RUN-from-STEP."""
    folder = fork.record.folder.resolve()
    return str(folder.with_name(f"{folder.name[:52]}-from-{fork.step}"))


def begin(fork: Fork, config: RunConfig) -> None:
    """Write the folder of a branch, `config.folder`, which holds no run yet; resuming it trains the branch.

    Args:
        config: the branch's settings.

    Raises:
        UserError: the folder holds a run already, or the original record is damaged.
        RunFailed: it cannot be written.
    """
    if config.steps < fork.step:
        raise UserError(f"steps is {config.steps}, but the branch begins after step {fork.step}: raise steps")
    for name in ("model", "lora_rank"):
        if (then := getattr(fork.config, name)) != (now := getattr(config, name)):
            raise UserError(f"{name} is {now}, but the weights at {fork.saved.path} are of {name} {then}: leave it out")
    prepare(config.folder)
    config = RunConfig(**settings(config))
    try:
        with staged_folder(config.folder) as staged:
            marks = _history(fork, staged)
            _checkpoint(fork, config, staged / "checkpoints" / fork.saved.path.name, marks)
            _describe(fork, config, staged)
    except OSError as error:
        raise RunFailed(f"cannot write the branch {config.folder}: {reason(error)}") from error


def _history(fork: Fork, folder: Path) -> dict[str, int]:
    """The lines and rollouts up to the fork; returns the sizes that the checkpoint's state records."""
    marks = {"step": fork.step}
    for name in LINES:
        write_lines(folder / name, fork.record.lines(name, fork.saved.state["record"][name]))
        marks[name] = (folder / name).stat().st_size
    for name in (ROLLOUTS, FOLLOWED):
        (folder / name).mkdir()
        for line in rollouts.extract(fork.record.folder / name, folder / name, fork.step):
            notice(printable(line))
    return marks


def _checkpoint(fork: Fork, config: RunConfig, place: Path, marks: dict[str, int]) -> None:
    """A copy of the checkpoint, whose state names the branch's settings. Raises UserError where a byte changed."""
    place.mkdir(parents=True)
    for file in sorted(fork.saved.path.glob("*.safetensors")):
        shutil.copyfile(file, place / file.name, follow_symlinks=False)
    then = RunConfig().to_dict() | fork.saved.state["config"]
    own = any(then[name] != config.to_dict()[name] for name in INPUTS)
    inputs = {} if own else fork.saved.state["inputs"]
    state = fork.saved.state | {"config": settings(config), "changes": [], "record": marks, "inputs": inputs}
    if config.beta != fork.config.beta:
        state["beta"] = config.beta
    (place / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    manifest.write(place)
    before, now = (json.loads((one / manifest.NAME).read_text())["files"] for one in (fork.saved.path, place))
    for name in now.keys() - {"state.json"}:
        if now[name] != before[name]:
            raise UserError(f"{fork.saved.path / name} changed while it was copied: branch again")


def _describe(fork: Fork, config: RunConfig, folder: Path) -> None:
    """config.json, environment.json with the origin, and a status that says where the branch stands."""
    environment: dict[str, Any] = {
        **fork.record.environment,
        "schema": SCHEMA,
        "origin": origin(fork, config).to_dict(),
    }
    now = time.time()
    status = {
        "state": "stopped",
        "reason": "branched",
        "step": fork.step,
        "final": None,
        "started": now,
        "updated": now,
    }
    write_json(folder / "environment.json", environment)
    write_json(folder / "status.json", {**status, "pid": None})
    write_json(folder / "config.json", settings(config), durable=True)


def origin(fork: Fork, config: RunConfig) -> Origin:
    """Where a branch with these settings comes from."""
    before = fork.record.origin
    names = [name for name in HINTS if name not in ("out", "resume", "resume_anyway")]
    seen: list[Change] = parse(fork.saved.state.get("changes", ()))
    changes = [*(before.changes if before else ()), *seen, *differences(fork.config, config, fork.step, names)]
    return Origin(fork.record.folder.resolve().name, fork.step, tuple(changes), before)
