"""Comparisons: the plan, taking up what was interrupted, and a table that follows from run folders alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vpdlab import cli, compare
from vpdlab.compare import standings
from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.record import METRICS, Recorder
from vpdlab.show import plots

BASE = RunConfig(prompts=2, group=4, steps=2, eval_every=1)


def cells(tmp_path: Path, *labels: str, seeds=(0, 1)) -> list[compare.Cell]:
    return compare.plan({"base": BASE}, labels, seeds, tmp_path / "out")


def leave(cell: compare.Cell, final: list[float], state: str = "complete", seconds: float = 1.0) -> None:
    """A run folder as the cell's run would leave it: 0 at the start, half of `final` after one step, then `final`."""
    recorder = Recorder(cell.folder, cell.config.to_dict(), {})
    for step in (0, 1, 2):
        values = [value * step / 2 for value in final]
        recorder.evaluation({"step": step, "accuracy": sum(values) / len(values), "by_problem": values})
        if step:
            row = dict.fromkeys(METRICS) | {"step": step, "length": 4.0 + step, "entropy": None}
            recorder.metrics(row | {f"seconds_{p}": seconds for p in ("rollout", "feedback", "e", "m")})
    recorder.close(state)


def test_the_plan_goes_seed_by_seed_and_methods_keep_their_own_settings(tmp_path) -> None:
    found = cells(tmp_path, "vpd", "vpd:e_every=1,beta=0.2", "opsd")
    assert [(cell.label, cell.seed) for cell in found[:4]] == [
        ("vpd", 0), ("vpd:e_every=1,beta=0.2", 0), ("opsd", 0), ("vpd", 1)
    ]  # fmt: skip
    plain, own, opsd = (cell.config for cell in found[:3])
    assert (plain.e_every, plain.beta, own.e_every, own.beta) == (5, 0.1, 1, 0.2)
    assert (opsd.teacher, opsd.feedback) == ("frozen", ("reference",))  # what the method is defined by
    assert len({cell.folder for cell in found}) == 6
    assert {cell.config.seed for cell in found} == {0, 1}
    lists = cells(tmp_path, "sdpo:feedback=verifier+sibling,lr=1e-5")[0].config
    assert (lists.feedback, lists.lr) == (("verifier", "sibling"), 1e-5)
    long = cells(tmp_path, *(f"vpd:e_objective=kto,shift=ema,shift_decay=0.95,e_minibatch={n}" for n in (8, 16)))
    assert len({cell.config.folder.name for cell in long}) == 4 and all(len(c.folder.name) < 64 for c in long)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("ppo", "unknown method 'ppo'"),
        ("vpd:betta=1", "there is no setting 'betta': did you mean 'beta'"),
        ("vpd:beta", "'beta' is not a setting of a method: write METHOD:FIELD=VALUE"),
        ("vpd:beta=high", "beta is 'high', but must be a number"),
        ("vpd:method=grpo", "method 'vpd:method=grpo' sets method, which is set for each run"),
        ("vpd:seed=3", "sets seed, which is set for each run"),
        ("vpd:out=elsewhere", "sets out, which is set for each run"),
        ("opsd:teacher=ema", "method opsd is defined with teacher frozen"),
    ],
)
def test_a_label_that_says_nothing_is_refused_before_anything_runs(tmp_path, label, words) -> None:
    with pytest.raises(UserError, match=words):
        cells(tmp_path, "vpd", label)


def test_runs_that_would_share_a_folder_are_refused(tmp_path) -> None:
    labels = ("vpd:templates=a/b", "vpd:templates=a-b")
    with pytest.raises(UserError, match="would have the same folder .*: rename one"):
        cells(tmp_path, *labels)


def test_a_preset_that_never_evaluates_cannot_be_compared(tmp_path) -> None:
    with pytest.raises(UserError, match="preset x never evaluates: set eval_every"):
        compare.plan({"x": RunConfig(eval_every=-1)}, ["vpd"], [0], tmp_path)


def test_what_is_done_is_kept_and_what_was_interrupted_begins_anew(tmp_path, monkeypatch) -> None:
    found = cells(tmp_path, "vpd", "sdpo")
    leave(found[0], [1.0])
    leave(found[1], [1.0], state="stopped")
    ran = []

    def fake(cell: compare.Cell, worker: object) -> int:
        ran.append(cell)
        if cell.folder.exists():
            assert cell is found[1]
        else:
            leave(cell, [0.5])
        return 0

    monkeypatch.setattr(compare.runs, "_run", fake)
    said: list[str] = []
    compare.run_all(found, jobs=2, say=said.append)
    assert {id(cell) for cell in ran} == {id(cell) for cell in found[1:]}
    assert said[0] == "1 of 4 runs are already done"
    assert any(line.startswith("4/4  ") and "0.0 % -> 50.0 % in 8 s" in line for line in said)


