"""Next-token distributions at response positions, kept as hidden states until a chunk of logits is asked for.

Only response positions reach the language-model head. The log-softmax is taken in float32 whatever the model's
precision (bfloat16 gave errors of 0.2 nats and negative divergences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# What an excluded token's log-probability is replaced with where the mass of all others is summed: finite, so that
# the gradient stays so even if every other token is excluded too.
EXCLUDED = -1e9

Measure = Callable[[Tensor, Tensor], Tensor]
"""(student, teacher) log-probabilities [N, K] on the support -> [N], with gradient to the student."""


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
        fuse: whether compiled functions may work on it (`fused`).
    """

    terms: tuple[Term, ...]
    temperature: float = 1.0
    fuse: bool = False

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
