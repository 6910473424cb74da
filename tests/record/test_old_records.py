"""Run folders of earlier versions: whatever was recorded then is opened, shown, compared and resumed now.

tests/data/run-v1 was written before the record stated a schema (version 1), by

    vpdlab train --preset tour-common --steps 2 --prompts 2 --group 4 --eval-problems 4 --device cpu --seed 1
        --checkpoint-every 2 --lora-rank 1 --teacher shared --record-tokens 2 --record-top 3 --out run-v1

without final/ and the checkpoint of step 0, which would make it eight times as large.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from places import DATA
from vpdlab_widgets import TokenLens

from vpdlab import load_run, manifest
from vpdlab.cli import main
from vpdlab.compare import Cell, standings, state
from vpdlab.record import METRICS, SCHEMA
from vpdlab.show import plots, summary, widget_data

OLD = DATA / "run-v1"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(OLD, "run-v1"))


def test_every_file_of_it_is_read() -> None:
    record = load_run(OLD).check()
    assert "schema" not in record.environment
    assert record.status["state"] == "complete" and record.status["final"] == 2
    assert record.settings().method == "vpd"
    assert record.metrics["step"].tolist() == [1, 2]
    assert record.metrics["success_rate"].tolist() == [0.375, 0.25]
    assert set(METRICS) <= set(record.rows[0])
    assert record.evals["accuracy"].tolist() == [0.375, 0.375]
    assert record.betas == {1: 0.1, 2: 0.1}


def test_its_rollouts_are_read_with_and_without_vpdlab() -> None:
    record = load_run(OLD)
    assert record.steps == [1, 2]
    rows = record.rollouts()
    assert [(row["step"], row["group"], row["index"]) for row in rows[:9]][-1] == (2, 0, 0)
    assert [sum(row["tokens"] is not None for row in record.rollouts(step)) for step in (1, 2)] == [2, 2]
    assert record.columns(["success", "text"]).to_pylist() == [
        {"success": row["success"], "text": row["text"]} for row in rows
    ]
    frame = pd.read_parquet(OLD / "rollouts")
    assert frame["text"].tolist() == [row["text"] for row in rows]


def test_all_that_a_report_shows_is_made_of_it() -> None:
    record = load_run(OLD).check()
    items = widget_data.lens_records(record.rollouts(2), beta=record.betas, config=record.config)
    assert TokenLens(items, why="").packed[0]["meta"]["token_weight"] is None  # the lens says that formulas lack this
    assert len(summary.rollout_table(record.rollouts(1))) == 8
    assert summary.tally(record.columns(["source", "success"]).to_pylist(), "source")
    assert summary.conclusion(record.eval_rows)
    assert widget_data.eval_points(record.eval_rows)
    assert summary.changed_settings(record.config)
    assert summary.phase_times(record.rows)
    assert widget_data.compared_runs([record])[0]["method"] == "vpd"
    assert plots.training_figure(record.rows, record.eval_rows).data


def test_a_comparison_counts_it_as_done_with_its_own_settings() -> None:
    cell = Cell("tour-common", "vpd", 1, dataclasses.replace(load_run(OLD).settings(), out=str(OLD)))
    assert state(cell) == "done"
    (row,) = standings.summarise([cell])
    assert (row["final"], row["rollouts"]) == (0.375, 16)


@pytest.mark.slow
def test_a_report_page_is_made_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").stat().st_size > 1e6


def test_it_is_resumed_and_is_of_this_schema_from_then_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load_run(run).rollouts()
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 0, capsys.readouterr().err
    record = load_run(run).check()
    assert record.environment["schema"] == SCHEMA
    assert [entry["step"] for entry in record.environment["resumed"]] == [2]
    assert record.metrics["step"].tolist() == [1, 2, 3]
    assert [*record.rollouts(1), *record.rollouts(2)] == before
    assert len(record.rollouts(3)) == 8


def test_it_may_be_evaluated_by_its_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--checkpoint=2"]) == 0
    assert "37.5" in capsys.readouterr().out


def test_a_checkpoint_of_another_format_is_refused_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = run / "checkpoints" / "step-000002"
    found = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(found | {"format": 0}))
    manifest.write(place)
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vpdlab: ")]
    assert "it has format 0" in line


def test_a_record_of_a_newer_version_is_refused_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(found | {"schema": SCHEMA + 1}))
    for command in (["train", "--resume", f"--out={run}", "--steps=3"], ["eval", str(run)], ["report", str(run)]):
        assert main(command) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vpdlab: ")]
        assert f"newer vpdlab (schema {SCHEMA + 1}" in line
