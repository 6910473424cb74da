"""What the bundled model `reader` can do, measured on digits and wordings that it was not taught."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vpdlab.prompts import Renderer, Templates
from vpdlab.tasks.common.lexicon.frames import Wording, verdict
from vpdlab.tasks.common.lexicon.operations import KINDS
from vpdlab.tasks.lexicon import Lexicon
from vpdlab.types import Feedback
from vpdlab.zoo.lessons import PROBLEM_LAST


@dataclass(frozen=True)
class Read:
    """Responses to held-out problems, as a model scores them.

    Attributes:
        operation: [N, 16] log-probabilities of the operations where each response names one.
        asked: [N] index of the operation that it names.
        digits: [N] whether the most likely digits after it are all right.
    """

    operation: torch.Tensor
    asked: torch.Tensor
    digits: torch.Tensor


def skills(model: Any, tokenizer: Any, rows: int = 128) -> dict[str, float]:
    """Skill -> its measure: mean probabilities of the operation that was told, with one exception.

    "guess entropy" is that of the operation when nothing is told, in nats; at most ln 16 = 2.773. "execution" is the
    share of steps whose most likely digits are all right, given the operation.

    Args:
        rows: problems per skill.
    """

    def told(read: Read) -> float:
        return read.operation.gather(1, read.asked[:, None]).exp().mean().item()

    def read(steps: int = 1, templates: Templates | None = None, plain: bool = False, **wording: Any) -> Read:
        renderer = Renderer(tokenizer, templates or Templates(), 1024)
        return measure(model, renderer, rows, steps, plain, Wording(**wording))

    rule, two, guess = read(), read(2), read(plain=True)
    even = guess.operation
    return {
        "described": told(rule),
        "problem last": told(read(templates=PROBLEM_LAST)),
        "unseen frame": told(read(frames="unseen")),
        "unseen phrase": told(read(phrases="unseen")),
        "two steps": told(two),
        "slang": told(read(slang=1.0)),
        "guess entropy": -(even.exp() * even).sum(1).mean().item(),
        "execution": torch.cat([rule.digits, two.digits, guess.digits]).float().mean().item(),
    }


@torch.no_grad()
def measure(model: Any, renderer: Renderer, rows: int, steps: int, plain: bool, wording: Wording) -> Read:
    """Score the reference responses to held-out problems whose meanings are told in `wording` (or not at all)."""
    operations = [renderer.tokenizer.convert_tokens_to_ids(f"Ġ{kind}") for kind in KINDS]
    found, asked, right = [], [], []
    for context, response in prompts(renderer, rows, steps, plain, wording):
        logits = model(input_ids=torch.tensor([[*context, *response]])).logits[0, len(context) - 1 : -1]
        for at, token in enumerate(response):
            if token in operations:
                found.append(logits[at].log_softmax(-1)[operations])
                asked.append(operations.index(token))
                right.append((logits[at + 1 : at + 5].argmax(-1) == torch.tensor(response[at + 1 : at + 5])).all())
    return Read(torch.stack(found), torch.tensor(asked), torch.stack(right))


def prompts(
    renderer: Renderer, rows: int, steps: int, plain: bool, wording: Wording
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Token ids of the prompt and of the reference response, for `rows` held-out problems."""
    for seed in range(rows):
        task = Lexicon(steps=steps, size=1, heldout=1, seed=1000 + seed)
        (problem,), rng = task.load("test"), random.Random(f"skills {seed}")
        response = renderer.encoder.ids(problem.answer)
        if plain:
            yield renderer.student(problem), response
            continue
        parts = []
        for step, (name, meaning) in enumerate(zip(problem.data["names"], problem.data["meanings"], strict=True)):
            parts += [verdict(rng, step, steps, False), wording.sentence(rng, name, tuple(meaning))]
        yield renderer.teacher(problem, Feedback(critique=" ".join(parts)))[0], response
