"""The tours over seeds: where they start, where they end, how long they take.

    python benchmarks/tours.py                                   # both presets, vpd and sdpo, seeds 0 1 2
    python benchmarks/tours.py --presets tour-rare --methods vpd --seeds 0 --set steps=150 e_every=10

Each run is one process's work on one thread, without a record; the table goes to standard output as Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import yaml

from vpdlab import Run, RunConfig
from vpdlab.views import measured


def once(preset: str, method: str, seed: int, fields: dict) -> dict:
    """Start and final evaluation of one run, and its seconds."""
    run = Run.open(RunConfig.make(preset, method=method, seed=seed, **fields), record=False)
    started = time.perf_counter()
    for _ in run.steps():
        pass
    return {"start": run.evals[0], "final": run.evals[-1], "seconds": time.perf_counter() - started}


def row(preset: str, method: str, seed: int, done: dict) -> str:
    """A line of the table."""
    cells = [preset, method, str(seed)]
    for moment in ("start", "final"):
        e = done[moment]
        teacher = e.get("teacher_accuracy")
        cells.append(measured(e["accuracy"], e["accuracy_low"], e["accuracy_high"]))
        cells.append("-" if teacher is None else f"{100 * teacher:.0f} %")
    return f"| {' | '.join(cells)} | {done['seconds']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tour-common", "tour-rare"])
    parser.add_argument("--methods", nargs="+", default=["vpd", "sdpo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="further settings")
    args = parser.parse_args()
    fields = {name: yaml.safe_load(value) for name, _, value in (item.partition("=") for item in args.set)}
    torch.set_num_threads(1)
    print("| preset | method | seed | start, 95 % | teacher on failed | final, 95 % | teacher on failed | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for preset in args.presets:
        for method in args.methods:
            finals = []
            for seed in args.seeds:
                done = once(preset, method, seed, fields)
                finals.append(100 * done["final"]["accuracy"])
                print(row(preset, method, seed, done), flush=True)
            print(f"| {preset} | {method} | all | | | mean {statistics.mean(finals):.1f}, "
                  f"from {min(finals):.1f} to {max(finals):.1f} | | |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
