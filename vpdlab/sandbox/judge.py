"""The judge: whether a program passes its tests, decided on this side of the wall.

Expected values never enter the sandbox. A function gets the inputs and sends back plain values, which are compared
here; a program gets its standard input and is judged by its output. Each candidate runs in a separate process, and
visible and hidden tests in different ones, so that feedback on a visible test cannot leak a hidden input.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox.answers import Answers, call_of, encoded, raised_status
from vpdlab.sandbox.backends import Backend, backend
from vpdlab.sandbox.cases import Case, Inside
from vpdlab.sandbox.inside import LONGEST
from vpdlab.sandbox.limits import DEFAULT, MIB, Limits, Report, SandboxError, Status
from vpdlab.sandbox.outputs import same_output
from vpdlab.sandbox.values import EXACT, Rules
from vpdlab.sandbox.wall import job_bytes
from vpdlab.sandbox.wording import HIDDEN, block, ended, raised

WAITS = (0.5, 3.0)  # seconds before each retry of a job for which the sandbox failed
TWICE = 2  # sandbox failures after which a program is blamed, if a harmless one runs
# The harmless program. After running out of memory, it takes most of the limit: if it runs, the machine had enough.
HARMLESS = "def f(x):\n    held = b'x' * {held}\n    return x"
MOST = 0.75
Cases = Sequence[Case | Inside | tuple[Sequence[Any], Any]]


@dataclass(frozen=True)
class Execution:
    """What a program did.

    Attributes:
        status: "ok" (exit status 0), "error", "timeout", "memory".
        stdout, stderr: what it printed, up to `limits.output` bytes each.
        seconds: wall-clock time, without the interpreter's start.
        cut: whether the output was truncated.
        wall: the backend: "bubblewrap", a server's address, or "unsafe".
    """

    status: str
    stdout: str
    stderr: str
    seconds: float
    cut: bool = False
    wall: str = ""


@dataclass(frozen=True)
class Result:
    """One test. `said` is its feedback sentence, which is the same for every failure of a hidden test."""

    status: Status
    visible: bool = True
    weak: bool = False
    said: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one candidate.

    Attributes:
        passed: whether there are tests and all of them passed.
        results: one per case, in the given order. Judging stops at the first failure: hidden tests run only if all
            visible ones passed.
        feedback: feedback text.
        wall: the backend: "bubblewrap", a server's address, or "unsafe".
    """

    passed: bool
    results: tuple[Result, ...]
    feedback: str
    wall: str

    @property
    def weak(self) -> bool:
        """Whether passing rests on a test that ran beside the candidate, which a candidate could cheat."""
        return any(result.weak for result in self.results)


def run(code: str, stdin: str = "", limits: Limits = DEFAULT, sandbox: str | Backend = "bubblewrap") -> Execution:
    """Run a program and report what it did.

    Args:
        sandbox: "bubblewrap", the address of a SandboxFusion server, or "unsafe" (no wall at all).

    Raises:
        UserError: if no wall is available.
        SandboxError: if the sandbox itself failed.
    """
    wall = backend(sandbox)
    report = _execute(wall, {"mode": "program", "setup": "", "code": code}, _bytes(stdin), limits, 1)
    status = "ok" if report.end == "exit" and report.code == 0 else ended(report, limits)[0]
    if status == "error" and (words := _raised(report)):
        status = raised_status(words)
    texts = (report.stdout.decode("utf-8", "replace"), report.stderr.decode("utf-8", "replace"))
    return Execution(status, *texts, report.seconds, report.cut, wall.name)


