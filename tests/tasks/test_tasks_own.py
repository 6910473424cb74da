"""User-defined tasks: prompts from a file, a judging function, and errors that name the location."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vpdlab.errors import UserError
from vpdlab.tasks import make_task, verify_all
from vpdlab.tasks.own import Own, as_outcome, find_function
from vpdlab.types import Outcome, Problem, Rollout

CODE = """
from vpdlab import Outcome

def verify(response, problem):
    if response == problem.answer:
        return Outcome(1.0, "Right.", response)
    return 0.5 if problem.data["kind"] == "hard" else (False, f"Not {response}.")

def broken(response, problem):
    return {}["x"]
"""


def rollout(problem: Problem, text: str) -> Rollout:
    return Rollout(problem, 0, 0, (1,), (2,), (0.0,), text, True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{i}+{i}?", "answer": 2 * i, "kind": "hard" if i % 2 else "easy"} for i in range(20)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_a_file_of_prompts_and_a_function_make_a_task(place) -> None:
    task = make_task("own", data=str(place / "prompts.jsonl"), verify=f"{place / 'mine.py'}:verify")
    train, test = task.load("train"), task.load("test")
    assert (len(train), len(test)) == (18, 2) and not {p.id for p in train} & {p.id for p in test}
    assert task.summary.startswith("own: 18 train, 2 test problems from ")
    problem = next(p for p in train if p.prompt == "4+4?")
    assert problem.answer == "8" and problem.data == {"kind": "easy"}
    found = [one.verified for one in verify_all(task, [rollout(problem, "8"), rollout(problem, "9")])]
    assert found == [Outcome(1.0, "Right.", "8"), Outcome(0.0, "Not 9.")]
    again = Own(str(place / "prompts.jsonl"), find_function(f"{place / 'mine.py'}:verify"))
    assert [p.id for p in again.load("test")] == [p.id for p in test]  # the split depends on the text only


def test_files_for_both_splits_are_taken_as_they_are(tmp_path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            json.dumps({"prompt": f"a {split} question", "id": f"{split}!"}) + "\n"
        )
    task = Own(str(tmp_path), lambda response, problem: True)
    assert [p.id for p in task.load("test")] == ["test!"]


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (True, Outcome(1.0)),
        (0, Outcome(0.0)),
        (0.25, Outcome(0.25)),
        ((True, "Well."), Outcome(1.0, "Well.")),
        (Outcome(0.5, "Half.", "x"), Outcome(0.5, "Half.", "x")),
    ],
)
def test_what_a_function_may_return(value, outcome) -> None:
    assert as_outcome(value) == outcome


@pytest.mark.parametrize("value", [None, "yes", (1.0, 2.0), {"reward": 1}])
def test_what_it_may_not(value) -> None:
    with pytest.raises(TypeError, match="return an Outcome, a number in"):
        as_outcome(value)


def test_a_function_that_fails_is_told_with_its_problem_and_is_no_reward(place) -> None:
    task = Own(str(place / "prompts.jsonl"), f"{place / 'mine.py'}:broken")
    problem = task.load("train")[0]
    with pytest.raises(UserError, match=f"verify failed on problem {problem.id}: KeyError: 'x'"):
        task.verify(rollout(problem, "8"))
    out_of_range = Own(str(place / "prompts.jsonl"), lambda response, problem: 2.0)
    with pytest.raises(UserError, match="the reward is 2.0, but must be a number between 0 and 1"):
        verify_all(out_of_range, [rollout(problem, "8")])


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("mine.py", "write file.py:function or package.module:function"),
        ("mine.py:nothing", "has no function 'nothing'"),
        ("none.py:verify", "cannot be imported: FileNotFoundError: there is no file none.py"),
        ("no.such.module:verify", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("bad.py:verify", "bad.py cannot be imported: SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_found(place, monkeypatch, where, words) -> None:
    monkeypatch.chdir(place)
    (place / "bad.py").write_text("def (")
    with pytest.raises(UserError, match=words):
        Own("prompts.jsonl", where)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"answer": "7"}', "line 1: field 'prompt' is missing"),
        ('{"prompt": 7}', "line 1: field 'prompt' is 7, but must be text"),
        ("[1]", "line 1, item 1: expected an object with a prompt"),
        ("1", "line 1: expected an object with a prompt"),
        ('{"prompt": "only one"}', "cannot be split into train and test"),
    ],
)
def test_a_bad_item_is_named(tmp_path, line, words) -> None:
    (tmp_path / "p.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=words):
        Own(str(tmp_path / "p.jsonl"), lambda response, problem: True)


def test_without_data_or_function_the_command_is_shown() -> None:
    with pytest.raises(UserError, match="--task_args verify=my_task.py:verify"):
        make_task("own")
