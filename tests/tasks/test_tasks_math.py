"""Mathematics: boxed answers, three styles of rows, a comparison that no formula can block."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vpdlab.errors import RunFailed, UserError
from vpdlab.tasks import make_task, verify_all
from vpdlab.tasks.common.math_worker import forbid
from vpdlab.tasks.math import SYSTEM, Judge, Math, boxed
from vpdlab.types import Problem, Rollout

pytest.importorskip("math_verify", reason="missing: math-verify (pip install math-verify)")

GSM8K = {"question": "Ann has 40 sheep and buys 32. How many?", "answer": "She has 40+32=<<40+32=72>>72.\n#### 1,072"}
MATH = {
    "problem": "What is $\\frac12 + \\frac14$?", "level": "Level 1", "subject": "Algebra",
    "unique_id": "algebra/1.json",
    "solution": "It is \\boxed{1}, no: $\\boxed{\\frac{3}{4}}$.",
}  # fmt: skip
DAPO = {
    "data_source": "math_dapo", "reward_model": {"ground_truth": "34", "style": "rule"},
    "prompt": [{"role": "user", "content": (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer:"
        " $Answer (without quotes) where $Answer is the answer to the problem.\n\nFind $x$.\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    )}],
}  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rollout(problem: Problem, text: str, finished: bool = True) -> Rollout:
    return Rollout(problem, 0, 0, (), (), (), text, finished)


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Math:
    folder = tmp_path_factory.mktemp("math")
    write(folder / "train.jsonl", [GSM8K, MATH])
    write(folder / "test.jsonl", [DAPO])
    return Math(str(folder))


def test_three_styles_of_rows(task):
    sheep, fractions = task.load("train")
    (found,) = task.load("test")
    assert (sheep.prompt, sheep.answer, sheep.system) == (GSM8K["question"], "1072", SYSTEM)
    assert (fractions.id, fractions.answer) == ("algebra/1.json", "\\frac{3}{4}")
    assert dict(fractions.data) == {"level": "Level 1", "subject": "Algebra"}
    assert (found.prompt, found.answer) == ("Find $x$.", "34")
    assert task.summary.startswith("math: 2 train, 1 test problems from ")


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"problem": "p", "answer": "$5$"}, "5"),
        ({"problem": "p", "answer": 5}, "5"),
        ({"problem": "p", "answer": 0}, "0"),
        ({"prompt": "p", "solution": "34"}, "34"),
        ({"problem": "p", "answer": "(1,234)"}, "(1,234)"),
        ({"problem": "p", "answer": "-12,345.5"}, "-12345.5"),
        ({"problem": "p", "answer": "x", "solution": "\\boxed{y}"}, "x"),
        ({"problem": "p", "answer": ["1,000", 2]}, "1000, 2"),
        ({"problem": "p", "answer": ["7"]}, "7"),
        ({"problem": "p", "reward_model": {"ground_truth": '["34"]'}}, "34"),
        ({"problem": "p", "answer": 1.5e300}, "1.5e+300"),
        ({"problem": "p", "answer": "12:30"}, "12:30"),
    ],
)
def test_the_final_answer_of_a_row(tmp_path, row, gold):
    other = {"problem": "q", "answer": "1"}
    task = Math(write(tmp_path / "rows.jsonl", [row, other]), heldout=0.5)
    assert {p.answer for split in ("train", "test") for p in task.load(split)} == {gold, "1"}


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{5}", "5"), ("\\boxed{4} then \\boxed{5}", "5"), ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\fbox \\fboxed { 5 }", "5"), ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"), ("\\boxed{5} \\boxed{6", "5"),
        ("\\boxed{a\\\\}b}", "a\\\\"), ("\\boxed{5}} \\boxed{6", "5"), ("} \\boxed{5}", "5"), ("{\\boxed{5}", "5"),
        ("\\boxed{1} {\\boxed{2}", "2"), ("\\boxed{a \\boxed{b} c}", "b"), ("\\boxed{a \\boxed{b", None),
        ("\\boxed{}", ""), ("\\boxed{5", None), ("5", None), ("\\boxed 5", None), ("\\boxed{\\boxed{5}}", "5"),
    ],
)  # fmt: skip
def test_the_last_closed_box_is_the_answer(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize("text", ["\\boxed{" * 20_000, "\\boxed{}" * 20_000, "{" * 100_000, "\\boxed" + " " * 100_000])
def test_no_row_of_boxes_holds_up_a_run(text):
    start = time.monotonic()
    boxed(text)
    boxed(text + "}" * 50_000)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("72", "72", True), ("72", "72.0", True), ("72", "73", False), ("\\frac{3}{4}", "0.75", True),
        ("\\frac{3}{4}", "3/4", True), ("\\frac{3}{4}", "\\dfrac34", True), ("1234", "1,234", True),
        ("x^2+1", "1+x^2", True), ("\\sqrt{8}", "2\\sqrt{2}", True), ("\\{1,2\\}", "\\{2,1\\}", True),
        ("(1,2)", "(2,1)", False),
        ("18", "\\$18", True), ("5", "5\\text{ cm}", True), ("120^\\circ", "120", True), ("10", "x=10", True),
        ("\\text{Monday}", "Monday", True), ("5", "import os", False), ("5", "", None), ("5", "}", None),
    ],
)  # fmt: skip
def test_answers_are_compared_as_mathematics(task, gold, answer, right):
    outcome = task.verify(rollout(Problem("p", "", gold), f"So \\boxed{{{answer}}}."))
    assert outcome.success is bool(right)
    assert outcome.notes is not None
    if right is False:
        assert outcome.notes == f'The answer "{answer}" is not right.'
    if right is None:
        assert outcome.answer is None


def test_equal_answers_vote_together(task):
    problem = Problem("p", "", "5")
    votes = {task.verify(rollout(problem, f"\\boxed{{{text}}}")).answer for text in ("5", "5.", " 5 ", "+5")}
    assert len(votes) == 1


@pytest.mark.parametrize(
    ("text", "finished", "why"),
    [
        ("5", True, "The response ended without an answer: there is no \\boxed{}."),
        ("5", False, "The response was cut at the length limit before an answer was given."),
        ("\\boxed{5", True, "A box was opened with \\boxed{ but never closed, so no answer was read."),
        ("\\boxed{ }", True, "The box \\boxed{} is empty."),
        ("\\boxed{" + "1+" * 300 + "1}", True, "The box holds more than a final answer."),
    ],
)
def test_no_answer_has_a_reason(task, text, finished, why):
    outcome = task.verify(rollout(Problem("p", "", "5"), text, finished))
    assert (outcome.reward, outcome.notes, outcome.answer) == (0.0, why, None)


@pytest.mark.parametrize("bomb", ["9^{9^{9^{9}}}", "10^{10^{10}}", "5!!!!!!!", "1000000!", "9**9**9**9"])
def test_no_formula_holds_up_a_run(bomb):
    judge = Judge(patience=2)
    start = time.monotonic()
    said = judge.compare("5", bomb)
    assert said is None or not said["right"]
    assert judge.compare("5", "5") == {"right": True, "read": "5", "gold": True}  # a new process replaces a killed one
    assert time.monotonic() - start < 30


def test_it_works_in_threads_and_leaves_alarms_alone(task):
    """math-verify's own clock works in the main thread only, and takes the alarm from whoever set it."""
    problem, found = Problem("p", "", "\\frac{1}{2}"), []
    before, left = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    ask = lambda n: found.append((n, task.verify(rollout(problem, f"\\boxed{{{n}/4}}")).success))  # noqa: E731
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(0, False), (1, False), (2, True), (3, False)]
    assert signal.getsignal(signal.SIGALRM) == before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == left


