"""`comparison` by compiled functions: few passes over the logits, which stay in the model's type.

A chunk of logits is visited once for its values. Where a gradient is wanted the chunk's student side is computed again
in the backward pass (or kept, if there is only one chunk), and its slope at the logits is written down in one pass:
autograd would keep several float32 arrays of the logits' size. The support's numbers [n, K] are small; on these the
divergence is differentiated by autograd, so that any measure of `losses` works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vpdlab import losses
from vpdlab.model.compiling import compiled
from vpdlab.model.distributions import EXCLUDED, Measure, TokenDist

WIDTH = 64  # the rows of a chunk are a multiple of this: fewer shapes, fuller kernels


# -- compiled functions ------------------------------------------------------------------------------------------
def one_side(logits: Float[Tensor, "n v"], scale: float, telemetry: bool) -> tuple[Tensor, ...]:
    """Log-sum-exp of one distribution [n], and where it is wanted its entropy [n]."""
    s = logits.float() * scale
    lse = s.logsumexp(-1)
    return (lse, _entropy(s - lse[:, None])) if telemetry else (lse,)


def two_sides(
    student: Float[Tensor, "n v"], teacher: Float[Tensor, "n v"], s_kept: Float[Tensor, "n k"], t_kept: Tensor,
    s_scale: float, t_scale: float, telemetry: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Log-sum-exps, the others' log-sum-exps, and where they are wanted both KLs and both entropies, [n] each.

    Args:
        student, teacher: logits; the entries of the support are -inf.
        s_kept, t_kept: the logits of the support, times the scale.
    """
    s, t = student.float() * s_scale, teacher.float() * t_scale
    s_rest, t_rest = s.logsumexp(-1), t.logsumexp(-1)
    s_lse = torch.logaddexp(s_rest, s_kept.logsumexp(-1))
    t_lse = torch.logaddexp(t_rest, t_kept.logsumexp(-1))
    if not telemetry:
        return s_lse, t_lse, s_rest - s_lse, t_rest - t_lse
    others = _sums(s - s_lse[:, None], t - t_lse[:, None])
    kept = _sums(s_kept - s_lse[:, None], t_kept - t_lse[:, None])
    return s_lse, t_lse, s_rest - s_lse, t_rest - t_lse, *(a + b for a, b in zip(others, kept, strict=True))


