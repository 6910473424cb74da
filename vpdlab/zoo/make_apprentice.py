"""Train the bundled model `apprentice` from scratch, in about twenty minutes on one core.

    python -m vpdlab.zoo.make_apprentice --out vpdlab/zoo/apprentice
    python -m vpdlab.zoo.make_apprentice --out elsewhere --start vpdlab/zoo/apprentice --stages habits

It is a small Llama with its own byte-level tokenizer: every word of the default templates and of the arithmetic task's
critiques is one token, every digit is one token, and any other text is encoded byte by byte. It is trained in four
stages (`STAGES`): to add, to attend to the problem across a distance, to read critiques and solutions, and finally to
give wrong answers in fixed proportions, which set how often student and teacher are right at the start of a tour. It
never sees the pairs that the arithmetic task holds out.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from vpdlab.prompts import Renderer, Templates
from vpdlab.tasks.arithmetic import critique, held_out
from vpdlab.types import Feedback, Problem
from vpdlab.zoo.scratch import make, random_llama, special_tokens, with_chat

# Share of right answers in the last stage: without feedback, and after a critique of a wrong attempt, for numbers of
# two and three digits. `vpdlab compare` measures the resulting success rates at the start of the tours.
RIGHT = {("plain", 2): 0.40, ("plain", 3): 0.08, ("critique", 2): 0.70, ("critique", 3): 0.45}


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        steps, rows, rate: maximum number of updates, examples per update, learning rate.
        until: the stage ends early once this skill (kind, number of digits) reaches this share of right answers. Each
            skill emerges suddenly after a long plateau, and only while the learning rate is high, so the rate stays
            constant and the length of the stage is not fixed.
        digits: number of digits -> share.
        kinds: "plain", "critique", "solution" -> share.
        gap: largest distance between the problem and the rest, made by shifting positions (0: none). What is learned
            next to the problem does not transfer to prompts with a critique until it holds at any distance.
        habits: whether answers are wrong in the proportions of `RIGHT`.
    """

    steps: int
    rows: int
    rate: float
    digits: Mapping[int, float]
    kinds: Mapping[str, float]
    gap: int = 0
    until: tuple[str, int, float] | None = None
    habits: bool = False


STAGES = {
    # With one-digit numbers: without the small table of sums, the ones digit of larger sums stays random for very long.
    "sums": Stage(4000, 128, 2e-3, {1: 0.2, 2: 0.35, 3: 0.45}, {"plain": 1.0}, until=("plain", 3, 0.9)),
    "distance": Stage(1000, 128, 1.5e-3, {1: 0.1, 2: 0.4, 3: 0.5}, {"plain": 1.0}, gap=55),
    "reading": Stage(
        4000,
        64,
        1.5e-3,
        {1: 0.1, 2: 0.3, 3: 0.6},
        {"plain": 0.15, "critique": 0.7, "solution": 0.15},
        until=("critique", 3, 0.85),
    ),
    "habits": Stage(400, 64, 1e-3, {2: 0.5, 3: 0.5}, {"plain": 0.35, "critique": 0.55, "solution": 0.1}, habits=True),
}


def build_tokenizer() -> Any:
    """Byte-level BPE trained on the templates and critiques, with each digit a separate token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = ["What is 12 + 34 - 5?", *vars(Templates()).values(), response("1")]
    texts += [critique(given, right) for given, right in (("123", "123"), ("199", "922"), ("1", "12"), ("12", "1"))]
    texts += [critique("-1", "1"), "The answer has no number."]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Enough merges for every word to become one token; training stops when nothing is left to merge.
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in texts for _ in range(3)], trainer)
    return with_chat(tokenizer)


def build_model(tokenizer: Any, seed: int) -> Any:
    """A Llama with 3 layers of width 96 and random weights."""
    return random_llama(tokenizer, seed)


def response(answer: str) -> str:
    """The form of the apprentice's responses."""
    return f"The answer is {answer}."


def problem(rng: random.Random, digits: int) -> Problem:
    """A sum that is not held out. One-digit sums are never held out."""
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1
    while True:
        a, b = rng.randint(low, high), rng.randint(low, high)
        if digits == 1 or not held_out(a, b):
            return Problem(f"{a}+{b}", f"What is {a} + {b}?", str(a + b))


def corrupted(rng: random.Random, right: str, near: float, share: float = 0.6) -> str:
    """A corrupted answer: each digit changes with probability `share`, by one (probability `near`) or at random."""
    if rng.random() < 0.03:
        return right[:-1] or "0" if rng.random() < 0.5 else right + rng.choice("0123456789")
    digits = []
    for index, digit in enumerate(right):
        if rng.random() < share:
            digit = str((int(digit) + rng.choice((-1, 1))) % 10) if rng.random() < near else rng.choice("0123456789")
        digits.append("1" if index == 0 and digit == "0" and len(right) > 1 else digit)
    return "".join(digits)


