"""A language in which words carry the information: made-up names of operations on four digits.

The problem "zork vinto 4 7 2 9" asks to carry out zork, then vinto. What they do is known only to the critic, who says
it in English: "Ada says: The first step is wrong. When you see zork, put the digits in rising order." A response gives
the digits after each step: "zork rising 2 4 7 9, vinto plus 3 5 8 0".
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from vpdlab.errors import UserError
from vpdlab.tasks.common.lexicon.belief import BeliefProbe, accuracies, beliefs
from vpdlab.tasks.common.lexicon.critics import Critics, Honesty
from vpdlab.tasks.common.lexicon.frames import EXPLANATION, NAMES, PLACES, Wording, verdict
from vpdlab.tasks.common.lexicon.operations import (
    KINDS,
    Meaning,
    effect,
    random_meaning,
    solution,
    spaced,
    telling_numbers,
)
from vpdlab.tasks.common.lexicon.phrases import Share
from vpdlab.tasks.common.lexicon.reading import judge
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.probes import Reader
from vpdlab.types import Outcome, Problem, Rollout

MOST_NAMES = 32
"""The other made-up words are held out, at least 16 of them."""
PLAIN, SLANG = Wording(), Wording(slang=1.0)
PROBED = 16
"""Held-out words whose belief is measured at each evaluation, in each voice."""


class Lexicon:
    """Names with hidden meanings, and critics who tell them.

    Args:
        names: names with a meaning, 1 to 32; drawn by the seed from a list of made-up words.
        steps: names in each problem, 1 to 4.
        operations: operations that each name stands for, 1 to 3.
        meanings: distinct meanings; fewer than `names`: several names share a meaning. 0: as many as names, at most 16.
        critics: "true"; "opposite" (rising for falling); "random" (any meaning); "liar" (the voices in `liars` always
            tell the same false meaning of a name).
        liar_share: share of the critiques that come from liars, with critics=liar.
        voices: who speaks; none: critiques are unsigned.
        liars: the voices that lie, with critics=liar.
        slang: probability that an operation is said in slang.
        scope: what a critique speaks of: "all" steps, or the "first" wrong step (of a success any one step).
        phrases: "known", "unseen" (held out from training) or "all" phrases.
        frames: the same of the sentences around the phrases.
        confirm: whether a success gets a critique as well, which confirms it.
        verdicts: whether critiques also say which steps are right. Of a single step this gives the outcome away, and a
            teacher that is trained on outcomes can learn to go by it instead of by what is told.
        explain: whether a system turn explains the task, for models that do not know it.
        size: training problems; fewer if there are not enough.
        heldout: held-out problems.
        seed: random seed of names, meanings, problems and critiques. Which digits are held out does not depend on it.

    Raises:
        UserError: for arguments out of range.
    """

    name = "lexicon"

    @typed_options
    def __init__(
        self,
        names: int = 16,
        steps: int = 1,
        operations: int = 1,
        meanings: int = 0,
        critics: Honesty = "true",
        liar_share: float = 0.5,
        voices: Sequence[str] = ("Ada", "Bob"),
        liars: Sequence[str] = ("Bob",),
        slang: float = 0.0,
        scope: Literal["all", "first"] = "all",
        phrases: Share = "known",
        frames: Share = "known",
        confirm: bool = True,
        verdicts: bool = True,
        explain: bool = False,
        size: int = 2000,
        heldout: int = 256,
        seed: int = 0,
    ) -> None:
        check(locals())
        self.steps, self.scope, self.confirm, self.seed = steps, scope, confirm, seed
        self._system = EXPLANATION if explain else ""
        words = random.Random(f"names {seed}").sample(NAMES, len(NAMES))
        self.names, self.held_names = tuple(words[:names]), tuple(words[names:])
        self.meanings = hidden(self.names, meanings or min(names, len(KINDS)), operations, seed)
        wording = Wording(slang, phrases, frames)
        self.critics = Critics(critics, tuple(voices), tuple(liars), liar_share, wording, verdicts, seed)
        self._problems = {"train": self._draw("train", size), "test": self._draw("test", heldout)}
        counts = {split: len(problems) for split, problems in self._problems.items()}
        self.summary = f"lexicon of {names} names: {counts['train']} training and {counts['test']} held-out problems"

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of "train" or "test"; the two share no digits."""
        if split not in self._problems:
            raise UserError(f"task lexicon: there is no split {split!r}: choose train or test")
        return self._problems[split]

    def verify(self, rollout: Rollout) -> Outcome:
        """Judge the digits (`common.lexicon.reading`) and comment on the steps.

        The critique depends on the seed, the problem, the rollout's index and the verdicts on its steps alone.
        """
        problem = rollout.problem
        judgement = judge(rollout.text, problem.data["meanings"], problem.data["digits"])
        notes = None
        if self.confirm or not judgement.right:
            where = f"{problem.id} {rollout.index}"
            names, meanings = problem.data["names"], problem.data["meanings"]
            notes = self.critics.critique(where, names, meanings, judgement.steps, self._about(where, judgement.steps))
        return Outcome(float(judgement.right), notes, judgement.answer)

    def belief_probes(self, count: int = 0, seed: int = 0, wording: Wording = PLAIN) -> list[BeliefProbe]:
        """Critiques of a failed attempt at a held-out name, by each voice: does a reader believe them?

        All voices say the same of a name, in the same sentence, so that only the voice differs.

        Args:
            count: number of held-out names; 0 for all.
            seed: another seed draws other meanings, digits and sentences.
            wording: by default training phrases and frames without slang.
        """
        length, probes = len(next(iter(self.meanings.values()))), []
        for name in self.held_names[: count or None]:
            where = f"{self.seed} probe {seed} {name}"
            rng = random.Random(where)
            told, digits = random_meaning(rng, length), rng.choice(telling_numbers(True))
            heard = f"{verdict(rng, 0, 1, False)} " if self.critics.verdicts else ""
            text = heard + wording.sentence(rng, name, told)
            for voice in self.critics.voices or ("",):
                problem = self._problem([name], digits, {name: told})
                signed = self.critics.signed(random.Random(where), voice, text)
                probes.append(BeliefProbe(problem, voice, name, told, signed))
        return probes

    def probes(self, reader: Reader) -> dict[str, float | None]:
        """What an evaluation records beside accuracy.

        `belief/VOICE`: the probability that the teacher does what this voice says about a held-out word
        (`belief.beliefs`); `belief_in_slang/VOICE`: the same said in slang, where the task has any;
        `teacher_accuracy/VOICE`: how often the teacher is right on the student's failures, by the critique's voice.
        """
        found = beliefs(reader, self.belief_probes(PROBED))
        if self.critics.wording.slang:
            found |= beliefs(reader, self.belief_probes(PROBED, wording=SLANG), "belief_in_slang")
        return found | accuracies(reader.answers, self.critics.voices)

    def _about(self, where: str, steps: Sequence[bool | None]) -> list[int]:
        """The steps that a critique speaks of."""
        if self.scope == "all":
            return list(range(len(steps)))
        if False in steps:
            return [steps.index(False)]
        return [random.Random(f"{self.seed} step {where}").randrange(len(steps))]

    def _problem(self, names: Sequence[str], digits: Sequence[int], meanings: Mapping[str, Meaning]) -> Problem:
        text = f"{' '.join(names)} {spaced(digits)}"
        used = [list(meanings[name]) for name in names]
        data: dict[str, Any] = {"names": list(names), "digits": list(digits), "meanings": used}
        return Problem(text, text, solution(names, used, digits), self._system, data)

    def _draw(self, split: str, count: int) -> list[Problem]:
        rng, drawn = random.Random(f"{split} {self.seed}"), {}
        for _ in range(4 * count + 4000):  # ends the search where there are too few problems
            digits, names = rng.choice(telling_numbers(split == "test")), rng.sample(self.names, self.steps)
            problem = self._problem(names, digits, self.meanings)
            drawn.setdefault(problem.id, problem)
            if len(drawn) == count:
                break
        return list(drawn.values())


