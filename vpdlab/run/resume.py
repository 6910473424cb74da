"""Resuming a run: which checkpoint it starts from, and which settings must not have changed.

Problems and random streams are functions of the seed and the iteration, so the position in the data is the step. What
else is carried from step to step is in `keeper.Keeper.save`: a test holds that a resumed run ends in the same weights
as an undisturbed one, bit for bit (on a GPU with `deterministic`, else up to rounding).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from vpdlab.config import FREE, LIVE, RunConfig
from vpdlab.errors import HANDED_IN, UserError, notice, part_name
from vpdlab.net import printable
from vpdlab.record import LINES, Change, RunRecord, changed, checks, differences, refuse_newer, state_of
from vpdlab.record.changes import EVENTS, parse
from vpdlab.run.checkpoint import Checkpoints, Saved
from vpdlab.run.lock import locked


def settings(config: RunConfig) -> dict[str, Any]:
    """The config as it is recorded: that a run was resumed is no property of the run."""
    return dataclasses.replace(config, resume=False, resume_anyway=False).to_dict()


def find(config: RunConfig) -> Saved | None:
    """The checkpoint that a run resumes from; None where its folder holds no run yet. Reports the ones it rejects.

    Raises:
        UserError: where there is a run and none of its checkpoints can be used, or the settings do not fit.
    """
    folder = config.folder
    refuse_newer(folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    begun = (folder / "config.json").exists() or any((folder / name).exists() for name in LINES)
    if not begun and not any(checkpoints.steps()):  # that of step 0 alone was left by a run killed before it began
        print(f"{folder} holds no run yet: starting a new one", flush=True)
        return None
    with locked(folder):
        saved, rejected = checkpoints.newest(lambda one: record_fault(folder, one))
    if saved is None:
        why = f"none of its checkpoints can be used: {'; '.join(rejected)}" if rejected else "it has no checkpoint"
        raise UserError(
            f"{folder} holds a run ({state_of(folder)}) that cannot be resumed, since {why}; nothing was changed:"
            " remove the folder to start a new run, or choose another folder with out"
        )
    for line in rejected:
        print(printable(line), flush=True)
    refuse_changes(config, saved)
    print(f"{folder}: resuming from step {saved.step} of {config.steps}", flush=True)
    return saved


def record_fault(folder: Path, saved: Saved) -> str:
    """Why the record cannot be cut back to a checkpoint; "" where it can."""
    for name in LINES:
        size, mark = (folder / name).stat().st_size if (folder / name).exists() else 0, saved.state["record"][name]
        if size < mark:
            return f"{name} has {size} bytes, but had {mark} when it was saved"
    try:
        rows, _ = recorded(folder, saved)
        seen = parse(saved.state.get("changes", ()))
        if RunRecord(folder).own_changes(saved.step)[: len(seen)] != seen:
            return f"{EVENTS} has changed since"
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


def followed(folder: Path, step: int) -> list[dict[str, Any]]:
    """What followed responses scored up to an iteration, as `first_and_last`; a line says where it cannot be read."""
    try:
        run = RunRecord(folder)
        return first_and_last(run, {at: found for at, found in run.followed_numbers().items() if at <= step})
    except UserError as error:
        notice(f"{error}; its responses are not followed any more")
        return []


def first_and_last(run: RunRecord, points: Mapping[int, set[int]]) -> list[dict[str, Any]]:
    """Of some points (`RunRecord.followed_numbers`), those at which a followed response was scored first, and the last
    one: enough to go on with them. Raises UserError for a damaged file."""
    seen, wanted = set[int](), set(list(points)[-1:])
    for at, numbers in points.items():
        if not numbers <= seen:
            wanted.add(at)
        seen |= numbers
    return run.followed(sorted(wanted))


@dataclasses.dataclass(frozen=True)
class Replay:
    """Settings that were changed while a run went on, seen from the checkpoint that it resumes from.

    Attributes:
        begun: what the run began with.
        seen: the changes before the checkpoint was saved.
        later: those right after it, and then what the resumed run is asked to change (`asked`).
    """

    begun: RunConfig
    seen: tuple[Change, ...] = ()
    later: tuple[Change, ...] = ()
    asked: tuple[Change, ...] = ()


def replay(config: RunConfig, saved: Saved) -> Replay:
    """The changes of the run that `config` resumes from a checkpoint."""
    then = {name: saved.state["config"][name] for name in LIVE if name in saved.state["config"]}
    begun, seen = config.but(**then), parse(saved.state.get("changes", ()))
    recorded = RunRecord(config.folder).own_changes(saved.step)
    now = changed(begun, recorded)
    wanted = {change.setting: change.now for change in differences(begun, config, saved.step)}  # --resume-anyway
    asked = differences(now, now.but(**wanted), saved.step)
    return Replay(begun, tuple(seen), tuple([*recorded[len(seen) :], *asked]), tuple(asked))


def refuse_changes(config: RunConfig, saved: Saved) -> None:
    """Raises UserError, naming them, for result-affecting settings that differ from the checkpoint's."""
    then, now = RunConfig().to_dict() | saved.state["config"], config.to_dict()
    for name in ("task", "method", "sampler", "model"):
        if str(then[name]).startswith(HANDED_IN) and now[name] != then[name]:
            part = {"model": "policy"}.get(name, name)
            raise UserError(
                f"{config.folder} began with a {part} that was passed from Python"
                f" ({part_name(then[name])}): resume it in Python with Run.open(config, {part}=...)"
            )
    free = set(FREE)
    if config.method == "reweight" and not config.reweight_steps:
        free.remove("steps")  # the teacher's share decays over the whole run
    if config.e_patience:
        free.remove("eval_every")  # evaluations decide when E-steps end
    changed = other_settings(then, now, free)
    if changed and not config.resume_anyway:
        raise UserError(
            f"{config.folder} began with {', '.join(changed)}: result-affecting settings changed; restore them, or add"
            " --resume-anyway"
        )
    if config.steps < saved.step:
        raise UserError(f"steps is {config.steps}, but {config.folder} is at step {saved.step} already")


def other_settings(then: Mapping[str, Any], now: Mapping[str, Any], free: Set[str] = FREE) -> list[str]:
    """The settings that differ, with both values; not those in `free`."""
    names = [name for name in now if then[name] != now[name] and name not in free]
    return [f"{name} {_show(then[name])} (now {_show(now[name])})" for name in names]


def _show(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value) or "''"
