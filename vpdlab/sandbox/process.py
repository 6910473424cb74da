"""One program, from its start to its last trace: read it within limits, end all of it in bounded time.

Processes are started with `subprocess` and nothing of ours runs between fork and exec, so that any thread of a trainer
may call this. A call leaves no process, no zombie and no descriptor behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal

from vpdlab.sandbox.limits import MIB, Limits, Report, SandboxError, words_of

STARTUP = 30.0  # seconds until the interpreter inside must have said that it runs
CHANNEL = 16 * MIB  # bytes of answers, all calls together
SPARE = 8  # lines beyond one a call: ours, and a program's own that do no harm
PIECE = 65536
INODE = 1024  # bytes of kernel memory for a file, without its content
LOOK = 0.05  # seconds between two looks at the memory of a program with several processes


def supervise(
    start: Callable[[int], subprocess.Popen[bytes]], limits: Limits, calls: int = 1, wall: bool = True
) -> Report:
    """Run what `start` starts, given the descriptor that the answers go to.

    Args:
        start: starts the process, its two outputs piped and unbuffered, in a session of its own.
        calls: how many answers each win the program a fresh clock.
        wall: whether the first line of the channel is bubblewrap's, with the id of the process inside.

    Raises:
        SandboxError: where it does not start, or ends before the interpreter inside says that it runs.
    """
    receiving, sending = os.pipe()
    with open(receiving, "rb", buffering=0) as receive, open(sending, "wb", buffering=0) as send:
        try:
            process = start(send.fileno())
        except OSError as error:  # no processes or no memory left
            raise SandboxError(f"the sandbox did not start: {error}") from error
        send.close()
        with _Supervisor(process, receive, limits, calls, wall) as supervisor:
            supervisor.watch()
        return supervisor.conclude()


class _Supervisor:
    """One started program and its pipes; leaving its `with` block ends the program."""

    def __init__(
        self, process: subprocess.Popen[bytes], receive: IO[bytes], limits: Limits, calls: int, wall: bool
    ) -> None:
        self.process, self.limits, self.calls = process, limits, calls
        self.report = Report()
        self.started, self.ready, self.finished = time.monotonic(), 0.0, 0.0
        self.deadline = self.started + STARTUP
        self.ended = False
        self.killed = oom_kills()
        self.inner, self._told = 0, not wall  # process id of the program inside the wall; whether it was said
        self._channel, self._taken = b"", 0
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self._select = selectors.DefaultSelector()
        self._exit: int | None = None
        assert process.stdout and process.stderr
        self._outputs = [process.stdout, process.stderr]
        for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr"), (receive, "channel")):
            os.set_blocking(stream.fileno(), False)
            self._select.register(stream, selectors.EVENT_READ, name)

    def __enter__(self) -> _Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            end_tree(self.process, self.inner)
            self._drain()
        finally:
            self._select.close()
            for stream in self._outputs:
                stream.close()
            if self._exit is not None:
                os.close(self._exit)

    def watch(self) -> None:
        """Until the program ends or passes a limit."""
        prefer_to_kill(self.process.pid)
        self._exit = os.pidfd_open(self.process.pid)
        self._select.register(self._exit, selectors.EVENT_READ, "exit")
        looked = self.started
        while not self.ended:
            now = time.monotonic()
            if now >= self.deadline:
                return self._end("timeout")
            if self.inner and now - looked >= LOOK:
                looked = now
                if memory_of(self.inner) > self.limits.memory * MIB:
                    return self._end("memory")
            for key, _ in self._select.select(min(self.deadline - now, LOOK)):
                if key.data == "exit":
                    self._end("exit")
                else:
                    self._read(key)
        return None

    def _end(self, how: Literal["exit", "timeout", "memory", "flood"]) -> None:
        if not self.ended:
            self.report.end, self.ended, self.finished = how, True, time.monotonic()

    def _read(self, key: selectors.SelectorKey) -> None:
        try:
            piece = os.read(key.fd, PIECE)
        except BlockingIOError:
            return
        if not piece:
            self._select.unregister(key.fileobj)
        elif key.data == "channel":
            self._answers(piece)
        else:
            kept = self._kept[key.data]
            room = self.limits.output - len(kept)
            kept += piece[:room]
            self.report.cut = self.report.cut or len(piece) > room

    def _answers(self, piece: bytes) -> None:
        self._taken += len(piece)
        *lines, self._channel = (self._channel + piece).split(b"\n")
        # The first words are the wall's and the interpreter's own, even where a flood comes in the same piece.
        for line in lines:
            if len(self.report.lines) > self.calls + SPARE:
                break
            now = time.monotonic()
            if not self._told:
                self.inner, self._told = _inner(line, self.process.pid), True
                prefer_to_kill(self.inner)
            elif line.startswith(b"{"):  # bubblewrap's last line; the exit status comes from the process itself
                continue
            elif not self.ready:  # the first word of the interpreter inside, before it has read the candidate's code
                self.ready = now
                self.deadline = now + self.limits.seconds
            else:
                self.report.lines.append(words_of(line.decode("ascii", "replace")))
                if len(self.report.lines) < self.calls:  # a line too many, written by the program, wins no time
                    self.deadline = now + self.limits.seconds
        if self._taken > CHANNEL or len(self.report.lines) > self.calls + SPARE:
            self._end("flood")

    def _drain(self) -> None:
        """Read what a dead program left in its pipes; should anybody still hold one, nobody waits."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            found = [key for key, _ in self._select.select(0) if key.data != "exit"]
            if not found:
                break
            for key in found:
                self._read(key)

    def conclude(self) -> Report:
        """The report. Raises SandboxError where the interpreter inside never ran."""
        report = self.report
        report.stdout, report.stderr = bytes(self._kept["stdout"]), bytes(self._kept["stderr"])
        report.code = self.process.returncode
        if not self.ready:
            said = report.stderr.decode("utf-8", "replace").strip().splitlines()
            late = f"nothing ran within {STARTUP:.0f} seconds: " if report.end == "timeout" else ""
            raise SandboxError(
                f"the sandbox did not start: {late}{said[-1][:300] if said else f'exit status {report.code}'}"
            )
        report.seconds = self.finished - self.ready
        if report.end == "exit" and report.code in (137, -9) and oom_kills() > self.killed:
            raise SandboxError("the machine ran out of memory, and the kernel killed a sandboxed program")
        return report


