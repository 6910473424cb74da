"""Values that came out of the wall: read with limits, compared by stated rules, shown in few words.

Nothing in here builds what the words describe: a value stays a tree of (kind, content), so that a set of a million
colliding numbers costs no more than a list of them, and no method of anybody's runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from vpdlab.sandbox.inside import DEEPEST, LONGEST, NotPlain, encode

MOST = 500_000  # words of one value
SHOWN = 240  # characters of a value in a message
# kind (the letter of `inside.encode`) -> name, and for containers the marks around the items
NAMES = {
    "N": "None", "T": "bool", "F": "bool", "i": "int", "f": "float", "c": "complex", "s": "str", "b": "bytes",
    "l": "list", "t": "tuple", "S": "set", "Z": "frozenset", "d": "dict",
}  # fmt: skip
MARKS = {"l": "[]", "t": "()", "S": "{}", "Z": ("frozenset({", "})"), "d": "{}"}
NUMBERS = "if"

Tree = tuple[str, Any]  # (kind, content): an atom's value, a list of trees, or for a dict a list of pairs of trees


@dataclass(frozen=True)
class Rules:
    """When a value counts as the expected one. Types must be the same, and never subclasses, but for:

    Attributes:
        relative, absolute: two floats are equal where they differ by at most `relative * |expected|` or by at most
            `absolute`. Infinities are equal to themselves, and so is NaN. Floats inside sets or as keys of dicts must
            be the very same.
        numbers: whether an int equals a float of the same value, as `==` has it. A bool never equals a number.
        sequences: whether a list equals a tuple of equal items (data sets that come as JSON know no tuples).
    """

    relative: float = 1e-9
    absolute: float = 1e-12
    numbers: bool = False
    sequences: bool = False


EXACT = Rules()


class Unreadable(ValueError):
    """The words are no value: the program wrote them itself, or they pass a limit."""


def decode(line: str) -> Tree:
    """The tree that a line of words (`inside.encode`) describes.

    Raises:
        Unreadable: for words that are none, for more than `MOST` of them, for more than `DEEPEST` nested containers.
    """
    if len(line) > LONGEST or line.count(" ") >= MOST:
        raise Unreadable("a value that is too large")
    words = iter(line.split(" "))
    try:
        tree = _tree(words, 0)
    except (ValueError, OverflowError, StopIteration) as error:
        raise Unreadable("words that are no value") from error
    if next(words, None) is not None:
        raise Unreadable("words behind the value")
    return tree


def _tree(words: Iterator[str], depth: int) -> Tree:
    word = next(words)
    kind, rest = word[:1], word[1:]
    if kind in MARKS:
        count = int(rest)
        if not 0 <= count <= MOST or depth >= DEEPEST:
            raise Unreadable("a value that is too large or too deep")
        if kind == "d":
            return kind, [(_tree(words, depth + 1), _tree(words, depth + 1)) for _ in range(count)]
        return kind, [_tree(words, depth + 1) for _ in range(count)]
    return kind, _atom(kind, rest)


def _atom(kind: str, rest: str) -> Any:
    if kind in ("N", "T", "F") and not rest:
        return {"N": None, "T": True, "F": False}[kind]
    if kind == "i":
        return int(rest, 16)
    if kind == "f":
        return float.fromhex(rest)
    if kind == "c":
        real, _, imaginary = rest.partition(";")
        return complex(float.fromhex(real), float.fromhex(imaginary))
    if kind == "s":
        return bytes.fromhex(rest).decode("utf-8", "surrogatepass")
    if kind == "b":
        return bytes.fromhex(rest)
    raise ValueError(f"no kind {kind!r}")


def same(expected: Tree, got: Tree, rules: Rules) -> bool:
    """Whether `got` counts as `expected`."""
    (kind, wanted), (other, found) = expected, got
    if kind in NUMBERS and other in NUMBERS and (kind == other or rules.numbers):
        return _close(wanted, found, rules)
    if kind in "lt" and other in "lt" and (kind == other or rules.sequences):
        return len(wanted) == len(found) and all(same(a, b, rules) for a, b in zip(wanted, found, strict=True))
    if kind != other:
        return False
    if kind in "SZ":
        return len(wanted) == len(found) and sorted(_key(v, rules) for v in wanted) == sorted(
            _key(v, rules) for v in found
        )
    if kind == "d":
        if len(wanted) != len(found):
            return False
        theirs = {_key(key, rules): value for key, value in found}
        return all((name := _key(key, rules)) in theirs and same(v, theirs[name], rules) for key, v in wanted)
    if kind == "c":
        return all(_close(a, b, rules) for a, b in ((wanted.real, found.real), (wanted.imag, found.imag)))
    return wanted == found


def _close(wanted: float, found: float, rules: Rules) -> bool:
    if isinstance(wanted, int) and isinstance(found, int):
        return wanted == found
    try:
        wanted, found = float(wanted), float(found)
    except OverflowError:  # an int beyond every float
        return False
    if math.isnan(wanted) or math.isnan(found):
        return math.isnan(wanted) and math.isnan(found)
    if math.isinf(wanted) or math.isinf(found):
        return wanted == found
    return abs(wanted - found) <= max(rules.relative * abs(wanted), rules.absolute)


def _key(tree: Tree, rules: Rules) -> str:
    """A text that is equal for equal values, for members of sets and keys of dicts."""
    kind, content = tree
    if kind == "f":
        if rules.numbers and content.is_integer():
            return f"i{int(content):x}"
        return "f" + (content + 0.0).hex()  # -0.0 is 0.0
    if kind == "i":
        return f"i{content:x}"
    if kind == "d":
        return f"d({','.join(sorted(f'{_key(key, rules)}:{_key(value, rules)}' for key, value in content))})"
    if kind in MARKS:
        keys = [_key(item, rules) for item in content]
        letter = "l" if kind == "t" and rules.sequences else kind
        return f"{letter}({','.join(sorted(keys) if kind in 'SZ' else keys)})"
    return kind + repr(content)


def kind_of(tree: Tree) -> str:
    """The name of the value's type."""
    return NAMES[tree[0]]


