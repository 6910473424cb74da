"""A gentle stop: the first interrupt finishes the step and saves, a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vpdlab import processes


class Interrupt:
    """Whether someone asked for a stop. `bool(interrupt)` is checked between steps: it asks all processes, so that all
    stop behind the same one, and all must check it at the same places."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return processes.anywhere(self.asked)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Within the block, SIGINT asks for a stop instead of raising. The old handler comes back afterwards.

        Signals reach the main thread only; elsewhere this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def handle(number: int, frame: object) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            if processes.main():  # a launcher hands the signal to all of them
                print("stopping after this step (interrupt again to stop at once)", file=sys.stderr, flush=True)

        signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
