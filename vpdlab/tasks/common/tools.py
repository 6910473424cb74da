"""Calls of tools in a model's turn: read, checked against their schema, and explained where they are malformed.

Two formats. Where the model's chat template describes tools, a call is JSON between <tool_call> tags (the format of
Hermes, Qwen and SmolLM). Elsewhere a call is a fenced block whose label is the tool's name; its text is the argument.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpdlab.errors import shown
from vpdlab.tasks.common.markdown import blocks

OPENED, CLOSED = "<tool_call>", "</tool_call>"
CALL = re.compile(rf"{OPENED}(.*?)(?:({CLOSED})|(?={OPENED})|\Z)", re.DOTALL)
KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
MOST = 8
"""Calls of one turn that are answered."""


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        name, arguments: of the function.
        wrong: what is wrong with the call, for the model to read; "" for a call that can be made.
    """

    name: str
    arguments: Mapping[str, Any]
    wrong: str = ""


def read_calls(text: str, tools: Sequence[Mapping[str, Any]], native: bool) -> list[Call]:
    """The calls in a turn, in order; none in a turn that calls nothing.

    Args:
        tools: schemas of the functions (`{"type": "function", "function": {"name": ..., "parameters": ...}}`).
        native: whether calls have the chat template's format.
    """
    functions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    found = _tagged(text, functions) if native else _fenced(text, functions)
    over = len(found) - MOST
    return found if over <= 0 else [*found[:MOST], Call("", {}, f"{over} more calls: at most {MOST} in one turn.")]


def _tagged(text: str, functions: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Calls between tags."""
    return [_read(match[1].strip(), match[2] is not None, functions) for match in CALL.finditer(text)]


def _read(body: str, closed: bool, functions: Mapping[str, Mapping[str, Any]]) -> Call:
    if not closed:
        return Call("", {}, f"The call is never closed: end it with {CLOSED}.")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Call("", {}, f"The call is not valid JSON: {error}.")
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return Call("", {}, 'The call must be a JSON object with "name" and "arguments".')
    name, arguments = given["name"], given.get("arguments", given.get("parameters", {}))
    if isinstance(arguments, str):  # some models encode the arguments once more
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return Call(name, {}, f"The arguments of {shown(name)} are text, not a JSON object.")
    if name not in functions:
        return Call(name, {}, f"There is no function {shown(name)}: there is {', '.join(functions)}.")
    if not isinstance(arguments, dict):
        return Call(name, {}, f"The arguments of {name} must be a JSON object.")
    return Call(name, arguments, _misfit(name, arguments, functions[name]))


def _misfit(name: str, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What keeps arguments from their schema; "" for nothing. The types of JSON Schema, one level deep."""
    properties = schema.get("properties", {})
    for argument in schema.get("required", ()):
        if argument not in arguments:
            return f"{name} needs the argument {argument!r}."
    for argument, value in arguments.items():
        if argument not in properties:
            return f"{name} has no argument {shown(argument)}: it takes {', '.join(properties) or 'none'}."
        kind = properties[argument].get("type")
        fits = isinstance(value, KINDS.get(kind, object)) and (kind == "boolean" or not isinstance(value, bool))
        if not fits:
            return f"The argument {argument!r} of {name} must be of type {kind}, not {shown(value)}."
    return ""


def _fenced(text: str, functions: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Fenced blocks whose label is a function of one argument."""
    found = []
    for block in blocks(text):
        if block.language not in functions:
            continue
        argument = next(iter(functions[block.language]["properties"]))
        wrong = ""
        if not block.closed:
            wrong = "The code block is never closed: end it with ```."
        elif not block.code.strip():
            wrong = "The code block is empty."
        found.append(Call(block.language, {argument: block.code}, wrong))
    return found