def _sums(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of KL(s||t), KL(t||s) and both entropies; a token of probability 0 adds 0."""
    p, q = s.exp(), t.exp()
    return (
        torch.where(p > 0, p * (s - t), 0.0).sum(-1),
        torch.where(q > 0, q * (t - s), 0.0).sum(-1),
        _entropy(s),
        _entropy(t),
    )


def _entropy(logp: Tensor) -> Tensor:
    p = logp.exp()
    return -torch.where(p > 0, p * logp, 0.0).sum(-1)


def slope_of_rest(
    logits: Float[Tensor, "n v"], lse: Float[Tensor, " n"], rest: Float[Tensor, " n"], others: Float[Tensor, " n"],
    total: Float[Tensor, " n"], scale: float,
) -> Float[Tensor, "n v"]:  # fmt: skip
    """Slope at each logit that is outside the support: its share of the others' slope, and the softmax's part.

    Args:
        rest: log-probability of all others together.
        others, total: slope with respect to `rest`; sum of the slopes with respect to all log-probabilities.
    """
    logp = logits.float() * scale - lse[:, None]
    slope = (logp - rest[:, None]).exp() * others[:, None] - logp.exp() * total[:, None]
    return (slope * scale).to(logits.dtype)


def slope_of_one(
    logits: Float[Tensor, "n v"], lse: Float[Tensor, " n"], total: Float[Tensor, " n"], scale: float
) -> Float[Tensor, "n v"]:
    """The softmax's part of the slope at each logit, where only single tokens' log-probabilities have one."""
    logp = logits.float() * scale - lse[:, None]
    return (logp.exp() * (-scale * total)[:, None]).to(logits.dtype)


# -- one chunk ---------------------------------------------------------------------------------------------------
class Unit(NamedTuple):
    """What the slope of some rows is made of, where the divergence counts once and log-probabilities not at all.

    Attributes:
        ids: [n, K] the support.
        kept: [n, K] logits of the support, times the scale.
        lse, rest: [n] log-sum-exp; log-probability outside the support.
        on_kept, on_rest, on_token: slope with respect to the support's log-probabilities [n, K], to `rest` [n] and to
            the sampled token's [n].
    """

    ids: Tensor
    kept: Tensor
    lse: Tensor
    rest: Tensor
    on_kept: Tensor
    on_rest: Tensor
    on_token: Tensor


def _logits(dist: TokenDist, rows: slice) -> tuple[Tensor, float]:
    """Logits of some rows as the head gives them, and what to multiply them with; log-probabilities of a mixture."""
    term = dist.terms[0]
    if len(dist.terms) > 1 or term.weight != 1.0:
        return dist.logp(rows), 1.0
    assert term.head is not None  # `fits`
    return F.linear(term.hidden[rows], term.head), 1.0 / dist.temperature


def _visit(
    student: TokenDist, teacher: TokenDist, tokens: Tensor, rows: slice, k: int, tail: str, measure: Measure,
    telemetry: bool,
) -> tuple[tuple[Tensor, ...], Unit, Tensor]:  # fmt: skip
    """The numbers of a chunk (the order of `comparison.Comparison`), what its slope is made of, the student's logits.

    Args:
        k: size of the support; 0 for the sampled token alone.
    """
    s, s_scale = _logits(student, rows)
    t, t_scale = _logits(teacher, rows)
    at = tokens[rows][:, None]
    s_at, t_at = (side.gather(-1, at)[:, 0].float() * scale for side, scale in ((s, s_scale), (t, t_scale)))
    ids = s.topk(k, dim=-1).indices if k else at[:, :0]
    s_raw = s.gather(-1, ids)
    s_kept, t_kept = s_raw.float() * s_scale, t.gather(-1, ids).float() * t_scale
    if k:  # out of the others' sums, which would lose their digits beside the support's
        for side in (s, t):
            side.scatter_(-1, ids, -torch.inf)
        s_lse, t_lse, s_rest, t_rest, *measured = compiled(two_sides)(s, t, s_kept, t_kept, s_scale, t_scale, telemetry)
        s.scatter_(-1, ids, s_raw)
    else:
        s_lse, t_lse, *measured = compiled(whole_sides)(s, t, s_scale, t_scale, telemetry)
        s_rest = t_rest = torch.zeros_like(s_lse)
    s_at, t_at = s_at - s_lse, t_at - t_lse
    measured = measured or [torch.full_like(s_at, torch.nan)] * 4
    if not k:
        value, none = losses.sampled_divergence(s_at, t_at), torch.zeros_like(s_at)
        unit = Unit(ids, s_kept, s_lse, s_rest, s_kept, none, s_at - t_at)
    else:
        s_on, t_on = s_kept - s_lse[:, None], t_kept - t_lse[:, None]
        rest = s_rest.clamp(min=EXCLUDED), t_rest.clamp(min=EXCLUDED)
        value, on_kept, on_rest = _differentiated(s_on, t_on, *rest, tail, measure)
        unit = Unit(ids, s_kept, s_lse, rest[0], on_kept, on_rest, torch.zeros_like(s_at))
    return (value, s_at, t_at, *measured), unit, s


def whole_sides(
    student: Tensor, teacher: Tensor, s_scale: float, t_scale: float, telemetry: bool
) -> tuple[Tensor, ...]:
    """Log-sum-exps, and where they are wanted both KLs and both entropies, [n] each, where nothing is kept apart."""
    s, t = student.float() * s_scale, teacher.float() * t_scale
    s_lse, t_lse = s.logsumexp(-1), t.logsumexp(-1)
    return (s_lse, t_lse, *(_sums(s - s_lse[:, None], t - t_lse[:, None]) if telemetry else ()))


def _differentiated(
    s_on: Tensor, t_on: Tensor, s_rest: Tensor, t_rest: Tensor, tail: str, measure: Measure
) -> tuple[Tensor, Tensor, Tensor]:
    """The divergence on a support [n], its slope with respect to the kept log-probabilities and to the rest's."""
    with torch.enable_grad():
        s_on, s_rest = s_on.requires_grad_(), s_rest.requires_grad_()
        sides = [
            torch.log_softmax(on, dim=-1) if tail == "renormalise" else losses.add_tail(on, rest[:, None])
            for on, rest in ((s_on, s_rest), (t_on, t_rest))
        ]
        value = measure(*sides)
        slopes = torch.autograd.grad(value.sum(), [s_on, s_rest], allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip((s_on, s_rest), slopes, strict=True)]
    return value.detach(), found[0], found[1]


def _slope(logits: Tensor, unit: Unit, tokens: Tensor, scale: float, divergence: Tensor, logp: Tensor) -> Tensor:
    """[n, V] slope at the logits, given the slopes of the loss at the divergence and at the token's log-probability."""
    kept, rest = unit.on_kept * divergence[:, None], unit.on_rest * divergence
    token = logp + unit.on_token * divergence
    total = kept.sum(-1) + rest + token
    if not unit.ids.shape[1]:
        slope = compiled(slope_of_one)(logits, unit.lse, total, scale)
    else:
        slope = compiled(slope_of_rest)(logits, unit.lse, unit.rest, rest, total, scale)
        own = scale * (kept - (unit.kept - unit.lse[:, None]).exp() * total[:, None])
        slope.scatter_(-1, unit.ids, own.to(slope.dtype))
    return slope.scatter_add_(-1, tokens[:, None], (scale * token)[:, None].to(slope.dtype))


# -- all chunks --------------------------------------------------------------------------------------------------
class _Fused(torch.autograd.Function):
    """All chunks of the student's side: values now, slopes in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, visit: Callable[[slice], tuple[tuple[Tensor, ...], Unit, Tensor]], chunks: list[slice],
        wanted: int, tokens: Tensor, temperature: float, hidden: Tensor, head: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        pieces, units, logits = [], [], None
        for rows in chunks:
            values, unit, logits = visit(rows)
            pieces.append(values)
            units.append(unit)
        ctx.chunks, ctx.units, ctx.wanted, ctx.scale = chunks, units, wanted, 1.0 / temperature
        ctx.save_for_backward(hidden, head, tokens, logits if len(chunks) == 1 else None)
        parts = tuple(torch.cat(part) for part in zip(*pieces, strict=True))
        ctx.mark_non_differentiable(*parts[wanted:])
        return parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, head, tokens, known = ctx.saved_tensors
        for_hidden = torch.empty_like(hidden)
        for_head = torch.zeros_like(head) if ctx.needs_input_grad[6] else None
        for rows, unit in zip(ctx.chunks, ctx.units, strict=True):
            logits = F.linear(hidden[rows], head) if known is None else known
            # With one gradient it is that of the token's log-probability; with two the divergence's is the first.
            logp = gradients[ctx.wanted - 1][rows]
            divergence = gradients[0][rows] if ctx.wanted == 2 else torch.zeros_like(logp)
            slope = _slope(logits, unit, tokens[rows], ctx.scale, divergence, logp)
            for_hidden[rows] = slope @ head
            if for_head is not None:
                for_head.addmm_(slope.T, hidden[rows])
        return None, None, None, None, None, for_hidden, for_head


def _walk(visit: Callable[[slice], Any], student: TokenDist, tokens: Tensor, mib: int, wanted: int) -> Any:
    """Apply `visit` to chunks: one, where the student's logits fit into `mib` MiB; else a quarter of that, or on a GPU,
    which needs many rows to be busy, all of it."""
    term, count = student.terms[0], len(student)
    fit = mib * 2**20 // (term.hidden.element_size() * student.vocabulary)
    part = max(1, fit if term.hidden.is_cuda else fit // 4)
    size = count if count <= fit else part - part % WIDTH if part > WIDTH else part
    chunks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return _Fused.apply(visit, chunks, wanted, tokens, student.temperature, term.hidden, term.head)


def fits(dist: TokenDist, k: int = 0) -> bool:
    """Whether these functions take the distribution: rows, a head, a support smaller than the vocabulary."""
    term = dist.terms[0]
    plain = len(dist.terms) == 1 and term.weight == 1.0 and term.head is not None
    return dist.fuse and plain and len(dist) > 0 and k < dist.vocabulary and term.hidden.dtype != torch.float64


def compare(
    student: TokenDist, teacher: TokenDist, tokens: Int[Tensor, " n"], k: int, tail: str, measure: Measure,
    mib: int, telemetry: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The fields of `comparison.Comparison`, in its order; gradients as there.

    Args:
        k: size of the support; 0 for the sampled token alone.
    """

    def visit(rows: slice) -> tuple[tuple[Tensor, ...], Unit, Tensor]:
        return _visit(student, teacher, tokens, rows, k, tail, measure, telemetry)

    return _walk(visit, student, tokens, mib, 2)


def logp_and_entropy(student: TokenDist, tokens: Int[Tensor, " n"], mib: int, telemetry: bool) -> tuple[Tensor, Tensor]:
    """Log-probability of each token, with gradient, and the entropy there, without; NaN where it is not wanted."""

    def visit(rows: slice) -> tuple[tuple[Tensor, ...], Unit, Tensor]:
        logits, scale = _logits(student, rows)
        at = tokens[rows][:, None]
        lse, *measured = compiled(one_side)(logits, scale, telemetry)
        entropy = measured[0] if measured else torch.full_like(lse, torch.nan)
        logp, none = logits.gather(-1, at)[:, 0].float() * scale - lse, torch.zeros_like(lse)
        empty = logits[:, :0].float()
        return (logp, entropy), Unit(at[:, :0], empty, lse, none, empty, none, none), logits

    return _walk(visit, student, tokens, mib, 1)
