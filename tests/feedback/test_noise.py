"""Noise on feedback: who is hit is a matter of the seed, and the record says by what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.feedback.noise import KINDS, contradict, shares, with_noise
from vpdlab.types import Feedback, Outcome, Problem, Rollout

NONE = dict.fromkeys(KINDS, 0.0)


def batch(problems: int = 50, each: int = 4) -> tuple[list[Rollout], list[Feedback]]:
    pairs = [(p, i) for p in range(problems) for i in range(each)]
    rollouts = [
        Rollout(Problem(f"p{p}", "?", "7"), p, i, (1,), (2,), (0.0,), "8", True, Outcome(0.0)) for p, i in pairs
    ]
    notes = [Feedback(critique=f"Digit {p} of problem {p} is too low.", source="verifier") for p, _ in pairs]
    return rollouts, notes


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_hits_its_share_and_is_named(kind) -> None:
    rollouts, notes = batch()
    found = with_noise(rollouts, notes, NONE | {kind: 0.3}, (0, 1, 2))
    hit = [a for a, b in zip(found, notes, strict=True) if a != b]
    assert 40 <= len(hit) <= 80  # 60 of 200 expected, deviation 6.5
    assert {note.noise for note in hit} == {kind}
    assert all(a is b for a, b in zip(found, notes, strict=True) if a == b)


def test_what_each_kind_does() -> None:
    rollouts, notes = batch(2, 1)
    all_of = {kind: with_noise(rollouts, notes, NONE | {kind: 1.0}, (0,)) for kind in KINDS}
    assert all_of["drop"][0] == Feedback(reason="dropped by noise", noise="drop")
    assert [note.critique for note in all_of["shuffle"]] == [notes[1].critique, notes[0].critique]
    assert all_of["truncate"][0].critique == "Digit 0 of problem"
    assert all_of["contradict"][1].critique == "Digit 1 of problem 1 is too high."


def test_nothing_is_drawn_without_noise() -> None:
    rollouts, notes = batch(3)
    assert with_noise(rollouts, notes, NONE, (0,)) == notes


def test_the_same_seed_hits_the_same_rollouts_and_another_hits_others() -> None:
    rollouts, notes = batch()
    share = NONE | {"drop": 0.2, "shuffle": 0.2, "contradict": 0.2}
    one, again, other = (with_noise(rollouts, notes, share, seed) for seed in ((0, 7), (0, 7), (0, 8)))
    assert one == again != other
    fewer = with_noise(rollouts[:100], notes[:100], share, (0, 7))
    assert [note.noise for note in fewer] == [note.noise for note in one[:100]]
    assert {note.noise for note in one} == {"", "drop", "shuffle", "contradict"}


def test_silence_stays_silent_and_a_lone_problem_has_nothing_to_be_swapped_with() -> None:
    rollouts, _ = batch(1)
    silent = [Feedback(reason="nothing")] * 4
    assert with_noise(rollouts, silent, NONE | {"contradict": 1.0}, (0,)) == silent
    rollouts, notes = batch(1)
    assert with_noise(rollouts, notes, NONE | {"shuffle": 1.0}, (0,)) == notes


def test_demonstrations_are_shuffled_and_truncated_too_but_not_contradicted() -> None:
    rollouts, _ = batch(2, 1)
    notes = [Feedback(demonstration=f"one two three {i}", source="sibling") for i in range(2)]
    assert with_noise(rollouts, notes, NONE | {"shuffle": 1.0}, (0,))[0].demonstration == "one two three 1"
    assert with_noise(rollouts, notes, NONE | {"truncate": 1.0}, (0,))[0] == replace(
        notes[0], demonstration="one two", noise="truncate"
    )
    assert with_noise(rollouts, notes, NONE | {"contradict": 1.0}, (0,)) == notes


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("The answer is right.", "The answer is wrong."),
        ("Wrong sign. Add the terms.", "Right sign. Subtract the terms."),
        ("The loop is not needed.", "The loop is needed."),
        ("The test failed: it is too high.", "The test passed: it is too low."),
        ("NameError in line 3", "It is not true that: NameError in line 3"),
        ("The island is high.", "The island is low."),  # no word is swapped within another
    ],
)
def test_the_opposite_of_a_critique(text, opposite) -> None:
    assert contradict(text) == opposite


def test_shares_that_exceed_the_whole_are_refused() -> None:
    with pytest.raises(UserError, match="the noise shares add up to 1.5, but must not exceed 1"):
        RunConfig(noise_drop=0.75, noise_shuffle=0.75)
    assert shares(RunConfig(noise_drop=0.5)) == NONE | {"drop": 0.5}
