"""Samplers map contexts to completions, both as token ids.

A sampler is any object with ``generate(contexts, streams, sampling) -> list[Completion]``; `sample` turns problems into
rollouts with any sampler. engines: the sampling backends. episodes: conversations with an environment. captured:
decoding in fixed buffers. kept: keys and values between the turns of episodes. drawing: tokens from logits.
vllm_engine: vLLM in this process or behind a URL.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from vpdlab import processes
from vpdlab.prompts import Renderer
from vpdlab.types import Problem, Rollout

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: probability mass of the nucleus; 1 keeps everything.
        max_new_tokens: longest response.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Completion:
    """A sampled response: its ids (including the end token if `finished`) and their log-probabilities in nats, under
    the distribution at this temperature before top-p (NaN where the sampler does not know them). `mask` is False at ids
    that the policy did not write itself, such as a tool's output; () where it wrote all of them."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    finished: bool
    mask: tuple[bool, ...] = ()


class Sampler(Protocol):
    """What the loop asks of a sampler.

    Attributes:
        exact: whether its log-probabilities are the policy's own, rather than those of another engine, which rounds
            differently.
        central: whether rank 0 samples for all ranks.
    """

    exact: bool
    central: bool

    def generate(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        """One completion per context. `streams` seeds each row separately: equal contexts, streams and weights give
        equal tokens, whatever else is in the batch."""
        ...


def conversation(sampler: Sampler) -> AbstractContextManager[int]:
    """Within it the weights stay as they are, so that a sampler with a method of this name need not read again what the
    contexts of its last call hold. It gives the most contexts that a call may have for that; 0: any number."""
    own = getattr(sampler, "conversation", None)
    return own() if own else nullcontext(0)


def stream(seed: int, purpose: str, step: int, problem: Problem, index: int) -> tuple[int, ...]:
    """The random stream of one rollout: a function of its purpose, not of its index in a batch."""
    return (seed, zlib.crc32(purpose.encode()), step, zlib.crc32(problem.id.encode()), index)


def sample(
    sampler: Sampler, render: Renderer, tokenizer: Any, problems: Sequence[Problem], n: int, sampling: Sampling, *,
    seed: int, purpose: str = "train", step: int = 0, contexts: Sequence[Sequence[int]] | None = None,
    version: int | None = None,
) -> list[Rollout]:  # fmt: skip
    """Sample n rollouts of each problem, group by group. Each rank generates its share, or rank 0 all of them
    (`Sampler.central`).

    Args:
        contexts: prompts to use instead of the student's own (the teacher's prompts, for instance); one per problem.
        version: weight version of the sampler, if its weights are the policy's own.
    """
    jobs = Jobs(render, problems, n, (seed, purpose, step), contexts)

    def generate(part: Sequence[tuple[int, int]]) -> list[Completion]:
        streams = [jobs.stream(group, index) for group, index in part]
        return sampler.generate([jobs.prompts[group] for group, _ in part], streams, sampling)

    return [
        jobs.rollout(pair, done, tokenizer.decode(done.ids, skip_special_tokens=True).strip(), version)
        for pair, done in zip(jobs.pairs, jobs.shared(sampler, generate), strict=True)
    ]


class Jobs:
    """The responses that are to be sampled: n for each problem, group by group.

    Args:
        key: (seed, purpose, step) of their random streams.
        contexts: prompts to use instead of the student's own; one per problem.

    Attributes:
        prompts: token ids of each problem's context.
        pairs: (group, index) of each response.
    """

    def __init__(
        self, render: Renderer, problems: Sequence[Problem], n: int, key: tuple[int, str, int],
        contexts: Sequence[Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        self.problems, self._key = problems, key
        self.prompts = [tuple(c) for c in contexts] if contexts is not None else [render.student(p) for p in problems]
        self.pairs = [(group, index) for group in range(len(problems)) for index in range(n)]
        self._first = _first_streams([problem.id for problem in problems], n)

    def stream(self, group: int, index: int) -> tuple[int, ...]:
        """The random stream of one response."""
        return stream(*self._key, self.problems[group], self._first[group] + index)

    def shared(self, sampler: Sampler, generate: Callable[[Sequence[tuple[int, int]]], list[T]]) -> list[T]:
        """What `generate` makes of all pairs: of several processes each does its share, or rank 0 everything
        (`Sampler.central`)."""
        if sampler.central:
            return processes.by_main(lambda: generate(self.pairs))
        return processes.spread(generate, self.pairs)

    def rollout(self, pair: tuple[int, int], done: Completion, text: str, version: int | None, **more: Any) -> Rollout:
        """One sampled response as a record.

        Args:
            more: further fields of `Rollout`.
        """
        group, index = pair
        return Rollout(
            problem=self.problems[group], group=group, index=index, prompt_ids=self.prompts[group],
            response_ids=done.ids, logps=done.logps, text=text, finished=done.finished, version=version,
            mask=done.mask, **more,
        )  # fmt: skip


def _first_streams(ids: Sequence[str], n: int) -> list[int]:
    """Index of each group's first random stream. A batch across the end of an epoch may contain a problem twice; the
    second group continues after the streams of the first."""
    return [n * ids[:group].count(name) for group, name in enumerate(ids)]
