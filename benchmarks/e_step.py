"""Cost of the E-step: an iteration of VPD at F = 1, 5, 10 against one of SDPO, on the same rollouts.

    python benchmarks/e_step.py
    python benchmarks/e_step.py --models apprentice --rounds 20
    python benchmarks/e_step.py --device cuda --shape qwen3-1.7b --precision bfloat16 --prompts 16 --group 8

Three iterations alternate: SDPO's, VPD's with an E-step, VPD's without one. All have the same weights and the same
random streams, and therefore the same rollouts: the learning rate is too small to change the weights, which does not
change the work. An iteration at F is (one with the E-step + F - 1 without) / F. The apprentice runs the preset
tour-common; other models use the top 20 and the tail, with responses of equal length. The ratios to SDPO are taken
round by round; the paper has 1.3 to 1.55.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common

STILL = 1e-12  # a learning rate below the resolution of every weight
PHASES = ("rollout", "e", "m")
APPRENTICE = {"prompts": 16, "group": 8, "tokens": 12}
OTHERS = {"prompts": 4, "group": 4, "tokens": 32}


def iterations(given: argparse.Namespace, model: str, folder: str) -> Any:
    """A function (method, whether with an E-step, number) -> the iteration's seconds by phase, and its tokens."""
    from vpdlab.learn.methods import get_method
    from vpdlab.run import Iteration, iterate

    usual = APPRENTICE if model == "apprentice" else OTHERS
    size = {name: getattr(given, name) or value for name, value in usual.items()}
    fields: dict[str, Any] = {
        "model": folder, "device": given.device, "precision": given.precision, "threads": given.threads, "lr": STILL,
        "prompts": size["prompts"], "group": size["group"], "max_new_tokens": size["tokens"], "method": "vpd",
    }  # fmt: skip
    if model == "apprentice":
        run = common.open_run(common.Drill(sums=True), preset="tour-common", **fields)
    else:
        fields |= {"alpha": 1.0, "support": "topk", "top_k": 20}
        run = common.open_run(common.Drill(count=max(64, size["prompts"])), **fields)
        common.never_ends(run)
    configs = {with_e: dataclasses.replace(run.config, e_every=int(with_e)) for with_e in (False, True)}

    def taken(method: str, with_e: bool, number: int) -> dict[str, float]:
        run.method, run.config = get_method(method), configs[with_e]
        done: list[Iteration] = []
        seconds = common.timed(lambda: done.append(iterate(run, number)), given.device)
        it = done[0]
        if (it.e.loss is not None) is not with_e or it.e.skipped or it.m.skipped:
            raise SystemExit(f"{model}: an E-step was expected: {with_e}; E-step: {it.e.reason}; M-step: {it.m.reason}")
        tokens = sum(len(rollout.response_ids) for rollout in it.rollouts)
        whole = {"whole": seconds.clock, "processor": seconds.processor}
        return {**whole, "tokens": tokens, **{phase: it.seconds[phase] for phase in PHASES}}

    return taken


def measure(given: argparse.Namespace, model: str, folder: str) -> list[list[str]]:
    """The table rows of one model."""
    taken = iterations(given, model, folder)
    ways = {"SDPO": ("sdpo", False), "with": ("vpd", True), "without": ("vpd", False)}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(given.rounds + 1):
        for name, (method, with_e) in ways.items():
            numbers = taken(method, with_e, number + 1)
            if number:
                times[name].append(numbers)
    for turn in zip(*times.values(), strict=True):
        if len({numbers["tokens"] for numbers in turn}) != 1:
            raise SystemExit(f"{model}: the rollouts differ, so the times cannot be compared")
    rows = [line(model, "SDPO", times["SDPO"], ["", ""])]
    for every in (1, 5, 10):
        mixed = [
            {key: (value + (every - 1) * without[key]) / every for key, value in with_e.items()}
            for with_e, without in zip(times["with"], times["without"], strict=True)
        ]
        share, spent = (
            common.ratios([a[key] for a in mixed], [b[key] for b in times["SDPO"]]) for key in ("whole", "processor")
        )
        compared = [common.spread(share), f"{statistics.median(spent):.2f}"]
        rows.append(line(model, f"VPD, F = {every}", mixed, compared))
        if every == 5:
            common.goal(given, f"VPD at F = 5 of SDPO, {model}", statistics.median(share), 1.15)
    return rows


def line(model: str, name: str, measured: list[dict[str, float]], shares: list[str]) -> list[str]:
    seconds = [common.spread([numbers[key] for numbers in measured], 3) for key in (*PHASES, "whole")]
    return [model, name, *seconds, *shares, f"{statistics.median(numbers['tokens'] for numbers in measured):.0f}"]


def main() -> None:
    parser = common.options(
        __doc__,
        models=dict(nargs="+", default=["smollm2-135m", "apprentice"]),
        shape=dict(choices=list(common.SHAPES), help="random weights of this shape instead of the models"),
        precision=dict(default="float32", choices=["float32", "bfloat16", "bfloat16-mixed"]),
        rounds=dict(type=int, default=0, help="rounds to measure, after one warm-up round; 0: 2, 10 for small models"),
        prompts=dict(type=int, default=0, help="problems per iteration; 0: 4, and 16 for the apprentice"),
        group=dict(type=int, default=0, help="rollouts per problem; 0: 4, and 8 for the apprentice"),
        tokens=dict(type=int, default=0, help="longest response; 0: 32, and 12 for the apprentice"),
    )
    given = parser.parse_args()
    if given.quick:
        given.models, given.rounds, given.prompts, given.group = ["apprentice"], 2, 4, 2
    common.pin(given)
    print(common.machine(given, given.precision) + "\n", flush=True)
    rows, rounds = [], given.rounds
    with tempfile.TemporaryDirectory() as scratch:
        for name in [given.shape] if given.shape else given.models:
            given.rounds = rounds or (10 if name in ("apprentice", "qwen3-tiny") else 2)
            rows += measure(given, name, common.model_folder(name, Path(scratch), given.device))
    heads = ["model", "", "rollout s", "E-step s", "M-step s", "iteration s", "of SDPO", "of SDPO (CPU s)"]
    print()
    common.show([*heads, "response tokens"], rows)


if __name__ == "__main__":
    main()
