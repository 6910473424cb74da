"""Summaries of a run: lines of text and rows of tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import METRICS
from vpdlab.show import table
from vpdlab.show.probes import probe_lines, probe_table
from vpdlab.show.summary import (
    changed_settings,
    conclusion,
    drift,
    find_run,
    fresh_warnings,
    gain,
    measured,
    newest_run,
    phase_times,
    progress_line,
    rollout_table,
    tally,
    warning_spans,
)


def evaluation(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "step": step, "accuracy": accuracy, "accuracy_low": accuracy - 0.1, "accuracy_high": accuracy + 0.1, "k": 4
    }  # fmt: skip


EVALS = [evaluation(0, 0.25), evaluation(10, 0.75), evaluation(20, 0.5)]


def test_gain_compares_the_ends_and_names_the_best() -> None:
    found = gain(EVALS)
    assert (found["start"]["step"], found["best"]["step"], found["final"]["step"]) == (0, 10, 20)
    assert found["points"] == 25.0
    assert gain(EVALS[:1]) is None


def test_the_earliest_of_equal_bests_is_named() -> None:
    assert gain([evaluation(step, 0.5) for step in (0, 10, 20)])["best"]["step"] == 0


def test_conclusion_says_it_in_words() -> None:
    assert conclusion(EVALS) == (
        "held-out accuracy 25.0 % [15.0, 35.0] before, 50.0 % [40.0, 60.0] after (+25.0 points);"
        " best 75.0 % [65.0, 85.0] at iteration 10"
    )
    assert "(-25.0 points)" in conclusion(EVALS[1:])
    assert conclusion([]) == "no held-out evaluation before and after"


def test_measured_is_a_percentage() -> None:
    assert measured(1.0, 0.9, 1.0) == "100.0 % [90.0, 100.0]"


ROW = dict.fromkeys(METRICS) | {
    "step": 7, "success_rate": 0.5, "kl": 0.1234, "margin": 0.256, "entropy": 0.5, "length": 12.34, "e_loss": 1.0,
    "seconds_rollout": 1.0, "seconds_feedback": 0.25, "seconds_e": 0.5, "seconds_m": 1.25,
}  # fmt: skip


def test_an_iteration_is_one_line() -> None:
    assert progress_line(ROW, 100) == (
        "iteration   7/100  success 0.50  kl 0.123  margin +0.26  entropy 0.500  length  12.3  E+M  3.0 s"
    )


def test_what_does_not_exist_is_a_dash_and_zero_is_not() -> None:
    line = progress_line(ROW | {"kl": 0.0, "margin": None, "entropy": None, "e_loss": None}, 9)
    assert line == "iteration 7/9  success 0.50  kl 0.000  margin     -  entropy     -  length  12.3    M  3.0 s"


def test_the_table_shows_what_was_said_or_why_nothing_was() -> None:
    record = {
        "step": 1, "prompt": "3 + 4?", "text": "8", "success": False, "critique": None, "demonstration": None,
        "reason": "all failed", "implicit_reward": None,
    }  # fmt: skip
    rows = rollout_table(
        [record, record | {"demonstration": "7"}, record | {"demonstration": "7", "critique": "Too high."}]
    )
    assert [row["feedback"] for row in rows] == ["(all failed)", "7", "Too high."]
    assert rows[0] == {
        "iteration": 1, "problem": "3 + 4?", "response": "8", "right": False, "feedback": "(all failed)",
        "implicit reward": None,
    }  # fmt: skip


def test_a_table_shows_significant_digits() -> None:
    values = (0.0005, 1e-05, -0.04321, 0.333333, 1.0, 12.3456, 12345.6, -1234.5, 5e12, float("inf"), float("nan"), 0.0)
    assert [repr(table([{"lr": value}])).partition("\n")[2] for value in values] == [
        "0.0005", "1e-05", "-0.04321", "0.3333", "1", "12.35", "12,346", "-1,234", "5e+12", "inf", "–", "0"
    ]  # fmt: skip
    assert 'data-value="12345.6"' in table([{"lr": 12345.6}])._repr_html_()


def test_each_named_warning_is_fresh_once() -> None:
    seen: set[str] = set()
    assert fresh_warnings({"step": 3, "warnings": ["no-signal: a"]}, seen) == ["warning, iteration 3: no-signal: a"]
    assert fresh_warnings({"step": 4, "warnings": ["no-signal: b", "all-success: c"]}, seen) == [
        "warning, iteration 4: all-success: c"
    ]


# -- a whole run ---------------------------------------------------------------------------------------------------


def folder_of_a_run(folder: Path, state: str = "complete", age: float = 0, steps: int = 2) -> Path:
    """Only what makes a folder a run: settings, status and two columns of rollouts."""
    (folder / "rollouts").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "status.json").write_text(json.dumps({"state": state, "step": steps}))
    for step in range(1, steps + 1):
        rows = [{"step": step, "source": "sibling" if success else "", "success": success} for success in (True, False)]
        pq.write_table(pa.Table.from_pylist(rows), folder / "rollouts" / f"step-{step:06d}.parquet")
    os.utime(folder / "status.json", (1e9 - age, 1e9 - age))
    return folder


def test_the_newest_complete_run_is_found_also_one_level_below(tmp_path: Path) -> None:
    assert newest_run(tmp_path, tmp_path / "nowhere") is None
    folder_of_a_run(tmp_path / "old", age=100)
    folder_of_a_run(tmp_path / "running", state="running")
    folder_of_a_run(tmp_path / "empty", steps=0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "broken" / "status.json").write_text("{")
    assert newest_run(tmp_path) == tmp_path / "old"
    below = folder_of_a_run(tmp_path / "compare" / "vpd-s0", age=50)
    assert newest_run(tmp_path) == below


def test_a_notebook_finds_runs_beside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab starts a kernel in the notebook's own folder; the runs are in the working folder above it."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert find_run() is None
    demo = folder_of_a_run(tmp_path / "runs" / "demo", age=100)
    assert find_run().resolve() == find_run("runs/demo").resolve() == demo
    mine = folder_of_a_run(tmp_path / "notebooks" / "runs" / "demo", age=50)
    assert find_run("runs/demo").resolve() == find_run().resolve() == mine
    assert find_run(demo) == demo
    with pytest.raises(UserError, match="runs/none holds no run"):
        find_run("runs/none")


def test_only_settings_that_differ_are_told_and_not_where_they_lie() -> None:
    config = RunConfig.make("tour-common", out="runs/x").to_dict()
    told = {row["setting"]: (row["this run"], row["default"]) for row in changed_settings(config)}
    assert told["task_args"] == ("digits=2", "(none)")
    assert told["teacher"] == ("ema", "shared")
    assert not {"out", "seed", "method"} & set(told)
    assert changed_settings({"a_setting_of_another_version": 3}) == [
        {"setting": "a_setting_of_another_version", "this run": "3", "default": "(none)"}
    ]


def test_a_tally_counts_shares_of_all_and_successes_of_its_own() -> None:
    rows = [{"source": "a", "success": True}, {"source": "a", "success": False}, {"source": "", "success": False}]
    rows += [{"source": "b", "success": True}]
    assert tally(rows, "source") == [
        {"source": "a", "rollouts": 2, "share": "50.0 %", "right": "50.0 %"},
        {"source": "b", "rollouts": 1, "share": "25.0 %", "right": "100.0 %"},
    ]
    assert tally([{"leaked": True, "success": False}, {"leaked": False, "success": True}], "leaked") == [
        {"leaked": "yes", "rollouts": 1, "share": "50.0 %", "right": "0.0 %"}
    ]
    assert tally([], "source") == []


def test_time_is_shared_among_the_phases_that_took_any() -> None:
    found = phase_times([ROW | {"tokens_rollout": 500, "tokens_m": 100, "seconds_e": None}] * 2)
    assert [line["phase"] for line in found] == ["rollout", "feedback", "M-step"]
    assert found[0] == {
        "phase": "rollout", "seconds": "2.0", "share": "40 %", "tokens": "1,000", "tokens per second": "500"
    }  # fmt: skip
    assert found[1]["tokens per second"] == "–"


def test_each_warning_is_told_once_with_its_span() -> None:
    rows = [
        {"step": 1, "warnings": ["a: one"]},
        {"step": 2, "warnings": []},
        {"step": 3, "warnings": ["a: three", "b: x"]},
    ]
    assert warning_spans(rows) == [
        {"warning": "a", "iterations": 2, "first": 1, "last": 3, "latest message": "three"},
        {"warning": "b", "iterations": 1, "first": 3, "last": 3, "latest message": "x"},
    ]
    assert warning_spans([{"step": 1}]) == []


def test_drift_compares_the_ends_and_leaves_gaps_out() -> None:
    rows = [{"kl": value, "delta": None} for value in (1.0, None, 3.0, 9.0, 9.0, 9.0, 4.0, 4.0, 4.0)]
    rows[4]["delta"] = 0.5
    assert drift(rows, ["kl", "delta", "margin"]) == [
        {"metric": "kl", "first 3": "2", "last 3": "4", "change": "+2"},
        {"metric": "delta", "first 3": "–", "last 3": "–", "change": "–"},
    ]
    assert drift(rows[:1], ["kl", "margin"]) == [{"metric": "kl", "value": "1"}]


def test_the_conclusion_says_of_which_part_of_the_problems_it_speaks() -> None:
    part = {"k": 1, "problems": 128, "held_out": 512, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    evals = [part | {"step": 0}, part | {"step": 2}]
    assert conclusion(evals).endswith("; on 128 of 512 held-out problems, drawn by eval_seed")
    assert "held-out problems" not in conclusion([row | {"problems": 512} for row in evals])


def test_probes_are_summed_up_by_their_first_and_last_value():
    evals = [{"probes": {"belief/Ada": 0.125, "drift": None}}, {}, {"probes": {"belief/Ada": 0.5, "teacher_kl": 1e-4}}]
    assert probe_table(evals) == [
        {"probe": "belief: Ada", "first": "0.125", "last": "0.5", "largest": "0.5", "change": "+0.375"},
        {"probe": "drift", "first": "–", "last": "–", "largest": "–", "change": "–"},
        {"probe": "teacher kl", "first": "0.0001", "last": "0.0001", "largest": "0.0001", "change": "–"},
    ]
    assert probe_lines(evals) == ["belief: Ada 0.12 -> 0.50", "drift: -", "teacher kl: 0.00"]
    assert probe_table([{}, {"probes": {}}]) == [] == probe_lines([])
