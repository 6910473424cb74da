"""The push of a method on each token: minus the gradient of its loss with respect to the student's logits.

Every method, whatever its loss, reduces to a push on the logits at each response token. On the same rollouts the pushes
of several methods can be compared: which tokens each one moves, how strongly, and toward what.

`pushes` takes a method's own loss apart with autograd. `token_terms` and `rollout_terms` measure what the formulas of
all methods are made of, whichever the run's own is: a run records them, and the panel "why this push" of `TokenLens`
fills in the formulas (widgets/vpdlab_widgets/formulas.js) without the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vpdlab import losses
from vpdlab.config import RunConfig
from vpdlab.credit import cost_to_go, group_advantage
from vpdlab.learn.m_step import Method, Seen, survey
from vpdlab.learn.state import Batch, Learner, about
from vpdlab.model.batch import TokenBatch
from vpdlab.model.chunks import chunk_rows
from vpdlab.model.comparison import Support, on_support
from vpdlab.model.distributions import Measure, Term, TokenDist
from vpdlab.model.policy import STUDENT
from vpdlab.types import Feedback, Rollout


@dataclass(frozen=True)
class Push:
    """The push of a loss on one response of which the policy wrote T tokens; the environment's have no push.

    Attributes:
        logits: [T, V] minus the gradient of the whole batch's loss, times the number of response tokens in the batch:
            for a token mean, the gradient of the token's own term.
        tokens: [T] the policy's tokens.
    """

    logits: Tensor
    tokens: Tensor

    @property
    def weight(self) -> Tensor:
        """[T] the push on the sampled token: positive raises its probability."""
        return self.logits.gather(1, self.tokens[:, None])[:, 0]

    @property
    def size(self) -> Tensor:
        """[T] half the sum of absolute pushes: the amount moved from some tokens to others."""
        return self.logits.abs().sum(1) / 2

    def most(self, place: int, count: int = 3) -> list[tuple[int, float]]:
        """The tokens with the largest absolute push at one position, as (id, push), largest first."""
        order = self.logits[place].abs().argsort(descending=True)[:count]
        return [(int(token), float(self.logits[place, token])) for token in order]


def pushes(learner: Learner, batch: Batch, method: Method) -> list[Push]:
    """The push of `method` on each of the batch's B rollouts; no weight is updated.

    All V logits of every token are in memory at once, so this is meant for a few rollouts.
    """
    told = method.prepare(learner, batch, method) if method.prepare else {}
    leaves: list[Tensor] = []

    def forward(view: TokenBatch) -> TokenDist:
        with torch.no_grad():
            dist = learner.policy.token_dist(view)
            (term,) = dist.terms
            assert term.head is not None
            logits = torch.nn.functional.linear(term.hidden, term.head).float()
        leaves.append(logits.requires_grad_())
        return replace(dist, terms=(Term(leaves[-1], None),))

    found: dict[int, Push] = {}
    for seen, _, _ in survey(learner, batch, method, told, forward):
        (gradient,) = torch.autograd.grad(method.loss(seen), leaves.pop())
        lengths = seen.view.mask.sum(1).tolist()
        parts = zip((-gradient * batch.response_tokens).split(lengths), seen.view.tokens.split(lengths), strict=True)
        found |= {row: Push(*part) for row, part in zip(seen.view.rows.tolist(), parts, strict=True)}
    return [found[row] for row in range(len(batch))]


# -- what the formulas are made of ---------------------------------------------------------------------------------


def token_terms(seen: Seen, dists: Mapping[str, TokenDist], row: int, span: Tensor) -> dict[str, list[float]]:
    """The divergences of all methods at the tokens of one rollout, and what else their formulas are made of; nats.

    Of each divergence: its value, its push on the sampled token's logit (minus the gradient), and the number that this
    push also depends on (`_parts`). All are taken on the run's own support, with the logits at temperature 1; the
    support "sampled" has only the first. `to_come` is DistIL's credit, `entropy_share` the entropy over log V,
    `reference_logp` the log-probability under the policy that a KL penalty refers to.

    Args:
        dists: both sides; the student's alone where the rollout has no feedback, which then has no divergences.
        row: of the minibatch.
        span: [T] places of the rollout's tokens in the minibatch.
    """
    mask = seen.view.mask[row : row + 1]
    known = {name: table[int(seen.view.rows[row]), : mask.shape[1]] for name, table in seen.prepared.items()}
    found = {"reference_logp": known["reference"][mask[0]]} if "reference" in known else {}
    if "teacher" in dists and seen.config.record_telemetry and seen.batch.sampled_from == STUDENT:
        found |= _divergences(seen, dists, span)
        found["entropy_share"] = seen.entropy[span] / math.log(seen.vocabulary)
    if "cross_entropy" in found:
        cost = torch.zeros(mask.shape, dtype=seen.entropy.dtype, device=mask.device)
        cost = cost.masked_scatter(mask, (found["cross_entropy"] * seen.heard[span]).to(cost.dtype))
        later = cost_to_go(cost, mask, seen.config.distil_discount)[0] - known.get("baseline", 0.0)
        found["to_come"] = later[mask[0]]
    return {name: values.tolist() for name, values in found.items()}


def _divergences(seen: Seen, dists: Mapping[str, TokenDist], span: Tensor) -> dict[str, Tensor]:
    """[T] each: what `token_terms` gives of the divergences, from chunks of logits."""
    size = max(1, chunk_rows(dists["student"], seen.config.logit_mib) // 4)  # as in `walk`: several arrays at a time
    pieces = []
    for rows, tokens in zip(span.split(size), seen.view.tokens[span].split(size), strict=True):
        with torch.no_grad():
            student, teacher = (dists[side].logp(rows) for side in ("student", "teacher"))
        pieces.append(_measured(seen.config, student, teacher, tokens))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _measured(c: RunConfig, student: Tensor, teacher: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """The divergences at some tokens [n], their pushes and parts, from the log-probabilities of both sides [n, V]."""
    if c.support == "sampled":
        ours, theirs = (side.gather(1, tokens[:, None])[:, 0] for side in (student, teacher))
        value = losses.sampled_divergence(ours, theirs)
        return {"alpha_divergence": value, "alpha_divergence_push": (theirs - ours) * (1 - ours.exp())}
    held = on_support(student, teacher, tokens, Support(c.support, c.top_k, c.tail))
    found = _parts(c, held.student, held.teacher)
    for name, measure in _measures(c).items():
        leaf = held.student.clone().requires_grad_()
        with torch.enable_grad():  # rollouts that are only scored have no other gradients
            value = measure(leaf, held.teacher)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        # Through the softmax, for one logit: of V-sized arrays the support itself is the only one that is needed.
        at, chance = (side.gather(1, held.place[:, None])[:, 0] for side in (slope, held.student.exp()))
        found |= {name: value.detach(), f"{name}_push": held.share * (chance * slope.sum(-1) - at)}
    return found


def _measures(c: RunConfig) -> dict[str, Measure]:
    return {
        "alpha_divergence": partial(losses.token_divergence, alpha=c.alpha),
        "cross_entropy": losses.forward_cross_entropy,
        "clipped_kl": partial(losses.clipped_forward_kl, largest=c.opsd_clip),
    }


def _parts(c: RunConfig, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """What a push depends on beside the token's own probabilities, from both sides on the support [n, K].

    Of OPSD's divergence the teacher's mass whose terms are below the cut; for 0 < alpha < 1 KL(student || mixture).
    """
    mass = teacher.exp()
    kept = torch.where(mass > 0, mass * (teacher - student), 0.0) < c.opsd_clip
    parts = {"clipped_kl_part": (mass * kept).sum(-1)}
    if 0.0 < c.alpha < 1.0:
        mixture = torch.logaddexp(student + math.log(1.0 - c.alpha), teacher + math.log(c.alpha))
        parts["alpha_divergence_part"] = losses.kl(student, mixture)
    return parts


def rollout_terms(
    rollouts: Sequence[Rollout], feedback: Sequence[Feedback], config: RunConfig
) -> list[dict[str, float | None]]:
    """Of each of an iteration's rollouts: its group advantage, and the weight of one of its tokens in each mean.

    `token_weight` is that of a mean over all rollouts, `heard_weight` over what feedback is about, `success_weight`
    over the successes; None where the rollout has no part in that mean.
    """
    rewards = torch.tensor([rollout.verified.reward for rollout in rollouts])
    advantage = group_advantage(rewards, torch.tensor([rollout.group for rollout in rollouts]), config.advantage)
    own = [float(rollout.own_tokens) for rollout in rollouts]
    heard = [float(sum(about(rollout, note))) for rollout, note in zip(rollouts, feedback, strict=True)]
    means = {
        "token_weight": (own, [True] * len(own)),
        "heard_weight": (heard, [note.signal for note in feedback]),
        "success_weight": (own, [rollout.verified.success for rollout in rollouts]),
    }
    weights = {name: _weights(*mean, by_token=config.aggregate == "token") for name, mean in means.items()}
    return [
        {"advantage": value, **{name: found[place] for name, found in weights.items()}}
        for place, value in enumerate(advantage.tolist())
    ]


def _weights(lengths: Sequence[float], chosen: Sequence[bool], by_token: bool) -> list[float | None]:
    """The weight of one token of each rollout in a mean over the chosen ones (`Seen.mean`)."""
    count = sum(length for length, kept in zip(lengths, chosen, strict=True) if kept) if by_token else sum(chosen)
    return [
        1.0 / (count if by_token else count * length) if kept and length else None
        for length, kept in zip(lengths, chosen, strict=True)
    ]
