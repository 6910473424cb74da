"""The wall: bubblewrap with all namespaces unshared.

It protects from a program that reads or changes files of this machine, accesses a network, inspects or signals other
processes, keeps running, or takes more than its share of memory, descriptors and disk.

The limits:

- Time. The wall clock of `Limits.seconds`, plus the time that the kernel needs to tear the program down: measured, 24
  processes with 60,000 mappings each are gone 0.3 to 1 second after their limit. The supervisor waits at most
  `process.DEAD` seconds for that.
- Processors. `Limits.processes` processes may run at once, on as many cores, until the time is up.
- Memory. The kernel limits the address space of each process; the supervisor checks all processes and scratch folders
  together every `process.LOOK` seconds, so a program can exceed the limit for that long. The kernel's own memory for a
  program is not counted: up to 17 MiB a process for its mappings, 64 KiB a pipe (64 MiB for all programs of a user).
- Files. File locks, leases and watches (flock, fcntl, inotify) are denied, in the scratch folders too, so a database in
  a file (sqlite3) cannot be used, but one in memory can. There are no pseudo terminals.

It does not protect from kernel flaws in the remaining system calls, nor from covert channels between programs that run
at the same time (load, timing, futexes on files that both have mapped). For hostile code use a virtual machine.
"""

from __future__ import annotations

import functools
import marshal
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox import inside
from vpdlab.sandbox.limits import MIB, Limits, Report
from vpdlab.sandbox.process import sealed, supervise
from vpdlab.sandbox.seccomp import filter_bytes

OLDEST = (0, 8, 0)  # the first bubblewrap with --disable-userns
NOBODY = 65533  # an id that owns nothing; "nobody" itself (65534) may own files of network drives
OTHERWISE = "or name a SandboxFusion server as the sandbox (http://HOST:PORT)"
# One thread for numpy's libraries; a fixed hash seed, so that a program gives the same result in every run.
VARIABLES = {
    "HOME": "/box", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
FLAGS = ("-s", "-B", "-X", "utf8")


@functools.cache
def driver() -> str:
    """The source of the program around the candidate's code."""
    return Path(inside.__file__).read_text(encoding="utf-8")


def job_bytes(job: Mapping[str, Any]) -> bytes:
    """A job in the format of `inside.read_job`. Raises ValueError for values that are not plain."""
    # Version 2 has no references: equal arguments must not become one object that a call could change for the next.
    return marshal.dumps(dict(job), 2)


@dataclass(frozen=True)
class Interpreter:
    """A Python that the walled program can read.

    Attributes:
        program: the executable.
        folders: the folders that it needs besides /usr.
    """

    program: str
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bubblewrap:
    """The default backend; `find()` builds it."""

    program: str
    version: str
    interpreter: Interpreter
    drop: tuple[str, ...]  # a command prefix that drops root
    seccomp: bytes
    name: str = "bubblewrap"

    @classmethod
    def find(cls) -> Bubblewrap:
        """The wall of this machine.

        Raises:
            UserError: if there is none; the message says how to get one.
        """
        if sys.platform != "linux":
            raise UserError(f"model-written code is run behind bubblewrap, on Linux only: use Linux, {OTHERWISE}")
        program = shutil.which("bwrap")
        if program is None:
            raise UserError(
                f"model-written code needs bubblewrap: apt-get install bubblewrap (or dnf, pacman), {OTHERWISE}"
            )
        version = _version(program)
        if tuple(map(int, version.split("."))) < OLDEST:
            raise UserError(
                f"bubblewrap {version} is too old: {'.'.join(map(str, OLDEST))} or newer is needed, {OTHERWISE}"
            )
        return cls(program, version, _interpreter(), _leave_root(), filter_bytes())

    def execute(self, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int = 1) -> Report:
        """Run one job behind the wall. Raises SandboxError if it did not start."""

        def start(channel: int) -> subprocess.Popen[bytes]:
            again = os.dup(channel)  # bubblewrap keeps its own copy
            try:
                words = [*self.drop, self.program, *self.arguments(limits, rules, again), "--"]
                words += [self.interpreter.program, *FLAGS, "-c", _serving(task, channel)]
                return _popen(words, given, (channel, rules, again, task), VARIABLES)
            finally:
                os.close(again)

        with sealed(job_bytes(job)) as task, sealed(stdin) as given, sealed(self.seccomp) as rules:
            return supervise(start, limits, calls, room=job.get("room", 0))

    def arguments(self, limits: Limits, seccomp: int, status: int) -> list[str]:
        """The options of bubblewrap."""
        size = str(int(limits.disk * MIB))
        words = [
            "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
            "--unshare-cgroup-try", "--disable-userns", "--as-pid-1", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--hostname", "sandbox", "--clearenv",
        ]  # fmt: skip
        for name, value in VARIABLES.items():
            words += ["--setenv", name, value]
        words += ["--ro-bind", "/usr", "/usr"]
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):  # symlinks into /usr on most systems
            path = Path("/", name)
            if path.is_symlink():
                words += ["--symlink", os.readlink(path), str(path)]
            elif path.is_dir():
                words += ["--ro-bind", str(path), str(path)]
        for folder in self.interpreter.folders:
            words += ["--ro-bind", folder, folder]
        for path in ("/etc/ld.so.cache", "/etc/alternatives"):  # lead to libraries such as BLAS
            words += ["--ro-bind-try", path, path]
        words += ["--proc", "/proc", "--dev", "/dev"]
        for folder in ("/tmp", "/dev/shm", "/box"):
            words += ["--size", size, "--tmpfs", folder]
        # No pseudo terminals: the machine has a fixed number of them for all users.
        words += ["--size", "4096", "--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts"]
        words += ["--remount-ro", "/", "--remount-ro", "/dev", "--remount-ro", "/proc", "--chdir", "/box"]
        return [*words, "--seccomp", str(seccomp), "--json-status-fd", str(status)]


