"""Trackers: a run's metrics in tensorboard, trackio or wandb as well, through accelerate's wrappers.

Off unless `tracker` names one. The run folder remains the record: a row reaches the tracker once it is on disk, and a
tracker that fails is reported and disabled, since a lost connection must not end hours of training.

accelerate's wrappers read its global process state and thereby create it for the whole process. Here it exists only for
the duration of a call, unless it existed before.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vpdlab.errors import UserError
from vpdlab.record import Recorder, flat

NEEDS = {"tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",), "wandb": ("wandb",)}
PROJECT = "vpdlab"


def check_tracker(name: str) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    if name and not any(importlib.util.find_spec(package) for package in NEEDS[name]):
        raise UserError(f"tracker {name} needs a package that is not installed: pip install {NEEDS[name][0]}")


@contextmanager
def tracked(name: str, recorder: Recorder | None, config: Mapping[str, Any], step: int) -> Iterator[None]:
    """Within the block, everything that is recorded is also sent to a tracker.

    Args:
        name: of the tracker; "" for none.
        recorder: writes the run folder; None where nothing is recorded.
        config: the run's settings.
        step: the iteration that the run resumes after; 0 for a new run.
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
        numbers = {f"{prefix}{key}": value for key, value in flat(row).items() if isinstance(value, int | float)}
        try:
            with _state():
                tracker.log(numbers, step=row["step"])
        except Exception as error:  # noqa: BLE001 (a tracker may raise anything; reported, and the run continues)
            recorder.followers.remove(follow)
            print(f"tracker {name} failed and was disabled at step {row['step']}: {error!r}", file=sys.stderr)

    recorder.followers.append(follow)
    try:
        yield
    finally:
        with _state():
            tracker.finish()


def _make(name: str, recorder: Recorder, step: int) -> Any:
    from accelerate import tracking

    folder = recorder.folder
    if name == "tensorboard":  # a resumed run overwrites what came after its checkpoint
        return tracking.TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else None)
    resume = "allow" if step else "never"
    if name == "wandb":
        run_id = f"{folder.name}-{int(recorder.started):x}"  # the same id when the run is resumed
        return tracking.WandBTracker(PROJECT, name=folder.name, id=run_id, dir=str(folder), resume=resume)
    return tracking.TrackioTracker(PROJECT, name=folder.name, resume=resume)


@contextmanager
def _state() -> Iterator[None]:
    from accelerate.state import PartialState

    before = bool(PartialState._shared_state)
    if not before:
        PartialState(cpu=True)  # only the process index is needed: no device is taken
    try:
        yield
    finally:
        if not before:
            PartialState._reset_state()


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
