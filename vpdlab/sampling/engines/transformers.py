"""Sampling with transformers: one prefill per prompt, and finished rows leave the batch.

`generate` is not used because it keeps finished rows until the last one ends, reads the same prompt once per rollout
of its group, and draws from one generator for the whole batch, so that a rollout depends on its neighbours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpdlab.config import RunConfig
from vpdlab.errors import notice
from vpdlab.model import passes
from vpdlab.model.policy import Policy
from vpdlab.model.slots import trial, unfit
from vpdlab.model.traits import end_ids
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.captured import Decoder
from vpdlab.sampling.drawing import draw
from vpdlab.sampling.kept import Kept

SETTINGS: tuple[str, ...] = ("capture",)

# Finished rows are dropped once they are this share of the batch: each drop copies the rest of the cache.
LEAVE = 1 / 8
APART = {True: 1e-3, False: 0.5}  # largest difference in nats that rounding explains: float32, bfloat16


def check(config: RunConfig) -> None:
    """Nothing to check before the model is loaded: the model itself samples."""


def open_sampler(config: RunConfig, policy: Policy, max_context: int) -> HFSampler:
    """The sampler of a run."""
    return HFSampler(policy, config.sampler_rows, captures(config, policy, max_context + config.max_new_tokens))


def captures(config: RunConfig, policy: Policy, longest: int) -> bool:
    """Whether a run decodes in fixed buffers (`captured`): as `capture` says; "auto" on a GPU. Where that was wanted
    and the model does not allow it, a notice says why."""
    if config.capture == "off" or (config.capture == "auto" and policy.device.type != "cuda"):
        return False
    why = unfit(policy.model, longest)
    if config.shard:
        why = "its layers are sharded (shard)"
    elif not why and (gap := trial(policy.model, policy.some_ids())) > APART[policy.model.dtype == torch.float32]:
        why = f"with fixed caches its log-probabilities are {gap:.2g} nats off"
    if why:
        notice(f"decoding is not captured, and slower ({why}): model {config.model!r}; capture=off")
    return not why


class HFSampler:
    """Samples from a policy in this process.

    Args:
        rows: rollouts decoded at the same time.
        capture: whether steps run in fixed buffers, as CUDA graphs on a GPU.
    """

    central = False

    def __init__(self, policy: Policy, rows: int = 128, capture: bool = False) -> None:
        self.exact = policy.config.precision == "float32"
        self._policy, self._rows, self._capture = policy, rows, capture
        fit = not capture and not unfit(policy.model, sys.maxsize)
        self._kept = Kept(policy.model, APART[self.exact]) if fit else None
        self._ends = torch.tensor(sorted(end_ids(policy.model, policy.tokenizer)), device=policy.device)

    @cached_property
    def decoder(self) -> Decoder:
        """What decodes where steps are captured."""
        return Decoder(self._policy, self._ends, self._rows)

    @contextmanager
    def conversation(self) -> Iterator[int]:
        """See `sampling.conversation`. Captured steps read each context anew: a GPU reads many tokens at once."""
        if self._kept is None or self._kept.refused:
            yield 0
            return
        self._kept.active = True
        try:
            yield self._rows
        finally:
            self._kept.active = False
            self._kept.clear()

    @torch.no_grad()
    def generate(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        """One completion per context; see `sampling.Sampler`."""
        # Sorted by length and content: little padding, and equal contexts share a prefill.
        order = sorted(range(len(contexts)), key=lambda row: (len(contexts[row]), tuple(contexts[row])))
        done: dict[int, Completion] = {}
        with self._policy.whole():
            for start in range(0, len(order), self._rows):
                rows = order[start : start + self._rows]
                prompts, uniform = [contexts[r] for r in rows], _uniform([streams[r] for r in rows], sampling)
                if self._capture:
                    completions = self.decoder.decode(prompts, uniform, sampling)
                else:
                    with self._policy.autocast():  # around all tokens, so that weights are cast once
                        completions = self._decode(prompts, uniform, sampling)
                done.update(zip(rows, completions, strict=True))
        return [done[row] for row in range(len(contexts))]

    def _decode(
        self, contexts: Sequence[Sequence[int]], uniform: Float[Tensor, "b t"], sampling: Sampling
    ) -> list[Completion]:
        device, budget = self._policy.device, sampling.max_new_tokens
        model = self._policy.model
        kept = self._kept if self._kept and self._kept.active else None
        resumed = kept.resume(contexts, device) if kept else None
        logits, cache, mask, position = resumed or passes.prefill(model, contexts, device)
        ids = torch.zeros(len(contexts), budget, dtype=torch.long, device=device)
        logps = torch.zeros(len(contexts), budget, device=device)
        length = torch.full((len(contexts),), budget, device=device)
        finished = torch.zeros(len(contexts), dtype=torch.bool, device=device)
        rows = torch.arange(len(contexts), device=device)  # the completion of each row of the cache
        for t in range(budget):
            token, logp = draw(logits, uniform[rows.cpu(), t].to(device), sampling)
            ids[rows, t], logps[rows, t] = token, logp
            ended = torch.isin(token, self._ends) & ~finished[rows]
            length[rows[ended]] = t + 1
            finished[rows[ended]] = True
            alive = ~finished[rows]
            over = not alive.any() or t + 1 == budget
            leave = over or (~alive).float().mean() >= LEAVE
            if kept and leave:
                gone = (torch.ones_like(alive) if over else ~alive).nonzero()[:, 0]
                kept.put(cache, mask, gone, _tokens_read(contexts, ids, length, rows[gone]))
            if over:
                break
            if leave:
                keep = alive.nonzero()[:, 0]
                passes.select(cache, keep)
                rows, token, mask, position = rows[keep], token[keep], mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits = passes.next_logits(model, token[:, None], mask, position[:, None], cache)
        found = zip(ids.tolist(), logps.tolist(), length.tolist(), finished.tolist(), strict=True)
        return [Completion(tuple(row[:n]), tuple(logp[:n]), ended) for row, logp, n, ended in found]


def _tokens_read(
    contexts: Sequence[Sequence[int]], ids: Int[Tensor, "b t"], length: Int[Tensor, " b"], rows: Int[Tensor, " r"]
) -> list[tuple[int, ...]]:
    """What some rows have read: all but the last token that was drawn."""
    counts = (length[rows] - 1).tolist()
    return [(*contexts[row], *ids[row, :n].tolist()) for row, n in zip(rows.tolist(), counts, strict=True)]


def _uniform(streams: Sequence[tuple[int, ...]], sampling: Sampling) -> Float[Tensor, "b t"]:
    """The random numbers of each stream, one per token."""
    sources = [np.random.Generator(np.random.Philox(np.random.SeedSequence(stream))) for stream in streams]
    return torch.from_numpy(np.stack([source.random(sampling.max_new_tokens) for source in sources]))