def wrong(rng: random.Random, right: str) -> str:
    """A corrupted answer that is wrong in a digit or two."""
    while True:
        answer = corrupted(rng, right, near=0.7, share=0.4)
        if answer != right and len(answer) == len(right):
            return answer


def example(rng: random.Random, digits: int, kind: str, habits: bool) -> tuple[Problem, Feedback, str]:
    """A problem, the feedback on it (none for kind "plain") and the answer to learn."""
    sum_ = problem(rng, digits)
    answer, attempt = sum_.answer, sum_.answer
    if kind == "solution":
        return sum_, Feedback(demonstration=response(answer)), answer
    if kind == "critique":
        attempt = wrong(rng, answer) if habits and rng.random() < 0.7 else corrupted(rng, answer, near=0.3)
    if habits and (kind == "plain" or attempt != sum_.answer) and rng.random() >= RIGHT[kind, digits]:
        # One way to be wrong after a critique is to ignore it: repeat the attempt.
        answer = attempt if attempt != answer and rng.random() < 0.5 else wrong(rng, answer)
    return sum_, Feedback(critique=critique(attempt, sum_.answer)) if kind == "critique" else Feedback(), answer


def batch(render: Renderer, rng: random.Random, stage: Stage) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, labels (-100 outside the response) and positions, all [B, S]; a batch has one kind and one number length."""
    tokenizer = render.tokenizer
    digits = rng.choices(list(stage.digits), list(stage.digits.values()))[0]
    kind = rng.choices(list(stage.kinds), list(stage.kinds.values()))[0]
    rows = []
    for _ in range(stage.rows):
        sum_, feedback, answer = example(rng, digits, kind, stage.habits)
        context = render.student(sum_) if kind == "plain" else render.teacher(sum_, feedback)[0]
        ids = tokenizer(response(answer), add_special_tokens=False).input_ids
        rows.append((list(context), [*ids, tokenizer.eos_token_id]))
    width = max(len(context) + len(answer) for context, answer in rows)
    fill = [width - len(context) - len(answer) for context, answer in rows]
    ids = torch.tensor([c + a + [tokenizer.pad_token_id] * n for (c, a), n in zip(rows, fill, strict=True)])
    labels = torch.tensor([[-100] * len(c) + a + [-100] * n for (c, a), n in zip(rows, fill, strict=True)])
    positions = torch.arange(width).repeat(len(rows), 1)
    if stage.gap:
        gaps = torch.tensor([rng.randint(0, stage.gap) if rng.random() < 0.7 else 0 for _ in rows])
        positions[:, -2 - labels.ne(-100).sum(1).max() :] += gaps[:, None]
    return ids, labels, positions


def train(model: Any, tokenizer: Any, name: str, seed: int) -> None:
    """Train one stage; prints progress every 200 steps."""
    stage, rng, render = STAGES[name], random.Random(f"{name} {seed}"), Renderer(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, weight_decay=0.01)
    started = time.monotonic()
    for step in range(1, stage.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * min(1.0, step / 100) * (1.0 if stage.until else 1 - 0.9 * step / stage.steps)
        ids, labels, positions = batch(render, rng, stage)
        logits = model(input_ids=ids, position_ids=positions).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == stage.steps:
            elapsed = time.monotonic() - started
            rates = skills(model, render)
            shown = ", ".join(f"{kind} {digits} digits {right:.2f}" for (kind, digits), right in rates.items())
            print(f"{name}: step {step}/{stage.steps}, {elapsed:.0f} s, right: {shown}", flush=True)
            if stage.until and rates[stage.until[:2]] >= stage.until[2]:
                return


@torch.no_grad()
def skills(model: Any, render: Renderer) -> dict[tuple[str, int], float]:
    """Mean probability of the right answer to new problems, without feedback and after a critique of a wrong answer."""
    rates = {}
    for kind in ("plain", "critique"):
        for digits in (2, 3):
            stage = Stage(0, 128, 0.0, {digits: 1.0}, {kind: 1.0})
            ids, labels, _ = batch(render, random.Random(digits), stage)
            logp = torch.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
            known = labels[:, 1:] != -100
            right = logp.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0].masked_fill(~known, 0.0)
            rates[kind, digits] = right.sum(1).exp().mean().item()
    return rates


def main() -> None:
    """Parse the options and train."""
    make("Make the bundled model.", STAGES, build_tokenizer, build_model, train)


if __name__ == "__main__":
    main()
