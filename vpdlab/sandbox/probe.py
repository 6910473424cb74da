"""Test the wall before use: run a program that attempts forbidden operations, and report the results."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox.limits import Limits, Report, SandboxError
from vpdlab.sandbox.wall import NOBODY, OTHERWISE, VARIABLES, Bubblewrap

WAITS = (0.2, 1.0)  # seconds before each retry, for a busy machine
# Runs behind the wall. Every value of `found` must be true.
CANARY = r"""
import json, os, resource, sys

def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return True
    return False

def writes(*paths):
    return [path for path in paths if not refused(lambda: open(path, "a").close())]

def network():
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)

def lock(action):
    import fcntl
    with open(sys.executable, "rb") as file:
        getattr(fcntl, action)(file, fcntl.LOCK_SH | fcntl.LOCK_NB)

def call(name, *arguments):
    import ctypes
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

file, allowed, limits = json.loads(sys.stdin.read())
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
open_files = [int(name) for name in os.listdir("/proc/self/fd")]
found = {
    "not root": os.getuid() != 0 and os.geteuid() != 0,
    "no capabilities": all(int(status[name], 16) == 0 for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")),
    "no new privileges": status["NoNewPrivs"].strip() == "1",
    "system calls filtered": status["Seccomp"].strip() == "2",
    "own processes only": {name for name in os.listdir("/proc") if name.isdigit()} == {"1"} == {str(os.getpid())},
    "files of the host hidden": not os.path.exists(file) and not os.path.exists("/etc/passwd"),
    "system read-only": not writes("/x", "/usr/x", "/dev/x", "/proc/sys/kernel/core_pattern", "/proc/self/comm"),
    "environment cleared": set(os.environ) <= set(allowed),
    "no network": refused(network),
    "no descriptors of the host": len(open_files) <= 5,
    "answers cannot be taken back": refused(lambda: open("/proc/self/fd/3", "rb").close()),
    "no terminals": not os.path.exists("/dev/pts/ptmx"),
    "limits hold": all(resource.getrlimit(getattr(resource, name)) == (value, value) for name, value in limits.items()),
    "scratch folders sized": all(
        os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == limits["RLIMIT_FSIZE"]
        for path in ("/tmp", "/box", "/dev/shm")
    ),
}
try:
    import ctypes, fcntl
except ImportError:
    pass  # a minimal Python; the filter applies all the same
else:
    found["no namespaces"] = refused(call, "unshare", 0x10000000)
    found["no tracing"] = refused(call, "ptrace", 0, 0, 0, 0)
    found["no file locks"] = refused(lock, "flock") and refused(lock, "lockf")
    found["no file watches"] = refused(call, "inotify_init1", 0)
    found["no mounts"] = refused(call, "mount", b"none", b"/tmp", b"tmpfs", 0, None)
print(json.dumps([sys.version.split()[0], found]))
"""


def probe(wall: Bubblewrap) -> dict[str, Any]:
    """Test the wall; returns what it is and what it was tested for.

    Raises:
        UserError: if bubblewrap does not work here, or the wall allows a forbidden operation.
    """
    limits = Limits(seconds=10)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        file = Path(folder, "canary")
        file.write_text("seen")
        inside = limits.inside(1)
        allowed = [*VARIABLES, "PWD", "LC_CTYPE"]  # the last two are set by bubblewrap and by Python itself
        asked = json.dumps([str(file), allowed, inside]).encode()
        job = {"mode": "program", "setup": "", "code": CANARY, "limits": inside}
        report = _tried(wall, job, asked, limits)
    try:
        version, results = json.loads(report.stdout)
    except ValueError as error:
        errors = report.stderr.decode("utf-8", "replace").strip().splitlines()
        raise UserError(f"the sandbox cannot be tested: {errors[-1] if errors else _ended(report, limits)}") from error
    holes = [name for name, holds in results.items() if not holds]
    if holes:
        raise UserError(f"the sandbox does not hold ({', '.join(holes)}): model-written code is not run here")
    return {
        "wall": wall.name,
        "bubblewrap": wall.version,
        "interpreter": wall.interpreter.program,
        "python": version,
        "machine": platform.machine(),
        "outer_user": NOBODY if wall.drop else os.geteuid(),
        "holds": sorted(results),
    }


def _tried(wall: Bubblewrap, job: dict[str, Any], asked: bytes, limits: Limits) -> Report:
    """The report of the test, retried if it did not complete, since the machine may be busy."""
    failure: SandboxError | OSError | None = None
    report = Report()
    for wait in (*WAITS, 0.0):
        try:
            report, failure = wall.execute(job, asked, limits), None
        except (SandboxError, OSError) as error:
            failure = error
        if failure is None and report.end == "exit" and report.stdout:
            break
        time.sleep(wait)
    if failure is not None:
        raise UserError(f"{failure}: {_remedy(str(failure))}") from failure
    return report


def _ended(report: Report, limits: Limits) -> str:
    """How a test without output ended."""
    if report.end == "timeout":
        return f"killed after {limits.seconds:g} seconds"
    if report.end == "memory":
        return f"killed for taking more than {limits.memory} MiB of memory"
    return f"it ended with exit status {report.code}"


def _remedy(message: str) -> str:
    """Advice for an error message of bubblewrap."""
    if "mount proc" in message:
        return f"in Docker, add --security-opt systempaths=unconfined, {OTHERWISE}"
    if "uid map" in message or "namespace" in message.lower() or "Operation not permitted" in message:
        return (
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 or "
            f"kernel.apparmor_restrict_unprivileged_userns=0; in Docker --security-opt seccomp=unconfined), {OTHERWISE}"
        )
    return f"see what `bwrap --ro-bind / / --unshare-all true` says, {OTHERWISE}"
