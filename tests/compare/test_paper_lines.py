"""The lines of a paper's figure: means and intervals over seeds, from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vpdlab.cli import main
from vpdlab.compare import paper
from vpdlab.errors import UserError
from vpdlab.record import METRICS, Recorder, RunRecord, load_run

CONFIG = {"task": "arithmetic", "model": "apprentice", "method": "vpd", "steps": 3, "seed": 0, "beta": 0.1}
PHASES = ("rollout", "feedback", "e", "m")


def run(folder: Path, final: float, margins: list[float | None], teacher: int | None = None) -> RunRecord:
    """Evaluations 0 and `final` on two problems, and one iteration for each margin, of 8 rollouts and 4 seconds."""
    recorder = Recorder(folder, CONFIG | {"prompts": 2, "group": 4}, {})
    for step in range(len(margins) + 1):
        if step:
            row = dict.fromkeys(METRICS) | {"step": step, "margin": margins[step - 1], "teacher_rollouts": teacher}
            recorder.metrics(row | {f"seconds_{phase}": 1.0 for phase in PHASES})
        if step in (0, len(margins)):
            value = final if step else 0.0
            recorder.evaluation({"step": step, "accuracy": value, "by_problem": [value, value]})
    recorder.close("complete")
    return load_run(folder)


@pytest.fixture
def two(tmp_path: Path) -> list[RunRecord]:
    return [run(tmp_path / "a", 0.8, [0.0, 1.0, None]), run(tmp_path / "b", 0.4, [0.5, 2.0, 3.0], teacher=2)]


def test_the_mean_over_seeds_and_its_interval(two: list[RunRecord]) -> None:
    accuracy, margin = paper.lines({"words": {"vpd": two}}, ["accuracy", "margin"])
    assert (accuracy["panel"], accuracy["name"], accuracy["over"]) == ("words", "vpd", "rollouts")
    assert accuracy["x"] == [0.0, 27.0]  # 24, and 24 with 6 of the teacher's own
    assert accuracy["mean"] == pytest.approx([0.0, 0.6])
    assert (accuracy["low"], accuracy["high"]) == (pytest.approx([0.0, 0.4]), pytest.approx([0.0, 0.8]))
    assert margin["x"] == [9.0, 18.0, 27.0]
    assert margin["mean"] == pytest.approx([0.25, 1.5, 3.0])  # a seed without a number leaves the others'
    assert margin["low"][1] == pytest.approx(1.0) and margin["high"][1] == pytest.approx(2.0)
    assert margin["low"][2] == margin["high"][2] == pytest.approx(3.0)


def test_one_seed_has_an_interval_over_problems_alone(two: list[RunRecord]) -> None:
    accuracy, margin = paper.lines({"": {"vpd": two[:1]}}, ["accuracy", "margin"])
    assert accuracy["low"] == pytest.approx([0.0, 0.8])
    assert margin["low"] is margin["high"] is None
    assert margin["mean"] == [0.0, 1.0, None]


@pytest.mark.parametrize(("over", "x"), [("iterations", [1.0, 2.0, 3.0]), ("seconds", [4.0, 8.0, 12.0])])
def test_other_axes(two: list[RunRecord], over: str, x: list[float]) -> None:
    (margin,) = paper.lines({"": {"vpd": two}}, ["margin"], over)
    assert margin["x"] == x


def test_a_window_averages_the_iterations_before(two: list[RunRecord]) -> None:
    (margin,) = paper.lines({"": {"vpd": two[1:]}}, ["margin"], window=2)
    assert margin["mean"] == pytest.approx([0.5, 1.25, 2.5])


def test_a_method_without_numbers_has_no_line(two: list[RunRecord], tmp_path: Path) -> None:
    silent = run(tmp_path / "c", 0.5, [None, None, None])
    found = paper.lines({"": {"vpd": two, "grpo": [silent]}}, ["accuracy", "margin"])
    assert [(line["measure"], line["name"]) for line in found] == [
        ("accuracy", "vpd"), ("accuracy", "grpo"), ("margin", "vpd")
    ]  # fmt: skip


def test_runs_of_other_lengths_share_the_steps_that_both_have(two: list[RunRecord], tmp_path: Path) -> None:
    short = run(tmp_path / "c", 0.5, [1.0])
    (margin,) = paper.lines({"": {"vpd": [two[0], short]}}, ["margin"])
    assert margin["mean"] == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("args", "words"), [((["mragin"],), "no measure 'mragin'"), ((["notes"],), "no measure 'notes'"),
                        ((["margin"], "steps"), "no axis 'steps': choose one of rollouts, iterations, seconds")]
)  # fmt: skip
def test_unknown_measures_and_axes_are_named(two: list[RunRecord], args: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        paper.lines({"": {"vpd": two}}, *args)


def test_what_cannot_be_drawn_is_refused_before_anything_runs(tmp_path: Path, capsys) -> None:
    common = ["compare", "--out", str(tmp_path / "runs"), "--methods", "sdpo", "--seeds", "0"]
    for more, words in (
        (["--figure", "f.png"], "written as .pdf or .svg"),
        (["--figure", "f.pdf", "--figure-measures", "mragin"], "no measure 'mragin'"),
        (["--figure", "f.pdf", "--figure-width", "wide"], "cannot be 'wide' wide"),
        (["--figure", "f.pdf", "--figure-over", "steps"], "no axis 'steps'"),
    ):
        assert main([*common, *more]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_comparison_draws_its_figure(tmp_path: Path, capsys) -> None:
    figure = tmp_path / "figure.pdf"
    small = ["--prompts", "2", "--group", "4", "--steps", "2", "--eval_every", "1", "--eval_problems", "4"]
    common = ["--presets", "tour-common", "--methods", "sdpo", "vpd:e_every=1", "--seeds", "0", "1"]
    wanted = ["--figure", str(figure), "--figure-measures", "accuracy", "margin", "--figure-width", "page"]
    assert main(["compare", *common, "--out", str(tmp_path / "runs"), *wanted, *small]) == 0
    assert str(figure) in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"%PDF")
