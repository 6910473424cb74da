"""A task of one's own: a file of prompts, and a Python function that judges a response.

    vpdlab train --task own --data prompts.jsonl --task_args verify=my_task.py:verify

Each item is an object with ``prompt`` (what the student reads) and, where there is one, ``answer`` (the reference,
never shown to the student), ``system`` and ``id``; every other field goes to ``problem.data`` for the function to use.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import inspect
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError
from vpdlab.paths import user_path
from vpdlab.tasks.common.guard import JUDGE, Guest, in_a_line, surroundings_kept, waited_for
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.outcomes import as_outcome
from vpdlab.tasks.common.reading import read_splits, shown
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, split_of
from vpdlab.types import Outcome, Problem, Rollout

Verify = Callable[[str, Problem], Any]
"""(response, problem) -> an Outcome, or a number in [0, 1], True or False, or (one of these, notes); a coroutine of one
of these is waited for."""


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

    @typed_options
    def __init__(self, data: str = "", verify: str | Verify = "", heldout: float = 0.1, split_seed: int = 0) -> None:
        if not data or not verify:
            raise UserError(
                "task own needs data and a function: --data prompts.jsonl --task_args verify=my_task.py:verify"
            )
        if not 0 < heldout < 1:
            raise UserError(f"task own: heldout is {heldout!r}, but must lie between 0 and 1")
        self._verify = find_function(verify) if isinstance(verify, str) else verify
        check_call(self._verify)
        # Their source tells whether responses are still judged alike.
        self.judge, self.judge_modules = inspect.unwrap(self._verify), getattr(self._verify, "modules", {})
        found = read_splits("task own", data, None)
        pieces = {split: _problems(split, place, rows) for split, (place, rows) in found.items()}
        train, test, said = drop_duplicates(
            pieces.get("train", []), pieces.get("test", []), told=lambda problem: (problem.answer, problem.data)
        )
        if "test" not in pieces:
            train, test = hold_out("own", train, heldout, split_seed)
        self._problems = {"train": train, "test": test}
        words = [f"own: {len(train)} train, {len(test)} test problems from {data}", *([said] if said else [])]
        self.summary = "; ".join(words)

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test". Raises UserError for another name or an empty split."""
        return split_of("own", self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """What the function says of a response. Raises UserError, with the problem, where it fails or says nothing."""
        problem = rollout.problem
        try:
            with surroundings_kept():
                own = replace(problem, data=copy.deepcopy(dict(problem.data)))  # which the function may change
                return as_outcome(_finished(self._verify(rollout.text, own)))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # whatever the user's code raises, sys.exit included, is told and never a reward
            file = getattr(getattr(inspect.unwrap(self._verify), "__code__", None), "co_filename", "")
            raise UserError(f"verify failed on problem {problem.id}: {in_a_line(error, file)}") from error


def find_function(where: str) -> Verify:
    """The function at `file.py:name` or `package.module:name`, called as if its folder were that of the script.

    A module is looked for in the working folder, too.
    """
    module, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier() or not module:
        raise UserError(f"verify is {where!r}: write file.py:function or package.module:function")
    path = user_path("verify", module) if module.endswith(".py") else None
    guest = Guest(path.absolute().parent if path else Path.cwd())
    with surroundings_kept(), guest.inside():
        try:
            if path and not path.is_file():
                raise FileNotFoundError(f"there is no file {module}")
            loaded = _load_file(path.absolute()) if path else importlib.import_module(module)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # importing runs the user's code
            said = in_a_line(error, str(path.absolute()) if path else "")
            raise UserError(f"verify: {module} cannot be imported: {said}") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        other = getattr(loaded, "__file__", "built in")  # the standard library has a module of that name, perhaps
        hint = f" (it is {other}; for the file here write {module}.py:{name})" if Path(f"{module}.py").is_file() else ""
        raise UserError(f"verify: {module} has no function {name!r}{'' if path else hint}")

    def called(response: str, problem: Problem) -> Any:
        with guest.inside():
            return _finished(function(response, problem))

    called.__wrapped__ = function  # type: ignore[attr-defined]  # its signature, for whoever asks
    called.modules = guest.modules  # type: ignore[attr-defined]  # what it has imported from its own folder
    return called


def _finished(found: Any) -> Any:
    return waited_for(found) if inspect.isawaitable(found) else found


def check_call(function: Verify) -> None:
    """Raises UserError for a function that cannot be called with a response and a problem."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions have none
        return
    try:
        signature.bind("", None)
    except TypeError as error:
        raise UserError(f"verify takes {signature}, but is called as verify(response, problem): {error}") from error


def _load_file(path: Path) -> Any:
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"{JUDGE}{path.stem}_{digest}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _problems(split: str, place: str, rows: Iterable[tuple[str, Any]]) -> list[Problem]:
    problems: list[Problem] = []
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{place} {where}: expected an object with a prompt, found {shown(row)}")
        texts = {}
        for field in ("prompt", "answer", "system", "id"):
            value = row.get(field)
            if field in ("answer", "id") and isinstance(value, numbers.Real) and not isinstance(value, bool):
                value = str(value)
            if value is not None and not isinstance(value, str):
                raise UserError(f"{place} {where}: field {field!r} is {shown(value)}, but must be text")
            texts[field] = value or ""
        if not texts["prompt"].strip():
            raise UserError(f"{place} {where}: field 'prompt' is missing: it must be what the student reads")
        name = texts["id"] or f"{split}-{where.replace(' ', '')}"
        data = {key: value for key, value in row.items() if key not in texts}
        problems.append(Problem(name, texts["prompt"], texts["answer"], texts["system"], data))
    return problems