def show_value(value: Any, room: int = SHOWN) -> str:
    """A value of ours, cut to about `room` characters; three dots for one that is too large or not plain."""
    try:
        return show(decode(encode(value)), room)
    except (NotPlain, Unreadable):
        return "…"


def same_output(expected: str, got: str) -> bool:
    """Whether two outputs are equal line by line, or by numbers that are equal (1.50 and 1.5)."""
    wanted, found = ([line.strip() for line in text.rstrip().split("\n")] for text in (expected, got))
    return len(wanted) == len(found) and all(map(_same_line, wanted, found))


def _same_line(wanted: str, found: str) -> bool:
    if wanted == found:
        return True
    left, right = wanted.split(), found.split()
    return len(left) == len(right) and all(a == b or _same_number(a, b) for a, b in zip(left, right, strict=True))


def _same_number(wanted: str, found: str) -> bool:
    if len(wanted) > 100 or len(found) > 100:
        return False
    try:
        return Decimal(wanted) == Decimal(found)
    except InvalidOperation:
        return False


def show(tree: Tree, room: int = SHOWN) -> str:
    """A value as Python writes it, cut to about `room` characters."""
    text = "".join(_pieces(tree, [room]))
    return text if len(text) <= room else text[: room - 1] + "…"


def _pieces(tree: Tree, room: list[int]) -> Iterator[str]:
    """The written value, piece by piece; stops soon after `room[0]` characters."""
    kind, content = tree
    if kind not in MARKS:
        text = _shown_atom(kind, content, max(room[0], 0))
        room[0] -= len(text)
        yield text
        return
    opening, closing = MARKS[kind]
    if kind == "S" and not content:
        opening, closing = "set(", ")"
    yield opening
    if kind in "SZ":  # in an order of their own: that of a set changes from run to run
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
    return kind, content if kind in "ifsb" else _key(tree, EXACT)


def _shown_atom(kind: str, content: Any, room: int) -> str:
    if kind == "i" and content.bit_length() > 2000:
        return f"<an int of {content.bit_length()} bits>"
    if kind in "sb" and len(content) > room:
        return repr(content[: room + 1]) + "…"
    return repr(content)
