"""Evaluation: the three measures by hand, and intervals that mean something."""

from __future__ import annotations

import math
from typing import Any

import pytest
from toy import toy_run

from vpdlab.run.measures import average_at_k, interval, majority_at_k, pass_at_k, summarise
from vpdlab.types import Outcome, Problem, Rollout


def outcomes(*answers: str | None, right: str = "7") -> list[Outcome]:
    return [Outcome(float(answer == right), None, answer) for answer in answers]


def test_average_and_pass_by_hand() -> None:
    assert average_at_k(outcomes("7", "8", "7", None)) == 0.5
    assert pass_at_k(outcomes("8", "7")) == 1.0
    assert pass_at_k(outcomes("8", None)) == 0.0


def test_a_reward_below_one_is_no_success() -> None:
    assert average_at_k([Outcome(0.99), Outcome(1.0)]) == 0.5


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (("7", "7", "8"), 1.0),
        (("7", "8", "8"), 0.0),
        (("7", "8"), 0.5),  # as if one of the two was drawn
        (("7", "8", "9"), 1 / 3),
        (("8", None, None), 0.0),
        (("7", None, None), 1.0),  # those without an answer do not vote
        ((None, None), 0.0),
    ],
)
def test_majority_by_hand(answers: tuple[str | None, ...], expected: float) -> None:
    assert majority_at_k(outcomes(*answers)) == expected


def test_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    values = [0.0] * 30 + [1.0] * 70
    low, high = interval(values)
    assert interval(values) == (low, high)
    # The mean of 100 such draws has a standard deviation of sqrt(0.21 / 100) = 0.0458; 1.96 of them each side.
    assert low == pytest.approx(0.7 - 1.96 * 0.0458, abs=0.015)
    assert high == pytest.approx(0.7 + 1.96 * 0.0458, abs=0.015)


def test_interval_shrinks_with_the_root_of_the_number_of_problems() -> None:
    widths = [high - low for low, high in (interval([0.0, 1.0] * n) for n in (25, 400))]
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.15)


def test_interval_is_wider_at_a_higher_level() -> None:
    values = [0.0, 1.0] * 20
    (low, high), (lowest, highest) = interval(values, 0.5), interval(values, 0.99)
    assert lowest < low < 0.5 < high < highest


def test_equal_values_have_an_interval_without_width() -> None:
    assert interval([0.25] * 9) == (0.25, 0.25)


def test_summary_is_taken_over_problems_and_not_over_responses() -> None:
    row = summarise({"a": outcomes("7", "7", "7"), "b": outcomes("8", "8", "7"), "c": outcomes("8", None, None)})
    assert (row["k"], row["problems"]) == (3, 3)
    assert row["accuracy"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert row["pass_at_k"] == pytest.approx(2 / 3)
    assert row["maj_at_k"] == pytest.approx(1 / 3)
    for name in ("accuracy", "pass_at_k", "maj_at_k"):
        assert 0 <= row[f"{name}_low"] <= row[name] <= row[f"{name}_high"] <= 1
        assert isinstance(row[name], float)
        assert math.isfinite(row[f"{name}_low"])


@pytest.mark.parametrize(
    ("groups", "sizes"), [({}, r"\[\]"), ({"a": outcomes("7"), "b": outcomes("7", "8")}, r"\[1, 2\]")]
)
def test_summary_needs_problems_with_one_number_of_responses(groups: dict, sizes: str) -> None:
    with pytest.raises(ValueError, match=f"the same number of responses, found {sizes}"):
        summarise(groups)


# -- which problems ----------------------------------------------------------------------------------------------------


class Sorted:
    """A held-out file in an order: the first eighth is easy."""

    name, summary = "sorted", "sorted"

    def __init__(self, count: int = 400, ids: int = 400) -> None:
        self.count, self.ids = count, ids

    def load(self, split: str) -> list[Problem]:
        return [Problem(f"{split}-{n % self.ids}", f"What is {n} + 1?", str(n)) for n in range(self.count)]

    def verify(self, rollout: Rollout) -> Outcome:
        return Outcome(float(int(rollout.problem.answer) < self.count / 8), None, "x")


def evaluated(task: Sorted, **fields: Any) -> dict[str, Any]:
    return toy_run(task=task, **{"eval_teacher": False, "max_new_tokens": 2, **fields}).evaluate(0)


def test_a_part_of_the_problems_is_drawn_and_not_the_head_of_the_file() -> None:
    row = evaluated(Sorted(), eval_problems=100, eval_samples=1)
    assert row["accuracy"] == pytest.approx(1 / 8, abs=4 * (7 / 64 / 100) ** 0.5)
    assert (row["problems"], row["held_out"], len(row["problem_ids"])) == (100, 400, 100)
    assert len(set(row["problem_ids"])) == 100


def test_the_draw_is_the_same_in_every_run_and_follows_its_own_seed() -> None:
    ids = [evaluated(Sorted(), eval_problems=30, eval_samples=1, **fields)["problem_ids"]
           for fields in ({}, {"seed": 7}, {"eval_seed": 1})]  # fmt: skip
    assert ids[0] == ids[1] != ids[2]


def test_all_problems_are_taken_where_there_are_no_more() -> None:
    row = evaluated(Sorted(12), eval_problems=50, eval_samples=1)
    assert row["problem_ids"] == [f"test-{n}" for n in range(12)]


def test_problems_that_share_an_id_are_problems_of_their_own() -> None:
    row = evaluated(Sorted(16, ids=4), eval_problems=50, eval_samples=2)
    assert (row["problems"], len(row["by_problem"])) == (16, 16)
    assert row["accuracy"] == row["pass_at_k"] == pytest.approx(1 / 8)
