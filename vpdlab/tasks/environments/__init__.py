"""Environments: conversations of several turns about a task's problems. One file per environment.

An environment is any object with

* ``name: str``;
* ``start(problem) -> list[Message]``: the turns that open an episode; the last one is the user's;
* ``step(episode, text) -> Reply | str | Outcome``: its answer to the policy's turn, or the end of the episode;
* optionally ``step_many(episodes, texts)``, where it can answer many episodes in parallel;
* optionally ``end(episode, why) -> Outcome``: the outcome of an episode that reached a limit; by default a failure;
* optionally ``tools``: functions that the policy may call, as JSON schemas (`common.tools`), and ``native_tools``,
  which is set before the first episode: whether the model's chat template describes them.

To add one, write a class like this in a file of this folder, whose `__init__` takes the task and options of its own;
the file has the environment's name.

one_turn: the task by itself. retry: the verifier's words are the next user turn. python: a Python tool. lookup:
made-up words that can be asked for. verifiers: environments of the package of that name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from vpdlab.errors import EnvironmentFailed, RunFailed, UserError, refuse_handed_in
from vpdlab.tasks.common.episodes import Environment, Episode, Reply, opened
from vpdlab.tasks.common.guard import raised_in_one_line, surroundings_kept
from vpdlab.tasks.common.options import typed
from vpdlab.tasks.common.outcomes import checked
from vpdlab.types import Outcome, Problem

__all__ = ["Environment", "Episode", "Opened", "Reply", "answers", "ended", "make_environment", "names"]
ROLES = ("user", "tool")


def names() -> list[str]:
    """Names of the available environments: every file of this folder is one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def make_environment(name: str, task: Any, **options: Any) -> Environment:
    """Build the environment `name` around a task, with options of its own.

    Raises:
        UserError: for an unknown name, an option that it does not have, or a task that it cannot be built around.
    """
    refuse_handed_in("environment", name)
    if name not in names():
        raise UserError(f"unknown environment {name!r}: choose one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    build: Any = next(kind for kind in vars(module).values() if getattr(kind, "name", None) == name)
    known = [p for p in inspect.signature(build).parameters if p != "task"]
    for option in options:
        if option not in known:
            raise UserError(f"environment {name} has no option {option!r}: it takes {', '.join(known) or 'none'}")
    return build(task, **typed(f"environment {name}", options, typing.get_type_hints(build.__init__)))


class Opened:
    """A task whose problems are opened by an environment: the student reads the environment's turns.

    Everything else is the task's own.
    """

    def __init__(self, task: Any, environment: Environment) -> None:
        self.task, self._opener = task, environment
        self.load = lru_cache(maxsize=2)(self._load)

    @property
    def environment(self) -> Any:
        """What the wall around model-written code holds, for the run's record: the tool's, else the task's."""
        return getattr(self._opener, "wall", None) or getattr(self.task, "environment", None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for these before there is a task
            raise AttributeError(name)
        return getattr(self.task, name)

    def _load(self, split: str) -> list[Problem]:
        """The task's problems, opened. Raises EnvironmentFailed where the environment fails at one."""
        return [self._opened(problem) for problem in self.task.load(split)]

    def _opened(self, problem: Problem) -> Problem:
        return _called(self._opener, problem, 0, lambda: opened(problem, self._opener.start(problem)))


def answers(environment: Environment, episodes: Sequence[Episode]) -> list[Reply | Outcome]:
    """The environment's answer to the latest turn of each episode.

    An environment may be user code: its changes to process state are undone.

    Raises:
        EnvironmentFailed: where it raises, or answers with anything else.
    """
    texts = [episode.turns[-1].text for episode in episodes]
    many: Callable[..., Any] | None = getattr(environment, "step_many", None)
    if not episodes:
        return []
    with surroundings_kept():
        if many is not None:
            first = episodes[0]
            given = list(_called(environment, first.problem, first.attempts, partial(many, episodes, texts)))
            if len(given) != len(episodes):
                raise EnvironmentFailed(
                    f"environment {environment.name}: step_many gave {len(given)} answers to {len(episodes)} episodes"
                )
        else:
            given = [
                _called(
                    environment, episode.problem, episode.attempts, lambda e=episode, t=text: environment.step(e, t)
                )
                for episode, text in zip(episodes, texts, strict=True)
            ]
        return [_plain(environment, episode, answer) for episode, answer in zip(episodes, given, strict=True)]


def ended(environment: Environment, episode: Episode, why: str) -> Outcome:
    """The outcome of an episode that a limit has ended; `why` names it."""
    end: Callable[..., Any] | None = getattr(environment, "end", None)
    if end is None:
        return Outcome(0.0, why)
    with surroundings_kept():
        found = _called(environment, episode.problem, episode.attempts, lambda: end(episode, why))
        answer = _plain(environment, episode, found)
    if isinstance(answer, Reply):
        raise EnvironmentFailed(
            f"{_place(environment, episode.problem, episode.attempts)}: end gave a reply, no outcome"
        )
    return answer


def _plain(environment: Environment, episode: Episode, answer: Any) -> Reply | Outcome:
    """The answer as a checked Reply or Outcome."""
    where = _place(environment, episode.problem, episode.attempts)
    if isinstance(answer, str):
        answer = Reply(answer)
    if isinstance(answer, Reply):
        if answer.role not in ROLES or not isinstance(answer.text, str):
            raise EnvironmentFailed(f"{where}: a reply has the role {' or '.join(ROLES)}, and a text; not {answer!r}")
        return answer
    if answer is None:
        raise EnvironmentFailed(f"{where}: step gave None: return a Reply (or its text), or an Outcome")
    try:
        return checked(where, answer)
    except UserError as error:
        raise EnvironmentFailed(str(error)) from error


def _place(environment: Environment, problem: Problem, turn: int) -> str:
    return f"environment {environment.name}, problem {problem.id}, turn {turn}"


def _called(environment: Environment, problem: Problem, turn: int, call: Callable[[], Any]) -> Any:
    """What a function of the environment returns; what it raises becomes an error that names the place."""
    try:
        return call()
    except (UserError, RunFailed, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # SystemExit too: exiting the program would look like success
        raised = raised_in_one_line(error)
        raise EnvironmentFailed(f"{_place(environment, problem, turn)}: it raised {raised}") from error
