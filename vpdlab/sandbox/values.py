"""Decode values from inside the wall within limits, and compare them by explicit rules.

The Python values are never built: a value stays a tree of (kind, content), so that a set of a million colliding numbers
costs no more than a list of them, and no foreign method runs. Decoding and comparing take time linear in the length of
the encoding, whatever the nesting.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from vpdlab.sandbox.inside import DEEPEST, LONGEST

MOST = 500_000  # words of one value
# kind (the letter of `inside.encode`) -> type name
NAMES = {
    "N": "None", "T": "bool", "F": "bool", "i": "int", "f": "float", "c": "complex", "s": "str", "b": "bytes",
    "l": "list", "t": "tuple", "S": "set", "Z": "frozenset", "d": "dict",
}  # fmt: skip
CONTAINERS = "ltSZd"
COUNT = re.compile(r"[0-9]{1,9}")
HEX = re.compile(r"-?[0-9a-f]+")
NOT_A_NUMBER = "nan"  # in an encoded value it can only be a float: text is in hex

Tree = tuple[str, Any]  # (kind, content): an atom's value, a list of trees, or for a dict a list of pairs of trees


@dataclass(frozen=True)
class Rules:
    """When a value counts as the expected one. Types must be identical, without subclasses, except for:

    Attributes:
        relative, absolute: two floats are equal if they differ by at most `relative * |expected|` or by at most
            `absolute`. Infinities are equal to themselves, and so is NaN. Floats in sets and dict keys must be
            identical.
        numbers: whether an int equals a float of exactly the same value. A bool never equals a number.
        sequences: whether a list equals a tuple of equal items (JSON data has no tuples).
        form: the comparison in the test, with Python's meaning; "" for the rules above.
            "==": exact for numbers of all types, including bool and complex; NaN equals nothing; a set equals a
            frozenset; values of other types count as the plain value that they equal (`inside._kin`). "is": the same
            None, True or False. "abs <", "abs <=": the distance to the expected number is below, or at most,
            `absolute`. "isclose": `math.isclose` with `relative` and `absolute`.
    """

    relative: float = 1e-9
    absolute: float = 1e-12
    numbers: bool = False
    sequences: bool = False
    form: Literal["", "==", "is", "abs <", "abs <=", "isclose"] = ""


EXACT = Rules()


class Unreadable(ValueError):
    """The words do not encode a value: the program wrote them itself, or they exceed a limit."""


def matches(expected: str, line: str, rules: Rules) -> bool:
    """Whether an encoded value (`inside.encode`) counts as the expected one.

    If the numbers of words differ, it only costs a scan of `line`: no rule makes such values equal.

    Raises:
        Unreadable: for words that do not encode a value.
    """
    reflexive = rules.form in ("", "is") or (rules.form == "==" and NOT_A_NUMBER not in expected)
    if reflexive and line == expected:
        return True
    count = expected.count(" ")
    if line.count(" ") != count:
        return False
    longest = max(LONGEST, 2 * len(expected))
    return same(decode(expected, longest, count + 1), decode(line, longest, count + 1), rules)


def decode(line: str, longest: int = LONGEST, most: int = MOST) -> Tree:
    """Decode a line of words (`inside.encode`) to a tree.

    Raises:
        Unreadable: for invalid words, more than `longest` characters, more than `most` words, or more than `DEEPEST`
            nested containers.
    """
    if len(line) > longest or line.count(" ") >= most:
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
    if kind not in CONTAINERS or not kind:
        return kind, atom(kind, rest)
    if not COUNT.fullmatch(rest) or depth >= DEEPEST:
        raise Unreadable("a value that is too large or too deep")
    count = int(rest)
    if kind == "d":
        return kind, [(_tree(words, depth + 1), _tree(words, depth + 1)) for _ in range(count)]
    return kind, [_tree(words, depth + 1) for _ in range(count)]


def atom(kind: str, rest: str) -> Any:
    """The value of an atom. Raises ValueError or OverflowError for an invalid one."""
    if kind in ("N", "T", "F") and not rest:
        return {"N": None, "T": True, "F": False}[kind]
    if kind == "i" and HEX.fullmatch(rest):
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
    if rules.form == "is":
        return expected[0] == got[0] and expected[0] in ("N", "T", "F")
    if rules.form in ("abs <", "abs <=", "isclose"):
        return _near(expected, got, rules)
    return _equal(expected, got, rules)


def _equal(expected: Tree, got: Tree, rules: Rules) -> bool:
    (kind, wanted), (other, found) = expected, got
    python = rules.form == "=="
    if python and kind in "ifcTF" and other in "ifcTF":
        return bool(wanted == found)
    if kind in "if" and other in "if" and (kind == other or rules.numbers):
        return _close(wanted, found, rules) if kind == other == "f" else wanted == found
    if kind in "lt" and other in "lt" and (kind == other or rules.sequences):
        return len(wanted) == len(found) and all(_equal(a, b, rules) for a, b in zip(wanted, found, strict=True))
    if kind in "SZ" and other in "SZ" and (kind == other or python):
        return len(wanted) == len(found) and _members(wanted, rules) == _members(found, rules)
    if kind != other:
        return False
    if kind == "d":
        if len(wanted) != len(found):
            return False
        theirs = {digest(key, rules): value for key, value in found}
        return all((name := digest(key, rules)) in theirs and _equal(v, theirs[name], rules) for key, v in wanted)
    if kind == "c":
        return all(_close(a, b, rules) for a, b in ((wanted.real, found.real), (wanted.imag, found.imag)))
    return bool(wanted == found)


def _close(wanted: float, found: float, rules: Rules) -> bool:
    if math.isnan(wanted) or math.isnan(found):
        return math.isnan(wanted) and math.isnan(found)
    if math.isinf(wanted) or math.isinf(found):
        return wanted == found
    return abs(wanted - found) <= max(rules.relative * abs(wanted), rules.absolute)


def _near(expected: Tree, got: Tree, rules: Rules) -> bool:
    """Python's result of `abs(got - expected) < absolute` or `math.isclose`; if that raises, the test fails."""
    (kind, wanted), (other, found) = expected, got
    if kind not in "ifcTF" or other not in "ifcTF":
        return False
    try:
        if rules.form == "isclose":
            return math.isclose(found, wanted, rel_tol=rules.relative, abs_tol=rules.absolute)
        distance = abs(found - wanted)
        return bool(distance < rules.absolute if rules.form == "abs <" else distance <= rules.absolute)
    except (ArithmeticError, TypeError, ValueError):
        return False