def judge_stdin(
    code: str,
    cases: Sequence[tuple[str, str]],
    limits: Limits = DEFAULT,
    *,
    visible: int | Sequence[bool] | None = None,
    setup: str = "",
    sandbox: str | Backend = "bubblewrap",
) -> Verdict:
    """Judge a program by its output, with a fresh process for each case.

    Lines are compared without leading and trailing white space, and empty lines at the end are ignored; lines whose
    words are all equal numbers are equal too (LiveCodeBench's rule, for numbers in ASCII digits). The output limit is
    `limits.output` plus four times the length of the expected output, so that a correct output fits.

    Args:
        cases: (standard input, expected standard output).
        visible: how many cases (the first ones), or which, feedback may quote; default: all.
        setup: code that runs before the program, in the same namespace.

    Raises: as `run`.
    """
    shown = _visible(visible, len(cases))
    wall = backend(sandbox)
    results = [Result("not run", seen) for seen in shown]
    for index in sorted(range(len(cases)), key=lambda i: not shown[i]):
        given, expected = cases[index]
        room = replace(limits, output=limits.output + 4 * len(_bytes(expected)))
        report = _execute(wall, {"mode": "program", "setup": setup, "code": code}, _bytes(given), room, 1)
        status, text = _printed(report, code, expected, room)
        text = _sentence(status, f"the program {text}", shown[index], index, len(cases))
        if text and shown[index]:
            parts = [text, block("Input", given), block("Expected output", expected)]
            text = "\n".join(parts + [block("Output", _text(report))] * (status == "wrong"))
        results[index] = Result(status, shown[index], said=text)
        if status != "passed":
            break
    return _verdict(results, wall.name)


def judge_function(
    code: str, entry_point: str, cases: Cases, limits: Limits = DEFAULT, *, visible: int | Sequence[bool] | None = None,
    rules: Rules = EXACT, setup: str = "", sandbox: str | Backend = "bubblewrap",
) -> Verdict:  # fmt: skip
    """Judge a function by what it returns.

    Args:
        entry_point: name of the function, or "Class.method" for a method of a fresh object.
        cases: (args, expected), `Case` for more options, or `Inside` for a test that runs beside the candidate (weak).
        visible: how many cases (the first ones), or which, feedback may quote; default: all.
        rules: when a returned value counts as the expected one, for cases given as (args, expected).
        setup: code that runs before the candidate's, in the same namespace.

    Raises:
        UserError: as `run`, and for a case whose values are not plain.
    """
    tests = [test if isinstance(test, Case | Inside) else Case(tuple(test[0]), test[1], rules=rules) for test in cases]
    shown = _visible(visible, len(tests))
    wall = backend(sandbox)
    expected = [encoded(test, index) for index, test in enumerate(tests)]
    results = [Result("not run", seen, isinstance(test, Inside)) for seen, test in zip(shown, tests, strict=True)]
    longest = max(LONGEST, *(2 * len(value) for value in expected), 0)
    job = {"setup": setup, "code": code, "entry": entry_point, "longest": longest}
    for seen, kind in ((True, Case), (True, Inside), (False, Case), (False, Inside)):
        chosen = [i for i, test in enumerate(tests) if shown[i] == seen and isinstance(test, kind)]
        judged = _judge_calls(wall, job, [tests[i] for i in chosen], [expected[i] for i in chosen], limits)
        for index, (status, text) in zip(chosen, judged, strict=True):
            sentence = _sentence(status, text, seen, index, len(tests))
            results[index] = replace(results[index], status=status, said=sentence)
        if any(results[index].status != "passed" for index in chosen):
            break
    return _verdict(results, wall.name)


def _judge_calls(
    wall: Backend, job: Mapping[str, Any], tests: Sequence[Case | Inside], expected: Sequence[str], limits: Limits
) -> list[tuple[Status, str]]:
    """Run tests of one kind in one process; (status, feedback text) of each."""
    if not tests:
        return []
    mode = "inside" if isinstance(tests[0], Inside) else "function"
    room = sum(2 * len(value) for value in expected)
    report = _execute(
        wall, {**job, "mode": mode, "calls": list(map(call_of, tests)), "room": room}, b"", limits, len(tests)
    )
    answers = Answers(report, job["code"], job["entry"], limits)
    pairs = zip(tests, expected, strict=True)
    return [answers.judge(index, test, value) for index, (test, value) in enumerate(pairs)]


