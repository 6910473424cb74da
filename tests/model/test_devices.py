"""Freed memory stays with the process on a CPU, unless its user has said otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from vpdlab.model.devices import keep_freed_memory
print(keep_freed_memory())
for turn in range(20):
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 20) for _ in range(20)]  # 80 MiB in blocks of 4
    blocks.clear()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def process(**environment: str) -> tuple[str, int]:
    """What `keep_freed_memory` returned, and the page faults of ten passes after it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, env=plain | environment, capture_output=True, text=True, timeout=120, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_not_fetched_again() -> None:
    kept, faults = process()
    assert kept == "True"
    assert faults < 2_000  # of 204,800 pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_the_user_has_set_stays() -> None:
    kept, faults = process(MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept == "False"
    assert faults > 100_000
