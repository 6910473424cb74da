"""Starts processes that meet as a launcher's do. `python ranks.py`: a job as a line of JSON in, how it ended out.

A job: {"name": one of JOBS, "count": processes, "out": a folder, ...}. Every process is a fork of this one, which has
loaded all modules, and leaves OUT/RANK.pt and OUT/RANK.err. The answer: {"codes": exit statuses, "seconds": ...}.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401
import torch
from accelerate import PartialState
from toy import Parity, toy_run

from vpdlab import processes
from vpdlab.config import RunConfig
from vpdlab.feedback import Context
from vpdlab.feedback.critics import Critique
from vpdlab.model.sharding import whole
from vpdlab.run import Run, iterate
from vpdlab.run.observe import metrics_row
from vpdlab.tasks.common.probes import Question, Reader
from vpdlab.types import Feedback, Outcome, Rollout, SampledText

PATIENCE = 60.0


class Breaks(Parity):
    """Fails in one process, in the second iteration."""

    def verify(self, rollout: Rollout) -> Outcome:
        self.seen = getattr(self, "seen", 0) + 1
        if self.seen > 4 and processes.rank() == 1:
            raise ValueError("the judge is gone")
        return super().verify(rollout)


class Asks(Parity):
    """Scores answers of different lengths by both weights, and reports the process."""

    def probes(self, reader: Reader) -> dict[str, float | None]:
        told = Feedback("The number has too many digits.", source="verifier")
        asked = [Question(problem, "12 or " * n + "7", told) for n, problem in enumerate(self.load("test")[:5])]
        found = {f"{by}/{n}": logp for by in ("teacher", "student") for n, logp in enumerate(reader.logp(asked, by))}
        return {**found, "process": processes.rank()}


def mutter(rollouts: list[Rollout], context: Context) -> list[Critique]:
    """A critic who says the attempt itself: enough for one that learns."""
    return [
        Critique(rollout.text[:20] or "no", "", SampledText(rollout.prompt_ids, rollout.tokens)) for rollout in rollouts
    ]


def update(
    fields: dict[str, Any], steps: int = 1, poisoned: int = -1, central: bool = False, **rest: Any
) -> dict[str, Any]:
    """Iterations without a record: their metrics, batches, gradients as the optimisers get them, and the weights.

    In the process `poisoned` the first iteration's loss is NaN. With `central` the main process samples for all.
    """
    run = toy_run(grad_clip=0.0, **fields)
    if run.critic is not None:
        run.critic.critic = mutter
    policy, verify, batches, gradients = run.learner.policy, run.verify, [], []
    generate, asked = run.sampler.generate, []
    run.sampler.central = central
    run.sampler.generate = lambda contexts, *how: asked.append(len(contexts)) or generate(contexts, *how)

    def keep(rollouts: list[Rollout]) -> list[Rollout]:
        done = verify(rollouts)
        batches.append([(r.group, r.index, r.response_ids, r.success) for r in done])
        return done

    def look(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
        parameters = policy.parameters if optimizer is policy.optimizer else policy.teacher_parameters
        gradients.append([None if p.grad is None else whole(p.grad).clone() for p in parameters])

    backward, rows = policy.backward, []
    if processes.rank() == poisoned:
        policy.backward = lambda loss: backward(loss * (math.nan if not rows else 1.0))
    run.verify = keep
    for optimizer in {policy.optimizer, policy.e_optimizer}:
        optimizer.register_step_pre_hook(look)
    for step in range(1, steps + 1):
        rows.append(metrics_row(iterate(run, step)))
    weights = {name: whole(value) for name, value in policy.model.state_dict().items()}
    return {"rows": rows, "batches": batches, "gradients": gradients, "weights": weights, "asked": asked}


def train(
    fields: dict[str, Any], task: str = "Parity", interrupt: tuple[int, int] = (0, 0), kill: tuple[int, int] = (0, 0),
    **rest: Any,
) -> dict[str, Any]:  # fmt: skip
    """A whole run; `interrupt` and `kill` name a process and the iteration behind which it gets the signal."""
    run = Run.open(RunConfig.make(**fields), task={"Parity": Parity, "Breaks": Breaks, "Asks": Asks}[task]())
    for row in run.steps():
        for (rank, step), number in ((interrupt, signal.SIGINT), (kill, signal.SIGKILL)):
            if (processes.rank(), row["step"]) == (rank, step):
                os.kill(os.getpid(), number)
    return {"rows": run.rows, "evals": run.evals}


def meet(lines: str, **rest: Any) -> Any:
    """What an expression gives in each process, behind a meeting."""
    processes.join("cpu")
    return eval(lines, {"processes": processes, "torch": torch, "os": os})


JOBS = {"update": update, "train": train, "meet": meet}


def start(job: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        out = Path(job["out"])
        os.dup2(os.open(out / f"{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["count"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        PartialState._reset_state()
        torch.save(JOBS[job["name"]](**job), out / f"{rank}.pt")
        processes.leave()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:  # never back into the parent's code
        sys.stderr.flush()
        os._exit(code)


def ended(children: list[int]) -> list[int]:
    """How each ended; those that do not are killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + PATIENCE
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[child] for child in children]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    torch.set_num_threads(1)
    toy_run()  # the modules of the model, too
    print("ready", flush=True)
    for line in sys.stdin:
        job, begun, port = json.loads(line), time.monotonic(), free_port()
        Path(job["out"]).mkdir(parents=True, exist_ok=True)
        codes = ended([start(job, rank, port) for rank in range(job["count"])])
        print(json.dumps({"codes": codes, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main()
