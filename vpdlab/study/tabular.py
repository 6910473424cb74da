"""Exact EM on problems so small that every response can be enumerated: what training estimates by sampling.

The responses are the leaves of a tree over a small vocabulary. A policy is a table of logits, one row per prefix of a
response. Student and teacher are two tables on the same tree: a response has the same tokens in either context. Whether
they share parameters is up to the caller, since a table may be computed from anything:

    student, teacher = base, base + offset      # shared weights; the offset is the effect of the feedback
    student = tied(tree, weights)               # a student that cannot distinguish prefixes

Everything is exact and differentiable; nothing is sampled. Log-probabilities are in nats, rewards are 0 or 1
(any numbers would do), beta is in units of reward per nat. Axes: Y all responses, R response tokens, P prefixes, V
vocabulary. The symbols are those of VPD (arXiv 2605.15113): pi the student, q the teacher, pi* the prior pi_ref tilted
by the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from vpdlab.losses import implicit_reward, kl, token_divergence


@dataclass(frozen=True, eq=False)
class Tree:
    """All responses over a vocabulary, and all their prefixes.

    Attributes:
        vocabulary: V, the number of tokens.
        responses: Y responses as tuples of tokens, in lexical order.
        prefixes: P prefixes, shortest first; the row of a prefix in a table is its index here. The first is ().
        tokens: the responses padded with 0.
        states: row of the prefix before each token; 0 where padded.
        mask: True at positions that hold a token.
    """

    vocabulary: int
    responses: tuple[tuple[int, ...], ...]
    prefixes: tuple[tuple[int, ...], ...]
    tokens: Int[Tensor, "y r"]
    states: Int[Tensor, "y r"]
    mask: Bool[Tensor, "y r"]


def grow(vocabulary: int, horizon: int, end: int | None = None) -> Tree:
    """The tree of all responses of up to `horizon` tokens.

    Args:
        vocabulary: V, the number of tokens.
        horizon: the longest response, in tokens.
        end: a token that ends a response early; None: all responses have the same length.
    """
    prefixes: list[tuple[int, ...]] = []
    responses: list[tuple[int, ...]] = []
    for length in range(horizon + 1):
        for found in product(range(vocabulary), repeat=length):
            if end in found[:-1]:
                continue  # nothing follows the end
            ended = length == horizon or (length > 0 and found[-1] == end)
            (responses if ended else prefixes).append(found)
    responses.sort()
    row = {prefix: number for number, prefix in enumerate(prefixes)}
    tokens, states = torch.zeros(2, len(responses), horizon, dtype=torch.long)
    mask = torch.zeros(len(responses), horizon, dtype=torch.bool)
    for y, response in enumerate(responses):
        tokens[y, : len(response)] = torch.tensor(response)
        states[y, : len(response)] = torch.tensor([row[response[:t]] for t in range(len(response))])
        mask[y, : len(response)] = True
    return Tree(vocabulary, tuple(responses), tuple(prefixes), tokens, states, mask)


# -- policies ----------------------------------------------------------------------------------------------------


def tied(tree: Tree, weights: Float[Tensor, " v"]) -> Float[Tensor, "p v"]:
    """The table of a policy that cannot distinguish prefixes: the same logits in every row."""
    return weights.expand(len(tree.prefixes), -1)


def next_logp(tree: Tree, table: Float[Tensor, "p v"]) -> Float[Tensor, "y r v"]:
    """Distribution over the next token at each position of each response; padded positions hold the root's."""
    return table.log_softmax(-1)[tree.states]


def token_logp(tree: Tree, table: Float[Tensor, "p v"]) -> Float[Tensor, "y r"]:
    """log pi(y_t|y_<t) of each response; 0 where padded."""
    chosen = next_logp(tree, table).gather(-1, tree.tokens[..., None])[..., 0]
    return chosen.masked_fill(~tree.mask, 0.0)


def sequence_logp(tree: Tree, table: Float[Tensor, "p v"]) -> Float[Tensor, " y"]:
    """log pi(y) of each response; since all responses are listed, the probabilities sum to 1."""
    return token_logp(tree, table).sum(-1)


def table_of(tree: Tree, logp: Float[Tensor, " y"]) -> Float[Tensor, "p v"]:
    """The table under which the responses have these log-probabilities: each token's share of its prefix's mass.

    So every distribution over responses is a policy, pi* included.
    """
    passes = torch.zeros(len(tree.prefixes), tree.vocabulary, len(tree.responses), dtype=torch.bool)
    rows = torch.arange(len(tree.responses))[:, None].expand_as(tree.mask)
    passes[tree.states[tree.mask], tree.tokens[tree.mask], rows[tree.mask]] = True
    mass = torch.where(passes, logp, -torch.inf).logsumexp(-1)
    return mass.log_softmax(-1)


def expectation(logp: Float[Tensor, " y"], values: Float[Tensor, " y"]) -> Float[Tensor, ""]:
    """E_pi[values], the sum over all responses."""
    return (logp.exp() * values).sum()


# -- variational EM (VPD section 3) ------------------------------------------------------------------------------


def posterior(
    prior_logp: Float[Tensor, " y"], reward: Float[Tensor, " y"], beta: float
) -> tuple[Float[Tensor, " y"], Float[Tensor, ""]]:
    """pi*(y) = pi_ref(y) exp(r(y) / beta) / Z, the exact E-step.

    Returns:
        log pi* and log Z.
    """
    tilted = prior_logp + reward / beta
    log_z = tilted.logsumexp(-1)
    return tilted - log_z, log_z


