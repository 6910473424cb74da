"""Arithmetic: a split that never overlaps, and a critic that quotes only the answer."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vpdlab.errors import UserError
from vpdlab.tasks.arithmetic import Arithmetic, critique, held_out
from vpdlab.types import Problem, Rollout

PROPERTY = settings(max_examples=150, deadline=None, database=None, derandomize=True)
numbers = st.one_of(st.integers(-99, 99), st.integers(-(10**7) + 1, 10**7 - 1))


def pairs(problems: list[Problem]) -> set[tuple[int, ...]]:
    """The unordered pairs of numbers that problems are about."""
    return {tuple(sorted(map(int, re.findall(r"\d+", problem.prompt)))) for problem in problems}


def rollout(text: str, answer: str = "7") -> Rollout:
    return Rollout(Problem("3+4", "What is 3 + 4?", answer), 0, 0, (1,), (2,), (-0.1,), text, True)


# -- problems --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 2, 3, 6])
def test_no_pair_of_numbers_stands_in_both_splits_whatever_the_seeds(digits: int) -> None:
    tasks = [Arithmetic(digits, "+-", size=300, heldout=100, seed=seed) for seed in range(3)]
    train = set.union(*(pairs(task.load("train")) for task in tasks))
    test = set.union(*(pairs(task.load("test")) for task in tasks))
    assert train
    assert test
    assert not train & test
    assert {held_out(*pair) for pair in train} == {False}
    assert {held_out(*pair) for pair in test} == {True}


@given(st.integers(0, 999999), st.integers(0, 999999))
@PROPERTY
def test_the_order_of_a_pair_does_not_change_its_side(a: int, b: int) -> None:
    assert held_out(a, b) == held_out(b, a)


def test_about_a_tenth_is_held_out_and_stays_so() -> None:
    share = sum(held_out(a, b) for a in range(10, 100) for b in range(a, 100)) / (90 * 91 / 2)
    assert 0.08 < share < 0.12
    # Models have been trained on this split, so it must never change.
    assert [(a, b) for a in range(10) for b in range(a, 10) if held_out(a, b)] == [(0, 1), (3, 7), (6, 9), (8, 9)]


def test_a_seed_draws_the_same_problems_again_and_another_draws_others() -> None:
    first, again, other = (Arithmetic(size=50, heldout=20, seed=seed) for seed in (1, 1, 2))
    for split in ("train", "test"):
        assert first.load(split) == again.load(split)
        assert first.load(split) != other.load(split)


@pytest.mark.parametrize(("digits", "low", "high"), [(1, 0, 9), (2, 10, 99), (3, 100, 999), (6, 100000, 999999)])
def test_numbers_have_the_digits_that_were_asked_for(digits: int, low: int, high: int) -> None:
    task = Arithmetic(digits, size=200, heldout=50)
    found = {number for split in ("train", "test") for pair in pairs(task.load(split)) for number in pair}
    assert low <= min(found)
    assert max(found) <= high
    assert len(found) > 5


def test_answers_are_right_and_ids_say_the_problem() -> None:
    for problem in Arithmetic(2, "+-", size=200).load("train"):
        a, sign, b = re.fullmatch(r"What is (\d+) ([+-]) (\d+)\?", problem.prompt).groups()
        assert problem.answer == str(int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert problem.id == f"{a}{sign}{b}"


def test_both_operations_are_drawn_where_both_are_named() -> None:
    for operations in ("+", "-", "+-"):
        found = {problem.id.strip("0123456789") for problem in Arithmetic(2, operations, size=100).load("train")}
        assert found == set(operations)


def test_no_problem_stands_twice_and_few_pairs_give_few_problems() -> None:
    task = Arithmetic(1, "+", size=1000, heldout=1000)
    counts = {}
    for split in ("train", "test"):
        ids = [problem.id for problem in task.load(split)]
        assert len(ids) == len(set(ids))
        counts[split] = len(ids)
    assert sum(counts.values()) <= 100
    assert counts["train"] >= 80
    assert f"{counts['train']} training and {counts['test']} held-out problems" in task.summary
    assert len(Arithmetic(2, "+", size=2000, heldout=512).load("train")) == 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 0}, "digits is 0, but must be a whole number from 1 to 6"),
        ({"digits": 7}, "digits is 7"),
        ({"digits": "two"}, "digits is 'two', but must be a whole number"),
        ({"size": True}, "size is True, but must be a whole number"),
        ({"operations": "*"}, "operations is '*', but must be '+', '-' or '+-'"),
        ({"operations": "++"}, "operations is '++'"),
        ({"operations": ""}, "operations is ''"),
        ({"operations": 5}, "operations is 5"),
        ({"size": 0}, "size is 0, but must be a whole number above 0"),
        ({"heldout": 1.5}, "heldout is 1.5"),
    ],
)
def test_options_outside_their_bounds_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as found:
        Arithmetic(**options)
    assert message in str(found.value)
    assert str(found.value).startswith("task arithmetic: ")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="there is no split 'dev': choose train or test"):
        Arithmetic(size=5, heldout=5).load("dev")


# -- the verifier ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "read"),
    [
        ("7", "7", "7"),
        ("3 + 4 = 7.", "7", "7"),
        ("It is 007", "7", "7"),
        ("-7", "-7", "-7"),
        ("the result is -07", "-7", "-7"),
        ("-0", "0", "0"),
        ("8, no: 7", "7", "7"),
    ],
)
def test_the_last_whole_number_is_the_answer(text: str, answer: str, read: str) -> None:
    outcome = Arithmetic(size=5, heldout=5).verify(rollout(text, answer))
    assert (outcome.reward, outcome.answer, outcome.success) == (1.0, read, True)
    assert "too" not in outcome.notes
    assert "wrong" not in outcome.notes


@pytest.mark.parametrize(("text", "read"), [("7 and then 8", "8"), ("-7", "-7"), ("70", "70"), ("7.5", "5")])
def test_any_other_last_number_is_wrong(text: str, read: str) -> None:
    outcome = Arithmetic(size=5, heldout=5).verify(rollout(text))
    assert (outcome.reward, outcome.answer) == (0.0, read)
    assert "too" in outcome.notes or "wrong" in outcome.notes


@pytest.mark.parametrize("text", ["", "seven", "-", "+ ="])
def test_a_response_without_number_gets_no_answer(text: str) -> None:
    outcome = Arithmetic(size=5, heldout=5).verify(rollout(text))
    assert (outcome.reward, outcome.answer, outcome.notes) == (0.0, None, "The answer has no number.")


def test_a_number_without_end_is_wrong_and_no_crash() -> None:
    outcome = Arithmetic(size=5, heldout=5).verify(rollout("9" * 5000))
    assert outcome.reward == 0.0
    assert outcome.notes.endswith("has too many digits.")


# -- the critic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ("45", "45", "The tens digit 4 is right. The ones digit 5 is right."),
        ("45", "54", "The tens digit 4 is too low. The ones digit 5 is too high."),
        ("105", "105", "The hundreds digit 1 is right. The tens digit 0 is right. The ones digit 5 is right."),
        ("5", "105", "The number 5 has too few digits."),
        ("105", "5", "The number 105 has too many digits."),
        ("0", "9", "The ones digit 0 is too low."),
        ("-12", "-13", "The tens digit 1 is right. The ones digit 2 is too low."),  # of the number without its sign
        ("-12", "12", "The sign of -12 is wrong. The tens digit 1 is right. The ones digit 2 is right."),
        ("12", "-3", "The sign of 12 is wrong. The number 12 has too many digits."),
        ("0", "-3", "The sign of 0 is wrong. The ones digit 0 is too low."),
        ("1999998", "1999999", "The millions digit 1 is right. The hundred thousands digit 9 is right."),
    ],
)
def test_the_critique_by_hand(said: str, right: str, expected: str) -> None:
    assert critique(said, right).startswith(expected)
    assert critique(said, right).count(".") == max(expected.count("."), 7 * (len(said) == 7))


@PROPERTY
@given(numbers, numbers)
def test_a_critique_quotes_what_was_said_and_never_what_is_right(said: int, right: int) -> None:
    quoted = set(re.findall(r"-?\d+", critique(str(said), str(right))))
    assert quoted <= {str(said), str(abs(said))} | set(str(abs(said)))


@PROPERTY
@given(numbers, numbers)
def test_a_wrong_answer_of_several_digits_is_never_told_the_right_one(said: int, right: int) -> None:
    # A single digit cannot be kept secret: "The sign of -5 is wrong. The ones digit 5 is right."
    assume(said != right and abs(right) >= 10)
    assert str(right) not in re.findall(r"-?\d+", critique(str(said), str(right)))


@PROPERTY
@given(numbers, numbers)
def test_a_critique_finds_fault_exactly_where_there_is_one(said: int, right: int) -> None:
    words = critique(str(said), str(right))
    assert ("too" not in words and "wrong" not in words) == (said == right)


@PROPERTY
@given(numbers, st.integers(-99999, 99999), st.integers(-99999, 99999))
def test_a_critique_tells_no_more_than_the_direction_of_each_digit(said: int, one: int, other: int) -> None:
    """Two right answers that compare alike with the given one get the same critique."""

    def compared(right: int) -> object:
        a, b = str(abs(said)), str(abs(right))
        sign = (said < 0) == (right < 0)
        if len(a) != len(b):
            return sign, len(a) < len(b)
        return sign, [(x > y) - (x < y) for x, y in zip(a, b, strict=True)]

    same = critique(str(said), str(one)) == critique(str(said), str(other))
    assert same == (compared(one) == compared(other))
