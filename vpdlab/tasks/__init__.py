"""Tasks: the source of problems and the judge of responses. One file per task; shared code is in `common`.

A task is any object with

* ``name: str`` and ``summary: str`` (one line: the number of problems, what was dropped and why);
* ``load(split) -> Sequence[Problem]`` for ``split`` in ``"train"``, ``"test"``; the two never overlap;
* ``verify(rollout) -> Outcome``: judges ``rollout.text`` against ``rollout.problem``;
* optionally ``verify_many(rollouts) -> list[Outcome]``, for tasks that can judge in parallel;
* optionally ``probes(reader) -> dict[str, float | None]``: measured at each evaluation (`common.probes`).

To add a task, write a class like this in a file of this folder; the file has the task's name.

arithmetic: sums. code: programs judged by tests. lexicon: made-up words that a critic explains. math: boxed answers.
reasoning: reasoning-gym. science: multiple choice. own: your own prompts and function. verifiers: environments of the
package of that name. environments: conversations of several turns about a task's problems.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from vpdlab.errors import UserError, refuse_handed_in
from vpdlab.tasks.common.guard import raised_in_one_line, surroundings_kept
from vpdlab.tasks.common.options import typed
from vpdlab.tasks.common.outcomes import checked
from vpdlab.types import Outcome, Problem, Rollout


class Task(Protocol):
    """The interface of a task."""

    name: str
    summary: str

    def load(self, split: str) -> Sequence[Problem]: ...

    def verify(self, rollout: Rollout) -> Outcome: ...


ANSWER_OPENED = re.compile(r"<\s*answer\s*>", re.IGNORECASE)
ANSWER_BLOCK = re.compile(r"<\s*answer\s*>((?:(?!<\s*answer\s*>).)*?)<\s*/\s*answer\s*>", re.IGNORECASE | re.DOTALL)


def names() -> list[str]:
    """Names of the available tasks: every file of this folder is one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def task_class(name: str) -> Any:
    """The class of a task: in the file of that name, the class with that `name`. It is imported on demand, so that no
    task needs the dependencies of another.

    Raises:
        UserError: for a file without such a class.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and getattr(kind, "name", None) == name]
    if not found:
        raise UserError(f"{module.__file__} holds no task: give one of its classes name = {name!r}")
    return found[0]


def make_task(name: str, **options: Any) -> Task:
    """Build the task `name` with its own options: arguments of its class, read by their annotated types.

    Raises:
        UserError: for an unknown name, an option that the task does not have, or data it cannot read.
    """
    refuse_handed_in("task", name)
    if name not in names():
        raise UserError(f"unknown task {name!r}: choose one of {', '.join(names())}")
    build = task_class(name)
    if options.get("data") == "":  # the config's empty default: use the task's own
        del options["data"]
    parameters = inspect.signature(build).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    if len(known) == len(parameters):  # else the task accepts further options and checks them itself
        for option in options:
            if option not in known:
                raise UserError(f"task {name} has no option {option!r}: it takes {', '.join(known) or 'none'}")
    hints = typing.get_type_hints(build.__init__)
    declared = {option: value for option, value in options.items() if option in hints}
    return build(**options | typed(f"task {name}", declared, hints))


def read_answer(rollout: Rollout) -> tuple[str, str]:
    """The content of the last ``<answer>…</answer>`` block, and the reason why there is none; one of the two is empty.

    Tags are case-insensitive. An unclosed block is not an answer.
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
    """The rollouts with their outcomes; a task with `verify_many` judges them together.

    A task may be user code: its changes to process state are undone (`common.guard`).

    Raises:
        UserError: for an invalid outcome: a reward outside [0, 1] (NaN included), an answer that is not text.
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
    """`checked`, with the location of an error that the outcome's own code raises."""
    try:
        return checked(where, outcome)
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{where}: what verify returned cannot be read: {raised_in_one_line(error)}") from error


def _judged(task: Task, rollout: Rollout) -> Outcome:
    """The task's outcome. SystemExit becomes an error: exiting the program would look like success."""
    try:
        return task.verify(rollout)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raised = raised_in_one_line(error)
        raise UserError(f"task {task.name}, problem {rollout.problem.id}: verify raised {raised}") from error
