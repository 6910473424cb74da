"""Forecasts of runs, and what they are fitted on: the runs of a study."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from vpdlab.compare.runs import Cell, refuse_part
from vpdlab.config import RunConfig
from vpdlab.errors import FAULTS, RunFailed, UserError, in_one_line
from vpdlab.learn.parts import Parts
from vpdlab.record import load_run
from vpdlab.run.probing import probed
from vpdlab.study import forecast
from vpdlab.study.forecast import METHODS_FORECAST, Fit, Gain, Signs

SIGNS = "signs.json"


def signs_of(config: RunConfig, batches: int = 4) -> Signs:
    """The signs of a run with these settings, before it. Its model is loaded; nothing is trained or written."""
    parts = Parts.open(config.but(method="joint"))
    probes = probed(parts, 0, []).get("probes", {})
    beliefs = [value for name, value in probes.items() if name.startswith("belief/") and value is not None]
    return forecast.signs(parts, batches, sum(beliefs) / len(beliefs) if beliefs else math.nan)


def signs_of_study(
    cells: Sequence[Cell], out: Path, batches: int = 4, say: Callable[[str], None] = print
) -> dict[tuple[str, int], Signs]:
    """Signs of each condition and seed of a study. What is measured once is kept in the study's folder."""
    path = out / SIGNS
    stored, found = _stored(path), {}
    for cell in cells:
        key = f"{cell.preset} {cell.seed}"
        if key not in stored:
            stored[key] = signs_of(cell.config, batches)
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({name: asdict(one) for name, one in stored.items()}, indent=2)
            path.write_text(text + "\n", encoding="utf-8")
            say(f"signs of {key}: {stored[key]}")
        found[cell.preset, cell.seed] = stored[key]
    return found


def _stored(path: Path) -> dict[str, Signs]:
    """The signs in a study's folder. Raises UserError for a file that holds something else."""
    if not path.is_file():
        return {}
    try:
        found = {str(name): Signs(**one) for name, one in json.loads(path.read_text(encoding="utf-8")).items()}
        if not all(isinstance(value, int | float) for one in found.values() for value in asdict(one).values()):
            raise ValueError("a sign is not a number")
    except (OSError, TypeError, AttributeError, *FAULTS) as error:
        raise UserError(f"{path} holds no signs: {in_one_line(error)}; remove it to measure them again") from error
    return found


def gains(cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """Each complete run of a method that is forecast, and its gain in held-out accuracy.

    Of several labels of a method under one condition, the one without settings of its own counts; else the first.
    """
    found = []
    for cell in cells:
        method = cell.config.method
        same = [one.label for one in cells if (one.preset, one.config.method) == (cell.preset, method)]
        chosen = method if method in same else same[0]
        if method in METHODS_FORECAST and cell.label == chosen and (cell.folder / "status.json").is_file():
            record = load_run(cell.folder)
            refuse_part(record)
            if record.status["state"] == "complete" and record.eval_rows:
                found.append((cell, record.eval_rows[-1]["accuracy"] - record.eval_rows[0]["accuracy"]))
    return found


def fit_study(cells: Sequence[Cell], found: dict[tuple[str, int], Signs]) -> dict[str, Fit]:
    """A fit for each method whose complete runs in a study are of at least three conditions.

    Raises:
        RunFailed: where there is no such method.
    """
    runs, fits = gains(cells), {}
    for method in METHODS_FORECAST:
        mine = [(cell, gain) for cell, gain in runs if cell.config.method == method]
        conditions = [cell.preset for cell, _ in mine]
        if len(set(conditions)) >= forecast.LEAST:
            known = [found[cell.preset, cell.seed] for cell, _ in mine]
            fits[method] = forecast.fit(known, [gain for _, gain in mine], conditions)
    if not fits:
        raise RunFailed(
            f"no method has complete runs under {forecast.LEAST} conditions of the study: nothing to fit a forecast on"
        )
    return fits


def agreement(cells: Sequence[Cell], found: dict[tuple[str, int], Signs], fits: dict[str, Fit]) -> str:
    """How far forecasts agree with complete runs, which should not be those of the fit: a Markdown table.

    Per method and over all: the rank correlation of forecast and outcome, of single runs; their mean difference; and
    the share of the runs whose gain lies in its interval.

    Raises:
        RunFailed: where no complete run is of a method that is forecast.
    """
    runs = [
        (cell.config.method, fits[cell.config.method].gain(found[cell.preset, cell.seed]), gain)
        for cell, gain in gains(cells)
        if cell.config.method in fits
    ]
    if not runs:
        raise RunFailed("no complete run of the study is of a method that is forecast: nothing to compare with")
    lines = [
        "| method | runs | rank correlation | forecast minus outcome, in points | in the interval |",
        "|---|---|---|---|---|",
    ]
    for name in (*(method for method in fits if any(method == run[0] for run in runs)), "all"):
        mine = [(gain, measured) for method, gain, measured in runs if name in (method, "all")]
        rank = forecast.rank_correlation([gain.value for gain, _ in mine], [measured for _, measured in mine])
        error = 100 * sum(gain.value - measured for gain, measured in mine) / len(mine)
        inside = sum(gain.low <= measured <= gain.high for gain, measured in mine)
        lines.append(f"| {name} | {len(mine)} | {rank:.2f} | {round(error):+d} | {inside} |")
    return "\n".join(lines)


def told(found: Signs, fits: dict[str, Fit]) -> dict[str, Gain]:
    """The forecast of each method. Raises UserError where there is no fit."""
    if not fits:
        raise UserError("there is no fit to forecast with")
    return {method: one.gain(found) for method, one in fits.items()}


def markdown(found: Signs, gained: dict[str, Gain]) -> str:
    """Signs and forecasts as text."""
    shares = {
        "of the student's rollouts are right": found.success,
        "of its failures the teacher gets right, shown the feedback": found.teacher,
        "of the student's other rollouts of these problems are right": found.sibling,
        "of the groups have both a success and a failure": found.signal,
        "is the probability that the teacher does what a voice tells it": found.belief,
    }
    lines = [f"{100 * share:5.1f} % {words}" for words, share in shares.items() if not math.isnan(share)]
    if not math.isnan(found.cosine):
        lines.append(f"{found.cosine:+7.3f} is the cosine of the step of distillation and the step that raises success")
    lines += [
        "",
        f"({found.rollouts} rollouts, nothing trained)",
        "",
        "| method | final accuracy | gain, in points |",
        "|---|---|---|",
    ]
    for method, gain in sorted(gained.items(), key=lambda item: -item[1].value):
        final, low, high = (100 * (found.success + at) for at in (gain.value, gain.low, gain.high))
        lines.append(f"| {method} | {final:.0f} % [{low:.0f}, {high:.0f}] | {100 * gain.value:+.0f} |")
    return "\n".join(lines)
