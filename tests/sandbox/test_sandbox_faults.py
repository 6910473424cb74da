"""Real and apparent sandbox failures: who is blamed, the message, and how long it takes.

A candidate's doings are its own failure in bounded time. A `SandboxError` is what no candidate can cause; it is tried
again, then ends the run with one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sandbox_remote import honest, server

import vpdlab
from vpdlab.errors import RunFailed, UserError
from vpdlab.sandbox import (
    Limits,
    SandboxError,
    backends,
    describe,
    judge_function,
    judge_stdin,
    memory,
    probe,
    process,
    run,
    wall,
)
from vpdlab.sandbox.answers import Answers, encoded
from vpdlab.sandbox.cases import PYTHON, Case, Inside
from vpdlab.sandbox.limits import Report, words_of

try:
    describe()
except UserError as refusal:
    pytest.skip(f"missing: {refusal}", allow_module_level=True)

HURRY = Limits(seconds=0.3)
GOOD = "def f(x): return x + 1"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr("vpdlab.sandbox.judge.WAITS", (0.01, 0.01))
    monkeypatch.setattr(probe, "WAITS", (0.01, 0.01))


def slow_start(monkeypatch, seconds: float) -> None:
    """The interpreter inside is slow to report that it runs."""
    whole = wall.driver()
    monkeypatch.setattr(wall, "driver", lambda: f"import time\ntime.sleep({seconds})\n{whole}")


# ---------------------------------------------------------------- a slow start


def test_memory_is_measured_only_once_the_program_runs(monkeypatch):
    """Before that its root folder is the host's, where a full disk looks like the program's memory."""
    slow_start(monkeypatch, 0.4)
    asked: list[float] = []
    monkeypatch.setattr(process, "memory_of", lambda *_: asked.append(time.monotonic()) or 0)
    start = time.monotonic()
    assert run("import time; time.sleep(0.2); print(1)").stdout == "1\n"
    assert asked and min(asked) - start > 0.3
    monkeypatch.setattr(process, "memory_of", lambda *_: 1 << 60)
    done = run("import time; time.sleep(5)")
    assert (done.status, done.seconds < 4) == ("memory", True)


def test_before_it_runs_a_program_is_not_the_hosts_folders(monkeypatch):
    """The host's /tmp taken for the program's own: a start slower than 50 ms used to end with exit status 137."""
    slow_start(monkeypatch, 0.4)
    real, seen = memory._scratch, []

    def look(number: int) -> int:
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            seen.append(os.stat(f"/proc/{number}/root/tmp").st_dev)
        return real(number)

    monkeypatch.setattr(memory, "_scratch", look)
    assert run("import time; time.sleep(0.2)").status == "ok"
    assert seen and os.stat("/tmp").st_dev not in seen


def test_a_start_that_takes_too_long_says_that_we_ended_it(monkeypatch):
    slow_start(monkeypatch, 60)
    monkeypatch.setattr(process, "STARTUP", 0.2)
    with pytest.raises(SandboxError, match="did not start: killed, since nothing ran within 0"):
        run("print(1)")


def test_an_end_that_is_none_of_ours_says_so(monkeypatch):
    whole = wall.driver()
    for end, words in (
        ("import os; os._exit(3)", "it ended with exit status 3 \\(by itself\\)"),
        (
            "import os, resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 1))\nwhile True: pass",
            "signal 9, which vpdlab",
        ),
        ("raise ImportError('no such thing')", "ImportError: no such thing"),
    ):
        monkeypatch.setattr(wall, "driver", lambda end=end: f"{end}\n{whole}")
        with pytest.raises(SandboxError, match=words) as caught:
            run("print(1)")
        assert "\n" not in str(caught.value)
        assert caught.value.blame == ""


def test_the_trial_of_the_wall_is_tried_again(monkeypatch):
    real, calls = wall.Bubblewrap.execute, []

    def busy(self, *args):
        calls.append(args)
        if len(calls) == 1:
            raise SandboxError("the sandbox did not start: busy")
        if len(calls) == 2:
            return Report(end="timeout")
        return real(self, *args)

    monkeypatch.setattr(wall.Bubblewrap, "execute", busy)
    monkeypatch.setattr(backends, "_known", {})
    assert run("print(1)").stdout == "1\n"
    assert len(calls) == 4
    for end, words in (
        ("timeout", "killed after 10 seconds"),
        ("memory", "killed for taking more than"),
    ):
        monkeypatch.setattr(wall.Bubblewrap, "execute", lambda *_, end=end: Report(end=end))
        monkeypatch.setattr(backends, "_known", {})
        with pytest.raises(UserError, match=f"the sandbox cannot be tested: {words}"):
            run("print(1)")


# ---------------------------------------------------------------- what a candidate can do to its sandbox

SPOILERS = {
    "drains": "fd = os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK)\nos.read(fd, 10**6)",
    "holds": "fd = os.open('/proc/self/fd/3', os.O_RDONLY)\nthreading.Thread(target=os.read, args=(fd, 1)).start()",
    "reads its end": "os.set_blocking(3, False)\ntry: os.read(3, 9)\nexcept OSError: pass",
    "closes its end": "os.close(3)",
    "replaces its end": "os.dup2(0, 3)",
    "cuts its end": "ctypes.CDLL(None).shutdown(3, 2)",
    "is signalled by it": "fcntl.fcntl(3, fcntl.F_SETOWN, os.getpid()); fcntl.fcntl(3, fcntl.F_SETFL, os.O_ASYNC)",
    "writes half a line": "os.write(3, b'v 0 ')",
    "writes the wall's line": 'os.write(3, b\'{"child-pid": 1}\\n{"exit-code": 0}\\n\')',
    "writes no words": "os.write(3, bytes(range(256)) * 99)",
    "many empty lines": "os.write(3, b'\\n' * 9)",
    "leaves children": "os.fork() or time.sleep(1000)",
    "stops": "os.kill(os.getpid(), signal.SIGSTOP)",
    "changes its name": "ctypes.CDLL(None).prctl(15, b'\\xff\\n) Z 1')",
    "cannot be looked at": "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)",
    "drips": "while True: os.write(3, b'x')",
    "drains its output": "threading.Thread(target=os.read, args=(os.open('/proc/self/fd/1', os.O_RDONLY), 9)).start()",
}
IMPORTS = "import ctypes, fcntl, os, signal, threading, time\n"


@pytest.mark.parametrize("sandbox", ["bubblewrap", "unsafe"])
@pytest.mark.parametrize("spoiler", SPOILERS.values(), ids=SPOILERS)
def test_whatever_a_candidate_does_is_its_own_failure_in_bounded_time(spoiler, sandbox):
    for after in ("time.sleep(1000)", "pass"):
        tried = "\n    ".join(["try:", *spoiler.split("\n")])
        code = f"{IMPORTS}{tried}\nexcept OSError: pass\n{after}\ndef f(x): return 1"
        start = time.monotonic()
        verdict = judge_function(code, "f", [((7,), 8)], HURRY, sandbox=sandbox)
        done = run(code, limits=HURRY, sandbox=sandbox)
        assert not verdict.passed
        assert done.status in ("ok", "error", "timeout")
        assert time.monotonic() - start < 15


WORDS = [
    "v",
    "e",
    "x",
    "d",
    "m",
    "f",
    "r",
    "0",
    "1",
    "-1",
    "i1",
    "l2",
    "S1",
    "s6",
    "ff",
    "-",
    "",
    " ",
    "٣",
    "99999999",
    "{",
    "\x00",
    "é",
]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join) | st.text(max_size=9), max_size=4),
    st.binary(max_size=40),
)
def test_no_words_of_a_candidate_make_the_judge_fail(lines, code):
    """Whatever is sent on the channel, there is a verdict, and only a right value passes."""
    report = Report(lines=[words_of(line.encode().decode("ascii", "replace")) for line in lines], code=3)
    tests = [Case((1,), 8), Case((1,), 8, rules=PYTHON), Case((1,), [1], wrap="list"), Inside("assert f(1)")]
    answers = Answers(report, code.decode("latin-1"), "f", HURRY)
    for place, test in enumerate(tests):
        status, said = answers.judge(place, test, encoded(test, place))
        assert status in ("passed", "wrong", "error", "memory", "not run")
        assert len(said) < 1500
        assert status != "passed" or isinstance(test, Inside)


def test_a_program_that_cannot_be_looked_at_is_measured_all_the_same():
    code = IMPORTS + "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nfor _ in range(8):\n    if not os.fork():\n"
    code += "        x = bytearray(2 * 10**8); time.sleep(100)\ntime.sleep(100)"
    assert run(code, limits=Limits(seconds=10)).status == "memory"


def test_one_that_takes_long_to_die_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(process, "DEAD", 0.0)
    kept: list[str] = []
    monkeypatch.setattr(process, "_kill", lambda how, number: kept.append(how.__name__))
    assert run("import time; time.sleep(1.5)", limits=HURRY).status == "timeout"
    assert kept and process._undead
    time.sleep(1.5)
    monkeypatch.undo()
    assert run("print(1)").stdout == "1\n"
    assert process._undead == []


# ---------------------------------------------------------------- who is blamed


class Flaky:
    """A backend that fails for programs that contain a word; others run."""

    name = "flaky"

    def __init__(self, word: str, blame: str, times: int = 99) -> None:
        self.word, self.blame, self.times, self.asked = word, blame, times, 0

    def execute(self, job, stdin, limits, calls=1):
        self.asked += 1
        if self.word in job["code"] and self.times:
            self.times -= 1
            raise SandboxError("it failed", self.blame)  # type: ignore[arg-type]
        return backends.backend().execute(job, stdin, limits, calls)


def test_a_failure_that_follows_the_program_is_its_own():
    bad = judge_function(f"{GOOD}  # spoils", "f", [((7,), 8)], sandbox=Flaky("spoils", "lost"))
    assert (bad.passed, bad.results[0].status) == (False, "error")
    assert "ended in a way that left no result" in bad.feedback
    assert judge_function(f"{GOOD}  # spoils", "f", [((7,), 8)], sandbox=Flaky("spoils", "lost", 1)).passed
    with pytest.raises(SandboxError, match="it failed"):  # the harmless program fails too
        judge_function(GOOD, "f", [((7,), 8)], sandbox=Flaky("def", "lost"))
    flaky = Flaky("spoils", "")
    with pytest.raises(SandboxError, match="it failed"):  # it never ran, so it is not to blame
        judge_function(f"{GOOD}  # spoils", "f", [((7,), 8)], sandbox=flaky)
    assert flaky.asked == 3


def test_what_runs_out_on_this_side_is_a_failure_of_the_sandbox(monkeypatch):
    real, times = process.socket.socketpair, [1]

    def none_left(*args):
        times[0] -= 1
        if times[0] >= 0:
            raise OSError(24, "Too many open files")
        return real(*args)

    monkeypatch.setattr(process.socket, "socketpair", none_left)
    assert run("print(1)").stdout == "1\n"
    times[0] = 99
    with pytest.raises(SandboxError, match="the sandbox failed: .*Too many open files"):
        run("print(1)")
    monkeypatch.setattr(backends, "_known", {})
    with pytest.raises(UserError, match="Too many open files"):
        describe()


def test_a_kill_at_the_limit_of_processor_time_is_told():
    code = "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (1, 1))\ndef f(x):\n    while True: pass"
    verdict = judge_function(code, "f", [((7,), 8)])
    assert "SIGKILL" in verdict.feedback and "processor time" in verdict.feedback


def test_a_program_that_spoils_the_server_is_no_failure_of_the_server():
    def spoiled(asked):
        if "spoils" in asked["code"]:
            return {"status": "SandboxError", "message": "'utf-8' codec\ncannot decode"}
        return honest(asked)

    with server(spoiled) as (url, asked):
        verdict = judge_stdin("spoils = 1", [("", "1")], HURRY, sandbox=url)
        assert (verdict.passed, verdict.results[0].status) == (False, "error")
        assert len(asked) == 3
        drains = "import os\nfd = os.open('/proc/self/fd/1', os.O_RDONLY | os.O_NONBLOCK)\nos.read(fd, 99)\nos._exit(0)"
        verdict = judge_function(f"{drains}\ndef f(x): return 8", "f", [((7,), 8)], HURRY, sandbox=url)
        assert (verdict.passed, verdict.results[0].status) == (False, "error")
    broken = server(lambda _: {"status": "SandboxError", "message": "a\nb"})
    with broken as (url, _), pytest.raises(SandboxError, match="the sandbox server failed: a b$"):
        run("print(1)", sandbox=url)
    with server(b"[" * 100_000) as (url, _), pytest.raises(SandboxError, match=url):
        run("print(1)", sandbox=url)


TRAINING = """
import sys
from pathlib import Path
from vpdlab.sandbox import wall
whole = wall.Bubblewrap.arguments
def broken(*a):
    return [*whole(*a), *(("--bind", "/not-there", "/x") if Path(sys.argv[1]).exists() else ())]
