"""What the methods' losses do in expectation, exactly.

Nothing here is sampled. An expectation over responses, or over all groups of responses, is a sum weighted with exact
probabilities; the gradient it is compared with comes from differentiating the objective itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from enumerated import CASES, FORKS, REWARD, SMALL, gradient, over_groups, right, success, table, visits
from torch import Tensor
from torch.testing import assert_close

from vpdlab import losses
from vpdlab.credit import cost_to_go, group_advantage, leave_one_out_mean
from vpdlab.study.tabular import (
    Tree,
    expectation,
    grow,
    next_logp,
    path_divergence,
    reverse_loss,
    sequence_logp,
    table_of,
    token_logp,
)

# -- outcomes --------------------------------------------------------------------------------------------------------


def grpo(tree: Tree, x: Tensor, rows: list[int], advantage: Tensor) -> Tensor:
    """The library's GRPO loss of these responses, on-policy."""
    logp = token_logp(tree, x)[rows]
    return losses.policy_gradient_loss(logp, logp.detach(), advantage, tree.mask[rows], 0.2, 0.28)


def centred(rewards: Tensor, scale: str = "none") -> Tensor:
    """The library's advantage, of one group."""
    return group_advantage(rewards, torch.zeros(len(rewards), dtype=torch.long), scale)


def expected_gradient(tree: Tree, logits: Tensor, size: int, loss: Callable[[Tensor, list[int]], Tensor]) -> Tensor:
    return gradient(lambda x: over_groups(tree, x, size, lambda rows: loss(x, rows)), logits)


@pytest.mark.parametrize("size", [2, 3])
def test_grpo_is_the_policy_gradient_times_n_minus_one_over_n_over_the_length(size: int) -> None:
    """The group's mean holds the response's own reward, which costs a share of 1/N; the token mean divides by T. With
    the mean of the others for a baseline nothing is lost."""
    tree, logits, reward = FORKS, table(FORKS, 0), REWARD[FORKS]
    exact = gradient(lambda x: success(tree, x, reward), logits)
    assert exact.abs().max() > 0.01
    ours = expected_gradient(tree, logits, size, lambda x, rows: grpo(tree, x, rows, centred(reward[rows])))
    assert_close(ours, -(size - 1) / size / 3 * exact)

    def against_others(rows: list[int]) -> Tensor:
        return reward[rows] - leave_one_out_mean(reward[rows], torch.zeros(size, dtype=torch.long))

    others = expected_gradient(tree, logits, size, lambda x, rows: grpo(tree, x, rows, against_others(rows)))
    assert_close(others, -exact / 3)


@pytest.mark.parametrize(("size", "rare", "even"), [(2, 1.0, 1.0), (3, 2**0.5, 2**0.5), (4, 1.7275, 1.6160)])
def test_grpo_divided_by_the_deviation_weighs_a_problem_by_its_success_rate(
    size: int, rare: float, even: float
) -> None:
    """Still the policy gradient's direction: with rewards of 0 and 1 its length is E[std of a group] / (p (1 - p)),
    which hangs on p alone. Up to N=3 that is a constant; from N=4 on a rare success weighs more than an even one."""
    reward = REWARD[SMALL]
    for p, expected in ((0.01, rare), (0.5, even)):
        logits = table_of(SMALL, torch.where(reward == 1, p, (1 - p) / 3).log())
        shares = [(k / size, math.comb(size, k) * p**k * (1 - p) ** (size - k)) for k in range(size + 1)]
        factor = sum(chance * math.sqrt(share * (1 - share)) for share, chance in shares) / (p * (1 - p))
        assert factor == pytest.approx(expected, abs=1e-4)
        ours = expected_gradient(
            SMALL, logits, size, lambda x, rows: grpo(SMALL, x, rows, centred(reward[rows], "std"))
        )
        assert_close(ours, -factor / 2 * gradient(lambda x: success(SMALL, x, reward), logits))