def test_the_comparing_process_ends_with_its_owner():
    judge = Judge()
    judge.compare("1", "1")
    process = judge._process
    assert process is not None
    files = len(os.listdir("/proc/self/fd"))
    del judge
    assert process.returncode is not None
    assert len(os.listdir("/proc/self/fd")) == files - 2


def test_the_comparing_process_may_do_nothing_else(tmp_path):
    for event, arguments in (
        ("os.system", ("x",)),
        ("subprocess.Popen", ()),
        ("open", ("x", "w", 0)),
        ("open", ("x", "r+", 0)),
    ):
        with pytest.raises(PermissionError, match=event):
            forbid(event, arguments)
    forbid("open", ("x", "r", 0))
    forbid("import", ("x",))
    target = tmp_path / "written"
    for attack in (
        f'__import__("os").system("touch {target}")',
        f"1+open('{target}','w')",
        f"\\text{{`touch {target}`}}",
    ):
        said = Judge().compare("5", attack)
        assert said is None or not said["right"]
    assert not target.exists()


def test_a_comparing_process_that_does_not_work_is_no_verdict(monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunFailed, match="math-verify does not answer"):
        Judge().compare("1", "1")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": "5"}, "line 1: no problem: expected text in question, problem or prompt"),
        ({"problem": "p"}, "line 1: no final answer"),
        ({"problem": "p", "solution": "words\nand more words"}, "line 1: no final answer"),
        ({"prompt": [{"role": "system", "content": "x"}], "answer": "5"}, "line 1: no problem"),
        ([1], "line 1, item 1: expected an object"),
        ({"problem": "p", "answer": "12 34"}, "line 1: field 'answer' is '12 34', which holds several numbers"),
        ({"problem": "p", "answer": True}, "line 1: field 'answer' is True, but must be text, a number, or a list"),
        ({"problem": "p", "answer": {"a": 1}}, "line 1: field 'answer' is {'a': 1}"),
        ({"problem": "p", "answer": ["1", None]}, "line 1: field 'answer' is ['1', None], but each item"),
        ({"problem": "p", "answer": ["1", {"a": 1}]}, "line 1: field 'answer' is {'a': 1}"),
        ({"problem": "p", "answer": []}, "line 1: no final answer"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, why):
    with pytest.raises(UserError, match=re.escape(why)):
        Math(write(tmp_path / "rows.jsonl", [row]))


