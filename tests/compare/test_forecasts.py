"""Forecasts of a study's runs: which runs count, what is measured once, and the command."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from test_studies import leave

from vpdlab import cli
from vpdlab.compare import forecasts, studies
from vpdlab.errors import RunFailed, UserError
from vpdlab.study import forecast
from vpdlab.study.forecast import Fit, Signs

FILE = """
title: A study
seeds: [3, 4]
methods: [sdpo, "sdpo:lr=1e-3", "grpo:lr=3e-4"]
conditions:
  one: {preset: tour-common}
  two: {preset: tour-rare}
  three: {preset: tour-rare, settings: {noise_shuffle: 1.0}}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study whose runs are complete but for one; no model is loaded for its signs."""
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    for cell in studies.read_study(str(path)).cells(tmp_path / "out"):
        if (cell.preset, cell.seed, cell.label) != ("two", 4, "sdpo"):
            leave(cell, [0.5, 0.5])

    def signs(config, batches: int) -> Signs:
        asked.append(config.seed)
        return Signs(0.1, 0.2 * config.seed, 0.1, 0.5, math.nan, math.nan, 64)

    asked: list[int] = []
    monkeypatch.setattr(forecasts, "signs_of", signs)
    monkeypatch.setattr(forecasts, "asked", asked, raising=False)
    return path


def test_the_runs_that_count(study: Path, tmp_path: Path) -> None:
    cells = studies.read_study(str(study)).cells(tmp_path / "out")
    found = [(cell.preset, cell.label, cell.seed) for cell, _ in forecasts.gains(cells)]
    assert ("one", "sdpo", 3) in found and ("one", "grpo:lr=3e-4", 3) in found
    assert not any(label == "sdpo:lr=1e-3" for _, label, _ in found)
    assert ("two", "sdpo", 4) not in found  # not complete
    assert len(found) == 11


def test_signs_are_measured_once_per_condition_and_seed(study: Path, tmp_path: Path, capsys) -> None:
    cells = studies.read_study(str(study)).cells(tmp_path / "out")
    first = forecasts.signs_of_study(cells, tmp_path / "out")
    assert len(forecasts.asked) == len(first) == 6  # type: ignore[attr-defined]
    again = forecasts.signs_of_study(cells, tmp_path / "out")
    assert len(forecasts.asked) == 6  # type: ignore[attr-defined]
    assert {key: one.teacher for key, one in again.items()} == {key: one.teacher for key, one in first.items()}


@pytest.mark.parametrize("text", ["{", "[]", '{"one 3": {}}', '{"one 3": 1}', "\udcff"])
def test_signs_that_are_none_are_named(study: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "out" / forecasts.SIGNS
    path.write_bytes(text.encode(errors="surrogateescape"))
    cells = studies.read_study(str(study)).cells(tmp_path / "out")
    with pytest.raises(UserError, match="signs.json holds no signs"):
        forecasts.signs_of_study(cells, tmp_path / "out")


def test_a_study_without_a_run_fits_nothing(study: Path, tmp_path: Path) -> None:
    cells = studies.read_study(str(study)).cells(tmp_path / "elsewhere")
    with pytest.raises(RunFailed, match="no method has complete runs under 3 conditions"):
        forecasts.fit_study(cells, {})


def test_the_command_fits_and_forecasts(study: Path, tmp_path: Path, capsys) -> None:
    fit = tmp_path / "fit.json"
    assert cli.main(["forecast", "--fit", str(study), "--study-out", str(tmp_path / "out"), "--write", str(fit)]) == 0
    assert "sdpo: 5 runs under 3 conditions" in capsys.readouterr().out
    assert set(forecast.read(fit)) == {"sdpo", "grpo"}
    assert cli.main(["forecast", "--preset", "tour-common", "--with-fit", str(fit)]) == 0
    said = capsys.readouterr().out
    assert "10.0 % of the student's rollouts are right" in said and "| sdpo |" in said
    assert "cosine" not in said  # there was no success to compare with
    assert cli.main(["forecast", "--with-fit", str(tmp_path / "nothing")]) == 2
    assert "holds no forecast" in capsys.readouterr().err


def test_forecasts_are_compared_with_runs_that_no_fit_has_seen(study: Path, tmp_path: Path, capsys) -> None:
    """Signs that grow with the seed, a fit made by hand, and gains that do the same."""
    fit, out, first = tmp_path / "fit.json", tmp_path / "out", {3: 0.1, 4: 0.0}  # so the gains are 0.4 and 0.5
    for cell in studies.read_study(str(study)).cells(out):
        path = cell.folder / "eval.jsonl"
        if cell.label == "grpo:lr=3e-4":
            start, end = path.read_text().splitlines(keepends=True)
            path.write_text(start.replace('"accuracy": 0.5', f'"accuracy": {first[cell.seed]}') + end)
        elif path.exists():
            shutil.rmtree(cell.folder)
    width = len(Signs(0, 0, 0, 0, 0, 0, 0).features)
    weights = (0.0, 1.0, *[0.0] * (width - 2))  # the gap alone: 0.5 for seed 3, 0.7 for seed 4
    forecast.write({"grpo": Fit(weights, 0.15, 6, 3, 1.0)}, fit)
    options = ["--study-out", str(out), "--with-fit", str(fit)]
    assert cli.main(["forecast", "--check", str(study), *options]) == 0
    said = capsys.readouterr().out
    assert "| grpo | 6 | 1.00 | +15 | 3 |" in said  # 0.4 lies in 0.5 +- 0.15, 0.5 not in 0.7 +- 0.15
    assert "| all | 6 | 1.00 | +15 | 3 |" in said and "sdpo" not in said
    assert cli.main(["forecast", "--check", str(study), "--fit", str(study)]) == 2
    assert "exclude each other" in capsys.readouterr().err
    with pytest.raises(RunFailed, match="nothing to compare with"):
        forecasts.agreement([], {}, {})
