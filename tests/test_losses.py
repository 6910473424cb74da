"""The losses against numbers worked out by hand, against their own mathematics, and against TRL's functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from supports import on_support
from torch import Tensor
from torch.testing import assert_close

from vpdlab import losses
from vpdlab.credit import tilted_weight
from vpdlab.model.comparison import Support

PROPERTY = settings(max_examples=60, deadline=None, database=None, derandomize=True)
ALPHAS = (0.0, 0.25, 0.5, 0.9, 1.0)
INF = math.inf

# S = (1/2, 1/2) and T = (1/4, 3/4), worked out on paper:
S, T = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.25, 0.75]).double().log()
BY_HAND = {
    0.0: 0.1308120,  # KL(T||S) = 1/4 ln 1/2 + 3/4 ln 3/2
    1.0: 0.1438410,  # KL(S||T) = 1/2 ln 2 + 1/2 ln 2/3
    0.5: 0.0338221,  # M = (3/8, 5/8): 1/2 (1/2 ln 4/3 + 1/2 ln 4/5) + 1/2 (1/4 ln 2/3 + 3/4 ln 6/5)
    0.25: 0.0248700,  # M = (7/16, 9/16): 3/4 (1/2 ln 8/7 + 1/2 ln 8/9) + 1/4 (1/4 ln 4/7 + 3/4 ln 4/3)
}


def random_logp(*shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(scale * torch.randn(*shape, generator=generator, dtype=torch.float64), -1).to(dtype)


@st.composite
def pairs(draw: Callable, bound: float = 30.0) -> tuple[Tensor, Tensor]:
    """Two distributions over the same 2 to 7 tokens, as log-probabilities in float64."""
    k = draw(st.integers(2, 7))
    row = st.lists(st.floats(-bound, bound), min_size=k, max_size=k)
    student, teacher = (torch.tensor(draw(row), dtype=torch.float64) for _ in range(2))
    return torch.log_softmax(student, -1), torch.log_softmax(teacher, -1)


@st.composite
def pairs_with_holes(draw: Callable) -> tuple[Tensor, Tensor]:
    """The same, with tokens of probability 0 on either side or on both; each side keeps at least one token."""
    student, teacher = draw(pairs())
    k = len(student)
    found = []
    for logp in (student, teacher):
        holes = draw(st.lists(st.booleans(), min_size=k, max_size=k))
        holes[draw(st.integers(0, k - 1))] = False
        found.append(torch.log_softmax(logp.masked_fill(torch.tensor(holes), -INF), -1))
    return found[0], found[1]


# -- token_divergence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "expected"), BY_HAND.items())
def test_divergence_has_the_values_worked_out_by_hand(alpha: float, expected: float) -> None:
    assert losses.token_divergence(S, T, alpha).item() == pytest.approx(expected, abs=1e-7)


def test_alpha_weighs_the_student_in_the_mixture_with_one_minus_alpha() -> None:
    # S sits on token 0, T on token 1, so M = (1 - a, a) and D = -(1 - a) ln(1 - a) - a ln a.
    student, teacher = torch.tensor([[0.0, -INF], [-INF, 0.0]], dtype=torch.float64)
    expected = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert losses.token_divergence(student, teacher, 0.1).item() == pytest.approx(expected, abs=1e-12)
    # A small share of T in M makes T the one that is far away: exchanging S and T is not the same as 1 - a.
    assert losses.token_divergence(S, T, 0.25).item() == pytest.approx(
        losses.token_divergence(T, S, 0.75).item(), abs=1e-12
    )
    assert losses.token_divergence(S, T, 0.25).item() != pytest.approx(
        losses.token_divergence(T, S, 0.25).item(), abs=1e-4
    )


def test_the_ends_are_cases_of_their_own_and_no_limits() -> None:
    for near, end in ((1e-6, 0.0), (1 - 1e-6, 1.0)):
        assert losses.token_divergence(S, T, near).item() < 1e-6
        assert losses.token_divergence(S, T, end).item() > 0.1


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        losses.token_divergence(S, T, alpha)


def test_divergence_keeps_every_axis_but_the_last() -> None:
    student, teacher = random_logp(2, 3, 5), random_logp(2, 3, 5, seed=1)
    whole = losses.token_divergence(student, teacher, 0.5)
    assert whole.shape == (2, 3)
    assert_close(whole[1, 2], losses.token_divergence(student[1, 2], teacher[1, 2], 0.5))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_divergence_has_the_gradient_of_its_value(alpha: float) -> None:
    student = (2 * random_logp(3, 5)).requires_grad_()
    teacher = (2 * random_logp(3, 5, seed=1)).requires_grad_()

    def loss(s: Tensor, t: Tensor) -> Tensor:
        return losses.token_divergence(s.log_softmax(-1), t.log_softmax(-1), alpha)

    assert torch.autograd.gradcheck(loss, (student, teacher))


def test_the_gradient_also_flows_through_the_mixture() -> None:
    student = S.clone().requires_grad_()
    losses.token_divergence(student, T, 0.5).backward()
    # dD/dlog S = (1 - a) S (log S - log M) with the mixture's part; without it there would be a further (1 - a) S.
    mixture = torch.tensor([3 / 8, 5 / 8], dtype=torch.float64).log()
    assert_close(student.grad, 0.5 * S.exp() * (S - mixture))


@PROPERTY
@given(pairs(), st.sampled_from(ALPHAS))
def test_divergence_is_never_negative_and_zero_for_equals(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    student, teacher = pair
    assert losses.token_divergence(student, teacher, alpha).item() >= -1e-12
    assert abs(losses.token_divergence(student, student.clone(), alpha).item()) < 1e-12


@PROPERTY
@given(pairs(), st.floats(0.01, 0.99))
def test_mixture_is_bounded_by_the_entropy_of_its_weights(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    bound = -(1 - alpha) * math.log(1 - alpha) - alpha * math.log(alpha)  # at most ln 2
    assert losses.token_divergence(*pair, alpha).item() <= bound + 1e-12
    assert bound <= math.log(2) + 1e-12


@PROPERTY
@given(pairs(), st.sampled_from(ALPHAS), st.floats(-50, 50), st.floats(-50, 50))
def test_a_constant_added_to_the_logits_changes_nothing(
    pair: tuple[Tensor, Tensor], alpha: float, up: float, down: float
) -> None:
    shifted = (pair[0] + up).log_softmax(-1), (pair[1] + down).log_softmax(-1)
    assert_close(losses.token_divergence(*shifted, alpha), losses.token_divergence(*pair, alpha), rtol=1e-9, atol=1e-9)


@PROPERTY
@given(pairs_with_holes(), st.sampled_from(ALPHAS), st.randoms(use_true_random=False))
def test_the_order_of_tokens_changes_nothing(pair: tuple[Tensor, Tensor], alpha: float, random) -> None:
    order = list(range(len(pair[0])))
    random.shuffle(order)
    assert_close(losses.token_divergence(pair[0][order], pair[1][order], alpha), losses.token_divergence(*pair, alpha))


@PROPERTY
@given(pairs_with_holes(), st.floats(0.01, 0.99))
def test_mixture_and_its_gradients_are_finite_whatever_has_probability_zero(
    pair: tuple[Tensor, Tensor], alpha: float
) -> None:
    student, teacher = (logp.clone().requires_grad_() for logp in pair)
    value = losses.token_divergence(student, teacher, alpha)
    value.backward()
    assert math.isfinite(value.item())
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()
    assert (student.grad[pair[0] == -INF] == 0).all()


@PROPERTY
@given(pairs_with_holes(), st.sampled_from((0.0, 1.0)))
def test_kl_is_infinite_exactly_where_the_first_has_mass_that_the_second_has_not(
    pair: tuple[Tensor, Tensor], alpha: float
) -> None:
    student, teacher = (logp.clone().requires_grad_() for logp in pair)
    value = losses.token_divergence(student, teacher, alpha)
    first, second = (student, teacher) if alpha == 1.0 else (teacher, student)
    if ((first > -INF) & (second == -INF)).any():
        assert value.item() == INF
        return
    value.backward()
    assert math.isfinite(value.item())
    assert student.grad.isfinite().all()
    assert (student.grad[student == -INF] == 0).all()


def test_a_probability_that_underflows_counts_as_zero() -> None:
    # exp(-200) is 0 in float32: against -inf that would be 0 times infinity.
    student = torch.tensor([0.0, -200.0], requires_grad=True)
    value = losses.kl(student, torch.tensor([0.0, -INF]))
    value.backward()
    assert value.item() == 0.0
    assert student.grad.tolist() == [1.0, 0.0]


def test_the_smallest_normal_probability_is_not_zero() -> None:
    # It is the first that counts: against a probability of 0 its term is infinite, or cut.
    first = torch.tensor([0.0, math.log(torch.finfo(torch.float64).tiny)], dtype=torch.float64)
    second = torch.tensor([0.0, -INF], dtype=torch.float64)
    assert losses.kl(first, second).item() == INF
    assert losses.clipped_forward_kl(second, first, 0.3).item() == 0.3


# -- the support -----------------------------------------------------------------------------------------------


def test_tail_is_the_mass_that_is_left() -> None:
    with_tail = losses.add_tail(torch.tensor([[0.5, 0.2], [0.9, 0.05]], dtype=torch.float64).log())
    assert_close(with_tail.exp(), torch.tensor([[0.5, 0.2, 0.3], [0.9, 0.05, 0.05]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tail_of_a_full_support_is_epsilon_with_finite_gradient(dtype: torch.dtype) -> None:
    logp = torch.tensor([0.5, 0.5], dtype=dtype).log().requires_grad_()
    with_tail = losses.add_tail(logp)
    assert with_tail[-1].item() == pytest.approx(math.log(torch.finfo(dtype).eps), abs=1e-3)
    with_tail[-1].backward()
    assert logp.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_a_tail_that_is_given_is_appended_to_the_last_axis(axes: tuple[int, ...]) -> None:
    logp, tail = torch.tensor([0.5, 0.2]).log().expand(*axes, 2), torch.tensor([0.25]).log().expand(*axes, 1)
    assert_close(losses.add_tail(logp, tail).exp(), torch.tensor([0.5, 0.2, 0.25]).expand(*axes, 3))


def test_tail_of_a_support_without_mass_is_everything() -> None:
    assert losses.add_tail(torch.tensor([-INF, -INF])).tolist() == [-INF, -INF, 0.0]


def test_tail_has_the_gradient_of_its_value() -> None:
    logp = random_logp(3, 6)[:, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(losses.add_tail, (logp,))


@PROPERTY
@given(pairs(8.0), st.sampled_from(ALPHAS), st.data())
def test_divergence_with_tail_is_not_negative_and_not_above_the_full_one(
    pair: tuple[Tensor, Tensor], alpha: float, data: st.DataObject
) -> None:
    # Merging outcomes loses information, so no divergence can grow (data processing).
    k = data.draw(st.integers(1, len(pair[0]) - 1))
    full = losses.token_divergence(*pair, alpha).item()
    by_sum = losses.token_divergence(losses.add_tail(pair[0][:k]), losses.add_tail(pair[1][:k]), alpha).item()
    exact = losses.token_divergence(*on_support(pair[0][None], pair[1][None], Support("topk", k)), alpha).item()
    for value in (by_sum, exact):
        assert -1e-12 <= value <= full + 1e-9


@PROPERTY
@given(pairs(), st.sampled_from(ALPHAS), st.sampled_from(("bucket", "renormalise")), st.integers(0, 3))
def test_topk_of_the_whole_vocabulary_equals_full(
    pair: tuple[Tensor, Tensor], alpha: float, tail: str, more: int
) -> None:
    support = Support("topk", len(pair[0]) + more, tail)
    topk = losses.token_divergence(*on_support(pair[0][None], pair[1][None], support), alpha)
    assert topk.item() == losses.token_divergence(*pair, alpha).item()


# -- one sampled token, and cross-entropy ----------------------------------------------------------------------


def test_sampled_divergence_is_the_detached_log_ratio_times_log_s() -> None:
    student = torch.tensor([-1.0, -2.0], requires_grad=True)
    teacher = torch.tensor([-3.0, -0.5], requires_grad=True)
    value = losses.sampled_divergence(student, teacher)
    assert value.tolist() == [2.0 * -1.0, -1.5 * -2.0]
    value.sum().backward()
    assert student.grad.tolist() == [2.0, -1.5]
    assert teacher.grad is None


def test_sampled_divergence_has_the_gradient_of_reverse_kl_in_expectation() -> None:
    logits = random_logp(6).requires_grad_()
    teacher = random_logp(6, seed=1)
    student = logits.log_softmax(-1)
    # Every token of the vocabulary, weighted with the probability of drawing it.
    expected = (student.detach().exp() * losses.sampled_divergence(student, teacher)).sum()
    (estimate,) = torch.autograd.grad(expected, logits, retain_graph=True)
    (exact,) = torch.autograd.grad(losses.token_divergence(student, teacher, 1.0), logits)
    assert exact.abs().max() > 0.1
    assert_close(estimate, exact)


def test_cross_entropy_has_the_value_worked_out_by_hand() -> None:
    # -(1/4 ln 1/2 + 3/4 ln 1/2) = ln 2, and the other way round -(1/2 ln 1/4 + 1/2 ln 3/4).
    assert losses.forward_cross_entropy(S, T).item() == pytest.approx(math.log(2), abs=1e-12)
    assert losses.forward_cross_entropy(T, S).item() == pytest.approx(0.8369882, abs=1e-7)


def test_cross_entropy_has_the_gradient_of_forward_kl_and_none_for_the_teacher() -> None:
    logits, teacher = random_logp(4, 6).requires_grad_(), random_logp(4, 6, seed=1).requires_grad_()
    student = logits.log_softmax(-1)
    entropy = losses.forward_cross_entropy(student, teacher).sum()
    (ours,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    (kl,) = torch.autograd.grad(losses.token_divergence(student, teacher.detach(), 0.0).sum(), logits)
    assert_close(ours, kl)
    assert not losses.forward_cross_entropy(student.detach(), teacher).requires_grad


def test_cross_entropy_ignores_what_the_teacher_excludes() -> None:
    student = torch.tensor([0.0, -INF], requires_grad=True)
    value = losses.forward_cross_entropy(student, torch.tensor([0.0, -INF]))
    value.backward()
    assert value.item() == 0.0
    assert student.grad.tolist() == [-1.0, 0.0]


# -- the E-step ------------------------------------------------------------------------------------------------

# beta 1/2, so that the implicit rewards are 1 | -1/2, 0: one success, two failures.
TEACHER = torch.tensor([3.0, 0.0, 2.0], dtype=torch.float64)
PRIOR = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
SUCCESS = torch.tensor([True, False, False])


def test_implicit_reward_margin_and_shift_by_hand() -> None:
    reward = losses.implicit_reward(TEACHER, PRIOR, 0.5)
    assert reward.tolist() == [1.0, -0.5, 0.0]
    assert losses.margin(reward, SUCCESS) == 1.25  # 1 - (-1/2 + 0) / 2
    assert losses.reward_shift(TEACHER, PRIOR, SUCCESS, 0.5).item() == 0.375  # (1 - 1/4) / 2: no class weighs more


def test_shift_takes_no_gradient() -> None:
    teacher = TEACHER.clone().requires_grad_()
    assert not losses.reward_shift(teacher, PRIOR, SUCCESS, 0.5).requires_grad


@pytest.mark.parametrize("success", [[True, True, True], [False, False, False], []])
def test_margin_and_shift_need_both_classes(success: list[bool]) -> None:
    which = torch.tensor(success, dtype=torch.bool)
    reward = TEACHER[: len(success)]
    assert losses.margin(reward, which) is None
    with pytest.raises(ValueError, match="at least one success and one failure"):
        losses.reward_shift(reward, PRIOR[: len(success)], which, 0.5)


def test_bco_loss_has_the_value_worked_out_by_hand() -> None:
    # shift 0: ln(1 + e^-1) for the success, the mean of ln(1 + e^-1/2) and ln 2 for the failures
    assert losses.bco_loss(TEACHER, PRIOR, SUCCESS, 0.5, 0.0).item() == pytest.approx(0.3132617 + 0.5836121, abs=1e-7)
    # shift 3/8: ln(1 + e^-5/8), and the mean of ln(1 + e^-7/8) and ln(1 + e^-3/8)
    shifted = losses.bco_loss(TEACHER, PRIOR, SUCCESS, 0.5, 0.375).item()
    assert shifted == pytest.approx(0.4287006 + (0.3484450 + 0.5231230) / 2, abs=1e-6)


def test_bco_gradient_is_the_closed_form() -> None:
    teacher, prior = TEACHER.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    beta, shift = 0.5, 0.375
    losses.bco_loss(teacher, prior, SUCCESS, beta, shift).backward()
    up, down, level = torch.sigmoid(torch.tensor([-0.625, -0.875, -0.375], dtype=torch.float64))
    assert_close(teacher.grad, torch.stack([-beta / 1 * up, beta / 2 * down, beta / 2 * level]))
    assert prior.grad is None


def test_bco_gradient_is_the_gradient_of_its_value() -> None:
    teacher = TEACHER.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: losses.bco_loss(t, PRIOR, SUCCESS, 0.5, 0.1), (teacher,))


def test_bco_losses_of_minibatches_add_up_to_the_whole() -> None:
    teacher, prior = (5 * random_logp(7, seed=3)).requires_grad_(), 5 * random_logp(7, seed=4)
    success = torch.tensor([True, False, False, True, False, False, True])
    whole = losses.bco_loss(teacher, prior, success, 0.3, 0.2)
    parts = [
        losses.bco_loss(teacher[rows], prior[rows], success[rows], 0.3, 0.2, n_success=3, n_failure=4)
        for rows in ([0, 3, 6], [1, 2], [4, 5])  # the first without failures, the others without successes
    ]
    assert_close(sum(parts), whole)
    (of_parts,) = torch.autograd.grad(sum(parts), teacher)
    (of_whole,) = torch.autograd.grad(losses.bco_loss(teacher, prior, success, 0.3, 0.2), teacher)
    assert_close(of_parts, of_whole)


@pytest.mark.parametrize("success", [[True, True, True], [False, False, False], []])
def test_an_absent_class_adds_an_attached_zero(success: list[bool]) -> None:
    which = torch.tensor(success, dtype=torch.bool)
    teacher = TEACHER[: len(success)].clone().requires_grad_()
    loss = losses.bco_loss(teacher, PRIOR[: len(success)], which, 0.5, 0.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert (loss.item() > 0) == bool(success)
    assert teacher.grad.isfinite().all()
    assert (teacher.grad != 0).all()


def test_bco_loss_of_one_class_is_that_class_alone() -> None:
    both = losses.bco_loss(TEACHER, PRIOR, SUCCESS, 0.5, 0.0)
    success = losses.bco_loss(TEACHER[:1], PRIOR[:1], SUCCESS[:1], 0.5, 0.0)
    failure = losses.bco_loss(TEACHER[1:], PRIOR[1:], SUCCESS[1:], 0.5, 0.0)
    assert success.item() == pytest.approx(0.3132617, abs=1e-7)
    assert_close(success + failure, both)


def test_bco_stays_finite_far_from_the_trust_region() -> None:
    teacher = torch.tensor([-1e5, 1e5], requires_grad=True)
    loss = losses.bco_loss(teacher, torch.zeros(2), torch.tensor([True, False]), 0.1, 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert_close(teacher.grad, torch.tensor([-0.1, 0.1]))


# -- the policy gradient ---------------------------------------------------------------------------------------


def test_policy_gradient_clips_what_would_go_too_far_and_only_that() -> None:
    # ratios 3/2 and 1/2 under an advantage of 1 and of -1, clipped to [0.8, 1.28]
    logp = torch.tensor([[1.5, 0.5], [1.5, 0.5]], dtype=torch.float64).log().requires_grad_()
    old = torch.zeros(2, 2, dtype=torch.float64)
    advantage, mask = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.ones(2, 2, dtype=torch.bool)
    loss = losses.policy_gradient_loss(logp, old, advantage, mask, 0.2, 0.28)
    # min(1.5, 1.28), min(0.5, 0.8), min(-1.5, -1.28), min(-0.5, -0.8)
    assert loss.item() == pytest.approx(-(1.28 + 0.5 - 1.5 - 0.8) / 4)
    loss.backward()
    assert_close(logp.grad, torch.tensor([[0.0, -0.5 / 4], [1.5 / 4, 0.0]], dtype=torch.float64))


def test_policy_gradient_on_policy_is_reinforce() -> None:
    logp = random_logp(2, 3).requires_grad_()
    advantage = torch.tensor([2.0, -1.0], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    loss = losses.policy_gradient_loss(logp, logp.detach(), advantage, mask, 0.2, 0.28)
    assert loss.item() == pytest.approx(-(3 * 2.0 - 1 * 1.0) / 4)  # a mean over the four active tokens
    loss.backward()
    assert_close(logp.grad, -(advantage[:, None] * mask) / 4)


def test_policy_gradient_of_one_active_token_is_that_tokens_term() -> None:
    mask = torch.tensor([[False, True, False]])
    logp = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = losses.policy_gradient_loss(logp, torch.zeros(1, 3).double(), torch.tensor([2.0]).double(), mask, 0.2, 0.2)
    assert loss.item() == -2.0


def test_policy_gradient_takes_an_advantage_for_each_token() -> None:
    logp = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    losses.policy_gradient_loss(logp, torch.zeros(1, 3).double(), advantage, mask, 0.2, 0.2).backward()
    assert_close(logp.grad, -advantage / 3)


def test_policy_gradient_never_reads_masked_positions() -> None:
    mask = torch.tensor([[True, False, False], [True, True, False]])
    clean, old = torch.full((2, 3), 0.1).double(), torch.zeros(2, 3).double()
    advantage = torch.tensor([[1.0] * 3, [-1.0] * 3]).double()
    dirty = [torch.where(mask, values, torch.tensor(math.nan).double()) for values in (clean, old, advantage)]
    dirty[0][0, 1] = 1e9  # a ratio that overflows
    grads = []
    for logp, before, weight in ((clean, old, advantage), dirty):
        logp = logp.clone().requires_grad_()
        loss = losses.policy_gradient_loss(logp, before, weight, mask, 0.2, 0.28)
        loss.backward()
        assert loss.item() == pytest.approx((2 - 1) * math.exp(0.1) / 3)
        grads.append(logp.grad)
    assert torch.equal(*grads)
    assert (grads[1][~mask] == 0).all()


def test_policy_gradient_of_a_fully_masked_batch_is_an_attached_zero() -> None:
    logp = torch.full((2, 2), math.nan, requires_grad=True)
    mask = torch.zeros(2, 2, dtype=torch.bool)
    loss = losses.policy_gradient_loss(logp, logp.detach(), torch.full((2,), math.nan), mask, 0.2, 0.2)
    loss.backward()
    assert loss.item() == 0.0
    assert logp.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_policy_gradient_has_the_gradient_of_its_value() -> None:
    logp, old = random_logp(3, 4).requires_grad_(), random_logp(3, 4, seed=1)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    advantage = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: losses.policy_gradient_loss(x, old, advantage, mask, 0.2, 0.28), (logp,), nondet_tol=0.0
    )


@pytest.mark.parametrize("shift", [1000.0, -1000.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_policy_gradient_stays_finite_far_off_policy(shift: float, sign: float) -> None:
    # exp(1000) is inf, and inf times an advantage of 0 is NaN: both came out of off-policy rows before.
    logp = torch.zeros(2, 3, requires_grad=True)
    old, mask = torch.full((2, 3), -shift), torch.ones(2, 3, dtype=torch.bool)
    loss = losses.policy_gradient_loss(logp, old, torch.tensor([sign, 0.0]), mask, 0.2, 0.28)
    loss.backward()
    assert loss.isfinite() and logp.grad.isfinite().all()
    assert (logp.grad[1] == 0).all()


def test_the_logarithm_of_the_ratio_is_held_within_twenty() -> None:
    logp = torch.tensor([-1000.0, -3.0, -2.0, 1000.0], dtype=torch.float64)
    ratio = losses.importance_ratio(logp, torch.tensor([0.0, -2.0, -2.0, 0.0], dtype=torch.float64))
    assert_close(ratio.log(), torch.tensor([-20.0, -1.0, 0.0, 20.0], dtype=torch.float64))


def test_truncated_weight_cuts_from_above_and_takes_no_gradient() -> None:
    logp = torch.tensor([0.5, 2.0, 8.0, 1e30]).log().requires_grad_()
    weight = losses.truncated_weight(logp, torch.zeros(4), 2.0)
    assert_close(weight, torch.tensor([0.5, 2.0, 2.0, 2.0]))
    assert not weight.requires_grad


def test_reweighting_by_hand() -> None:
    # a teacher that agrees with the sign of the advantage scales it up, one that disagrees scales it down
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 0.0])
    difference = torch.tensor([1.1, 0.9, 1.1, 0.9, 9.0, 5.0]).log()
    factor = losses.reweighting(advantage, difference, 0.5, 0.2)
    assert_close(factor, 0.5 + 0.5 * torch.tensor([1.1, 0.9, 1 / 1.1, 1 / 0.9, 1.2, 1.0]))
    against = losses.reweighting(torch.tensor([1.0, -1.0]), torch.tensor([0.1, 10.0]).log(), 0.5, 0.2)
    assert_close(against, torch.full((2,), 0.5 + 0.5 * 0.8))  # it never loses more than its clip
    assert_close(losses.reweighting(advantage, difference, 0.0, 0.2), torch.ones(6))


def test_gate_by_hand() -> None:
    score = torch.tensor([0.0, math.log(3.0), -math.log(3.0)], requires_grad=True)
    found = losses.gate(score, 1.0)
    assert_close(found, torch.tensor([0.5, 0.75, 0.25]))
    assert not found.requires_grad


# -- other objectives of the E-step ------------------------------------------------------------------------------

LOG2 = math.log(2.0)


def test_kto_loss_by_hand() -> None:
    # r~ - z is ln 3 and 0 for the successes, -ln 3 for the failure: 1 - 3/4, 1/2 | 1/4
    q = torch.tensor([math.log(3.0), 0.0, -math.log(3.0)]).double() + 0.4
    success = torch.tensor([True, True, False])
    assert losses.kto_loss(q, torch.zeros(3).double(), success, 1.0, 0.4).item() == pytest.approx(0.375 + 0.25)
    halves = [
        losses.kto_loss(q[i : i + 1], torch.zeros(1).double(), success[i : i + 1], 1.0, 0.4, 2, 1) for i in (0, 1, 2)
    ]
    assert sum(part.item() for part in halves) == pytest.approx(0.375 + 0.25)


def test_kto_losses_of_minibatches_add_up_to_the_whole() -> None:
    q, prior, success = torch.arange(5).double(), torch.ones(5).double(), torch.tensor([True, False, False, True, True])
    whole = losses.kto_loss(q, prior, success, 0.3, 0.2)
    parts = [losses.kto_loss(q[i], prior[i], success[i], 0.3, 0.2, 3, 2) for i in ([0, 1], [2, 3], [4])]
    assert_close(sum(parts), whole)


def test_kto_gradient_is_the_closed_form_and_vanishes_at_both_ends() -> None:
    q = torch.tensor([0.7, -0.3, 60.0, -60.0, 0.2], dtype=torch.float64, requires_grad=True)
    prior, success = torch.zeros(5, dtype=torch.float64), torch.tensor([True, False, True, True, False])
    losses.kto_loss(q, prior, success, 0.5, 0.1).backward()
    s = torch.sigmoid(0.5 * q.detach() - 0.1)
    slope = 0.5 * s * (1 - s) * torch.where(success, -1 / 3, 1 / 2).double()
    assert_close(q.grad, slope)
    assert q.grad[2:4].abs().max() < 1e-12


def test_kto_reference_is_a_mean_above_zero() -> None:
    q = torch.tensor([1.0, 4.0], requires_grad=True)
    assert losses.kto_reference(q, torch.tensor([0.0, 1.0]), 0.5).item() == pytest.approx(1.0)
    assert losses.kto_reference(-q, torch.zeros(2), 0.5).item() == 0.0
    assert not losses.kto_reference(q, torch.zeros(2), 0.5).requires_grad


def test_weighted_likelihood_is_kl_to_the_tilted_prior_up_to_a_constant() -> None:
    # With every response of a three-response problem drawn in proportion to pi, the gradient is that of KL(pi*||q).
    prior, reward, beta = torch.tensor([0.5, 0.25, 0.25]).double().log(), torch.tensor([0.0, 1.0, 0.0]).double(), 0.5
    drawn = torch.tensor([0, 0, 1, 2])  # each as often as pi has it, of four
    logits = torch.tensor([0.1, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    weight = tilted_weight(reward[drawn], torch.zeros(4, dtype=torch.long), beta)
    (ours,) = torch.autograd.grad(losses.weighted_likelihood_loss(logits.log_softmax(0)[drawn], weight), logits)
    posterior = (prior + reward / beta).log_softmax(0)
    (exact,) = torch.autograd.grad(losses.kl(posterior, logits.log_softmax(0)), logits)
    assert_close(ours, exact)


def test_elbo_policy_gradient_is_exact_in_expectation() -> None:
    # Enumerated: sum over y of pi(y) times the loss of y has the gradient of -(E_q[r] - beta KL(q||pi)).
    prior, reward = torch.tensor([0.5, 0.3, 0.2]).double().log(), torch.tensor([0.0, 1.0, 0.3]).double()
    logits = torch.tensor([0.1, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
    for beta, baseline in ((0.1, 0.0), (0.7, 0.25)):
        q = logits.log_softmax(0)
        parts = [
            prior[y].exp()
            * losses.elbo_policy_gradient_loss(q[y : y + 1], prior[y : y + 1], reward[y : y + 1], beta, baseline)
            for y in range(3)
        ]
        (ours,) = torch.autograd.grad(torch.stack(parts).sum(), logits)
        q = logits.log_softmax(0)
        (exact,) = torch.autograd.grad(-((q.exp() * reward).sum() - beta * losses.kl(q, prior)), logits)
        assert_close(ours, exact)


def test_the_kl_penalty_is_k3() -> None:
    logp, reference = torch.tensor([-1.0, -2.0, -30.0], requires_grad=True), torch.tensor([-1.0, -1.0, 0.0])
    found = losses.kl_penalty(logp, reference)
    assert_close(found.detach(), torch.tensor([0.0, math.e - 2.0, math.exp(20.0) - 21.0]))
    found.sum().backward()
    assert_close(logp.grad, torch.tensor([0.0, 1.0 - math.e, 0.0]))  # cut where nothing would be left but an overflow


def test_the_kl_penalty_is_the_kl_in_expectation_and_its_gradient_the_forward_one() -> None:
    pi, reference = (torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    logits, target = pi.clone().requires_grad_(), reference.log_softmax(-1)
    p = logits.log_softmax(-1)
    loss = (p.detach().exp() * losses.kl_penalty(p, target)).sum()
    assert_close(loss.detach(), losses.kl(p.detach(), target))
    (found,) = torch.autograd.grad(loss, logits)
    assert_close(found, logits.detach().softmax(-1) - target.exp())  # that of KL(reference || pi)


def test_elbo_policy_gradient_by_hand() -> None:
    # log q = -1 with q twice as likely as pi: -2 (r - 0.5 ln 2 - b) log q
    q, prior = torch.tensor([-1.0, -1.0]).double(), torch.tensor([-1.0, -1.0]).double() - LOG2
    reward, baseline = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.25, 0.5]).double()
    plain = losses.elbo_policy_gradient_loss(q, prior, reward, 0.5)
    assert plain.item() == pytest.approx(2 * (1.0 - 0.5 * LOG2) + 2 * (0.0 - 0.5 * LOG2))
    compared = losses.elbo_policy_gradient_loss(q, prior, reward, 0.5, baseline)
    assert compared.item() == pytest.approx(plain.item() - 2 * (0.25 + 0.5))


def test_elbo_policy_gradient_truncates_the_ratio() -> None:
    q, prior = torch.tensor([LOG2 + 3.0, 2000.0], requires_grad=True), torch.tensor([3.0, 0.0])
    losses.elbo_policy_gradient_loss(q, prior, torch.ones(2), 0.001, 0.0, max_ratio=1.5).backward()
    assert_close(q.grad, -1.5 * torch.tensor([1 - 0.001 * LOG2, 1 - 2.0]))


# -- clipped forward KL --------------------------------------------------------------------------------------------


def test_clipped_forward_kl_by_hand() -> None:
    teacher = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log()
    student = torch.tensor([0.125, 0.75, 0.125], dtype=torch.float64).log().requires_grad_()
    terms = [0.5 * math.log(4.0), 0.5 * math.log(2 / 3)]
    whole = losses.clipped_forward_kl(student, teacher, 9.0)
    assert whole.item() == pytest.approx(sum(terms))
    cut = losses.clipped_forward_kl(student, teacher, 0.3)
    assert cut.item() == pytest.approx(0.3 + terms[1])
    (grad,) = torch.autograd.grad(cut, student)
    assert_close(grad, torch.tensor([0.0, -0.5, 0.0], dtype=torch.float64))  # a term that is cut pulls no more


@PROPERTY
@given(pairs())
def test_clipped_forward_kl_is_never_above_the_whole(pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair
    whole = losses.token_divergence(student, teacher, 0.0)
    assert_close(losses.clipped_forward_kl(student, teacher, 1e6), whole)
    assert (losses.clipped_forward_kl(student, teacher, 0.01) <= whole + 1e-12).all()


# -- agreement with TRL ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl.experimental.sdpo import loss_utils
    return loss_utils


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scale", [0.1, 2.0, 10.0])
def test_divergence_and_gradient_agree_with_trl(trl: ModuleType, alpha: float, scale: float) -> None:
    values, grads = [], []
    for divergence in (losses.token_divergence, trl.compute_divergence):
        student = random_logp(3, 4, 9, scale=scale).requires_grad_()
        value = divergence(student, random_logp(3, 4, 9, seed=1, scale=scale), alpha)
        values.append(value)
        grads.append(torch.autograd.grad(value.sum(), student)[0])
    # TRL rounds alpha to float32 before its logarithm where the mixture is taken in float32 only.
    assert_close(*values, rtol=1e-6, atol=1e-9)
    assert_close(*grads, rtol=1e-6, atol=1e-9)


def test_tail_agrees_with_trl(trl: ModuleType) -> None:
    kept = random_logp(50, 12)[:, :5]
    assert_close(losses.add_tail(kept), trl.add_tail_bucket(kept))


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_topk_loss_and_gradient_agree_with_trl(trl: ModuleType, alpha: float, k: int, tail: str) -> None:
    teacher = random_logp(20, 9, seed=1)
    ours, theirs = (random_logp(20, 9).requires_grad_() for _ in range(2))
    support = Support("topk", k, tail)
    value = losses.token_divergence(*on_support(ours.log_softmax(-1), teacher.log_softmax(-1), support), alpha)
    reference = trl.compute_topk_self_distillation_loss(
        theirs, teacher, distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=tail == "bucket"
    )
    assert_close(value, reference, rtol=1e-6, atol=1e-9)
    assert_close(
        torch.autograd.grad(value.sum(), ours)[0],
        torch.autograd.grad(reference.sum(), theirs)[0],
        rtol=1e-6,
        atol=1e-9,
    )


def test_sampled_loss_agrees_with_trl(trl: ModuleType) -> None:
    student, teacher = random_logp(2, 5, 7), random_logp(2, 5, 7, seed=1)
    tokens = torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(2))
    reference = trl.compute_sampled_token_self_distillation_loss(student, teacher, tokens, distillation_alpha=1.0)
    at = [logp.gather(-1, tokens[..., None])[..., 0] for logp in (student, teacher)]
    assert_close(losses.sampled_divergence(*at), reference)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_full_logit_loss_and_gradient_agree_with_trl(trl: ModuleType, alpha: float) -> None:
    teacher = 3 * random_logp(4, 6, 11, seed=1)  # logits: not normalised
    ours, theirs = ((3 * random_logp(4, 6, 11)).requires_grad_() for _ in range(2))
    value = losses.token_divergence(ours.log_softmax(-1), teacher.log_softmax(-1), alpha)
    reference = trl.compute_full_logit_self_distillation_loss(theirs, teacher, distillation_alpha=alpha)
    assert_close(value, reference, rtol=1e-6, atol=1e-9)
    grads = torch.autograd.grad(value.sum(), ours)[0], torch.autograd.grad(reference.sum(), theirs)[0]
    assert_close(*grads, rtol=1e-6, atol=1e-9)


def test_importance_sampling_clip_agrees_with_trl(trl: ModuleType) -> None:
    logp, old, loss = 9 * random_logp(50, 3), 9 * random_logp(50, 3, seed=1), random_logp(50, 3, seed=2).abs()
    ours = loss * losses.truncated_weight(logp, old, 2.0)
    assert_close(ours, trl.apply_importance_sampling_clipping(loss, logp, old, 2.0))


def test_unlike_trl_an_excluded_token_gives_no_nan(trl: ModuleType) -> None:
    both = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).log()
    other = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    for alpha in (0.0, 0.5, 1.0):
        assert trl.compute_divergence(other, both, alpha).isnan().all()
        assert losses.token_divergence(other, both, alpha).item() == pytest.approx(BY_HAND[alpha], abs=1e-7)


def test_unlike_trl_the_guard_of_the_tail_follows_the_precision(trl: ModuleType) -> None:
    # The kept mass is 1 - 1e-9: in float64 the tail is there to be seen, TRL holds it at 1e-7.
    kept = torch.tensor([1.0 - 1e-9], dtype=torch.float64).log()
    assert losses.add_tail(kept)[-1].exp().item() == pytest.approx(1e-9, rel=1e-6)
    assert trl.add_tail_bucket(kept)[-1].exp().item() == pytest.approx(1e-7, rel=1e-6)


def test_unlike_trl_the_bucket_of_a_peaked_distribution_keeps_its_digits(trl: ModuleType) -> None:
    # The student has e^-25 outside its top token: lost in 1 minus the kept mass, not in the sum over the others.
    student, teacher = torch.tensor([[25.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    exact = on_support(student.log_softmax(-1), teacher.log_softmax(-1), Support("topk", 1))
    # KL(T||S) = 1/2 ln (1/2) + 1/2 (ln 1/2 + 25)
    assert losses.token_divergence(*exact, 0.0).item() == pytest.approx(12.5 - math.log(2), abs=1e-4)
    lossy = trl.compute_topk_self_distillation_loss(
        student, teacher, distillation_topk=1, distillation_alpha=0.0, distillation_add_tail=True
    )
    assert lossy.item() < 7.5
