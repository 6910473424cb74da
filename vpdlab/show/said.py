"""What a notebook's text says, checked against what it has just computed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

MIME = "application/vnd.vpdlab.said+json"


class Said:
    """Sentences and whether they hold, as a folded list below a text.

    A notebook's prose speaks of one run; another seed, model or version may come out differently, and then the reader
    should hear it from the notebook itself. The tests execute every notebook and accept no sentence that does not hold.

    Args:
        sentences: sentence -> whether it holds, computed from the values of the notebook.

    Raises:
        TypeError: where a value is no truth value: a number in its place would always hold.
    """

    def __init__(self, sentences: Mapping[str, Any]) -> None:
        for sentence, holds in sentences.items():
            if not isinstance(getattr(holds, "item", lambda held=holds: held)(), bool):
                raise TypeError(f"whether {sentence!r} holds is {holds!r}, but must be True or False")
        self.sentences = {sentence: bool(holds) for sentence, holds in sentences.items()}

    def __repr__(self) -> str:
        return "\n".join(f"{'holds' if holds else 'DOES NOT HOLD'}: {text}" for text, holds in self.sentences.items())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        held = sum(self.sentences.values())
        rows = "".join(
            f"<li>{'✓' if holds else '<strong>✗ not in this run:</strong>'} {html.escape(sentence)}</li>"
            for sentence, holds in self.sentences.items()
        )
        head = f"What the text says, checked on this run: {held} of {len(self.sentences)} hold"
        opened = "" if held == len(self.sentences) else " open"
        page = f'<details{opened}><summary>{head}</summary><ul style="list-style-type:none">{rows}</ul></details>'
        return {"text/plain": repr(self), "text/html": page, MIME: self.sentences}


def said(sentences: Mapping[str, Any]) -> Said:
    """`Said`, for the last line of a cell: `said({"the margin rises": after > before})`."""
    return Said(sentences)
