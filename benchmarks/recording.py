"""What the record costs: seconds and bytes of an iteration without a record, and with more and more of it.

    python benchmarks/recording.py
    python benchmarks/recording.py --steps 50

Runs of VPD on the apprentice (preset tour-common) take turns, iteration after iteration, with the same seed and so the
same rollouts: without a folder, then with one and the numbers of no token, of the tokens of 8 rollouts, and of all. The
seconds are those until the iteration is on disk, though in a run the rollouts are written behind the next step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import common


def measure(given: argparse.Namespace, scratch: Path) -> list[list[str]]:
    from vpdlab import RunConfig
    from vpdlab.run import Run

    everything = given.prompts * given.group
    kept = {"no record": None, "0 rollouts": 0, "8 rollouts": 8, "all rollouts": everything}
    runs: dict[str, Run] = {}
    for name, tokens in kept.items():
        config = RunConfig.make(
            "tour-common", method="vpd", steps=given.steps + 2, eval_every=-1, e_every=1, prompts=given.prompts,
            group=given.group, device=given.device, threads=given.threads, record_tokens=tokens or 0,
            out=str(scratch / f"run-{tokens}"),
        )  # fmt: skip
        runs[name] = Run.open(config, record=tokens is not None)

    with ExitStack() as stack:  # closed last one first: each has put its own answer to an interrupt over the last one's
        steps = {name: stack.enter_context(closing(run.steps())) for name, run in runs.items()}

        def iteration(name: str) -> None:
            next(steps[name])
            recorder = runs[name].recorder
            if recorder is not None:
                recorder._settle(wait=True)

        jobs = {name: (lambda name=name: common.timed(lambda: iteration(name), given.device)) for name in runs}
        found = common.alternate(jobs, given.steps)
        kib = {name: size(run, given.steps + 1) for name, run in runs.items()}
    without = found["no record"]
    rows = []
    for name, seconds in found.items():
        compared = ["", "", ""]
        if seconds is not without:
            share = common.ratios([one.clock for one in seconds], [one.clock for one in without])
            spent = [one.processor - other.processor for one, other in zip(seconds, without, strict=True)]
            more = statistics.median(one.clock for one in seconds) - statistics.median(one.clock for one in without)
            compared = [
                f"{1e3 * more:.1f}",
                common.spread([1e3 * value for value in spent], 1),
                common.spread(share, 3),
            ]
        rows.append([name, common.spread([one.clock for one in seconds], 3), *compared, f"{kib[name]:.1f}"])
    return rows


def size(run: Any, steps: int) -> float:
    """KiB that an iteration has left: its line of metrics and its rollouts."""
    if run.recorder is None:
        return 0.0
    files = [run.recorder.folder / "metrics.jsonl", *run.recorder.folder.glob("rollouts/*.parquet")]
    return sum(file.stat().st_size for file in files) / steps / 1024


def main() -> None:
    parser = common.options(
        __doc__,
        steps=dict(type=int, default=20, help="iterations that count"),
        prompts=dict(type=int, default=16),
        group=dict(type=int, default=8, help="rollouts a problem"),
    )
    given = parser.parse_args()
    if given.quick:
        given.steps, given.prompts, given.group = 2, 4, 3
    common.pin(given)
    print(
        common.machine(given) + f"\n{given.prompts} problems x {given.group} rollouts of the apprentice\n", flush=True
    )
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(given, Path(scratch))
    heads = ["tokens kept of", "iteration s", "ms more", "ms more (CPU)", "of no record", "KiB an iteration"]
    common.show(heads, rows)


if __name__ == "__main__":
    main()
