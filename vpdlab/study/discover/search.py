"""The search for a first success: one problem and one method at a time, from the same weights."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpdlab.config import FREE, RunConfig
from vpdlab.errors import UserError
from vpdlab.learn.checks import check
from vpdlab.learn.iterate import iterate
from vpdlab.learn.m_step import Seen
from vpdlab.learn.methods import METHODS as LEARNING
from vpdlab.learn.methods import get_method
from vpdlab.learn.parts import Parts
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import Policy
from vpdlab.sampling import Sampling
from vpdlab.sampling.episodes import Limits, Player
from vpdlab.study.discover.results import Found, Results
from vpdlab.tasks import Task, make_task
from vpdlab.tasks.environments import make_environment
from vpdlab.types import Problem, Rollout

BEST, CONVERSATION = "best-of-k", "conversation"
METHODS = (BEST, CONVERSATION, *LEARNING)
"""Ways to search: two that never update the weights, and the methods."""


def drawn(task: Task, count: int, seed: int) -> list[Problem]:
    """`count` training problems, drawn by the seed.

    Raises:
        UserError: where the task has fewer.
    """
    problems = task.load("train")
    if not 1 <= count <= len(problems):
        raise UserError(f"problems is {count}, but must be from 1 to {len(problems)}, which task {task.name} has")
    chosen = np.random.default_rng([seed, len(problems)]).choice(len(problems), count, replace=False)
    return [problems[place] for place in chosen.tolist()]


def discover(
    config: RunConfig, methods: Sequence[str], *, problems: int = 20, limit: int = 256, seeds: Sequence[int] = (0,),
    out: Path | None = None,
) -> Iterator[Found]:  # fmt: skip
    """Search each problem with each method.

    Args:
        config: settings as of a run; `group` is the size of a batch of attempts. For a conversation `max_new_tokens`
            bounds an attempt, `max_turns` the attempts of one conversation (another one then begins), and
            `environment_args` are the options of the environment retry; by default each turn restates the problem, so
            that a conversation reads the verifier's words in the frame in which a teacher reads them.
        methods: names of `METHODS`.
        problems: how many, drawn from the task by each seed.
        limit: most attempts at a problem.
        seeds: of the problems, and of every sampled token.
        out: folder of discover.jsonl; what is there already is not searched again. None: nothing is written.

    Returns:
        Each result, once it is on disk; a search begins when its result is asked for.

    Raises:
        UserError: for an unknown method, settings that do not fit one, too many problems, or a folder with results of
            other settings; before anything is searched or written.
    """
    _check(config, methods, limit)
    for seed in seeds:
        config.but(seed=seed)  # raises for one that is none
    task = make_task(config.task, **config.task_options())
    chosen = {seed: drawn(task, problems, seed) for seed in seeds}
    results = Results(out, settings(config, limit)) if out is not None else None
    return _found(config, methods, limit, chosen, results)


def _found(
    config: RunConfig, methods: Sequence[str], limit: int, chosen: Mapping[int, Sequence[Problem]],
    results: Results | None,
) -> Iterator[Found]:  # fmt: skip
    """Search the problems of each seed that have no result yet."""
    done = results.done if results is not None else set()
    for name in methods:
        for seed, problems in chosen.items():
            left = [one for one in problems if (name, one.id, seed) not in done]
            for found in _searched(config.but(seed=seed), name, limit, left):
                if results is not None:
                    results.add(found)
                yield found


def _check(config: RunConfig, methods: Sequence[str], limit: int) -> None:
    for name in methods:
        if name not in METHODS:
            raise UserError(f"methods has {name!r}: choose from {', '.join(METHODS)}")
    if limit < 1:
        raise UserError(f"limit is {limit}, but must be 1 or more")
    if config.environment:
        raise UserError(f"environment is {config.environment!r}: discovery opens its own; leave it out")
    for name in methods:
        one = _of_search(config, name)
        check(get_method(one.method), one)  # the searches of the others may take hours until it is its turn


def _of_search(config: RunConfig, name: str) -> RunConfig:
    """The settings of a search; one that never updates is opened as sdpo's is."""
    method = name if name in LEARNING else "sdpo"
    return config.but(method=method, prompts=1, eval_every=-1, environment_args=())


def _searched(config: RunConfig, name: str, limit: int, problems: Sequence[Problem]) -> Iterator[Found]:
    """The searches of one method and seed; no model is loaded for none."""
    if problems:
        search = Search.open(config, name, limit)
        yield from map(search.first_success, problems)


def settings(config: RunConfig, limit: int) -> dict[str, Any]:
    """What results depend on beside method, problem and seed."""
    free = FREE | {"method", "seed", "prompts"}
    return {"limit": limit} | {name: value for name, value in config.to_dict().items() if name not in free}


class Solved(Exception):
    """Ends an iteration whose rollouts hold a success, before anything is learned from it."""


@dataclass
class Count:
    """Attempts and tokens so far."""

    attempts: int = 0
    tokens: int = 0

    def add(self, attempts: Sequence[tuple[bool, int]]) -> bool:
        """Count attempts (success, tokens) in their order, up to the first success; whether there was one."""
        for success, tokens in attempts:
            self.attempts += 1
            self.tokens += tokens
            if success:
                return True
        return False


