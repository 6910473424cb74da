"""What the tests of the loop share: a tiny model with random weights, and a task it can do something about."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from vpdlab.config import RunConfig
from vpdlab.model.loading import without_bars
from vpdlab.run import Run, iterate
from vpdlab.run.observe import metrics_row
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.types import Outcome, Problem, Rollout
from vpdlab.zoo.make_apprentice import build_model, build_tokenizer


@functools.lru_cache(maxsize=1)
def toy_model() -> str:
    """Folder of a model with random weights and the apprentice's tokenizer."""
    folder = Path(tempfile.mkdtemp(prefix="vpdlab-toy-"))
    tokenizer = build_tokenizer()
    with without_bars():
        build_model(tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Parity:
    """A response is right where its token ids add up to an even number: about half of a random model's do."""

    name, summary = "parity", "parity: 12 problems"

    def load(self, split: str) -> list[Problem]:
        return [Problem(f"{split}-{i}", f"What is {i} + {i}?" + " Now" * (i % 3), "even") for i in range(12)]

    def verify(self, rollout: Rollout) -> Outcome:
        right = sum(rollout.response_ids) % 2 == 0
        return Outcome(float(right), "The number is right." if right else "The number has too many digits.", "x")


class OneReply:
    """An environment that replies once, then judges: every second episode is right."""

    name = "one reply"

    def start(self, problem: Problem) -> list[Message]:
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        return Reply("Read.") if episode.attempts < 2 else Outcome(float(episode.index % 2), "Wrong.")


def toy_run(record: bool = False, task: Any = None, **fields: Any) -> Run:
    """A run on the toy model and `Parity`; 4 problems x 4 rollouts of at most 9 tokens.

    The task that it is opened with gives way to `Parity`, so it has as few problems: opening a run reads all.
    """
    defaults = {
        "model": toy_model(), "prompts": 4, "group": 4, "max_new_tokens": 9, "max_context": 120, "lr": 1e-3,
        "e_every": 1, "steps": 3, "eval_problems": 4, "eval_samples": 2, "record_tokens": 4, "alpha": 1.0,
        "task_args": ("size=12",),
    }  # fmt: skip
    run = Run.open(RunConfig.make(**{**defaults, **fields}), record=record, task=task)
    run.task = Parity() if task is None else task
    return run


def train(run: Run, steps: int = 3) -> list[dict[str, Any]]:
    """Iterate without evaluation or record."""
    return [metrics_row(iterate(run, step)) for step in range(1, steps + 1)]


def weights(run: Run) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in run.learner.policy.model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
