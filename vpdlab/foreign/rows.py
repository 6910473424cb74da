"""One row as a rollout: what was asked, answered and said, checked field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpdlab.errors import UserError, shown
from vpdlab.types import ASSISTANT, Problem

MOST_TEXT = 1 << 22  # characters of one field
LARGEST = 1e18  # of a number: a run folder holds none beyond 2^63
FIELDS = {
    "prompt": "what the student reads: text, or chat messages that end in a user's turn",
    "response": "what it answered: text, or an assistant's messages (also: completion)",
    "feedback": "what the teacher reads as well (also: critique)",
    "demonstration": "a correct response that the teacher reads as well",
    "reward": "a number (also: score)",
    "success": "true or false; default: whether the reward is 1 or more",
    "answer": "the reference answer",
    "parsed": "the answer as it was read from the response",
    "environment": "what the environment said",
    "system": "the system turn, for a prompt that is text",
    "finished": "false where the response was cut off",
    "group": "rows with the same value are one group; default: those with the same prompt",
    "id": "name of the problem",
    "step": "the iteration it belongs to",
}
"""Columns that are read, and what each means; others are not kept."""
ALIASES = {"completion": "response", "critique": "feedback", "score": "reward"}


@dataclass(frozen=True)
class Row:
    """A rollout from elsewhere.

    Attributes:
        where: its place, for messages.
        problem: what was asked.
        turns: (role, text) of the response: one turn of the assistant, or those of an episode.
        critique, demonstration: the feedback; None for none.
        reward, success, parsed, environment: what was said of it; None where that was not recorded.
        finished: False where it was cut off; None where that was not recorded.
        group: rows of the same group are answers to the same problem.
        step: the iteration; None where that was not recorded.
        unknown: names of columns that are not kept.
    """

    where: str
    problem: Problem
    turns: tuple[tuple[str, str], ...]
    critique: str | None
    demonstration: str | None
    reward: float | None
    success: bool | None
    parsed: str | None
    environment: str | None
    finished: bool | None
    group: str
    step: int | None
    unknown: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The response; of an episode the policy's last turn."""
        return next((text for role, text in reversed(self.turns) if role == ASSISTANT), "")


def read_row(fields: Mapping[str, Any], where: str) -> Row:
    """A row from its fields (`FIELDS`).

    Raises:
        UserError: naming place, field and value.
    """
    known = {}
    for name, value in fields.items():
        field = ALIASES.get(name, name)
        if field in FIELDS and value is not None:
            if field in known:
                both = " and ".join(one for one in fields if ALIASES.get(one, one) == field)
                raise UserError(f"{where}: {both} mean the same: keep one of them")
            known[field] = value
    read = _Reader(where, known)
    system, history, prompt = _prompt(read)
    turns = _response(read)
    reward = read.number("reward")
    success = read.kind("success", bool)
    group = read.name("group") or json.dumps([system, history, prompt], ensure_ascii=True)
    return Row(
        where=where,
        problem=Problem(read.name("id") or "", prompt, read.name("answer") or "", system, history=tuple(history)),
        turns=tuple(turns),
        critique=read.said("feedback"),
        demonstration=read.said("demonstration"),
        reward=reward,
        success=reward >= 1 if success is None and reward is not None else success,
        parsed=read.name("parsed"),
        environment=read.said("environment"),
        finished=read.kind("finished", bool),
        group=group,
        step=read.count("step"),
        unknown=tuple(name for name in fields if ALIASES.get(name, name) not in FIELDS),
    )


@dataclass(frozen=True)
class _Reader:
    """The fields of one row, each read as its type."""

    where: str
    fields: Mapping[str, Any]

    def wrong(self, name: str, wanted: str) -> UserError:
        value = self.fields.get(name)
        found = "is missing" if value is None else f"is {shown(value)}"
        return UserError(f"{self.where}: field {name!r} {found}, but must be {wanted}")

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong(name, "text")
        return self.short(name, value)

    def said(self, name: str) -> str | None:
        """Text; None where there is nothing but white space."""
        text = self.text(name)
        return text if text and text.strip() else None

    def short(self, name: str, value: str | None) -> str | None:
        if value is not None and len(value) > MOST_TEXT:
            raise UserError(f"{self.where}: field {name!r} has {len(value)} characters, more than {MOST_TEXT}")
        return value

    def name(self, name: str) -> str | None:
        """Text, or a number as text."""
        value = self.fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return self.text(name)

    def number(self, name: str) -> float | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool):
            return float(value)
        if not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise self.wrong(name, f"a number, and at most {LARGEST:g}")
        return float(value)

    def count(self, name: str) -> int | None:
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # of a column with gaps pandas makes floats
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
            raise self.wrong(name, "a whole number from 0 to 999999999")
        return value

    def kind(self, name: str, kind: type) -> Any:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, kind):
            raise self.wrong(name, "true or false")
        return value

    def messages(self, name: str) -> list[tuple[str, str]]:
        """(role, text) of a list of chat messages."""
        value = self.fields[name]
        found = []
        for place, message in enumerate(value, 1):
            role = message.get("role") if isinstance(message, Mapping) else None
            if not isinstance(role, str):
                raise UserError(f"{self.where}: field {name!r} has {shown(message)} as message {place}: it has no role")
            found.append((role[:40], self._content(name, place, message)))
        self.short(name, "".join(text for _, text in found))
        return found

    def _content(self, name: str, place: int, message: Mapping[str, Any]) -> str:
        content = message.get("content")
        parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content or ""]
        texts = []
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                what = f"content {shown(part)}" if text is None else f"text {shown(text)}"
                raise UserError(f"{self.where}: field {name!r}, message {place} has {what}: only text can be read")
            texts.append(text)
        if calls := message.get("tool_calls"):  # shown as it was made, since no template of the model writes it here
            texts.append(json.dumps(calls, ensure_ascii=False, default=str))
        return "\n".join(text for text in texts if text)


def _prompt(read: _Reader) -> tuple[str, list[tuple[str, str]], str]:
    """(system turn, turns between, last turn) of the prompt."""
    value = read.fields.get("prompt")
    if isinstance(value, str):
        if not value.strip():
            raise UserError(f"{read.where}: field 'prompt' is empty")
        return read.text("system") or "", [], read.text("prompt") or ""
    if not isinstance(value, list) or not value:
        raise read.wrong("prompt", "text or a list of messages")
    messages = read.messages("prompt")
    system = messages.pop(0)[1] if messages[0][0] == "system" else read.text("system") or ""
    if not messages or messages[-1][0] in (ASSISTANT, "system") or not messages[-1][1].strip():
        raise UserError(f"{read.where}: field 'prompt' does not end in a user's turn with text")
    return system, messages[:-1], messages[-1][1]


def _response(read: _Reader) -> list[tuple[str, str]]:
    value = read.fields.get("response")
    if isinstance(value, str):
        return [(ASSISTANT, read.text("response") or "")]
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not value:
        raise read.wrong("response", "text or an assistant's messages")
    messages = _Reader(read.where, {"response": value}).messages("response")
    if ASSISTANT not in [role for role, _ in messages]:
        raise UserError(f"{read.where}: field 'response' has no turn of an assistant")
    return messages