wall.Bubblewrap.arguments = broken
import vpdlab.run
import vpdlab.tasks.code as code
code.Code.verify = lambda self, rollout: code.judge_function("x = 1", "f", [((1,), 1)], sandbox=self.sandbox)
real = vpdlab.run.Run.steps
def steps(self):
    Path(sys.argv[1]).touch()  # from now on nothing starts
    yield from real(self)
vpdlab.run.Run.steps = steps
from vpdlab.cli import main
raise SystemExit(main(["train", "--task", "code", "--data", sys.argv[3], "--task_args", "source=mbpp",
                       "--out", sys.argv[2], "--steps", "2",
                       "--prompts", "1", "--group", "2", "--eval_every", "-1", "--max_new_tokens", "8"]))
"""


def test_a_failure_of_the_sandbox_ends_the_run_with_one_line(tmp_path):
    row = {"task_id": 1, "text": "Add.", "code": "def f(x): return x", "test_list": ["assert f(1) == 1"]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))
    words = [sys.executable, "-c", TRAINING, *(str(tmp_path / name) for name in ("broken", "run", "data.jsonl"))]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, cwd=Path(vpdlab.__file__).parent.parent
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1, done.stderr
    assert last.startswith("vpdlab: ") and "the sandbox did not start" in last
    assert "Traceback" not in done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "the sandbox did not start" in status["reason"]
    assert issubclass(SandboxError, RunFailed)


# ---------------------------------------------------------------- bounded

MAPPINGS = """
import ctypes, os, time
lib = ctypes.CDLL(None)
for _ in range(24):
    if not os.fork():
        for n in range(60000): lib.mmap(None, ctypes.c_size_t(4096), 1 + 2 * (n % 2), 0x22, -1, ctypes.c_long(0))
        time.sleep(1000)
