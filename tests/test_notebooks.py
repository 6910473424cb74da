"""The notebooks: they run from top to bottom, and the tour's lines are the loop's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from toy import equal, weights

from vpdlab import cli, headless
from vpdlab.loop import Run, iterate
from vpdlab.record import load_run

SMALL = ["--prompts=4", "--group=4", "--eval-problems=8", "--eval-samples=2"]


def code(name: str) -> list[str]:
    notebook = nbformat.read(headless.notebooks() / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def errors(path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.evalue for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("teacher", ["shared", "ema", "adapter"])
def test_the_tours_lines_end_in_the_same_weights_as_iterate(teacher):
    """With the teacher that the tour shows, and with others that a reader may put in its place."""
    names: dict = {}
    first, *lines, last = code("00_tour")
    assert 'teacher="shared"' in first
    for cell in [first.replace('teacher="shared"', f'teacher="{teacher}"'), *lines]:
        exec(cell, names)
    assert "verify_all" in last  # samples anew: no part of the step
    twin = Run.open(names["config"], record=False)
    start = weights(twin)
    row = iterate(twin, names["step"])
    assert row["e_loss"] is not None and row["m_loss"] is not None
    assert equal(weights(names["run"]), weights(twin))
    assert not equal(start, weights(twin))
    copies = [run.learner.teacher._copy for run in (names["run"], twin)]
    if teacher == "ema":
        assert equal(*(dict(enumerate(copy.values)) for copy in copies))


def test_every_parameter_of_the_training_notebook_is_a_setting():
    notebook = nbformat.read(headless.notebooks() / "train.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names: dict = {}
    exec(cell.source, names)
    from vpdlab.config import HINTS

    assert {name for name in names if not name.startswith("__")} - {"preset"} <= set(HINTS)


WALKS = {
    "00_tour": ("One iteration by hand", "<math"),
    "10_teacher_logits": ("What the teacher knows, token by token", "vpd-view"),
    "20_e_step": ("The E-step: a teacher that learns from outcomes", "<math"),
    "30_m_step": ("The M-step: what the student really receives", "cosine with full"),
    "40_co_evolution": ("Co-evolution: teacher and student", "vpd-view"),
    "50_feedback_sources": ("Where the words come from", "failures with feedback"),
    "70_where_it_fails": ("Where it fails", "no-success"),
    "em_exact": ("EM, exactly", "<math"),
    "one_rollout": ("One rollout, several gradients", "How alike are they"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_walk_runs_and_becomes_a_page(name, tmp_path):
    assert cli.main(["notebook", name, "--out", str(tmp_path / "walk")]) == 0
    assert errors(tmp_path / "walk" / f"{name}.ipynb") == []
    page = (tmp_path / "walk" / f"{name}.html").read_text()
    assert all(words in page for words in WALKS[name])


@pytest.mark.slow
def test_the_training_notebook_runs_with_the_fields_of_the_command_line(tmp_path, capfd):
    out = tmp_path / "run"
    args = ["notebook", "train", "--preset", "tour-rare", "--out", str(out), "-p", "steps", "4", *SMALL, "--e-every=2"]
    assert cli.main(args) == 0
    assert errors(out / "train.ipynb") == []
    record = load_run(out)
    assert record.status["state"] == "complete"
    assert (record.config["steps"], record.config["prompts"], record.config["task_args"]) == (4, 4, ["digits=3"])
    assert [row["step"] for row in record.rows if row["delta"] is not None or row["notes"]] == [2, 4]
    page = (out / "train.html").read_text()
    assert "What came of it" in page and "held-out accuracy" in page
    assert "step 4/4" in capfd.readouterr().out  # progress reaches the terminal while the notebook runs
    assert cli.main(args) == 2  # the folder holds a run now
    assert load_run(out).rows == record.rows


@pytest.mark.slow
@pytest.mark.parametrize("command", [["train"], ["notebook", "train"]])
def test_an_interrupt_finishes_the_step_and_saves(tmp_path, command):
    """What Ctrl-C does in a terminal, where it reaches every process of the command."""
    out = tmp_path / "run"
    args = [*command, "--preset", "tour-common", "--out", str(out), "--steps=2000", "--eval-every=-1", *SMALL]
    process = subprocess.Popen([sys.executable, "-m", "vpdlab.cli", *args], start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not (out / "metrics.jsonl").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=90) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    record = load_run(out)
    assert record.status["state"] == "stopped"
    assert 0 < record.status["step"] == len(record.rows) < 2000
    assert (out / "final" / "model.safetensors").is_file()
    assert (out / "train.html").exists() == (command[0] == "notebook")


@pytest.mark.slow
def test_a_notebook_that_meets_bad_input_says_so_in_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["notebook", "train", "--out", str(out), "--task", "science", "--data", str(tmp_path / "no")]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith("vpdlab: ") and "no" in err[-1]


@pytest.mark.slow
def test_the_bundled_model_learns(tmp_path):
    """The demo's promise at half its length: held-out accuracy rises clearly, and the intervals do not touch."""
    out = tmp_path / "run"
    assert cli.main(["train", "--preset", "tour-common", "--steps", "40", "--eval-every", "0", "--out", str(out)]) == 0
    first, last = load_run(out).eval_rows
    assert last["accuracy"] > first["accuracy"] + 0.1
    assert last["accuracy_low"] > first["accuracy_high"]
    assert json.loads((out / "status.json").read_text())["state"] == "complete"
