"""An SDPO step and a VPD step of vpdlab against a step of TRL's SDPOTrainer: same model, same work, same machine.

    python benchmarks/step.py                                   # smollm2-135m and the apprentice, on the CPU
    python benchmarks/step.py --models apprentice --quick
    python benchmarks/step.py --device cuda --shape qwen3-1.7b --precisions bfloat16 --prompts 16 --group 8 --apart

Each library has a process of its own, as its users have it (in one process they change each other's memory: the
allocator learns from the blocks of both), and they take turns, step by step: TRL's, then SDPO's and VPD's. With --apart
one starts when the other has ended, since a GPU would not hold both; TRL then accumulates its gradient over
--accumulate parts. The weights, problems,
feedback, templates, number of rollouts, support (top 20 and tail), divergence (reverse KL, mean over responses), AdamW
and its settings are the same, with one update per step, a live teacher and no gradient checkpointing. Responses have a
fixed length (no token ends one) or end by themselves (natural). A step consists of its rollout (generation) and its
update (the rest). "of TRL" is the median over rounds of the ratio, in wall time and in CPU time, which other load on
the machine affects less.

Tokens are those of one step, without padding: the student's prompt and response, the teacher's, and the responses.
"use" is the update's share of the machine's limit, measured at the start with a large matrix product of the same dtype:
FLOPs are 6 N per token with gradient and 2 N per token without, N without the embeddings; the head counts at response
tokens only, attention not at all. VPD's E-step counts as one pass with gradient.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
from step_ours import Ours, take_steps
from step_sides import Side, turns
from step_trl import train, trl_trainer
from step_work import Times

from vpdlab.model import devices

# Default problems, rollouts per problem and longest response: those of the apprentice's tours, and for a real model
# what two cores can handle.
APPRENTICE = {"prompts": 16, "group": 8, "tokens": 12}
OTHERS = {"prompts": 4, "group": 4, "tokens": 32}
NATURAL = {"tokens": 48}


def weights(model: Any) -> Any:
    return model.get_decoder().layers[0].self_attn.q_proj.weight.detach().clone()


def serve(given: argparse.Namespace, name: str, precision: str, lengths: str, scratch: str) -> None:
    """One side, in its own process: takes its turns and prints what it measured as JSON."""
    folder = common.model_folder(name, Path(scratch), given.device)
    usual = APPRENTICE if name == "apprentice" else OTHERS | (NATURAL if lengths == "natural" else {})
    for setting, value in usual.items():
        setattr(given, setting, getattr(given, setting) or value)
    task = common.Drill(sums=name == "apprentice", count=max(64, given.prompts))
    if given.side == "trl":  # its process needs our run for the problems and templates, but has its own way with memory
        devices.keep_freed_memory = lambda: False
    ours = Ours(given, folder, precision, lengths, task)
    if given.side == "ours":
        model = ours.run.learner.policy.model
        before = weights(model)
        times = take_steps(given, ours, turns())
    else:
        trainer = trl_trainer(given, folder, precision, lengths, ours.run, scratch)
        model = trainer.model
        before = weights(model)
        times = train(given, trainer, turns())
    if bool((before.to(model.device) == weights(model)).all()):
        raise SystemExit(f"{name}, {precision}: the weights have not changed, so the measurement is void")
    found: dict[str, Any] = {who: own.numbers() for who, own in times.items()}
    found["limit"] = common.matrix_limit(given.device, precision)
    found["body"], found["head"] = common.body_parameters(model), model.get_output_embeddings().weight.numel()
    print(json.dumps(found), flush=True)


def measure(given: argparse.Namespace, name: str, precision: str, lengths: str) -> list[list[str]]:
    """The table rows of one setting."""
    found: dict[str, Any] = {}
    names = ["ours"] if given.no_trl else ["trl", "ours"]
    for group in [[side] for side in names] if given.apart else [names]:
        try:
            sides = [Side(command(given, side, name, precision, lengths)) for side in group]
            for _ in range(given.rounds + 1):
                for side in sides:
                    side.step()
            for side in sides:
                found |= side.numbers()
        except ChildProcessError as error:
            print(f"{' and '.join(group)} failed ({error}): {name}, {precision}", flush=True)
    limit, body, head = (found.pop(key, 0) for key in ("limit", "body", "head"))
    times = {who: Times.of(values) for who, values in found.items()}
    return table_rows(given, times, limit, body, head, [name, precision, lengths])


def command(given: argparse.Namespace, side: str, name: str, precision: str, lengths: str) -> list[str]:
    """The command line of a side."""
    kept = ("device", "threads", "rounds", "prompts", "group", "tokens", "accumulate")
    words = [f"--{key}={getattr(given, key)}" for key in kept]
    where = ["--shape", name] if name in common.SHAPES else ["--models", name]
    return [*words, "--side", side, *where, "--precisions", precision, "--lengths", lengths]


def table_rows(
    given: argparse.Namespace, times: dict[str, Times], limit: float, body: int, head: int, setting: list[str]
) -> list[list[str]]:
    """A row for each implementation; and the goal's line, where TRL is among them."""
    if "TRL" in times and "sdpo" in times:
        share = statistics.median(common.ratios(times["sdpo"].whole, times["TRL"].whole))
        most = 0.5 if given.device == "cpu" else 0.4
        common.goal(given, f"SDPO step of TRL's, {' '.join(setting)}", share, most)
    if "sdpo" in times and given.device != "cpu":
        used = use("sdpo", times["sdpo"], limit, body, head)
        common.goal(given, f"SDPO's update, share of the product rate, {' '.join(setting)}", used, 0.45, at="least")
    return [row(who, own, times.get("TRL"), limit, body, head, setting) for who, own in times.items()]


