"""vpdlab's side of step.py: a run that takes a step of SDPO or of VPD whenever it is told to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import common
from step_work import SETTINGS, TOP_K, Times, Work, checked

# Of a run that only lends its problems and templates: nothing is measured, compiled or captured for it.
LENDS = {"compile": "off", "capture": "off", "checkpointing": "off", "minibatch_tokens": 4096}


class Ours:
    """A run of vpdlab that takes SDPO's or VPD's step on request."""

    def __init__(self, given: argparse.Namespace, model: str, precision: str, lengths: str, task: common.Drill) -> None:
        from vpdlab.learn.methods import get_method

        self.run = common.open_run(
            task, method="vpd", model=model, precision=precision, device=given.device, threads=given.threads,
            prompts=given.prompts, group=given.group, max_new_tokens=given.tokens, feedback=("verifier",), e_every=1,
            alpha=1.0, support="topk", top_k=TOP_K, tail="bucket", aggregate="sequence", **SETTINGS,
            **(LENDS if given.side == "trl" else {}),
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


def take_steps(given: argparse.Namespace, ours: Ours, turns: Iterator[None]) -> dict[str, Times]:
    """One step of each method a turn; the first turn is not counted."""
    times = {name: Times() for name in ours.methods}
    for number, _ in enumerate(turns, 1):
        for name, own in times.items():
            taken = ours.step(name, number, given.device)
            if number > 1:
                own.add(*taken)
    return times
