"""Student and teacher side by side: divergence, KL and entropy of their distributions at each response token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpdlab import losses
from vpdlab.model import fused
from vpdlab.model.chunks import One, chunk_rows, walk
from vpdlab.model.distributions import EXCLUDED, Measure, TokenDist

# Numbers of each side that are worked on at a time where nothing takes a gradient, on a CPU: 1 MiB.
CACHED = 2**18


@dataclass(frozen=True)
class Support:
    """On which tokens a divergence is taken.

    Attributes:
        kind: "full" (all V), "topk" (the student's K likeliest), "sampled" (the sampled token alone).
        k: K of "topk"; at or above V it is "full".
        tail: "bucket" adds all other mass as one more outcome, "renormalise" divides it out.
    """

    kind: Literal["full", "topk", "sampled"] = "full"
    k: int = 100
    tail: Literal["bucket", "renormalise"] = "bucket"


class Comparison(NamedTuple):
    """Numbers of student and teacher at each of N response tokens, from one pass over both; nats.

    `divergence` and `student_logp` carry a gradient, and only to the student.
    """

    divergence: Float[Tensor, " n"]
    student_logp: Float[Tensor, " n"]
    teacher_logp: Float[Tensor, " n"]
    kl: Float[Tensor, " n"]
    """KL(student || teacher) over the full vocabulary, whatever the support of the divergence."""
    kl_teacher: Float[Tensor, " n"]
    """KL(teacher || student), the same: what the trust region bounds."""
    student_entropy: Float[Tensor, " n"]
    teacher_entropy: Float[Tensor, " n"]


def token_logp(dist: TokenDist, tokens: Int[Tensor, " n"], mib: int = 256) -> Float[Tensor, " n"]:
    """Log-probability of each given token, with gradient where `dist` has one."""
    return logp_and_entropy(dist, tokens, mib, telemetry=False)[0]


def compare_tokens(
    student: TokenDist,
    teacher: TokenDist,
    tokens: Int[Tensor, " n"],
    support: Support,
    alpha: float,
    mib: int = 256,
    measure: Measure | None = None,
    telemetry: bool = True,
) -> Comparison:
    """Divergence of student and teacher at each position, with KL and entropies from the same logits.

    Args:
        tokens: the response token that followed at each position.
        alpha: which divergence (`losses.token_divergence`); with the "sampled" support it must be 1.
        measure: replaces `token_divergence` on the support.
        telemetry: whether KLs and entropies are measured; else they are NaN.

    Raises:
        ValueError: for the sampled support with a measure or alpha other than 1: its form is that of reverse KL.
    """
    if support.kind == "sampled" and (alpha != 1.0 or measure is not None):
        raise ValueError(f"the sampled support is reverse KL: alpha must be 1, not {alpha}, and there is no measure")
    measure = measure or partial(losses.token_divergence, alpha=alpha)
    size = {"full": student.vocabulary, "topk": support.k, "sampled": 0}[support.kind]
    if fused.fits(student, size):
        return Comparison(*fused.compare(student, teacher, tokens, size, support.tail, measure, mib, telemetry))
    return Comparison(*walk(_comparing(teacher, tokens, support, measure, telemetry), student, mib, 2))


def _comparing(teacher: TokenDist, tokens: Tensor, support: Support, measure: Measure, telemetry: bool) -> One:
    """What `compare_tokens` does with some rows."""
    fixed: dict[int, tuple[Tensor | None, Tensor | None, Tensor, tuple[Tensor, ...]]] = {}

    def one(rows: slice, s: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # the support, the teacher on it and at the tokens, KL and entropies
            if rows.start not in fixed:
                t = teacher.logp(rows)
                ids = _support_ids(s, support)
                on, at = _pick(t, ids, tokens[rows], support.tail)
                measured = _measured(s, t) if telemetry else (torch.full_like(at, torch.nan),) * 4
                fixed[rows.start] = ids, None if ids is None else on, at, measured
            else:  # recomputed in the backward pass: only results with a gradient are needed
                ids, kept, at, measured = fixed[rows.start]
                on = teacher.logp(rows) if kept is None else kept
        s_on, s_at = _pick(s, ids, tokens[rows], support.tail)
        divergence = losses.sampled_divergence(s_at, at) if support.kind == "sampled" else measure(s_on, on)
        return divergence, s_at, at, *measured

    return one


def logp_and_entropy(
    student: TokenDist, tokens: Int[Tensor, " n"], mib: int = 256, telemetry: bool = True
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-probability of each given token, with gradient, and the entropy at its position, without.

    Args:
        telemetry: whether the entropy is measured; else it is NaN.
    """
    if fused.fits(student):
        return fused.logp_and_entropy(student, tokens, mib, telemetry)

    def one(rows: slice, logp: Tensor) -> tuple[Tensor, ...]:
        at = _at(logp, tokens[rows])
        with torch.no_grad():
            return at, _entropy(logp, logp.exp()) if telemetry else torch.full_like(at, torch.nan)

    logp, entropy = walk(one, student, mib, 1)
    return logp, entropy


def _support_ids(student_logp: Float[Tensor, "n v"], support: Support) -> Int[Tensor, "n k"] | None:
    """The tokens of the support; None where it is the whole vocabulary (or a divergence that needs none)."""
    if support.kind != "topk" or support.k >= student_logp.shape[-1]:
        return None
    return student_logp.detach().topk(support.k, dim=-1).indices


def _pick(
    logp: Float[Tensor, "n v"], ids: Int[Tensor, "n k"] | None, tokens: Int[Tensor, " n"], tail: str
) -> tuple[Float[Tensor, "n k2"], Float[Tensor, " n"]]:
    """A distribution on the support, and at the tokens."""
    if ids is None:
        return logp, _at(logp, tokens)
    kept, rest, at = _Picked.apply(logp, ids, tokens)
    return torch.log_softmax(kept, dim=-1) if tail == "renormalise" else losses.add_tail(kept, rest), at


class _Picked(torch.autograd.Function):
    """The log-probabilities of some tokens [n, k], of all others together [n, 1], and of the sampled one [n].

    By hand, because all three gradients fit into one array of size V, where autograd makes one of each and adds.
    """

    @staticmethod
    def forward(ctx: Any, logp: Tensor, ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rest = torch.cat(
            [part.scatter(-1, at, EXCLUDED).logsumexp(-1, keepdim=True) for part, at in _pieces(logp, ids)]
        )
        ctx.save_for_backward(logp, ids, tokens, rest)
        return logp.gather(-1, ids), rest, _at(logp, tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, kept: Tensor, others: Tensor, at: Tensor) -> tuple[Tensor, None, None]:
        logp, ids, tokens, rest = ctx.saved_tensors
        slope = (logp - rest).exp_().mul_(others).scatter_(-1, ids, kept)  # each of the others by its share of them
        return slope.scatter_add_(-1, tokens[:, None], at[:, None]), None, None


class OnSupport(NamedTuple):
    """Both distributions on the student's support, [n, K] log-probabilities without gradient, and the sampled token.

    K is V of a full support, and one more than `Support.k` where the tail is an outcome of its own.

    Attributes:
        place: [n] the outcome that the token belongs to.
        share: [n] the token's share of its probability; 0 where renormalising has left the token out.
    """

    student: Float[Tensor, "n k"]
    teacher: Float[Tensor, "n k"]
    place: Int[Tensor, " n"]
    share: Float[Tensor, " n"]


@torch.no_grad()
def on_support(
    student_logp: Float[Tensor, "n v"], teacher_logp: Float[Tensor, "n v"], tokens: Int[Tensor, " n"], support: Support
) -> OnSupport:
    """What a measure gets of some rows of V log-probabilities; not for the "sampled" support."""
    ids = _support_ids(student_logp, support)
    ours, at = _pick(student_logp, ids, tokens, support.tail)
    theirs, _ = _pick(teacher_logp, ids, tokens, support.tail)
    if ids is None:
        return OnSupport(ours, theirs, tokens, torch.ones_like(at))
    found = ids == tokens[:, None]
    inside = found.any(-1)
    outside = (at - ours[:, -1]).exp() if support.tail == "bucket" else torch.zeros_like(at)
    place = torch.where(inside, found.long().argmax(-1), ours.shape[-1] - 1)
    return OnSupport(ours, theirs, place, torch.where(inside, 1.0, outside))


def top_lists(
    sides: Mapping[str, TokenDist], rows: Int[Tensor, " n"], k: int, mib: int = 256
) -> dict[str, tuple[Tensor, Tensor]]:
    """The k likeliest tokens of each side at some rows: its name -> (ids [n, k], log-probabilities [n, k])."""
    lists = {}
    with torch.no_grad():
        for name, dist in sides.items():
            chunks = rows.split(chunk_rows(dist, mib))
            tops = [dist.logp(chunk).topk(min(k, dist.vocabulary), dim=-1) for chunk in chunks]
            lists[name] = (torch.cat([top.indices for top in tops]), torch.cat([top.values for top in tops]))
    return lists


def _at(logp: Float[Tensor, "n v"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return logp.gather(-1, tokens[:, None])[:, 0]


def _entropy(logp: Float[Tensor, "n v"], p: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    # A token of probability 0 adds 0: exp(-inf) * -inf would be NaN.
    return -(p * logp.clamp(min=EXCLUDED)).sum(-1)


def _measured(s: Float[Tensor, "n v"], t: Float[Tensor, "n v"]) -> tuple[Tensor, ...]:
    """KL(s||t), KL(t||s) and both entropies, [n] each, without gradient."""
    parts = [_measured_piece(a, b) for a, b in _pieces(s, t)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _measured_piece(s: Float[Tensor, "n v"], t: Float[Tensor, "n v"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`losses.kl` both ways, bit for bit, and both entropies, with each exponential computed once."""
    low = math.log(torch.finfo(s.dtype).tiny)
    p, q, gap = s.exp(), t.exp(), s - t
    forward = (p * gap).masked_fill_(s < low, 0.0).sum(-1)
    backward = torch.sub(t, s, out=gap).mul_(q).masked_fill_(t < low, 0.0).sum(-1)
    return forward, backward, _entropy(s, p), _entropy(t, q)


def _pieces(first: Float[Tensor, "n v"], second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of both, as many as the cache holds on a CPU: what is read many times over should stay there."""
    rows = max(1, CACHED // first.shape[-1] if first.device.type == "cpu" else len(first))
    return zip(first.split(rows), second.split(rows), strict=True)
