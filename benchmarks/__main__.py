"""All speed benchmarks in sequence, each in a separate process, with a summary table at the end.

    python benchmarks                   # or: make bench
    python benchmarks --quick           # a smoke test of seconds
    python benchmarks --only memory e_step --threads 2
    python benchmarks --device cuda     # the shape of Qwen3-1.7B, random weights, in bfloat16
    python benchmarks --device cuda --minutes 8

With --minutes the most important come first, and each leaves a minute for each of those that follow: one that has not
ended by then is stopped. build/benchmarks.md, written again after each, has all tables, the results of the goals and
what did not run.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import common

LEAST = 20.0  # seconds that a script is worth starting with
KEPT = 60.0  # seconds that are kept for each later script, as long as there are enough
HERE = Path(__file__).resolve().parent
SCRIPTS = ("decode", "memory", "step", "e_step", "recording", "rollouts")  # the most important first
ON_A_CPU_ONLY = ("recording", "rollouts")
ON_A_GPU = {
    "decode": "",
    "memory": "--dtype bfloat16 --vocabularies 151936 --tokens 2048",
    "step": "--shape qwen3-1.7b --precisions bfloat16 --lengths fixed --prompts 4 --group 8 --tokens 256 --rounds 2"
    " --apart --accumulate 2",
    "e_step": "--shape qwen3-1.7b --precision bfloat16 --prompts 4 --group 8 --tokens 256",
}
# rollouts.py has neither --quick nor --device.
ROLLOUTS = {True: "--model apprentice --problems 2 --group 2 --tokens 8 --repeat 1", False: "--problems 4 --repeat 2"}


def command(script: str, given: argparse.Namespace) -> list[str]:
    words = [sys.executable, str(HERE / f"{script}.py"), "--threads", str(given.threads)]
    if script == "rollouts":
        return [*words, *ROLLOUTS[given.quick].split()]
    words += ["--device", given.device, *(["--quick"] if given.quick else [])]
    gpu = given.device != "cpu" and not given.quick
    return words + (ON_A_GPU.get(script, "").split() if gpu else [])


def run(script: str, given: argparse.Namespace, most: float) -> tuple[list[str], float, str]:
    """Run a script for at most `most` seconds and pass its output through; returns its lines, the seconds, and how it
    ended ("" where all went well)."""
    lines, start = [], time.perf_counter()
    # A session of its own, so that the processes that it started end with it.
    with subprocess.Popen(command(script, given), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        timer = threading.Timer(most, os.killpg, (process.pid, signal.SIGKILL)) if math.isfinite(most) else None
        if timer is not None:
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    seconds = time.perf_counter() - start
    if timer is not None:
        timer.cancel()
    ended = "" if not process.returncode else "stopped: no time" if seconds >= most else "failed"
    return lines, seconds, ended


def share(left: float, following: int) -> float:
    """How many of the seconds left a script may take if `following` others still have to run."""
    return max(left - KEPT * following, left / (1 + following))


def main() -> None:
    parser = common.options(
        __doc__,
        only=dict(nargs="+", choices=SCRIPTS, default=list(SCRIPTS)),
        out=dict(default="build/benchmarks.md", help="Markdown file to write"),
        minutes=dict(type=float, default=math.inf, help="stop after this time"),
    )
    given = parser.parse_args()
    given.threads = given.threads or common.cores()
    report, rows, failed, until = ["# Speed benchmarks", ""], [], [], time.monotonic() + 60 * given.minutes
    heads, out = ["benchmark", "took", "goal", "wanted", "measured", "met"], Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    scripts = [script for script in given.only if given.device == "cpu" or script not in ON_A_CPU_ONLY]
    for place, script in enumerate(scripts, 1):
        left = until - time.monotonic()
        if left < LEAST:
            rows.append([script, "not run: no time", "", "", "", ""])
        else:
            print(f"\n== {script}", flush=True)
            lines, seconds, status = run(script, given, share(left, len(scripts) - place))
            if status == "failed":
                failed.append(script)
            report += [f"## {script}", "", *lines, ""]
            goals = [line.removeprefix("goal: ").split(" | ") for line in lines if line.startswith("goal: ")]
            ended = status or f"{seconds:.0f} s"
            rows += [[script, ended, *goal] for goal in goals] or [[script, ended, "", "", "", ""]]
        # After each, so that a run that is cut short keeps what it has measured.
        out.write_text("\n".join([*report, "## Goals", "", *common.table(heads, rows), ""]), encoding="utf-8")
    print()
    common.show(heads, rows)
    print(f"\nwritten to {out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
