"""Stopping gently: the first interrupt finishes the iteration and saves, a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vpdlab import processes


class Interrupt:
    """Whether a stop was requested.

    `bool(interrupt)` is checked between iterations. It asks all ranks, so that all stop after the same iteration; hence
    all must check it at the same points.
    """

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return processes.anywhere(self.asked)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Within the block, SIGINT requests a stop instead of raising.

        Only the main thread receives signals; in any other thread this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with on_interrupt(self._request):
            yield

    def _request(self) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if processes.main():  # a launcher forwards the signal to every rank
            print("stopping after this step (interrupt again to stop at once)", file=sys.stderr, flush=True)


@contextmanager
def on_interrupt(handle: Callable[[], None]) -> Iterator[None]:
    """Within the block, SIGINT calls `handle`; then the previous handler is restored. For the main thread only."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda number, frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
