"""A task of one's own: a file of prompts, and a Python function that judges a response.

    vpdlab train --task own --data prompts.jsonl --task_args verify=my_task.py:verify

Each item is an object with ``prompt`` (what the student reads) and, where there is one, ``answer`` (the reference,
never shown to the student), ``system`` and ``id``; every other field goes to ``problem.data`` for the function to use.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks import drop_duplicates
from vpdlab.tasks.reading import read_splits, shown
from vpdlab.types import Outcome, Problem, Rollout

Verify = Callable[[str, Problem], Any]
"""(response, problem) -> an Outcome, or a number in [0, 1], True or False, or (one of these, notes)."""


class Own:
    """Problems from a file, judged by a function.

    Args:
        data: a file of items (.jsonl, .json lines, .parquet), a folder with train and test files, or a data set's name.
        verify: the function, or where it is: `file.py:name` or `package.module:name`.
        heldout: share of the items that is held out where the data comes as one piece, in (0, 1).
        split_seed: picks them.

    Raises:
        UserError: for data or a function that cannot be found; a bad item is named by file, line and field.
    """

    name = "own"

    def __init__(self, data: str = "", verify: str | Verify = "", heldout: float = 0.1, split_seed: int = 0) -> None:
        if not data or not verify:
            raise UserError(
                "task own needs data and a function: --data prompts.jsonl --task_args verify=my_task.py:verify"
            )
        if not 0 < heldout < 1:
            raise UserError(f"task own: heldout is {heldout!r}, but must lie between 0 and 1")
        self._verify = find_function(verify) if isinstance(verify, str) else verify
        found = read_splits("task own", data, None)
        pieces = {split: _problems(split, place, rows) for split, (place, rows) in found.items()}
        train, test, said = drop_duplicates(pieces.get("train", []), pieces.get("test", []))
        if "test" not in pieces:
            if len(train) < 2:
                raise UserError(f"task own: {len(train)} item(s) in {data} cannot be split into train and test")
            order = sorted(train, key=lambda problem: random.Random(f"{split_seed}\n{problem.prompt}").random())
            count = min(max(1, round(heldout * len(order))), len(order) - 1)
            chosen = {problem.id for problem in order[:count]}
            train, test = [p for p in train if p.id not in chosen], [p for p in train if p.id in chosen]
        self._problems = {"train": train, "test": test}
        words = [f"own: {len(train)} train, {len(test)} test problems from {data}", *([said] if said else [])]
        self.summary = "; ".join(words)

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test"."""
        return self._problems[split]

    def verify(self, rollout: Rollout) -> Outcome:
        """What the function says of a response. Raises UserError, with the problem, where it fails or says nothing."""
        problem = rollout.problem
        try:
            return as_outcome(self._verify(rollout.text, problem))
        except Exception as error:  # it is the user's code: whatever it raises is told with the place, never a reward
            raise UserError(f"verify failed on problem {problem.id}: {type(error).__name__}: {error}") from error


def as_outcome(value: Any) -> Outcome:
    """What a user's function may return, as an Outcome: an Outcome, a number, True or False, or (one of these, notes).

    >>> as_outcome((True, "The sum is right.")).reward
    1.0
    """
    notes = None
    if isinstance(value, tuple) and len(value) == 2:
        value, notes = value
    if isinstance(value, Outcome):
        return value
    if not isinstance(value, bool | int | float) or not isinstance(notes, str | None):
        raise TypeError(f"it returned {shown(value)}: return an Outcome, a number in [0, 1], or (number, notes)")
    return Outcome(float(value), notes)


def find_function(where: str) -> Verify:
    """The function at `file.py:name` or `package.module:name`."""
    module, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier():
        raise UserError(f"verify is {where!r}: write file.py:function or package.module:function")
    try:
        loaded = _load_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except Exception as error:  # importing runs the user's code
        raise UserError(f"verify: {module} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        raise UserError(f"verify: {module} has no function {name!r}")
    return function


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"vpdlab_own_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look it up
    spec.loader.exec_module(module)
    return module


def _problems(split: str, place: str, rows: Iterable[tuple[str, Any]]) -> list[Problem]:
    problems: list[Problem] = []
    used: set[str] = set()
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{place} {where}: expected an object with a prompt, found {shown(row)}")
        texts = {}
        for field in ("prompt", "answer", "system", "id"):
            value = row.get(field)
            if field in ("answer", "id") and isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if value is not None and not isinstance(value, str):
                raise UserError(f"{place} {where}: field {field!r} is {shown(value)}, but must be text")
            texts[field] = value or ""
        if not texts["prompt"].strip():
            raise UserError(f"{place} {where}: field 'prompt' is missing: it must be what the student reads")
        name = texts["id"] or f"{split}-{where.replace(' ', '')}"
        if name in used:
            raise UserError(f"{place} {where}: the id {name!r} stands twice")
        used.add(name)
        data = {key: value for key, value in row.items() if key not in texts}
        problems.append(Problem(name, texts["prompt"], texts["answer"], texts["system"], data))
    return problems
