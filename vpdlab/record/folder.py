"""Begin a run folder: only where there is none yet, never through a link, with clear errors."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vpdlab.errors import RunFailed, UserError
from vpdlab.files import read_small, staged_file
from vpdlab.record import checks
from vpdlab.record.reader import load_run, state_of
from vpdlab.record.schema import FOLLOWED, LINES, ROLLOUTS


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn disk errors (full, gone, read-only) into RunFailed with the file's name."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror or error}") from error
    except SafetensorError as error:  # safetensors wraps disk errors
        raise RunFailed(f"cannot write {path}: {error}") from error


def refuse_links(folder: Path) -> None:
    """Raises UserError for a link, pipe or device in a folder about to be written, since it could redirect our writes.
    The folder itself may be a link: that is the user's choice."""
    waiting = [folder] if folder.is_dir() else []
    for place in waiting:
        try:
            with os.scandir(place) as there:
                entries = list(there)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{place} cannot be read: {error.strerror or error}") from error
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # the run's writer has renamed it meanwhile
                continue
            if stat.S_ISDIR(found.st_mode):
                waiting.append(Path(entry.path))
            elif not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                kind = "a link" if entry.is_symlink() or found.st_nlink > 1 else "no ordinary file"
                raise UserError(f"{entry.path} is {kind}, and a run is written into files of its own: remove it")


def prepare(folder: Path) -> None:
    """Make the folder of a new run. Raises UserError if it cannot be written, already holds a run or lies in one's."""
    refuse_within(folder)
    refuse_links(folder)
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


def holds_settings(folder: Path) -> bool:
    """Whether a folder has a run's config.json. Model folders have a config.json too, with other fields."""
    try:
        found = checks.parse(read_small(folder / "config.json").decode("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"task", "method", "group"} <= found.keys()


def refuse_within(folder: Path) -> None:
    """Raises UserError for a folder below that of a run, whose files are the run's own: they are checked, cut back on
    resume, and removed together."""
    for above in folder.resolve().parents:
        if holds_settings(above):
            raise UserError(f"{folder} lies in the folder of the run {above}: choose another folder")


def refuse_taken(folder: Path) -> None:
    """Raises UserError if a folder already holds a run."""
    if (folder / "config.json").exists():
        raise UserError(
            f"{folder} already holds a run ({state_of(folder)}): choose another folder with out, remove this one, or"
            " continue it with resume"
        )
    left = [folder / name for name in LINES if (folder / name).exists()]
    left += [path for name in (ROLLOUTS, FOLLOWED) for path in sorted((folder / name).glob("step*-*"))]
    left += [path for path in (folder / "checkpoints").glob("step-*") if path.name != "step-000000"]
    if left:
        raise UserError(
            f"{folder} holds {left[0].relative_to(folder)} of an earlier run, but no config.json: choose another folder"
            " with out, or remove this one"
        )


def mark_stopped(folder: Path) -> None:
    """Set a run's status from running to stopped, once its process is known to have died."""
    refuse_links(folder)
    status = load_run(folder).status
    if status["state"] == "running":
        write_json(folder / "status.json", status | {"state": "stopped", "reason": "its process was ended"})


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Replace a small file of JSON lines atomically. Raises RunFailed if it cannot be written."""
    with writing(path), staged_file(path) as staged:
        staged.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Replace a small JSON file atomically. Raises RunFailed if it cannot be written."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with writing(path), staged_file(path, durable) as staged:
        staged.write_text(text, encoding="utf-8", errors="backslashreplace")  # lone surrogates are escaped
