"""The limits of a program, and the report of its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vpdlab.errors import RunFailed, UserError

MIB = 2**20
Status = Literal["passed", "wrong", "error", "timeout", "memory", "not run"]  # of one test
End = Literal["exit", "timeout", "memory", "flood", "lost"]  # of one program: `Report.end`


class SandboxError(RunFailed):
    """The sandbox itself failed (it did not start, or the machine ran out of a resource): never the program's fault.

    Args:
        message: one line: what failed, and who ended which process.
        blame: if the program was already running, so that it may have caused the failure: the `Report.end` that it
            gets if it fails like this again while a harmless program runs (`judge` tests this).
    """

    def __init__(self, message: str, blame: Literal["", "memory", "lost"] = "") -> None:
        super().__init__(message)
        self.blame: Literal["", "memory", "lost"] = blame


@dataclass(frozen=True)
class Limits:
    """Resource limits of one program. Raises UserError for a limit that is not a number above 0.

    Attributes:
        seconds: wall-clock time of a program, or of each call of a judged function, without the interpreter's start.
        memory: MiB of address space of each process, and of memory of all processes and their files together.
        output: bytes kept of each of standard output and standard error; the rest is read and discarded.
        disk: MiB of each writable folder (/box, /tmp, /dev/shm); they count as memory too.
        processes: concurrent processes and threads.
        files: open descriptors.
    """

    seconds: float = 5.0
    memory: int = 512
    output: int = MIB
    disk: int = 16
    processes: int = 32
    files: int = 64

    def __post_init__(self) -> None:
        for name in ("seconds", "memory", "output", "disk", "processes", "files"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**40:
                raise UserError(f"sandbox limit {name} is {value!r}, but must be a number above 0")

    def inside(self, calls: int) -> dict[str, int]:
        """The resource limits that the interpreter sets for itself before it runs the candidate's code."""
        return {
            "RLIMIT_AS": int(self.memory * MIB),
            "RLIMIT_CPU": int(self.seconds * max(calls, 1)) + 2,  # a backstop for the wall clock, which comes first
            "RLIMIT_FSIZE": int(self.disk * MIB),
            "RLIMIT_NOFILE": int(self.files),
            "RLIMIT_NPROC": int(self.processes),
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_SIGPENDING": 64,  # timers and queued signals, which all programs of a user share
        }


DEFAULT = Limits()


@dataclass
class Report:
    """The result of running one program.

    Attributes:
        lines: the lines of the channel, split into words (`inside` lists them).
        stdout, stderr: the output, up to the limit.
        cut: whether the output was truncated.
        end: "exit" (by itself), "timeout", "memory" (all processes together exceeded the limit), "flood" (too many
            answers) or "lost" (it broke its sandbox twice, while a harmless program ran).
        code: exit status; 128 + N, or -N, for signal N.
        seconds: wall-clock time from the interpreter's readiness to the end.
    """

    lines: list[list[str]] = field(default_factory=list)
    stdout: bytes = b""
    stderr: bytes = b""
    cut: bool = False
    end: End = "exit"
    code: int = 0
    seconds: float = 0.0


def words_of(line: str) -> list[str]:
    """A line of the channel, split; each value's words stay together."""
    return line.split(" ", 2 if line.startswith("v") else 4)
