"""The speed benchmarks run and print what they promise. How fast anything is, is not asked here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

pytestmark = pytest.mark.slow


def run(*words: str) -> str:
    """What `python WORDS --quick` prints, on one thread."""
    command = [sys.executable, *words, "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(shown: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of a printed table, by the names of their columns."""
    blocks = [list(lines) for kept, lines in groupby(shown.splitlines(), lambda line: line[:1] == "|") if kept]
    lines = blocks[number]
    assert len({len(line) for line in lines}) == 1, "the columns are not aligned"
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(heads, row, strict=True)) for row in rows]


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that `python benchmarks` runs."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmarks_main", ROOT / "benchmarks" / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def middle(cell: str) -> float:
    """The median in "median (lowest-highest)"."""
    return float(cell.split()[0])


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="missing: trl")
@pytest.mark.parametrize("words", [(), ("--shape", "qwen3-tiny", "--lengths", "fixed", "--apart", "--accumulate", "2")])
def test_a_step_is_compared_with_trl_at_equal_work(words: tuple[str, ...]) -> None:
    shown = run("benchmarks/step.py", *words)
    assert "1 threads" in shown.splitlines()[0]
    rows = table(shown)
    fixed = [row for row in rows if row["lengths"] == "fixed"]
    assert [row[""] for row in fixed] == ["TRL", "sdpo", "vpd"]
    assert len({row["tokens student/teacher/response"] for row in fixed}) == 1
    assert all(middle(row["step s"]) > 0 for row in rows)
    assert [bool(row["of TRL"]) for row in fixed] == [False, True, True]


def test_the_e_step_is_set_against_sdpo() -> None:
    rows = table(run("benchmarks/e_step.py"))
    assert [row[""] for row in rows] == ["SDPO", "VPD, F = 1", "VPD, F = 5", "VPD, F = 10"]
    e = [middle(row["E-step s"]) for row in rows]
    assert e[0] == 0 and e[1] > e[2] > 0


def test_the_loss_is_the_same_in_chunks_and_all_at_once() -> None:
    whole, chunked = table(run("benchmarks/memory.py"))
    assert middle(whole["peak MiB"]) > 0 and whole["off by"] == ""
    assert float(chunked["off by"]) < 1e-4


def test_the_record_grows_with_what_it_keeps() -> None:
    shown = run("benchmarks/recording.py")
    sizes = [float(row["KiB an iteration"]) for row in table(shown)]
    assert sizes[0] == 0 < sizes[1] < sizes[2] < sizes[3]
    assert all(middle(row["s"]) > 0 for row in table(shown, 1))
    assert len(table(shown, 2)) == 2


def test_one_command_runs_them_and_writes_their_tables(tmp_path: Path) -> None:
    shown = run("benchmarks", "--only", "memory", "--out", str(tmp_path / "all.md"))
    written = (tmp_path / "all.md").read_text(encoding="utf-8")
    assert "## memory" in written and "logit_mib" in written
    assert "| memory" in shown.splitlines()[-3]


def test_a_decoding_step_is_timed_both_ways() -> None:
    rows = table(run("benchmarks/decode.py"))
    assert [row["way"] for row in rows] == ["fixed buffers", "step by step"]
    assert all(middle(row["ms a step"]) > 0 for row in rows)
    assert rows[1]["rows equal"].endswith(" of 4")


def test_what_has_no_time_is_not_run_and_named(tmp_path: Path) -> None:
    shown = run("benchmarks", "--minutes", "0.01", "--out", str(tmp_path / "all.md"))
    assert shown.count("not run: no time") >= 5 and "==" not in shown


def test_each_leaves_time_for_those_that_follow(benchmarks: Any) -> None:
    assert benchmarks.share(480.0, 3) == 300.0
    assert benchmarks.share(100.0, 3) == 25.0  # too little to keep a minute for each
    assert benchmarks.share(100.0, 0) == 100.0


def test_what_is_done_is_written_before_the_next_begins(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, there = tmp_path / "all.md", {}

    def stands_in(script: str, given: Any, most: float) -> tuple[list[str], float, str]:
        there[script] = out.read_text(encoding="utf-8") if out.exists() else ""
        return [f"of {script}", f"goal: {script} | 1 | 2 | yes"], 1.0, "" if script == "memory" else "failed"

    monkeypatch.setattr(benchmarks, "run", stands_in)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "memory", "step", "e_step", "--out", str(out)])
    with pytest.raises(SystemExit, match="failed: step, e_step"):
        benchmarks.main()
    assert there["memory"] == "" and "of memory" in there["step"]
    assert "of step" in there["e_step"] and "failed" in there["e_step"]
    assert "of e_step" in out.read_text(encoding="utf-8")


def test_stages_are_set_against_whole_rows() -> None:
    shown = run("benchmarks/stages.py")
    assert [row["keys"] for row in table(shown, 1)] == ["44", "45", "46", "47", "48"]
    (row,) = table(shown)
    assert all(middle(row[way]) > 0 for way in ("whole, ms", "two stages", "three stages"))
    assert row["chosen"] == "whole"  # two rows of 57 tokens are not worth a call
