"""The sandbox under attack: nothing gets out, nothing false passes, everything ends in bounded time.

Runs as whoever runs the tests; as root, a part runs again as an ordinary user.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from attacks import BOMBS, CALLS, CHEATS, OUT

import vpdlab
from vpdlab.errors import RunFailed, UserError
from vpdlab.sandbox import (
    Case,
    Inside,
    Limits,
    SandboxError,
    backend,
    describe,
    judge_function,
    judge_many,
    judge_stdin,
    process,
    run,
    wall,
)  # fmt: skip
from vpdlab.sandbox.seccomp import AUDIT, DENIED, filter_bytes
from vpdlab.sandbox.wording import HIDDEN

HURRY = Limits(seconds=0.3)
try:
    describe()
except UserError as refusal:
    pytest.skip(f"missing: {refusal}", allow_module_level=True)


def traces() -> tuple[list[str], int]:
    """(processes below this one, zombies too; open descriptors)."""
    mine, below = {str(os.getpid())}, []
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text(errors="replace").rpartition(")")
        except OSError:
            continue
        stats.append((head.split()[0], rest.split()[1], head))
    grown = True
    while grown:
        grown = False
        for number, parent, name in stats:
            if parent in mine and number not in mine:
                mine.add(number)
                below.append(name)
                grown = True
    return below, len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _leaves_nothing():
    """No test leaves a process, zombie or descriptor; none takes longer than its limits allow."""
    before, start = traces(), time.monotonic()
    yield
    assert time.monotonic() - start < 30
    assert traces() == before


# ---------------------------------------------------------------- usage


def test_a_program_runs():
    done = run("print(input()[::-1])", "né")
    assert (done.status, done.stdout, done.stderr, done.wall) == ("ok", "én\n", "", "bubblewrap")
    assert 0 < done.seconds < 5
    assert run("import sys; print(__name__, sys.argv, sys.path[0] != '')").stdout == "__main__ ['solution.py'] True\n"
    for way in ("open(0)", "open('/dev/stdin')", "sys.stdin"):
        assert run(f"import sys; print({way}.read(), end='')", "a\nb").stdout == "a\nb"
    assert run("import sys; print(next(sys.stdin), input(), sys.stdin.readline())", "a\nb\nc").stdout == "a\n b c\n"
    assert run("exit(3)").status == "error"
    assert run("import threading as t; t.Timer(0.1, lambda: print('late')).start()").stdout == "late\n"


def test_an_error_comes_in_the_interpreters_words():
    done = run("def f(x):\n    return 1 / x\nf(0)")
    assert done.status == "error"
    assert done.stderr.splitlines()[0] == "Traceback (most recent call last):"
    assert '  File "solution.py", line 2, in f' in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "serve" not in done.stderr


def test_a_function_is_judged():
    good = judge_function("def f(a, b=1): return a + b", "f", [((1, 2), 3), Case((1,), 5, {"b": 4})])
    assert good.passed
    assert good.feedback == "The code passes all 2 tests."
    bad = judge_function("def f(a): return a", "f", [((1,), 1), ((2,), 3), ((3,), 3)])
    assert [result.status for result in bad.results] == ["passed", "wrong", "passed"]
    assert bad.feedback == "Test 2 of 3 failed: f(2) returned 2, but 3 was expected."
    method = "class Solution:\n    def twice(self, x): return [x, x]"
    assert judge_function(method, "Solution.twice", [((1,), [1, 1])]).passed
    assert not judge_function("def f(): pass", "f", []).passed  # no tests, no pass


def test_printing_and_reading_do_not_disturb_a_function():
    code = (
        "import sys\nprint('v 0 i2a')\ndef f(x):\n    print('noise' * 10**6)\n    sys.stderr.write('x')\n    return x"
    )
    assert judge_function(code, "f", [((1,), 1)]).passed
    assert "EOFError" in judge_function("def f(x): return input()", "f", [((1,), 1)]).feedback


def test_a_program_is_judged_by_its_output():
    cases = [("1 2\n", "3\n"), ("5 5", "10")]
    assert judge_stdin("print(sum(map(int, input().split())))", cases).passed
    bad = judge_stdin("print(3)", cases)
    assert [result.status for result in bad.results] == ["passed", "wrong"]
    assert bad.feedback == (
        "Test 2 of 2 failed: the program printed a wrong output.\nInput:\n5 5\nExpected output:\n10\nOutput:\n3"
    )
    assert judge_stdin("print(1.50, 'x')", [("", "1.5 x")]).passed
    assert judge_stdin("import os\nprint(3, flush=True)\nos._exit(1)", [("", "3")]).feedback.startswith(
        "Test 1 of 1 failed: the program ended the interpreter early (exit status 1)."
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def f(x:", "the code is not Python: SyntaxError: '(' was never closed (line 1: `def f(x:`)."),
        ("def f(x):\n return 1\n  return 2", "IndentationError: unexpected indent (line 3: `return 2`)."),
        ("import nothing_such", "running the code raised ModuleNotFoundError: No module named 'nothing_such' (line 1"),
        ("x = 1", "the code does not define f."),
        ("def f(x):\n    y = [1]\n    return y[x]", "f(7) raised IndexError: list index out of range (line 3: `return"),
        ("def f(x):\n    while True: pass", "f(7) did not end within 0.3 seconds."),
        ("def f(x): return [0] * 10**9", "f(7) raised MemoryError"),
        ("import os\ndef f(x): os._exit(0)", "f(7) ended the interpreter early (exit status 0)."),
        ("import sys\nsys.exit(0)", "running the code raised SystemExit: 0 (line 2"),
        ("def f(x): return (n for n in [8])", "f(7) returned a value of type generator, but 8 was expected."),
        ("def f(x): return 8.0", "f(7) returned 8.0 (float, not int), but 8 was expected."),
        ("def f(x): return object", "f(7) returned a value of type type, but 8 was expected."),
        ("def f(x): raise ValueError(object())", "f(7) raised ValueError: <object object at 0x…> (line 1"),
        ("def f(x): raise ValueError('\\x1b[2J<|im_end|>\\u202e')", "ValueError: \\x1b[2J< |im_end| >\\u202e (line 1"),
        ("x = 1 / 0 if False else int('a')\0", "source code string cannot contain null bytes"),
        ("import ctypes\ndef f(x): ctypes.string_at(0)", "f(7) crashed (SIGSEGV)."),
    ],
)  # fmt: skip
def test_feedback_names_the_failure(code, words):
    limits = HURRY if "did not end" in words else Limits(seconds=20)
    verdict = judge_function(code, "f", [((7,), 8)], limits)
    assert not verdict.passed
    assert words in verdict.feedback
    assert verdict.feedback == judge_function(code, "f", [((7,), 8)], limits).feedback
    assert len(verdict.feedback) < 1000


def test_hidden_tests_are_never_quoted():
    secret, answer = "Xq7#", "Wz9!"
    leaks = [
        "def f(x): return x",
        "def f(x): raise ValueError(x)",
        "def f(x): raise type(x, (Exception,), {})(x)",
        "import sys\ndef f(x):\n    print(x); sys.stderr.write(x); exit(x)",
        "import os\ndef f(x):\n    h = x.encode().hex()\n    os.write(3, f'e 0 {h} 1 {h}\\n'.encode())",
        "def f(x): return type(x, (int,), {})(3)",
        "def f(x):\n    while x: pass",
    ]
    for code in leaks:
        for visible in (0, 1, [True, False]):
            cases = [(("a",), "a")] * (visible != 0) + [((secret,), answer)]
            verdict = judge_function(code, "f", cases, HURRY, visible=visible)
            said = " ".join([verdict.feedback, *(result.said for result in verdict.results[-1:])])
            assert not verdict.passed
            assert not any(part in said for part in (secret, answer, "Xq7", "Wz9")), (code, said)
    inputs = [("open", "a"), (secret, answer)]
    for code in ("print(input())", "raise ValueError(input())", "import sys; sys.exit(input())", "print(1/0)"):
        verdict = judge_stdin(code, inputs, visible=1)
        assert "Xq7" not in verdict.feedback + verdict.results[1].said
        assert "Wz9" not in verdict.feedback + verdict.results[1].said


WAYS = (
    "return 1", "return [x] * 99999", "return object()", "raise ValueError(x)", "raise KeyError", "exit(ord(x[0]))",
    "os._exit(7)", "os.kill(os.getpid(), 11)", "\n        while True: pass", "return 'a' * 10**9",
    "os.write(3, b'junk\\n' * 99)", "\n        return x[99]", "\n\n        return x[99]", "ctypes.string_at(0)",
    "print(x)", "return eval(')')",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_however_a_hidden_test_fails_the_sentence_is_the_same(way):
    """A program can choose how to fail depending on its input: any difference in the text would reveal the input."""
    code = f"import ctypes, os\ndef f(x):\n    if x == 'open': return x\n    else: {way}"
    tests = [(("open",), "open"), (("secret",), "answer")]
    for cases, visible in ((tests, 1), (tests[1:], 0), ([*tests[:1], Inside("assert f('secret') == 'answer'")], 1)):
        verdict = judge_function(code, "f", cases, HURRY, visible=visible)
        assert not verdict.passed
        assert [result.said for result in verdict.results][-1] == verdict.feedback == HIDDEN
    program = f"import ctypes, os\ndef f(x):\n    {way}\nx = input()\nprint(x if x == 'open' else f(x))"
    verdict = judge_stdin(program, [("open", "open"), ("secret", "answer")], HURRY, visible=1)
    assert (verdict.passed, verdict.feedback, verdict.results[1].said) == (False, HIDDEN, HIDDEN)


def test_code_that_fails_while_it_is_read_tells_nothing_of_the_hidden_tests():
    for code in ("raise SystemExit(7)", "x = (", "import nothing_such", "y = 1", "import os; os._exit(9)"):
        assert judge_function(code, "f", [(("secret",), 1)], HURRY, visible=0).feedback == HIDDEN


def test_visible_is_a_number_flags_or_all():
    cases = [((1,), 1), ((2,), 2)]
    for visible, flags in ((None, [1, 1]), (True, [1, 1]), (False, [0, 0]), (1, [1, 0]), ([0, 1], [0, 1]), (5, [1, 1])):
        verdict = judge_function("def f(x): return x", "f", cases, visible=visible)
        assert verdict.passed and [result.visible for result in verdict.results] == flags
    with pytest.raises(ValueError, match="1 flags for 2 cases"):
        judge_function("def f(x): return x", "f", cases, visible=[True])


def test_text_that_is_no_unicode_does_no_harm():
    bad = judge_function("x = '\ud800'\ndef f(x): return x", "f", [((1,), 1)])
    assert "UnicodeEncodeError" in bad.feedback
    assert judge_function("def f(x): return x + chr(0xd800)", "f", [(("a",), "a\ud800")]).passed
    assert not judge_stdin("import sys; sys.stdout.buffer.write(b'\xff')", [("", "\ud800")]).passed


def test_visible_tests_do_not_meet_the_hidden_inputs():
    # A program that reveals all it can find, on a visible test: its process never had the hidden ones.
    code = "import gc\ndef f(x): raise ValueError([o for o in gc.get_objects() if type(o) is list][-3:], dir())"
    verdict = judge_function(code, "f", [((1,), 1), ((["hidden-input"],), 2)], visible=1)
    assert "hidden" not in verdict.feedback
    assert [result.status for result in verdict.results] == ["error", "not run"]


def test_tests_with_values_that_are_not_plain_are_refused():
    with pytest.raises(UserError, match="case 1 expects a value of type range"):
        judge_function("", "f", [((1,), range(3))])
    with pytest.raises(UserError, match="with a value that is not plain"):
        judge_function("", "f", [((object(),), 1)])


# ---------------------------------------------------------------- nothing gets out


@pytest.mark.parametrize("attack", OUT.values(), ids=OUT)
def test_nothing_gets_out(attack, monkeypatch):
    monkeypatch.setenv("SECRET_CANARY", "1")
    done = run(f"marker = 'candidate-marker'\n{attack}", limits=Limits(seconds=3))
    assert "OUT" not in done.stdout


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_system_calls_are_refused():
    code = "import ctypes, os\nfrom ctypes import *\nlib = CDLL(None, use_errno=True)\n" + "".join(
        f"set_errno(0); print({name!r}, lib.{call} == -1 and get_errno() in (1, 38))\n" for name, call in CALLS.items()
    )
    done = run(code)
    assert done.status == "ok", done.stderr
    assert done.stdout.splitlines() == [f"{name} True" for name in CALLS]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86_64")
def test_the_old_call_gate_is_closed():
    # int 0x80 uses i386 numbers, which are not in the table: the process is killed.
    code = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('b814000000cd80c3'))\n"
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint('OUT', f())"
    )
    done = run(code)
    assert (done.status, done.stdout) == ("error", "")


def test_a_program_leaves_nothing_for_the_next():
    run("open('/tmp/a', 'w').write('x'); open('/box/b', 'w').write('x'); open('/dev/shm/c', 'w').write('x')")
    done = run("import os; print([os.listdir(p) for p in ('/tmp', '/dev/shm')], os.listdir('/box'))")
    assert done.stdout == "[[], []] ['solution.py']\n"
    assert not Path("/box/b").exists()


def test_threads_of_the_trainer_may_all_use_it():
    found: list[str] = []
    threads = [threading.Thread(target=lambda n=n: found.append(run(f"print({n})").stdout)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"{n}\n" for n in range(6)]


# ---------------------------------------------------------------- bounded time


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_everything_ends_in_bounded_time(bomb):
    start = time.monotonic()
    done = run(bomb, limits=HURRY)
    assert time.monotonic() - start < 8
    assert done.seconds < HURRY.seconds + 3
    assert done.status in ("ok", "error", "timeout", "memory")
    assert len(done.stdout) <= HURRY.output and len(done.stderr) <= HURRY.output


def test_what_is_left_running_is_ended_with_the_program():
    done = run(BOMBS["holds the pipe"], limits=Limits(seconds=20))
    assert (done.status, done.stdout) == ("ok", "done\n")
    assert done.seconds < 5


def test_a_flood_is_cut_and_said_to_be(tmp_path):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run("import os\nfor _ in range(300): os.write(1, b'x' * 2**20)", limits=Limits(seconds=20))
    assert (done.status, done.cut, len(done.stdout)) == ("ok", True, 2**20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB
    verdict = judge_stdin("while True: print('x' * 10**6)", [("", "x")], Limits(seconds=0.3))
    assert not verdict.passed
    assert len(verdict.feedback) < 1000


def test_scratch_folders_are_full_before_the_memory_is():
    code = (
        "import os\nfor p in ('/tmp', '/box', '/dev/shm'):\n    n = 0\n    try:\n        for i in range(99):\n"
        "            open(f'{p}/{i}', 'wb').write(b'x' * 2**20); n += 1\n    except OSError as e: print(p, n, e.errno)"
    )
    rows = [line.split() for line in run(code, limits=Limits(disk=8)).stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [("/tmp", "28"), ("/box", "28"), ("/dev/shm", "28")]
    assert all(int(row[1]) < 9 for row in rows)


def test_files_without_content_count_as_memory():
    assert run(BOMBS["empty files"], limits=Limits(seconds=10, memory=64)).status == "memory"
    assert run("for n in range(1000): open(f'/tmp/{n}', 'w').close()", limits=Limits(memory=64)).status == "ok"


def test_a_slow_reader_gets_all_its_input():
    code = "import sys, time\ntime.sleep(0.3)\nprint(len(sys.stdin.read()))"
    assert run(code, "x" * 10**6).stdout == "1000000\n"
    assert run("print(1)", "x" * 10**7).stdout == "1\n"  # the program does not read it


def test_each_call_has_a_clock_of_its_own():
    code = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    cases, limits = [((0.3,), 0.3)] * 4, Limits(seconds=0.8)
    assert judge_function(code, "f", cases, limits).passed  # 1.2 seconds in all
    verdict = judge_function(code, "f", [((0.1,), 0.1), ((9,), 9), ((0.1,), 0.1)], limits)
    assert [result.status for result in verdict.results] == ["passed", "timeout", "not run"]
    # unrequested lines gain no time
    cheat = "import os, time\ndef f(x):\n    while True:\n        os.write(3, b'v 0 i1\\n'); time.sleep(0.05)"
    start = time.monotonic()
    assert not judge_function(cheat, "f", cases[:2], HURRY).passed
    assert time.monotonic() - start < 5


def test_a_killed_trainer_takes_its_programs_with_it():
    code = "from vpdlab.sandbox import *\nprint(describe()['wall'], flush=True)\n"
    code += "run('import os; os.fork()\\nwhile True: pass', limits=Limits(seconds=100))"
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(vpdlab.__file__).parent.parent
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"bubblewrap\n"
    end = time.monotonic() + 10
    while len(found := _below(trainer.pid)) < 3 and time.monotonic() < end:  # bubblewrap, and the two inside
        time.sleep(0.01)
    assert len(found) >= 3
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    while any(Path(f"/proc/{number}").exists() for number in found) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{number}").exists() for number in found)


def _below(number: int) -> list[int]:
    numbers = [number]
    for each in numbers:
        try:
            numbers += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
    return numbers[1:]


# ---------------------------------------------------------------- nothing false passes


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS)
def test_nothing_false_passes(cheat):
    verdict = judge_function(cheat, "f", [((7,), 8)], HURRY)
    assert not verdict.passed
    assert verdict.results[0].status not in ("passed", "not run")
    assert len(verdict.feedback) < 1000
    hidden = judge_function(cheat, "f", [((7,), 8)], HURRY, visible=0)
    assert not hidden.passed


def test_an_argument_changed_by_one_call_is_not_seen_by_the_next():
    shared = [3, 1, 2]
    code = "def f(x):\n    x.sort()\n    return x[0] if len(x) == 3 else x.append(9)"
    assert judge_function(code, "f", [((shared,), 1), ((shared,), 1)]).passed
    assert shared == [3, 1, 2]
    code = "def f(x, y):\n    x.append(1)\n    return y"
    assert judge_function(code, "f", [((shared, shared), [3, 1, 2])]).passed


def test_a_test_that_runs_inside_is_weak():
    code = "def f(x): return x"
    verdict = judge_function(code, "f", [((1,), 1), Inside("for n in range(9): assert f(n) == n")])
    assert verdict.passed and verdict.weak
    assert not judge_function(code, "f", [((1,), 1)]).weak
    bad = judge_function(code, "f", [Inside("assert f(1) == 2, 'why'")])
    assert bad.feedback == "Test 1 of 1 failed: `assert f(1) == 2, 'why'` raised AssertionError: why."
    hidden = judge_function(code, "f", [Inside("assert f(1) == 2, 'why'")], visible=0)
    assert hidden.feedback == "A hidden test failed."
    assert not judge_function("import os\ndef f(x): os._exit(0)", "f", [Inside("f(1)")]).passed


# ---------------------------------------------------------------- the sandbox itself


def test_what_the_wall_holds_is_recorded():
    record = describe()
    assert record["wall"] == "bubblewrap"
    assert record["outer_user"] != 0
    assert {"no network", "files of the host hidden", "system calls filtered", "limits hold"} <= set(record["holds"])
    assert json.loads(json.dumps(record)) == record
    assert backend().name == "bubblewrap"


def test_where_there_is_no_wall_nothing_runs(monkeypatch, tmp_path):
    from vpdlab.sandbox import backends

    monkeypatch.setattr(backends, "_known", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs bubblewrap: apt-get install bubblewrap .*, or name a SandboxFusion"):
        run("print(1)")
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.6.1\n")
    old.chmod(0o755)
    with pytest.raises(UserError, match="bubblewrap 0.6.1 is too old: 0.8.0 or newer is needed"):
        run("print(1)")
    old.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.9.0 && exit\n"
        "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tmp_path.chmod(0o755)
    monkeypatch.setattr(wall, "_leave_root", tuple)
    with pytest.raises(UserError, match="uid map: Permission denied: allow user namespaces .*SandboxFusion"):
        run("print(1)")
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UserError, match="on Linux only"):
        run("print(1)")
    with pytest.raises(UserError, match="unknown sandbox 'docker': choose bubblewrap"):
        run("print(1)", sandbox="docker")


def test_an_interpreter_that_the_walled_program_can_read(monkeypatch):
    from vpdlab.sandbox import limits

    prefix = os.path.realpath(sys.base_prefix)
    monkeypatch.setattr(wall, "_readable", lambda path: path.startswith(prefix))
    found = wall.Bubblewrap.find()
    assert found.interpreter.program.startswith(prefix)
    if found.interpreter.folders:
        words = found.arguments(limits.DEFAULT, 8, 9)
        assert words[words.index(prefix) - 1] == "--ro-bind"
    monkeypatch.setattr(wall, "_readable", lambda path: False)
    with pytest.raises(UserError, match="no Python that user 65533 can read"):
        wall.Bubblewrap.find()


def test_a_wall_with_a_hole_is_refused(monkeypatch):
    from vpdlab.sandbox import backends

    monkeypatch.setattr(backends, "_known", {})
    whole = wall.Bubblewrap.arguments
    monkeypatch.setattr(
        wall.Bubblewrap,
        "arguments",
        lambda *a: [w for w in whole(*a) if w != "--unshare-ipc"] + ["--ro-bind", "/etc", "/etc"],
    )
    with pytest.raises(UserError, match="the sandbox does not hold \\(files of the host hidden\\): .* not run"):
        run("print(1)")


def test_a_failure_of_the_sandbox_is_no_verdict(monkeypatch):
    whole = wall.Bubblewrap.arguments
    monkeypatch.setattr(wall.Bubblewrap, "arguments", lambda *a: [*whole(*a), "--bind", "/not-there", "/x"])
    monkeypatch.setattr("vpdlab.sandbox.judge.WAITS", (0.01, 0.01))
    for judge in (lambda: judge_function("def f(x): return 1", "f", [((1,), 1)]), lambda: run("print(1)")):
        with pytest.raises(SandboxError, match="the sandbox did not start: bwrap: Can't find source path /not-there"):
            judge()
    assert issubclass(SandboxError, RunFailed)


def test_a_passing_failure_is_tried_again(monkeypatch):
    real, calls = subprocess.Popen, []

    def once(*words, **options):
        calls.append(words)
        if len(calls) == 1:
            raise OSError(11, "Resource temporarily unavailable")
        return real(*words, **options)

    monkeypatch.setattr(wall.subprocess, "Popen", once)
    monkeypatch.setattr("vpdlab.sandbox.judge.WAITS", (0.01, 0.01))
    assert run("print(1)").stdout == "1\n"
    assert len(calls) == 2


def test_a_kill_from_outside_for_want_of_memory_is_no_verdict(monkeypatch):
    monkeypatch.setattr("vpdlab.sandbox.judge.WAITS", (0.01, 0.01))
    counts = iter(range(100))
    monkeypatch.setattr(process, "oom_kills", lambda: next(counts))
    code = "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (1, 1))\nwhile True: pass"  # also ends by SIGKILL
    # Killed twice, while a harmless program that takes most of the allowed memory runs: the program is to blame.
    assert run(code).status == "memory"
    monkeypatch.setattr("vpdlab.sandbox.judge.HARMLESS", f"held = {{held}}\n{code}")
    with pytest.raises(SandboxError, match="ran out of memory"):
        run(code)
    monkeypatch.setattr(process, "oom_kills", lambda: 3)
    assert run(code).status == "error"


def test_unsafe_only_by_name_and_stamped():
    done = run("print(2)", sandbox="unsafe")
    assert (done.stdout, done.wall) == ("2\n", "unsafe")
    verdict = judge_function("def f(x): return x", "f", [((1,), 1)], sandbox="unsafe")
    assert verdict.passed and verdict.wall == "unsafe"
    assert describe("unsafe") == {"wall": "unsafe", "holds": []}
    late = run("import os, time\nif not os.fork(): time.sleep(100)\ntime.sleep(100)", limits=HURRY, sandbox="unsafe")
    assert late.status == "timeout"
    assert run("import threading as t; t.Timer(0, print, 'x').start()", sandbox="unsafe").stdout == "x\n"


def test_limits_are_checked():
    for bad in ({"seconds": 0}, {"memory": -1}, {"files": True}, {"output": "1"}, {"seconds": float("nan")}):
        with pytest.raises(UserError, match="must be a number above 0"):
            Limits(**bad)


def test_many_are_judged_in_order_and_a_failure_is_told():
    jobs = [partial(judge_function, f"def f(x): return {n}", "f", [((0,), n % 2)]) for n in range(6)]
    assert [verdict.passed for verdict in judge_many(jobs)] == [True, True, False, False, False, False]

    def broken():
        raise SandboxError("gone")

    with pytest.raises(SandboxError, match="gone"):
        judge_many([*jobs[:2], broken, *jobs])


def test_the_filter_is_well_formed():
    for machine in AUDIT:
        code = filter_bytes(machine)
        assert len(code) % 8 == 0 and len(code) // 8 < 4096
    with pytest.raises(UserError, match="no system-call filter for riscv64"):
        filter_bytes("riscv64")
    columns = [[pair[column] for pair in DENIED.values() if pair[column] is not None] for column in (0, 1)]
    assert all(len(set(numbers)) == len(numbers) for numbers in columns)


# ---------------------------------------------------------------- as an ordinary user

ORDINARY = """
import json, os, sys, time
from vpdlab.sandbox import describe, judge_function, run, Limits
attacks, bombs, cheats = json.load(sys.stdin)
hurry = Limits(seconds=0.5)
assert os.getuid() != 0
assert describe()["outer_user"] == os.getuid()
bad = [name for name, code in attacks.items() if "OUT" in run(code, limits=hurry).stdout]
bad += [name for name, code in bombs.items() if run(code, limits=hurry).seconds > 3]
for name, code in cheats.items():
    start = time.monotonic()
    bad += [name] * (judge_function(code, "f", [((7,), 8)], hurry).passed or time.monotonic() - start > 4)
