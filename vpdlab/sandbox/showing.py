"""Format values for messages: as Python writes them, truncated, at a cost independent of the value's size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from vpdlab.sandbox.inside import DEEPEST, NotPlain, encode
from vpdlab.sandbox.values import CONTAINERS, COUNT, EXACT, HEX, NAMES, Tree, Unreadable, atom, digest

SHOWN = 240  # characters of a value in a message
WORDS = 500  # words of a value that are read to show it
MARKS = {"l": "[]", "t": "()", "S": "{}", "Z": ("frozenset({", "})"), "d": "{}"}
REST = ("…", None)  # stands for what was not read


def kind_of(line: str) -> str:
    """The type name of an encoded value."""
    return NAMES.get(line[:1], "")


def show_line(line: str, room: int = SHOWN) -> str:
    """An encoded value (`inside.encode`) as text, truncated to about `room` characters.

    Raises:
        Unreadable: if the words that are read are invalid.
    """
    words = (match[0] for match in islice(re.finditer(r"[^ ]+", line), WORDS))
    try:
        tree = _glimpse(words, 0, room)
    except (ValueError, OverflowError) as error:
        raise Unreadable("words that are no value") from error
    return show(tree, room)


def show_value(value: Any, room: int = SHOWN) -> str:
    """A value as text, truncated to about `room` characters; an ellipsis for one that is not plain."""
    try:
        return show_line(encode(value, longest=1 << 40), room)
    except (NotPlain, Unreadable):
        return "…"


def _glimpse(words: Iterator[str], depth: int, room: int) -> Tree:
    """The tree of the first words, with `REST` where they end."""
    word = next(words, None)
    if word is None:
        return REST
    kind, rest = word[:1], word[1:]
    if kind not in CONTAINERS or not kind:
        return _short(kind, rest, room)
    if not COUNT.fullmatch(rest) or depth >= DEEPEST:
        raise Unreadable("a value that is too large or too deep")
    items: list[Any] = []
    for _ in range(int(rest)):
        item = _glimpse(words, depth + 1, room)
        items.append((item, _glimpse(words, depth + 1, room)) if kind == "d" else item)
        if item is REST:
            break
    return kind, items


def _short(kind: str, rest: str, room: int) -> Tree:
    """The tree of an atom: of long text the start, of a long int its size."""
    if kind == "i" and len(rest) > 500 and HEX.fullmatch(rest):
        digits = rest.lstrip("-")
        return REST[0], f"<an int of {4 * len(digits) - 4 + int(digits[0], 16).bit_length()} bits>"
    if kind in "sb" and len(rest) > 16 * room:
        data = bytes.fromhex(rest[: 16 * room])
        return kind, data.decode("utf-8", "ignore") if kind == "s" else data
    return kind, atom(kind, rest)


def show(tree: Tree, room: int = SHOWN) -> str:
    """A value as Python writes it, truncated to about `room` characters."""
    text = "".join(_pieces(tree, [room]))
    return text if len(text) <= room else text[: room - 1] + "…"


def _pieces(tree: Tree, room: list[int]) -> Iterator[str]:
    """The text in pieces; stops soon after `room[0]` characters."""
    kind, content = tree
    if kind not in MARKS:
        text = _shown_atom(kind, content, max(room[0], 0))
        room[0] -= len(text)
        yield text
        return
    opening, closing = MARKS[kind]
    if kind == "S" and not content:
        opening, closing = "set(", ")"
    room[0] -= len(opening)
    yield opening
    if kind in "SZ" and len(content) > 1:  # sorted: a set's own order changes from run to run
        content = sorted(content, key=_order)
    for index, item in enumerate(content):
        if room[0] < 0:
            return
        room[0] -= 2
        yield ", " if index else ""
        if kind == "d":
            yield from _pieces(item[0], room)
            yield ": "
            item = item[1]
        yield from _pieces(item, room)
    yield ",)" if kind == "t" and len(content) == 1 else closing


def _order(tree: Tree) -> tuple[str, Any]:
    kind, content = tree
    return kind, content if kind in "ifsb" else "" if kind == REST[0] else digest(tree, EXACT)


def _shown_atom(kind: str, content: Any, room: int) -> str:
    if kind == REST[0]:
        return content or REST[0]
    if kind == "i" and content.bit_length() > 2000:
        return f"<an int of {content.bit_length()} bits>"
    if kind in "sb" and len(content) > room:
        return repr(content[: room + 1]) + "…"
    return repr(content)
