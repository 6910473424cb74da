"""From logits and a random number to a token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpdlab.sampling import Sampling

LARGE = 16_384  # a vocabulary from this size on is searched in blocks
BLOCK = 1024  # tokens of a block


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
    if sampling.top_p == 1 and logits.shape[-1] >= LARGE and logits.device.type != "mps":
        token = _draw_large(logp, uniform)
        return token, logp.gather(-1, token[:, None])[:, 0]
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


def _draw_large(logp: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The same token by two searches: for the block of tokens, then within it. Over a large vocabulary a running sum
    takes longer than a GPU needs for a layer."""
    blocks = torch.nn.functional.pad(logp.exp(), (0, -logp.shape[-1] % BLOCK)).view(len(logp), -1, BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64)
    mass = sums.cumsum(-1)
    target = uniform.to(torch.float64)[:, None] * mass[:, -1:]
    block = torch.searchsorted(mass, target, right=True).clamp(max=sums.shape[1] - 1)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0].to(torch.float64).cumsum(-1)
    left = target - (mass.gather(1, block) - sums.gather(1, block))
    rank = torch.searchsorted(inside, left, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + rank).clamp(max=logp.shape[-1] - 1)[:, 0]
