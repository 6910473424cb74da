"""For the reference: examples and plain tables in docstrings as code blocks; Markdown reads both otherwise."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)  # up to an empty line
TABLE = re.compile(r"^( *)(=+(?: +=+)+)\n.*?\n\1\2$", re.MULTILINE | re.DOTALL)  # between two equal rules


def fenced(text: str) -> str:
    """The text with each example and each table in a fence.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2\\n\\nThe end.").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```', '', 'The end.']
    >>> fenced("==  ==\\na   b\\n==  ==").splitlines()
    ['```text', '==  ==', 'a   b', '==  ==', '```']
    """
    text = EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}\n{found[1]}```", text)
    return TABLE.sub(lambda found: f"{found[1]}```text\n{found[0]}\n{found[1]}```", text)


class Docstrings(griffe.Extension):
    """Applies `fenced` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for everything it has read."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
