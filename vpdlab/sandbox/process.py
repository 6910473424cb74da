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
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vpdlab.sandbox.limits import MIB, End, Limits, Report, SandboxError, words_of
from vpdlab.sandbox.memory import memory_of, oom_kills, prefer_to_kill

STARTUP = 30.0  # seconds until the interpreter inside must have said that it runs
CHANNEL = 16 * MIB  # bytes of answers, all calls together, on top of what the right ones take
SPARE = 8  # lines beyond one a call: ours, and a program's own that do no harm
PIECE = 65536
LOOK = 0.05  # seconds between two looks at the memory of a program with several processes
SHARE = 9  # a look that took long is followed by a pause this many times as long
PATIENT = 200  # reads after which small pieces are waited for, so that a drip does not keep the trainer's core busy
SMALL, PAUSE = 4096, 0.002  # bytes; seconds
GRACE = 1.0  # seconds for bubblewrap to end after the program inside
DEAD = 10.0  # seconds until a killed program must be gone
_undead: list[subprocess.Popen[bytes]] = []  # killed, and not gone in that time: reaped later


def supervise(
    start: Callable[[int], subprocess.Popen[bytes]], limits: Limits, calls: int = 1, wall: bool = True, room: int = 0
) -> Report:
    """Run what `start` starts, given the descriptor that the answers go to.

    The answers come over a socket, not a pipe: a program could open a pipe of its own user again through
    /proc/self/fd, for reading, and take away or hold back what the supervisor waits for. A socket cannot be opened so.

    Args:
        start: starts the process, its two outputs piped and unbuffered, in a session of its own.
        calls: how many answers each win the program a fresh clock.
        wall: whether the first line of the channel is bubblewrap's, with the id of the process inside.
        room: bytes that the right answers take.

    Raises:
        SandboxError: where it does not start, or ends before the interpreter inside says that it runs.
    """
    _undead[:] = [process for process in _undead if process.poll() is None]
    receive, send = socket.socketpair()
    with receive, send:
        try:
            process = start(send.fileno())
        except OSError as error:  # no processes or no memory left
            raise SandboxError(f"the sandbox did not start: {error}") from error
        send.close()
        receive.shutdown(socket.SHUT_WR)  # a program that reads from the channel finds its end
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
        self.inner, self._told = 0, not wall  # process id of the program inside the wall; whether it was said
        self._rest: list[bytes] = []  # pieces of a line whose end has not come yet
        self._taken = 0
        self._look = 0.0  # when to look at the memory again
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
                self._drain()  # bubblewrap's last line needs room in the channel, else it would wait for us
            end_tree(self.process, GRACE if killed else 0.0)
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
        """For something to read, or the program's end."""
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
        """Take what has come; how many bytes."""
        try:
            piece = os.read(key.fd, PIECE)
        except BlockingIOError:
            return 0
        except ConnectionError:  # the program threw its end away: as good as closed
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
        *lines, rest = piece.split(b"\n")  # of the new piece only: a line costs its length, however it comes
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
        self._rest.append(rest)
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
        if self._taken > self.most or len(self.report.lines) > self.calls + SPARE:
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
        """Why nothing ran, and who ended it."""
        said = self.report.stderr.decode("utf-8", "replace").strip().splitlines()
        words = f": {said[-1][:300]}" if said else ""
        if self.report.end == "timeout":
            return f"we ended it, since nothing ran within {STARTUP:.0f} seconds{words}"
        if said:
            return said[-1][:300]
        if starved:
            return "the machine ran out of memory, and the kernel killed it"
        number = -self.report.code if self.report.code < 0 else self.report.code - 128
        killed = f"signal {number}, which we did not send" if number > 0 else "by itself"
        return f"it ended with exit status {self.report.code} ({killed})"


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


def kill_inside(process: subprocess.Popen[bytes], inner: int) -> bool:
    """Kill the program inside the wall, if there is one; all others of its namespace go with it.

    Before bubblewrap itself, which then reaps it: an orphan would be left to the first process of our own container,
    which may be the trainer.
    """
    alive = process.poll() is None and inner > 0 and parent_of(inner) == process.pid
    if alive:
        _kill(os.kill, inner)
    return alive


def end_tree(process: subprocess.Popen[bytes], grace: float) -> None:
    """Kill the process with everything in its session, and wait for it, but for no longer than `DEAD` or so.

    One that takes longer (the kernel may have a lot to take apart) is reaped later: it keeps nobody waiting.

    Args:
        grace: seconds that it gets to end by itself.
    """
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
