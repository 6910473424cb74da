"""Queries over rollouts: terms such as `kl>0.5 outcome=wrong source:sibling`, and text. The same as query.js.

A term is a column, an operator and a value, which may be in double quotes. Numbers know `=`, `!=`, `<`, `<=`, `>`,
`>=`; yes or no `=` and `!=`; texts `:` (contains), `=` and `!=`, ignoring case. The value `none` stands for what is
missing; otherwise a missing value matches nothing. What is no such term, or is in double quotes, is text that has to
occur in the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any

NAMES = {
    "outcome": "success", "iteration": "step", "problem": "prompt", "response": "text", "tokens": "length",
    "implicit": "implicit_reward", "feedback": "critique", "id": "problem_id", "alarm": "alarms",
}  # fmt: skip
NUMBERS = ("step", "turns", "length", "kl", "reward", "implicit_reward", "group", "index", "truncated")
ANSWERS = ("success", "signal", "finished")
TEXTS = ("prompt", "text", "parsed", "answer", "critique", "demonstration", "source", "reason", "problem_id")
LISTS = ("turn_texts", "alarms")
WORDS = {"right": True, "yes": True, "true": True, "wrong": False, "no": False, "false": False}
_COMPARE = {"=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
_TERM = re.compile(r'(?<!\S)([a-z_]+)(<=|>=|!=|<|>|=|:)("[^"]*"|\S+)(?!\S)')


@dataclass(frozen=True)
class Term:
    """A condition on one column; `value` is a number, a truth value, a text in lower case, or None."""

    key: str
    operator: str
    value: Any

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has it."""
        value = row.get(self.key)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return any(_compares(one, self.operator, self.value) for one in value)
        return _compares(value, self.operator, self.value)


def _compares(value: Any, operator: str, wanted: Any) -> bool:
    if wanted is None or value is None:
        return wanted is None and operator in ("=", "!=") and (value is None) == (operator == "=")
    if isinstance(wanted, str):
        have = str(value).strip().lower()
        return wanted in have if operator == ":" else _COMPARE[operator](have, wanted)
    return _COMPARE[operator](value, wanted)


def parse(query: str) -> tuple[list[Term], str]:
    """The terms of a query, and the rest of it as text in lower case."""
    terms: list[Term] = []

    def take(match: re.Match[str]) -> str:
        term = _term(*match.groups())
        if term is None:
            return match.group()
        terms.append(term)
        return ""

    rest = _TERM.sub(take, query)
    return terms, re.sub(r'^"(.*)"$', r"\1", " ".join(rest.split()).lower())


def _term(name: str, operator: str, value: str) -> Term | None:
    key, value = NAMES.get(name, name), value.strip('"').strip().lower()
    if value == "none" and operator in ("=", "!=") and key in (*NUMBERS, *ANSWERS, *TEXTS):
        return Term(key, operator, None)
    if key in NUMBERS and operator != ":" and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", value):
        return Term(key, operator, float(value))
    if key in ANSWERS and operator in ("=", "!=") and value in WORDS:
        return Term(key, operator, WORDS[value])
    if key in (*TEXTS, *LISTS) and operator in (":", "=", "!=") and value:
        return Term(key, operator, value)
    return None


def has_outcome(row: Mapping[str, Any], outcome: str) -> bool:
    """Whether a row is "right" or "wrong", or has "no signal"; "all": any row."""
    if outcome == "no signal":
        return row.get("signal") is False
    return outcome == "all" or row.get("success") is (outcome == "right")


def matches(row: Mapping[str, Any], terms: Sequence[Term], text: str) -> bool:
    """Whether a row of `rollout_rows` has all terms, and the text in one of its own texts."""
    if not all(term.holds(row) for term in terms):
        return False
    if not text:
        return True
    said = [*(row.get(key) for key in TEXTS), *(row.get("turn_texts") or ())]
    return any(isinstance(one, str) and text in " ".join(one.split()).lower() for one in said)
