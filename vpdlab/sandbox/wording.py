"""The words of a verdict: the interpreter's own, where they may be told.

Feedback is read by a model, run after run: it is short, and the same for the same program (no addresses, no paths, no
times). What a program wrote itself (a message, an output, a value) is quoted as data: cut, control characters escaped,
and the marks that chat templates are made of broken up.

Of a hidden test there is one sentence for all failures. How a program fails (with which error, on which line, with
which exit status, too late or too large) can be chosen by the program, and so tell its input one piece at a time.
"""

from __future__ import annotations

import re
import signal

from vpdlab.sandbox.limits import Limits, Report, Status

QUOTED = 240  # characters of a message or of a line of code
BLOCK = 600  # characters of an input or an output
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
HIDDEN = "A hidden test failed."
NEWLINE = re.compile(r"\r\n|\r|\n")  # where Python ends a line, and nowhere else


def quote(text: str, room: int = QUOTED) -> str:
    """Foreign text as a message can hold it."""
    cut = text if len(text) <= room else text[: room - 1] + "…"
    seen = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in cut)
    return ADDRESS.sub("0x…", seen).replace("<|", "< |").replace("|>", "| >")


def block(title: str, text: str) -> str:
    """A titled quotation of one or more lines."""
    return f"{title}:\n{quote(text.rstrip(), BLOCK) or '(nothing)'}"


def raised(words: list[str], code: str) -> str:
    """What was raised, from a line `e I TYPE LINE MESSAGE` of the channel: type, message, line of the code."""
    kind, number, message = from_hex(words[2]), words[3], from_hex(words[4])
    lines = NEWLINE.split(code)
    place = int(number) if re.fullmatch(r"[0-9]{1,6}", number) else 0
    where = ""
    if 0 < place <= len(lines):
        where = f" (line {place}: `{quote(lines[place - 1].strip(), 120)}`)"
    return quote(f"{kind}: {message}" if message else kind) + where


def ended(report: Report, limits: Limits) -> tuple[Status, str]:
    """(status, words) for a program that did not get to its end."""
    if report.end == "timeout":
        return "timeout", f"did not end within {limits.seconds:g} seconds"
    if report.end == "memory":
        return "memory", f"took more than {limits.memory} MiB of memory"
    if report.end == "flood":
        return "error", "sent back too much"
    if report.end == "lost":
        return "error", "ended in a way that left no result"
    number = -report.code if report.code < 0 else report.code - 128
    if number == signal.SIGKILL:  # our own kills are ends of other names
        return "error", "was killed (SIGKILL), most likely at its limit of processor time"
    if number > 0:
        try:
            return "error", f"crashed ({signal.Signals(number).name})"
        except ValueError:
            return "error", "crashed"
    return "error", f"ended the interpreter early (exit status {report.code})"


def from_hex(word: str) -> str:
    """The text of a word of `inside.to_hex`; empty for a word that is none."""
    try:
        return bytes.fromhex(word).decode("utf-8", "replace")
    except ValueError:
        return ""
