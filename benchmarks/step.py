"""An SDPO step and a VPD step of vpdlab against a step of TRL's SDPOTrainer: same model, same work, same machine.

    python benchmarks/step.py                                   # smollm2-135m and the apprentice, on the CPU
    python benchmarks/step.py --models apprentice --quick
    python benchmarks/step.py --device cuda --shape qwen3-1.7b --precisions bfloat16 --prompts 16 --group 8 --apart

All three alternate step by step in one process: vpdlab takes its steps in TRL's `on_step_end`. With --apart each has a
process of its own, one after the other, since a GPU would not hold both; TRL then accumulates its gradient over
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
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from step_trl import trl_trainer, with_trl
from step_work import SETTINGS, TOP_K, Times, Work, checked

# Default problems, rollouts per problem and longest response: those of the apprentice's tours, and for a real model
# what two cores can handle.
APPRENTICE = {"prompts": 16, "group": 8, "tokens": 12}
OTHERS = {"prompts": 4, "group": 4, "tokens": 32}
NATURAL = {"tokens": 48}


class Ours:
    """A run of vpdlab that takes SDPO's or VPD's step on request."""

    def __init__(self, given: argparse.Namespace, model: str, precision: str, lengths: str, task: common.Drill) -> None:
        from vpdlab.learn.methods import get_method

        self.run = common.open_run(
            task, method="vpd", model=model, precision=precision, device=given.device, threads=given.threads,
            prompts=given.prompts, group=given.group, max_new_tokens=given.tokens, feedback=("verifier",), e_every=1,
            alpha=1.0, support="topk", top_k=TOP_K, tail="bucket", aggregate="sequence", **SETTINGS,
        )  # fmt: skip
        if lengths == "fixed":
            common.never_ends(self.run)
        self.methods = {name: get_method(name) for name in ("sdpo", "vpd")}
        self.work = Work(0, 0, 0)
        pack = self.run.pack

        def counted(*args: Any) -> Any:
            batch = pack(*args)
            self.work = Work(sum(map(len, batch.student)), sum(map(len, batch.teacher)), batch.response_tokens)
            return batch

        self.run.pack = counted  # type: ignore[method-assign]

    def step(self, name: str, number: int, device: str) -> tuple[float, common.Seconds, Work]:
        from vpdlab.run import Iteration, iterate

        self.run.method = self.methods[name]
        taken: list[Iteration] = []
        whole = common.timed(lambda: taken.append(iterate(self.run, number)), device)
        checked(name, taken[0].m.loss)
        if name == "vpd":
            checked("E-step", taken[0].e.loss)
        return taken[0].seconds["rollout"], whole, self.work


def alone(given: argparse.Namespace, ours: Ours) -> dict[str, Times]:
    """vpdlab's steps without TRL."""
    times = {"sdpo": Times(), "vpd": Times()}
    for number in range(1, given.rounds + 2):
        for name, own in times.items():
            taken = ours.step(name, number, given.device)
            if number > 1:
                own.add(*taken)
    return times


def weights(model: Any) -> Any:
    return model.get_decoder().layers[0].self_attn.q_proj.weight.detach().clone()


def apart(given: argparse.Namespace, name: str, precision: str, lengths: str) -> list[list[str]]:
    """The table rows of one setting, each side in a process of its own."""
    times: dict[str, Times] = {}
    limit = body = head = 0.0
    for side in ("ours", "trl"):
        if side == "trl" and given.no_trl:
            continue
        settings = {key: getattr(given, key) for key in ("device", "threads", "rounds", "prompts", "group", "tokens")}
        words = [
            f"--{key}={value}" for key, value in {**settings, "accumulate": given.accumulate, "side": side}.items()
        ]
        where = ["--shape", name] if name in common.SHAPES else ["--models", name]
        asked = [*words, *where, "--precisions", precision, "--lengths", lengths]
        done = subprocess.run([sys.executable, __file__, *asked], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{side} failed in a process of its own ({done.returncode}): {name}, {precision}", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        limit, body, head = (found.pop(key) for key in ("limit", "body", "head"))
        times |= {who: Times.of(values) for who, values in found.items()}
    return table_rows(given, times, limit, int(body), int(head), [name, precision, lengths])


def measure(given: argparse.Namespace, name: str, precision: str, lengths: str, scratch: Path) -> list[list[str]]:
    """The table rows of one setting."""
    folder = common.model_folder(name, scratch, given.device)
    given = argparse.Namespace(**vars(given))
    usual = APPRENTICE if name == "apprentice" else OTHERS | (NATURAL if lengths == "natural" else {})
    for setting, value in usual.items():
        setattr(given, setting, getattr(given, setting) or value)
    task = common.Drill(sums=name == "apprentice", count=max(64, given.prompts))
    ours = Ours(given, folder, precision, lengths, task)
    model = ours.run.learner.policy.model
    ours_alone = given.no_trl or given.side == "ours"
    trainer = None if ours_alone else trl_trainer(given, folder, precision, lengths, ours.run, str(scratch))
    learners = [model] if trainer is None else [model, trainer.model]
    learners = learners[1:] if given.side == "trl" else learners
    before = [weights(learner) for learner in learners]
    take = None if given.side == "trl" else ours.step
    times = alone(given, ours) if trainer is None else with_trl(given, trainer, take)
    for old, learner in zip(before, learners, strict=True):
        if bool((old.to(learner.device) == weights(learner)).all()):
            raise SystemExit(f"{name}, {precision}: the weights have not changed, so the measurement is void")
    limit = common.matrix_limit(given.device, precision)
    body, head = common.body_parameters(model), model.get_output_embeddings().weight.numel()
    if given.side:
        numbers = {who: own.numbers() for who, own in times.items()}
        print(json.dumps({**numbers, "limit": limit, "body": body, "head": head}), flush=True)
        return []
    return table_rows(given, times, limit, body, head, [name, precision, lengths])


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
        side=dict(default="", help=argparse.SUPPRESS),
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
    if not given.side:
        print(common.machine(given, " ".join(given.precisions)) + "\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            for precision in given.precisions:
                for lengths in given.lengths:
                    setting = (given, name, precision, lengths)
                    rows += apart(*setting) if given.apart else measure(*setting, Path(scratch))
                    gc.collect()
    if given.side:
        return
    heads = ["model", "dtype", "lengths", "", "rollout s", "update s", "step s", "of TRL", "of TRL (CPU s)"]
    print()
    common.show([*heads, "tokens student/teacher/response", "use"], rows)


if __name__ == "__main__":
    main()