def test_a_run_that_failed_is_named_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    found = cells(tmp_path, "vpd", "sdpo", seeds=[0])

    def fake(cell: compare.Cell, worker: object) -> int:
        if cell.label == "vpd":
            return 1
        leave(cell, [0.5])
        return 0

    monkeypatch.setattr(compare.runs, "_run", fake)
    with pytest.raises(RunFailed, match=r"1 runs failed; see .*vpd-s0\.log"):
        compare.run_all(found, jobs=1, say=lambda line: None)
    assert compare.state(found[1]) == "done"


def test_a_folder_with_other_settings_or_a_living_run_is_not_touched(tmp_path) -> None:
    (cell,) = cells(tmp_path, "vpd", seeds=[0])
    leave(cell, [1.0])
    changed = compare.plan({"base": RunConfig.make(**{**BASE.to_dict(), "lr": 1e-3})}, ["vpd"], [0], tmp_path / "out")
    with pytest.raises(UserError, match=r"vpd-s0 contains a run with lr 0.0001, but the comparison has 0.001"):
        compare.state(changed[0])
    status = json.loads((cell.folder / "status.json").read_text())
    living = status | {"state": "running", "pid": os.getppid()}
    (cell.folder / "status.json").write_text(json.dumps(living))
    with pytest.raises(UserError, match=f"is being written by process {os.getppid()}"):
        compare.state(cell)


class Idle:
    """A worker that trains nothing."""

    def train(self, settings: Path, log: Path, last: bool) -> int:
        return 0


def test_files_that_are_no_run_are_never_deleted(tmp_path) -> None:
    (cell,) = cells(tmp_path, "vpd", seeds=[0])
    cell.folder.mkdir(parents=True)
    (cell.folder / "notes.txt").write_text("mine")
    assert compare.state(cell) == "open"
    assert compare.runs._run(cell, Idle()) == 0
    assert (cell.folder / "notes.txt").read_text() == "mine"
    (cell.folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"vpd-s0 holds metrics\.jsonl of an earlier run, but no config\.json"):
        compare.state(cell)


def test_a_file_where_a_run_belongs_is_named_before_anything_runs(tmp_path) -> None:
    (cell,) = cells(tmp_path, "vpd", seeds=[0])
    cell.folder.parent.mkdir(parents=True)
    cell.folder.write_text("mine")
    with pytest.raises(UserError, match="vpd-s0 is no folder"):
        compare.run_all([cell], 1)


@pytest.mark.parametrize("name", ["eval.jsonl", "metrics.jsonl"])
def test_part_of_a_complete_run_is_not_taken_for_the_whole(tmp_path, name) -> None:
    (cell,) = cells(tmp_path, "vpd", seeds=[0])
    leave(cell, [1.0])
    file = cell.folder / name
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=rf"vpd-s0: {name} ends at step 1, but the run is complete after step 2"):
        compare.state(cell)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [row | {"by_problem": [0.5]} for row in rows], "sdpo-s0.* on another number of problems than"),
        (lambda rows: [row | {"problem_ids": ["a", "c"]} for row in rows], "sdpo-s0.* on other problems than .*vpd-s0"),
    ],
)
def test_runs_on_other_problems_are_not_compared(tmp_path, change, said) -> None:
    found = cells(tmp_path, "vpd", "sdpo")
    for cell in found:
        leave(cell, [0.5, 1.0])
        rows = [json.loads(line) | {"problem_ids": ["a", "b"]} for line in _lines(cell)]
        _write(cell, change(rows) if cell == found[1] else rows)
    with pytest.raises(UserError, match=said):
        standings.summarise(found)


def test_seeds_that_were_evaluated_after_other_iterations_are_not_averaged(tmp_path) -> None:
    found = cells(tmp_path, "vpd")
    for cell in found:
        leave(cell, [0.5, 1.0])
    _write(found[1], [json.loads(line) for line in _lines(found[1]) if '"step": 1' not in line])
    with pytest.raises(UserError, match=r"vpd-s1.* after other iterations than .*vpd-s0"):
        standings.summarise(found)


def _lines(cell: compare.Cell) -> list[str]:
    return (cell.folder / "eval.jsonl").read_text().splitlines()