time.sleep(1000)
"""


def test_many_processes_with_many_mappings_end_soon_after_their_limit():
    start, mine = time.monotonic(), time.process_time()
    assert run(MAPPINGS, limits=Limits(seconds=2)).status in ("timeout", "memory")
    assert time.monotonic() - start < 2 + 10
    assert time.process_time() - mine < 0.7


def test_counting_memory_takes_a_bounded_share_of_the_time(monkeypatch):
    looks: list[tuple[float, float]] = []

    def slow(*_):
        begin = time.monotonic()
        time.sleep(0.1)
        looks.append((begin, time.monotonic()))
        return 0

    monkeypatch.setattr(process, "memory_of", slow)
    assert run("import time; time.sleep(2)").status == "ok"
    assert 1 <= len(looks) <= 3


def test_counting_stops_when_the_time_is_over(monkeypatch):
    walked: list[int] = []
    monkeypatch.setattr(memory, "_resident", lambda number: 1 << 40)
    monkeypatch.setattr(memory, "_scratch", lambda number: 0)
    monkeypatch.setattr(memory.time, "monotonic", lambda: walked.append(1) or 5.0)
    here = os.getpid()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert (memory.memory_of(here, 1, 4.0), len(walked)) == (0, 1)
        assert memory.memory_of(here, 1, 6.0) > 0
    finally:
        child.communicate(b"\n")


def test_a_drip_keeps_the_trainers_core_free():
    for number in (1, 3):
        mine = time.process_time()
        assert run(f"import os\nwhile True: os.write({number}, b'x')", limits=Limits(seconds=1)).status in (
            "timeout",
            "error",
        )
        assert time.process_time() - mine < 0.5


def test_a_long_line_in_small_pieces_costs_its_length():
    code = "import os, time\nos.write(3, b'v 0 s')\nfor n in range(14):\n    os.write(3, b'61' * 500_000)\n"
    code += "end = time.time() + 1\nwhile time.time() < end: os.write(3, b'61')"
    mine = time.process_time()
    run(code, limits=Limits(seconds=3))
    assert time.process_time() - mine < 0.6


def test_two_programs_share_no_lock_and_no_watch():
    code = (
        "import ctypes, fcntl\nlib = ctypes.CDLL(None, use_errno=True)\nfile = open('/usr/bin/env', 'rb')\nbad = []\n"
        "for name, call in {\n"
        " 'flock': lambda: fcntl.flock(file, fcntl.LOCK_SH), 'lockf': lambda: fcntl.lockf(file, fcntl.LOCK_SH),\n"
        " 'lease': lambda: fcntl.fcntl(file, 1024, 0), 'dnotify': lambda: fcntl.fcntl(file, 1026, 1)}.items():\n"
        "    try: call(); bad.append(name)\n    except PermissionError: pass\n"
        "bad += [n for n in range(2000) if lib.inotify_init1(0) >= 0][:1]\n"
        "timer = ctypes.byref(ctypes.c_void_p())\n"
        "bad += [n for n in range(2000) if not lib.timer_create(1, None, timer)][64:65]\nprint(bad)"
    )
    assert run(code).stdout == "[]\n"


def test_what_is_used_from_day_to_day_still_works():
    code = (
        "import sqlite3, tempfile, multiprocessing, threading, subprocess, io, sys\n"
        "print(sqlite3.connect(':memory:').execute('select 1').fetchone())\n"
        "with tempfile.NamedTemporaryFile() as f: print(f.write(b'x'))\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))\n"
        "t = threading.Thread(target=print, args=(3,)); t.start(); t.join()\n"
        "print(subprocess.run(['echo', '4'], capture_output=True).stdout)\n"
        "print(open('/dev/stdin').read())"
    )
    done = run(code, "5", limits=Limits(seconds=20))
    assert done.stdout == "(1,)\n1\n[1, 2]\n3\nb'4\\n'\n5\n", done.stderr
