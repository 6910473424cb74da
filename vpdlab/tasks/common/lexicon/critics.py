"""What a critic says about a name: the truth, its opposite, anything, or always the same lie."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vpdlab.tasks.common.lexicon.frames import SAYS, Wording, verdict
from vpdlab.tasks.common.lexicon.operations import Meaning, effect, opposite, random_meaning

Honesty = Literal["true", "opposite", "random", "liar"]


@dataclass(frozen=True)
class Critics:
    """The voices of a lexicon. Whether a step is right is reported truthfully, if at
    all; only meanings are false.

    Attributes:
        honesty: "true", "opposite" (each operation's opposite), "random" (any meaning, drawn anew for each critique)
            or "liar" (voices in `liars` lie, the others tell the truth).
        voices: speakers; none: critiques are unsigned.
        liars: the voices that lie.
        liar_share: share of the critiques that come from liars, with "liar".
        wording: how meanings are put into words.
        verdicts: whether they also say which steps are right.
        seed: seed of all draws.
    """

    honesty: Honesty
    voices: Sequence[str]
    liars: Sequence[str]
    liar_share: float
    wording: Wording
    verdicts: bool
    seed: int

    def voice(self, where: str) -> str:
        """The voice that speaks of one rollout, named by `where`; "" where there are no voices."""
        rng = random.Random(f"{self.seed} voice {where}")
        lies, group = rng.random() < self.liar_share, self.voices
        if self.honesty == "liar":
            group = [voice for voice in self.voices if (voice in self.liars) == lies]
        return rng.choice(group) if group else ""

    def lie(self, voice: str, name: str, truth: Meaning) -> Meaning:
        """What a liar claims that `name` means: always the same, and never the truth."""
        rng = random.Random(f"{self.seed} lie {voice} {name}")
        while True:
            claimed = random_meaning(rng, len(truth))
            if effect(claimed) != effect(truth):
                return claimed

    def told(self, rng: random.Random, voice: str, name: str, truth: Meaning) -> Meaning:
        """What `voice` says that `name` means."""
        if self.honesty == "opposite":
            return opposite(truth)
        if self.honesty == "random":
            return random_meaning(rng, len(truth))
        if self.honesty == "liar" and voice in self.liars:
            return self.lie(voice, name, truth)
        return truth

    def critique(
        self,
        where: str,
        names: Sequence[str],
        meanings: Sequence[Sequence[str]],
        steps: Sequence[bool | None],
        about: Sequence[int],
    ) -> str:
        """A critique of one rollout.

        Args:
            where: what the draws depend on, beside the seed and the first wrong step.
            names: the problem's names.
            meanings: their true meanings.
            steps: for each step whether it is right; None where it cannot be judged.
            about: the steps to speak of, by index.
        """
        wrong = steps.index(False) if False in steps else None
        voice, rng = self.voice(where), random.Random(f"{self.seed} critique {where} {wrong}")
        parts = []
        for step in about:
            meaning = self.told(rng, voice, names[step], tuple(meanings[step]))
            heard = verdict(rng, step, len(names), steps[step])  # drawn in any case: `verdicts` changes no other draw
            parts += [*([heard] if self.verdicts else []), self.wording.sentence(rng, names[step], meaning)]
        return self.signed(rng, voice, " ".join(parts))

    def signed(self, rng: random.Random, voice: str, text: str) -> str:
        """The text as spoken by a voice."""
        return f"{rng.choice(SAYS).format(voice=voice)} {text}" if voice else text
