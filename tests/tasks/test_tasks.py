"""Shared code of tasks: building by name, the answer block, verification, duplicates."""

from __future__ import annotations

import re

import pytest

from vpdlab import tasks
from vpdlab.errors import UserError
from vpdlab.tasks import make_task, names, read_answer, verify_all
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, with_unique_ids
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
        UserError, match="unknown task 'sience': choose one of arithmetic, code, lexicon, math, own, reasoning, science"
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
    assert set(names()) == {"arithmetic", "code", "lexicon", "math", "own", "reasoning", "science", "verifiers"}
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
    train = [Problem("a", "What is it?", "A"), Problem("b", "What is it?", "A"), Problem("c", "Other", "A")]
    train += [Problem("d", "Held out", "A"), Problem("e", "Other", "A", system="another system")]
    kept, test, said = drop_duplicates(train, [Problem("t", "Held out", "A")])
    assert [p.id for p in kept] == ["a", "c", "e"]
    assert [p.id for p in test] == ["t"]
    assert said == "dropped 1 duplicate(s), 1 from train that are also in test"
    assert drop_duplicates(kept, test)[2] == ""


@pytest.mark.parametrize(
    "prompts",
    [
        ("c1ccccc1", "C1CCCCC1"), ("x = 1\nprint(x)", "x = 1\n    print(x)"), ("$X$", "$x$"), ("a b", "a  b"),
        ("a\tb", "a b"), ("ﬁ", "fi"), ("straße", "strasse"), ("e\u0301", "é"), ("a", "a "),
    ],
)  # fmt: skip
def test_problems_that_differ_in_one_character_are_two(prompts: tuple[str, str]) -> None:
    train = [Problem(prompt, prompt, "") for prompt in prompts]
    assert drop_duplicates(train, []) == (train, [], "")
    assert drop_duplicates(train[:1], train[1:]) == (train[:1], train[1:], "")
    systems = [Problem(prompt, "q", "", system=prompt) for prompt in prompts]
    assert drop_duplicates(systems, []) == (systems, [], "")


def test_system_and_prompt_do_not_run_into_each_other() -> None:
    train = [Problem("a", "c", "", system="a\nb"), Problem("b", "b\nc", "", system="a")]
    assert drop_duplicates(train, [])[0] == train


def test_a_repeated_problem_with_another_answer_is_told() -> None:
    train = [Problem("a", "1+1?", "2"), Problem("b", "1+1?", "3"), Problem("c", "2+2?", "5")]
    kept, _, said = drop_duplicates(train, [Problem("t", "2+2?", "4")])
    assert [(p.id, p.answer) for p in kept] == [("a", "2")]
    assert said.endswith("; 2 of them had a different answer from the one kept (e.g. b)")


def test_ids_that_repeat_are_made_unique_by_the_text() -> None:
    train = [Problem("x", f"q{n}", "") for n in range(3)] + [Problem("y", "q9", "")]
    (named, test) = with_unique_ids(train, [Problem("y", "q8", "")])
    ids = [p.id for p in [*named, *test]]
    assert len(set(ids)) == 5
    assert [one.partition("-")[0] for one in ids] == ["x", "x", "x", "y", "y"]
    again = with_unique_ids(train[::-1], [])[0]  # the order of the data does not matter
    assert {p.id for p in again if p.id != "y"} == set(ids[:3])
    assert [p.id for p in with_unique_ids(train[:1], train[3:])[0]] == ["x"]
    with pytest.raises(UserError, match="two problems have the id 'x-"):
        with_unique_ids([*train, Problem(ids[0], "q7", "")])


def test_the_seed_and_the_text_decide_what_is_held_out() -> None:
    problems = [Problem("same", f"q{n}", "") for n in range(40)]
    parts = [hold_out("t", each, 0.25, seed) for each, seed in ((problems, 0), (problems[::-1], 0), (problems, 1))]
    held = [{p.prompt for p in test} for _, test in parts]
    assert [len(one) for one in held] == [10, 10, 10]
    assert held[0] == held[1] != held[2]
    assert all(len(train) == 30 for train, _ in parts)  # equal ids are not held out together
    assert [len(part) for part in hold_out("t", problems[:2], 0.99, 0)] == [1, 1]
    with pytest.raises(UserError, match=r"task t: 1 problem\(s\) cannot be split"):
        hold_out("t", problems[:1], 0.5, 0)


def test_a_long_response_of_opened_blocks_is_read_in_no_time() -> None:
    text = "<answer>" * 20_000
    assert re.search("never closed", read_answer(rollout(text))[1])


class Plain:
    """A task as CONTRIBUTING.md asks for it: nothing of vpdlab but the records."""

    name, summary = "plain", "one problem"

    def __init__(self, digits: int = 2) -> None:
        self.digits = digits


def test_options_of_a_task_are_read_by_their_annotations(monkeypatch) -> None:
    monkeypatch.setattr(tasks, "names", lambda: ["plain"])
    monkeypatch.setattr(tasks, "task_class", lambda name: Plain)
    assert make_task("plain", digits="3").digits == 3
    with pytest.raises(UserError, match="digits is 'three', but must be a whole number"):
        make_task("plain", digits="three")


def test_a_file_without_a_task_of_its_name_is_one_line(monkeypatch) -> None:
    import types

    import vpdlab.tasks as tasks

    module = types.ModuleType("vpdlab.tasks.empty")
    module.__file__ = "empty.py"
    monkeypatch.setattr(tasks.importlib, "import_module", lambda name: module)
    with pytest.raises(UserError, match=r"empty\.py holds no task: give one of its classes name = 'empty'"):
        tasks.task_class("empty")
