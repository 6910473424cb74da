"""Cost of recording, speed of reading a long record, and the cost of late iterations against early ones.

    python benchmarks/recording.py
    python benchmarks/recording.py --steps 50 --long 10000

1. Seconds and bytes of an iteration without a record, and with increasingly detailed ones. Runs of VPD on the
apprentice (preset tour-common) alternate, iteration by iteration, with the same seed and therefore the same rollouts:
without a folder, then with one and per-token numbers of no rollouts, of 8 and of all. The time includes writing the
iteration to disk, which in a run overlaps with the next step.

2. A record of many iterations of 128 small rollouts, written by the recorder: opening it, reading its metrics, a column
of all its rollouts, and the rollouts of one iteration, each time in a new process that has already imported pyarrow and
pandas.

3. Iterations of 16 rollouts late in one run and early in another alternate. The learning rate is close to 0, so that
both do the same work.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
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

    with ExitStack() as stack:  # closed in reverse order: each installs a signal handler over the previous one
        steps = {name: stack.enter_context(closing(run.steps())) for name, run in runs.items()}

        def iteration(name: str) -> None:
            next(steps[name])
            recorder = runs[name].recorder
            if recorder is not None:
                recorder._settle(wait=True)

        jobs = {name: (lambda name=name: common.timed(lambda: iteration(name), given.device)) for name in runs}
        times = common.alternate(jobs, given.steps)
        kib = {name: size(run, given.steps + 1) for name, run in runs.items()}
    without = times["no record"]
    rows = []
    for name, seconds in times.items():
        compared = ["", "", ""] if seconds is without else against(seconds, without)
        rows.append([name, common.spread([one.clock for one in seconds], 3), *compared, f"{kib[name]:.1f}"])
    return rows


# -- a long record ---------------------------------------------------------------------------------------------
def synthetic(given: argparse.Namespace, folder: Path) -> list[float]:
    """Write a record of many small rollouts; returns the seconds to write each iteration to disk."""
    from vpdlab.record import METRICS, Recorder

    rng = random.Random(0)
    batches = [[rollout(rng, index) for index in range(given.rollouts)] for _ in range(8)]
    recorder, seconds = Recorder(folder, {"method": "vpd"}, {}), []
    for step in range(1, given.long + 1):
        records = [record | {"step": step} for record in batches[step % 8]]
        started = time.perf_counter()
        recorder.metrics(dict.fromkeys(METRICS) | {"step": step, "warnings": []})
        recorder.rollouts(step, records, wait=True)
        seconds.append(time.perf_counter() - started)
    recorder.close("complete")
    return seconds


def rollout(rng: random.Random, index: int) -> dict[str, Any]:
    """A rollout of a few tokens, with the columns that a run of VPD records except per-token numbers."""
    ids = [rng.randint(0, 400) for _ in range(rng.randint(4, 12))]
    texts = {"prompt": "What is 3 + 4?", "answer": "7", "text": f"The answer is {ids[0]}.", "source": "verifier"}
    feedback = {
        "environment": "The ones digit 3 is too low.",
        "teacher_prompt": "What is 3 + 4? The ones digit is too low.",
    }
    sums = {"student_sum": -1.0, "teacher_sum": -2.0, "implicit_reward": -0.1}
    return texts | feedback | sums | {
        "problem_id": f"p{index // 8}", "group": index // 8, "index": index % 8, "reward": float(index % 2),
        "success": bool(index % 2), "finished": True, "signal": True, "prompt_ids": list(range(12)),
        "teacher_ids": list(range(30)), "response_ids": ids, "logps": [-rng.random() for _ in ids],
    }  # fmt: skip


READ = """
import sys, time
import pandas, pyarrow.parquet
started = time.perf_counter()
from vpdlab import load_run
run = load_run(sys.argv[1])
times = [time.perf_counter()]
for job in (lambda: run.metrics, lambda: run.columns(["reward"]).to_pandas(), lambda: run.columns(["text"]).to_pandas(),
            lambda: run.rollouts(int(sys.argv[2]))):
    job()
    times.append(time.perf_counter())