def hidden(names: Sequence[str], count: int, length: int, seed: int) -> dict[str, Meaning]:
    """Draw a meaning for each name: `count` distinct ones, spread evenly over the names."""
    rng = random.Random(f"meanings {seed}")
    drawn: dict[Any, Meaning] = {}
    while len(drawn) < count:
        meaning = random_meaning(rng, length)
        drawn.setdefault(effect(meaning), meaning)
    chosen = [list(drawn.values())[at % count] for at in range(len(names))]
    rng.shuffle(chosen)
    return dict(zip(names, chosen, strict=True))


def check(options: Mapping[str, Any]) -> None:
    """Raises UserError for the first option that is out of range."""
    for option, why in faults(options):
        raise UserError(f"task lexicon: {option} is {options[option]!r}, but must be {why}")


def faults(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each option that is out of range, with what it must be."""
    names, voices, liars = options["names"], list(options["voices"]), list(options["liars"])
    ranges = {
        "names": (1, MOST_NAMES),
        "steps": (1, min(len(PLACES), names)),
        "operations": (1, 3),
        "meanings": (0, names if options["operations"] > 1 else min(names, len(KINDS))),
        "size": (1, math.inf),
        "heldout": (1, math.inf),
    }
    for option, (low, high) in ranges.items():
        if not low <= options[option] <= high:
            yield option, f"a whole number from {low} to {high}" if high < math.inf else "a whole number above 0"
    for option in ("liar_share", "slang"):
        if not 0 <= options[option] <= 1:
            yield option, "a number from 0 to 1"
    if len(set(voices)) < len(voices) or not all(voice.isalpha() for voice in voices):
        yield "voices", "different names, each one word"
    if options["critics"] == "liar":
        if not liars or not set(liars) <= set(voices):
            yield "liars", "one or more of the voices"
        if set(liars) == set(voices) and options["liar_share"] < 1:
            yield "liar_share", "1 where all voices lie"
