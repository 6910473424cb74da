"""score and import as commands: what they leave, what they say is missing, and one line for what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from other_trainers import prime_rl, trl, verl

from vpdlab import cli
from vpdlab.foreign import formats
from vpdlab.record import load_run

ROWS = [
    {"prompt": "3 + 4 = ?", "response": "8", "feedback": "The number is too high.", "reward": 0, "colour": "red"},
    {"prompt": "3 + 4 = ?", "response": "7", "reward": 1},
]
HOSTILE = "\x1b[31m<script>alert(1)</script>"


def command(folder: Path, *words: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "vpdlab", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rollouts_of_ones_own_are_scored(own, tmp_path):
    done = command(tmp_path, "score", "own.jsonl", "--model", "apprentice")
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("2 rollouts, 4 tokens, 1 with feedback")
    assert "missing: feedback of 1 of 2 rollouts" in said
    assert said[-1] == "the run folder: runs/scored-own"
    assert done.stderr == "vpdlab: note: not kept: colour\n"
    record = load_run(tmp_path / "runs" / "scored-own").check()
    assert record.rollouts(1)[0]["teacher_logp"] is not None
    assert record.config["model"] == "apprentice"
    assert len(record.influences) == 1
    report = command(tmp_path, "report", "runs/scored-own")
    assert report.returncode == 0, report.stderr


@pytest.mark.parametrize(
    ("make", "layout", "first", "lacks"),
    [
        (trl, "trl", "4 rollouts of steps 10 to 20, completions of TRL, from 2 file(s)", "feedback of 2 of 4"),
        (verl, "verl", "4 rollouts of steps 1 to 2, generations of verl, from 2 file(s)", "whether a response was cut"),
        (prime_rl, "prime-rl", "2 rollouts of step 3, rollouts of prime-rl, from 1 file(s)", "tokens and log-prob"),
    ],
)  # fmt: skip
def test_what_others_left_is_imported_and_what_is_missing_is_said(tmp_path, capsys, make, layout, first, lacks):
    make(tmp_path / "out")
    for words in ([], ["--from", layout]):
        out = tmp_path / f"run{len(words)}"
        assert cli.main(["import", str(tmp_path / "out"), "--out", str(out), *words]) == 0
        said = capsys.readouterr().out
        assert said.splitlines()[0] == first
        assert f"missing: {lacks}" in said
        assert load_run(out).status["state"] == "complete"


def test_an_import_is_reported(tmp_path):
    verl(tmp_path / "dumps")
    assert cli.main(["import", str(tmp_path / "dumps"), "--out", str(tmp_path / "run")]) == 0
    done = command(tmp_path, "report", "run")
    assert done.returncode == 0, done.stderr


def test_another_trainers_file_is_scored(tmp_path, capsys):
    trl(tmp_path / "out")
    file = tmp_path / "out" / "completions" / "completions_00010.parquet"
    words = ["score", str(file), "--model", "apprentice", "--out", str(tmp_path / "run"), "--influence", "0"]
    assert cli.main(words) == 0
    assert load_run(tmp_path / "run").rollouts(1)[1]["teacher_logp"] is not None
    assert cli.main(["score", str(tmp_path / "out"), "--model", "apprentice"]) == 2
    assert "holds 2 steps (completions_00010.parquet to completions_00020.parquet)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words", "message"),
    [
        ('{"prompt": 3, "response": "x"}', ["import"], "own.jsonl line 1: field 'prompt' is 3, but must be text"),
        ('{"prompt": "a", "response": "x", "reward": "' + "é" * 500 + '"}', ["import"], "field 'reward' is"),
        ('{"prompt": "a", "response": "b"}', ["import", "--from", "llama"], "from is 'llama': choose one of plain"),
        ('{"prompt": "a", "response": "b"}', ["import", "--feedback", "hint"], "there is no column 'hint'"),
        ('{"prompt": "a", "response": "b"}', ["score"], "the following arguments are required: --model"),
        ('{"prompt": "a", "response": "b"}', ["score", "--model", "no/such/folder/here"], "no/such/folder/here"),
        (
            '{"prompt": "a", "response": "b"}',
            ["score", "--model", "apprentice", "--influence", "-1"],
            "--influence is -1",
        ),
        ('{"prompt": "a", "response": "b"}', ["score", "--model", "apprentice", "--lr", "x"], "lr"),
        ('{"\\u001b[31m": 1}', ["import"], "name its layout with --from"),
        ("", ["import"], "holds no rows"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path, capsys, monkeypatch, line, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text(line + "\n")
    assert cli.main([words[0], "own.jsonl", *words[1:]]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert len(said.err) < 700
    assert "\x1b" not in said.err
    assert not (tmp_path / "runs" / "plain-own" / "config.json").exists()


def test_bad_rows_are_left_out_and_counted(tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    bad = [json.dumps({"prompt": HOSTILE, "response": 3}) for _ in range(8)]
    path.write_text("\n".join([json.dumps(ROWS[0]), *bad]) + "\n")
    assert cli.main(["import", str(path), "--skip-bad", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out: ") == 6
    assert "left out: 3 more rows that cannot be read" in said.err
    assert "\x1b" not in said.err
    assert len(load_run(tmp_path / "run").rollouts(1)) == 1


def test_files_that_are_left_out_are_counted(tmp_path, capsys, monkeypatch):
    verl(tmp_path / "dumps")
    monkeypatch.setattr(formats, "MOST_FILES", 1)
    assert cli.main(["import", str(tmp_path / "dumps"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "left out: 1 of 2 files, those of the last steps: at most 1 are read" in said.err
    assert "2 rollouts of step 1, generations of verl, from 1 file(s)" in said.out


LONG = "The number is too high. " * 400


def scored_rows(tmp_path: Path, rows: list[dict[str, Any]], *words: str) -> int:
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["--out", str(tmp_path / "run"), "--influence", "0"]
    return cli.main(["score", str(tmp_path / "own.jsonl"), "--model", "apprentice", *out, *words])


def test_feedback_that_is_cut_is_named_and_counted(tmp_path, capsys):
    rows = [ROWS[0], *({**ROWS[0], "feedback": LONG, "prompt": f"3 + {n} = ?"} for n in range(7))]
    assert scored_rows(tmp_path, rows) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "cut" in line]
    assert len(said) == 6
    assert re.fullmatch(r"vpdlab: note: .*own.jsonl line 2: [1-9]\d* tokens of its feedback were cut to fit max_context"
                        r" \d+", said[0])  # fmt: skip
    assert said[5] == "vpdlab: note: 2 more rows whose feedback was cut"
    record = load_run(tmp_path / "run").rollouts(1)
    assert "too high" in record[1]["teacher_prompt"] and len(record[1]["teacher_prompt"]) < len(LONG)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response": "7 " * 5000}, "prompt and response have"),
        ({"prompt": "7 " * 5000}, "has 10003 tokens"),
        ({"response": [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]}, "has 2 turns"),
        ({"response": "", "finished": False}, "field 'response' has no tokens"),
    ],
)
def test_rows_that_the_model_cannot_read_are_left_out_too(tmp_path, capsys, fields, message):
    odd = {**ROWS[0], "id": "odd", **fields}
    assert scored_rows(tmp_path, [odd, *ROWS]) == 2
    said = capsys.readouterr().err
    assert "own.jsonl line 1" in said and message in said and said.count("\n") == 2  # "not kept" is the other one
    assert not (tmp_path / "run" / "config.json").exists()
    assert scored_rows(tmp_path, [odd, *ROWS], "--skip-bad") == 0
    said = capsys.readouterr()
    assert "left out: " in said.err and "own.jsonl line 1" in said.err and message in said.err
    assert said.out.startswith("2 rollouts, 4 tokens, 1 with feedback") and "feedback of 1 of 2 rollouts" in said.out
    record = load_run(tmp_path / "run").check()
    assert [(one["group"], one["index"], one["text"]) for one in record.rollouts(1)] == [(0, 0, "8"), (0, 1, "7")]
    assert (record.config["prompts"], record.config["group"]) == (1, 2)
    assert record.environment["task"].startswith("2 rollouts of own.jsonl")


def test_where_no_row_is_left_the_first_reason_is_the_message(tmp_path, capsys):
    rows = [{**ROWS[0], "response": "7 " * 5000}, {**ROWS[0], "response": "", "finished": False}]
    assert scored_rows(tmp_path, rows, "--skip-bad") == 2
    assert "own.jsonl line 1: prompt and response have" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "60", "--method", "sdpo"], "score does not read method, steps: they have no effect"),
        (["--tracker", "tensorboard"], "score does not read tracker: it has no effect"),
        (["--lr=1e-3"], "score does not read lr: it has no effect"),
        (["--no-eval-teacher"], "score does not read eval_teacher: it has no effect"),
        (["--alpha", "0.3", "--temperature", "0.7", "--record-top", "3", "--device", "cpu"], ""),
        (["--preset", "tour-common"], ""),
    ],
)
def test_settings_that_scoring_does_not_read_are_named(own, tmp_path, capsys, words, message):
    assert scored_rows(tmp_path, [ROWS[1]], *words) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "read" in line]
    assert notes == ([f"vpdlab: note: {message}"] if message else [])


def test_a_column_that_the_layout_does_not_know_may_hold_the_feedback(tmp_path, capsys):
    row = {"input": "3 + 4?", "output": "8", "gts": "7", "score": 0, "hint": "Too high."}
    (tmp_path / "1.jsonl").write_text(json.dumps(row) + "\n")
    for name, words in (("verl", []), ("plain", ["--from", "plain"])):
        if words:
            (tmp_path / "1.jsonl").write_text(json.dumps({"prompt": "a", "response": "b", "hint": "Too high."}) + "\n")
        out = tmp_path / name
        assert cli.main(["import", str(tmp_path / "1.jsonl"), "--feedback", "hint", "--out", str(out), *words]) == 0
        assert load_run(out).rollouts(1)[0]["critique"] == "Too high."
        assert "not kept" not in capsys.readouterr().err


def test_a_row_without_the_named_column_is_named(tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text(
        '{"prompt": "a", "response": "b", "hint": "c"}\n{"prompt": "a", "response": "b"}\n'
    )
    words = ["import", str(tmp_path / "own.jsonl"), "--feedback", "hint", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "own.jsonl line 2: there is no column 'hint': it has prompt, response" in said and said.count("\n") == 1
    assert cli.main([*words, "--skip-bad"]) == 0
    assert "left out: " in capsys.readouterr().err


def test_settings_of_a_run_that_is_named_are_not_obeyed_unasked(own, tmp_path, capsys):
    out = str(tmp_path / "run")
    train = ["train", "--preset", "tour-common", "--steps", "1", "--prompts", "2", "--group", "2", "--eval-every", "-1"]
    assert cli.main([*train, "--out", out]) == 0
    config = Path(out) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"templates": "/etc/passwd"}))
    capsys.readouterr()
    words = ["score", str(own), "--model", out, "--out", str(tmp_path / "scored")]
    assert cli.main(words) == 2
    assert "which reads that file" in capsys.readouterr().err