def test_the_token_mean_teaches_lost_responses_to_go_on() -> None:
    """Where lengths differ, the divisor hangs on the responses, and the mean is no longer E[r]'s gradient. Here only
    stopping at once is right, so after the first token nothing matters: the gradient there is 0. The token mean's is
    not: it lowers "stop", since a long failure is blamed less for each token. The sum over tokens is exact."""
    tree, size = grow(2, 6, end=1), 2
    logits, reward, tokens = torch.zeros(6, 2, dtype=torch.float64), right(tree, "1"), tree.mask.sum(-1)

    def mean(x: Tensor, rows: list[int]) -> Tensor:
        return grpo(tree, x, rows, centred(reward[rows]))

    exact = gradient(lambda x: success(tree, x, reward), logits)
    assert exact[:, 1].tolist() == pytest.approx([0.25, 0, 0, 0, 0, 0])
    total = expected_gradient(tree, logits, size, lambda x, rows: tokens[rows].sum() * mean(x, rows))
    assert_close(total, -(size - 1) * exact)
    pull = -expected_gradient(tree, logits, size, mean)[:, 1]
    assert pull.tolist() == pytest.approx([0.0684, -0.0075, -0.0023, -0.0007, -0.0002, 0.0], abs=1e-4)


def test_reshaping_the_advantage_is_adding_the_reverse_kl() -> None:
    """VPD appendix B.3: on-policy, before any clipping, "reshape" (A + w sg(log q - log pi) in the surrogate) and
    "joint" (GRPO's loss plus w times the token mean of KL(pi||q)) have the same gradient in expectation."""
    tree, logits, teacher, reward, weight = FORKS, table(FORKS, 0), table(FORKS, 1), REWARD[FORKS], 0.3
    bonus = weight * (token_logp(tree, teacher) - token_logp(tree, logits))

    def plain(x: Tensor, rows: list[int]) -> Tensor:
        return grpo(tree, x, rows, centred(reward[rows]))

    def reshape(x: Tensor, rows: list[int]) -> Tensor:
        return grpo(tree, x, rows, centred(reward[rows])[:, None] + bonus[rows])

    divergence = gradient(lambda x: path_divergence(tree, x, teacher), logits)
    joint = expected_gradient(tree, logits, 2, plain) + weight * divergence / 3
    assert_close(expected_gradient(tree, logits, 2, reshape), joint)


# -- distillation on the student's own responses ---------------------------------------------------------------------


def costs(tree: Tree, student: Tensor, teacher: Tensor) -> Tensor:
    """H(T(.|s_t), pi(.|s_t)) at each position of each response, by the library; 0 where padded."""
    found = losses.forward_cross_entropy(next_logp(tree, student), next_logp(tree, teacher))
    return found.masked_fill(~tree.mask, 0.0)


def distil_cost(tree: Tree, student: Tensor, teacher: Tensor, discount: float = 1.0) -> Tensor:
    """DistIL's objective, E_{y~pi} of the sum over t of discount^t H_t; the first token has t = 0."""
    weight = discount ** torch.arange(tree.tokens.shape[1], dtype=torch.float64)
    return expectation(sequence_logp(tree, student), (weight * costs(tree, student, teacher)).sum(-1))


def distil_gradient(
    tree: Tree, x: Tensor, teacher: Tensor, future: Callable[[Tensor], Tensor], weight: Tensor | float = 1.0
) -> Tensor:
    """Expected gradient as it is estimated: the local term, and each token's score times its future credit."""
    p = sequence_logp(tree, x).detach().exp()
    cost = costs(tree, x, teacher)
    surrogate = cost + future(cost).detach() * token_logp(tree, x)
    (found,) = torch.autograd.grad((p[:, None] * weight * surrogate).sum(), x, create_graph=True)
    return found


@CASES
def test_distil_is_the_gradient_of_its_objective(tree: Tree) -> None:
    """arXiv 2606.05152: grad E[sum_t H_t] = E[sum_t grad H_t + sum_t grad log pi(y_t) sum_{i>t} H_i]."""
    logits, teacher = table(tree, 0).requires_grad_(), table(tree, 1)
    exact = gradient(lambda x: distil_cost(tree, x, teacher), logits)
    assert_close(distil_gradient(tree, logits, teacher, lambda cost: cost_to_go(cost, tree.mask)), exact)


@CASES
def test_the_local_term_alone_is_token_level_forward_kl(tree: Tree) -> None:
    logits, teacher = table(tree, 0).requires_grad_(), table(tree, 1)
    local = distil_gradient(tree, logits, teacher, torch.zeros_like)
    assert_close(local, gradient(lambda x: path_divergence(tree, x, teacher, alpha=0.0), logits))


