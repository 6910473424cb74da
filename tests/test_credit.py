"""Credit assignment, by hand."""

from __future__ import annotations

import math

import torch
from torch.testing import assert_close

from vpdlab.credit import cost_to_go, group_advantage, group_mean, leave_one_out_mean, tilted_weight

NAN = math.nan


def test_advantage_is_the_reward_minus_the_mean_of_its_group() -> None:
    rewards = torch.tensor([1.0, 10.0, 0.0, 20.0, 0.5])
    group = torch.tensor([3, 7, 3, 7, 3])  # groups need neither be sorted nor begin at 0
    assert group_advantage(rewards, group).tolist() == [0.5, -5.0, -0.5, 5.0, 0.0]


def test_advantage_divides_by_the_deviation_of_the_group_where_asked() -> None:
    # mean 1/4, variance (9/16 + 3/16) / 4 = 3/16: the population's, so a lone success of four gets sqrt 3
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    scaled = group_advantage(rewards, torch.zeros(4, dtype=torch.long), "std")
    assert_close(scaled, torch.tensor([3.0, -1.0, -1.0, -1.0], dtype=torch.float64) / math.sqrt(3))


def test_a_group_of_equal_rewards_gets_exactly_zero() -> None:
    # The float32 mean of thirteen times 0.1 is not 0.1.
    rewards = torch.full((13,), 0.1)
    assert rewards.mean() != rewards[0]
    for scale in ("none", "std"):
        assert group_advantage(rewards, torch.zeros(13, dtype=torch.long), scale).tolist() == [0.0] * 13


def test_equal_to_rounding_is_equal() -> None:
    # 0.1 + 0.2 is not 0.3: divided by its deviation, the difference would become an advantage of 1.
    rewards = torch.tensor([0.1 + 0.2, 0.3, 0.3], dtype=torch.float64)
    assert rewards[0] != rewards[1]
    for scale in ("none", "std"):
        assert group_advantage(rewards, torch.zeros(3, dtype=torch.long), scale).tolist() == [0.0] * 3


def test_a_small_difference_is_a_difference() -> None:
    rewards = torch.tensor([0.5, 0.5001])
    assert_close(group_advantage(rewards, torch.zeros(2, dtype=torch.long), "std"), torch.tensor([-1.0, 1.0]))


def test_a_group_of_one_gets_zero() -> None:
    assert group_advantage(torch.tensor([0.7]), torch.tensor([4]), "std").tolist() == [0.0]


def test_a_nan_reward_keeps_to_itself() -> None:
    rewards, group = torch.tensor([1.0, NAN, 0.0, NAN, 0.3, NAN]), torch.tensor([0, 0, 0, 1, 1, 2])
    for scale, spread in (("none", 0.5), ("std", 1.0)):
        found = group_advantage(rewards, group, scale)
        assert found[[0, 2, 4]].tolist() == [spread, -spread, 0.0]
        assert found[[1, 3, 5]].isnan().all()


def test_a_group_without_a_reward_hides_no_other() -> None:
    rewards, group = torch.tensor([NAN, 1.0, 0.0]), torch.tensor([0, 1, 1])
    assert group_advantage(rewards, group)[1:].tolist() == [0.5, -0.5]


def test_rounding_grows_with_the_rewards() -> None:
    # Neighbours in float32: 2^-14 apart at 1000, which at 1 would be a difference.
    rewards = torch.tensor([1000.0, 1000.0 + 2.0**-14])
    assert rewards[0] != rewards[1]
    assert group_advantage(rewards, torch.zeros(2, dtype=torch.long), "std").tolist() == [0.0, 0.0]
    apart = group_advantage(torch.tensor([1.0, 1.0 + 2.0**-14]), torch.zeros(2, dtype=torch.long), "std")
    assert_close(apart, torch.tensor([-1.0, 1.0]))


def test_cost_to_go_is_strictly_in_the_future() -> None:
    cost = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert cost_to_go(cost, mask).tolist() == [[14.0, 12.0, 8.0, 0.0], [32.0, 0.0, 0.0, 0.0]]


def test_a_masked_cost_counts_for_nothing_wherever_it_stands() -> None:
    cost = torch.tensor([[1.0, NAN, 4.0, 8.0]])
    mask = torch.tensor([[True, False, True, True]])
    assert cost_to_go(cost, mask).tolist() == [[12.0, 0.0, 8.0, 0.0]]


def test_a_cost_leaves_no_trace_in_its_own_future() -> None:
    # 1e9 + 1 is 1e9 in float32: what is to come must not be a difference of sums.
    assert cost_to_go(torch.tensor([[1e9, 1.0]]), torch.ones(1, 2, dtype=torch.bool)).tolist() == [[1.0, 0.0]]
    infinite = cost_to_go(torch.tensor([[2.0, math.inf, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert infinite.tolist() == [[math.inf, 1.0, 0.0]]


def test_cost_to_go_is_discounted_by_distance() -> None:
    cost = torch.tensor([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, NAN, 128.0]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    # 2/2 + 4/4 + 8/8, 4/2 + 8/4, 8/2
    assert cost_to_go(cost, mask, 0.5).tolist() == [[3.0, 4.0, 4.0, 0.0], [16.0, 0.0, 0.0, 0.0]]
    assert cost_to_go(cost, mask, 0.0).tolist() == [[0.0] * 4] * 2
    assert cost_to_go(cost, mask, 2.0).tolist() == [[4.0 + 16.0 + 64.0, 8.0 + 32.0, 16.0, 0.0], [64.0, 0.0, 0.0, 0.0]]


def test_tilted_weights_are_a_softmax_of_rewards_in_each_group() -> None:
    rewards, group = torch.tensor([1.0, 0.0, 0.0, 0.3]), torch.tensor([5, 2, 5, 2])
    weight = tilted_weight(rewards, group, 1 / math.log(3.0))  # exp(r / beta) is 3 for r = 1
    assert_close(weight, torch.tensor([3 / 4, 1 / (1 + 3**0.3), 1 / 4, 3**0.3 / (1 + 3**0.3)]))
    assert_close(tilted_weight(rewards, group, 1e-6)[[0, 2]], torch.tensor([1.0, 0.0]))  # no overflow


def test_a_baseline_leaves_its_own_rollout_out() -> None:
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [6.0, 60.0], [7.0, 70.0]])
    found = leave_one_out_mean(values, torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == [[4.0, 40.0], [3.5, 35.0], [1.5, 15.0], [0.0, 0.0]]
    assert leave_one_out_mean(values[:, 0], torch.tensor([0, 0, 0, 1])).tolist() == [4.0, 3.5, 1.5, 0.0]


def test_the_mean_of_a_group_stands_at_each_of_its_rollouts() -> None:
    values, group = torch.tensor([1.0, 10.0, 0.0, 20.0, 0.5]), torch.tensor([3, 7, 3, 7, 3])
    assert group_mean(values, group).tolist() == [0.5, 15.0, 0.5, 15.0, 0.5]


def test_weights_of_responses_that_another_policy_sampled_are_those_of_the_prior() -> None:
    # mu holds 3/4, 1/4; pi holds 1/4, 3/4; r / beta is log 2 and 0: pi* is 2/5, 3/5, and each weight is pi* / mu.
    ratio = torch.tensor([1 / 3, 3.0]).log()
    weight = tilted_weight(torch.tensor([math.log(2.0), 0.0]), torch.zeros(2, dtype=torch.long), 1.0, ratio)
    assert_close(weight, torch.tensor([2 / 3, 3.0]) / (2 / 3 + 3.0))
