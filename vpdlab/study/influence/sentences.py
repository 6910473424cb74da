"""The sentences of a critique: taken apart, shuffled, or swapped for another critique."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

MOST_SENTENCES = 32
_MOST_SEGMENTED = 20_000  # characters; the segmenter's time grows faster than the text


def sentences(text: str, most: int = MOST_SENTENCES) -> list[str]:
    """The sentences of a text with their white space: joined they are the text again.

    Args:
        text: the text; one of white space alone has no sentences.
        most: if there are more, neighbours are merged until this many remain.

    >>> sentences("The tens digit is wrong. The ones digit 7 is right.")
    ['The tens digit is wrong. ', 'The ones digit 7 is right.']
    """
    parts: list[str] = _segmenter()(text) if len(text) <= _MOST_SEGMENTED else []
    if "".join(parts) != text:  # the segmenter guarantees it, but model output can be anything
        parts = re.findall(r".+?(?:[.!?]\s+|\n+|\Z)\s*", text, re.DOTALL) or [text]
    joined: list[str] = []
    for part in parts:  # white space alone is not a sentence
        if joined and (not part.strip() or not joined[-1].strip()):
            joined[-1] += part
        else:
            joined.append(part)
    while len(joined) > most:
        at = min(range(len(joined) - 1), key=lambda i: len(joined[i]) + len(joined[i + 1]))
        joined[at : at + 2] = [joined[at] + joined[at + 1]]
    return [part for part in joined if part.strip()]


@cache
def _segmenter() -> Callable[[str], Any]:
    import pysbd

    return pysbd.Segmenter(language="en", clean=False).segment


def swapped(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: str = "critique") -> str | None:
    """A critique of another problem's rollout, for `others`: how an unrelated critique moves the teacher."""
    own = record.get(part)
    return next(
        (r[part] for r in records if r["problem_id"] != record["problem_id"] and r[part] not in (None, own)), None
    )


def shuffled(pieces: Sequence[str], seed: int) -> str:
    """The sentences in another order; for a single sentence, its words."""
    single = len(pieces) == 1
    parts = pieces[0].split() if single else [piece.strip() for piece in pieces]
    rng = np.random.default_rng(seed)
    order = list(range(len(parts)))
    for _ in range(20):  # a shuffle may change nothing
        rng.shuffle(order)
        if [parts[i] for i in order] != parts:
            break
    return " ".join(parts[i] for i in order)
