"""Typed task options: NAME=VALUE arrives as text, and the option's annotation decides how it is read.

`size=true` is rejected and `name=007` stays text: a type is never guessed from how a value looks. Values passed from
Python are checked against the same types, so that notebooks and the command line reject the same input with the same
message.
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
    """A value of the wrong type; the message names the type that is expected."""


def typed_options(build: Callable[..., None]) -> Callable[..., None]:
    """Decorator for a task's `__init__`: converts the arguments to their annotated types.

    Arguments collected by a `**name` parameter pass through unchanged; the task converts them itself.
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
    """Convert options to the types in `hints`; an option without a hint is read as JSON where possible.

    Args:
        where: owner of the options, for messages.

    Raises:
        UserError: for a value of the wrong type; the message names the option, the value and the expected type.
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
    """Convert `value` to `hint`: text is parsed, anything else must already have that type. Raises Misfit."""
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
    """Try each type in turn; `str` last, because any text is a valid `str`."""
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
    """A JSON list or comma-separated items; each item is converted to the item type."""
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
    """Parse text that has no declared type as JSON; fall back to the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
