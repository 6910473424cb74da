"""The notebooks: they run from top to bottom, and the tour's lines are the loop's."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from offline_browser import close_browser, offline_page
from toy import equal, toy_run, weights

from vpdlab import Parts, cli, iterate
from vpdlab.cli import headless
from vpdlab.record import load_run
from vpdlab.show.said import MIME, said

SMALL = ["--prompts=4", "--group=4", "--eval-problems=8", "--eval-samples=2"]


def code(name: str) -> list[str]:
    """A notebook's code cells without the lesson's bar, which is no part of it."""
    notebook = nbformat.read(headless.notebooks() / f"{name}.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code" and "ClassMode()" not in cell.source]


def outputs(path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, as_version=4)
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def errors(path) -> list[str]:
    return [output.evalue for output in outputs(path) if output.output_type == "error"]


CLAIMS = {  # notebook -> least number of sentences that it checks on its own output
    "00_tour": 9,
    "10_teacher_logits": 14,
    "20_e_step": 21,
    "30_m_step": 22,
    "40_co_evolution": 19,
    "50_feedback_sources": 14,
    "60_inspect_a_run": 12,
    "70_where_it_fails": 21,
    "80_episodes": 16,
    "90_discovery": 16,
    "95_play": 13,
    "em_exact": 25,
    "one_rollout": 10,
    "train": 4,
}


def refuted(path, least: int = 0) -> list[str]:
    """What an executed notebook says and does not show; a last line where it checks fewer than `least` sentences."""
    claims = [output.data[MIME] for output in outputs(path) if MIME in output.get("data", {})]
    sentences = [pair for each in claims for pair in each.items()]
    short = [f"{len(sentences)} sentences checked, not {least}"] if len(sentences) < least else []
    return [sentence for sentence, holds in sentences if not holds] + short


def test_a_sentence_that_does_not_hold_is_found(tmp_path):
    """Beside a table and a print, in a cell of its own; and a notebook that checks too little."""
    data = said({"one": True, "two": False})._repr_mimebundle_()
    shown = nbformat.v4.new_output("execute_result", data, execution_count=1)
    printed = nbformat.v4.new_output("stream", text="two")
    cells = [nbformat.v4.new_code_cell("said", outputs=each) for each in ([printed], [shown])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "walk.ipynb")
    assert refuted(tmp_path / "walk.ipynb") == ["two"]
    assert refuted(tmp_path / "walk.ipynb", least=3) == ["two", "2 sentences checked, not 3"]


@pytest.mark.parametrize("teacher", ["shared", "ema", "adapter"])
def test_the_tours_lines_end_in_the_same_weights_as_iterate(teacher):
    """With the teacher that the tour shows, and with others that a reader may choose instead."""
    names: dict = {}
    first, *lines, last = code("00_tour")
    assert 'teacher="ema"' in first
    for cell in [first.replace('teacher="ema"', f'teacher="{teacher}"'), *lines]:
        exec(cell, names)
    assert last.startswith("again = ")  # samples again: not part of the step
    twin = Parts.open(names["config"])
    start = weights(twin)
    iteration = iterate(twin, names["step"])
    assert iteration.e.loss is not None and iteration.m.loss is not None
    assert equal(weights(names["parts"]), weights(twin))
    assert not equal(start, weights(twin))
    if teacher == "ema":
        kept = [parts.learner.teacher.kept for parts in (names["parts"], twin)]
        assert equal(*(dict(enumerate(copy.values)) for copy in kept))


def test_the_tours_lines_up_to_the_batch_are_those_of_iterate():
    page = [line.partition("#")[0].strip() for line in inspect.getsource(iterate).splitlines()]
    tour = [line.partition("#")[0].strip() for cell in code("00_tour")[1:3] for line in cell.splitlines()]
    shared = [line for line in tour if line in page]
    assert [line.partition(" = ")[0] for line in shared] == ["lr, beta", "rollouts", "feedback", "batch"]


def test_every_parameter_of_the_training_notebook_is_a_setting():
    notebook = nbformat.read(headless.notebooks() / "train.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names: dict = {}
    exec(cell.source, names)
    from vpdlab.config import HINTS

    assert {name for name in names if not name.startswith("__")} - {"preset"} == set(HINTS)
    assert names.pop("preset") and not any(value for name, value in names.items() if name in HINTS)


def test_the_training_notebook_names_nothing_else_like_a_setting():
    """Its settings are the names in the kernel: another value under such a name would be the next run's setting."""
    from vpdlab.config import HINTS

    notebook = nbformat.read(headless.notebooks() / "train.ipynb", as_version=4)
    others = [
        c.source for c in notebook.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])
    ]
    assert len(others) > 5
    stored = {
        node.id for node in ast.walk(ast.parse("\n".join(others)))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }  # fmt: skip
    assert stored & set(HINTS) == set()


