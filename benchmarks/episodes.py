"""Episodes against single turns: the same number of sampled tokens, decoded and learned from.

    python benchmarks/episodes.py [--model reader] [--episodes 64] [--turns 4] [--tokens 24] [--repeats 5]

Episodes have a scripted environment, which replies in a sentence; nothing ends before its limit. A turn of an episode
reads the conversation before it again, which single responses to the bare prompt do not have.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from vpdlab.config import RunConfig
from vpdlab.learn.iterate import iterate
from vpdlab.learn.parts import Parts
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.types import Outcome, Problem

GOAL = 1.3


class Scripted:
    """Replies until the last turn; every other episode is right."""

    name = "scripted"

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def start(self, problem: Problem) -> list[Message]:
        """The problem's own turns."""
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """A sentence; after the last turn, the outcome."""
        if episode.attempts < self.turns:
            return Reply("The second digit is wrong: try it once more.")
        return Outcome(float(episode.index % 2), "The second digit is wrong.")


def parts(arguments: argparse.Namespace, turns: int) -> Parts:
    """A run of `episodes` conversations, or of as many single responses as they have turns."""
    tokens = arguments.tokens
    fields: dict[str, Any] = {
        "task": "lexicon", "model": arguments.model, "method": "sdpo", "threads": 1, "alpha": 1.0, "eval_every": -1,
        "prompts": arguments.episodes * (1 if turns > 1 else arguments.turns) // 8, "group": 8, "max_context": 200,
        "max_new_tokens": turns * tokens + (turns - 1) * 60, "turn_tokens": tokens, "max_turns": turns,
        "sampler_rows": arguments.episodes,
    }  # fmt: skip
    made = Parts.open(RunConfig.make(**fields), environment=Scripted(turns))
    sampler: Any = made.sampler
    sampler._ends = torch.full_like(sampler._ends, -1)  # no token ends a turn: equal limits, equal numbers of tokens
    return made


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(what: str, job: Callable[[Parts, int], object], sides: dict[str, Parts], repeats: int) -> None:
    """Print the medians of alternating calls, and their ratio."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(1, repeats + 1):
        for name, side in sides.items():
            times[name].append(timed(lambda side=side, step=step: job(side, step)))
    middle = {name: statistics.median(values) for name, values in times.items()}
    ratio = middle["episodes"] / middle["single turns"]
    shown = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in middle.items())
    print(f"{what}: {shown}, ratio {ratio:.2f} (aim: at most {GOAL})")


def main() -> None:
    """Sampling alone, and a whole iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reader")
    for name, value in (("episodes", 64), ("turns", 4), ("tokens", 24), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides = {"episodes": parts(arguments, arguments.turns), "single turns": parts(arguments, 1)}
    counts = {name: sum(r.own_tokens for r in side.rollouts(1)) for name, side in sides.items()}
    if len(set(counts.values())) != 1:
        raise SystemExit(f"the sides sampled different numbers of tokens: {counts}")
    print(f"{arguments.model}: {counts['episodes']} sampled tokens a side, one thread")
    compare("sampling", Parts.rollouts, sides, arguments.repeats)
    compare("a whole iteration (sdpo)", iterate, sides, arguments.repeats)


if __name__ == "__main__":
    main()