def test_the_local_term_does_not_see_where_a_token_leads() -> None:
    """Both say (1/2, 1/2) at the first token and behind token 0. Behind token 1 the teacher still does, but the student
    says (1/4, 3/4). So token 1 leads to a cost that token 0 does not: of the cross-entropy, (ln 4 + ln 4/3) / 2 against
    ln 2; of reverse KL, (ln 1/2)/4 + 3 (ln 3/2)/4 against 0. The gradient in its logit is a quarter of the difference.
    The local term, and the token-level reverse KL, is 0 there."""
    logits = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]], dtype=torch.float64).log().requires_grad_()
    teacher = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    cross = ((math.log(4) + math.log(4 / 3)) / 2 - math.log(2)) / 4
    reverse = (math.log(1 / 2) + 3 * math.log(3 / 2)) / 4 / 4
    assert (cross, reverse) == pytest.approx((0.0359603, 0.0327030), abs=1e-7)
    exact = gradient(lambda x: distil_cost(SMALL, x, teacher), logits)
    local = distil_gradient(SMALL, logits, teacher, torch.zeros_like)
    assert_close(exact[0], torch.tensor([-cross, cross], dtype=torch.float64))
    assert local[0].tolist() == [0.0, 0.0]
    assert_close(local[1:], exact[1:])
    exact = gradient(lambda x: reverse_loss(SMALL, x, teacher), logits)
    token = gradient(lambda x: path_divergence(SMALL, x, teacher), logits)
    assert_close(exact[0], torch.tensor([-reverse, reverse], dtype=torch.float64))
    assert token[0].tolist() == [0.0, 0.0]
    assert_close(token[1:], exact[1:])


@CASES
@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
def test_what_a_discount_of_future_credit_does(tree: Tree, discount: float) -> None:
    """With the weight discount^t on both terms of token t, it is the gradient of E[sum_t discount^t H_t].

    Without that weight, as it is used, each token is judged by what follows it from its own place on: the gradient of
    sum_t E_{s_t ~ sg pi} [H(s_t) + discount E_{v ~ pi(.|s_t)} C(s_t v)], where C, the discounted cost from a prefix
    on, is held fixed.
    """
    logits, teacher = table(tree, 0).requires_grad_(), table(tree, 1)

    def future(cost: Tensor) -> Tensor:
        return cost_to_go(cost, tree.mask, discount)

    weight = discount ** torch.arange(3, dtype=torch.float64)
    weighted = distil_gradient(tree, logits, teacher, future, weight)
    assert_close(weighted, gradient(lambda x: distil_cost(tree, x, teacher, discount), logits))

    ahead = cost_from(tree, logits, teacher, discount).detach()
    cost = losses.forward_cross_entropy(logits.log_softmax(-1), teacher.log_softmax(-1))
    step = cost + discount * (logits.softmax(-1) * ahead).sum(-1)
    (held,) = torch.autograd.grad((visits(tree, logits) * step).sum(), logits)
    assert_close(distil_gradient(tree, logits, teacher, future), held)


