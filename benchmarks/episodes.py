"""Episodes against single turns of the same tokens, decoded and learned from.

    python benchmarks/episodes.py [--model reader] [--episodes 64] [--turns 4] [--tokens 24] [--repeats 5]

Episodes have a scripted environment, which replies in a sentence; nothing ends before its limit. A single turn samples
as many tokens as a turn of an episode, and its prompt is longer by a few words, so that both sides read about as
many tokens too. The third side samples as many but reads less: bare prompts, one for eight responses.
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import torch

from vpdlab.config import RunConfig
from vpdlab.learn.iterate import iterate
from vpdlab.learn.parts import Parts
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.types import Outcome, Problem

GOAL = 1.3
SENTENCE = "The second digit is wrong: try it once more."
TOLD = "It is wrong. Again."  # makes a prompt about as long as a turn's share of prompt and replies


class Scripted:
    """Replies until the last turn; about every other episode is right.

    Args:
        told: whether the prompt is as long as what others hear.
    """

    name = "scripted"

    def __init__(self, turns: int, told: bool = False) -> None:
        self.turns, self.told = turns, told

    def start(self, problem: Problem) -> list[Message]:
        """The problem's own turns."""
        *before, last = messages(problem)
        return [*before, {**last, "content": f"{last['content']} {TOLD}"} if self.told else last]

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """A sentence; after the last turn, the outcome."""
        if episode.attempts < self.turns:
            return Reply(SENTENCE)
        return Outcome(float(zlib.crc32(episode.problem.id.encode()) + episode.index & 1), "The second digit is wrong.")


def parts(arguments: argparse.Namespace, turns: int, responses: int, group: int, told: bool = False) -> Parts:
    """A run of `responses` episodes an iteration, each of `turns` turns."""
    tokens = arguments.tokens
    fields: dict[str, Any] = {
        "task": "lexicon", "model": arguments.model, "method": "sdpo", "threads": 1, "alpha": 1.0, "eval_every": -1,
        "prompts": responses // group, "group": group, "max_context": 200,
        "max_new_tokens": turns * tokens + (turns - 1) * 60, "turn_tokens": tokens, "max_turns": turns,
        "sampler_rows": arguments.episodes,
    }  # fmt: skip
    made = Parts.open(RunConfig.make(**fields), environment=Scripted(turns, told))
    sampler: Any = made.sampler
    sampler._ends = torch.full_like(sampler._ends, -1)  # no token ends a turn: equal limits, equal numbers of tokens
    return made


def tokens_of(side: Parts) -> tuple[int, int]:
    """How many tokens an iteration samples, and how many it reads besides: prompts, once a group, and replies."""
    rollouts = side.rollouts(1)
    prompts = {rollout.group: len(rollout.prompt_ids) for rollout in rollouts}
    own = sum(rollout.own_tokens for rollout in rollouts)
    return own, sum(prompts.values()) + sum(len(rollout.response_ids) for rollout in rollouts) - own


def timed(work: Callable[[], object]) -> float:
    """Processor time of one call in seconds: one thread works, and other processes may."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(what: str, job: Callable[[Parts, int], object], sides: dict[str, Parts], repeats: int) -> None:
    """Print the medians of alternating calls, and their ratio."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(1, repeats + 1):
        for name, side in sides.items():
            times[name].append(timed(lambda side=side, step=step: job(side, step)))
    middle = {name: statistics.median(values) for name, values in times.items()}
    first, *others = middle
    for other in others:
        ratio = f"{middle[first] / middle[other]:.2f} x"
        print(f"{what}: {first} {middle[first]:.3f} s, {ratio} {other} ({middle[other]:.3f} s)")


def main() -> None:
    """Sampling alone, and a whole iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reader")
    for name, value in (("episodes", 64), ("turns", 4), ("tokens", 24), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count, turns = arguments.episodes, arguments.turns
    sides = {
        "episodes": parts(arguments, turns, count, 8),
        f"single turns of the same tokens (aim: at most {GOAL})": parts(arguments, 1, count * turns, 1, told=True),
        "single turns of the same sampled tokens": parts(arguments, 1, count * turns, 8),
    }
    counts = {name: tokens_of(side) for name, side in sides.items()}
    if len({sampled for sampled, _ in counts.values()}) != 1:
        raise SystemExit(f"the sides sampled different numbers of tokens: {counts}")
    print(f"{arguments.model}, one thread, processor time, medians; tokens sampled and read:")
    for name, (sampled, read) in counts.items():
        print(f"  {name.split(' (')[0]}: {sampled}, {read}")
    compare("sampling", Parts.rollouts, sides, arguments.repeats)
    compare("a whole iteration (sdpo)", iterate, sides, arguments.repeats)


if __name__ == "__main__":
    main()
