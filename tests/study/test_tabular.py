"""The enumerated problem: its identities, and what the E-step's losses do on it. All sums go over all responses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from enumerated import CASES, FORKS, PRIOR, PROPERTY, QUARTER, REWARD, WORDS, gradient, problems, table
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from vpdlab import losses
from vpdlab.credit import tilted_weight
from vpdlab.study.tabular import (
    Tree,
    descend,
    elbo,
    expectation,
    objective,
    posterior,
    sequence_logp,
    table_of,
)

# -- the tree --------------------------------------------------------------------------------------------------------


@CASES
def test_the_responses_are_all_there_is(tree: Tree) -> None:
    assert len(tree.responses) == {FORKS: 8, WORDS: 15}[tree]
    assert len(tree.prefixes) == 7
    assert_close(sequence_logp(tree, table(tree, 0)).exp().sum().item(), 1.0)
    for y, response in enumerate(tree.responses):
        assert tree.tokens[y][tree.mask[y]].tolist() == list(response)
        assert [tree.prefixes[row] for row in tree.states[y][tree.mask[y]]] == [
            response[:t] for t in range(len(response))
        ]


@CASES
def test_every_distribution_over_responses_is_a_table(tree: Tree) -> None:
    logits = table(tree, 0)
    assert_close(table_of(tree, sequence_logp(tree, logits)), logits.log_softmax(-1))
    anything = torch.log_softmax(torch.arange(len(tree.responses)).double().sin() * 9, -1)
    assert_close(sequence_logp(tree, table_of(tree, anything)), anything)


@CASES
def test_log_probabilities_have_the_gradient_of_their_value(tree: Tree) -> None:
    logits = table(tree, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sequence_logp(tree, x), (logits,))
    assert torch.autograd.gradcheck(
        lambda x: table_of(tree, posterior(sequence_logp(tree, x), REWARD[tree], 0.5)[0]), (logits,)
    )


# -- the bound -------------------------------------------------------------------------------------------------------


@PROPERTY
@given(problems())
def test_log_z_is_the_bound_plus_the_gap(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    prior, other, reward, beta = problem
    tilted, log_z = posterior(prior, reward, beta)
    assert_close(log_z, (prior.exp() * (reward / beta).exp()).sum().log())
    bound = elbo(other, prior, reward, beta)
    assert_close(bound + losses.kl(other, tilted), log_z)
    assert bound.item() <= log_z.item() + 1e-9
    assert_close(elbo(tilted, prior, reward, beta), log_z)
    assert_close(objective(tilted, prior, reward, beta), beta * log_z)  # J and the bound differ in their unit only
    assert_close(objective(prior, prior, reward, beta), expectation(prior, reward))


@CASES
def test_the_bound_rises_exactly_where_the_divergence_to_the_posterior_falls(tree: Tree) -> None:
    prior, teacher, reward, beta = sequence_logp(tree, table(tree, 0)), table(tree, 1), REWARD[tree], 0.4
    tilted, _ = posterior(prior, reward, beta)
    up = gradient(lambda x: elbo(sequence_logp(tree, x), prior, reward, beta), teacher)
    assert up.abs().max() > 0.1
    assert_close(up, -gradient(lambda x: losses.kl(sequence_logp(tree, x), tilted), teacher))
    at_posterior = gradient(lambda x: elbo(sequence_logp(tree, x), prior, reward, beta), table_of(tree, tilted))
    assert_close(at_posterior, torch.zeros_like(at_posterior), atol=1e-12, rtol=0)


@PROPERTY
@given(problems())
def test_the_margin_of_the_posterior_is_one_whatever_prior_and_beta(
    problem: tuple[Tensor, Tensor, Tensor, float],
) -> None:
    """r~ = beta (log pi* - log pi_ref) = r - beta log Z: the margin of VPD's Figure 1 has a place to stop at."""
    prior, _, reward, beta = problem
    tilted, log_z = posterior(prior, reward, beta)
    implicit = losses.implicit_reward(tilted, prior, beta)
    assert_close(implicit, reward - beta * log_z)
    if 0 < reward.sum() < 4:
        assert losses.margin(implicit, reward == 1) == pytest.approx(1.0)


# -- the E-step ------------------------------------------------------------------------------------------------------

# Each response as often as its share of 64 says: a batch that is exactly its prior.
ROWS = torch.arange(8).repeat_interleave(torch.tensor([27, 9, 9, 3, 9, 3, 3, 1]))
BETA = 0.5


def e_loss(name: str, logits: Tensor) -> Tensor:
    """The library's E-step losses on that batch."""
    teacher, prior, reward = sequence_logp(FORKS, logits)[ROWS], PRIOR[ROWS], REWARD[FORKS][ROWS]
    if name == "bco":
        shift = losses.reward_shift(teacher, prior, reward == 1, BETA)
        return losses.bco_loss(teacher, prior, reward == 1, BETA, shift)
    if name == "kto":
        reference = losses.kto_reference(teacher, prior, BETA)
        return losses.kto_loss(teacher, prior, reward == 1, BETA, reference)
    if name == "awr":
        return losses.weighted_likelihood_loss(teacher, tilted_weight(reward, torch.zeros_like(ROWS), BETA))
    return losses.elbo_policy_gradient_loss(teacher, prior, reward, BETA, baseline=0.3) / len(ROWS)


def margin(logits: Tensor) -> float:
    implicit = losses.implicit_reward(sequence_logp(FORKS, logits)[ROWS], PRIOR[ROWS], BETA)
    found = losses.margin(implicit, REWARD[FORKS][ROWS] == 1)
    assert found is not None
    return found


