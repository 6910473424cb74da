"""Runs one after another in one process, for comparisons: starting Python and torch can take longer than a small run.

`python -m vpdlab.cli.worker` reads one line per run from its input, `["SETTINGS.yaml", "LOG"]`, and answers each with
the exit status of `vpdlab train --preset SETTINGS.yaml`, whose output goes to the log.
"""

from __future__ import annotations

import json
import os
import sys

from vpdlab.cli import main
from vpdlab.cli.headless import EXIT_STATUS


def serve() -> None:
    """Train until the input ends or a run is interrupted."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        settings, log = json.loads(line)
        with open(log, "w", encoding="utf-8") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        status = main(["train", "--preset", settings])
        sys.stdout.flush()
        sys.stderr.flush()
        print(status, file=answers, flush=True)
        if status == EXIT_STATUS["stopped"]:
            return


if __name__ == "__main__":
    serve()
