"""Model-written programs, run in the sandbox and judged by tests.

Training uses only the visible tests (for the reward, and for feedback that quotes them); evaluation also runs the
hidden tests, which feedback never quotes. If the data has no splits, both splits have the same problems, judged by
different tests, as in the LiveCodeBench experiments of SDPO and VPD; `heldout` reserves some problems for evaluation.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox import Inside, Limits, backend, describe, judge_function, judge_many, judge_stdin
from vpdlab.tasks.common.code_sources import Item, humaneval, humaneval_rows, livecodebench, mbpp
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.programs import CUT, is_cut, read_program
from vpdlab.tasks.common.reading import read_splits, shown
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, split_of
from vpdlab.types import Outcome, Problem, Rollout

SYSTEM = """Think first if you need to. Then give the whole code in one block:
```python
...
```
Only the last such block that defines what was asked for is run."""
HIDDEN = "+hidden"  # suffix of a problem's id if it is judged by hidden tests too


@dataclass(frozen=True)
class Source:
    """A data set format: a function that reads a row, and the fields of a row."""

    read: Callable[[Mapping[str, Any], str, int], Item]
    fields: tuple[str, ...]


SOURCES = {
    "humaneval": Source(humaneval, ("task_id", "prompt", "entry_point", "canonical_solution", "test")),
    "mbpp": Source(
        mbpp,
        ("task_id", "text", "prompt", "code", "test_list", "test_setup_code", "test_imports", "challenge_test_list"),
    ),
    "livecodebench": Source(
        livecodebench,
        ("question_id", "question_content", "starter_code", "public_test_cases", "private_test_cases", "metadata",
         "platform", "difficulty", "contest_date"),
    ),
}  # fmt: skip


class Code:
    """Python problems, judged by running them.

    Args:
        data: a file or folder of rows, or a name for `datasets.load_dataset`; empty: HumanEval's own package.
        source: format of the rows: "humaneval", "mbpp" or "livecodebench".
        keep: number of visible tests of a problem, unless the data defines them (LiveCodeBench does).
        heldout: share of the problems for evaluation only; 0: both splits have the same problems.
        split_seed: random seed of the held-out problems.
        since, until: first and last contest date (2025-02-01) of LiveCodeBench problems.
        seconds, memory: limits of one call or one program (wall clock; MiB).
        sandbox: "bubblewrap", the address of a SandboxFusion server, or "unsafe".
        workers: concurrent programs; 0: one per core.

    Raises:
        UserError: for unreadable data, or if no wall is available.
    """

    name = "code"

    @typed_options
    def __init__(
        self, data: str = "", source: str = "humaneval", keep: int = 3, heldout: float = 0.0, split_seed: int = 0,
        since: str = "", until: str = "", seconds: float = 6.0, memory: int = 1024, sandbox: str = "bubblewrap",
        workers: int = 0,
    ) -> None:  # fmt: skip
        _check(source, data, keep, heldout, since, until, workers)
        self.workers, self.sandbox = workers, backend(sandbox)
        self.limits = Limits(seconds=seconds, memory=memory)
        self.environment: dict[str, Any] = describe(sandbox)  # for the run's record
        own = data == "" and source == "humaneval"
        splits = {"train": ("HumanEval", humaneval_rows())} if own else read_splits(
            "task code", data, SOURCES[source].fields
        )  # fmt: skip
        pieces: dict[str, list[Item]] = {}
        for split, (origin, rows) in splits.items():
            items = [_item(source, row, f"{origin} {where}", keep) for where, row in rows]
            pieces[split] = [item for item in items if _between(item, since, until)]
        train, test, dropped = _splits(pieces, heldout, split_seed)
        self._items = {item.id: item for item in (*train, *test)}
        self._problems = {
            "train": [_problem(item, source, self.sandbox.name, hidden=False) for item in train],
            "test": [_problem(item, source, self.sandbox.name, hidden=True) for item in test],
        }
        self._hidden = lru_cache(maxsize=64)(lambda name: self._items[name].hidden())  # the 8 samples of one problem
        wall = "run with NO WALL (unsafe)" if self.sandbox.name == "unsafe" else f"run behind {self.sandbox.name}"
        same = "the same problems, all tests" if train == test else "other problems, all tests"
        self.summary: str = (
            f"code, {source}: {len(train)} train problems on their visible tests, {len(test)} test problems"
            f" ({same}); {wall}" + (f"; {dropped}" if dropped else "")
        )

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
        return split_of("code", self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """Reward 1 if every test passes, else 0; the notes describe the first failure.

        Raises:
            UserError: for a problem of another task.
            SandboxError: if the sandbox itself failed.
        """
        name = rollout.problem.id.removesuffix(HIDDEN)
        item = self._items.get(name)
        if item is None:
            raise UserError(f"problem {rollout.problem.id!r} was not made by this task: build it with the same options")
        code, why_none = read_program(rollout.text, item.entry, rollout.finished)
        if not code:
            return Outcome(0.0, why_none)
        tests = list(item.visible)
        if rollout.problem.id.endswith(HIDDEN):
            tests += self._hidden(name)
        judge: Any = partial(judge_function, code, item.entry) if item.entry else partial(judge_stdin, code)
        visible = len(item.visible)
        verdict = judge(tests, self.limits, visible=visible, setup=item.setup, sandbox=self.sandbox)
        if not verdict.passed and not rollout.finished and is_cut(rollout.text):
            return Outcome(0.0, CUT)  # feedback on a truncated program would be useless
        return Outcome(
            float(verdict.passed), verdict.feedback, hashlib.sha256(code.encode("utf-8", "replace")).hexdigest()[:12]
        )

    def verify_many(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        """The outcomes of many rollouts, judged in parallel. Raises as `verify`."""
        return judge_many([partial(self.verify, rollout) for rollout in rollouts], self.workers)


def _check(source: str, data: str, keep: int, heldout: float, since: str, until: str, workers: int) -> None:
    if source not in SOURCES:
        raise UserError(f"task code: source is {source!r}, but must be one of {', '.join(SOURCES)}")
    if not data and source != "humaneval":
        raise UserError(f"task code: source {source} needs data: a file, a folder, or a hub name")
    if keep < 1:
        raise UserError(f"task code: keep is {keep!r}, but must be a whole number above 0")
    if not 0 <= heldout < 1:
        raise UserError(f"task code: heldout is {heldout!r}, but must be 0 or lie between 0 and 1")
    for name, date in (("since", since), ("until", until)):
        if date and not _is_date(date):
            raise UserError(f"task code: {name} is {date!r}, but must be a date such as 2025-02-01")
    if workers < 0:
        raise UserError(f"task code: workers is {workers}, but must be 0 or above")


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _item(source: str, row: Any, where: str, keep: int) -> Item:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {shown(row)}")
    item = SOURCES[source].read(row, where, keep)
    if not item.visible:
        raise UserError(f"{where}: problem {item.id} has no visible test")
    return item


def _between(item: Item, since: str, until: str) -> bool:
    date = str(item.about.get("contest_date", ""))[:10]
    return (not since or date >= since) and (not until or "" < date <= until)


def _splits(pieces: dict[str, list[Item]], heldout: float, seed: int) -> tuple[list[Item], list[Item], str]:
    """(train, test, what was dropped): the data's own splits; else both are the same, or some problems are held out."""
    if len(pieces) > 1:
        return drop_duplicates(pieces["train"], pieces["test"], agree_on=_tests)
    items, _, dropped = drop_duplicates(next(iter(pieces.values())), [], agree_on=_tests)
    return (*(hold_out("code", items, heldout, seed) if heldout else (items, items)), dropped)


def _tests(item: Item) -> Any:
    return item.entry, repr(item.visible)


def _problem(item: Item, source: str, sandbox: str, hidden: bool) -> Problem:
    data = {
        "source": source, "entry": item.entry, "visible_tests": len(item.visible), "sandbox": sandbox,
        "weak": any(isinstance(test, Inside) for test in item.visible), **item.about,
    }  # fmt: skip
    return Problem(item.id + HIDDEN * hidden, item.prompt, item.reference, SYSTEM, data)
