"""What a program may use, and what is left of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vpdlab.errors import RunFailed, UserError

MIB = 2**20
Status = Literal["passed", "wrong", "error", "timeout", "memory", "not run"]  # of one test
End = Literal["exit", "timeout", "memory", "flood", "lost"]  # of one program: `Report.end`


class SandboxError(RunFailed):
    """The sandbox itself failed (it did not start, or the machine ran out of something): never the program's fault.

    Args:
        message: one line: what failed, and who ended what.
        blame: where the program was running already, so that it may have caused this itself: the `Report.end` that it
            gets if it fails like this again while another program runs well (`judge` finds out).
    """

    def __init__(self, message: str, blame: Literal["", "memory", "lost"] = "") -> None:
        super().__init__(message)
        self.blame: Literal["", "memory", "lost"] = blame


@dataclass(frozen=True)
class Limits:
    """What one program may use. Raises UserError for a limit that is not a number above 0.

    Attributes:
        seconds: wall-clock time of a program, or of one call where a function is judged. The start of the
            interpreter does not count.
        memory: MiB of address space of each process, and of memory of all of them and their files together.
        output: bytes kept of each of standard output and standard error; the rest is read and dropped.
        disk: MiB of each of the folders that can be written (/box, /tmp, /dev/shm); they are memory too.
        processes: processes and threads at one time.
        files: descriptors open at one time.
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
        """The resource limits that the interpreter sets on itself before the candidate's code runs."""
        return {
            "RLIMIT_AS": int(self.memory * MIB),
            "RLIMIT_CPU": int(self.seconds * max(calls, 1)) + 2,  # for what the wall clock misses; it comes first
            "RLIMIT_FSIZE": int(self.disk * MIB),
            "RLIMIT_NOFILE": int(self.files),
            "RLIMIT_NPROC": int(self.processes),
            "RLIMIT_CORE": 0,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_SIGPENDING": 64,  # timers and queued signals, which one user's programs share
        }


DEFAULT = Limits()


@dataclass
class Report:
    """What is left of one program.

    Attributes:
        lines: what came over the channel, as words (`inside` lists them).
        stdout, stderr: what was printed, up to the limit.
        cut: whether more was printed than was kept.
        end: "exit" (by itself), "timeout", "memory" (all processes together passed the limit), "flood" (of answers) or
            "lost" (it took its own sandbox with it, twice, while another program ran well).
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
    """A line of the channel in its parts; the words of a value stay together."""
    return line.split(" ", 2 if line.startswith("v") else 4)
