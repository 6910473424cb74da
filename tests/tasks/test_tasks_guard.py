"""User-defined judges: number types, exceptions, return values, and changes to process state."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import signal
import sys
import threading
import time
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vpdlab.errors import UserError
from vpdlab.tasks import verify_all
from vpdlab.tasks.common.guard import raised_in_one_line, surroundings_kept
from vpdlab.tasks.common.outcomes import checked
from vpdlab.tasks.own import Own, find_function
from vpdlab.types import Outcome, Problem, Rollout

PROBLEM = Problem("item7", "q", "a")


def rollout(text: str = "x") -> Rollout:
    return Rollout(PROBLEM, 0, 0, (1,), (2,), (0.0,), text, True)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text("".join(f'{{"prompt": "q{n}", "id": "item{n}"}}\n' for n in range(4)))
    return "p.jsonl"


def judged(data: str, code: str) -> Outcome:
    """The outcome of a judge in a file, as a run gets it."""
    Path("judge.py").write_text("from vpdlab import Outcome\n" + code)
    return verify_all(Own(data, "judge.py:verify"), [rollout()])[0].verified


NUMBERS = [
    (1, 1.0), (True, 1.0), (0.5, 0.5), (Fraction(1, 2), 0.5), (decimal.Decimal("0.5"), 0.5), (np.float32(0.5), 0.5),
    (np.float16(0.5), 0.5), (np.int8(1), 1.0), (np.bool_(True), 1.0), (np.bool_(False), 0.0), (np.array(0.5), 0.5),
    (np.array([0.5]), 0.5), (torch.tensor(0.5), 0.5), (torch.tensor([1]), 1.0), (torch.tensor(True), 1.0),
    (torch.tensor(0.5, dtype=torch.bfloat16), 0.5), (torch.tensor(0.5, requires_grad=True), 0.5), (np.uint64(0), 0.0),
]  # fmt: skip
NONE = [
    None, "1.0", "", b"1", [], [1.0], {}, {"reward": 1}, 1j, np.array([0.5, 0.5]), torch.zeros(2), np.str_("1"),
    object(),
    float("nan"), np.float32("nan"), torch.tensor(float("nan")), float("inf"), 85, -0.1, 10**400, np.datetime64(0, "s"),
    1.0000001, type, Outcome, print,
]  # fmt: skip


@pytest.mark.parametrize(("value", "reward"), NUMBERS, ids=repr)
def test_a_number_is_a_number_whoever_made_it(value: Any, reward: float) -> None:
    for given in (value, Outcome(value), (value, "Well."), (Outcome(value), "Well.")):
        outcome = checked("here", given)
        assert outcome.reward == reward and type(outcome.reward) is float
        assert outcome.notes == ("Well." if isinstance(given, tuple) else None)


@pytest.mark.parametrize("value", NONE, ids=lambda value: repr(value)[:15])
def test_what_is_no_reward_is_told_with_its_place(value: Any) -> None:
    for given in (value, Outcome(value), (value, "Well.")):
        with pytest.raises(UserError, match="^here: ") as found:
            checked("here", given)
        assert "\n" not in str(found.value) and len(str(found.value)) < 200


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(0.0, ["too", "low"]),
        Outcome(0.0, b"no"),
        Outcome(0.0, 5),
        Outcome(0.0, "x", 7),
        Outcome(0.0, "x", ["a"]),
    ],  # type: ignore[arg-type]
)
def test_notes_and_answers_are_text(outcome: Outcome) -> None:
    with pytest.raises(UserError, match="here: the (notes are|answer is) .*, but must be text or None"):
        checked("here", outcome)


def test_text_that_no_record_can_hold_is_replaced() -> None:
    class Word(str):
        def __str__(self) -> str:
            return "another word"

    found = checked("here", Outcome(0.0, "bad \udce9 \ud83d byte 😀", "x\udc00"))
    assert (found.notes, found.answer) == ("bad \ufffd \ufffd byte 😀", "x\ufffd")
    plain = checked("here", Outcome(0.0, Word("w"), np.str_("n")))
    assert (plain.notes, plain.answer) == ("w", "n") and {type(plain.notes), type(plain.answer)} == {str}


@pytest.mark.parametrize(
    ("body", "reward"),
    [
        ("return 0.5", 0.5), ("return 0.5, 'Think.'", 0.5), ("return Outcome(0.25)", 0.25),
        ("import numpy\n    return numpy.float32(0.5)", 0.5), ("return problem.id == 'item7'", 1.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_functions_and_coroutines_are_run(data: str, kind: str, body: str, reward: float) -> None:
    assert judged(data, f"{kind} verify(response, problem):\n    {body}\n").reward == reward


def test_a_coroutine_keeps_its_loop(data: str) -> None:
    code = (
        "import asyncio\nLOCK = None\nasync def verify(response, problem):\n    global LOCK\n"
        "    LOCK = LOCK or asyncio.get_running_loop()\n    await asyncio.sleep(0)\n"
        "    return LOCK is asyncio.get_running_loop()\n"
    )
    assert [judged(data, code).reward for _ in range(2)] == [1.0, 1.0]


RAISED = {
    "raise ValueError('two\\nlines')": "ValueError: two lines (judge.py line 3)",
    "raise ValueError": "ValueError (judge.py line 3)",
    "sys.exit()": "SystemExit (judge.py line 3)",
    "sys.exit(0)": "SystemExit: 0",
    "exit(1)": "SystemExit: 1",
    "raise GeneratorLike('late')": "GeneratorLike: late",
    "raise BaseExceptionGroup('x', [SystemExit()])": "BaseExceptionGroup: x",
    "raise asyncio.CancelledError": "CancelledError",
    "raise Silent": "Silent",
    "raise StopIteration": "StopIteration",
    "return 1 / 0": "ZeroDivisionError: division by zero",
    "return recursion()": "RecursionError: ",
    "raise ValueError('\\udce9')": "ValueError: \\udce9",
    "raise ValueError('x' * 10_000)": "ValueError: xxx",
    "pass": "TypeError: it returned None",
    "yield 1": "TypeError: it returned <generator",
}
HELPERS = (
    "import asyncio, sys\nclass GeneratorLike(BaseException): pass\ndef recursion(): return recursion()\n"
    "class Silent(Exception):\n    def __str__(self): raise TypeError\n"
)


@pytest.mark.parametrize("body", RAISED)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_whatever_a_function_raises_is_one_line_with_the_problem(data: str, kind: str, body: str) -> None:
    Path("helpers.py").write_text(HELPERS)
    if kind == "async def" and (body == "yield 1" or "StopIteration" in body):
        return  # other errors
    with pytest.raises(UserError) as found:
        judged(data, f"{kind} verify(response, problem):\n    {body}\nfrom helpers import *\nimport sys\n")
    said = str(found.value)
    assert said.startswith("verify failed on problem item7: ")
    expected = RAISED[body] if kind == "def" else RAISED[body].partition(" (")[0].partition(":")[0]
    assert expected in said
    assert "\n" not in said and len(said) < 500
    said.encode()


def test_a_function_gets_a_problem_of_its_own(data: str) -> None:
    task = Own(
        data, lambda response, problem: problem.data.setdefault("seen", []).append(1) or len(problem.data["seen"])
    )
    problem = Problem("p", "q", "a", data={"seen": []})
    assert [verify_all(task, [Rollout(problem, 0, 0, (), (), (), "", True)])[0].success for _ in range(2)] == [
        True,
        True,
    ]
    assert problem.data == {"seen": []}


def test_an_interrupt_interrupts(data: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        judged(data, "def verify(response, problem):\n    raise KeyboardInterrupt\n")


def test_a_task_of_ones_own_that_exits_is_told(data: str) -> None:
    class Task:
        name, summary = "mine", ""

        def load(self, split: str) -> list[Problem]:
            return [PROBLEM]

        def verify(self, rollout: Rollout) -> Any:
            if rollout.text == "exit":
                sys.exit()
            if rollout.text == "bug":
                raise ZeroDivisionError
            return np.float32(0.5)

    assert verify_all(Task(), [rollout()])[0].verified == Outcome(0.5)
    with pytest.raises(UserError, match="task mine, problem item7: verify raised SystemExit"):
        verify_all(Task(), [rollout("exit")])
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        verify_all(Task(), [rollout("bug")])

    class Many(Task):
        def verify_many(self, rollouts: list[Rollout]) -> list[Any]:
            return [1.0]

    with pytest.raises(UserError, match="task mine: verify_many gave 1 outcomes for 2 responses"):
        verify_all(Many(), [rollout(), rollout()])


# -- process state -------------------------------------------------------------------------------------------------


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def state() -> dict[str, Any]:
    return {
        "folder": os.getcwd(), "umask": umask(), "collects": gc.isenabled(),
        "environment": dict(os.environ), "streams": (sys.stdin, sys.stdout, sys.stderr),
        "path": list(sys.path), "recursion": sys.getrecursionlimit(), "filters": list(warnings.filters),
        "show": warnings.showwarning, "disabled": logging.root.manager.disable, "level": logging.root.level,
        "locale": locale.setlocale(locale.LC_ALL), "precision": decimal.getcontext().prec, "numpy": np.geterr(),
        "handlers": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1)],
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0, "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(), "threads": torch.get_num_threads(), "device": torch.get_default_device(),
        "deterministic": torch.get_deterministic_debug_mode(), "anomaly": torch.is_anomaly_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
    }  # fmt: skip


CHANGES = [
    "os.chdir('/')", "os.environ['HOME'] = '/x'", "os.environ.clear()", "os.umask(0o777)", "gc.disable()",
    "sys.stdout = open(os.devnull, 'w')",
    "sys.stderr = None", "sys.stdin = None", "sys.path.clear()", "sys.path = ['x']", "sys.setrecursionlimit(300)",
    "warnings.simplefilter('error')", "warnings.showwarning = print", "logging.disable(50)",
    "logging.root.setLevel(50)",
    "decimal.getcontext().prec = 3", "np.seterr(all='raise')", "signal.signal(signal.SIGINT, signal.SIG_IGN)",
    "signal.signal(signal.SIGTERM, print)", "signal.signal(signal.SIGALRM, print); signal.alarm(100)",
    "torch.set_default_dtype(torch.float64)", "torch.set_grad_enabled(False)", "torch.set_num_threads(2)",
    "torch.set_default_device('meta')", "torch.use_deterministic_algorithms(True)",
    "torch.autograd.set_detect_anomaly(True)",
    "torch.set_float32_matmul_precision('medium')", "torch.autograd.grad_mode.set_grad_enabled(False)",
    "locale.setlocale(locale.LC_ALL, 'C.UTF-8' if locale.setlocale(locale.LC_ALL) == 'C' else 'C')",
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("end", ["return 0.5", "raise ValueError"])
def test_what_a_function_changes_is_put_back(data: str, change: str, end: str) -> None:
    code = "import decimal, gc, locale, logging, os, signal, sys, warnings\nimport numpy as np\nimport torch\n"
    code += f"def verify(response, problem):\n    {change}\n    {end}\n"
    before = state()
    if end == "return 0.5":
        assert judged(data, code).reward == 0.5
    else:
        with pytest.raises(UserError, match="ValueError"):
            judged(data, code)
    assert state() == before
    assert torch.ones(1).dtype == torch.float32 and torch.ones(1, requires_grad=True).sum().requires_grad


def test_what_a_function_changes_while_it_is_loaded_is_put_back(data: str) -> None:
    before = state()
    code = "import os, sys, torch\nos.chdir('/')\ntorch.set_default_dtype(torch.float64)\nsys.path.append('y')\n"
    assert judged(data, code + "def verify(response, problem):\n    return 0.5\n").reward == 0.5
    assert state() == before


def test_a_folder_that_is_gone_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    with surroundings_kept():
        os.chdir(tmp_path)
        (tmp_path / "gone").rename(tmp_path / "renamed")
    assert Path.cwd() == tmp_path / "renamed"


def test_it_works_in_threads_and_costs_little() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(verify_all(EchoTask(), [rollout()])[0].success))
    thread.start()
    thread.join()
    assert found == [True]
    start = time.process_time()
    for _ in range(200):
        with surroundings_kept():
            pass
    assert time.process_time() - start < 1


class EchoTask:
    name, summary = "echo", ""

    def load(self, split: str) -> list[Problem]:
        return [PROBLEM]

    def verify(self, rollout: Rollout) -> Outcome:
        return Outcome(1.0)


# -- finding a function --------------------------------------------------------------------------------------------

JUDGE = "def verify(response, problem):\n    return 0.5\n"


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize(
    ("where", "files"),
    [
        ("own/judge.py:verify", {"own/judge.py": JUDGE}),
        ("./own/judge.py:verify", {"own/judge.py": JUDGE}),
        ("~/judge.py:verify", {"home/judge.py": JUDGE}),
        ("own/judge.py:verify", {"own/judge.py": "from beside import verify\n", "own/beside.py": JUDGE}),
        ("own/judge.py:verify", {"own/beside.py": JUDGE,
                                 "own/judge.py": "def verify(*a):\n    import beside\n    return beside.verify(*a)\n"}),
        ("own/judge.py:verify", {"own/judge.py": "from pack.deep import verify\n", "own/pack/__init__.py": "",
                                 "own/pack/deep.py": "from .deeper import verify\n", "own/pack/deeper.py": JUDGE}),
        ("own/judge.py:verify", {"own/judge.py": "from spaced.deep import verify\n", "own/spaced/deep.py": JUDGE}),
        ("here_judge:verify", {"here_judge.py": JUDGE}),
        ("here_pack.judge:verify", {"here_pack/__init__.py": "", "here_pack/judge.py": JUDGE}),
        ("here_space.judge:verify", {"here_space/judge.py": "from here_space.other import verify\n",
                                     "here_space/other.py": JUDGE}),
        ("random.py:verify", {"random.py": JUDGE}),
        ("my-judge.2.py:verify", {"my-judge.2.py": JUDGE}),
        ("own/judge.py:verify", {"own/judge.py": "\ufeff" + JUDGE}),
        ("own/judge.py:verify", {"own/judge.py": "import json, random\n" + JUDGE, "own/random.py": "1 / 0"}),
        ("own/judge.py:verify", {"own/judge.py": "import dataclasses as d\n@d.dataclass\nclass A: x: int\n" + JUDGE}),
    ],
)  # fmt: skip
def test_functions_are_found_where_people_have_them(
    data: str, monkeypatch: pytest.MonkeyPatch, where: str, files: dict
) -> None:
    write(files)
    Path("home").mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".", os.getcwd())])
    path, modules = list(sys.path), set(sys.modules)
    task = Own(data, where)
    os.chdir("/")  # a run may be anywhere when it judges
    assert verify_all(task, [rollout()])[0].verified.reward == 0.5
    assert sys.path == path
    assert not {
        name
        for name in set(sys.modules) - modules
        if name.partition(".")[0] in ("beside", "pack", "here_judge", "spaced")
    }


def test_two_judges_may_each_have_a_helper(data: str) -> None:
    for name, reward in (("a", 0.25), ("b", 0.75)):
        write({f"{name}/judge.py": "import helper\ndef verify(r, p):\n    import helper\n    return helper.R\n",
               f"{name}/helper.py": f"R = {reward}\n"})  # fmt: skip
    tasks = [Own(data, f"{name}/judge.py:verify") for name in "ab"]
    assert [verify_all(task, [rollout()])[0].verified.reward for task in (*tasks, *tasks)] == [0.25, 0.75, 0.25, 0.75]
    write({"a/helper.py": "R = 0.5  # edited\n"})
    assert verify_all(Own(data, "a/judge.py:verify"), [rollout()])[0].verified.reward == 0.5


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("judge.py:verify", "def (", "judge.py cannot be imported: SyntaxError: "),
        ("judge.py:verify", "import nowhere_at_all", "cannot be imported: ModuleNotFoundError: No module named"),
        ("judge.py:verify", "import sys\nsys.exit()", "cannot be imported: SystemExit (judge.py line 2)"),
        ("judge.py:verify", "class E(BaseException): pass\nraise E('x')", "cannot be imported: E: x (judge.py line 2)"),
        ("judge.py:verify", "\0", "cannot be imported: "),
        ("judge.py:other", JUDGE, "judge.py has no function 'other'"),
        ("judge.py:verify", "verify = 5", "judge.py has no function 'verify'"),
        ("judge.py:verify", "def verify(response): return 1", "verify takes (response), but is called as"),
        ("judge.py:verify", "def verify(*, response, problem): return 1", "but is called as verify(response, problem)"),
        ("none.py:verify", "", "none.py cannot be imported: FileNotFoundError: there is no file none.py"),
        ("json:verify", "", "json has no function 'verify'"),
        ("stat:verify", "", "for the file here write stat.py:verify"),
        ("judge.py", "", "write file.py:function or package.module:function"),
        (":verify", "", "write file.py:function"),
        ("a\udcff.py:verify", "", "a name that is not UTF-8"),
        ("..judge:verify", "", "cannot be imported"),
    ],
)  # fmt: skip
def test_functions_that_cannot_be_had_are_one_line(data: str, where: str, code: str, said: str) -> None:
    write({"judge.py": code, "stat.py": JUDGE})
    before = state()
    with pytest.raises(UserError) as found:
        Own(data, where)
    assert said in str(found.value)
    assert "\n" not in str(found.value) and str(found.value).startswith("verify")
    assert state() == before


def test_a_function_keeps_its_signature_and_name(data: str) -> None:
    write({"judge.py": JUDGE})
    import inspect

    assert str(inspect.signature(find_function("judge.py:verify"))) == "(response, problem)"


def test_an_exception_is_told_in_one_line() -> None:
    assert raised_in_one_line(ValueError("a\n\tb")) == "ValueError: a b"
    assert raised_in_one_line(KeyError("x")) == "KeyError: 'x'"
    assert raised_in_one_line(SystemExit()) == "SystemExit"


class Item:
    def item(self) -> float:
        raise SystemExit(0)


class Words:
    def __repr__(self) -> str:
        raise SystemExit(0)


class Ratio(Fraction):
    def __float__(self) -> float:
        raise SystemExit(0)


@pytest.mark.parametrize("value", [Item(), Words(), Ratio(1, 2)], ids=["item", "repr", "float"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_returned_cannot_end_the_program_while_it_is_read(value: Any, wrapped: bool) -> None:
    class Task:
        name, summary = "odd", "odd"

        def verify(self, rollout: Any) -> Any:
            return Outcome(value) if wrapped else value

    with pytest.raises(UserError, match=r"task odd, problem .* SystemExit"):
        verify_all(Task(), [rollout()])  # type: ignore[arg-type]