@contextlib.contextmanager
def sealed(data: bytes) -> Iterator[int]:
    """A descriptor to read `data` from, which nobody can write to.

    Not a pipe: its end is reached even where another thread of the trainer has just forked, and with it copied the
    pipe's other side.
    """
    number = os.memfd_create("sandbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(number, rest) :]
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
        os.lseek(number, 0, os.SEEK_SET)
        yield number
    finally:
        os.close(number)


def end_tree(process: subprocess.Popen[bytes], inner: int) -> None:
    """Kill the process with everything below it, and wait for it.

    Raises:
        SandboxError: where it cannot be killed.
    """
    if process.poll() is not None:
        return
    if inner and parent_of(inner) == process.pid:
        # The inner one first: it is the first of its namespace, so all others go with it, and bubblewrap is there to
        # reap it. An orphan would be left to the first process of our own container, which may be the trainer.
        _kill(os.kill, inner)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.returncode is None:
        _kill(os.killpg, process.pid)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"process {process.pid} of the sandbox cannot be killed") from error


def _kill(how: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        how(number, signal.SIGKILL)


def _inner(line: bytes, outer: int) -> int:
    """The process id in bubblewrap's first line; 0 where it is none of its children."""
    try:
        number = int(json.loads(line)["child-pid"])
    except (ValueError, KeyError, TypeError):
        return 0
    return number if parent_of(number) == outer else 0


def parent_of(number: int) -> int:
    """Process id of the parent; 0 for a process that is gone."""
    try:
        # The name in parentheses may hold anything, so the fields are counted from its end.
        return int(Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def prefer_to_kill(number: int) -> None:
    """Should the machine run out of memory, this process goes first, and never the trainer."""
    with contextlib.suppress(OSError):  # gone already, or a kernel that does not let us
        Path(f"/proc/{number}/oom_score_adj").write_text("1000")


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not say."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return int(text.rpartition("\noom_kill ")[2].split()[0]) if "\noom_kill " in text else 0


def memory_of(number: int) -> int:
    """Bytes of memory of the program whose first process this is, as far as no limit of the kernel holds them.

    That is its scratch folders (a file without content still takes an inode), and, where there is more than one
    process, all processes together: each one's own limit counts address space, and only its own.
    """
    numbers, found = [number], _scratch(number)
    for each in numbers:
        with contextlib.suppress(OSError):  # gone in the meantime
            for task in Path(f"/proc/{each}/task").iterdir():
                numbers += [int(word) for word in (task / "children").read_text().split()]
    for each in numbers if len(numbers) > 1 else []:
        with contextlib.suppress(OSError):  # shares of shared pages: a fork that copied nothing yet costs nothing
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def _scratch(number: int) -> int:
    found = 0
    for folder in ("tmp", "box", "dev/shm"):
        with contextlib.suppress(OSError):
            stat = os.statvfs(f"/proc/{number}/root/{folder}")
            found += (stat.f_blocks - stat.f_bfree) * stat.f_frsize + (stat.f_files - stat.f_ffree) * INODE
    return found
