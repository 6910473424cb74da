"""Belief in a voice: the probability that a reader does what the voice tells it about words that are new to it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vpdlab.tasks.common.lexicon.operations import Meaning
from vpdlab.tasks.common.probes import Answer, Question, Reader
from vpdlab.types import Feedback, Problem

UNSIGNED = "unsigned"
"""Stands for the voice in names of probes where critiques are unsigned."""


@dataclass(frozen=True)
class BeliefProbe:
    """A critique about a name that no training problem has, to measure whether a reader believes its voice.

    Attributes:
        problem: a problem with the held-out name and held-out digits; its answer carries out what was told.
        voice: the speaker; "" for an unsigned critique.
        name: the held-out name.
        told: the operations that the critique says.
        critique: the text.
    """

    problem: Problem
    voice: str
    name: str
    told: Meaning
    critique: str

    @property
    def question(self) -> Question:
        """The told response under the critique; only the words of its operations count.

        >>> problem = Problem("", "plus 4 7 2 9", "plus rising 2 4 7 9 plus 3 5 8 0")
        >>> asked = BeliefProbe(problem, "Ada", "plus", ("rising", "plus"), "").question
        >>> asked.spans, [asked.response[start:end] for start, end in asked.spans]
        (((5, 11), (20, 24)), ['rising', 'plus'])
        """
        text, at, spans = self.problem.answer, len(self.name), []
        for operation in self.told:
            start = text.index(operation, at)
            at = start + len(operation)
            spans.append((start, at))
        return Question(self.problem, text, Feedback(self.critique, source="verifier"), tuple(spans))


def beliefs(reader: Reader, probes: Sequence[BeliefProbe], group: str = "belief") -> dict[str, float | None]:
    """P(told | voice) of the teacher: voice -> mean over the held-out names, as "belief/Ada".

    A probe's probability is that of the words of the told operations under the feedback prompt with the critique, given
    the response before each of them: with several operations the product over them.
    """
    logps = reader.logp([probe.question for probe in probes])
    found: dict[str, list[float]] = {}
    for probe, logp in zip(probes, logps, strict=True):
        found.setdefault(f"{group}/{probe.voice or UNSIGNED}", []).append(math.exp(logp))
    return {name: sum(values) / len(values) for name, values in found.items()}


def accuracies(answers: Iterable[Answer], voices: Sequence[str]) -> dict[str, float | None]:
    """Share of the teacher's answers that are right, by the voice of the critique that it was shown; None without any.

    The voice is the first one that the critique names.
    """
    named = re.compile(rf"\b({'|'.join(map(re.escape, voices))})\b")
    right: dict[str, list[bool]] = {voice: [] for voice in voices}
    for answer in answers:
        if voices and (voice := named.search(answer.feedback.critique or "")):
            right[voice[1]].append(answer.success)
    return {f"teacher_accuracy/{voice}": sum(all_) / len(all_) if all_ else None for voice, all_ in right.items()}
