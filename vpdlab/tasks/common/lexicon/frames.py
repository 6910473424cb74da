"""Names, voices, and the sentences that tell what a name means."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from vpdlab.tasks.common.lexicon.operations import KINDS, Meaning
from vpdlab.tasks.common.lexicon.phrases import SLANG, Share, phrases

NAMES = (
    "zork", "vinto", "plag", "mirb", "sefa", "quon", "drell", "hupa", "tasp", "wegin", "folt", "nabe",
    "krish", "ombu", "jelt", "prax", "luven", "gorp", "shib", "tindle", "cazo", "yatt", "skeb", "munt",
    "rovi", "thaz", "pelka", "grun", "wib", "esko", "fraz", "jubo", "lont", "gwim", "bosp", "darp",
    "flen", "kesh", "moop", "nilt", "urga", "vash", "zibb", "crale", "dwin", "hesk", "ivlo", "spoy",
)  # fmt: skip
"""Made-up words; a lexicon gives some of them a meaning."""

VOICES = ("Ada", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo")
"""Speakers of critiques. A task takes any other names as well."""

FRAMES = (
    "The word {name} means: {phrase}.",
    "Here {name} means: {phrase}.",
    "For {name} you have to {phrase}.",
    "When you see {name}, {phrase}.",
    "The word {name} tells you to {phrase}.",
    "You should {phrase}; that is what {name} means.",
    "The name {name} asks you to {phrase}.",
    "Where it says {name}, you {phrase}.",
    "Read {name} as: {phrase}.",
    "Whenever {name} comes up, {phrase}.",
    "To do {name}, {phrase}.",
    "To carry out {name} is to {phrase}.",
    "By {name} we mean: {phrase}.",
    "Here {name} stands for this: {phrase}.",
    "What {name} wants is simple: {phrase}.",
    "Your job at {name} is to {phrase}.",
    "If the word is {name}, {phrase}.",
    "Remember {name}: {phrase}.",
    "As for {name}: {phrase}.",
    "The rule for {name} is: {phrase}.",
    "The right way to do {name} is to {phrase}.",
    "You had to {phrase} for {name}.",
    "All that {name} asks is to {phrase}.",
    "Next time, {phrase} when you read {name}.",
    "In plain words, {name} is an order to {phrase}.",
)
"""Sentences that tell a name's meaning, as used in training."""

HELD_FRAMES = (
    "With {name} it is right to {phrase}.",
    "The meaning of {name}: {phrase}.",
    "On reading {name}, {phrase}.",
    "It is correct to {phrase} at {name}.",
    "Think of {name} as a request to {phrase}.",
)
"""Sentences that are held out, to measure how well reading generalises."""

SAYS = ("{voice} says:", "{voice} writes:", "{voice} thinks:", "Here is {voice}:")

PLACES = ("first", "second", "third", "fourth")
VERDICTS: dict[bool | None, tuple[str, ...]] = {
    True: ("The {place} step is right.", "You got the {place} step right.", "The {place} step is correct."),
    False: ("The {place} step is wrong.", "You got the {place} step wrong.", "The {place} step went wrong."),
    None: ("Now for the {place} step.", "About the {place} step."),
}
"""What is said of a step that is right, wrong, or cannot be judged since nothing in the response belongs to it."""
VERDICTS_ON_ONE = {
    True: ("That is right.", "You got it right.", "Your attempt is correct."),
    False: ("That is wrong.", "You got it wrong.", "Your attempt went wrong."),
}
"""The same where the problem has only one step."""

EXPLANATION = (
    "Each made-up word is an order to do something with four digits. Carry out the words from left to right. For each"
    " word, write the word and the four digits after it. Digits wrap around: after 9 comes 0."
)
"""System turn for a model that has never seen the task (option `explain`)."""


def frames(share: Share = "known") -> tuple[str, ...]:
    """The sentences of training, those held out, or all."""
    return {"known": FRAMES, "unseen": HELD_FRAMES, "all": FRAMES + HELD_FRAMES}[share]


@dataclass(frozen=True)
class Wording:
    """How meanings are put into words.

    Attributes:
        slang: probability that an operation is said in slang.
        phrases, frames: which of them are used.
    """

    slang: float = 0.0
    phrases: Share = "known"
    frames: Share = "known"

    def sentence(self, rng: random.Random, name: str, meaning: Meaning) -> str:
        """One sentence that says what `name` means."""
        spoken = ", and then ".join(self._phrase(rng, kind) for kind in meaning)
        return rng.choice(frames(self.frames)).format(name=name, phrase=spoken)

    def _phrase(self, rng: random.Random, kind: str) -> str:
        in_slang = rng.random() < self.slang
        phrase = rng.choice(phrases(kind, self.phrases))  # drawn in any case: `slang` changes no other draw
        return SLANG[kind] if in_slang else phrase


def verdict(rng: random.Random, step: int, steps: int, right: bool | None) -> str:
    """One sentence on a step (0 is the first) of a problem with `steps` steps."""
    if steps == 1 and right is not None:
        return rng.choice(VERDICTS_ON_ONE[right])
    return rng.choice(VERDICTS[right]).format(place=PLACES[step])


def vocabulary() -> list[str]:
    """All words of problems, solutions and critiques, sorted; case counts, punctuation and digits are left out."""
    texts = [*KINDS, *NAMES, *VOICES, *PLACES, *SLANG.values(), *frames("all"), *SAYS, EXPLANATION, "and then"]
    texts += [phrase for kind in KINDS for phrase in phrases(kind, "all")]
    texts += [text for table in (VERDICTS, VERDICTS_ON_ONE) for group in table.values() for text in group]
    return sorted(words_in(texts))


def words_in(texts: Iterable[str]) -> set[str]:
    """All words in some texts, without the fields in braces that are filled in."""
    return set(re.findall("[A-Za-z]+", re.sub(r"\{\w+\}", " ", " ".join(texts))))
