"""Samplers: contexts in, completions out, token ids on both sides.

A sampler is any object with ``generate(contexts, streams, sampling) -> list[Completion]``; `sample` below turns
problems into rollouts with any of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vpdlab import processes
from vpdlab.prompts import Renderer
from vpdlab.types import Problem, Rollout


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: the nucleus; 1 keeps everything.
        max_new_tokens: a response is cut here.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Completion:
    """A sampled response: ids (the end token included where `finished`) and their log-probabilities, in nats, under
    the tempered distribution before any nucleus was cut (NaN where the sampler does not know them)."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    finished: bool


class Sampler(Protocol):
    """What the loop asks of a sampler.

    Attributes:
        exact: whether its log-probabilities are the policy's own; else they are those of an engine that rounds in its
            own way.
        central: of several processes the main one asks for all, and the others for nothing.
    """

    exact: bool
    central: bool

    def generate(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        """One completion a context. `streams` seeds each row by itself: equal contexts, streams and weights give equal
        tokens, whatever else is in the batch."""
        ...


def stream(seed: int, purpose: str, step: int, problem: Problem, index: int) -> tuple[int, ...]:
    """The random stream of one rollout: a function of what it is for, not of its place in a batch."""
    return (seed, zlib.crc32(purpose.encode()), step, zlib.crc32(problem.id.encode()), index)


def sample(
    sampler: Sampler,
    render: Renderer,
    tokenizer: Any,
    problems: Sequence[Problem],
    n: int,
    sampling: Sampling,
    *,
    seed: int,
    purpose: str = "train",
    step: int = 0,
    contexts: Sequence[Sequence[int]] | None = None,
    version: int | None = None,
) -> list[Rollout]:
    """n rollouts of each problem, group by group. Of several processes, each generates its share or the main one all.

    Args:
        version: of the weights that the sampler plays, where they are the policy's own.
        contexts: what is read in place of the student's plain prompts (the teacher's prompts, say); one a problem.
    """
    prompts = [tuple(c) for c in contexts] if contexts is not None else [render.student(p) for p in problems]
    pairs = [(group, index) for group in range(len(problems)) for index in range(n)]
    # A batch across the end of an epoch may hold a problem twice: the second time its streams go on where they ended.
    ids = [problem.id for problem in problems]
    before = [n * ids[:group].count(ids[group]) for group in range(len(problems))]

    def generate(part: Sequence[tuple[int, int]]) -> list[Completion]:
        streams = [stream(seed, purpose, step, problems[group], before[group] + index) for group, index in part]
        return sampler.generate([prompts[group] for group, _ in part], streams, sampling)

    alone = sampler.central
    completions = processes.by_main(lambda: generate(pairs)) if alone else processes.spread(generate, pairs)
    return [
        Rollout(
            problem=problems[group],
            group=group,
            index=index,
            prompt_ids=prompts[group],
            response_ids=done.ids,
            logps=done.logps,
            text=tokenizer.decode(done.ids, skip_special_tokens=True).strip(),
            finished=done.finished,
            version=version,
        )
        for (group, index), done in zip(pairs, completions, strict=True)
    ]
