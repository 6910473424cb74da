"""What a method asks of each token: minus the gradient of its loss with respect to the student's logits.

All methods of the family, whatever their loss, come down to a push on the logits at each response token. On the same
rollouts these pushes can be laid side by side: which tokens a method moves, how hard, and toward what.
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
    """What a loss asks of one response of T tokens.

    Attributes:
        logits: [T, V] minus the gradient of the whole batch's loss, times the response tokens of the batch: what the
            token's own term of a token mean would give.
        tokens: [T] the response.
    """

    logits: Tensor
    tokens: Tensor

    @property
    def weight(self) -> Tensor:
        """[T] the push on the token that was written: above 0 it is to become likelier."""
        return self.logits.gather(1, self.tokens[:, None])[:, 0]

    @property
    def size(self) -> Tensor:
        """[T] half the sum of absolute pushes: how much is moved from some tokens to others."""
        return self.logits.abs().sum(1) / 2

    def most(self, place: int, count: int = 3) -> list[tuple[int, float]]:
        """The tokens that are pushed hardest at one place, as (id, push), hardest first."""
        order = self.logits[place].abs().argsort(descending=True)[:count]
        return [(int(token), float(self.logits[place, token])) for token in order]


def pushes(learner: Learner, batch: Batch, method: Method) -> list[Push]:
    """What `method` asks of each of the batch's B rollouts; nothing is updated.

    The V logits of every token are held at once: meant for a few rollouts.
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
