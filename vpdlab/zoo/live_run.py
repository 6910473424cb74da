"""The model that a recorded run trained, as plain data for a page: read from the run's folder alone, without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpdlab.config.words import read_values
from vpdlab.errors import UserError
from vpdlab.prompts import Templates
from vpdlab.record import RunRecord
from vpdlab.zoo import BUNDLED, BUNDLED_FOLDER, check_whole, is_model
from vpdlab.zoo.live import live_model, tensors

_STEP = re.compile(r"step-(\d{6,9})", re.ASCII)
_OWN = {"ema", "snapshot", "frozen"}
"""Kinds of teacher whose weights a checkpoint holds in a file of their own."""


def of_run(run: RunRecord, templates: Templates | None = None) -> dict[str, Any]:
    """Keywords of `LiveModel` for a run: its newest student, its teacher, its problems and what critics said of them.

    The student is that of `final/`; of a run without one, that of its newest checkpoint. The teacher has weights of
    its own where a checkpoint of the same iteration holds them, else the student's.

    Args:
        run: of `load_run`.
        templates: of the prompts, for a run with templates of its own: their file lies outside the run's folder.

    Raises:
        UserError: the run has no weights, or a model that no page can hold (`live_model`); one line.
    """
    config = run.config
    if config.get("templates") and templates is None:
        raise UserError(f"the run's prompts come from {config['templates']!r}, which is not in its folder")
    final, saved = run.folder / "final", _newest(run.folder / "checkpoints")
    files = _weights(saved) if saved is not None else {}
    step = run.status.get("final", run.status["step"])
    if is_model(final):
        folder, student = final, None
        if saved is None or _at(saved) != step:
            files = {}  # the weights of another iteration
    elif config["model"] in BUNDLED and "student" in files:
        folder, student, step = BUNDLED_FOLDER / config["model"], tensors(files["student"]), _at(saved)
    else:
        raise UserError("the run has left no model: neither final/ nor a checkpoint of a bundled model")
    teacher = tensors(files["teacher-copy"]) if config.get("teacher") in _OWN and "teacher-copy" in files else None
    chat_args = read_values(config.get("chat_args") or ())
    words = [f"student after iteration {step}", _teacher_words(str(config.get("teacher")), teacher is not None)]
    try:
        model = live_model(folder, run.folder.resolve().name, templates, chat_args, teacher, words, student)
    except UserError:
        if teacher is None:
            raise
        words[1] = "the teacher reads with the student's weights: its own do not fit on the page as well"
        model = live_model(folder, run.folder.resolve().name, templates, chat_args, None, words, student)
    length = min(int(config["max_new_tokens"]), model["shape"]["positions"])
    asked = {"temperature": float(config["temperature"]), "length": length}
    return {"model": model, "examples": _examples(run), **asked}


def _teacher_words(kind: str, own: bool) -> str:
    if own:
        return f"teacher ({kind}): its own weights"
    if kind == "shared":
        return "the teacher reads with the student's weights, as in the run"
    return f"the teacher reads with the student's weights: the run did not save those of its own ({kind})"


def _newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; None without one. Raises UserError where its files were changed."""
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)] if folder.is_dir() else []
    newest = max(found, key=_at, default=None)
    if newest is not None:
        check_whole(newest)
    return newest


def _at(checkpoint: Path | None) -> int:
    """The iteration after which a checkpoint was saved."""
    found = _STEP.fullmatch(checkpoint.name) if checkpoint is not None else None
    return int(found[1]) if found else -1


def _weights(checkpoint: Path) -> dict[str, Path]:
    return {path.stem: path for path in checkpoint.glob("*.safetensors")}


def _examples(run: RunRecord, most: int = 24) -> list[dict[str, str]]:
    """Problems of the last recorded iteration, each with the feedback of its first rollout that has any."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in run.rollouts(run.steps[-1]) if run.steps else ():
        if row["problem_id"] not in found or (row["signal"] and not found[row["problem_id"]]["signal"]):
            found[row["problem_id"]] = row
    fields = {"problem": "prompt", "system": "system", "answer": "answer"}
    said = {"critique": "critique", "demonstration": "demonstration"}
    return [
        {name: row[column] or "" for name, column in (fields | said).items()} for row in list(found.values())[:most]
    ]
