"""vpdlab follow: what it prints, what it reads, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import Parity, toy_model

from vpdlab import Run, RunConfig, cli
from vpdlab.record import load_run

SMALL = {
    "prompts": 2, "group": 2, "max_new_tokens": 4, "max_context": 120, "steps": 2, "eval_every": -1, "follow": 2,
    "checkpoint_every": 1, "checkpoint_keep": 9, "device": "cpu",
}  # fmt: skip
ROWS = [
    {"prompt": "3 + 4 = ?", "response": "8", "feedback": "The number is too high.", "reward": 0, "colour": "red"},
    {"prompt": "3 + 4 = ?", "response": "7", "hint": "<|end|>Well done.", "reward": 1},
]
HOSTILE = "\x1b[31m<script>"


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ended") / "run"
    list(Run.open(RunConfig.make(model=toy_model(), task="arithmetic", out=str(folder), **SMALL)).steps())
    return folder


@pytest.fixture
def here(ended, tmp_path, monkeypatch) -> Path:
    """A folder with an ended run, `run`, and a file of responses, `own.jsonl`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ended, "run")
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def followed(step: int) -> list[dict[str, Any]]:
    return load_run("run").followed(step)


def test_a_rollout_and_a_file_are_followed(here, capsys):
    assert cli.main(["follow", "run", "own.jsonl", "--rollout", "2/3", "--rollout=1/0", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["step 0", "step 1", "step 2"]
    assert lines[0].startswith("step 0: 4 rollouts, ")
    assert lines[3:] == [
        "6 responses, scored at 3 checkpoints (steps 0 to 2), in run/followed",
        "to see them: vpdlab report run, or LensHistory in a notebook",
    ]
    assert said.err == "vpdlab: note: not kept: colour, hint\n"
    for step in (0, 1, 2):
        pinned = followed(step)[2:]
        wanted = [load_run("run").rollouts(2)[3], load_run("run").rollouts(1)[0]]
        assert [one["response_ids"] for one in pinned[:2]] == [one["response_ids"] for one in wanted]
        assert [(one["text"], one["reward"]) for one in pinned[2:]] == [("8", 0.0), ("7", 1.0)]
    assert cli.main(["report", "run"]) == 0


def test_a_second_time_there_is_nothing_to_do(here, capsys):
    words = ["follow", "run", "own.jsonl", "--feedback", "hint", "--skip-bad"]
    assert cli.main(words) == 0
    assert followed(1)[-1]["critique"] == "Well done."
    for again in (words, ["follow", "run"], ["follow", "run", "--threads", "1"]):
        capsys.readouterr()
        assert cli.main(again) == 0
        assert capsys.readouterr().out == "every response is scored at every checkpoint already: nothing to do\n"


def test_lists_as_long_as_one_asks_for(here):
    assert cli.main(["follow", "run", "--rollout", "1/1", "--record-top", "2"]) == 0
    assert {len(top) for top in followed(0)[2]["student_top"]} == {2}


def test_a_run_that_follows_nothing(here, capsys):
    shutil.rmtree("run/followed")
    assert cli.main(["follow", "run"]) == 0
    assert len(followed(0)) == len(followed(2)) == 2
    shutil.rmtree("run/followed")
    shutil.rmtree("run/checkpoints/step-000000")
    assert cli.main(["follow", "run"]) == 2
    assert "the checkpoint of step 0, from which they are drawn, is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["elsewhere"], "elsewhere holds no run"),
        (["run/final"], "run/final"),
        (["run", "nothing.jsonl"], "there is no file or folder nothing.jsonl"),
        (["run", "bad.jsonl"], "bad.jsonl line 1: field 'response' is 3"),
        (["run", "--rollout", "three"], "--rollout is 'three': write STEP/PLACE"),
        (["run", "--rollout", "9/0"], "has no rollouts of step 9"),
        (["run", "--rollout", "1/4"], "--rollout is 1/4, but step 1 has 4 rollouts, counted from 0"),
        (["run", "--rollout", HOSTILE], "--rollout is"),
        (["run", "--rollout", "1/0", "--lr", "1"], "lr is 1.0, but the run's is"),
        (["run", "--rollout", "1/0", "--out", "x"], "out is 'x'"),
        (["run", "--rollout", "1/0", "--preset", "words"], "leave --preset out"),
        (["run", "--rollout", "1/0", "--colour", "red"], "--colour"),
        (["run", "own.jsonl", "--from", "llama"], "from is 'llama': choose one of plain"),
        (["run", "own.jsonl", "--feedback", "colours"], "there is no column 'colours'"),
        (["run", "--device", "cpu", "own.jsonl"], "own.jsonl; see --help; there is one FILE, right after RUN"),
        (["run", "own.jsonl", "own.jsonl"], "there is one FILE, right after RUN"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_one_line_says_what_is_wrong(here, capsys, words, message):
    Path("bad.jsonl").write_text(json.dumps({"prompt": HOSTILE, "response": 3}) + "\n")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != "lock"}
    assert cli.main(["follow", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_with_parts_from_python_is_named(tmp_path, capsys):
    run = Run.open(RunConfig.make(model=toy_model(), out=str(tmp_path / "run"), **SMALL), task=Parity())
    list(run.steps())
    assert cli.main(["follow", str(tmp_path / "run"), "--rollout", "1/0"]) == 2
    assert "this run's task ('parity') was passed from Python" in capsys.readouterr().err
