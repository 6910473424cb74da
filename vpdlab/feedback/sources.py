"""Sources of feedback, each over a whole batch, and how several are combined.

A new source is one function here with its entry in `SOURCES` (or, in a notebook, ``SOURCES["mine"] = mine``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from vpdlab.errors import UserError
from vpdlab.types import Feedback, Outcome, Rollout


@dataclass(frozen=True)
class Context:
    """What a source may know beside the rollouts that it is asked about.

    Attributes:
        rollouts: the whole batch, verified.
        seed, purpose, step: of the run, "train" or "eval", the iteration: what a source that samples is seeded by.
    """

    rollouts: Sequence[Rollout]
    seed: int = 0
    purpose: str = "train"
    step: int = 0

    @cached_property
    def _groups(self) -> dict[int, list[Rollout]]:
        groups: dict[int, list[Rollout]] = {}
        for rollout in self.rollouts:
            groups.setdefault(rollout.group, []).append(rollout)
        return groups

    def group(self, rollout: Rollout) -> Sequence[Rollout]:
        """All rollouts of the same problem, this one included."""
        return self._groups[rollout.group]


Source = Callable[[Sequence[Rollout], Context], list[Feedback]]
"""One Feedback for each rollout asked about; a source without anything to say gives its reason."""


def verifier(rollouts: Sequence[Rollout], context: Context) -> list[Feedback]:
    """The environment's own notes on each rollout."""
    silent = Feedback(reason="the environment said nothing")
    outcomes = [rollout.outcome or Outcome(0.0) for rollout in rollouts]
    return [
        Feedback(critique=one.notes, source="verifier", turn=one.turn) if (one.notes or "").strip() else silent
        for one in outcomes
    ]


def sibling(rollouts: Sequence[Rollout], context: Context) -> list[Feedback]:
    """A success of the same group as demonstration, never the rollout itself.

    The next one after it in the group, so that demonstrations are spread over the successes. Blocks of thought are
    cut from it.
    """
    return [_sibling(rollout, context.group(rollout)) for rollout in rollouts]


def _sibling(rollout: Rollout, group: Sequence[Rollout]) -> Feedback:
    successes = sorted((other for other in group if other.success), key=lambda other: other.index)
    others = [other for other in successes if other.index != rollout.index]
    if not others:
        return Feedback(reason="no success in the group" if not successes else "the only success of its group")
    chosen = next((other for other in others if other.index > rollout.index), others[0])
    text = without_thoughts(chosen.transcript)
    if not text:
        return Feedback(reason="the sibling's response is empty")
    return Feedback(demonstration=text, source="sibling")


def reference(rollouts: Sequence[Rollout], context: Context) -> list[Feedback]:
    """The task's own solution as demonstration (OPSD): privileged, and the same whatever the rollout did."""
    missing = Feedback(reason="the problem has no reference solution")
    answers = [rollout.problem.answer for rollout in rollouts]
    return [Feedback(demonstration=text, source="reference") if text.strip() else missing for text in answers]


SOURCES: dict[str, Source] = {"verifier": verifier, "sibling": sibling, "reference": reference}
CRITIQUE = "critique"
"""Name of the source that needs a model: a critic (`critics.open_critic`)."""


def find_sources(names: Sequence[str], critic: Source | None = None) -> list[Source]:
    """The sources of these names, in order.

    Raises:
        UserError: for a name that none has.
    """
    known = SOURCES | ({CRITIQUE: critic} if critic is not None else {})
    check_sources(names)
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"feedback source {missing[0]} needs a model: open the run's parts with Parts.open")
    return [known[name] for name in names]


def check_sources(names: Sequence[str]) -> None:
    """Raises UserError for a name that no source has."""
    for name in names:
        if name not in SOURCES and name != CRITIQUE:
            raise UserError(f"feedback names {name!r}: choose from {', '.join([*SOURCES, CRITIQUE])}")


def without_thoughts(text: str) -> str:
    """The text without `<think>` blocks.

    One that was never closed takes the rest with it; one that was opened before the text began (some chat templates
    open it in the prompt) takes all up to its end.
    """
    text = re.sub(r"<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].strip()


def give_feedback(
    rollouts: Sequence[Rollout],
    sources: Sequence[Source | str],
    mode: Literal["all", "first"] = "all",
    context: Context | None = None,
) -> list[Feedback]:
    """C of each rollout, from several sources.

    Args:
        sources: functions, or names of `SOURCES`, in order of preference.
        mode: "all" joins what every source provides (a critique and a demonstration can stand side by side; of two
            critiques the first is kept); "first" asks each source only about the rollouts on which no earlier one has
            provided anything.
        context: by default that of `rollouts` as the whole batch.
    """
    context = context or Context(rollouts)
    found: list[list[Feedback]] = [[] for _ in rollouts]
    for source in sources:
        asked = [row for row in range(len(rollouts)) if mode == "all" or not any(one.signal for one in found[row])]
        given = find_sources([source])[0] if isinstance(source, str) else source
        for row, one in zip(asked, given([rollouts[row] for row in asked], context), strict=True):
            found[row].append(one)
    return [_joined(each) for each in found]


def _joined(found: Sequence[Feedback]) -> Feedback:
    """One Feedback from those of several sources."""
    given = [one for one in found if one.signal]
    if not given:
        leaked = next((one.leaked for one in found if one.leaked is not None), None)
        return Feedback(reason="; ".join(one.reason for one in found), leaked=leaked)
    critic = next((one for one in given if one.critique is not None), Feedback())
    return Feedback(
        critique=critic.critique,
        demonstration=next((one.demonstration for one in given if one.demonstration is not None), None),
        source="+".join(one.source for one in given),
        leaked=next((one.leaked for one in given if one.leaked is not None), None),
        turn=critic.turn if len(given) == 1 else None,  # a demonstration is about the whole
        sampled=critic.sampled,
    )
