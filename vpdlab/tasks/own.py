"""User-defined tasks: a file of prompts, and a Python function that judges a response.

    vpdlab train --task own --data prompts.jsonl --task_args verify=my_task.py:verify

Each item is an object with ``prompt`` (what the student reads) and optionally ``answer`` (the reference, never shown to
the student), ``system`` and ``id``; all other fields go to ``problem.data`` for the function to use.
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
from vpdlab.tasks.common.guard import JUDGE, Guest, raised_in_one_line, surroundings_kept, waited_for
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.outcomes import as_outcome
from vpdlab.tasks.common.reading import read_splits, shown
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, split_of
from vpdlab.types import Outcome, Problem, Rollout

Verify = Callable[[str, Problem], Any]
"""(response, problem) -> an Outcome, a number in [0, 1], True or False, or (one of these, notes); a coroutine is
awaited."""


class Own:
    """Problems from a file, judged by a function.

    Args:
        data: a file of items (.jsonl, .json lines, .parquet), a folder with train and test files, or a data set's name.
        verify: the function, or its location: `file.py:name` or `package.module:name`.
        heldout: share of the items to hold out if the data has no test split, in (0, 1).
        split_seed: random seed of the held-out items.

    Raises:
        UserError: for missing data or a missing function; the message names file, line and field of an invalid item.
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
        # Their source shows on resume whether responses are still judged the same way.
        self.judge, self.judge_modules = inspect.unwrap(self._verify), getattr(self._verify, "modules", {})
        splits = read_splits("task own", data, None)
        pieces = {split: _problems(split, origin, rows) for split, (origin, rows) in splits.items()}
        train, test, dropped = drop_duplicates(
            pieces.get("train", []), pieces.get("test", []), agree_on=lambda problem: (problem.answer, problem.data)
        )
        if "test" not in pieces:
            train, test = hold_out("own", train, heldout, split_seed)
        self._problems = {"train": train, "test": test}
        parts = [f"own: {len(train)} train, {len(test)} test problems from {data}", *([dropped] if dropped else [])]
        self.summary = "; ".join(parts)

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test". Raises UserError for another name or an empty split."""
        return split_of("own", self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """The function's outcome. Raises UserError, naming the problem, if it fails or returns nothing usable."""
        problem = rollout.problem
        try:
            with surroundings_kept():
                own = replace(problem, data=copy.deepcopy(dict(problem.data)))  # the function may change it
                return as_outcome(_finished(self._verify(rollout.text, own)))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # whatever user code raises, including sys.exit, is reported and never a reward
            file = getattr(getattr(inspect.unwrap(self._verify), "__code__", None), "co_filename", "")
            raise UserError(f"verify failed on problem {problem.id}: {raised_in_one_line(error, file)}") from error


def find_function(where: str) -> Verify:
    """The function at `file.py:name` or `package.module:name`, called as if its folder were that of the script.

    Modules are also searched in the working folder.
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
            why = raised_in_one_line(error, str(path.absolute()) if path else "")
            raise UserError(f"verify: {module} cannot be imported: {why}") from error
    function = getattr(loaded, name, None)
    if not callable(function):
        other = getattr(loaded, "__file__", "built in")  # perhaps a module of the standard library
        hint = f" (it is {other}; for the file here write {module}.py:{name})" if Path(f"{module}.py").is_file() else ""
        raise UserError(f"verify: {module} has no function {name!r}{'' if path else hint}")

    def called(response: str, problem: Problem) -> Any:
        with guest.inside():
            return _finished(function(response, problem))

    called.__wrapped__ = function  # type: ignore[attr-defined]  # for its signature
    called.modules = guest.modules  # type: ignore[attr-defined]  # its imports from its own folder
    return called


def _finished(value: Any) -> Any:
    return waited_for(value) if inspect.isawaitable(value) else value


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


def _problems(split: str, origin: str, rows: Iterable[tuple[str, Any]]) -> list[Problem]:
    problems: list[Problem] = []
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{origin} {where}: expected an object with a prompt, found {shown(row)}")
        texts = {}
        for field in ("prompt", "answer", "system", "id"):
            value = row.get(field)
            if field in ("answer", "id") and isinstance(value, numbers.Real) and not isinstance(value, bool):
                value = str(value)
            if value is not None and not isinstance(value, str):
                raise UserError(f"{origin} {where}: field {field!r} is {shown(value)}, but must be text")
            texts[field] = value or ""
        if not texts["prompt"].strip():
            raise UserError(f"{origin} {where}: field 'prompt' is missing: it must be what the student reads")
        name = texts["id"] or f"{split}-{where.replace(' ', '')}"
        data = {key: value for key, value in row.items() if key not in texts}
        problems.append(Problem(name, texts["prompt"], texts["answer"], texts["system"], data))
    return problems
