"""Train a run and kill it so many times, each time with SIGKILL and each time resumed; prints a line of JSON.

`python killed.py SETTINGS.yaml OUT KILLS`. Every life is a fork of this process, which has loaded all modules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import pyarrow.parquet  # noqa: F401
import torch
from toy import Parity

from vpdlab.config import RunConfig
from vpdlab.run import Run

torch.set_num_threads(1)


def live(config: RunConfig) -> int:
    """Train in a child; returns its process id."""
    child = os.fork()
    if child:
        return child
    try:
        for _ in Run.open(config, task=Parity()).steps():
            pass
        os._exit(0)
    finally:  # never back into the parent's code
        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> int | None:
    """How a child ended (0: done, negative: the signal that killed it); None while it lives."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def staged(out: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(out / "checkpoints") if name.startswith(".")]
    return []


def kill(child: int, out: Path, number: int, rng: random.Random) -> int | None:
    """Kill a child at a random moment, every other time when a save has begun: at once, or shortly after, by turns (a
    quick disk is done before a pause is over); returns how it ended."""
    left, begun, code = set(staged(out)), time.monotonic(), None
    wait = rng.uniform(0.02, 0.5)
    while code is None:
        code = ended(child)
        saving = number % 2 and set(staged(out)) - left
        if saving or (not number % 2 and time.monotonic() - begun > wait):
            time.sleep(rng.uniform(0.0, 0.04) if number % 4 == 3 else 0.0)
            os.kill(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        time.sleep(0.0005)
    return code


def main() -> None:
    settings, out, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    config = dataclasses.replace(RunConfig.make(settings), out=str(out), resume=kills > 0)
    rng, done, saving = random.Random(0), 0, 0
    Run.open(config, record=False, task=Parity())  # the modules of the model, too
    while done < kills:
        child = live(config)
        code = kill(child, out, done, rng)
        if code != -signal.SIGKILL:
            sys.exit(f"the run ended by itself with {code} after {done} kills")
        saving += bool(staged(out))
        done += 1
    code = os.waitstatus_to_exitcode(os.waitpid(live(config), 0)[1])
    print(json.dumps({"kills": done, "saving": saving, "code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