def use(who: str, own: Times, limit: float, body: int, head: int) -> float:
    """Median share of the machine's limit that the updates reach."""
    pairs = zip(own.work, own.update, strict=True)
    return statistics.median(work.flops(body, head, who == "vpd") / seconds / limit for work, seconds in pairs)


def row(who: str, own: Times, other: Times | None, limit: float, body: int, head: int, setting: list[str]) -> list[str]:
    compared = ["", ""]
    if other is not None and who != "TRL":
        compared = [
            common.spread(common.ratios(own.whole, other.whole)),
            f"{statistics.median(common.ratios(own.processor, other.processor)):.2f}",
        ]
    tokens = "/".join(
        f"{statistics.mean(getattr(work, kind) for work in own.work):.0f}"
        for kind in ("student", "teacher", "response")
    )
    clock = [common.spread(values) for values in (own.rollout, own.update, own.whole)]
    return [*setting, who, *clock, *compared, tokens, f"{use(who, own, limit, body, head):.2f}"]


def main() -> None:
    parser = common.options(
        __doc__,
        models=dict(nargs="+", default=["smollm2-135m", "apprentice"]),
        shape=dict(choices=list(common.SHAPES), help="random weights of this shape instead of the models"),
        precisions=dict(nargs="+", default=["float32", "bfloat16"], help="float32, bfloat16 or bfloat16-mixed"),
        lengths=dict(nargs="+", default=["fixed", "natural"], choices=["fixed", "natural"]),
        rounds=dict(type=int, default=3, help="steps to measure, after one warm-up step"),
        prompts=dict(type=int, default=0, help="problems per step; 0: 4, and 16 for the apprentice"),
        group=dict(type=int, default=0, help="rollouts per problem; 0: 4, and 8 for the apprentice"),
        tokens=dict(type=int, default=0, help="longest response; 0: 32 or 48 (natural), and 12 for the apprentice"),
        no_trl=dict(action="store_true", help="measure vpdlab only"),
        apart=dict(action="store_true", help="TRL and vpdlab in processes of their own"),
        accumulate=dict(type=int, default=1, help="parts that TRL accumulates its gradient over"),
        side=dict(default="", choices=["", "ours", "trl"], help=argparse.SUPPRESS),
    )
    given = parser.parse_args()
    if given.quick:
        given.models, given.precisions, given.rounds = ["apprentice"], ["float32"], 2
        given.prompts, given.group, given.tokens = 2, 2, 12
    common.pin(given)
    if importlib.util.find_spec("trl") is None:
        print("missing: trl, so only vpdlab is measured")
        given.no_trl = True
    names = [given.shape] if given.shape else given.models
    if given.side:
        with tempfile.TemporaryDirectory() as scratch:
            serve(given, names[0], given.precisions[0], given.lengths[0], scratch)
        return
    print(common.machine(given, " ".join(given.precisions)) + "\n", flush=True)
    settings = [(name, kind, length) for name in names for kind in given.precisions for length in given.lengths]
    rows = [row for setting in settings for row in measure(given, *setting)]
    heads = ["model", "dtype", "lengths", "", "rollout s", "update s", "step s", "of TRL", "of TRL (CPU s)"]
    print()
    common.show([*heads, "tokens student/teacher/response", "use"], rows)


if __name__ == "__main__":
    main()
