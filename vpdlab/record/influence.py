"""influence.jsonl: which sentence of its critique moved which token, of some rollouts (`study.influence`)."""

from __future__ import annotations

from typing import Any

from vpdlab.record import checks

INFLUENCE = "influence.jsonl"
_NEEDED = ("tokens", "sentences", "drop", "total")
_LINE: dict[str, checks.Check] = {"step": checks.is_count, "group": checks.is_count, "index": checks.is_count}


def fault(value: Any) -> str:
    """The first fault of a line of influence.jsonl; "" if there is none."""
    if reason := checks.fault(value, _LINE, (*_LINE, "influence")):
        return reason
    found = value["influence"]
    if reason := checks.fault(found, dict.fromkeys(_NEEDED, checks.listed(lambda _: True)), _NEEDED):
        return f"field 'influence': {reason}"
    length, count = len(found["tokens"]), len(found["sentences"])
    numbers = checks.listed(checks.is_number)
    rows = found["drop"]
    whole = len(rows) == count and all(numbers(row) and len(row) == length for row in rows)
    texts = all(isinstance(text, str) for text in [*found["tokens"], *found["sentences"]])
    if not whole or not texts or not numbers(found["total"]) or len(found["total"]) != length:
        return f"field 'influence' is not about {count} sentences and {length} tokens"
    return ""
