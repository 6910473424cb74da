"""All speed benchmarks in sequence, each in a separate process, with a summary table at the end.

    python benchmarks                   # or: make bench
    python benchmarks --quick           # a smoke test of seconds
    python benchmarks --only memory e_step --threads 2
    python benchmarks --device cuda     # the shape of Qwen3-1.7B, random weights, in bfloat16

build/benchmarks.md then has all tables and the results of the goals.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import common

HERE = Path(__file__).resolve().parent
SCRIPTS = ("step", "e_step", "memory", "recording", "rollouts")
ON_A_GPU = {
    "step": "--shape qwen3-1.7b --precisions bfloat16 --lengths fixed --prompts 16 --group 8 --tokens 256",
    "e_step": "--shape qwen3-1.7b --precision bfloat16 --prompts 16 --group 8 --tokens 256",
    "memory": "--dtype bfloat16",
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


def run(script: str, given: argparse.Namespace) -> tuple[list[str], float, int]:
    """Run a script and pass its output through; returns its lines, the seconds and the exit status."""
    lines, start = [], time.perf_counter()
    with subprocess.Popen(command(script, given), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return lines, time.perf_counter() - start, process.returncode


def main() -> None:
    parser = common.options(
        __doc__,
        only=dict(nargs="+", choices=SCRIPTS, default=list(SCRIPTS)),
        out=dict(default="build/benchmarks.md", help="Markdown file to write"),
    )
    given = parser.parse_args()
    given.threads = given.threads or common.cores()
    report, rows, failed = ["# Speed benchmarks", ""], [], []
    for script in given.only:
        if not (HERE / f"{script}.py").exists():
            continue
        print(f"\n== {script}", flush=True)
        lines, seconds, status = run(script, given)
        if status:
            failed.append(script)
        report += [f"## {script}", "", *lines, ""]
        goals = [line.removeprefix("goal: ").split(" | ") for line in lines if line.startswith("goal: ")]
        ended = "failed" if status else f"{seconds:.0f} s"
        rows += [[script, ended, *goal] for goal in goals] or [[script, ended, "", "", "", ""]]
    heads = ["benchmark", "took", "goal", "wanted", "measured", "met"]
    print()
    common.show(heads, rows)
    out = Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join([*report, "## Goals", "", *common.table(heads, rows), ""]), encoding="utf-8")
    print(f"\nwritten to {out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
