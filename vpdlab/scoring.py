"""Scoring: from hidden states at response positions to log-probabilities, never more than a chunk of logits.

Only response positions reach the language-model head. Where their N x V logits take more than `mib` MiB they are walked
in chunks of a quarter of that; where a gradient is wanted, a chunk is computed again in the backward pass instead of
being kept, and the head's gradient is added up in one place. So the memory is that of a few chunks, whatever N, and the
result is the same.

The log-softmax is taken in float32 whatever the model's precision (bfloat16 gave errors of 0.2 nats and
negative divergences).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpdlab import losses

# What an excluded token's log-probability is replaced with where the mass of all others is summed: finite, so that
# the gradient stays so even if every other token is excluded too.
EXCLUDED = -1e9

# Numbers of each side that are worked on at a time where nothing takes a gradient, on a CPU: 1 MiB.
CACHED = 2**18


@dataclass(frozen=True)
class Term:
    """One model's part in a distribution: hidden states [N, H], head [V, H], weight of its log-probabilities.

    Without a head the hidden states are the logits themselves [N, V].
    """

    hidden: Float[Tensor, "n h"]
    head: Float[Tensor, "v h"] | None
    weight: float = 1.0


@dataclass(frozen=True)
class TokenDist:
    """Next-token distributions at N response positions, kept as hidden states until a chunk is asked for.

    With several terms the distribution is their geometric mixture: log p is the weighted sum of the terms'
    log-probabilities, normalised again (SDPO's trust-region teacher).

    Attributes:
        terms: one, or several with weights.
        temperature: divides the logits; the tempered distribution is the policy.
    """

    terms: tuple[Term, ...]
    temperature: float = 1.0

    def __len__(self) -> int:
        return self.terms[0].hidden.shape[0]

    @property
    def vocabulary(self) -> int:
        term = self.terms[0]
        return term.hidden.shape[1] if term.head is None else term.head.shape[0]

    def logp(self, rows: slice | Tensor = slice(None)) -> Float[Tensor, "n v"]:
        """Log-probabilities [n, V] of some rows, float32 (or float64 for a float64 model)."""
        if len(self.terms) == 1 and self.terms[0].weight == 1.0:
            return self._term(self.terms[0], rows)
        parts = [term.weight * self._term(term, rows) for term in self.terms]
        return torch.log_softmax(sum(parts[1:], parts[0]), dim=-1)

    def _term(self, term: Term, rows: slice | Tensor) -> Float[Tensor, "n v"]:
        logits = term.hidden[rows] if term.head is None else F.linear(term.hidden[rows], term.head)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.log_softmax(logits if self.temperature == 1.0 else logits / self.temperature, dim=-1)


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


Measure = Callable[[Tensor, Tensor], Tensor]
"""(student, teacher) log-probabilities [N, K] on the support -> [N], with gradient to the student."""


class Comparison(NamedTuple):
    """What one pass over student and teacher gives for each of N response tokens; nats.

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

    def one(rows: slice, logp: Tensor) -> tuple[Tensor, ...]:
        return (_at(logp, tokens[rows]),)

    return _walk(one, dist, mib, 1)[0]


def compare(
    student: TokenDist,
    teacher: TokenDist,
    tokens: Int[Tensor, " n"],
    support: Support,
    alpha: float,
    mib: int = 256,
    measure: Measure | None = None,
) -> Comparison:
    """Divergence of student and teacher at each position, and all that the same logits give beside it.

    Args:
        tokens: the response token that followed at each position.
        alpha: which divergence (`losses.token_divergence`); with the "sampled" support it must be 1.
        measure: taken on the support instead of `token_divergence`, where given.

    Raises:
        ValueError: for the sampled support with a measure, or another alpha than 1: its form is that of reverse KL.
    """
    if support.kind == "sampled" and (alpha != 1.0 or measure is not None):
        raise ValueError(f"the sampled support is reverse KL: alpha must be 1, not {alpha}, and there is no measure")
    measure = measure or partial(losses.token_divergence, alpha=alpha)
    found: dict[int, tuple[Tensor | None, Tensor | None, Tensor, tuple[Tensor, ...]]] = {}

    def look(rows: slice, s: Tensor) -> tuple[Tensor | None, Tensor, Tensor, tuple[Tensor, ...]]:
        """What takes no gradient: the support, the teacher on it and at the tokens, the telemetry."""
        t = teacher.logp(rows)
        ids = _support_ids(s, support)
        return ids, *_pick(t, ids, tokens[rows], support.tail), _measured(s, t)

    def one(rows: slice, s: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            if rows.start not in found:
                ids, on, at, measured = look(rows, s)
                found[rows.start] = ids, None if ids is None else on, at, measured
            else:  # once more, in the backward pass: only what has a gradient is wanted
                ids, kept, at, measured = found[rows.start]
                on = teacher.logp(rows) if kept is None else kept
        s_on, s_at = _pick(s, ids, tokens[rows], support.tail)
        divergence = losses.sampled_divergence(s_at, at) if support.kind == "sampled" else measure(s_on, on)
        return divergence, s_at, at, *measured

    return Comparison(*_walk(one, student, mib, 2))


def logp_and_entropy(
    student: TokenDist, tokens: Int[Tensor, " n"], mib: int = 256
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-probability of each given token, with gradient, and the entropy at its position, without."""

    def one(rows: slice, logp: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            entropy = _entropy(logp)
        return _at(logp, tokens[rows]), entropy

    logp, entropy = _walk(one, student, mib, 1)
    return logp, entropy


def on_support(
    student_logp: Float[Tensor, "n v"], teacher_logp: Float[Tensor, "n v"], support: Support
) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Both distributions on the student's top-K tokens, each summing to 1 again by bucket or renormalisation.

    The bucket is the exact mass of all other tokens (a sum over them, not 1 minus the kept mass, which loses all
    its digits where the kept mass is nearly 1).
    """
    ids = _support_ids(student_logp, support)
    anyone = student_logp.new_zeros(len(student_logp), dtype=torch.long)
    return tuple(_pick(logp, ids, anyone, support.tail)[0] for logp in (student_logp, teacher_logp))  # type: ignore[return-value]


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
    return torch.log_softmax(kept, dim=-1) if tail == "renormalise" else torch.cat([kept, rest], dim=-1), at


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


def top_lists(
    sides: Mapping[str, TokenDist], rows: Int[Tensor, " n"], k: int, mib: int = 256
) -> dict[str, tuple[Tensor, Tensor]]:
    """The k likeliest tokens of each side at some rows: its name -> (ids [n, k], log-probabilities [n, k])."""
    lists = {}
    with torch.no_grad():
        for name, dist in sides.items():
            chunks = rows.split(_chunk_rows(dist, mib))
            tops = [dist.logp(chunk).topk(min(k, dist.vocabulary), dim=-1) for chunk in chunks]
            lists[name] = (torch.cat([top.indices for top in tops]), torch.cat([top.values for top in tops]))
    return lists


def _at(logp: Float[Tensor, "n v"], tokens: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return logp.gather(-1, tokens[:, None])[:, 0]


def _entropy(logp: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    # A token of probability 0 adds 0: exp(-inf) * -inf would be NaN.
    return -(logp.exp() * logp.clamp(min=EXCLUDED)).sum(-1)


def _measured(s: Float[Tensor, "n v"], t: Float[Tensor, "n v"]) -> tuple[Tensor, ...]:
    """KL(s||t), KL(t||s) and both entropies, [n] each, without gradient."""
    parts = [(losses.kl(a, b), losses.kl(b, a), _entropy(a), _entropy(b)) for a, b in _pieces(s, t)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _pieces(first: Float[Tensor, "n v"], second: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of both, as many as the cache holds on a CPU: what is read many times over should stay there."""
    rows = max(1, CACHED // first.shape[-1] if first.device.type == "cpu" else len(first))
    return zip(first.split(rows), second.split(rows), strict=True)


def _chunk_rows(dist: TokenDist, mib: int) -> int:
    """Rows of float32 logits that fit in `mib` MiB; at least one."""
    return max(1, mib * 2**20 // (4 * dist.vocabulary))


One = Callable[[slice, Tensor], tuple[Tensor, ...]]
"""(some rows, their log-probabilities [n, V]) -> the results of these rows, [n] each."""


def _walk(one: One, dist: TokenDist, mib: int, wanted: int) -> tuple[Tensor, ...]:
    """Apply `one` to chunks of rows and put the pieces together; see the module's text on memory.

    Args:
        wanted: how many of the results, the first ones, have a gradient.
    """
    size, (term, *others) = _chunk_rows(dist, mib), dist.terms
    if len(dist) > size:  # what is not kept anyway may be small: some three arrays of a chunk's size are held at a time
        size = max(1, size // 4)
    chunks = [slice(start, start + size) for start in range(0, max(1, len(dist)), size)]
    if len(chunks) > 1 and torch.is_grad_enabled() and term.hidden.requires_grad and not others:
        return _Again.apply(one, dist, chunks, wanted, term.hidden, term.head)
    pieces = [one(rows, dist.logp(rows)) for rows in chunks]
    return tuple(torch.cat(list(part)) for part in zip(*pieces, strict=True))


class _Again(torch.autograd.Function):
    """A walk that keeps no chunk: the backward pass takes its log-probabilities, and what `one` does, once more."""

    @staticmethod
    def forward(
        ctx: Any, one: One, dist: TokenDist, chunks: list[slice], wanted: int, hidden: Tensor, head: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.one, ctx.chunks, ctx.wanted, ctx.temperature = one, chunks, wanted, dist.temperature
        ctx.save_for_backward(hidden, head)
        pieces = [one(rows, dist.logp(rows)) for rows in chunks]
        parts = tuple(torch.cat(list(part)) for part in zip(*pieces, strict=True))
        ctx.mark_non_differentiable(*parts[wanted:])
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, head = ctx.saved_tensors
        dist = TokenDist((Term(hidden, head),), ctx.temperature)
        for_hidden = torch.empty_like(hidden)
        for_head = torch.zeros_like(head) if ctx.needs_input_grad[5] else None
        for rows in ctx.chunks:
            logp = dist.logp(rows).requires_grad_()
            with torch.enable_grad():
                found = ctx.one(rows, logp)[: ctx.wanted]
                (slope,) = torch.autograd.grad(found, logp, [gradient[rows] for gradient in gradients[: ctx.wanted]])
            # Through the softmax and the temperature, in the memory of what is not needed any more.
            slope -= logp.detach_().exp_().mul_(slope.sum(-1, keepdim=True))
            slope = slope.div_(ctx.temperature).to(hidden.dtype)
            for_hidden[rows] = slope if head is None else slope @ head
            if for_head is not None:
                for_head.addmm_(slope.T, hidden[rows])
        return None, None, None, None, for_hidden, for_head
