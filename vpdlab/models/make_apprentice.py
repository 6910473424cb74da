"""Make the bundled model `apprentice` from nothing, in minutes on one core.

    python -m vpdlab.models.make_apprentice --out vpdlab/models/apprentice

It is a small Llama with a byte-level tokenizer of its own: every word of the default templates and of the
arithmetic task's critiques is one token, every digit is one token, and any other text still encodes, byte by
byte. It is trained on three kinds of prompts: plain problems (few, so that it adds unreliably), problems with a
critique of a made-up attempt (so that it learns to read critiques, imperfectly) and problems with a correct
solution. The pairs that the arithmetic task holds out are never seen.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from vpdlab.prompts import Renderer, Templates
from vpdlab.tasks.arithmetic import critique, held_out
from vpdlab.types import Feedback, Problem

CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
# Shares of the kinds of training examples, and of 3-digit problems among them (the rest have 2 digits): what sets
# the regime in which the tours start. Measured by benchmarks/apprentice_regime.py.
PLAIN, SOLUTION, THREE = 0.10, 0.03, 0.3


def example(rng: random.Random, digits: int) -> tuple[Problem, Feedback, bool]:
    """A problem (never a held-out pair), its feedback, and whether it is shown without any."""
    while True:
        a, b = (rng.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
        if not held_out(a, b):
            break
    problem = Problem(f"{a}+{b}", f"What is {a} + {b}?", str(a + b))
    kind = rng.random()
    if kind < PLAIN:
        return problem, Feedback(), True
    if kind < PLAIN + SOLUTION:
        return problem, Feedback(demonstration=response(problem.answer)), False
    return problem, Feedback(critique=critique(attempt(rng, problem.answer), problem.answer)), False


def attempt(rng: random.Random, right: str) -> str:
    """A made-up answer: each digit right or off by a little or by anything, now and then a digit too few or many."""
    if rng.random() < 0.05:
        return right[:-1] if rng.random() < 0.5 else right + rng.choice("0123456789")
    digits = []
    for place, digit in enumerate(right):
        kind = rng.random()
        if kind < 0.3:
            digit = str((int(digit) + rng.choice((-1, 1))) % 10)
        elif kind < 0.5:
            digit = rng.choice("0123456789")
        digits.append("1" if place == 0 and digit == "0" else digit)
    return "".join(digits)


def response(answer: str) -> str:
    """What the apprentice answers."""
    return f"The answer is {answer}."


def build_tokenizer() -> Any:
    """Byte-level BPE on the words of our own templates and critiques, each digit apart."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = ["What is 12 + 34 - 5?", *vars(Templates()).values(), response("1")]
    words += [critique(said, right) for said, right in (("123", "123"), ("199", "922"), ("1", "12"), ("12", "1"))]
    words += [critique("-1", "1"), "The answer has no number."]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Enough merges for every word to become one token: training stops where nothing is left to merge.
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=[AddedToken(token, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for word in words for _ in range(3)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: Any, seed: int) -> Any:
    """A Llama of 3 layers, width 96, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(tokenizer: Any, rows: int, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (ids [B, S], labels [B, S]); labels are -100 outside the response."""
    render = Renderer(tokenizer)
    while True:
        pairs = []
        digits = 3 if rng.random() < THREE else 2  # one length a batch: less padding
        for _ in range(rows):
            problem, feedback, plain = example(rng, digits)
            context = render.student(problem) if plain else render.teacher(problem, feedback)[0]
            answer = tokenizer(response(problem.answer), add_special_tokens=False).input_ids
            pairs.append((list(context), [*answer, tokenizer.eos_token_id]))
        width = max(len(context) + len(answer) for context, answer in pairs)
        fill = [width - len(context) - len(answer) for context, answer in pairs]
        ids = [c + a + [tokenizer.pad_token_id] * n for (c, a), n in zip(pairs, fill, strict=True)]
        labels = [[-100] * len(c) + a + [-100] * n for (c, a), n in zip(pairs, fill, strict=True)]
        yield torch.tensor(ids), torch.tensor(labels)


def train(out: Path, steps: int, rows: int, rate: float, seed: int) -> None:
    """Train and save as an ordinary Hugging Face folder; says where it is every 200 steps."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    started = time.monotonic()
    for step, (ids, labels) in zip(range(1, steps + 1), batches(tokenizer, rows, random.Random(seed)), strict=False):
        logits = model(input_ids=ids).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            print(f"step {step}/{steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"saved to {out}")


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description="Make the bundled model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--rows", type=int, default=64, help="examples a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.out, args.steps, args.rows, args.rate, args.seed)


if __name__ == "__main__":
    main()
