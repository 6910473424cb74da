"""Supervise one program: read its output within limits, and kill all of its processes in bounded time.

Processes are started with `subprocess` and none of our code runs between fork and exec, so any thread of a trainer may
call this. A call leaves no process, zombie or descriptor behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vpdlab.sandbox.limits import MIB, End, Limits, Report, SandboxError, words_of
from vpdlab.sandbox.memory import memory_of, oom_kills, prefer_to_kill

STARTUP = 30.0  # seconds until the interpreter inside must report that it runs
CHANNEL = 16 * MIB  # bytes of answers of all calls together, beyond what correct ones take
SPARE = 8  # lines beyond one per call: ours, and harmless ones of a program
PIECE = 65536
LOOK = 0.05  # seconds between memory checks of a program with several processes
SHARE = 9  # a slow check is followed by a pause this many times as long
PATIENT = 200  # reads after which the supervisor pauses for small pieces, so that a drip does not occupy a core
SMALL, PAUSE = 4096, 0.002  # bytes; seconds
GRACE = 1.0  # seconds for bubblewrap to end after the program inside
DEAD = 10.0  # seconds to wait for a killed program
_undead: list[subprocess.Popen[bytes]] = []  # killed, but not gone in that time: reaped later


def supervise(
    start: Callable[[int], subprocess.Popen[bytes]], limits: Limits, calls: int = 1, wall: bool = True, room: int = 0
) -> Report:
    """Start a program with `start` and supervise it to its end.

    The answers come over a socket, not a pipe: a program could reopen a pipe for reading through /proc/self/fd, and
    take or hold back data that the supervisor waits for. A socket cannot be reopened.

    Args:
        start: starts the process, given the descriptor for its answers, in a new session, with both outputs piped and
            unbuffered.
        calls: number of answers that restart the program's clock.
        wall: whether the first line of the channel is bubblewrap's, with the id of the process inside.
        room: bytes that the correct answers take.

    Raises:
        SandboxError: if it does not start, or ends before the interpreter inside reports that it runs.
    """
    _undead[:] = [process for process in _undead if process.poll() is None]
    receive, send = socket.socketpair()
    with receive, send:
        try:
            process = start(send.fileno())
        except OSError as error:  # out of processes or memory
            raise SandboxError(f"the sandbox did not start: {error}") from error
        send.close()
        receive.shutdown(socket.SHUT_WR)  # a program that reads from the channel gets end of file
        with _Supervisor(process, receive, limits, calls, wall, room) as supervisor:
            supervisor.watch()
        return supervisor.conclude()


class _Supervisor:
    """One started program and its pipes; leaving its `with` block ends the program."""

    def __init__(
        self, process: subprocess.Popen[bytes], receive: socket.socket, limits: Limits, calls: int, wall: bool,
        room: int = 0,
    ) -> None:  # fmt: skip
        self.process, self.limits, self.calls, self.most = process, limits, calls, CHANNEL + room
        self.report = Report()
        self.started, self.ready, self.finished = time.monotonic(), 0.0, 0.0
        self.deadline = self.started + STARTUP
        self.ended = False
        self.killed = oom_kills()
        self.inner, self._inner_known = 0, not wall  # process id inside the wall; whether it has been reported
        self._rest: list[bytes] = []  # pieces of an incomplete line
        self._taken = 0
        self._look = 0.0  # time of the next memory check
        self._reads = 0
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
            killed = kill_inside(self.process, self.inner)
            if killed:
                self._drain()  # bubblewrap's last line needs space in the channel, or it would block
            end_tree(self.process, GRACE if killed else 0.0)
            self._drain()
        finally:
            self._select.close()
            for stream in self._outputs:
                stream.close()
            if self._exit is not None:
                os.close(self._exit)

    def watch(self) -> None:
        """Read until the program ends or exceeds a limit."""
        prefer_to_kill(self.process.pid)
        self._exit = os.pidfd_open(self.process.pid)
        self._select.register(self._exit, selectors.EVENT_READ, "exit")
        while not self.ended:
            now = time.monotonic()
            if now >= self.deadline:
                return self._end("timeout")
            if self.ready and self.inner and now >= self._look:
                if memory_of(self.inner, self.limits.memory * MIB, self.deadline) > self.limits.memory * MIB:
                    return self._end("memory")
                self._look = now + max(LOOK, SHARE * (time.monotonic() - now))
            self._wait(max(0.0, min(self.deadline - now, LOOK)))
        return None

    def _wait(self, seconds: float) -> None:
        """Wait for output or the program's end, and read what there is."""
        taken = 0
        for key, _ in self._select.select(seconds):
            if key.data == "exit":
                self._end("exit")
            else:
                taken += self._read(key)
                self._reads += 1
        if self._reads > PATIENT and 0 < taken < SMALL and not self.ended:
            time.sleep(PAUSE)

    def _end(self, how: End) -> None:
        if not self.ended:
            self.report.end, self.ended, self.finished = how, True, time.monotonic()

    def _read(self, key: selectors.SelectorKey) -> int:
        """Read what is available; returns the number of bytes."""
        try:
            piece = os.read(key.fd, PIECE)
        except BlockingIOError:
            return 0
        except ConnectionError:  # the program closed its end
            piece = b""
        if not piece:
            self._select.unregister(key.fileobj)
        elif key.data == "channel":
            self._answers(piece)
        else:
            kept = self._kept[key.data]
            room = self.limits.output - len(kept)
            kept += piece[:room]
            self.report.cut = self.report.cut or len(piece) > room
        return len(piece)

    def _answers(self, piece: bytes) -> None:
        self._taken += len(piece)
        *lines, rest = piece.split(b"\n")  # of the new piece only: linear cost, however small the pieces
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        self._rest.append(rest)
        # The first lines are the wall's and the interpreter's, even if a flood follows in the same piece.
        for line in lines:
            if len(self.report.lines) > self.calls + SPARE:
                break
            now = time.monotonic()
            if not self._inner_known:
                self.inner, self._inner_known = _inner(line, self.process.pid), True
                prefer_to_kill(self.inner)
            elif line.startswith(b"{"):  # bubblewrap's last line; the exit status comes from the process itself
                continue
            elif not self.ready:  # the interpreter's first line, before it has read the candidate's code
                self.ready = now
                self.deadline = now + self.limits.seconds
            else:
                self.report.lines.append(words_of(line.decode("ascii", "replace")))
                if len(self.report.lines) < self.calls:  # an extra line, written by the program, gains no time
                    self.deadline = now + self.limits.seconds
        if self._taken > self.most or len(self.report.lines) > self.calls + SPARE:
            self._end("flood")

    def _drain(self) -> None:
        """Read what a dead program left in its pipes, without waiting for processes that may still hold them."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            ready = [key for key, _ in self._select.select(0) if key.data != "exit"]
            if not ready:
                break
            for key in ready:
                self._read(key)

    def conclude(self) -> Report:
        """The report. Raises SandboxError if the interpreter inside never ran."""
        report = self.report
        report.stdout, report.stderr = bytes(self._kept["stdout"]), bytes(self._kept["stderr"])
        code = self.process.returncode
        report.code = -signal.SIGKILL if code is None else code
        starved = report.code in (137, -9) and oom_kills() > self.killed
        if not self.ready:
            raise SandboxError(f"the sandbox did not start: {self._why(starved)}")
        report.seconds = max(0.0, self.finished - self.ready)
        if report.end == "exit" and starved:
            raise SandboxError("the machine ran out of memory, and the kernel killed a sandboxed program", "memory")
        return report

    def _why(self, starved: bool) -> str:
        """Why the interpreter did not start, and who ended it."""
        errors = self.report.stderr.decode("utf-8", "replace").strip().splitlines()
        suffix = f": {errors[-1][:300]}" if errors else ""
        if self.report.end == "timeout":
            return f"killed, since nothing ran within {STARTUP:.0f} seconds{suffix}"
        if errors:
            return errors[-1][:300]
        if starved:
            return "the machine ran out of memory, and the kernel killed it"
        number = -self.report.code if self.report.code < 0 else self.report.code - 128
        killed = f"signal {number}, which vpdlab did not send" if number > 0 else "by itself"
        return f"it ended with exit status {self.report.code} ({killed})"


@contextlib.contextmanager
def sealed(data: bytes) -> Iterator[int]:
    """A read-only descriptor with `data`.

    Not a pipe: if another thread of the trainer has just forked, its copy of the pipe's write end would delay the end
    of file.
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


