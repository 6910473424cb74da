"""Rollouts of another trainer as a run folder, without a model: texts, rewards and feedback, step by step.

What was not recorded stays empty: nothing is made up. `scored` adds what a model says of each token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import HANDED_IN, UserError, ended_by
from vpdlab.foreign import PLAIN, Row, read_row
from vpdlab.foreign.rows import ALIASES, FIELDS
from vpdlab.record import METRICS, UNRECORDED, Recorder
from vpdlab.run.environment import machine

Taken = tuple[list[Row], list[str]]
"""The rows that could be read, and a line for each that could not."""


def take(
    found: Iterable[tuple[str, Mapping[str, Any] | UserError]], feedback: str = "", skip_bad: bool = False
) -> Taken:
    """Read rows (`foreign.Sources.rows`).

    Args:
        feedback: name of the column that holds the feedback; "" for the layout's own.
        skip_bad: leave rows out that cannot be read, instead of raising at the first.

    Raises:
        UserError: a row cannot be read, or there is none.
    """
    rows, bad = [], []
    for where, fields in found:
        try:
            if isinstance(fields, UserError):
                raise fields
            rows.append(read_row(_with_feedback(fields, feedback, where), where))
        except UserError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
    if not rows:
        raise UserError(bad[0] if bad else "there are no rollouts in it")
    return rows, bad


def _with_feedback(fields: Mapping[str, Any], column: str, where: str) -> Mapping[str, Any]:
    if not column:
        return fields
    if column not in fields:
        has = ", ".join(map(str, fields))[:200]
        raise UserError(f"{where}: there is no column {column!r}: it has {has} (null where there is no feedback)")
    others = {name: value for name, value in fields.items() if name != column or ALIASES.get(name, name) in FIELDS}
    return others | {"feedback": fields[column], "critique": None}


def grouped(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """(group, index) of each row: groups in the order of their first rows, within each step."""
    places: dict[tuple[int | None, str], int] = {}
    counts: dict[tuple[int | None, int], int] = {}
    groups: dict[int | None, int] = {}
    found = []
    for row in rows:
        key = (row.step, row.group)
        if key not in places:
            places[key] = groups[row.step] = groups.get(row.step, -1) + 1
        group = places[key]
        index = counts[row.step, group] = counts.get((row.step, group), -1) + 1
        found.append((group, index))
    return found


def record_rows(rows: Sequence[Row], out: Path, source: str, origin: str) -> None:
    """Write rows as a run folder.

    Args:
        rows: all with a step, or none: then they lie at step 1, and `RunRecord.has_steps` is False.
        source: who wrote them ("trl"), for the record.
        origin: the file or folder that they come from.

    Raises:
        UserError: the folder holds a run already, or only some of the rows have a step.
    """
    _refuse_some_steps(rows)
    steps: dict[int, list[tuple[Row, tuple[int, int]]]] = {}
    places = grouped(rows)
    for row, place in zip(rows, places, strict=True):
        steps.setdefault(row.step if row.step is not None else 1, []).append((row, place))
    sizes = [len({group for _, (group, _) in part}) for part in steps.values()]
    config = RunConfig(
        task=HANDED_IN + source, model=UNRECORDED, method=HANDED_IN + source, out=str(out),
        steps=max(1, *steps), prompts=max(1, *sizes), group=max(index + 1 for _, index in places), eval_every=-1,
    )  # fmt: skip
    named = any(row.step is not None for row in rows)
    recorder = Recorder(config.folder, config.to_dict(), _environment(source, origin) | {"has_steps": named})
    try:
        for step, part in sorted(steps.items()):
            recorder.rollouts(step, [_record(row, step, place) for row, place in part])
            recorder.metrics(_metrics(step, [row for row, _ in part]))
    except BaseException as error:
        recorder.close(*ended_by(error))
        raise
    recorder.close("complete")


def _refuse_some_steps(rows: Sequence[Row]) -> None:
    """Raises UserError where some rows have a step and others none, which belong to no iteration that is known."""
    without = [row for row in rows if row.step is None]
    if without and len(without) < len(rows):
        other = next(row for row in rows if row.step is not None)
        raise UserError(
            f"{without[0].where}: field 'step' is missing, but {other.where} has step {other.step}: give every row its"
            " step, or none"
        )


def outcome_columns(row: Row) -> dict[str, Any]:
    """What a row says of its rollout, as columns of the record."""
    critique, shown = row.critique, row.demonstration
    return {
        "reward": row.reward,
        "success": row.success,
        "parsed": row.parsed,
        "environment": row.environment,
        "critique": critique,
        "demonstration": shown,
        "source": "+".join(name for name, text in (("file", critique), ("demonstration", shown)) if text),
        "reason": "" if critique or shown else "no feedback was recorded",
        "signal": bool(critique or shown),
        "finished": row.finished,
    }


def _record(row: Row, step: int, place: tuple[int, int]) -> dict[str, Any]:
    several = len(row.turns) > 1
    history = "".join(f"[{role}]\n{text}\n\n" for role, text in row.problem.history)
    return {
        "step": step,
        "problem_id": row.problem.id or f"{step}-{place[0]}",
        "group": place[0],
        "index": place[1],
        "system": row.problem.system,
        "prompt": history + row.problem.prompt,
        "answer": row.problem.answer,
        "text": row.text,
        "noise": "",
        "prompt_ids": [],
        "response_ids": [],
        "logps": [],
        "turn_roles": [role for role, _ in row.turns] if several else None,
        "turn_texts": [text for _, text in row.turns] if several else None,
        "turn_ends": [0] * len(row.turns) if several else None,
        **outcome_columns(row),
    }


def mean_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Means of what rows say, as columns of metrics: None where no row says it."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    unfinished = [None if row.finished is None else float(not row.finished) for row in rows]
    return {
        "reward": mean([row.reward for row in rows]),
        "success_rate": mean([None if row.success is None else float(row.success) for row in rows]),
        "unfinished": mean(unfinished),
        "signal_share": mean([float(bool(row.critique or row.demonstration)) for row in rows]),
    }


def _metrics(step: int, rows: Sequence[Row]) -> dict[str, Any]:
    heard = [row for row in rows if row.critique or row.demonstration]
    return {
        **dict.fromkeys(METRICS),
        **mean_columns(rows),
        "step": step,
        "n_success": sum(row.success is True for row in heard),
        "n_failure": sum(row.success is False for row in heard),
        "warnings": [],
    }


def _environment(source: str, origin: str) -> dict[str, Any]:
    """What environment.json says of a record that no run of vpdlab made."""
    name = Path(origin).name
    return {
        **machine(),
        "device": "",
        "device_name": "",
        "threads": 1,
        "processes": 1,
        "seed": 0,
        "model": {"class": "not recorded", "parameters": 0, "trainable": 0, "vocabulary": 0},
        "task": f"rollouts of {name}, imported" if source == PLAIN else f"rollouts of {source} ({name}), imported",
    }