def test_options_and_splits(task, tmp_path):
    with pytest.raises(UserError, match="task math needs data"):
        make_task("math", data="")
    with pytest.raises(UserError, match="heldout is 1"):
        Math("x", heldout=1)
    with pytest.raises(UserError, match="no split 'dev'"):
        task.load("dev")
    one = write(tmp_path / "one.jsonl", [GSM8K])
    with pytest.raises(UserError, match=r"1 problem\(s\) cannot be split"):
        Math(one)
    rows = [{"problem": f"{n}+1", "answer": str(n + 1)} for n in range(20)]
    half = Math(write(tmp_path / "rows.jsonl", rows), heldout=0.25)
    assert (len(half.load("train")), len(half.load("test"))) == (15, 5)
    verified = verify_all(half, [rollout(p, f"\\boxed{{{p.answer}}}") for p in half.load("test")])
    assert all(r.success for r in verified)


def test_the_offline_stand_in_has_arithmetic_and_algebra():
    for family in (
        "chain_sum",
        "basic_arithmetic",
        "simple_equations",
        "polynomial_equations",
        "gcd",
        "complex_arithmetic",
    ):
        stand_in = make_task("reasoning", family=family, size=4, heldout=2)
        for problem in stand_in.load("train"):
            right = stand_in.verify(rollout(problem, f"<answer>{problem.answer}</answer>"))
            wrong = stand_in.verify(rollout(problem, "<answer>1234567</answer>"))
            assert right.success, (family, problem, right)
            assert not wrong.success, (family, problem)
