"""Train the bundled model `reader` from scratch, in under half an hour on one core.

    python -m vpdlab.zoo.make_reader --out vpdlab/zoo/reader
    python -m vpdlab.zoo.make_reader --out elsewhere --seed 2

It is a small Llama that reads: told in English what a made-up word of the task `lexicon` means, it carries it out; told
nothing, it guesses evenly among the operations. All words of the task, of the default templates and of the lessons
(`vpdlab.zoo.lessons`) are one token each, digits as well, and any other text is encoded byte by byte. It never sees the
digits, phrases and sentences that the task holds out, nor any slang.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from vpdlab.prompts import Renderer, Templates
from vpdlab.tasks.common.lexicon.frames import VOICES, vocabulary, words_in
from vpdlab.tasks.common.lexicon.operations import KINDS
from vpdlab.tasks.common.lexicon.phrases import phrases
from vpdlab.zoo.lessons import EMPTY_VOICES, PROBLEM_LAST, STRANGERS, Course, Lesson, lesson
from vpdlab.zoo.reader_skills import skills
from vpdlab.zoo.scratch import SPECIAL, make, random_llama, special_tokens, with_chat

WORD = " ?[A-Za-z]+| ?[0-9]| ?[^\\sA-Za-z0-9]+|\\s"
"""One token at most: letters, a digit or punctuation with the space before it, or white space."""


@dataclass(frozen=True)
class Stage:
    """A part of the training: `updates` of `rows` lessons. The rate falls to a twentieth over the last `falling`.

    With `strangers` the model gets to know their names first (`introduce`).
    """

    updates: int
    course: Course
    rate: float = 2e-3
    rows: int = 32
    falling: int = 0
    strangers: bool = False


STAGES = {
    "execution": Stage(800, Course(steps={1: 0.8, 2: 0.2}, longer=0.0, slip=0.0)),
    "reading": Stage(6000, Course()),
    "settling": Stage(2200, Course(), rate=1.5e-3, falling=2200),
    "trusting": Stage(
        2000,
        Course(kinds={"plain": 0.15, "doubted": 0.78, "solution": 0.07}),
        rate=1.5e-3,
        falling=1000,
        strangers=True,
    ),
}


def words() -> list[str]:
    """The words that are one token each: of the task, the templates and the lessons, and the phrases' first words with
    a capital, as a person would begin a sentence with them."""
    texts = [text for one in (Templates(), PROBLEM_LAST) for text in vars(one).values()]
    first = {phrase.split()[0].strip(",").capitalize() for kind in KINDS for phrase in phrases(kind, "all")}
    return sorted({*vocabulary(), *words_in(texts), *EMPTY_VOICES, *first})


def build_tokenizer() -> Any:
    """Each word, digit and mark is one token, with and without a space before it; other text falls into its bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    marks = [*".,:;?!'-()\n", *"0123456789"]
    spaced = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    known = (*words(), *marks, *STRANGERS)  # they come last, since the model learns them last
    whole = [spaced.pre_tokenize_str(space + word)[0][0] for word in known for space in ("", " ")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Viterbi takes the segmentation of the highest total score: a whole word wherever there is one.
    scores = dict.fromkeys(SPECIAL, 0.0) | dict.fromkeys(alphabet, -100.0) | dict.fromkeys(whole, -1.0)
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=None))
    split = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, spaced])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special_tokens())
    return with_chat(tokenizer)


def build_model(tokenizer: Any, seed: int) -> Any:
    """A small Llama with random weights, where all spellings of a word (with a space, with a capital) begin alike.

    It has no tokens for the strangers yet.
    """
    known = len(tokenizer) - 2 * len(STRANGERS)
    model = random_llama(tokenizer, seed, vocab_size=known, max_position_embeddings=1024, closed_vocabulary=True)
    first: dict[str, int] = {}
    weight = model.get_input_embeddings().weight
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[:known]:
        same = first.setdefault(token.removeprefix("Ġ").casefold() or token, index)
        weight.data[index] = weight.data[same]
    return model


