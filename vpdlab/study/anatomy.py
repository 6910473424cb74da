"""The push of a method on each token: minus the gradient of its loss with respect to the student's logits.

Every method, whatever its loss, reduces to a push on the logits at each response token. On the same rollouts the pushes
of several methods can be compared: which tokens each one moves, how strongly, and toward what.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vpdlab.learn.m_step import Method, survey
from vpdlab.learn.state import Batch, Learner
from vpdlab.model.batch import TokenBatch
from vpdlab.model.distributions import Term, TokenDist


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