def _write(cell: compare.Cell, rows: list[dict]) -> None:
    (cell.folder / "eval.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_the_table_by_hand(tmp_path) -> None:
    found = cells(tmp_path, "vpd", "sdpo")
    for cell, final in zip(found, ([1.0, 0.6], [0.4, 0.4], [0.8, 0.8], [0.4, 0.6]), strict=True):
        leave(cell, final)
    vpd, sdpo = standings.summarise(found)
    assert vpd["start"] == 0.0 and vpd["final"] == pytest.approx(0.8) and sdpo["final"] == pytest.approx(0.45)
    assert sdpo["difference"] == pytest.approx(-0.35) and sdpo["against"] == "vpd" and vpd["difference"] is None
    assert vpd["final_seeds"] == pytest.approx([0.8, 0.8]) and sdpo["difference_seeds"] == pytest.approx([-0.4, -0.3])
    assert vpd["final_low"] <= 0.8 <= vpd["final_high"] and vpd["final_low"] >= 0.6
    # half way from 0 to 0.8 is 0.4: vpd is there after one step of 2 x 4 rollouts, sdpo after two
    assert (vpd["level"], vpd["rollouts_to_level"], sdpo["rollouts_to_level"]) == (pytest.approx(0.4), 8.0, 16.0)
    assert (vpd["length"], vpd["entropy"], vpd["seconds"], vpd["rollouts"]) == (5.5, None, 8.0, 16)
    out_of_reach = standings.summarise(found, level=0.7)
    assert [row["reached"] for row in out_of_reach] == [2, 0] and out_of_reach[1]["rollouts_to_level"] is None
    text = standings.markdown(out_of_reach)
    assert "| `vpd` | 80.0 [" in text and "0 of 2 seeds" in text and "rollouts to 70 %" in text


def test_equal_results_have_an_interval_of_no_width(tmp_path) -> None:
    found = cells(tmp_path, "vpd", "sdpo")
    for cell in found:
        leave(cell, [1.0, 0.0, 1.0])
    _, sdpo = standings.summarise(found)
    assert (sdpo["difference_low"], sdpo["difference_high"]) == (0.0, 0.0)


def test_the_picture_has_a_band_for_each_method(tmp_path) -> None:
    found = cells(tmp_path, "vpd", "sdpo")
    for cell, final in zip(found, ([1.0], [0.4], [0.8], [0.6]), strict=True):
        leave(cell, final)
    figure = plots.compare_figure(standings.curves(found))
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert list(lines["vpd"].x) == [0, 8, 16] and list(lines["vpd"].y) == pytest.approx([0.0, 0.45, 0.9])
    high, low = figure.data[0], figure.data[1]
    assert list(high.y) == pytest.approx([0.0, 0.5, 1.0]) and list(low.y) == pytest.approx([0.0, 0.4, 0.8])


def test_the_chosen_axis_is_marked_without_a_white_button() -> None:
    curve = {"preset": "p", "method": "vpd", "seed": 0, "rollouts": [0, 8], "accuracy": [0.1, 0.5], "seconds": [0, 3]}
    (menu,) = plots.compare_figure([curve]).layout.updatemenus
    assert [button.label for button in menu.buttons] == ["● rollouts", "○ seconds"]
    assert menu.showactive is False and menu.bgcolor == "rgba(0,0,0,0)"
    data, layout = menu.buttons[1].args
    assert [list(x) for x in data["x"]][-1] == [0, 3]
    assert layout["updatemenus[0].buttons[0].label"] == "○ rollouts"
    assert layout["updatemenus[0].buttons[1].label"] == "● seconds"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--seeds", "x"], "argument --seeds: invalid int value: 'x'"),
        (["--preset", "tour-rare"], "compare takes --presets, with one or several values, not --preset"),
        (["--methods", "vpd", "ppo"], "unknown method 'ppo'"),
        (["--stepz", "2"], "Unrecognized options: --stepz"),
    ],
)
def test_bad_words_are_one_line(capsys, tmp_path, args, words) -> None:
    assert cli.main(["compare", "--out", str(tmp_path), *args]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and "\n" not in err


@pytest.mark.slow
def test_a_comparison_from_end_to_end(capsys, tmp_path) -> None:
    args = ["compare", "--presets", "tour-common", "--methods", "vpd", "grpo", "--seeds", "0", "--out", str(tmp_path),
            "--steps", "2", "--prompts", "2", "--group", "2", "--eval_problems", "4", "--eval_samples", "2",
            "--eval_every", "0", "--jobs", "2"]  # fmt: skip
    assert cli.main([*args, "--dry-run"]) == 0
    assert capsys.readouterr().out.count(": open") == 2
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "| `grpo` |" in out and "2/2  tour-common" in out
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["vpd", "grpo"]
    page = (tmp_path / "compare.html").read_text()
    assert "Methods on the same problems" in page and "vpdlab compare --presets tour-common" in page
    assert cli.main(args) == 0
    assert "2 of 2 runs are already done" in capsys.readouterr().out
