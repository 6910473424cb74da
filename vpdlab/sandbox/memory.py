"""Memory use of a walled program, measured from outside, and the kernel's count of out-of-memory kills."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

INODE = 1024  # bytes of kernel memory for a file, without its content
PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_of(number: int, enough: int, until: float) -> int:
    """Bytes of memory of a program, given its first process, that no kernel limit covers.

    These are its scratch folders (an empty file still takes an inode) and, with more than one process, the memory of
    all processes together: the kernel's limit is on the address space of each one. Call it only once the program
    inside runs; before that its root folder is still the host's.

    Args:
        enough: the limit to compare with. Well below it an upper bound is returned, whose cost is constant per process;
            the exact number walks through all mappings of a process, which a program can make slow.
        until: time (monotonic) at which counting stops, even if incomplete.
    """
    numbers, total = [number], _scratch(number)
    for each in numbers:
        with contextlib.suppress(OSError):  # gone in the meantime
            for task in Path(f"/proc/{each}/task").iterdir():
                numbers += [int(word) for word in (task / "children").read_bytes().split()]
    if len(numbers) == 1:
        return total
    most = total + sum(map(_resident, numbers))
    if most <= enough // 2:  # half, because the kernel's fast counter may lag behind
        return most
    for each in numbers:
        if time.monotonic() >= until:
            break
        with contextlib.suppress(OSError):  # Pss counts a shared page once: a fork that copied nothing adds nothing
            lines = Path(f"/proc/{each}/smaps_rollup").read_bytes().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))
    return total


def _resident(number: int) -> int:
    """Resident bytes of a process, including shared pages."""
    try:
        return int(Path(f"/proc/{number}/statm").read_bytes().split()[1]) * PAGE
    except (OSError, IndexError):  # gone in the meantime
        return 0


def _scratch(number: int) -> int:
    """Bytes in the scratch folders."""
    total = 0
    for folder in ("tmp", "box", "dev/shm"):
        with contextlib.suppress(OSError):
            stat = os.statvfs(f"/proc/{number}/root/{folder}")
            total += (stat.f_blocks - stat.f_bfree) * stat.f_frsize + (stat.f_files - stat.f_ffree) * INODE
    return total


def prefer_to_kill(number: int) -> None:
    """Make the kernel kill this process, not the trainer, if the machine runs out of memory."""
    with contextlib.suppress(OSError):  # gone already, or not permitted
        Path(f"/proc/{number}/oom_score_adj").write_text("1000")


def oom_kills() -> int:
    """Number of processes that the kernel has killed for lack of memory; 0 if unknown."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return int(text.rpartition("\noom_kill ")[2].split()[0]) if "\noom_kill " in text else 0
