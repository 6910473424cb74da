"""The two sides of step.py as processes of their own, as their users have them, and the turns that they take.

A side says READY once it is set up, takes a step for each line that it is sent and then says DONE, and prints what it
measured when nothing more comes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

READY, DONE = "-- ready", "-- done"


def turns() -> Iterator[None]:
    """In a side's process: the turns that it is given."""
    print(READY, flush=True)
    for _ in sys.stdin:
        yield
        print(DONE, flush=True)


class Side:
    """A side as the process that gives it its turns sees it.

    Args:
        words: the side's command line, without the script.

    Raises:
        ChildProcessError: here and below, when it ends before it should.
    """

    def __init__(self, words: Sequence[str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("step.py")), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._until(READY)

    def step(self) -> None:
        """Let it take a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._until(DONE)

    def numbers(self) -> dict[str, Any]:
        """What it measured; its process ends."""
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise ChildProcessError(f"ended with {self._process.returncode}")
        return json.loads(printed.splitlines()[-1])

    def _until(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.rstrip("\n") == word:
                return
        raise ChildProcessError(f"ended with {self._process.wait()}")