@dataclass(frozen=True)
class Search:
    """A way to search, with its model.

    Attributes:
        name: of `METHODS`.
        parts: of a run with one problem per iteration.
        limit: most attempts.
        talk: options of the environment retry.
    """

    name: str
    parts: Parts
    limit: int
    talk: Mapping[str, Any]

    @classmethod
    def open(cls, config: RunConfig, name: str, limit: int) -> Search:
        """Load the model. Raises UserError for anything in the config that does not fit."""
        talk = {"restate": "true"} | config.environment_options()
        return cls(name, Parts.open(_of_search(config, name)), limit, talk)

    def first_success(self, problem: Problem) -> Found:
        """Attempts at a problem until one is right, or the limit. The weights are the same afterwards."""
        count, started = Count(), time.perf_counter()
        with fresh(self.parts) as parts:
            solved = {BEST: self._best, CONVERSATION: self._converse}.get(self.name, self._learn)(parts, problem, count)
        seconds = time.perf_counter() - started
        seed = self.parts.config.seed
        return Found(self.name, problem.id, seed, count.attempts if solved else None, count.tokens, seconds)

    def _best(self, parts: Parts, problem: Problem, count: Count) -> bool:
        """Batches from the weights as they are."""
        return any(count.add(_attempts(parts.verify(_one(parts, problem, size).rollouts(step)))) for step, size in
                   self._batches())  # fmt: skip

    def _learn(self, parts: Parts, problem: Problem, count: Count) -> bool:
        """An update from each batch before the next."""
        for step, size in self._batches():
            try:
                iterate(_one(parts, problem, size), step, _Watch(count))
            except Solved:
                return True
        return False

    def _converse(self, parts: Parts, problem: Problem, count: Count) -> bool:
        """Conversations, one after the other; a batch of them is sampled at once, and counted in that order."""
        config = parts.config
        environment = make_environment("retry", parts.task, **self.talk)
        player = Player(parts.sampler, parts.render, environment, Limits(config.max_turns, config.max_new_tokens))
        room = parts.policy.longest - len(parts.render.student(problem))
        sampling = Sampling(config.temperature, 1.0, room)
        step = 0
        while count.attempts < self.limit:
            step += 1
            attempts = _attempts(player.play([problem], config.group, sampling, seed=config.seed, step=step))
            if count.add(attempts[: self.limit - count.attempts]):
                return True
        return False

    def _batches(self) -> Iterator[tuple[int, int]]:
        """Number and size of each batch."""
        size = self.parts.config.group
        for step, start in enumerate(range(0, self.limit, size), start=1):
            yield step, min(size, self.limit - start)


class _Watch:
    """Watches an iteration for a first success (`iterate.Watch`)."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def sampled(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Count the rollouts. Raises Solved at a success."""
        if self._count.add(_attempts(rollouts)):
            raise Solved

    def tokens(self, seen: Seen, dists: dict[str, TokenDist]) -> None:
        """Nothing to look at."""

    def finished(self) -> None:
        """Nothing to finish."""


@dataclass(frozen=True)
class OneProblem:
    """A task of one problem."""

    task: Any
    problem: Problem

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("task", "problem"):
            raise AttributeError(name)
        return getattr(self.task, name)

    def load(self, split: str) -> list[Problem]:
        """The problem, whatever the split."""
        return [self.problem]


def _one(parts: Parts, problem: Problem, size: int) -> Parts:
    """The same parts with `size` rollouts of one problem in an iteration."""
    return replace(parts, config=parts.config.but(group=size), task=OneProblem(parts.task, problem))


def _attempts(rollouts: Sequence[Rollout]) -> list[tuple[bool, int]]:
    """(success, tokens) of each attempt: a rollout, or each turn of a conversation, of which only the last one can be
    right."""
    found = []
    for rollout in rollouts:
        sizes = [turn.end - turn.start for turn in rollout.turns if turn.own] or [len(rollout.response_ids)]
        found += [(rollout.success and place == len(sizes), size) for place, size in enumerate(sizes, start=1)]
    return found


@contextmanager
def fresh(parts: Parts) -> Iterator[Parts]:
    """The parts with a learner of their own; weights and optimisers are afterwards as before."""
    policy = parts.policy
    kept = [parameter.detach().clone() for parameter in _trained(policy)]
    optimizers = {id(one): one for one in (policy.optimizer, policy.e_optimizer)}.values()
    states = [one.state for one in optimizers]
    for one in optimizers:
        one.state = defaultdict(dict)
    counters = policy.version, policy.updates
    try:
        yield replace(parts, learner=parts.fresh_learner())
    finally:
        with torch.no_grad():
            for parameter, value in zip(_trained(policy), kept, strict=True):
                parameter.copy_(value)
        for one, state in zip(optimizers, states, strict=True):
            one.state = state
        policy.version, policy.updates = counters
        policy.fresh()


def _trained(policy: Policy) -> list[torch.nn.Parameter]:
    """Every weight that an update may change, each once."""
    return list({id(p): p for p in (*policy.parameters, *policy.teacher_parameters)}.values())
