"""The feedback text of a verdict, from the interpreter's own messages where these may be revealed.

A model reads the feedback, run after run, so it is short and the same for the same program (no addresses, paths or
times). What a program wrote itself (a message, an output, a value) is quoted as data: truncated, with control
characters escaped and the special tokens of chat templates broken up.

All failures of a hidden test give the same sentence. A program can choose how it fails (the error, the line, the exit
status, too late or too large), and could reveal its input piece by piece.
"""

from __future__ import annotations

import re
import signal

from vpdlab.sandbox.limits import Limits, Report, Status

QUOTED = 240  # characters of a message or of a line of code
BLOCK = 600  # characters of an input or an output
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
HIDDEN = "A hidden test failed."
NEWLINE = re.compile(r"\r\n|\r|\n")  # where Python ends a line


def quote(text: str, room: int = QUOTED) -> str:
    """Untrusted text, made safe for a message."""
    cut = text if len(text) <= room else text[: room - 1] + "…"
    seen = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in cut)
    return ADDRESS.sub("0x…", seen).replace("<|", "< |").replace("|>", "| >")


def block(title: str, text: str) -> str:
    """A titled quotation of one or more lines."""
    return f"{title}:\n{quote(text.rstrip(), BLOCK) or '(nothing)'}"


def raised(words: list[str], code: str) -> str:
    """An exception as text, from a line `e I TYPE LINE MESSAGE` of the channel: type, message, line of the code."""
    kind, number, message = from_hex(words[2]), words[3], from_hex(words[4])
    lines = NEWLINE.split(code)
    line = int(number) if re.fullmatch(r"[0-9]{1,6}", number) else 0
    where = ""
    if 0 < line <= len(lines):
        where = f" (line {line}: `{quote(lines[line - 1].strip(), 120)}`)"
    return quote(f"{kind}: {message}" if message else kind) + where


def ended(report: Report, limits: Limits) -> tuple[Status, str]:
    """(status, feedback text) for a program that did not run to its end."""
    if report.end == "timeout":
        return "timeout", f"did not end within {limits.seconds:g} seconds"
    if report.end == "memory":
        return "memory", f"took more than {limits.memory} MiB of memory"
    if report.end == "flood":
        return "error", "sent back too much"
    if report.end == "lost":
        return "error", "ended in a way that left no result"
    number = -report.code if report.code < 0 else report.code - 128
    if number == signal.SIGKILL:  # our own kills have other values of `end`
        return "error", "was killed (SIGKILL), most likely at its limit of processor time"
    if number > 0:
        try:
            return "error", f"crashed ({signal.Signals(number).name})"
        except ValueError:
            return "error", "crashed"
    return "error", f"ended the interpreter early (exit status {report.code})"


def from_hex(word: str) -> str:
    """The inverse of `inside.to_hex`; "" for an invalid word."""
    try:
        return bytes.fromhex(word).decode("utf-8", "replace")
    except ValueError:
        return ""