def cost_from(tree: Tree, student: Tensor, teacher: Tensor, discount: float) -> Tensor:
    """[P, V] expected discounted cost after a token at a prefix: of the next prefix, with what follows from there."""
    cost = losses.forward_cross_entropy(student.log_softmax(-1), teacher.log_softmax(-1))
    ahead = torch.zeros_like(student)
    for row in reversed(range(len(tree.prefixes))):  # longer prefixes stand behind shorter ones
        for token in range(tree.vocabulary):
            follows = (*tree.prefixes[row], token)
            if follows in tree.prefixes:
                after = tree.prefixes.index(follows)
                ahead[row, token] = cost[after] + discount * (student[after].softmax(-1) * ahead[after]).sum()
    return ahead


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_only_undiscounted_future_credit_descends_a_function(discount: float) -> None:
    """A field is the gradient of some function only if its Jacobian is symmetric. Without the weight discount^t it is
    not, by as much as 1 - discount: there is no objective that the discounted update descends, nor one for the local
    term alone (discount 0), which is distillation on the student's own responses as it is done."""
    tree, teacher, step = SMALL, table(SMALL, 11), 1e-5

    def field(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return distil_gradient(tree, x, teacher, lambda cost: cost_to_go(cost, tree.mask, discount)).detach().flatten()

    logits = table(tree, 1)
    bumps = step * torch.eye(logits.numel(), dtype=torch.float64).view(-1, *logits.shape)
    jacobian = torch.stack([(field(logits + bump) - field(logits - bump)) / (2 * step) for bump in bumps])
    asymmetry = (jacobian - jacobian.T).abs().max().item()
    assert asymmetry == pytest.approx(0.0940630 * (1.0 - discount), abs=1e-6)


def test_a_leave_one_out_baseline_of_the_group_changes_no_expectation() -> None:
    """The mean future cost of the group's others at the same position does not depend on the token: it drops out. The
    mean that holds the response's own cost takes a share of 1/N away from the future credit."""
    tree, teacher, size = FORKS, table(FORKS, 1), 2
    ahead = cost_to_go(costs(tree, table(tree, 0), teacher), tree.mask)
    group = torch.zeros(size, dtype=torch.long)

    def credit(x: Tensor, rows: list[int], own: bool) -> Tensor:
        later = ahead[rows]
        baseline = later.mean(0, keepdim=True) if own else leave_one_out_mean(later, group)
        return ((later - baseline) * token_logp(tree, x)[rows]).sum() / size

    exact = gradient(lambda x: distil_cost(tree, x, teacher), table(tree, 0))
    local = gradient(lambda x: path_divergence(tree, x, teacher, alpha=0.0), table(tree, 0))
    for own, share in ((False, 1.0), (True, (size - 1) / size)):
        future = gradient(
            lambda x, own=own: over_groups(tree, x, size, lambda rows: credit(x, rows, own)), table(tree, 0)
        )
        assert_close(future, share * (exact - local))


@CASES
def test_one_sampled_token_has_the_gradient_of_the_token_level_reverse_kl(tree: Tree) -> None:
    logits, teacher = table(tree, 0), table(tree, 1)

    def sampled(x: Tensor) -> Tensor:
        each = losses.sampled_divergence(token_logp(tree, x), token_logp(tree, teacher))
        return expectation(sequence_logp(tree, x).detach(), each.sum(-1))

    assert_close(gradient(sampled, logits), gradient(lambda x: path_divergence(tree, x, teacher), logits))


@CASES
def test_reverse_kl_over_responses_is_the_token_level_one_plus_future_credit(tree: Tree) -> None:
    """The values are equal (chain rule); the gradients differ by E[sum_t grad log pi(y_t) sum_{i>t} KL_i]."""
    logits, teacher = table(tree, 0).requires_grad_(), table(tree, 1)
    whole = reverse_loss(tree, logits, teacher)
    assert_close(path_divergence(tree, logits, teacher), whole)
    exact = gradient(lambda x: reverse_loss(tree, x, teacher), logits)
    assert_close(gradient(lambda x: path_divergence(tree, x, teacher, through_states=True), logits), exact)

    token = gradient(lambda x: path_divergence(tree, x, teacher), logits)
    each = losses.token_divergence(next_logp(tree, logits), next_logp(tree, teacher), 1.0).detach()
    ahead = cost_to_go(each, tree.mask)
    p = sequence_logp(tree, logits).detach().exp()
    (future,) = torch.autograd.grad((p[:, None] * ahead * token_logp(tree, logits)).sum(), logits)
    assert_close(token + future, exact)


@pytest.mark.parametrize("sharpness", [0.0, 5.0])
def test_sdars_gate_is_a_reward_for_each_token(sharpness: float) -> None:
    """arXiv 2605.15155: E[sum_t -g_t grad log pi(y_t)] = -sum_s d(s) sum_v g(v) grad pi(v|s), with d and g held. Only
    differences between the gates of a prefix count: a gate that is the same for all its tokens pulls at nothing."""
    tree, logits, teacher = FORKS, table(FORKS, 0), table(FORKS, 1)
    gates = losses.gate(teacher.log_softmax(-1) - logits.log_softmax(-1), sharpness)

    def loss(x: Tensor) -> Tensor:
        pull = gates[tree.states, tree.tokens] * (token_logp(tree, teacher) - token_logp(tree, x))
        return expectation(sequence_logp(tree, x).detach(), pull.sum(-1))

    found, passed = gradient(loss, logits), visits(tree, logits)
    assert_close(found, gradient(lambda x: -(passed[:, None] * gates * x.softmax(-1)).sum(), logits))
    assert (found.abs().max() < 1e-12) == (sharpness == 0.0)
