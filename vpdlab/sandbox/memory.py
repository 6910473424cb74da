"""How much memory a walled program takes, read from outside; and whether the kernel has had to kill for memory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

INODE = 1024  # bytes of kernel memory for a file, without its content
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_of(number: int, enough: int, until: float) -> int:
    """Bytes of memory of the program whose first process this is, as far as no limit of the kernel holds them.

    That is its scratch folders (a file without content still takes an inode), and, where there is more than one
    process, all processes together: each one's own limit counts address space, and only its own. Only once the program
    inside runs: before that its root folder is still the host's.

    Args:
        enough: what is asked about. Well below it, an upper bound does, which costs the same for every process; the
            exact number takes a walk through all of a process's mappings, which it can make slow.
        until: time (monotonic) at which the counting stops, whatever is left.
    """
    numbers, found = [number], _scratch(number)
    for each in numbers:
        with contextlib.suppress(OSError):  # gone in the meantime
            for task in Path(f"/proc/{each}/task").iterdir():
                numbers += [int(word) for word in (task / "children").read_bytes().split()]
    if len(numbers) == 1:
        return found
    most = found + sum(map(_resident, numbers))
    if most <= enough // 2:  # half: the kernel's quick number may lag behind
        return most
    for each in numbers:
        if time.monotonic() >= until:
            break
        with contextlib.suppress(OSError):  # shares of shared pages: a fork that copied nothing yet costs nothing
            lines = Path(f"/proc/{each}/smaps_rollup").read_bytes().splitlines()
            found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    return found


def _resident(number: int) -> int:
    """Bytes of a process that are in memory, shared ones too."""
    try:
        return int(Path(f"/proc/{number}/statm").read_bytes().split()[1]) * PAGE
    except (OSError, IndexError):  # gone in the meantime
        return 0


def _scratch(number: int) -> int:
    found = 0
    for folder in ("tmp", "box", "dev/shm"):
        with contextlib.suppress(OSError):
            stat = os.statvfs(f"/proc/{number}/root/{folder}")
            found += (stat.f_blocks - stat.f_bfree) * stat.f_frsize + (stat.f_files - stat.f_ffree) * INODE
    return found


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