def elbo(
    logp: Float[Tensor, " y"], prior_logp: Float[Tensor, " y"], reward: Float[Tensor, " y"], beta: float
) -> Float[Tensor, ""]:
    """F(q) = E_q[r] / beta - KL(q||pi_ref), in nats: log Z less KL(q||pi*)."""
    return expectation(logp, reward) / beta - kl(logp, prior_logp)


def objective(
    logp: Float[Tensor, " y"], prior_logp: Float[Tensor, " y"], reward: Float[Tensor, " y"], beta: float
) -> Float[Tensor, ""]:
    """J(pi) = E_pi[r] - beta KL(pi||pi_ref), in units of reward. It equals beta times the ELBO."""
    return beta * elbo(logp, prior_logp, reward, beta)


def classifier_loss(
    logp: Float[Tensor, " y"],
    prior_logp: Float[Tensor, " y"],
    reward: Float[Tensor, " y"],
    beta: float,
    sampled_logp: Float[Tensor, " y"],
) -> Float[Tensor, ""]:
    """The E-step's BCO loss (`losses.bco_loss`) in expectation over the responses of any policy.

    Args:
        logp: the teacher's; the only input that takes gradient.
        reward: 1 or 0.
        sampled_logp: of the policy that sampled: the student, or the teacher itself.
    """
    p, r = sampled_logp.detach().exp(), implicit_reward(logp, prior_logp, beta)
    right, wrong = (p * kind / (p * kind).sum() for kind in (reward, 1.0 - reward))
    shift = ((right + wrong) * r).sum().detach() / 2
    return -(right * logsigmoid(r - shift) + wrong * logsigmoid(shift - r)).sum()


def path_divergence(
    tree: Tree,
    student: Float[Tensor, "p v"],
    teacher: Float[Tensor, "p v"],
    alpha: float = 1.0,
    through_states: bool = False,
) -> Float[Tensor, ""]:
    """E_{y~pi} of the sum over t of D(pi(.|y_<t), q(.|y_<t)), the expected token-level loss (SDPO, M-step of VPD).

    Args:
        alpha: which divergence, as in `losses.token_divergence`.
        through_states: whether the gradient includes the effect of a token on later prefixes. Training on sampled
            responses omits it. With it, and alpha 1, this is KL(pi||q) over responses, in value and gradient.
    """
    logp = sequence_logp(tree, student)
    found = token_divergence(next_logp(tree, student), next_logp(tree, teacher), alpha)
    return expectation(logp if through_states else logp.detach(), found.masked_fill(~tree.mask, 0.0).sum(-1))


# -- steps -------------------------------------------------------------------------------------------------------


def reverse_loss(tree: Tree, student: Float[Tensor, "p v"], teacher: Float[Tensor, "p v"]) -> Float[Tensor, ""]:
    """KL(pi||q) over responses: the M-step as the paper derives it."""
    return kl(sequence_logp(tree, student), sequence_logp(tree, teacher))


def forward_loss(tree: Tree, student: Float[Tensor, "p v"], teacher: Float[Tensor, "p v"]) -> Float[Tensor, ""]:
    """KL(q||pi) over responses: the M-step of classical EM (maximum likelihood on the teacher's responses)."""
    return kl(sequence_logp(tree, teacher), sequence_logp(tree, student))


MStep = Callable[[Tree, Tensor, Tensor], Tensor]
M_STEPS: Mapping[str, MStep] = {
    "reverse": reverse_loss,
    "forward": forward_loss,
    "token": path_divergence,  # as in training: prefixes sampled from pi, no gradient through them
}


def descend(loss: Callable[[Tensor], Tensor], start: Tensor, lr: float, updates: int) -> list[Tensor]:
    """Gradient descent; returns the parameters before the first update and after each one, detached."""
    path = [start.detach().clone()]
    for _ in range(updates):
        here = path[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(here), here)
        path.append((here - lr * gradient).detach())
    return path


def em(
    tree: Tree,
    build: Callable[[Tensor], Tensor],
    start: Tensor,
    reward: Float[Tensor, " y"],
    beta: float,
    *,
    iterations: int,
    m_step: MStep = reverse_loss,
    anchor: Literal["dynamic", "fixed"] = "dynamic",
    lr: float = 1.0,
    updates: int = 1,
) -> list[Tensor]:
    """Exact EM: E-steps q = pi*, each followed by an M-step by gradient descent on any parametrisation of the student.

    Args:
        tree: the responses.
        build: computes the student's table from its parameters.
        start: the initial parameters.
        reward, beta: of each response; reward per nat.
        iterations: number of E- and M-steps.
        m_step: a loss of the tree, the student's table and the teacher's, such as those in `M_STEPS`.
        anchor: pi_ref of each E-step: the current student ("dynamic", as in the paper) or the initial one.
        lr, updates: of the gradient descent in each M-step.

    Returns:
        The student's parameters at the start and after each iteration.
    """
    weights = [start.detach()]
    first = sequence_logp(tree, build(weights[0]))
    for _ in range(iterations):
        prior = first if anchor == "fixed" else sequence_logp(tree, build(weights[-1]))
        teacher = table_of(tree, posterior(prior, reward, beta)[0])
        path = descend(lambda w, q=teacher: m_step(tree, build(w), q), weights[-1], lr, updates)
        weights.append(path[-1])
    return weights
