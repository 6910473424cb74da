"""Feedback: who speaks, who is never shown to himself, and why nothing is said."""

from __future__ import annotations

import pytest

from vpdlab.feedback import Context, give_feedback, sibling, verifier, without_thoughts
from vpdlab.types import Feedback, Outcome, Problem, Rollout

PROBLEM = Problem("p", "?", "7")


def rollout(index: int, reward: float = 0.0, text: str = "", notes: str | None = "Too low.", group: int = 0) -> Rollout:
    outcome = Outcome(reward, notes)
    return Rollout(PROBLEM, group, index, (1,), (2,), (-0.1,), text or f"answer {index}", True, outcome)


def shown(one: Rollout, group: list[Rollout]) -> Feedback:
    """A sibling's demonstration for one rollout of a group."""
    (feedback,) = sibling([one], Context(group))
    return feedback


# -- verifier --------------------------------------------------------------------------------------------------


def test_the_verifier_says_what_the_environment_said() -> None:
    assert verifier([rollout(0)], Context([])) == [Feedback(critique="Too low.", source="verifier")]


@pytest.mark.parametrize("notes", [None, "", " \n"])
def test_words_that_say_nothing_are_no_signal(notes: str | None) -> None:
    (said,) = verifier([rollout(0, notes=notes)], Context([]))
    assert said == Feedback(reason="the environment said nothing")
    assert not said.signal


# -- sibling ---------------------------------------------------------------------------------------------------


def test_a_sibling_is_the_next_success_of_the_group_and_never_oneself() -> None:
    group = [rollout(0), rollout(1, 1.0), rollout(2), rollout(3, 1.0), rollout(4)]
    found = [shown(one, group).demonstration for one in group]
    # After the last success the first one follows; successes show each other.
    assert found == ["answer 1", "answer 3", "answer 3", "answer 1", "answer 1"]


def test_the_order_in_which_a_group_arrives_changes_nothing() -> None:
    group = [rollout(index, float(index in (1, 3))) for index in range(5)]
    for one in group:
        assert shown(one, group) == shown(one, group[::-1])


def test_a_lone_success_shows_itself_to_the_others_only() -> None:
    group = [rollout(0), rollout(1, 1.0)]
    assert shown(group[0], group) == Feedback(demonstration="answer 1", source="sibling")
    assert shown(group[1], group) == Feedback(reason="the only success of its group")


def test_a_group_without_success_has_no_sibling_signal() -> None:
    group = [rollout(0), rollout(1, 0.9)]  # nearly right is not right
    assert [shown(one, group) for one in group] == [Feedback(reason="no success in the group")] * 2


def test_a_sibling_that_only_thought_shows_nothing() -> None:
    group = [rollout(0), rollout(1, 1.0, "<think>seven</think>")]
    assert shown(group[0], group) == Feedback(reason="the sibling's response is empty")


def test_a_sibling_is_shown_without_its_thoughts() -> None:
    group = [rollout(0), rollout(1, 1.0, "<think>three and\nfour</think>\n\nSeven.")]
    assert shown(group[0], group).demonstration == "Seven."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Seven.", "Seven."),
        ("So <think>a</think>it is<think>b</think> seven.", "So it is seven."),
        ("Seven.<think>or not", "Seven."),
        ("<think>never closed", ""),
        ("opened in the prompt</think> Seven.", "Seven."),
        ("<think>a<think>b</think>c</think> Seven.", "Seven."),
        ("", ""),
    ],
)
def test_blocks_of_thought_are_cut(text: str, left: str) -> None:
    assert without_thoughts(text) == left


# -- together --------------------------------------------------------------------------------------------------


def test_each_rollout_sees_its_own_group_only() -> None:
    rollouts = [rollout(0, 1.0, "first", group=0), rollout(0, group=1), rollout(1, group=0), rollout(1, group=1)]
    notes = give_feedback(rollouts, ["sibling"])
    assert [note.demonstration for note in notes] == [None, None, "first", None]
    assert [note.reason for note in notes] == [
        "the only success of its group",
        "no success in the group",
        "",
        "no success in the group",
    ]


def test_all_joins_what_every_source_has_to_say() -> None:
    rollouts = [rollout(0), rollout(1, 1.0, notes=None)]
    notes = give_feedback(rollouts, ["verifier", "sibling"], "all")
    assert notes[0] == Feedback("Too low.", "answer 1", "verifier+sibling", "")
    assert notes[1] == Feedback(reason="the environment said nothing; the only success of its group")


def test_first_takes_the_first_source_that_speaks() -> None:
    rollouts = [rollout(0), rollout(1, 1.0, notes=None), rollout(2, notes=None)]
    assert give_feedback(rollouts, ["verifier", "sibling"], "first") == [
        Feedback(critique="Too low.", source="verifier"),
        Feedback(reason="the environment said nothing; the only success of its group"),
        Feedback(demonstration="answer 1", source="sibling"),
    ]
    assert give_feedback(rollouts, ["sibling", "verifier"], "first")[0].source == "sibling"


def test_a_source_that_spoke_leaves_no_reason_of_another() -> None:
    said = give_feedback([rollout(0)], ["sibling", "verifier"])[0]
    assert (said.critique, said.source, said.reason) == ("Too low.", "verifier", "")