print(*(later - earlier for earlier, later in zip([started, *times], times)))
"""


def reading(given: argparse.Namespace, scratch: Path) -> list[list[str]]:
    """A row for each way of reading a long record, and one for writing an iteration."""
    folder = scratch / "long"
    written = synthetic(given, folder)
    command = [sys.executable, "-c", READ, str(folder), str(given.long // 2)]
    done = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(given.repeats)]
    columns = list(zip(*(map(float, line.split()) for line in done), strict=True))
    names = ("open", "metrics", "a column of numbers", "a column of texts", "the rollouts of one iteration")
    files = sum(1 for _ in (folder / "rollouts").iterdir())
    rows = [[name, common.spread(values, 3)] for name, values in zip(names, columns, strict=True)]
    rows += [["an iteration written", f"{statistics.median(written):.4f} (mean {statistics.mean(written):.4f})"]]
    rows += [["files in rollouts/", str(files)]]
    common.goal(given, f"open a record of {given.long} iterations, s", statistics.median(columns[0]), 1.0)
    common.goal(given, f"a column of {given.long * given.rollouts} rollouts, s", statistics.median(columns[2]), 3.0)
    return rows


def late(given: argparse.Namespace, scratch: Path) -> list[list[str]]:
    """Alternate iterations after `given.late` others with iterations at the start of a run."""
    from vpdlab import RunConfig
    from vpdlab.run import Run

    def begun(name: str) -> Run:
        return Run.open(
            RunConfig.make(
                "tour-common", method="vpd", steps=given.late + 2 * given.steps + 4, eval_every=-1, e_every=1, lr=1e-12,
                prompts=4, group=4, device=given.device, threads=given.threads, checkpoint_every=0,
                out=str(scratch / name),
            )
        )  # fmt: skip

    with ExitStack() as stack:
        steps = {name: stack.enter_context(closing(begun(name).steps())) for name in ("late", "early")}
        for _ in range(given.late):
            next(steps["late"])
        jobs = {
            name: (lambda name=name: common.timed(lambda: next(steps[name]), given.device))
            for name in ("early", "late")
        }
        times = common.alternate(jobs, 2 * given.steps)
    ratio = statistics.median(s.processor for s in times["late"]) / statistics.median(
        s.processor for s in times["early"]
    )
    common.goal(given, f"iteration {given.late} against the first ones, CPU seconds", ratio, 1.05)
    places = {"early": "1", "late": str(given.late + 1)}
    return [
        [f"from iteration {places[name]} on", *(common.spread(values, 4) for values in zip(*seconds, strict=True))]
        for name, seconds in times.items()
    ]


def against(seconds: list[common.Seconds], without: list[common.Seconds]) -> list[str]:
    """The cost of a record against no record: additional ms (wall and CPU), and the ratio."""
    share = common.ratios([one.clock for one in seconds], [one.clock for one in without])
    spent = [one.processor - other.processor for one, other in zip(seconds, without, strict=True)]
    more = statistics.median(one.clock for one in seconds) - statistics.median(one.clock for one in without)
    return [f"{1e3 * more:.1f}", common.spread([1e3 * value for value in spent], 1), common.spread(share, 3)]


def size(run: Any, steps: int) -> float:
    """KiB per iteration: its line of metrics and its rollouts."""
    if run.recorder is None:
        return 0.0
    files = [run.recorder.folder / "metrics.jsonl", *run.recorder.folder.glob("rollouts/*.parquet")]
    return sum(file.stat().st_size for file in files) / steps / 1024


def main() -> None:
    parser = common.options(
        __doc__,
        steps=dict(type=int, default=20, help="iterations to measure"),
        prompts=dict(type=int, default=16),
        group=dict(type=int, default=8, help="rollouts per problem"),
        long=dict(type=int, default=10_000, help="iterations of the long record"),
        rollouts=dict(type=int, default=128, help="rollouts per iteration of the long record"),
        repeats=dict(type=int, default=5, help="number of times it is read"),
        only=dict(choices=("measure", "reading", "late"), help="run one of the three parts"),
        late=dict(type=int, default=1500, help="iterations before the late ones"),
    )
    given = parser.parse_args()
    if given.quick:
        given.steps, given.prompts, given.group = 2, 4, 3
        given.long, given.rollouts, given.repeats, given.late = 300, 8, 1, 3
    common.pin(given)
    print(
        common.machine(given) + f"\n{given.prompts} problems x {given.group} rollouts of the apprentice\n", flush=True
    )
    parts = {
        measure: ["tokens kept of", "iteration s", "ms more", "ms more (CPU)", "of no record", "KiB an iteration"],
        reading: [f"{given.long} iterations of {given.rollouts} rollouts", "s"],
        late: ["iterations", "s", "CPU s"],
    }
    for part, heads in parts.items():
        if given.only not in (None, part.__name__):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            rows = part(given, Path(scratch))
        common.show(heads, rows)
        print(flush=True)


if __name__ == "__main__":
    main()
