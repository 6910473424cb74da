"""Milliseconds of a decoding step: in fixed buffers (on a GPU as graphs), and step by step with a growing cache.

    python benchmarks/decode.py --device cuda                   # the shape of Qwen3-1.7B, 32 rows, bfloat16
    python benchmarks/decode.py --shape qwen3-tiny --rows 8     # the same code on a CPU

All rows run to the end: no token ends one. The tokens of both ways are compared: how many rows are equal throughout.
In bfloat16 near a tie the last bit may decide, as it does between two batches of one way.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import common


def main() -> None:
    parser = common.options(
        __doc__,
        shape=dict(default="", choices=["", *common.SHAPES], help="default: qwen3-1.7b, and qwen3-tiny on a CPU"),
        precision=dict(default="bfloat16"),
        rows=dict(type=int, nargs="+", default=[32, 128]),
        tokens=dict(type=int, default=256),
        repeat=dict(type=int, default=3),
        plain_tokens=dict(type=int, default=48, help="tokens of the slow way"),
    )
    given = parser.parse_args()
    if given.quick:
        given.rows, given.tokens, given.repeat, given.plain_tokens = [4], 16, 1, 8
    given.shape = given.shape or ("qwen3-1.7b" if given.device != "cpu" else "qwen3-tiny")
    common.pin(given)
    print(common.machine(given, given.precision) + "\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = common.model_folder(given.shape, Path(scratch), given.device)
        run = common.open_run(
            common.Drill(), method="sdpo", model=folder, precision=given.precision, device=given.device,
            max_new_tokens=given.tokens, sampler_rows=max(given.rows), feedback=("verifier",), capture="on",
        )  # fmt: skip
        common.never_ends(run)
        common.show(["rows", "way", "first call s", "ms a step", "rows equal"], [
            line for rows in given.rows for line in measured(given, run, rows)
        ])  # fmt: skip


def measured(given: Any, run: Any, rows: int) -> list[list[str]]:
    """Lines of one number of rows."""
    from vpdlab.sampling import Sampling

    problems = run.task.load("train")[: max(1, rows // 8)]
    contexts = [list(run.render.student(problems[row % len(problems)])) for row in range(rows)]
    streams, found, lines = [(1, row) for row in range(rows)], {}, []
    for way, tokens in (("fixed buffers", given.tokens), ("step by step", given.plain_tokens)):
        run.sampler._capture = way == "fixed buffers"
        sampling = Sampling(1.0, 1.0, tokens)

        def job(way: str = way, sampling: Any = sampling) -> None:
            found[way] = run.sampler.generate(contexts, streams, sampling)

        first = common.timed(job, given.device).clock
        steps = [1e3 * common.timed(job, given.device).clock / tokens for _ in range(given.repeat)]
        if way == "fixed buffers" and rows == 32 and given.device != "cpu" and given.shape == "qwen3-1.7b":
            common.goal(given, "decoding step, 32 rows, Qwen3-1.7B's shape, ms", statistics.median(steps), 9.0)
        lines.append([f"{rows}", way, f"{first:.2f}", common.spread(steps), ""])
    pairs, both = zip(*found.values(), strict=True), min(given.tokens, given.plain_tokens)
    lines[-1][-1] = f"{sum(a.ids[:both] == b.ids[:both] for a, b in pairs)} of {rows}"
    return lines


if __name__ == "__main__":
    main()
