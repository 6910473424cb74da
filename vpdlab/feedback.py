"""Feedback: C for each rollout, and the reason where there is none.

A source is a function `(rollout, group) -> Feedback`, where `group` holds all rollouts of the same problem. A new
source is one function and one line in `SOURCES`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from vpdlab.types import Feedback, Rollout

Source = Callable[[Rollout, Sequence[Rollout]], Feedback]


def verifier(rollout: Rollout, group: Sequence[Rollout]) -> Feedback:
    """The environment's own words on this rollout."""
    if rollout.outcome is None or not (rollout.outcome.notes or "").strip():
        return Feedback(reason="the environment said nothing")
    return Feedback(critique=rollout.outcome.notes, source="verifier")


def sibling(rollout: Rollout, group: Sequence[Rollout]) -> Feedback:
    """A success of the same group as demonstration, never the rollout itself.

    The next one after it in the group, so that demonstrations are spread over the successes. Blocks of thought are
    cut from it.
    """
    successes = sorted((other for other in group if other.success), key=lambda other: other.index)
    others = [other for other in successes if other.index != rollout.index]
    if not others:
        return Feedback(reason="no success in the group" if not successes else "the only success of its group")
    chosen = next((other for other in others if other.index > rollout.index), others[0])
    text = without_thoughts(chosen.text)
    if not text:
        return Feedback(reason="the sibling's response is empty")
    return Feedback(demonstration=text, source="sibling")


def reference(rollout: Rollout, group: Sequence[Rollout]) -> Feedback:
    """The task's own solution as demonstration (OPSD): privileged, and the same whatever the rollout did."""
    if not rollout.problem.answer.strip():
        return Feedback(reason="the problem has no reference solution")
    return Feedback(demonstration=rollout.problem.answer, source="reference")


SOURCES: dict[str, Source] = {"verifier": verifier, "sibling": sibling, "reference": reference}


def without_thoughts(text: str) -> str:
    """The text without `<think>` blocks.

    One that was never closed takes the rest with it; one that was opened before the text began (some chat templates
    open it in the prompt) takes all up to its end.
    """
    text = re.sub(r"<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].strip()


def give_feedback(
    rollouts: Sequence[Rollout],
    sources: Sequence[str],
    mode: Literal["all", "first"] = "all",
    more: Mapping[str, Source] | None = None,
) -> list[Feedback]:
    """C of each rollout, from the named sources.

    Args:
        more: sources beside those of `SOURCES`, by name.
        mode: "all" joins what every source has to say (a critique and a demonstration can stand side by side; of
            two critiques the first is kept); "first" takes the first source that has something to say.
    """
    groups: dict[int, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.group].append(rollout)
    known, notes = SOURCES | dict(more or {}), []
    for rollout in rollouts:
        said = [known[name](rollout, groups[rollout.group]) for name in sources]
        spoke = [note for note in said if note.signal]
        notes.append(_join(spoke if mode == "all" else spoke[:1], said))
    return notes


def _join(spoke: Sequence[Feedback], said: Sequence[Feedback]) -> Feedback:
    if not spoke:
        leaked = next((note.leaked for note in said if note.leaked is not None), None)
        return Feedback(reason="; ".join(note.reason for note in said), leaked=leaked)
    return Feedback(
        critique=next((note.critique for note in spoke if note.critique is not None), None),
        demonstration=next((note.demonstration for note in spoke if note.demonstration is not None), None),
        source="+".join(note.source for note in spoke),
        leaked=next((note.leaked for note in spoke if note.leaked is not None), None),
    )