def _members(items: list[Tree], rules: Rules) -> list[bytes]:
    return sorted(digest(item, rules) for item in items)


_alone = itertools.count()


def digest(tree: Tree, rules: Rules) -> bytes:
    """A digest that is the same for equal set members and dict keys; reads each word once."""
    kind, content = tree
    if kind in CONTAINERS:
        letter = "l" if kind == "t" and rules.sequences else "S" if kind == "Z" and rules.form == "==" else kind
        if kind == "d":
            parts = sorted(digest(key, rules) + digest(value, rules) for key, value in content)
        else:
            parts = _members(content, rules) if kind in "SZ" else [digest(item, rules) for item in content]
        data = f"{letter}{len(content)} ".encode() + b"".join(parts)
    elif kind in "sb":
        data = kind.encode() + (content.encode("utf-8", "surrogatepass") if kind == "s" else content)
    else:
        data = _number(kind, content, rules).encode()
    return blake2b(data, digest_size=16).digest()


def _number(kind: str, content: Any, rules: Rules) -> str:
    """The same text for all numbers that are equal under the rules."""
    python = rules.form == "=="
    if python and kind in "TF":
        kind, content = "i", int(content)
    if python and kind == "c" and content.imag == 0:
        kind, content = "f", content.real
    if python and content != content:  # NaN: equal to nothing, not even to itself
        return f"nan {next(_alone)}"
    if kind == "f" and (python or rules.numbers) and content.is_integer():
        kind, content = "i", int(content)
    if kind == "i":
        return f"i{content:x}"
    if kind == "f":
        return "f" + (content + 0.0).hex()  # -0.0 is 0.0
    if kind == "c":
        return f"c{(content.real + 0.0).hex()};{(content.imag + 0.0).hex()}"
    return kind
