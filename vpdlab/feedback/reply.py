"""A chat completion from a server that is not trusted: what of it may be used, and why not.

One rule for what just came and for what a cache holds, so that nothing is kept that could not be read again.
"""

from __future__ import annotations

import re
from typing import Any

from vpdlab.net import BadReply, read_json

LARGEST = 1 << 20  # bytes of a reply
LONGEST = 1 << 18  # characters of its text, thoughts included
MOST = 1 << 48  # tokens that a reply may say it used
# Control characters but tab and line ends; marks that turn the direction of the text around them; halves of characters.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def completion(data: bytes) -> tuple[str, int | None]:
    """Text of a chat completion, and how many tokens it says it used; None where it says nothing.

    Raises:
        BadReply: for everything else, in words that quote nothing of it.
    """
    found = read_json(data)
    try:
        message = found["choices"][0]["message"]
        text, usage = message["content"], found.get("usage")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise BadReply("its reply does not have the shape of a chat completion") from None
    return checked_text(text), None if usage is None else _tokens(usage)


def checked_text(text: Any) -> str:
    """A text that may be kept and shown to a tokenizer. Raises BadReply for anything else."""
    if not isinstance(text, str):
        raise BadReply("its reply holds no text")
    if len(text) > LONGEST:
        raise BadReply(f"its text is longer than {LONGEST} characters")
    if odd := _NO_TEXT.search(text):
        raise BadReply(f"its text holds the character U+{ord(odd[0]):04X}, which no text may hold")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _tokens(usage: Any) -> int | None:
    if not isinstance(usage, dict):
        raise BadReply("its usage is no object")
    asked, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not all(count is None or _is_count(count) for count in (asked, written)):
        raise BadReply("its usage is no count of tokens")
    return None if asked is None or written is None else int(asked + written)


def _is_count(value: Any) -> bool:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and 0 <= value <= MOST