def test_plain_papermill_knows_the_parameters(capsys, caplog):
    """What `papermill --help-notebook` lists is what may be passed without a warning."""
    from papermill.cli import papermill

    for name in ("train", "report", "60_inspect_a_run"):
        source = str(headless.notebooks() / f"{name}.ipynb")
        notebook = nbformat.read(source, as_version=4)
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        names: dict = {}
        exec(cell.source, names)
        with pytest.raises(SystemExit):
            papermill(["--help-notebook", source])
        listed = re.findall(r"^  (\w+): ", capsys.readouterr().out, re.MULTILINE)
        assert set(listed) == {one for one in names if not one.startswith("__")}


LESSONS = sorted(set(CLAIMS) - {"train"})


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_begins_with_its_bar(name):
    notebook = nbformat.read(headless.notebooks() / f"{name}.ipynb", as_version=4)
    first = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "ClassMode()" in first and len(first.splitlines()) == 3  # nothing that the notebook needs


WALKS = {
    "00_tour": ("One iteration by hand", "<math"),
    "10_teacher_logits": ("The teacher, token by token", "vpd-view"),
    "20_e_step": ("The E-step: train the teacher on outcomes", "<math"),
    "30_m_step": ("The M-step: what the student receives", "cosine with full"),
    "40_co_evolution": ("Co-evolution: teacher and student", "vpd-view"),
    "50_feedback_sources": ("Sources of feedback", "failures with feedback"),
    "70_where_it_fails": ("Where it fails", "no-success"),
    "80_episodes": ("Episodes: who wrote which token", "written by the environment"),
    "95_play": ("pause, change, branch", "branched from x after iteration 20"),
    "90_discovery": ("how many attempts until the first success", "second attempt of a conversation"),
    "em_exact": ("EM, exactly", "<math"),
    "one_rollout": ("One rollout, several gradients", "How similar are the methods"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WALKS)
def test_a_walk_runs_and_becomes_a_page(name, tmp_path):
    assert cli.main(["notebook", name, "--out", str(tmp_path / "walk")]) == 0
    assert errors(tmp_path / "walk" / f"{name}.ipynb") == []
    assert refuted(tmp_path / "walk" / f"{name}.ipynb", CLAIMS.get(name, 0)) == []
    page = (tmp_path / "walk" / f"{name}.html").read_text()
    assert name not in CLAIMS or "What the text says, checked on this run" in page
    assert all(words in page for words in WALKS[name])


@pytest.mark.slow
def test_a_run_is_inspected_from_its_folder_and_made_where_there_is_none(tmp_path, monkeypatch):
    """First where there is no run at all, then with one under runs/."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    name = "60_inspect_a_run"
    for walk in ("made", "found"):
        assert cli.main(["notebook", name, "--out", walk]) == 0
        assert errors(f"{walk}/{name}.ipynb") == []
        assert refuted(f"{walk}/{name}.ipynb", CLAIMS[name]) == []
        text = "".join(output.text for output in outputs(f"{walk}/{name}.ipynb") if output.output_type == "stream")
        assert ("a small one is made" in text) == (walk == "made")
        assert (
            "no torch here" in text
            and "Held-out accuracy" in text
            and re.search(r"iteration +\d+: \d of 8 right", text)
        )
        page = (tmp_path / "here" / walk / f"{name}.html").read_text()
        assert page.count('class="vpd-mount"') == 6  # class mode, timeline, table, two lenses and a history
        if walk == "made":
            (made,) = [
                line.split(": ")[0] for line in text.splitlines() if ": complete after 30 of 30 iterations" in line
            ]
            shutil.move(made, tmp_path / "here" / "runs" / "mine")


@pytest.mark.slow
def test_a_report_of_a_run_needs_no_torch_and_asks_nothing(tmp_path, capsys, chromium):
    """A run with all that a report can tell of: noise, rollouts without signal, a warning."""
    fields = {"noise_drop": 0.3, "feedback": ("sibling", "verifier"), "feedback_mode": "first", "eval_every": 0}
    for _ in toy_run(record=True, out=str(tmp_path / "run"), **fields).steps():
        pass
    (tmp_path / "run").rename(tmp_path / "a<b>")  # a folder can be called anything
    assert cli.main(["report", str(tmp_path / "a<b>")]) == 0
    path, size = capsys.readouterr().out.strip().rsplit(" (", 1)
    assert path == str(tmp_path / "a<b>" / "report.html") and 4 < float(size.removesuffix(" MB)")) < 7
    page = (tmp_path / "a<b>" / "report.html").read_text()
    assert "<title>a&lt;b&gt;: report</title>" in page and "a<b>" not in page.split("<script")[0]
    for words in ("Held-out accuracy", "no signal because", "noise on the feedback", "noise_drop", "tokens per second"):
        assert words in page
    with offline_page(chromium, tmp_path / "a<b>" / "report.html") as shown:
        assert shown.locator(".vpd-emt-stage svg").count() >= 4
        # behind the warnings, first iteration, last iteration; the history has a lens of its own
        assert shown.locator(".vpd-rt").count() == shown.locator(".vpd-tl:not(.vpd-lh *)").count() == 3
        assert shown.locator(".vpd-lh-map svg").count() == 1
        shown.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")
        shown.locator(".vpd-rt").nth(1).locator(".vpd-rt-body .vpd-rt-row").nth(1).click()
        assert shown.locator(".vpd-tl").nth(1).locator(".vpd-tl-where").inner_text().endswith("rollout 2")
        assert "#step=1&rollout=1" in shown.url
        shown.locator(".vpd-emt-alarm").first.click()
        shown.locator(".vpd-rt-alarm").wait_for()
    close_browser()  # other tests here run notebooks


@pytest.mark.slow
def test_rollouts_without_rewards_are_reported(tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text('{"prompt": "3 + 4?", "response": "8", "feedback": "Too high."}\n')
    assert cli.main(["import", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "run")]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rewards were not recorded" in page and "rollouts of own.jsonl, imported" in page
    for words in ("handed-in:", "of 1 iterations", "0 parameters", "no held-out evaluation"):
        assert words not in page.split("<script")[0]


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    def failing(*args):
        assert cli.main(["report", *map(str, args)]) == 2
        err = capsys.readouterr().err.strip()
        assert err.startswith("vpdlab: ") and "\n" not in err
        return err

    assert "neither a run's folder nor an executed notebook" in failing(tmp_path / "no")
    assert "holds no run" in failing(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "without an iteration yet: there is nothing to report" in failing(tmp_path)
    assert "never executed" in failing(headless.notebooks() / "train.ipynb")
    assert "required: RUN|NOTEBOOK" in failing()
    assert "unknown option '--fast'" in failing(tmp_path, "--fast")


@pytest.mark.slow
def test_the_training_notebook_runs_with_the_fields_of_the_command_line(tmp_path, capfd):
    out = tmp_path / "run"
    args = ["notebook", "train", "--preset", "tour-rare", "--out", str(out), "-p", "steps", "4", *SMALL, "--e-every=2"]
    assert cli.main(args) == 0
    assert errors(out / "train.ipynb") == []
    assert refuted(out / "train.ipynb", CLAIMS["train"]) == []
    record = load_run(out)
    assert record.status["state"] == "complete"
    assert (record.config["steps"], record.config["prompts"], record.config["task_args"]) == (4, 4, ["digits=3"])
    assert [row["step"] for row in record.rows if row["delta"] is not None or row["notes"]] == [2, 4]
    page = (out / "train.html").read_text()
    assert "Before and after" in page and "held-out accuracy" in page
    assert "iteration 4/4" in capfd.readouterr().out  # progress reaches the terminal while the notebook runs
    assert cli.main(args) == 2  # the folder holds a run now
    assert load_run(out).rows == record.rows


def test_a_notebook_s_own_parameters_are_told_from_settings():
    own = headless.own_parameters
    assert own("report", ["-p", "folder", "runs/x", "--out", "y"]) == ({"folder": "runs/x"}, ["--out", "y"])
    assert own("train", ["-p", "steps", "4", "-p", "out", "y"]) == ({}, ["-p", "steps", "4", "-p", "out", "y"])
    assert own("60_inspect_a_run", ["-p", "folder"]) == ({}, ["-p", "folder"])  # which is then refused in one line


@pytest.mark.slow
def test_a_notebook_about_a_run_takes_its_folder(tmp_path, capfd):
    for _ in toy_run(record=True, out=str(tmp_path / "mine")).steps():
        pass
    assert (
        cli.main(["notebook", "report", "-p", "folder", str(tmp_path / "mine"), "--out", str(tmp_path / "page")]) == 0
    )
    assert "mine" in (tmp_path / "page" / "report.html").read_text()
    assert "IPKernelApp" not in capfd.readouterr().err  # no warning that no reader can do anything about


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