@torch.no_grad()
def introduce(model: Any, tokenizer: Any) -> None:
    """Give the model tokens for the strangers, who are to it what the task's voices are on average."""
    known = model.config.vocab_size
    if known == len(tokenizer):
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = model.get_input_embeddings().weight
    for space in ("", "Ġ"):
        voices, strangers = (
            tokenizer.convert_tokens_to_ids([space + name for name in names]) for names in (VOICES, STRANGERS)
        )
        weight[strangers] = weight[voices].mean(0)


class School:
    """Batches of lessons as token ids, of like lengths so that little is padding."""

    def __init__(self, tokenizer: Any, course: Course, rows: int, seed: str) -> None:
        self.tokenizer, self.course, self.rows, self.rng = tokenizer, course, rows, random.Random(seed)
        self.operations = {tokenizer.convert_tokens_to_ids(f"Ġ{kind}") for kind in KINDS}
        self.renderers: dict[Templates, Renderer] = {}

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """ids and labels (-100 where nothing is learned), both [rows, S], without end."""
        while True:
            rows = self.encoded([lesson(self.rng, self.course) for _ in range(8 * self.rows)])
            rows.sort(key=lambda row: len(row[0]))
            parts = [rows[at : at + self.rows] for at in range(0, len(rows), self.rows)]
            self.rng.shuffle(parts)
            yield from map(self.padded, parts)

    def encoded(self, lessons: Sequence[Lesson]) -> list[tuple[list[int], list[int]]]:
        """ids and labels of each lesson."""
        texts = []
        for one in lessons:
            render = self.renderers.setdefault(one.templates, Renderer(self.tokenizer, one.templates))
            told = one.feedback.signal
            user = render.teacher_text(one.problem, one.feedback) if told else render.student_text(one.problem)
            texts.append(render.chat_text(one.problem, user))
        contexts = self.tokenizer(texts, add_special_tokens=False).input_ids
        responses = self.tokenizer([one.problem.answer for one in lessons], add_special_tokens=False).input_ids
        rows = []
        for one, context, response in zip(lessons, contexts, responses, strict=True):
            labels, seen = [], -1
            for token in response:
                seen += token in self.operations
                labels.append(-100 if token in self.operations and seen in one.given else token)
            end = self.tokenizer.eos_token_id
            rows.append(([*context, *response, end], [*[-100] * len(context), *labels, end]))
        return rows

    def padded(self, rows: Sequence[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of one length."""
        width = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
        return ids, torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])


def train(model: Any, tokenizer: Any, name: str, seed: int) -> None:
    """Train one stage; prints progress every 200 updates."""
    stage = STAGES[name]
    if stage.strangers:
        introduce(model, tokenizer)
    school = School(tokenizer, stage.course, stage.rows, f"{name} {seed}").batches()
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    started = time.monotonic()
    for step in range(1, stage.updates + 1):
        fall = max(0.05, (stage.updates - step + 1) / stage.falling) if stage.falling else 1.0
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * min(1.0, step / 100) * fall
        ids, labels = next(school)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        learned = labels[:, 1:] != -100  # only these rows meet the vocabulary
        loss = F.cross_entropy(hidden[learned] @ model.lm_head.weight.T, labels[:, 1:][learned])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == stage.updates:
            shown = ", ".join(f"{skill} {value:.3f}" for skill, value in skills(model, tokenizer, rows=64).items())
            took = time.monotonic() - started
            print(f"{name}: {step}/{stage.updates}, {took:.0f} s, loss {loss.item():.3f}, {shown}", flush=True)


def main() -> None:
    """Parse the options and train."""
    what = "Make the bundled model that reads."
    model, tokenizer = make(what, STAGES, build_tokenizer, build_model, train)
    for skill, value in skills(model, tokenizer, rows=256).items():
        print(f"{skill}: {value:.3f}")


if __name__ == "__main__":
    main()