def kill_inside(process: subprocess.Popen[bytes], inner: int) -> bool:
    """Kill the program inside the wall, if it runs, and with it all processes of its namespace.

    It is killed before bubblewrap, which then reaps it: an orphan would be left to the first process of our own
    container, which may be the trainer.
    """
    alive = process.poll() is None and inner > 0 and parent_of(inner) == process.pid
    if alive:
        _kill(os.kill, inner)
    return alive


def end_tree(process: subprocess.Popen[bytes], grace: float) -> None:
    """Kill the process and its session, and wait for it for about `DEAD` seconds at most; one that takes longer is
    reaped later. It gets `grace` seconds to end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    if process.returncode is None:
        _kill(os.killpg, process.pid)
    try:
        process.wait(DEAD)
    except subprocess.TimeoutExpired:
        _undead.append(process)


def _kill(how: Callable[[int, int], None], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        how(number, signal.SIGKILL)


def _inner(line: bytes, outer: int) -> int:
    """The process id in bubblewrap's first line; 0 if it is not one of its children."""
    try:
        number = int(json.loads(line)["child-pid"])
    except (ValueError, KeyError, TypeError):
        return 0
    return number if parent_of(number) == outer else 0


def parent_of(number: int) -> int:
    """Process id of the parent; 0 for a process that is gone."""
    try:
        # The name in parentheses may contain anything, so the fields are counted from its end.
        return int(Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0
