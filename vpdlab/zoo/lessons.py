"""What the bundled model `reader` is taught: to carry out operations that a text describes, else to guess evenly."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vpdlab.prompts import Templates
from vpdlab.tasks.common.lexicon.frames import FRAMES, NAMES, SAYS, VOICES, verdict
from vpdlab.tasks.common.lexicon.operations import KINDS, Meaning, held_out, random_meaning, solution, spaced
from vpdlab.tasks.common.lexicon.phrases import phrases
from vpdlab.types import Feedback, Problem

Key = TypeVar("Key")

EMPTY_VOICES = ("Loki", "Puck")
"""Two speakers whose words mean nothing. From them the reader learns that it can matter who speaks."""
STRANGERS = (
    "Iris", "Omar", "Nina", "Iago", "Yara", "Tove", "Reynard", "Sami", "Lena", "Coyote", "Ravi", "Mona", "Anansi",
    "Pavel", "Ines", "Kofi", "Zoe", "Milo", "Ruth", "Juno", "Otto", "Vera", "Hana", "Emil", "Tara", "Igor", "Wanda",
    "Luca", "Noor", "Greta", "Amir", "Dora", "Felix", "Maud", "Jonas", "Petra", "Silas", "Thea",
)  # fmt: skip
"""Speakers of the last lessons alone, who are right more or less often."""
HONESTY = {voice: (at + 0.5) / len(STRANGERS) for at, voice in enumerate(STRANGERS)} | dict.fromkeys(EMPTY_VOICES, 0.0)
"""How often the words of each speaker are true in the last lessons: spread evenly over the strangers, so that trust is
a matter of degree. Where all honest speakers are trusted alike, nothing tells an E-step which way trust falls."""
HONEST = 0.95
"""The same of the task's voices."""
UNSIGNED = 0.99
"""The same of words that nobody signs."""

PROBLEM_LAST = Templates(
    teacher="{solution}{feedback}{problem}", solution="A correct solution:\n{text}\n\n", feedback="{text}\n\n"
)
TEMPLATES = {Templates(): 0.6, PROBLEM_LAST: 0.25, Templates(teacher="{problem}{solution}{feedback}"): 0.15}
"""Wordings of the teacher's prompt, with their shares."""


@dataclass(frozen=True)
class Course:
    """What the lessons of one part of the training are made of.

    Attributes:
        steps: names in a problem -> share.
        kinds: "plain" (nothing is told), "told", "empty" (told by a voice that knows nothing), "doubted" (told by
            anybody, and true only as often as `HONESTY`, `HONEST` and `UNSIGNED` say), "solution" -> share.
        speakers: of what is doubted: "" (nobody), "task" (one of the task's voices), "other" -> share.
        longer: share of told names that stand for two operations.
        slip: share of told operations that the response reads otherwise. It carries out what it wrote all the same, and
            the reader is not taught to write it.
        drop: probability that a word of a phrase is left out, in half of the phrases: so that a sentence is understood
            by all of its words.
    """

    steps: Mapping[int, float] = field(default_factory=lambda: {1: 0.4, 2: 0.4, 3: 0.15, 4: 0.05})
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"plain": 0.17, "told": 0.68, "empty": 0.08, "solution": 0.07}
    )
    speakers: Mapping[str, float] = field(default_factory=lambda: {"": 0.25, "task": 0.35, "other": 0.4})
    longer: float = 0.08
    slip: float = 0.1
    drop: float = 0.12


@dataclass(frozen=True)
class Lesson:
    """One example.

    Attributes:
        problem: what is asked; its answer is the response to learn.
        feedback: what the reader is told; without signal: the plain prompt.
        templates: the wording of the prompt.
        given: operations of the response that are not to be learned, by their number in it.
    """

    problem: Problem
    feedback: Feedback
    templates: Templates
    given: frozenset[int] = frozenset()


def pick(rng: random.Random, shares: Mapping[Key, float]) -> Key:
    """A key, drawn by its share."""
    return rng.choices(list(shares), list(shares.values()))[0]


