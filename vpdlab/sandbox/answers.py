"""Result parsing and feedback text: what an untrusted candidate sent back for a list of calls.

The text quotes inputs, results and the candidate's own messages, so it is for visible tests only (`judge` drops it for
hidden ones).
"""

from __future__ import annotations

from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox.cases import Case, Inside
from vpdlab.sandbox.inside import NotPlain, encode
from vpdlab.sandbox.limits import Limits, Report, Status
from vpdlab.sandbox.showing import kind_of, show_line, show_value
from vpdlab.sandbox.values import Unreadable, matches
from vpdlab.sandbox.wording import ended, from_hex, quote, raised


class Answers:
    """The answers to one job, in the order of its calls; parsing stops at the first invalid line.

    Args:
        report: the report of the process that made the calls.
        code, entry: the candidate's code and the function that was requested.
    """

    def __init__(self, report: Report, code: str, entry: str, limits: Limits) -> None:
        self.report, self.lines, self.code, self.entry = report, report.lines, code, entry
        self.limits = limits
        self.over = False  # whether a call got no answer, so that later ones did not run

    def judge(self, index: int, test: Case | Inside, expected: str) -> tuple[Status, str]:
        """(status, feedback text) of call `index`; `expected` is the encoded value of a case."""
        if self.over:
            return "not run", ""
        words = self.lines[index] if index < len(self.lines) else []
        answer, size = (words[0], len(words)) if len(words) > 1 and words[1] == str(index) else ("", 0)
        if answer == "d" and isinstance(test, Inside):
            return "passed", ""
        if answer == "v" and isinstance(test, Case):
            return self._returned(words[-1] if len(words) == 3 else "", test, expected)
        if answer == "e" and size == 5:
            return raised_status(words), f"{self._called(test)} raised {raised(words, self.code)}"
        if answer == "x" and size == 3:
            return "wrong", f"{self._called(test)} returned {quote(from_hex(words[2]))}{self._wanted(test)}"
        self.over = True
        return self._stopped(test)

    def _returned(self, line: str, test: Case, expected: str) -> tuple[Status, str]:
        try:
            if matches(expected, line, test.rules):
                return "passed", ""
            shown = show_line(line)
        except Unreadable as why:
            return "wrong", f"{self._called(test)} returned {why}"
        got, wanted = kind_of(line), kind_of(expected)
        kind = f" ({got}, not {wanted})" if got != wanted else ""
        return "wrong", f"{self._called(test)} returned {quote(shown)}{kind}{self._wanted(test)}"

    def _stopped(self, test: Case | Inside) -> tuple[Status, str]:
        """(status, feedback text) for a call without an answer."""
        last = self.lines[-1] if self.lines else [""]
        if last == ["m"]:
            return "error", f"the code does not define {self.entry}"
        if last[0] == "e" and len(last) == 5 and last[1] == "-1":
            what = raised(last, self.code)
            unread = from_hex(last[2]) in ("SyntaxError", "IndentationError", "TabError")
            return raised_status(
                last
            ), f"the code is not Python: {what}" if unread else f"running the code raised {what}"
        if self.report.end == "exit" and last == ["f"]:
            return "error", "what the code sent back cannot be read"
        status, text = ended(self.report, self.limits)
        return status, f"{self._called(test)} {text}"

    def _called(self, test: Case | Inside) -> str:
        if isinstance(test, Inside):
            return f"`{quote(test.code.strip())}`"
        args = [show_value(value, 120) for value in test.args]
        args += [f"{name}={show_value(value, 120)}" for name, value in test.keywords.items()]
        call = f"{self.entry}({', '.join(args)})"
        return quote(f"{test.wrap}({call})" if test.wrap else call)

    def _wanted(self, test: Case | Inside) -> str:
        if isinstance(test, Inside):
            return ""
        return f", but {quote(show_value(test.expected))} was expected"


def raised_status(words: list[str]) -> Status:
    """The status for a line `e I TYPE LINE MESSAGE`."""
    return "memory" if from_hex(words[2]) == "MemoryError" else "error"


def call_of(test: Case | Inside) -> Any:
    """A test as `inside` takes it, without the expected value."""
    if isinstance(test, Inside):
        return test.code
    return test.args, dict(test.keywords), test.wrap, test.rules.form == "=="


def encoded(test: Case | Inside, index: int) -> str:
    """The expected value of a case in the encoding of the channel. Raises UserError for a value that is not plain."""
    if isinstance(test, Inside):
        return ""
    try:
        return encode(test.expected, longest=1 << 40)
    except NotPlain as why:
        raise UserError(f"case {index + 1} expects {why}, which no sandboxed program can return") from why
