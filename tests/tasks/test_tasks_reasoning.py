"""Reasoning: splits, options, rewards, the check before scorers that evaluate answers, and hand-checked critiques."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdlab.errors import UserError
from vpdlab.tasks.common.critics import CRITICS, FORM, explain
from vpdlab.tasks.reasoning import FORMULAS, LITERALS, Reasoning
from vpdlab.types import Problem, Rollout

FAMILIES = [  # fast ones from every category
    *("ab", "acre", "advanced_geometry", "aiw", "base_conversion", "binary_matrix", "bitwise_arithmetic"),
    *("calendar_arithmetic", "circuit_logic", "coin_flip", "complex_arithmetic", "cryptarithm", "dice", "maze"),
    *("family_relationships", "game_of_life_halting", "knights_knaves", "list_functions", "mini_sudoku", "n_queens"),
    *("number_format", "polynomial_multiplication", "power_function", "propositional_logic", "shortest_path"),
    *("spiral_matrix", "string_insertion", "syllogism", "time_intervals", "tower_of_hanoi"),
]


@functools.cache
def made(family: str) -> Reasoning:
    return Reasoning(family, size=4, heldout=2)


def rollout(problem: Problem, text: str, finished: bool = True) -> Rollout:
    return Rollout(problem, 0, 0, (), (), (), text, finished)


def answered(problem: Problem, answer: str) -> Rollout:
    return rollout(problem, f"so <answer>{answer}</answer>")


@pytest.mark.parametrize("family", sorted({*FAMILIES, *CRITICS}))
def test_the_reference_is_right_and_other_words_are_not(family: str) -> None:
    task = made(family)
    for problem in [*task.load("train"), *task.load("test")]:
        right = task.verify(answered(problem, problem.answer))
        assert (right.reward, right.notes) == (1.0, "The answer is right.")
        wrong = task.verify(answered(problem, "quite unlikely"))
        assert 0 <= wrong.reward < 1
        assert wrong.notes
        assert problem.answer not in wrong.notes or len(problem.answer) < 3
        json.dumps(dict(problem.data))  # a record can store it


@pytest.mark.parametrize(
    ("text", "finished", "said"),
    [("12", True, "no <answer>"), ("<answer>12", True, "never closed"), ("well,", False, "was cut")],
)
def test_no_answer_scores_nothing(text: str, finished: bool, said: str) -> None:
    task = made("chain_sum")
    outcome = task.verify(rollout(task.load("train")[0], text, finished))
    assert (outcome.reward, outcome.answer) == (0.0, None)
    assert said in str(outcome.notes)


# ------------------------------------------------------------------------------------------------ splits, options


def test_splits_are_the_same_in_every_run_and_never_overlap() -> None:
    one, again, other = Reasoning(size=300), Reasoning(size=300), Reasoning(size=300, seed=1)
    train, test = one.load("train"), one.load("test")
    assert list(train) == list(again.load("train"))
    assert len({p.id for p in [*train, *test]}) == len(train) + len(test) == 556
    assert not {p.prompt for p in train} & {p.prompt for p in test}
    shared = {p.prompt for p in train} & {p.prompt for p in other.load("train")}
    assert len(shared) <= 3  # neighbouring seeds are unrelated


def test_what_repeats_is_dropped_and_said() -> None:
    task = Reasoning("chain_sum", size=200, heldout=30, min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    train, test = task.load("train"), task.load("test")
    assert len(train) + len(test) <= 200  # 10 x 10 x 2 problems exist
    assert not {p.id for p in train} & {p.id for p in test}
    assert re.search(r"dropped \d+ duplicate\(s\), \d+ from train", task.summary)


def test_options_reach_the_family() -> None:
    task = Reasoning("chain_sum", size=5, heldout=2, min_terms=3, max_terms=3, min_digits=2, max_digits=2)
    assert all(p.data["metadata"]["num_terms"] == 3 for p in task.load("train"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"family": "chain_sums"}, "no family 'chain_sums': did you mean chain_sum"),
        ({"family": "qqqq"}, "no family 'qqqq': there are"),
        ({"family": "composite"}, "no family 'composite'"),
        ({"max_term": 3}, "chain_sum has no option 'max_term': it takes min_terms, max_terms"),
        ({"min_terms": 9, "max_terms": 3}, "chain_sum rejects min_terms=9, max_terms=3: "),
        ({"min_terms": "many"}, "family chain_sum: min_terms is .many., but must be a whole number"),
        ({"size": 0}, "size is 0"),
        ({"heldout": 1.5}, "heldout is 1.5"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Reasoning(**options)


def test_unknown_split_and_foreign_problem() -> None:
    with pytest.raises(UserError, match="no split 'dev'"):
        made("chain_sum").load("dev")
    with pytest.raises(UserError, match="was not made by this task"):
        made("chain_sum").verify(answered(made("products").load("train")[0], "1"))


def test_a_family_that_depends_on_the_hash_seed_says_so() -> None:
    assert "PYTHONHASHSEED" in Reasoning("ransom_note", size=2, heldout=2).summary
    assert "PYTHONHASHSEED" not in made("chain_sum").summary


# ------------------------------------------------------------------------------------------------ safety

HOSTILE = ["__import__('os').system('x')", "[c for c in 'ab']", "(lambda: 9)()", "9**9**9", "9**999999", "exec('1')"]


@pytest.mark.parametrize("family", [*LITERALS, *FORMULAS])
@pytest.mark.parametrize("answer", HOSTILE)
def test_an_answer_is_never_run_as_a_program(family: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = made(family)

    def scorer(answer: str, entry: Mapping[str, Any]) -> float:
        raise AssertionError("the answer reached the scorer")

    monkeypatch.setattr(task._dataset, "score_answer", scorer)
    assert task.verify(answered(task.load("train")[0], answer)).reward == 0


def test_lists_and_formulas_still_score() -> None:
    task = made("spiral_matrix")
    problem = task.load("train")[0]
    as_list = "[" + ", ".join(problem.answer.split()) + "]"
    assert task.verify(answered(problem, as_list)).reward == pytest.approx(0.1)
    task = made("simple_integration")
    assert task.verify(answered(task.load("train")[0], "x**2/2 + sin(x) + C")).reward == 0
    assert task.verify(answered(task.load("train")[0], task.load("train")[0].answer)).reward == 1


def test_two_lenient_scorers_are_held_to_the_question() -> None:
    halting = made("game_of_life_halting")
    problem = halting.load("train")[0]
    assert halting.verify(answered(problem, "False" if problem.answer == "True" else "True")).reward == 0
    assert made("puzzle24").verify(answered(made("puzzle24").load("train")[0], "6*4*1*1")).reward == 0


def test_an_answer_that_breaks_the_scorer_is_wrong() -> None:
    problem = made("prime_factorization").load("train")[0]
    assert made("prime_factorization").verify(answered(problem, "two times seven")).reward == 0
    problem = made("coin_flip").load("train")[0]
    assert made("coin_flip").verify(answered(problem, "1e999999999")).reward == 0


# ------------------------------------------------------------------------------------------------ critiques

NUMBERS = {"metadata": {"numbers": [12, 18]}}
SORTING = {"metadata": {}, "answer": "['9', '2.50', '-1']"}
HALF = {"metadata": {"numerator": 12, "denominator": 18}, "answer": "2/3"}


@pytest.mark.parametrize(
    ("family", "entry", "answer", "said"),
    [
        ("chain_sum", {"answer": "48"}, "58", "The answer 58 is too high. Its last digit is right."),
        ("chain_sum", {"answer": "48"}, "41", "The answer 41 is too low. Its last digit is wrong too."),
        ("products", {"answer": "-48"}, "48", "The answer 48 has the wrong sign."),
        ("products", {"answer": "-48"}, "-58", "The answer -58 is too low. Its last digit is right."),
        ("decimal_chain_sum", {"answer": "4.8"}, "4.9", "The answer 4.9 is too high."),
        ("leg_counting", {"answer": "48"}, "1,000", "The answer 1,000 is too high."),
        ("leg_counting", {"answer": "48"}, "many", 'The answer "many" is not right.'),
        ("leg_counting", {"answer": "48"}, "48 legs", FORM),
        ("leg_counting", {"answer": "48"}, "48.0", FORM),
        ("gcd", NUMBERS | {"answer": "6"}, "4", "4 does not divide 18."),
        ("gcd", NUMBERS | {"answer": "6"}, "3", "3 divides all the numbers, but a larger one does so too."),
        ("gcd", {"metadata": {"numbers": [6, 12]}, "answer": "6"}, "4", "4 does not divide all the numbers."),
        ("lcm", NUMBERS | {"answer": "36"}, "24", "24 is not a multiple of 18."),
        (
            "lcm",
            NUMBERS | {"answer": "36"},
            "72",
            "72 is a multiple of all the numbers, but a smaller one does so too.",
        ),
        ("spell_backward", {"answer": "nus"}, "nu", "The answer has 2 characters, but the word has 3."),
        (
            "spell_backward",
            {"answer": "nus"},
            "nas",
            'In the answer "nas" the letter at place 2 is the first that is wrong.',
        ),
        ("number_sorting", SORTING, "['9', '2.5']", "The answer leaves out 1 of the 3 items that belong in it."),
        (
            "number_sorting",
            SORTING,
            "['9', '-1', '2.5']",
            'The answer lists the right items, but "-1" does not belong at place 2.',
        ),
        (
            "number_sorting",
            SORTING,
            "['9', '2.5', '-1', '4']",
            'The answer lists "4", which does not belong there or stands there too often.',
        ),
        ("number_sorting", SORTING, "9, 2.5, -1", FORM),
        ("fraction_simplification", HALF, "6/9", "6/9 is equal to the given fraction, but it is not in lowest terms."),
        (
            "fraction_simplification",
            HALF,
            r"$\frac{3}{4}$",
            "3/4 is not equal to the fraction that was to be simplified.",
        ),
        ("fraction_simplification", HALF, "0.667", FORM),
        (
            "prime_factorization",
            {"metadata": {"number": 12}, "answer": "2 × 2 × 3"},
            "4 x 3",
            "The factors multiply to the right number, but 4 is not prime.",
        ),
        (
            "prime_factorization",
            {"metadata": {"number": 12}, "answer": "2 × 2 × 3"},
            "2 × 3",
            "The factors in the answer do not multiply to the number that was asked for.",
        ),
        ("largest_island", {"answer": "9"}, "-9", FORM),  # quoting it would reveal the answer
        ("syllogism", {"answer": "Yes"}, "No", 'The answer "No" is not right.'),
        ("syllogism", {"answer": "Yes"}, "yes and no", FORM),
    ],
)
def test_critiques(family: str, entry: dict[str, Any], answer: str, said: str) -> None:
    assert explain(family, {"metadata": {}} | entry, answer) == said


@pytest.mark.parametrize("family", sorted(CRITICS))
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_no_critique_gives_the_right_answer(family: str, data: st.DataObject) -> None:
    task = made(family)
    problem = data.draw(st.sampled_from(task.load("train")))
    near = st.builds(
        lambda cut, end: problem.answer[:cut] + end, st.integers(0, 30), st.text("0123456789,-/ abc", max_size=4)
    )
    numbers = st.one_of(st.integers(-100_000, 100_000), st.floats(allow_nan=True)).map(str)
    outcome = task.verify(answered(problem, data.draw(st.one_of(near, numbers, st.text(max_size=30)))))
    if outcome.reward < 1:
        assert outcome.notes
        known = set(re.findall(r"\w+", problem.prompt))  # words of the question reveal nothing
        told = [word for word in re.findall(r"[\w.,]*\w", outcome.notes) if word not in known]
        assert problem.answer not in told
        number = re.fullmatch(r"[-./\d]+", problem.answer)  # 480 stands in 4801, and tells nothing
        assert number or len(problem.answer) < 4 or problem.answer not in outcome.notes
