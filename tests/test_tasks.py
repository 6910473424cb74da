"""What every task shares: building by name, the answer block, verification, duplicates."""

from __future__ import annotations

import re

import pytest

from vpdlab.errors import UserError
from vpdlab.tasks import TASKS, drop_duplicates, make_task, read_answer, verify_all
from vpdlab.types import Outcome, Problem, Rollout


def rollout(text: str, problem: Problem | None = None, finished: bool = True) -> Rollout:
    return Rollout(problem or Problem("p", "1+1?", "2"), 0, 0, (), (), (), text, finished)


class Echo:
    name = "echo"
    summary = "echo: 1 problem"

    def load(self, split: str) -> list[Problem]:
        return [Problem("p", "1+1?", "2")]

    def verify(self, rollout: Rollout) -> Outcome:
        return Outcome(float(rollout.text == rollout.problem.answer))


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UserError, match="unknown task 'sience': choose one of arithmetic, code, math, own, reasoning, science"
    ):
        make_task("sience")


def test_a_wrong_option_is_answered_with_the_right_ones() -> None:
    with pytest.raises(UserError, match="task science has no option 'digits': it takes data, split_seed, heldout"):
        make_task("science", digits=2)
    with pytest.raises(UserError, match="task arithmetic has no option 'data'"):
        make_task("arithmetic", data="somewhere")
    with pytest.raises(UserError, match="family chain_sum has no option 'terms'"):
        make_task("reasoning", terms=3)


def test_empty_data_is_no_option() -> None:
    task = make_task("reasoning", data="", size=3, heldout=2)
    assert task.name == "reasoning"
    assert len(task.load("train")) == 3


def test_every_named_task_exists() -> None:
    assert set(TASKS) == {"arithmetic", "code", "math", "own", "reasoning", "science"}
    assert make_task("arithmetic").load("train")


class EchoMany(Echo):
    def verify_many(self, rollouts: list[Rollout]) -> list[Outcome]:
        return [Outcome(1.0, f"one of {len(rollouts)}") for _ in rollouts]


def test_a_task_may_judge_all_at_once() -> None:
    after = verify_all(EchoMany(), (rollout(text) for text in "23"))
    assert [r.verified.notes for r in after] == ["one of 2", "one of 2"]


def test_verify_all_keeps_order_and_everything_but_the_outcome() -> None:
    before = [rollout("2"), rollout("3")]
    after = verify_all(Echo(), before)
    assert [r.success for r in after] == [True, False]
    assert [(r.text, r.problem) for r in after] == [(r.text, r.problem) for r in before]
    assert before[0].outcome is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>\nB\n</answer>", "B"),
        ("<answer>A</answer> no: <ANSWER > B </Answer >", "B"),
        ("<answer><answer>B</answer>", "B"),
        ("<answer>A</answer> then <answer>B", "A"),
    ],
)
def test_the_last_closed_block_is_the_answer(text: str, answer: str) -> None:
    assert read_answer(rollout(text)) == (answer, "")


@pytest.mark.parametrize(
    ("text", "finished", "why"),
    [
        ("B", True, "there is no <answer>"),
        ("so: <answer>B", True, "never closed"),
        ("<answer> </answer>", True, "is empty"),
        ("let me see", False, "was cut"),
        ("<answer>B", False, "was cut"),
    ],
)
def test_no_answer_says_why(text: str, finished: bool, why: str) -> None:
    answer, said = read_answer(rollout(text, finished=finished))
    assert answer == ""
    assert why in said


def test_duplicates_are_dropped_and_counted() -> None:
    train = [Problem("a", "What is  IT?", "A"), Problem("b", "what is it?", "A"), Problem("c", "Other", "A")]
    train += [Problem("d", "held OUT", "A"), Problem("e", "other", "A", system="another system")]
    kept, test, said = drop_duplicates(train, [Problem("t", "Held out", "A")])
    assert [p.id for p in kept] == ["a", "c", "e"]
    assert [p.id for p in test] == ["t"]
    assert said == "dropped 1 repeated, 1 in train that also stand in test"
    assert drop_duplicates(kept, test)[2] == ""


def test_a_long_response_of_opened_blocks_is_read_in_no_time() -> None:
    text = "<answer>" * 20_000
    assert re.search("never closed", read_answer(rollout(text))[1])
