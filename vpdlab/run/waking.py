"""The first passes on a GPU, before the first step: kernels are compiled, loaded and captured then, which takes longer
than many steps. So a progress line says it, and no step's seconds contain it (environment.json has them)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vpdlab.errors import notice
from vpdlab.model.batch import collate
from vpdlab.model.budget import measures, trial
from vpdlab.processes import main
from vpdlab.sampling import Sampling
from vpdlab.types import View

if TYPE_CHECKING:
    from vpdlab.run.run import Run

TOKENS = 16  # of a response that wakes the sampler: long enough to look at which rows have ended
MOST = 4096  # padded tokens of the update that wakes the scorer


def wake(run: Run) -> None:
    """Sample and score once, without an update, where the run is on a GPU. Nothing of it is kept, and no random number
    of the run is used up."""
    policy = run.policy
    if policy.device.type != "cuda" or policy.config.shard:
        return
    if main():
        notice("waking up the GPU: kernels and graphs of the first step")
    started = time.perf_counter()
    first_passes(run)
    policy.waking += time.perf_counter() - started


def first_passes(run: Run) -> None:
    """The passes of an iteration over the first step's problems: decoding, both sides of an M-step, an E-step's."""
    config, policy = run.config, run.policy
    contexts = [run.render.student(problem) for problem in run.problems(len(run.rows) + 1) for _ in range(config.group)]
    if config.sampler == "transformers":
        sampling = Sampling(config.temperature, 1.0, min(TOKENS, config.max_new_tokens))
        run.sampler.generate(contexts, [(config.seed, row) for row in range(len(contexts))], sampling)
    views = [View(tuple(context), tuple(policy.some_ids()[:2])) for context in contexts[: config.group]]
    try:
        if not measures(policy):  # else both sides of an M-step have been computed already
            trial(policy, min(MOST, policy.minibatch_tokens), run.method.joint)
        policy.backward(policy.logp(collate(views, range(len(views)), policy.device)).sum())
    finally:
        policy.fresh()
