"""Tasks: where problems come from and how a response is judged. One file per task; `common` holds what they share.

A task is any object with

* ``name: str`` and ``summary: str`` (one line: how many problems, what was dropped and why);
* ``load(split) -> Sequence[Problem]`` for ``split`` in ``"train"``, ``"test"``; the two never overlap;
* ``verify(rollout) -> Outcome``: judges ``rollout.text`` against ``rollout.problem``;
* where judging waits for other processes, also ``verify_many(rollouts) -> list[Outcome]``, side by side.

To add one, write such a class in a file here: the file's name is the task's.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from vpdlab.errors import UserError
from vpdlab.tasks.common.guard import in_a_line, surroundings_kept
from vpdlab.tasks.common.outcomes import checked
from vpdlab.types import Outcome, Problem, Rollout


class Task(Protocol):
    """What the loop asks of a task."""

    name: str
    summary: str

    def load(self, split: str) -> Sequence[Problem]: ...

    def verify(self, rollout: Rollout) -> Outcome: ...


ANSWER_OPENED = re.compile(r"<\s*answer\s*>", re.IGNORECASE)
ANSWER_BLOCK = re.compile(r"<\s*answer\s*>((?:(?!<\s*answer\s*>).)*?)<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)


def names() -> list[str]:
    """The tasks that there are: every file of this folder is one, under its own name."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def task_class(name: str) -> Any:
    """The class of a task: the one in the file of that name whose `name` it is. Imported only when asked for, so that
    one task's dependency never burdens another."""
    module = importlib.import_module(f"{__name__}.{name}")
    return next(kind for kind in vars(module).values() if getattr(kind, "name", None) == name)


HANDED_IN = "handed-in:"
"""Begins the recorded name of a task that was given to `Run.open` as an object."""


def make_task(name: str, **options: Any) -> Task:
    """Build the task `name` with its own options.

    Raises:
        UserError: for an unknown name, an option that the task does not have, or data it cannot read.
    """
    if name.startswith(HANDED_IN):
        raise UserError(
            f"this run's task ({name.removeprefix(HANDED_IN)!r}) was handed in from Python, and its settings cannot"
            " make it again: open the run in Python with Run.open(config, task=...)"
        )
    if name not in names():
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(names())}")
    build = task_class(name)
    if options.get("data") == "":  # the config's field, left empty: the task's own default holds
        del options["data"]
    parameters = inspect.signature(build).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):  # else the task itself knows which further options it takes
        for option in options:
            if option not in known:
                raise UserError(f"task {name} has no option {option!r}: it takes {', '.join(known) or 'none'}")
    return build(**options)


def read_answer(rollout: Rollout) -> tuple[str, str]:
    """What stands in the last ``<answer>…</answer>`` block, and why nothing does: one of the two is empty.

    Tags are read in any case. A block that was opened and never closed is no answer.
    """
    blocks = ANSWER_BLOCK.findall(rollout.text)
    if blocks:
        return (blocks[-1].strip(), "") if blocks[-1].strip() else ("", "The answer block is empty.")
    if not rollout.finished:
        return "", "The response was cut at the length limit before an answer was given."
    if ANSWER_OPENED.search(rollout.text):
        return "", "The answer block was opened with <answer> but never closed with </answer>, so no answer was read."
    return "", "The response ended without an answer: there is no <answer>...</answer> block."


def verify_all(task: Task, rollouts: Iterable[Rollout]) -> list[Rollout]:
    """The same rollouts, each with its outcome; judged at once by a task that has `verify_many`.

    A task may be anyone's code: what it does to its surroundings is undone (`tasks.guard`).

    Raises:
        UserError: for an outcome that is none: a reward outside [0, 1] (NaN included), an answer that is no text.
    """
    rollouts = list(rollouts)
    many = getattr(task, "verify_many", None)
    with surroundings_kept():
        outcomes = list(many(rollouts)) if many else [_judged(task, rollout) for rollout in rollouts]
        if len(outcomes) != len(rollouts):
            raise UserError(
                f"task {task.name}: verify_many gave {len(outcomes)} outcomes for {len(rollouts)} responses"
            )
        return [
            replace(r, outcome=_plain(f"task {task.name}, problem {r.problem.id}", outcome))
            for r, outcome in zip(rollouts, outcomes, strict=True)
        ]


def _plain(where: str, outcome: Any) -> Outcome:
    """`checked`; what an outcome is made of may be anyone's code as well, and is told with its place."""
    try:
        return checked(where, outcome)
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{where}: what verify returned cannot be read: {in_a_line(error)}") from error


def _judged(task: Task, rollout: Rollout) -> Outcome:
    """What the task says. A task that asks the whole program to end is told off: that would look like a success."""
    try:
        return task.verify(rollout)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise UserError(f"task {task.name}, problem {rollout.problem.id}: verify raised {in_a_line(error)}") from error
