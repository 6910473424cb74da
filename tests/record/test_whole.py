"""Part of a run: a copy that was cut off, files that were left behind, lines that are not where they belong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vpdlab import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import METRICS, Recorder, RunRecord, lacks, load_run, lost_rollouts
from vpdlab.show.opening import missing


def leave(folder: Path, state: str = "complete", **settings: Any) -> RunRecord:
    """A run of three iterations without rollouts, evaluated before and after."""
    recorder = Recorder(folder, RunConfig(steps=3, out=str(folder), **settings).to_dict(), {})
    for step in (0, 1, 2, 3):
        if step:
            recorder.metrics(dict.fromkeys(METRICS) | {"step": step})
        if step in (0, 3):
            recorder.evaluation({"step": step, "problems": 2, "accuracy": 0.5, "by_problem": [0.0, 1.0]})
    recorder.close(state)
    return load_run(folder)


def first_lines(name: str, count: int) -> Callable[[Path], Any]:
    def cut(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        (folder / name).write_text("".join(text.splitlines(keepends=True)[:count]), encoding="utf-8")

    return cut


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: None, []),
        (lambda folder: (folder / "eval.jsonl").unlink(), ["eval.jsonl is missing or empty"]),
        (lambda folder: (folder / "metrics.jsonl").write_text("", "utf-8"), ["metrics.jsonl is missing or empty"]),
        (first_lines("eval.jsonl", 1), ["eval.jsonl ends at step 0"]),
        (first_lines("metrics.jsonl", 2), ["metrics.jsonl ends at step 2"]),
    ],
)
def test_a_complete_run_says_what_its_record_lacks(
    tmp_path: Path, damage: Callable[[Path], Any], said: list[str]
) -> None:
    leave(tmp_path / "run")
    damage(tmp_path / "run")
    found = lacks(load_run(tmp_path / "run"))
    assert [line.partition(", but the run is complete after step 3")[0] for line in found] == said
    assert all(f"the record is not whole: {line}" in missing(load_run(tmp_path / "run")) for line in found)


def test_a_run_that_never_evaluates_or_is_not_complete_lacks_nothing(tmp_path: Path) -> None:
    leave(tmp_path / "never", eval_every=-1)
    (tmp_path / "never" / "eval.jsonl").unlink()
    assert lacks(load_run(tmp_path / "never")) == []
    leave(tmp_path / "stopped", state="stopped")
    first_lines("metrics.jsonl", 1)(tmp_path / "stopped")
    assert lacks(load_run(tmp_path / "stopped")) == []


def test_iterations_without_rollouts_are_named(tmp_path: Path) -> None:
    run = leave(tmp_path / "run")
    assert lost_rollouts(run) == [1, 2, 3]
    assert missing(run) == ["the record is not whole: rollouts/ has none of 3 of 3 iterations (steps 1, 2, 3)"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("change", [lambda lines: lines[::-1], lambda lines: lines + lines])
def test_steps_that_do_not_ascend_are_damage(tmp_path: Path, name: str, change: Callable[[list], list]) -> None:
    leave(tmp_path / "run")
    file = tmp_path / "run" / name
    file.write_text("".join(change(file.read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name} line \d is damaged: step \d stands after step \d"):
        load_run(tmp_path / "run").lines(name)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("accuracy", 43.8, "'accuracy' is 43.8"),
        ("accuracy", -0.1, "'accuracy' is -0.1"),
        ("teacher_accuracy", 2, "'teacher_accuracy' is 2"),
        ("by_problem", [0.5, 50.0], "'by_problem' is"),
        ("by_problem", [0.5], "'by_problem' has 1 values for 2 problems"),
        ("problem_ids", ["a", "b", "c"], "'problem_ids' has 3 values for 2 problems"),
    ],
)
def test_an_evaluation_that_cannot_be_is_damage(tmp_path: Path, field: str, value: Any, said: str) -> None:
    recorder = Recorder(tmp_path / "run", RunConfig(out=str(tmp_path / "run")).to_dict(), {})
    recorder.evaluation({"step": 0, "problems": 2, "accuracy": 0.5, "by_problem": [0.0, 1.0]} | {field: value})
    recorder.close("complete")
    with pytest.raises(UserError, match=r"eval\.jsonl line 1 is damaged") as found:
        load_run(tmp_path / "run").eval_rows  # noqa: B018
    assert said in str(found.value)
