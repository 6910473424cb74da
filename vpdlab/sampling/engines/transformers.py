"""Sampling with transformers: one prefill per prompt, and finished rows leave the batch.

`generate` is not used because it keeps finished rows until the last one ends, reads the same prompt once per rollout
of its group, and draws from one generator for the whole batch, so that a rollout depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpdlab.config import RunConfig
from vpdlab.model import passes
from vpdlab.model.policy import Policy
from vpdlab.model.traits import end_ids
from vpdlab.sampling import Completion, Sampling

SETTINGS: tuple[str, ...] = ()

# Finished rows are dropped once they are this share of the batch: each drop copies the rest of the cache.
LEAVE = 1 / 8


def check(config: RunConfig) -> None:
    """Nothing to check before the model is loaded: the model itself samples."""


def open_sampler(config: RunConfig, policy: Policy, max_context: int) -> HFSampler:
    """The sampler of a run."""
    return HFSampler(policy, config.sampler_rows)


class HFSampler:
    """Samples from a policy in this process.

    Args:
        rows: rollouts decoded at the same time.
    """

    central = False

    def __init__(self, policy: Policy, rows: int = 128) -> None:
        self.exact = policy.config.precision == "float32"
        self._policy, self._rows = policy, rows
        self._ends = torch.tensor(sorted(end_ids(policy.model, policy.tokenizer)), device=policy.device)

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
                with self._policy.autocast():  # around all tokens, so that weights are cast once
                    completions = self._decode([contexts[r] for r in rows], [streams[r] for r in rows], sampling)
                done.update(zip(rows, completions, strict=True))
        return [done[row] for row in range(len(contexts))]

    def _decode(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        device, budget = self._policy.device, sampling.max_new_tokens
        uniform = torch.from_numpy(
            np.stack([np.random.Generator(np.random.Philox(np.random.SeedSequence(s))).random(budget) for s in streams])
        )
        model = self._policy.model
        logits, cache, mask, position = passes.prefill(model, contexts, device)
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
            if not alive.any() or t + 1 == budget:
                break
            if (~alive).float().mean() >= LEAVE:
                keep = alive.nonzero()[:, 0]
                passes.select(cache, keep)
                rows, token, mask, position = rows[keep], token[keep], mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position + 1
            logits = passes.next_logits(model, token[:, None], mask, position[:, None], cache)
        return [
            Completion(tuple(ids[row, :n].tolist()), tuple(logps[row, :n].tolist()), bool(finished[row]))
            for row, n in enumerate(length.tolist())
        ]


def draw(
    logits: Float[Tensor, "b v"], uniform: Float[Tensor, " b"], sampling: Sampling
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """The token at which the cumulative probability exceeds each uniform number, and its log-probability.

    One number in [0, 1) determines one token, so a stream of numbers determines a rollout. Probabilities are summed in
    float64: over a large vocabulary the error in float32 would exceed the probability of the rarest tokens.
    """
    if sampling.temperature == 0:
        logp = torch.log_softmax(logits, dim=-1)
        token = logp.argmax(-1)
        return token, logp.gather(-1, token[:, None])[:, 0]
    logp = torch.log_softmax(logits / sampling.temperature, dim=-1)
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # mps has no float64
    p, order = logp.exp().to(wide), None
    if sampling.top_p < 1:
        p, order = p.sort(dim=-1, descending=True, stable=True)  # ties are broken alike in any batch
        p = p.masked_fill(p.cumsum(-1) - p >= sampling.top_p, 0.0)  # the likeliest token always stays
    mass = p.cumsum(-1)
    rank = torch.searchsorted(mass, uniform.to(wide)[:, None] * mass[:, -1:], right=True)
    rank = rank.clamp(max=logits.shape[-1] - 1)
    token = (rank if order is None else order.gather(-1, rank))[:, 0]
    return token, logp.gather(-1, token[:, None])[:, 0]