def _sentence(status: Status, text: str, visible: bool, index: int, count: int) -> str:
    if status in ("passed", "not run"):
        return ""
    return f"Test {index + 1} of {count} failed: {text}." if visible else HIDDEN


def _printed(report: Report, code: str, expected: str, limits: Limits) -> tuple[Status, str]:
    """(status, feedback text) of one program, without its input."""
    if report.end == "exit" and report.code and (words := _raised(report)):
        return raised_status(words), f"raised {raised(words, code)}"
    if report.end != "exit" or report.code:
        return ended(report, limits)
    if report.cut:
        return "wrong", f"printed more than {limits.output} bytes"
    return ("passed", "") if same_output(expected, report.stdout) else ("wrong", "printed a wrong output")


def _verdict(results: Sequence[Result], wall: str) -> Verdict:
    passed = bool(results) and all(result.status == "passed" for result in results)
    if passed:
        feedback = f"The code passes all {len(results)} tests." if len(results) > 1 else "The code passes its test."
    else:
        failed = [result for result in results if result.status not in ("passed", "not run")]
        feedback = failed[0].said if failed else "There is no test."
    return Verdict(passed, tuple(results), feedback, wall)


def _visible(visible: int | Sequence[bool] | None, count: int) -> list[bool]:
    if visible is None or isinstance(visible, bool):
        return [visible is not False] * count
    if isinstance(visible, int):
        return [index < visible for index in range(count)]
    if len(visible) != count:
        raise ValueError(f"{len(visible)} flags for {count} cases")
    return [bool(flag) for flag in visible]


def _execute(wall: Backend, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int) -> Report:
    """Run a job; retry if the sandbox failed, since a shortage of memory or processes may be temporary.

    A failure that the program may have caused is attributed to it if it occurs twice and a harmless program runs. Any
    other failure is the sandbox's, whatever the program.

    Raises:
        UserError: for a job whose values are not plain.
        SandboxError: if the sandbox fails each time.
    """
    full = {**job, "limits": limits.inside(calls)}
    try:
        job_bytes(full)
    except ValueError as error:  # raised by marshal
        raise UserError(f"a test calls {job.get('entry')} with a value that is not plain ({error})") from error
    blamed, failure = 0, SandboxError("")
    for wait in (*WAITS, 0.0):
        try:
            return wall.execute(full, stdin, limits, calls)
        except SandboxError as error:
            failure, blamed = error, blamed + bool(error.blame)
        except OSError as error:  # no descriptors, memory or disk left on this side
            failure = SandboxError(f"the sandbox failed: {error}")
        if failure.blame and blamed >= TWICE and _works(wall, limits.memory if failure.blame == "memory" else 0):
            return Report(end=failure.blame)
        time.sleep(wait)
    raise failure


def _works(wall: Backend, memory: int) -> bool:
    """Whether a harmless program runs, with a memory limit of `memory` MiB (0: the default, and it takes none)."""
    code = HARMLESS.format(held=int(MOST * memory * MIB))
    job = {"mode": "function", "setup": "", "code": code, "entry": "f", "calls": [((1,), {}, "", False)]}
    limits = Limits(seconds=5.0, memory=memory or DEFAULT.memory)
    try:
        report = wall.execute({**job, "longest": LONGEST, "limits": limits.inside(1)}, b"", limits)
    except SandboxError:
        return False
    return report.lines == [["v", "0", "i1"], ["f"]]


def _raised(report: Report) -> list[str] | None:
    """The first well-formed line that reports an exception, if any."""
    return next((words for words in report.lines if words[0] == "e" and len(words) == 5), None)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(report: Report) -> str:
    return report.stdout.decode("utf-8", "replace")
