"""Options of tasks, typed: NAME=VALUE comes as text, and what it means is decided by the annotation of the option.

`size=true` is no number and `name=007` stays text: a value is never guessed from its looks. Values that come from
Python are held to the same types, so that a notebook and the command line refuse the same things in the same words.
"""

from __future__ import annotations

import datetime
import functools
import inspect
import json
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal

from vpdlab.errors import UserError

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
WHOLE = re.compile(r"[+-]?[0-9]{1,4000}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
SIMPLE = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Misfit(Exception):
    """A value that is not of the wanted type; its words say what would be."""


def typed_options(build: Callable[..., None]) -> Callable[..., None]:
    """A decorator for a task's `__init__`: its arguments arrive as the types that it declares.

    The keyword arguments of a `**name` parameter pass through as they are: the task knows their types.
    """
    signature = inspect.signature(build)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")

    @functools.wraps(build)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        given = dict(list(signature.bind(self, *args, **options).arguments.items())[1:])
        more = given.pop(rest, {})
        build(self, **typed(f"task {self.name}", given, typing.get_type_hints(build)), **more)

    return checked


def typed(where: str, options: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The options as the types that `hints` names; an option without a hint is read like a JSON value.

    Args:
        where: what takes the options, for messages.

    Raises:
        UserError: for a value that does not fit; the line names the option, the value and what is wanted.
    """
    found = {}
    for name, value in options.items():
        try:
            found[name] = converted(value, hints.get(name, Any))
        except Misfit as why:
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:59] + "…"
            raise UserError(f"{where}: {name} is {shown}, but must be {why}") from None
    return found


def converted(value: Any, hint: Any) -> Any:
    """`value` as `hint`: text is read, anything else must be of that type already. Raises Misfit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _any_of(value, inner)
    if origin is Literal:
        return _choice(value, inner)
    kind = origin or hint
    if kind in (list, tuple, set, frozenset, Sequence):
        return _items(value, kind, inner)
    if kind in (dict, Mapping):
        return _mapping(value)
    if hint in SIMPLE:
        return _simple(value, hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member(value, hint)
    if hint in (datetime.date, datetime.time):
        return _moment(value, hint)
    if hint is type(None):
        if value is None or (isinstance(value, str) and value.casefold() in ("none", "null")):
            return None
        raise Misfit("none")
    if kind is Callable:
        if callable(value):
            return value
        raise Misfit("a function")
    return _plain(value) if isinstance(value, str) else value


def _simple(value: Any, hint: type) -> Any:
    if isinstance(value, str):
        word = value.strip()
        if hint is str:
            return value
        if hint is bool and word.casefold() in WORDS:
            return WORDS[word.casefold()]
        if hint is int and WHOLE.fullmatch(word):
            return int(word)
        if hint is float and NUMBER.fullmatch(word) and math.isfinite(float(word)):
            return float(word)
    elif hint is bool:
        if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
            return bool(value)
    elif hint is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    elif hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    point = value.replace(",", ".") if isinstance(value, str) and hint is float else ""
    raise Misfit(SIMPLE[hint] + (f", for instance {point}" if NUMBER.fullmatch(point) else ""))


def _member(value: Any, kind: type[Enum]) -> Any:
    for member in kind:
        if value is member or (isinstance(value, str) and value.casefold() in (member.name.casefold(), member.value)):
            return member
    raise Misfit(f"one of {', '.join(str(member.value) for member in kind)}")


def _moment(value: Any, kind: type[datetime.date] | type[datetime.time]) -> Any:
    if isinstance(value, kind):
        return value
    try:
        return kind.fromisoformat(value)
    except (TypeError, ValueError):
        raise Misfit("a date such as 2025-02-01" if kind is datetime.date else "a time such as 12:30") from None


def _any_of(value: Any, hints: Sequence[Any]) -> Any:
    """The first of the types that fits; text last, because everything that is written is text."""
    wanted = []
    for hint in sorted(hints, key=lambda hint: (hint is str) - (hint is type(None))):
        try:
            return converted(value, hint)
        except Misfit as why:
            wanted.append(str(why))
    raise Misfit(" or ".join(wanted))


def _choice(value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
        if isinstance(value, str) and value.strip() == str(choice):
            return choice
    raise Misfit(f"one of {', '.join(str(choice) for choice in choices)}")


def _items(value: Any, kind: Any, inner: Sequence[Any]) -> Any:
    """A list: JSON, or words with commas between them; each item is of its own type."""
    if isinstance(value, str):
        value = _plain(value) if value.lstrip().startswith("[") else value.split(",") if value.strip() else []
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | set | frozenset):
        raise Misfit("a list, with commas between its items")
    items = list(value)
    if kind is tuple and len(inner) > 1 and inner[-1] is not ...:
        if len(items) != len(inner):
            raise Misfit(f"a list of {len(inner)} items")
        hints: Sequence[Any] = inner
    else:
        hints = [inner[0] if inner else Any] * len(items)
    try:
        found = [converted(item, hint) for item, hint in zip(items, hints, strict=True)]
    except Misfit as why:
        raise Misfit(f"a list of which each item is {why}") from None
    return found if kind in (list, Sequence) else kind(found)


def _mapping(value: Any) -> Any:
    found = _plain(value) if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise Misfit('a JSON object, for instance {"a": 1}')
    return found


def _plain(text: str) -> Any:
    """Text without a declared type: JSON where it is JSON, else text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
