"""Episodes: what an environment sees of a conversation, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vpdlab.types import Outcome, Problem, Rollout, Turn

Message = Mapping[str, str]
"""A turn as a chat template reads it: {"role": ..., "content": ...}."""
ANOTHER = 10_000
"""Added to a rollout's index for each later attempt of an episode: a task whose words depend on the index, as those of
the lexicon's critics do, speaks anew of each attempt."""


@dataclass(frozen=True)
class Reply:
    """An environment's answer to a turn; the episode goes on.

    Attributes:
        text: what the policy reads next.
        role: "user", or "tool" for a tool's output; a chat template without tools shows it as a user's turn.
    """

    text: str
    role: str = "user"


@dataclass
class Episode:
    """One conversation so far. The environment may write to `state`; all else is for reading.

    Attributes:
        problem, index: as in `Rollout`; together they name the episode within an iteration.
        turns: the turns so far, the policy's latest included.
        finished: whether the latest turn ended by itself, rather than at the token limit.
        state: the environment's own notes on this episode.
    """

    problem: Problem
    index: int = 0
    turns: list[Turn] = field(default_factory=list)
    finished: bool = True
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def attempts(self) -> int:
        """Number of the policy's turns so far."""
        return sum(turn.own for turn in self.turns)

    def attempt(self, text: str) -> Rollout:
        """A turn as a response of its own, for a task to verify."""
        index = self.index + ANOTHER * max(0, self.attempts - 1)
        return Rollout(self.problem, 0, index, (), (), (), text, self.finished)


class Environment(Protocol):
    """The interface of an environment (`tasks.environments`)."""

    name: str

    def start(self, problem: Problem) -> Sequence[Message]: ...

    def step(self, episode: Episode, text: str) -> Reply | str | Outcome: ...


def messages(problem: Problem, system: str = "") -> list[Message]:
    """The turns that open a conversation about a problem.

    Args:
        system: instructions that precede the problem's own system turn.
    """
    text = "\n\n".join(part for part in (system, problem.system) if part)
    turns = [("system", text), *problem.history, ("user", problem.prompt)]
    return [{"role": role, "content": content} for role, content in turns if content or role != "system"]


def opened(problem: Problem, turns: Sequence[Message]) -> Problem:
    """The problem as these turns open it.

    Raises:
        ValueError: unless they are an optional system turn, any turns, and a user's turn at the end.
    """
    pairs = [(str(turn["role"]), str(turn["content"])) for turn in turns]
    if not pairs or pairs[-1][0] != "user":
        raise ValueError("the turns that open an episode must end with one of the user's")
    system = pairs[0][1] if pairs[0][0] == "system" else ""
    history = tuple(pairs[pairs[0][0] == "system" : -1])
    if any(role == "system" for role, _ in history):
        raise ValueError("a system turn must be the first")
    return replace(problem, system=system, prompt=pairs[-1][1], history=history)