assert judge_function("def f(x): return x + 1", "f", [((7,), 8)]).passed
from vpdlab.sandbox import process
real = process._Supervisor._read
process._Supervisor._read = lambda self, key: (time.sleep(0.05), real(self, key))[1]  # as a busy trainer would
for name in ("drains the channel", "holds the channel", "drains at once"):
    start = time.monotonic()
    bad += [name] * (judge_function(cheats[name], "f", [((7,), 8)], hurry).passed or time.monotonic() - start > 4)
assert len(os.listdir("/proc/self/fd")) <= 4, os.listdir("/proc/self/fd")
print(json.dumps(bad))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run as an ordinary user already")
def test_the_same_holds_as_an_ordinary_user(request):
    tmp_path = Path(tempfile.mkdtemp(dir="/tmp"))  # other users cannot read the tests' own folder
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))
    tmp_path.chmod(0o755)
    source = Path(vpdlab.__file__).parent
    shutil.copytree(source / "sandbox", tmp_path / "vpdlab" / "sandbox")
    shutil.copy(source / "errors.py", tmp_path / "vpdlab")
    (tmp_path / "vpdlab" / "__init__.py").touch()  # only the sandbox: that user cannot read the environment
    kept = (
        "fork bomb",
        "memory of many",
        "daemon",
        "loop",
        "files",
        "holds the pipe",
        "many mappings",
        "timers",
        "pipes",
    )
    cheats = [*list(CHEATS)[:12], *(name for name in CHEATS if "channel" in name or "drain" in name)]
    asked = json.dumps([OUT, {name: BOMBS[name] for name in kept}, {name: CHEATS[name] for name in cheats}])
    user = next(number for number in range(23456, 30000) if not Path(f"/run/user/{number}").exists())
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--"]
    words += [describe()["interpreter"], "-c", ORDINARY]
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        words, input=asked, capture_output=True, text=True, env=variables, cwd="/", timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


@pytest.mark.slow
def test_a_hundred_timeouts_leave_nothing():
    jobs = [partial(run, "import os\nos.fork()\nwhile True: pass", limits=Limits(seconds=0.05))] * 100
    assert {done.status for done in judge_many(jobs, 4)} == {"timeout"}
    assert traces()[0] == []


def test_a_flood_that_comes_with_the_first_word_is_a_flood_and_no_failure_to_start() -> None:
    """On a busy machine the interpreter's first line and a flood can arrive in one piece."""
    import os
    import subprocess
    import sys

    from vpdlab.sandbox.process import _Supervisor

    receive, send = os.pipe()
    with (
        os.fdopen(receive, "rb") as channel,
        subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        _Supervisor(process, channel, Limits(), calls=1, wall=False) as supervisor,
    ):
        os.close(send)
        supervisor._answers(b"ready\n" + b"\n" * 60_000)
        assert supervisor.ready and supervisor.ended
        process.wait()
    assert supervisor.conclude().end == "flood"
