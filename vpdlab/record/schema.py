"""The contents of a run folder's files: names, types, units, and the version of the layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vpdlab.errors import HANDED_IN

SCORED = {"task": HANDED_IN + "rollouts", "method": HANDED_IN + "scoring"}
"""Settings by which rollouts that were scored are told from a run."""
UNRECORDED = HANDED_IN + "not recorded"
"""The model of rollouts that were imported."""
METRICS = (
    "step", "reward", "success_rate", "length", "unfinished", "entropy", "kl", "kl_teacher", "margin", "delta", "beta",
    "e_loss", "m_loss", "signal_share", "n_success", "n_failure", "teacher_drift", "truncated", "skipped", "lr",
    "grad_norm", "e_updates", "mismatch_max", "mismatch_mean", "mismatch_kl", "seconds_rollout", "seconds_feedback",
    "seconds_e", "seconds_m", "tokens_rollout", "tokens_e", "tokens_m", "peak_memory_mib", "critiques", "leaked",
    "critic_loss", "teacher_rollouts", "teacher_success_rate", "notes", "warnings",
)  # fmt: skip
"""Keys of a line of metrics.jsonl. A number that does not exist at a step is null, never 0.

Units: kl (student || teacher), kl_teacher (the other way), entropy, teacher_drift in nats per token; margin, delta in
units of reward; length in tokens. margin, both KLs and entropy are those of the M-step's pass, so after an E-step of
the same iteration and before the M-step's update; beta is the one that this iteration used. tokens_e counts the padded
tokens of passes with gradient, tokens_m those of the views that the method reads, tokens_rollout those sampled.
teacher_rollouts: responses that the teacher sampled itself (`e_sample`, or the method), beside the rollouts; their
tokens count in tokens_rollout and their time in seconds_rollout.
mismatch_*, in nats: between the sampler's log-probabilities of the sampled tokens and the scorer's at the same weights
(`learn.results.Mismatch`); where an E-step moves the student first, that of a few rows before it did.
"""

# Columns of rollouts/*.parquet. Those of TOKEN_COLUMNS are null for rollouts outside the recorded subset.
COLUMNS = {
    "step": "int64", "problem_id": "string", "group": "int64", "index": "int64", "system": "string",
    "prompt": "string", "answer": "string", "text": "string", "parsed": "string", "reward": "float64",
    "success": "bool", "finished": "bool", "environment": "string", "critique": "string", "demonstration": "string",
    "leaked": "bool", "noise": "string",
    "source": "string", "reason": "string", "signal": "bool", "teacher_prompt": "string", "truncated": "int64",
    "teacher_text": "string", "teacher_reward": "float64",
    "student_sum": "float64", "teacher_sum": "float64", "implicit_reward": "float64",
    "prompt_ids": "list<int64>", "teacher_ids": "list<int64>", "response_ids": "list<int64>", "logps": "list<float64>",
    "mask": "list<bool>", "turn_roles": "list<string>", "turn_texts": "list<string>", "turn_ends": "list<int64>",
    "feedback_turn": "int64",
    "advantage": "float64", "token_weight": "float64", "heard_weight": "float64", "success_weight": "float64",
}  # fmt: skip
TOKEN_COLUMNS = {
    "tokens": "list<string>", "student_logp": "list<float64>", "teacher_logp": "list<float64>",
    "kl": "list<float64>", "divergence": "list<float64>", "student_entropy": "list<float64>",
    "teacher_entropy": "list<float64>", "student_top": "list<list<string>>", "student_top_ids": "list<list<int64>>",
    "student_top_logp": "list<list<float64>>", "teacher_top": "list<list<string>>",
    "teacher_top_ids": "list<list<int64>>", "teacher_top_logp": "list<list<float64>>",
    "student_context": "list<string>", "teacher_context": "list<string>",
    "alpha_divergence": "list<float64>", "alpha_divergence_push": "list<float64>",
    "alpha_divergence_part": "list<float64>", "cross_entropy": "list<float64>", "cross_entropy_push": "list<float64>",
    "clipped_kl": "list<float64>", "clipped_kl_push": "list<float64>", "clipped_kl_part": "list<float64>",
    "to_come": "list<float64>", "entropy_share": "list<float64>", "reference_logp": "list<float64>",
}  # fmt: skip

LINES = ("metrics.jsonl", "eval.jsonl")
ROLLOUTS, FOLLOWED = "rollouts", "followed"
"""Folders of rollouts with one layout: those of the iterations, and the same responses scored again and again."""
SCHEMA = 3
"""Version of the run folder's layout, recorded in environment.json. A folder without it has version 1.

1: one file of rollouts per iteration.
2: files of finished iterations are merged (rollouts.py).
3: rollouts may be episodes: not every response token is the policy's own (`mask`; null where all are).

Raise it when an older vpdlab could misread, or lose, part of a new record.
"""


def plain(value: Any) -> Any:
    """Replace NaN and infinities, which JSON lacks, by None at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of eval.jsonl with each of its probes as a field of its own.

    >>> flat({"step": 0, "probes": {"belief/Ada": 0.5}})
    {'step': 0, 'probes/belief/Ada': 0.5}
    """
    probes = {f"probes/{name}": value for name, value in (row.get("probes") or {}).items()}
    return {key: value for key, value in row.items() if key != "probes"} | probes


def columns() -> dict[str, str]:
    """Every column of rollouts/*.parquet and its type."""
    return COLUMNS | TOKEN_COLUMNS


def arrow_type(kind: str) -> Any:
    """The Arrow type of a column type in `COLUMNS`."""
    import pyarrow as pa

    if inner := re.fullmatch(r"list<(.+)>", kind):
        return pa.list_(arrow_type(inner[1]))
    return {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}[kind]


def kind_of(config: Mapping[str, Any]) -> str:
    """What the record with this config.json is: "trained", "scored" (`vpdlab score`), "imported" (`vpdlab import`)."""
    if config.get("model") == UNRECORDED:
        return "imported"
    return "scored" if all(config.get(name) == value for name, value in SCORED.items()) else "trained"
