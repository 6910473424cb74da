"""NAME=VALUE words: the options of a task, of a method, of a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vpdlab.errors import UserError


def read_options(args: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as keyword arguments. Values stay text: only what takes an option knows its type.

    >>> read_options(("digits=3", "name=007", "until=2025-02-01"))
    {'digits': '3', 'name': '007', 'until': '2025-02-01'}

    Raises:
        UserError: for a name that is given twice.
    """
    options: dict[str, str] = {}
    for arg in args:
        name, _, text = arg.partition("=")
        if name in options:
            raise UserError(f"{name} is given twice: {name}={options[name]} and {arg}")
        options[name] = text
    return options


def read_values(args: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE words for what declares no types (a chat template): JSON where a value is JSON, else text. Python's
    True, False and None, in any case, are JSON's.

    >>> read_values(("enable_thinking=False", "level=3", "effort=high"))
    {'enable_thinking': False, 'level': 3, 'effort': 'high'}
    """
    return {name: _value(text) for name, text in read_options(args).items()}


def _value(text: str) -> Any:
    known = {"true": True, "false": False, "null": None, "none": None}
    if text.strip().casefold() in known:
        return known[text.strip().casefold()]
    try:
        return json.loads(text, parse_constant=lambda name: name)  # NaN is a word
    except (ValueError, RecursionError):
        return text
