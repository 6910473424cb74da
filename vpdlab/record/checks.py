"""Validate the values in a run folder's files, which may be damaged, older, or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vpdlab.errors import shown
from vpdlab.record.schema import METRICS, TOKEN_COLUMNS

STATES = ("running", "complete", "stopped", "failed")
Check = Callable[[Any], bool]


def parse(text: str) -> Any:
    """Parse JSON; NaN and infinities become None. Raises ValueError, with a reason, for invalid text."""
    try:
        return json.loads(text, parse_constant=lambda name: None)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def is_number(value: Any) -> bool:
    """A number within the range of the record's types, or None."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63)


def is_real(value: Any) -> bool:
    """As `is_number`, but not None."""
    return value is not None and is_number(value)


def is_share(value: Any) -> bool:
    """A number from 0 to 1, as far as a mean of such numbers is rounded."""
    return is_real(value) and -1e-9 <= value <= 1 + 1e-9


def is_count(value: Any) -> bool:
    """A non-negative integer."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_text(value: Any) -> bool:
    """Text or None."""
    return value is None or isinstance(value, str)


def listed(each: Check) -> Check:
    """A list whose items pass `each`."""
    return lambda value: isinstance(value, list) and all(each(item) for item in value)


def is_probes(value: Any) -> bool:
    """Printable names with a number or None each."""
    return isinstance(value, dict) and all(name.isprintable() and is_number(number) for name, number in value.items())


def is_truth(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_table(value: Any) -> bool:
    """A JSON object."""
    return isinstance(value, dict)


ROW: dict[str, Check] = dict.fromkeys(METRICS, is_number) | {
    "step": is_count, "notes": is_text, "warnings": lambda value: value is None or isinstance(value, list),
}  # fmt: skip
MEASURES = [f"{name}{end}" for name in ("accuracy", "pass_at_k", "maj_at_k") for end in ("", "_low", "_high")]
EVAL: dict[str, Check] = {
    "step": is_count, "k": is_count, "problems": is_count, "by_problem": listed(is_share),
    "problem_ids": listed(lambda value: isinstance(value, str)), "held_out": is_count, "length": is_real,
    **dict.fromkeys(MEASURES, is_share),
    **dict.fromkeys(
        ["teacher_accuracy", "teacher_accuracy_low", "teacher_accuracy_high"], lambda one: one is None or is_share(one)
    ),
    **dict.fromkeys(["seconds", "teacher_problems"], is_number), "probes": is_probes,
}  # fmt: skip
STATUS: dict[str, Check] = {
    "state": lambda value: value in STATES, "reason": lambda value: isinstance(value, str), "step": is_count,
    "final": lambda value: value is None or is_count(value), "started": is_number, "updated": is_number,
    "pid": is_number, "final_manifest": lambda value: value is None or is_text(value),
}  # fmt: skip
ENVIRONMENT: dict[str, Check] = {
    "python": is_text, "revision": is_text, "platform": is_text, "device": is_text, "device_name": is_text,
    "task": is_text, "threads": is_number, "cores": is_number, "processes": is_number, "seed": is_number,
    "command": listed(lambda value: isinstance(value, str)), "packages": is_table, "model": is_table,
    "task_identity": is_table, "resumed": listed(is_table), "schema": is_count, "has_steps": is_truth,
}  # fmt: skip
NEEDED = {
    "config.json": ("task", "model", "method", "steps", "seed", "beta"),
    "environment.json": (
        "python", "revision", "device", "device_name", "task", "threads", "command", "packages", "model"),
    "status.json": ("state", "reason", "step", "updated"),
    "eval.jsonl": ("step", "k", "problems", "length", *MEASURES),
}  # fmt: skip
"""Fields that reports and notebooks read without checking, by file."""
FULL = ("step", "group", "index", "text", "prompt", "prompt_ids", "response_ids", "logps")
"""Columns of rollouts that are never null."""


def fault(value: Any, checks: Mapping[str, Check], needed: Sequence[str] = ()) -> str:
    """The first fault of a JSON object; "" if there is none."""
    if not isinstance(value, dict):
        return f"it is {shown(value)}, not an object of fields"
    for name in needed:
        if name not in value:
            return f"field {name!r} is missing"
    for name, check in checks.items():
        if name in value and not check(value[name]):
            return f"field {name!r} is {shown(value[name])}"
    return ""


def evaluation_fault(row: Any) -> str:
    """The first fault of a line of eval.jsonl."""
    if reason := fault(row, EVAL, ("step",)):
        return reason
    for name in ("by_problem", "problem_ids"):
        if name in row and "problems" in row and len(row[name]) != row["problems"]:
            return f"field {name!r} has {len(row[name])} values for {row['problems']} problems"
    return ""


def config_fault(value: Any, needed: Sequence[str] = ()) -> str:
    """The first fault of recorded settings: known ones must have values that this version accepts."""
    from vpdlab.config import HINTS, RunConfig
    from vpdlab.errors import UserError

    if reason := fault(value, {}, needed):
        return reason
    try:
        RunConfig.make(**{name: value[name] for name in HINTS if name in value})
    except UserError as error:
        return str(error)
    return ""


def rollout_fault(record: Mapping[str, Any]) -> str:
    """The first fault of a row of rollouts/*.parquet whose types match the schema."""
    for name in FULL:
        if record[name] is None:
            return f"column {name!r} has no value"
    tokens = len(record["response_ids"])
    for name in TOKEN_COLUMNS:
        if record[name] is not None and not name.endswith("_context") and len(record[name]) != tokens:
            return f"column {name!r} has {len(record[name])} values for {tokens} tokens"
    if len(record["logps"]) != tokens:
        return f"column 'logps' has {len(record['logps'])} values for {tokens} tokens"
    for name in ("prompt_ids", "response_ids", "tokens", "student_context", "teacher_context"):
        if any(item is None for item in record[name] or ()):
            return f"column {name!r} has a value that is null"
    if reason := _turn_fault(record, tokens):
        return reason
    for side in ("student", "teacher"):
        lists = [record[f"{side}_{name}"] or () for name in ("top", "top_ids", "top_logp")]
        for parts in zip(*lists, strict=False):
            if None in parts or len({len(part) for part in parts}) != 1:
                return f"columns {side}_top* have lists of different lengths"
    return ""


def _turn_fault(record: Mapping[str, Any], tokens: int) -> str:
    """The first fault of a row's mask and turns."""
    mask, turns = record["mask"], [record[f"turn_{what}"] or [] for what in ("roles", "texts", "ends")]
    if mask is not None and (len(mask) != tokens or None in mask):
        return f"column 'mask' is not one value for each of {tokens} tokens"
    if len({len(each) for each in turns}) != 1 or any(None in each for each in turns):
        return "columns turn_* have lists of different lengths, or a value that is null"
    ends = turns[2]
    if ends != sorted(ends) or any(not 0 <= end <= tokens for end in ends) or (ends and tokens and ends[-1] != tokens):
        return f"column 'turn_ends' does not divide {tokens} tokens"
    return ""
