"""The judge: whether a program does what its tests ask, decided on this side of the wall.

Expected values never enter the sandbox. A function gets the inputs and sends back plain values, which are compared
here; a program gets its standard input and is judged by what it printed. Each candidate gets a process of its own, and
visible and hidden tests get different ones, so that what is told of a visible test cannot carry a hidden input.
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

WAITS = (0.5, 3.0)  # seconds before each new try of a job that the sandbox itself failed
TWICE = 2  # failures for which a program is blamed, where another one runs well
# That other one. Where memory ran out, it takes most of what a program may take: then the machine had it.
HARMLESS = "def f(x):\n    held = b'x' * {held}\n    return x"
MOST = 0.75
Cases = Sequence[Case | Inside | tuple[Sequence[Any], Any]]


@dataclass(frozen=True)
class Execution:
    """What a program did.

    Attributes:
        status: "ok" (exit status 0), "error", "timeout", "memory".
        stdout, stderr: what it printed, up to `limits.output` bytes each.
        seconds: wall-clock time; the start of the interpreter does not count.
        cut: whether more was printed than is kept.
        wall: what it ran behind: "bubblewrap", a server's address, or "unsafe".
    """

    status: str
    stdout: str
    stderr: str
    seconds: float
    cut: bool = False
    wall: str = ""


@dataclass(frozen=True)
class Result:
    """One test. `said` is its sentence for feedback: the same one for every failure of a hidden test."""

    status: Status
    visible: bool = True
    weak: bool = False
    said: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the tests say of one candidate.

    Attributes:
        passed: whether every test passed (and there is one).
        results: one for each case, in the order given. The first failure ends the judging: hidden tests run only
            where all visible ones passed.
        feedback: what to tell about it, in words.
        wall: what it ran behind: "bubblewrap", a server's address, or "unsafe".
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
    """Run a program and say what it did.

    Args:
        sandbox: "bubblewrap", the address of a SandboxFusion server, or "unsafe" (no wall at all).

    Raises:
        UserError: where there is no wall to be had.
        SandboxError: where the sandbox itself failed.
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
    """Judge a program by what it prints. A fresh process for each case.

    Lines are compared without white space at their ends and without empty lines at the end of the output; a line
    counts as equal where all its words are equal numbers, too (LiveCodeBench's rule, for numbers of ASCII digits). On
    top of `limits.output`, four times the length of the expected output is kept, so that a right one fits.

    Args:
        cases: (standard input, expected standard output).
        visible: how many cases (the first ones), or which, may be quoted in feedback; all by default.
        setup: code that runs before the program's, in the same namespace.

    Raises: as `run`.
    """
    shown = _visible(visible, len(cases))
    wall = backend(sandbox)
    results = [Result("not run", seen) for seen in shown]
    for index in sorted(range(len(cases)), key=lambda i: not shown[i]):
        given, expected = cases[index]
        room = replace(limits, output=limits.output + 4 * len(_bytes(expected)))
        report = _execute(wall, {"mode": "program", "setup": setup, "code": code}, _bytes(given), room, 1)
        status, said = _printed(report, code, expected, room)
        said = _sentence(status, f"the program {said}", shown[index], index, len(cases))
        if said and shown[index]:
            parts = [said, block("Input", given), block("Expected output", expected)]
            said = "\n".join(parts + [block("Output", _text(report))] * (status == "wrong"))
        results[index] = Result(status, shown[index], said=said)
        if status != "passed":
            break
    return _verdict(results, wall.name)


def judge_function(
    code: str,
    entry_point: str,
    cases: Cases,
    limits: Limits = DEFAULT,
    *,
    visible: int | Sequence[bool] | None = None,
    rules: Rules = EXACT,
    setup: str = "",
    sandbox: str | Backend = "bubblewrap",
) -> Verdict:
    """Judge a function by what it returns.

    Args:
        entry_point: name of the function, or "Class.method" for a method of a fresh object.
        cases: (args, expected), or `Case` for more, or `Inside` for a test that runs beside the candidate (weak).
        visible: how many cases (the first ones), or which, may be quoted in feedback; all by default.
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
        if not chosen:
            continue
        job |= {"mode": "function" if kind is Case else "inside", "calls": [call_of(tests[i]) for i in chosen]}
        job["room"] = sum(2 * len(expected[i]) for i in chosen)
        report = _execute(wall, job, b"", limits, len(chosen))
        answers = Answers(report, code, entry_point, limits)
        for place, index in enumerate(chosen):
            status, said = answers.judge(place, tests[index], expected[index])
            results[index] = replace(
                results[index], status=status, said=_sentence(status, said, seen, index, len(tests))
            )
        if any(results[index].status != "passed" for index in chosen):
            break
    return _verdict(results, wall.name)


def _sentence(status: Status, said: str, visible: bool, index: int, count: int) -> str:
    if status in ("passed", "not run"):
        return ""
    return f"Test {index + 1} of {count} failed: {said}." if visible else HIDDEN


def _printed(report: Report, code: str, expected: str, limits: Limits) -> tuple[Status, str]:
    """(status, words) for one program: what became of it, without its input."""
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
    """Run a job; again where the sandbox failed, since a moment without memory or processes passes.

    A failure that the program may have caused itself is its own where it comes twice and a harmless program runs well.
    What is left is a failure of the sandbox, whatever the program was.

    Raises:
        UserError: for a job whose values are not plain.
        SandboxError: where the sandbox fails each time.
    """
    full = {**job, "limits": limits.inside(calls)}
    try:
        job_bytes(full)
    except ValueError as error:  # marshal's word for a value that is not plain
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
    """Whether a harmless program runs there, which may take so many MiB of memory (0: it takes none)."""
    code = HARMLESS.format(held=int(MOST * memory * MIB))
    job = {"mode": "function", "setup": "", "code": code, "entry": "f", "calls": [((1,), {}, "", False)]}
    limits = Limits(seconds=5.0, memory=memory or DEFAULT.memory)
    try:
        report = wall.execute({**job, "longest": LONGEST, "limits": limits.inside(1)}, b"", limits)
    except SandboxError:
        return False
    return report.lines == [["v", "0", "i1"], ["f"]]


def _raised(report: Report) -> list[str] | None:
    """The line of what a program raised, if there is one of the right form."""
    return next((words for words in report.lines if words[0] == "e" and len(words) == 5), None)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(report: Report) -> str:
    return report.stdout.decode("utf-8", "replace")
