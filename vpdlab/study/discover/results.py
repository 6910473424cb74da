"""discover.jsonl: a line for each method, problem and seed, written once that search has ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError, reason, shown
from vpdlab.files import fsync
from vpdlab.record import refuse_links, refuse_within

LINES, SETTINGS = "discover.jsonl", "discover.json"


@dataclass(frozen=True)
class Found:
    """How one search ended.

    Attributes:
        method, problem, seed: which search.
        attempts: up to and including the first success; None where the limit came first.
        tokens: sampled in these attempts, or in all.
        seconds: wall time, the rest of the last batch included.
    """

    method: str
    problem: str
    seed: int
    attempts: int | None
    tokens: int
    seconds: float


class Results:
    """The results in a folder, and their settings, which are written with the first result.

    Args:
        folder: made where it is missing.
        settings: what the results depend on, beside method, problem and seed.

    Raises:
        UserError: where the folder has results of other settings, or a line that is none.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        refuse_within(folder)
        refuse_links(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {reason(error)}") from error
        self._path, self._settings_path, self._settings = folder / LINES, folder / SETTINGS, settings
        if self._path.exists() and not self._settings_path.is_file():
            raise UserError(
                f"{folder} has {LINES} without {SETTINGS}, which says how it was made: choose another --out"
            )
        if self._settings_path.is_file():
            _refuse_others(self._settings_path, settings)
        self.found = list(read(self._path)) if self._path.exists() else []
        if self._path.exists():  # what a kill has left of a line would spoil the next one
            self._path.write_text("".join(map(_line, self.found)), encoding="utf-8")
        self.done = {(one.method, one.problem, one.seed) for one in self.found}

    def of(self, methods: Sequence[str], seeds: Sequence[int]) -> list[Found]:
        """The results of these methods and seeds, in the methods' order."""
        return [one for name in methods for one in self.found if one.method == name and one.seed in seeds]

    def add(self, found: Found) -> None:
        """Append one line, which is on disk when this returns.

        Raises:
            UserError: another search has begun in the folder meanwhile, with other settings.
        """
        if self._settings_path.is_file():
            _refuse_others(self._settings_path, self._settings)
        else:
            self._settings_path.write_text(json.dumps(dict(self._settings), indent=2) + "\n", encoding="utf-8")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(found))
        fsync(self._path)
        self.found.append(found)


def _refuse_others(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    now = json.loads(json.dumps(dict(settings)))
    other = [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]
    if other:
        was = before.get(other[0]) if isinstance(before, dict) else None
        raise UserError(
            f"{path} has results with {other[0]} {shown(was)}, not {shown(now[other[0]])}: choose another --out"
        )


def read(path: Path) -> Iterator[Found]:
    """The lines of a discover.jsonl; one that a kill has cut at the end of the file is left out.

    Raises:
        UserError: for any other line that is no result; the message names it.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _read(json.loads(line))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                return
            raise UserError(f"{path}, line {number}: {error}") from error


def _read(row: Any) -> Found:
    found = Found(**row)
    if not isinstance(found.attempts, int | None) or (found.attempts is not None and found.attempts < 1):
        raise ValueError(f"attempts is {shown(found.attempts)}, but must be a whole number from 1, or null")
    numbers = {"seed": found.seed, "tokens": found.tokens, "seconds": found.seconds}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            raise ValueError(f"{name} is {shown(value)}, but must be a number from 0")
    for name, value in {"method": found.method, "problem": found.problem}.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {shown(value)}, but must be text")
    return found


def _line(found: Found) -> str:
    return json.dumps(asdict(found)) + "\n"
