"""Speed of judging model-written code, and what a thousand timeouts leave behind.

    python benchmarks/sandbox.py [--programs 200] [--timeouts 1000] [--workers 0]

"cold" is the first verdict of a new process, including the test of the wall; "warm" is any later one. A verdict is one
function judged on three cases, in a new namespace and interpreter each time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from vpdlab.sandbox import Limits, describe, judge_function, judge_many, run
from vpdlab.sandbox.pool import cores

CODE = "def f(numbers):\n    return sorted(numbers, key=abs)"
CASES = [(([3, -1, 2],), [-1, 2, 3]), (([],), []), (([5],), [5])]
COLD = (
    "import time; t = time.perf_counter()\nfrom vpdlab.sandbox import judge_function\n"
    f"assert judge_function({CODE!r}, 'f', {CASES!r}).passed\nprint(time.perf_counter() - t)"
)


def judge() -> None:
    assert judge_function(CODE, "f", CASES).passed


def timed(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def row(name: str, seconds: list[float], rate: float | None = None) -> str:
    middle, late = statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=20)[-1] * 1e3
    return f"{name:<44} {middle:8.1f} {late:8.1f} {len(seconds) / sum(seconds) if rate is None else rate:10.1f}"


def processes() -> int:
    """Number of child processes and remaining bubblewrap processes, zombies included."""
    listing = subprocess.run(["ps", "-eo", "ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 1) for line in listing.splitlines()]
    return sum(name.startswith("bwrap") or (int(parent) == os.getpid() and name != "ps") for parent, name in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--timeouts", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=0, help="0: one per core")
    given = parser.parse_args()
    workers = given.workers or cores()
    wall = describe()
    print(f"{wall['wall']} {wall['bubblewrap']}, Python {wall['python']}, {workers} workers on {cores()} cores")
    print(f"load before: {os.getloadavg()[0]:.2f}\n\n{'':<44} {'p50 ms':>8} {'p95 ms':>8} {'a second':>10}")

    first = partial(subprocess.run, [sys.executable, "-c", COLD], capture_output=True, text=True, check=True)
    cold = [float(first().stdout) for _ in range(10)]
    print(row("cold: import, test of the wall, first verdict", cold))
    print(row("warm: verdicts in sequence", [timed(judge) for _ in range(given.programs)]))
    print(row("warm: whole programs (run)", [timed(partial(run, "print(1)")) for _ in range(given.programs)]))
    start = time.perf_counter()
    each = judge_many([partial(timed, judge)] * given.programs * 2, workers)
    print(row(f"warm: {workers} in parallel", each, len(each) / (time.perf_counter() - start)))

    files = len(os.listdir("/proc/self/fd"))
    fork = "import os\nos.fork()\nwhile True: pass"
    start = time.perf_counter()
    ends = judge_many([partial(run, fork, limits=Limits(seconds=0.02))] * given.timeouts, workers)
    took = time.perf_counter() - start
    late = sum(done.status == "timeout" for done in ends)
    left = len(os.listdir("/proc/self/fd")) - files
    print(f"\n{late} of {given.timeouts} programs of two looping processes timed out after 20 ms, in {took:.1f} s")
    print(f"left behind: {processes()} processes, {left} descriptors")


if __name__ == "__main__":
    main()
