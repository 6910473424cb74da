"""Judge several candidates in parallel, one per core: the work is in other processes, threads only wait for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Outcome = TypeVar("Outcome")


def judge_many(jobs: Iterable[Callable[[], Outcome]], workers: int = 0) -> list[Outcome]:
    """Call each job, `workers` at a time, and give their results in order.

    Args:
        jobs: for instance `functools.partial(judge_function, code, "f", cases)`.
        workers: concurrent programs; 0: one per core. With more, programs would wait for each other, and the waiting
            would count as their own time.

    Raises: what the first failing job raised; jobs that have not started are dropped.
    """
    with ThreadPoolExecutor(workers or cores(), thread_name_prefix="judge") as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """The cores this process may use: its share, if a launcher has started several processes on this machine."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
