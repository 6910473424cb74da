"""Views: records as the widgets and the command line show them."""

from __future__ import annotations

from typing import Any

from vpdlab.record import METRICS
from vpdlab.views import conclusion, eval_points, fresh_warnings, gain, measured, progress_line, rollout_table


def evaluation(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "step": step, "accuracy": accuracy, "accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1, "k": 4
    }  # fmt: skip


EVALS = [evaluation(0, 0.25), evaluation(10, 0.75), evaluation(20, 0.5)]


def test_points_are_accuracies_with_their_intervals() -> None:
    assert eval_points(EVALS[:1]) == [{"step": 0, "accuracy": 0.25, "low": 0.15, "high": 0.35}]
    assert eval_points([]) == []


def test_gain_compares_the_ends_and_names_the_best() -> None:
    found = gain(EVALS)
    assert (found["start"]["step"], found["best"]["step"], found["final"]["step"]) == (0, 10, 20)
    assert found["points"] == 25.0
    assert gain(EVALS[:1]) is None


def test_the_earliest_of_equal_bests_is_named() -> None:
    assert gain([evaluation(step, 0.5) for step in (0, 10, 20)])["best"]["step"] == 0


def test_conclusion_says_it_in_words() -> None:
    assert conclusion(EVALS) == (
        "held-out accuracy 25.0 % [15.0, 35.0] before, 50.0 % [40.0, 60.0] after (+25.0 points);"
        " best 75.0 % [65.0, 85.0] at step 10"
    )
    assert "(-25.0 points)" in conclusion(EVALS[1:])
    assert conclusion([]) == "no held-out evaluation before and after"


def test_measured_is_a_percentage() -> None:
    assert measured(1.0, 0.9, 1.0) == "100.0 % [90.0, 100.0]"


ROW = dict.fromkeys(METRICS) | {
    "step": 7, "success_rate": 0.5, "kl": 0.1234, "margin": 0.256, "entropy": 0.5, "length": 12.34, "e_loss": 1.0,
    "seconds_rollout": 1.0, "seconds_feedback": 0.25, "seconds_e": 0.5, "seconds_m": 1.25,
}  # fmt: skip


def test_an_iteration_is_one_line() -> None:
    assert progress_line(ROW, 100) == (
        "step   7/100  success 0.50  kl 0.123  margin +0.26  entropy 0.500  length  12.3  E+M  3.0 s"
    )


def test_what_does_not_exist_is_a_dash_and_zero_is_not() -> None:
    line = progress_line(ROW | {"kl": 0.0, "margin": None, "entropy": None, "e_loss": None}, 9)
    assert line == "step 7/9  success 0.50  kl 0.000  margin     -  entropy     -  length  12.3    M  3.0 s"


def test_the_table_shows_what_was_said_or_why_nothing_was() -> None:
    record = {
        "step": 1, "prompt": "3 + 4?", "text": "8", "success": False, "critique": None, "demonstration": None,
        "reason": "all failed", "implicit_reward": None,
    }  # fmt: skip
    rows = rollout_table(
        [record, record | {"demonstration": "7"}, record | {"demonstration": "7", "critique": "Too high."}]
    )
    assert [row["feedback"] for row in rows] == ["(all failed)", "7", "Too high."]
    assert rows[0] == {
        "step": 1, "problem": "3 + 4?", "response": "8", "right": False, "feedback": "(all failed)",
        "implicit reward": None,
    }  # fmt: skip


def test_each_named_warning_is_fresh_once() -> None:
    seen: set[str] = set()
    assert fresh_warnings({"step": 3, "warnings": ["no-signal: a"]}, seen) == ["warning, step 3: no-signal: a"]
    assert fresh_warnings({"step": 4, "warnings": ["no-signal: b", "all-success: c"]}, seen) == [
        "warning, step 4: all-success: c"
    ]
