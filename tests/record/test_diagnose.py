"""Diagnoses: each warning where its trouble is, and only there."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vpdlab.record.diagnose import DIAGNOSES, WINDOW, Diagnosis, diagnose

HEALTHY = {
    "reward": 0.5, "success_rate": 0.5, "signal_share": 1.0, "length": 30.0, "entropy": 0.5, "kl": 0.1,
    "truncated": 0, "unfinished": 0.0, "skipped": 0, "m_loss": 0.3, "margin": 0.4, "mismatch_mean": 0.04,
}  # fmt: skip


def rows(count: int, **series: Any) -> list[dict[str, Any]]:
    """`count` healthy iterations; a named number is the same in all, a list is what each of the last ones has."""
    found = [dict(HEALTHY) for _ in range(count)]
    for name, values in series.items():
        values = values if isinstance(values, list) else [values] * count
        for row, value in zip(found[-len(values) :], values, strict=True):
            row[name] = value
    return found


def names(found: list[str]) -> list[str]:
    return [warning.partition(":")[0] for warning in found]


def halves(first: float | None, last: float | None) -> list[float | None]:
    return [first] * 5 + [last] * 5


TROUBLES = {
    "no-success": rows(3, success_rate=0.0),
    "all-success": rows(3, success_rate=1.0),
    "no-signal": rows(1, signal_share=0.0, m_loss=None),
    "length-collapse": rows(10, length=halves(30.0, 9.9)),
    "length-explosion": rows(10, length=halves(30.0, 90.1)),
    "entropy-collapse": rows(10, entropy=halves(0.5, 0.019)),
    "kl-explosion": rows(10, kl=halves(0.1, 0.51)),
    "past-target": rows(5, margin=[0.9, 1.2, 1.0, 1.1, 0.9]),
    "reward-falls": rows(20, reward=[0.6] * 10 + [0.4] * 10),
    "truncated-contexts": rows(1, truncated=2),
    "unfinished-responses": rows(1, unfinished=0.51),
    "mismatch": rows(1, mismatch_mean=0.11),
    "not-finite": rows(1, skipped=1),
}


def test_every_diagnosis_has_its_trouble_here() -> None:
    assert list(TROUBLES) == list(DIAGNOSES)


@pytest.mark.parametrize(("name", "trouble"), TROUBLES.items())
def test_trouble_is_named_alone_and_in_one_line_of_words(name: str, trouble: list[dict]) -> None:
    (warning,) = diagnose(trouble)
    assert warning.startswith(f"{name}: ")
    assert len(warning) > len(name) + 20
    assert "\n" not in warning
    assert "nan" not in warning


def test_a_collapse_within_a_few_iterations_is_named_when_it_has_lasted_for_three() -> None:
    """As measured with lr 5e-3: five iterations later the mean over a whole window would still hide it."""
    measured = [0.328, 0.091, 0.217, 0.22, 0.096, 0.04, 0.195, 0.186, 0.0001, 0.0001, 0.0002]
    assert "entropy-collapse" in names(diagnose(rows(11, entropy=measured)))
    assert diagnose(rows(10, entropy=measured[:-1])) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9, 10, 19, 20, 40])
def test_a_healthy_run_of_any_length_has_no_warnings(count: int) -> None:
    assert diagnose(rows(count)) == []


@pytest.mark.parametrize(
    "nearly",
    [
        rows(2, success_rate=0.0),
        rows(3, success_rate=[0.0, 0.1, 0.0]),
        rows(3, success_rate=[1.0, 0.9, 1.0]),
        rows(3, signal_share=[0.0, 0.0, 0.1], m_loss=None),
        rows(1, signal_share=0.0),  # a method that needs no feedback has learned all the same
        rows(9, length=[30.0] * 5 + [1.0] * 4),
        rows(5, margin=[0.9, 1.0, 1.0, 1.1, 0.9]),
        rows(4, margin=5.0),
        rows(5, margin=None),
        rows(10, length=halves(30.0, 10.1)),
        rows(10, length=halves(30.0, 89.0)),
        rows(10, entropy=halves(0.5, 0.04)),  # fallen far, but not near 0
        rows(10, entropy=halves(0.02, 0.015)),  # near 0 from the start
        rows(10, kl=halves(0.01, 0.4)),  # risen far, but small
        rows(10, kl=halves(0.4, 0.9)),
        rows(20, reward=[0.6] * 10 + [0.46] * 10),
        rows(19, reward=[0.9] * 10 + [0.1] * 9),
        rows(2, truncated=[3, 0]),
        rows(2, skipped=[1, 0]),
        rows(1, unfinished=0.5),
        rows(1, unfinished=None),
    ],
)
def test_what_is_only_near_to_trouble_is_not_named(nearly: list[dict]) -> None:
    assert diagnose(nearly) == []


@pytest.mark.parametrize("key", ["entropy", "kl"])
def test_numbers_that_do_not_exist_raise_no_alarm(key: str) -> None:
    assert diagnose(rows(10, **{key: halves(0.5, None)})) == []
    assert diagnose(rows(10, **{key: halves(None, 0.5)})) == []


def test_means_are_taken_over_the_numbers_that_exist() -> None:
    assert names(diagnose(rows(10, kl=[0.1, None, None, None, None, 0.6, None, None, None, None]))) == ["kl-explosion"]


def test_zero_is_a_number() -> None:
    assert names(diagnose(rows(10, entropy=[0.5] * 5 + [0.05, 0.0, 0.0, 0.0, 0.0]))) == ["entropy-collapse"]


def test_a_fall_of_the_reward_is_measured_from_its_best() -> None:
    reward = [0.1] * 10 + [0.8] * 10 + [0.5] * 10
    assert diagnose(rows(30, reward=reward)) == [
        "reward-falls: the reward fell from 0.80 to 0.50: use an earlier checkpoint or a lower lr"
    ]


def test_a_fall_of_the_reward_is_seen_in_the_latest_iterations() -> None:
    # 24 iterations: the last ten of them, not the last ten of the first twenty.
    assert names(diagnose(rows(24, reward=[0.6] * 14 + [0.4] * 10))) == ["reward-falls"]


def test_several_troubles_are_all_named() -> None:
    assert names(diagnose(rows(3, success_rate=0.0, skipped=1))) == ["no-success", "not-finite"]


@pytest.mark.parametrize("resumed", [1, 7, 33])
def test_a_run_in_progress_is_told_what_all_of_its_lines_tell(resumed: int) -> None:
    """Against the definition: the last two windows, and every pair of windows that lies whole windows before them."""
    rng = random.Random(resumed)
    lines = rows(60, reward=[rng.choice([None, 0.2, 0.4, 0.6, 0.8]) for _ in range(60)])
    diagnosis, told = Diagnosis(), 0
    for count in range(resumed, len(lines) + 1):
        found = diagnosis(lines[:count])
        starts = range(count % WINDOW, count - 2 * WINDOW + 1, WINDOW)
        values = [[line["reward"] for line in lines[start : start + 2 * WINDOW]] for start in starts]
        means = [sum(v for v in some if v is not None) / (10 - some.count(None) or 1) for some in values]
        falls = count >= 4 * WINDOW and max(means) - means[-1] > 0.15
        assert ("reward-falls" in names(found)) == falls, count
        assert not falls or f"from {max(means):.2f} to {means[-1]:.2f}" in found[0]
        assert found == diagnose(lines[:count])
        told += falls
    assert told
