"""Trackers: a run's numbers in tensorboard, trackio or wandb as well, by accelerate's own wrappers of them.

Off unless `tracker` names one. The run folder stays the record: a tracker hears of a line once it is on the disk, and
one that fails is told and left behind, since no hours of training should end with a lost connection.

accelerate's wrappers ask its global state which process they are in, and so create it for everybody. Here it is there
for the length of a call and gone afterwards, unless it was there before.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vpdlab.errors import UserError
from vpdlab.record import Recorder

NEEDS = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}
PROJECT = "vpdlab"


def check_tracker(name: str) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    if name and not any(importlib.util.find_spec(package) for package in NEEDS[name]):
        raise UserError(f"tracker {name} needs a package that is not here: pip install {NEEDS[name][0]}")


@contextmanager
def tracked(name: str, recorder: Recorder | None, config: Mapping[str, Any], step: int) -> Iterator[None]:
    """Within the block, the tracker `name` hears of all that is recorded; "" for none.

    Args:
        step: the iteration after which the run goes on; 0 for one from its start.
    """
    if not name or recorder is None:
        yield
        return
    tracker = _make(name, recorder, step)
    with _state():
        tracker.start()
        tracker.store_init_configuration({key: _flat(value) for key, value in config.items()})

    def follow(kind: str, row: Mapping[str, Any]) -> None:
        prefix = "eval/" if kind == "eval" else ""
        numbers = {f"{prefix}{key}": value for key, value in row.items() if isinstance(value, int | float)}
        try:
            with _state():
                tracker.log(numbers, step=row["step"])
        except Exception as error:  # noqa: BLE001 (whatever a tracker's server can raise; told, and the run goes on)
            recorder.followers.remove(follow)
            print(f"tracker {name} is left behind at step {row['step']}: {error!r}", file=sys.stderr)

    recorder.followers.append(follow)
    try:
        yield
    finally:
        with _state():
            tracker.finish()


def _make(name: str, recorder: Recorder, step: int) -> Any:
    from accelerate import tracking

    folder = recorder.folder
    if name == "tensorboard":  # a resumed run writes over what came after its checkpoint
        return tracking.TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else None)
    resume = "allow" if step else "never"
    if name == "wandb":
        mark = f"{folder.name}-{int(recorder.started):x}"  # the same again when the run is resumed
        return tracking.WandBTracker(PROJECT, name=folder.name, id=mark, dir=str(folder), resume=resume)
    return tracking.TrackioTracker(PROJECT, name=folder.name, resume=resume)


@contextmanager
def _state() -> Iterator[None]:
    from accelerate.state import PartialState

    before = bool(PartialState._shared_state)
    if not before:
        PartialState(cpu=True)  # it is asked for the process's number only: no device is taken
    try:
        yield
    finally:
        if not before:
            PartialState._reset_state()


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
