"""Code: reading three data sets, extracting code from responses, visible tests in training and hidden in evaluation."""

from __future__ import annotations

import ast
import base64
import copy
import json
import os
import pickle
import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vpdlab.errors import UserError
from vpdlab.sandbox import Case, Inside, Limits, describe, judge_function, judge_many, read_tests
from vpdlab.sandbox.cases import NotConstant, constant
from vpdlab.tasks import make_task, verify_all
from vpdlab.tasks.code import HIDDEN, Code
from vpdlab.tasks.common.code_sources import humaneval_rows, unpack
from vpdlab.types import Problem, Rollout

try:
    describe()
except UserError as refusal:
    pytest.skip(f"missing: {refusal}", allow_module_level=True)

MBPP = {
    "task_id": 2, "text": "Write a function to find the shared elements of two lists.",
    "code": "def shared(a, b):\n  return tuple(set(a) & set(b))", "test_setup_code": "", "challenge_test_list": [],
    "test_list": [
        "assert set(shared((3, 4, 5),(5, 7, 4))) == set((4, 5))",
        "assert set(shared((1, 2),(5, 2))) == set((2,))",
        "assert set(shared((11, 12),(13, 12))) == set((12,))",
    ],
}  # fmt: skip


def pack(tests: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def lcb(number: int = 1, function: bool = False, **fields: Any) -> dict[str, Any]:
    kind = "functional" if function else "stdin"
    cases = [("[1, 2]\n3", "[3]"), ("[4]\n1", "[]")] if function else [("1 2\n", "3\n"), ("40 2\n", "42\n")]
    tests = [{"input": given, "output": expected, "testtype": kind} for given, expected in cases]
    return {
        "question_id": f"q{number}", "question_content": f"Question {number}.", "platform": "site",
        "difficulty": "easy", "contest_date": f"2025-0{number}-01T00:00:00",
        "starter_code": "class Solution:\n    def pick(self, xs: List[int], k: int) -> List[int]:\n" * function,
        "public_test_cases": json.dumps(tests[:1]), "private_test_cases": pack(tests[1:]),
        "metadata": json.dumps({"func_name": "pick"} if function else {}),
        **fields,
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def answer(problem: Problem, code: str, finished: bool = True) -> Rollout:
    return Rollout(problem, 0, 0, (), (), (), f"So:\n```python\n{code}\n```", finished)


# ---------------------------------------------------------------- code in a response (more: test_reading_programs.py)


@pytest.mark.parametrize(
    ("text", "finished", "why"),
    [
        ("x = 1", True, "The response holds no code: there is no block between ```python and ```."),
        ("```python\n\n```", True, "The response holds no code: its block is empty."),
        ("```python\nx =", False, "The response was cut at the length limit before a block of code was closed."),
        (
            "```python\ndef has_close_elements(numbers, threshold):\n    pass\n",
            False,
            "The response was cut at the length limit before a block of code was closed.",
        ),
    ],
)
def test_no_code_has_a_reason(text, finished, why):
    problem = Code().load("train")[0]
    outcome = Code().verify(Rollout(problem, 0, 0, (), (), (), text, finished))
    assert (outcome.reward, outcome.notes) == (0.0, why)


def test_the_reward_is_that_of_the_program_that_is_the_answer(tmp_path):
    task = Code(write(tmp_path / "rows.jsonl", [MBPP]), "mbpp", keep=2)
    good, bad = "def shared(a, b): return [x for x in a if x in b]", "def shared(a, b): return (5, 4, 2)"
    (problem,) = task.load("train")
    for text, reward in (
        (f"Here: ```python\n{good}```", 1),
        (f"```python\n{good}\n```\nIt prints\n```\n(4, 5)\n```", 1),
        (f"```python\n{good}\n```\nBetter: ```python\n{bad}```", 0),
        (f"<think>```python\n{good}\n```</think>```python\n{bad}\n```", 0),
    ):
        outcome = task.verify(Rollout(problem, 0, 0, (), (), (), text, True))
        assert outcome.reward == reward, (text, outcome)


# ---------------------------------------------------------------- tests as cases


@pytest.mark.parametrize(
    ("source", "case"),
    [
        ("assert f(1, [2], x='a') == (3, 4)", Case((1, [2]), (3, 4), {"x": "a"})),
        ("assert {'a': -1.5} == f()", Case((), {"a": -1.5})),
        ("assert f(2) is None, 'why'", Case((2,), None)),
        ("assert set(f(1)) == set([1, 2])", Case((1,), {1, 2}, wrap="set")),
        ("assert sorted(f([0] * 3)) == [10 ** 2 // 3]", Case(([0, 0, 0],), [33], wrap="sorted")),
        ("assert f(1)", Case((1,), True, wrap="bool")),
        ("assert not f(list(range(3)))", Case(([0, 1, 2],), False, wrap="bool")),
        ("assert abs(f(1) - 0.5) < 1e-6", Case((1,), 0.5)),
        ("import math\nassert math.isclose(f(1), 0.5, rel_tol=0.01)", Case((1,), 0.5)),
    ],
)
def test_asserts_become_cases(source, case):
    (found,) = read_tests(source, {"f"})
    assert isinstance(found, Case)
    assert (found.args, found.expected, found.keywords, found.wrap) == (
        case.args, case.expected, case.keywords, case.wrap,
    )  # fmt: skip
    assert found.rules.numbers


def test_tolerances_are_taken_over():
    rules = [case.rules for case in read_tests("assert abs(f(1) - 2) < 0.1\nassert f(1) == 2", {"f"})]  # type: ignore[union-attr]
    assert [(rule.relative, rule.absolute) for rule in rules] == [(0.0, 0.1), (0.0, 0.0)]


@pytest.mark.parametrize(
    "source",
    [
        "assert f(1) == f(2)", "assert f(1) != 2", "assert f(1) < 2", "assert 1 < f(1) < 3", "assert g(1) == 2",
        "assert f(*[1]) == 2", "assert f(x) == 2", "assert f(1)[0] == 2", "assert f(1) == 9 ** 9 ** 9",
        "assert f(1) in (1, 2)", "assert f(...) == 1",
        "assert f(1) == [0] * 10 ** 9", "assert f(1) == open('x')", "for n in (1, 2):\n    assert f(n) == n",
        "assert f(1) == bytes(10 ** 9)", "assert f(list(range(10 ** 9))) == 1", "assert f(1) == 1 / 0",
    ],
)  # fmt: skip
def test_other_tests_run_inside(source):
    (found,) = read_tests(source, {"f"})
    assert isinstance(found, Inside)
    assert found.code == ast.unparse(ast.parse(source))


def test_what_tests_need_goes_with_them_and_empty_ones_are_dropped():
    source = "METADATA = {}\ndef check(candidate):\n    assert True\n    n = 3\n    assert candidate(1) == 1\n"
    assert [type(test) for test in read_tests(source, {"candidate"})] == [Case]
    found = read_tests(source + "    assert candidate(n) == n", {"candidate"})
    assert [type(test) for test in found] == [Case, Inside]
    inside = "METADATA = {}\n\ndef check(candidate):\n    n = 3\n    assert candidate(n) == n\ncheck(candidate)"
    assert re.sub("\n+", "\n", found[1].code) == re.sub("\n+", "\n", inside)  # type: ignore[union-attr]


def test_constants_are_worked_out_within_bounds():
    node = ast.parse("{'a': (-2 ** 3, [1.5, None], frozenset({1}), 'x' * 3, float('inf'))}", mode="eval").body
    assert constant(node) == {"a": (-8, [1.5, None], frozenset({1}), "xxx", float("inf"))}
    for bad in ("{**{}}", "x", "f(1)", "[*a]", "'a' * 10 ** 9", "2 ** 10 ** 9", "range(10 ** 12)", "{[]: 1}"):
        with pytest.raises(NotConstant):
            constant(ast.parse(bad, mode="eval").body)


# ---------------------------------------------------------------- HumanEval


def test_humaneval_needs_no_data():
    task = make_task("code", data="")
    assert task.summary == (
        "code, humaneval: 164 train problems on their visible tests, 164 test problems (the same problems, all tests);"
        " run behind bubblewrap"
    )
    train, test = task.load("train"), task.load("test")
    assert [problem.id + HIDDEN for problem in train] == [problem.id for problem in test]
    assert "def has_close_elements" in train[0].prompt
    assert json.loads(json.dumps(dict(train[0].data)))["visible_tests"] == 3
    with pytest.raises(UserError, match="no split 'dev'"):
        task.load("dev")


def test_training_sees_the_visible_tests_and_evaluation_all_of_them():
    task = Code(keep=2)
    train, test = task.load("train")[0], task.load("test")[0]
    item = task._items[train.id]
    known = {repr(case.args): case.expected for case in item.visible if isinstance(case, Case)}
    cheat = f"def has_close_elements(numbers, threshold):\n    return {known!r}[repr((numbers, threshold))]"
    seen, hidden = task.verify_many([answer(train, cheat), answer(test, cheat)])
    assert seen.success and seen.notes == "The code passes all 2 tests."
    assert not hidden.success
    assert hidden.notes == "A hidden test failed."
    assert seen.answer == hidden.answer != task.verify(answer(train, "x = 1")).answer


def test_many_are_verified_side_by_side_in_order():
    task = Code()
    problems = task.load("train")[:4]
    rollouts = [answer(p, p.answer if n % 2 else "def nothing(): pass") for n, p in enumerate(problems)]
    verified = verify_all(task, iter(rollouts))
    assert [r.success for r in verified] == [False, True, False, True]
    assert "does not define has_close_elements" in str(verified[0].verified.notes)
    with pytest.raises(UserError, match="'p' was not made by this task"):
        task.verify(answer(Problem("p", "", ""), "x = 1"))


@pytest.mark.slow
def test_all_reference_solutions_pass():
    task = Code(seconds=20)
    outcomes = task.verify_many([answer(problem, problem.answer) for problem in task.load("test")])
    failed = [(p.id, o.notes) for p, o in zip(task.load("test"), outcomes, strict=True) if not o.success]
    assert len(outcomes) == 164
    assert failed == []


class Mutate(ast.NodeTransformer):
    """Mutates the `turn`-th mutable location of a program."""

    SWAPS: ClassVar[dict[type, type]] = {
        ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
        ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Div: ast.Mult,
    }  # fmt: skip

    def __init__(self, turn: int) -> None:
        self.turn, self.places = turn, 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if type(node) in self.SWAPS and self._here():
            return self.SWAPS[type(node)]()
        if isinstance(node, ast.Constant) and type(node.value) is int and self._here():
            return ast.Constant(node.value + 1)
        if isinstance(node, ast.Return) and node.value is not None and self._here():
            return ast.Return(ast.Constant(None))
        return node

    def _here(self) -> bool:
        self.places += 1
        return self.places == self.turn + 1


def mutants(code: str, entry: str) -> list[str]:
    tree = ast.parse(code)
    counter = Mutate(-1)
    counter.visit(copy.deepcopy(tree))
    return [ast.unparse(ast.fix_missing_locations(Mutate(n).visit(copy.deepcopy(tree)))) for n in range(counter.places)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_single_mutation_that_the_tests_see_fails_and_is_named():
    """Verdicts on mutants agree with the original test code, run as a whole; on failure the case is named."""
    limits, rows = Limits(seconds=2), [row for _, row in humaneval_rows()]

    def original(row: dict[str, Any], code: str) -> bool:
        whole = Inside(f"{row['test']}\ncheck({row['entry_point']})")
        return judge_function(code, row["entry_point"], [whole], limits).passed

    def first_seen(row: dict[str, Any]) -> tuple[str, str, int]:
        """(mutant, what we say of it, how many mutants before it passed both)."""
        name, found = row["entry_point"], read_tests(row["test"], {"candidate", row["entry_point"]})
        tests = [Inside(f"candidate = {name}\n{t.code}") if isinstance(t, Inside) else t for t in found]
        for number, code in enumerate(mutants(row["prompt"] + row["canonical_solution"], name)):
            verdict, truth = judge_function(code, name, tests, limits), original(row, code)
            assert verdict.passed == truth, (row["task_id"], code, verdict.feedback)
            if not truth:
                return code, verdict.feedback, number
        return "", "", -1

    found = judge_many([partial(first_seen, row) for row in rows])
    unseen = [row["task_id"] for row, (code, _, _) in zip(rows, found, strict=True) if not code]
    assert unseen == []
    for row, (_, feedback, _) in zip(rows, found, strict=True):
        called = re.match(r"Test \d+ of \d+ failed: (`candidate = |\w*\(?" + row["entry_point"] + r"\()", feedback)
        assert called, (row["task_id"], feedback)
        assert len(feedback) < 1000


# ---------------------------------------------------------------- MBPP and LiveCodeBench


def test_mbpp_rows(tmp_path):
    rows = [MBPP, MBPP | {"task_id": 3, "text": None, "prompt": "Sanitised.", "test_imports": ["import math"]}]
    task = Code(write(tmp_path / "rows.jsonl", rows), "mbpp", keep=2)
    problem = task.load("train")[0]
    assert problem.prompt.endswith(
        "The function is called `shared`. It must pass these tests:\n```python\n"
        "assert set(shared((3, 4, 5),(5, 7, 4))) == set((4, 5))\nassert set(shared((1, 2),(5, 2))) == set((2,))\n```"
    )
    good, bad = "def shared(a, b): return [x for x in a if x in b]", "def shared(a, b): return (5, 4, 2)"
    outcomes = task.verify_many([answer(p, c) for p in task.load("test") for c in (good, bad)])
    assert [o.reward for o in outcomes] == [1, 0, 1, 0]
    assert outcomes[1].notes == (
        "Test 1 of 3 failed: set(shared((3, 4, 5), (5, 7, 4))) returned {2, 4, 5}, but {4, 5} was expected."
    )


def test_livecodebench_rows(tmp_path):
    data = write(tmp_path / "rows.jsonl", [lcb(1), lcb(2, function=True)])
    task = Code(data, "livecodebench")
    program, function = task.load("train")
    assert program.prompt.endswith("reads standard input and prints the answer to standard output.")
    assert function.prompt.endswith("-> List[int]:\n```")
    codes = {
        program.id: ["print(sum(map(int, input().split())))", "print(3)"],
        function.id: [
            "class Solution:\n    def pick(self, a: List[int], k):\n        return (k,) if k in accumulate(a) else ()",
            "class Solution:\n    def pick(self, xs, k): return [3]",
        ],
    }
    pairs = [(p, code) for p in (*task.load("train"), *task.load("test")) for code in codes[p.id.removesuffix(HIDDEN)]]
    outcomes = task.verify_many([answer(problem, code) for problem, code in pairs])
    assert [o.reward for o in outcomes] == [1, 1, 1, 1, 1, 0, 1, 0]
    assert outcomes[5].notes == outcomes[7].notes == "A hidden test failed."
    assert not any(str(secret) in str(o.notes) for o in outcomes for secret in (40, 42))
    assert task.load("train")[0].data["contest_date"] == "2025-01-01T00:00:00"
    recent = Code(data, "livecodebench", since="2025-02-01", until="2025-02-28")
    assert [problem.id for problem in recent.load("test")] == ["LCB/q2" + HIDDEN]
    mistakes = task.verify(answer(program, "n = int(input())"))
    assert mistakes.notes is not None
    assert mistakes.notes.startswith("Test 1 of 1 failed: the program raised ValueError: invalid literal for int()")
    assert mistakes.notes.endswith("(line 1: `n = int(input())`).\nInput:\n1 2\nExpected output:\n3")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/vpdlab-was-unpickled",)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (base64.b64encode(zlib.compress(pickle.dumps(Payload()))).decode(), "a pickle of something other"),
        (base64.b64encode(zlib.compress(pickle.dumps(["[]"]))).decode(), "a pickle of something other"),
        (base64.b64encode(zlib.compress(pickle.dumps(b"[]"))).decode(), "a pickle of something other"),
        (base64.b64encode(zlib.compress(pickle.dumps({"a": "[]"}))).decode(), "a pickle of something other"),
        (base64.b64encode(zlib.compress(b"cos\nsystem\n(S'true'\ntR.")).decode(), "a pickle of something other"),
        (base64.b64encode(b"not zlib").decode(), "neither JSON nor packed JSON"),
        (base64.b64encode(zlib.compress(b"not a pickle")).decode(), "neither JSON nor packed JSON"),
        ("%%%", "neither JSON nor packed JSON"),
    ],
)
def test_packed_tests_are_never_unpickled(data, why):
    with pytest.raises(UserError, match=f"here: .*{why}"):
        unpack(data, "here")
    assert not Path("/tmp/vpdlab-was-unpickled").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_packed_tests_of_every_protocol_are_read(protocol):
    for text in ("[]", '[{"input": "é"}]', "[" + " " * 100_000 + "]"):
        packed = base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()
        assert unpack(packed, "here") == text
    assert unpack(' [{"a": 1}]', "here") == ' [{"a": 1}]'


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("vpdlab.tasks.common.code_sources.LARGEST", 1000)
    with pytest.raises(UserError, match="larger than 1000 bytes"):
        unpack(pack([" " * 10_000]), "here")


@pytest.mark.parametrize(
    ("source", "change", "why"),
    [
        ("mbpp", {"code": "def"}, "line 1: the code is not Python"),
        ("mbpp", {"code": "x = 1"}, "line 1: no test calls a function that the code defines"),
        ("mbpp", {"test_list": None}, "line 1: an MBPP problem needs text"),
        ("livecodebench", {"public_test_cases": "[]"}, "line 1: problem LCB/q1 has no visible test"),
        ("livecodebench", {"public_test_cases": "[1]"}, "line 1: the tests are not a list of {input, output}"),
        ("livecodebench", {"question_id": 3}, "line 1: field 'question_id' is 3, but must be text"),
        ("livecodebench", {"metadata": "{"}, "line 1: field 'metadata' is not JSON"),
        ("humaneval", {"prompt": ""}, "line 1: field 'prompt' is ''"),
    ],
)
def test_bad_rows_are_named(tmp_path, source, change, why):
    row = {"mbpp": MBPP, "livecodebench": lcb(), "humaneval": next(humaneval_rows())[1]}[source]
    with pytest.raises(UserError, match=re.escape(why)):
        Code(write(tmp_path / "rows.jsonl", [row | change]), source)


def test_options_are_checked(tmp_path):
    data = write(tmp_path / "rows.jsonl", [lcb(1), lcb(1), lcb(1, question_content="Another.")])
    task = Code(data, "livecodebench")
    assert "dropped 1 duplicate" in task.summary
    first, second = [problem.id for problem in task.load("train")]
    assert first != second and {first[:7], second[:7]} == {"LCB/q1-"}
    assert [problem.id for problem in task.load("test")] == [first + HIDDEN, second + HIDDEN]
    for options, why in (
        ({"source": "apps"}, "source is 'apps', but must be one of humaneval, mbpp, livecodebench"),
        ({"source": "mbpp"}, "source mbpp needs data"),
        ({"keep": 0}, "keep is 0"),
        ({"keep": "true"}, "keep is 'true', but must be a whole number"),
        ({"workers": "two"}, "workers is 'two'"),
        ({"seconds": "soon"}, "seconds is 'soon', but must be a number"),
        ({"heldout": 1}, "heldout is 1"),
        ({"since": "May"}, "since is 'May', but must be a date"),
        ({"until": "2025-02-31"}, "until is '2025-02-31', but must be a date"),
        ({"workers": -1}, "workers is -1"),
        ({"sandbox": "docker"}, "unknown sandbox 'docker'"),
        ({"seconds": 0}, "seconds is 0"),
    ):
        with pytest.raises(UserError, match=why):
            Code(**options)


def test_a_missing_wall_is_told_before_anything_runs_and_unsafe_is_stamped(monkeypatch, tmp_path):
    task = Code(sandbox="unsafe")
    assert task.summary.endswith("run with NO WALL (unsafe)")
    assert task.load("train")[0].data["sandbox"] == "unsafe"
    assert task.environment == {"wall": "unsafe", "holds": []}
    assert Code().environment["wall"] == Code().load("train")[0].data["sandbox"] == "bubblewrap"
    monkeypatch.setattr("vpdlab.sandbox.backends._known", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="model-written code needs bubblewrap: apt-get install bubblewrap"):
        Code()


def test_some_problems_can_be_held_out():
    task = Code(heldout=0.25)
    train, test = ({p.id.removesuffix(HIDDEN) for p in task.load(split)} for split in ("train", "test"))
    assert (len(train), len(test)) == (123, 41)
    assert not train & test
    reseeded = {p.id.removesuffix(HIDDEN) for p in Code(heldout=0.25, split_seed=1).load("test")}
    assert len(reseeded) == 41 and reseeded != test