@dataclass(frozen=True)
class Unsafe:
    """No wall: the program runs as the trainer's user, with all of its rights. Only on explicit request."""

    name: str = "unsafe"

    def execute(self, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int = 1) -> Report:
        """Run one job. Raises SandboxError if it did not start."""
        # Without a namespace the limit on processes would count all processes of the user.
        own = {name: value for name, value in job["limits"].items() if name != "RLIMIT_NPROC"}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

            def start(channel: int) -> subprocess.Popen[bytes]:
                words = [sys.executable, *FLAGS, "-c", _serving(task, channel)]
                return _popen(words, given, (channel, task), {**VARIABLES, "HOME": folder, "TMPDIR": folder}, folder)

            with sealed(job_bytes({**job, "limits": own})) as task, sealed(stdin) as given:
                return supervise(start, limits, calls, wall=False, room=job.get("room", 0))


def _serving(task: int, channel: int) -> str:
    """The program that the interpreter runs; it reads the candidate's code from the descriptor `task`."""
    return f"{driver()}\nserve(read_job({task}), {channel})\n"


def _popen(
    words: list[str], stdin: int, passed: tuple[int, ...], variables: Mapping[str, str], folder: str = "/"
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, pass_fds=passed,
        env=variables, cwd=folder, start_new_session=True,
    )  # fmt: skip


def _version(program: str) -> str:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{program} does not run ({error}): install bubblewrap again, {OTHERWISE}") from error
    match = re.search(r"\d+\.\d+\.\d+", text)
    return match[0] if match else "0.0.0"


def _leave_root() -> tuple[str, ...]:
    """A command prefix that drops root before bubblewrap starts; empty for an ordinary user.

    As root outside, the walled program could open kernel settings for writing, and process limits would not apply.
    (`subprocess` can change the user itself, but only with a real fork of the trainer.)
    """
    if os.geteuid() != 0:
        return ()
    program = shutil.which("setpriv")
    if program is None:
        raise UserError("running as root needs setpriv: install util-linux, or run as an ordinary user")
    drop = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    return (program, *drop, "--no-new-privs", "--")


def _interpreter() -> Interpreter:
    """The system's Python, or else this environment's base Python, if the walled program can read it."""
    for program in ("/usr/bin/python3", "/usr/local/bin/python3"):
        real = os.path.realpath(program)
        if real.startswith("/usr/") and _readable(real):
            return Interpreter(program)
    prefix = os.path.realpath(sys.base_prefix)
    program = f"{prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if _readable(program):
        return Interpreter(program, (prefix,))
    raise UserError(f"no Python that user {NOBODY} can read: apt-get install python3, {OTHERWISE}")


def _readable(path: str) -> bool:
    if os.geteuid() != 0:
        return os.access(path, os.R_OK | os.X_OK)
    try:  # root can read everything; what matters is the id after the change
        modes = [os.stat(part).st_mode for part in (path, *map(str, Path(path).parents))]
    except OSError:
        return False
    return bool(modes[0] & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in modes)