def test_the_batch_is_the_prior() -> None:
    assert_close(PRIOR.exp() * len(ROWS), torch.bincount(ROWS).double())


def test_bcos_gradient_in_the_table_is_its_closed_form() -> None:
    logits, reward = table(FORKS, 1), REWARD[FORKS][ROWS]
    implicit = BETA * (sequence_logp(FORKS, logits) - PRIOR)[ROWS]
    shift = (implicit[reward == 1].mean() + implicit[reward == 0].mean()) / 2
    up = -BETA / (reward == 1).sum() * torch.sigmoid(shift - implicit)
    down = BETA / (reward == 0).sum() * torch.sigmoid(implicit - shift)
    pull = torch.where(reward == 1, up, down)
    closed = gradient(lambda x: (pull * sequence_logp(FORKS, x)[ROWS]).sum(), logits)
    assert_close(gradient(lambda x: e_loss("bco", x), logits), closed)


def test_all_e_steps_begin_in_the_direction_of_the_bound() -> None:
    """At q = pi_ref, with rewards of 0 and 1, each is the gradient of E_q[r] - beta KL(q||pi_ref) but for a factor."""
    exact = gradient(lambda x: objective(sequence_logp(FORKS, x), PRIOR, REWARD[FORKS], BETA), QUARTER)
    p, log_z = 15 / 64, posterior(PRIOR, REWARD[FORKS], BETA)[1].item()
    factors = {
        "bco": BETA / (2 * p * (1 - p)),
        "kto": BETA / (4 * p * (1 - p)),
        "awr": math.expm1(1 / BETA) / math.exp(log_z),
        "pg": 1.0,
    }
    for name, factor in factors.items():
        assert_close(gradient(lambda x, n=name: e_loss(n, x), QUARTER), -factor * exact)


def test_the_policy_gradient_and_the_weighted_likelihood_are_those_of_the_two_divergences() -> None:
    """From responses of the prior: E_q[r] - beta KL(q||pi_ref), which is -beta KL(q||pi*), and KL(pi*||q). Both vanish
    at pi*."""
    tilted, _ = posterior(PRIOR, REWARD[FORKS], BETA)
    for logits in (table(FORKS, 1), table_of(FORKS, tilted)):
        reverse = gradient(lambda x: BETA * losses.kl(sequence_logp(FORKS, x), tilted), logits)
        forward = gradient(lambda x: losses.kl(tilted, sequence_logp(FORKS, x)), logits)
        assert_close(gradient(lambda x: e_loss("pg", x), logits), reverse)
        assert_close(gradient(lambda x: e_loss("awr", x), logits), forward)
    assert max(reverse.abs().max(), forward.abs().max()) < 1e-12


def test_the_teachers_own_responses_estimate_the_same_two_divergences() -> None:
    """The batch is exactly the teacher's distribution now, and the prior is another one."""
    prior, reward, group = sequence_logp(FORKS, table(FORKS, 1)), REWARD[FORKS], torch.zeros_like(ROWS)
    tilted, _ = posterior(prior, reward, BETA)

    def weighed(x: Tensor) -> Tensor:
        weight = tilted_weight(reward[ROWS], group, BETA, (prior - PRIOR)[ROWS])
        return losses.weighted_likelihood_loss(sequence_logp(FORKS, x)[ROWS], weight)

    def policy_gradient(x: Tensor) -> Tensor:
        q = sequence_logp(FORKS, x)[ROWS]
        found = losses.elbo_policy_gradient_loss(q, prior[ROWS], reward[ROWS], BETA, 0.3, sampled_logp=PRIOR[ROWS])
        return found / len(ROWS)

    for logits in (QUARTER, table(FORKS, 2)):  # on-policy, and after updates
        reverse = gradient(lambda x: BETA * losses.kl(sequence_logp(FORKS, x), tilted), logits)
        forward = gradient(lambda x: losses.kl(tilted, sequence_logp(FORKS, x)), logits)
        assert min(reverse.abs().max(), forward.abs().max()) > 0.01
        assert_close(gradient(policy_gradient, logits), reverse)
        assert_close(gradient(weighed, logits), forward)


@pytest.mark.parametrize(
    ("name", "nearest", "gap", "at", "end"),
    [("bco", 15, 0.1330, 0.8538, 0.2754), ("kto", 25, 0.1428, 0.7985, 0.2600)],
)
def test_bco_and_kto_run_past_the_posterior(name: str, nearest: int, gap: float, at: float, end: float) -> None:
    """The margin rises with every update and does not stop at 1, where pi* is: KL(q||pi*) falls, then grows. Where the
    verifier is certain these losses have no minimum short of a teacher that gives wrong responses no mass at all. (The
    shift is taken anew before each update.)"""
    tilted, _ = posterior(PRIOR, REWARD[FORKS], BETA)
    path = descend(lambda x: e_loss(name, x), QUARTER, lr=0.5, updates=60 if name == "bco" else 80)
    margins = [margin(x) for x in path]
    gaps = [losses.kl(sequence_logp(FORKS, x), tilted).item() for x in path]
    assert all(later > now for now, later in pairwise(margins))
    assert min(range(len(gaps)), key=gaps.__getitem__) == nearest
    assert [gaps[0], gaps[nearest], gaps[-1]] == pytest.approx([0.4465, gap, end], abs=1e-4)
    assert margins[nearest] == pytest.approx(at, abs=1e-4)
    assert margins[-1] > 1.5
    pulls = [gradient(lambda x: e_loss(name, x), x).norm() for x in (table_of(FORKS, tilted), QUARTER)]
    assert pulls[0] > 0.5 * pulls[1]