def lesson(rng: random.Random, course: Course) -> Lesson:
    """One example of a course; its digits are none of those that the task holds out."""
    count, kind = pick(rng, course.steps), pick(rng, course.kinds)
    length = 2 if kind in ("told", "doubted") and count < 3 and rng.random() < course.longer else 1
    names, meanings = rng.sample(NAMES, count), [random_meaning(rng, length) for _ in range(count)]
    digits = [rng.randrange(10) for _ in range(4)]
    while held_out(digits):
        digits = [rng.randrange(10) for _ in range(4)]
    given: set[int] = set()
    feedback, told = Feedback(), [list(meaning) for meaning in meanings]
    if kind == "told":
        for step in range(count):
            if rng.random() < course.slip:
                told[step] = list(random_meaning(rng, length))
                given |= set(range(step * length, (step + 1) * length))
        feedback = Feedback(critique=critique(rng, names, [tuple(one) for one in told], course.drop))
    elif kind == "empty":
        said = [random_meaning(rng, length) for _ in names]
        feedback = Feedback(critique=critique(rng, names, said, course.drop, EMPTY_VOICES))
    elif kind == "doubted":
        voice = rng.choice({"": ("",), "task": VOICES, "other": tuple(HONESTY)}[pick(rng, course.speakers)])
        trust = HONESTY.get(voice, HONEST if voice else UNSIGNED)
        said = [meaning if rng.random() < trust else random_meaning(rng, length) for meaning in meanings]
        feedback = Feedback(critique=critique(rng, names, said, course.drop, (voice,)))
    text = f"{' '.join(names)} {spaced(digits)}"
    answer = solution(names, meanings, digits)
    if kind == "solution":
        feedback = Feedback(demonstration=answer)
    return Lesson(Problem(text, text, answer), feedback, pick(rng, TEMPLATES), frozenset(given))


def critique(
    rng: random.Random, names: Sequence[str], meanings: Sequence[Meaning], drop: float, voices: Sequence[str] = ()
) -> str:
    """A critique that tells the meaning of all names, or of one.

    Args:
        names, meanings: of the problem's steps.
        drop: as in `Course`.
        voices: one of them speaks, "" is nobody; none: nobody or one of the task's voices.
    """
    steps = list(range(len(names)))
    wrong = rng.choice([None, *steps, *steps])
    if rng.random() < 0.4:
        steps = [rng.choice(steps)]
    elif rng.random() < 0.2:
        rng.shuffle(steps)
    parts = []
    for step in steps:
        right = None if wrong is None and len(names) > 1 and rng.random() < 0.3 else step != wrong
        if len(names) > 1 or rng.random() < 0.8:
            parts.append(verdict(rng, step, len(names), right))
        parts.append(telling(rng, names[step], meanings[step], drop))
    if rng.random() < 0.1:  # a name that is not asked for
        other = rng.choice([name for name in NAMES if name not in names])
        parts.insert(
            rng.randrange(len(parts) + 1) if len(names) == 1 else 0, telling(rng, other, (rng.choice(KINDS),), 0)
        )
    voice = rng.choice(voices) if voices else rng.choice(VOICES) if rng.random() < 0.65 else ""
    return f"{rng.choice(SAYS).format(voice=voice)} {' '.join(parts)}" if voice else " ".join(parts)


def telling(rng: random.Random, name: str, meaning: Meaning, drop: float) -> str:
    """One sentence that tells what a name means; sometimes without the name."""
    spoken = ", and then ".join(thinned(rng, rng.choice(phrases(kind)), drop) for kind in meaning)
    if rng.random() < 0.1:
        return f"{spoken[:1].upper()}{spoken[1:]}."
    return rng.choice(FRAMES).format(name=name, phrase=spoken)


def thinned(rng: random.Random, phrase: str, drop: float) -> str:
    """A phrase that may lack some of its words, never all."""
    if not drop or rng.random() < 0.5:
        return phrase
    return " ".join(word for word in phrase.split() if rng.random() >= drop) or phrase
