"""The command line: bad input is one clear line and status 2, good input is a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy import toy_model

from vpdlab import cli
from vpdlab.config import HINTS
from vpdlab.record import load_run

SMALL = [
    "--steps=2", "--prompts=2", "--group=2", "--max-new-tokens=8", "--max-context=120", "--eval-problems=4",
    "--eval-samples=2", "--e-every=1",
]  # fmt: skip


def failing(capsys, *args: str) -> str:
    """Run a command that must end with status 2 and exactly one line on stderr; returns that line."""
    assert cli.main(args) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("vpdlab: ") and "\n" not in err, err
    return err


@pytest.fixture
def science(tmp_path) -> Path:
    rows = [
        {"prompt": f"Which is {i}?\n\nA: {i}\nB: {i + 1}", "answer": "A", "system": "Answer.", "idx": i}
        for i in range(30)
    ]
    for split, part in (("train", rows[:20]), ("test", rows[20:])):
        (tmp_path / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in part))
    return tmp_path


def test_unknown_names(capsys):
    assert "unknown command 'fly': choose one of train, " in failing(capsys, "fly")
    assert "unknown task 'chess': choose one of arithmetic, " in failing(capsys, "train", "--task", "chess")
    assert "unknown method 'sgd': choose one of vpd, sdpo" in failing(capsys, "train", "--method", "sgd")
    assert "unknown preset 'x': choose one of " in failing(capsys, "train", "--preset", "x")
    assert "apprentice" in failing(capsys, "train", "--model", "no-such-model")
    assert "unknown notebook 'x': choose one of " in failing(capsys, "notebook", "x")
    assert "task arithmetic has no option 'digit'" in failing(capsys, "train", "--task-args", "digit=2")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--stepz", "3"], "Unrecognized options: --stepz, 3 (did you mean --steps?)"),
        (["--step", "3"], "(did you mean --steps?)"),
        (["--eval-evry", "3"], "(did you mean --eval-every?)"),
        (["--steps", "many"], "--steps"),
        (["--steps", "0"], "steps is 0, but must be between 1 and"),
        (["--teacher", "me"], "teacher is 'me': choose one of shared"),
        (["--steps"], "Missing value for argument '--steps'"),
        (["--preset"], "argument --preset: expected one argument; the presets are "),
        (["--device", "abacus"], "device 'abacus' is unavailable"),
        (["--out", "runs/.hidden"], "out is 'runs/.hidden'"),
        (["--task-args", "digits"], "task_args has 'digits': write NAME=VALUE"),
        (["--feedback", "oracle"], "feedback names 'oracle': choose from verifier, sibling"),
    ],
)
def test_bad_options(capsys, args, words):
    assert words in failing(capsys, "train", *args)


def test_a_bad_line_of_data_is_named_by_its_number(capsys, science):
    lines = (science / "train.json").read_text().splitlines()
    lines[6] = lines[6].replace('"answer": "A"', '"answer": "Z"')
    (science / "train.json").write_text("\n".join(lines) + "\n")
    err = failing(capsys, "train", "--task", "science", "--data", str(science), "--model", toy_model())
    assert f"{science / 'train.json'} line 7" in err and "'Z'" in err


def test_a_context_longer_than_the_model_allows(capsys, science):
    err = failing(
        capsys, "train", "--task=science", f"--data={science}", f"--model={toy_model()}", "--max-context=9000"
    )
    assert "is more than the 512 positions of model" in err
    err = failing(
        capsys, "train", "--task=science", f"--data={science}", f"--model={toy_model()}", "--max-context=20",
        "--max-new-tokens=9", "--prompts=2",
    )  # fmt: skip
    assert "tokens, but max_context is 20" in err


def test_a_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "run"
    err = failing(capsys, "train", *SMALL, "--model", toy_model(), "--out", str(out))
    assert f"cannot write to {out}" in err


def test_a_run_is_never_written_over(capsys, tmp_path):
    args = ["train", *SMALL, "--model", toy_model(), "--out", str(tmp_path / "run")]
    assert cli.main(args) == 0
    capsys.readouterr()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert "already holds a run (complete at step 2)" in failing(capsys, *args)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_every_field_is_an_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help"])
    assert not stopped.value.code
    text = capsys.readouterr().out
    for name in HINTS:
        assert f"--{name.replace('_', '-')}" in text
    assert "--preset" in text


def test_options_over_preset_and_papermills_form():
    config, preset = cli.parse_preset(
        "x", cli.as_options(["--preset", "tour-rare", "-p", "steps", "7", "--lr", "1e-3"])
    )
    assert preset == "tour-rare"
    assert (config.steps, config.lr, config.task_args) == (7, 1e-3, ("digits=3",))


def test_papermills_form_knows_true_and_false():
    assert cli.as_options(["-p", "eval_teacher", "False"]) == ["--no-eval_teacher"]
    config, _ = cli.parse_preset("x", cli.as_options(["-p", "eval_teacher", "false"]))
    assert config.eval_teacher is False


def test_small_commands(capsys):
    assert cli.main(["--version"]) == 0
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 2
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "apprentice" in out and "smollm2-135m" in out
    assert cli.main(["doctor"]) in (0, 1)
    assert "torch" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["foo"], ["list", "x"], ["get", "a", "b"], ["get"], ["--x"]])
def test_words_that_models_does_not_know_are_one_line(words, capsys):
    assert "models" in failing(capsys, "models", *words)


@pytest.mark.parametrize("name", ["data.jsonl", "config.json", "book.ipynb", "none"])
def test_a_page_never_takes_the_place_of_another_kind_of_file(name, capsys, tmp_path):
    file = tmp_path / name
    file.write_text("mine")
    assert f"cannot write {file}: its name must end in .html" in failing(capsys, "report", str(tmp_path), str(file))
    assert file.read_text() == "mine"


@pytest.mark.parametrize(("name", "said"), [("config.json", "holds no forecast"), ("notes.txt", "must end in .json")])
def test_a_fit_never_takes_the_place_of_another_kind_of_file(name, said, capsys, tmp_path):
    file = tmp_path / name
    file.write_text('{"mine": 1}')
    assert said in failing(capsys, "forecast", "--fit", "words", "--write", str(file))
    assert file.read_text() == '{"mine": 1}'


def test_a_framed_message_is_one_line_with_and_without_its_frame():
    framed = "╭─ Value error ─╮\n│ steps is 0, but│\n│ must be more │\n│ ────── │\n│ see x │\n╰───────────────╯\n"
    bare = " Value error  \n ------------\n  steps is 0, but \n  must be more \n  ------------\n  For help, see x\n"
    assert cli.one_line(framed) == cli.one_line(bare) == "steps is 0, but must be more; see --help"


@pytest.mark.slow
def test_as_a_process(tmp_path):
    """What a user types: a run from the shell, its record opened without torch, and a clear end of bad input."""

    def vpdlab(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vpdlab.cli", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False)

    done = vpdlab("train", *SMALL, "--preset", "tour-common", "--out", "runs/x")
    assert done.returncode == 0, done.stderr
    assert "held-out accuracy" in done.stdout and "runs/x/final" in done.stdout
    assert "Traceback" not in done.stderr
    record = load_run(tmp_path / "runs" / "x")
    assert [row["step"] for row in record.rows] == [1, 2]
    wrong = vpdlab("train", "--preset", "nothing")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().startswith("vpdlab: unknown preset 'nothing'") and "\n" not in wrong.stderr.strip()
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from vpdlab import load_run\n"
        "run = load_run('runs/x')\n"
        "print(len(run.metrics), len(run.rollouts(1)), run.status['state'])"
    )
    read = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert read.stdout.split() == ["2", "4", "complete"], read.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--out=a\0b"], ["report", "a\0b"], ["train", "--out=" + "a" * 5000], ["eval", "x/" + "a" * 300],
        ["train", "--preset=" + "a" * 5000 + ".yaml"], ["export", "a" * 5000, "out"], ["train", "--out=~nobody-here/x"],
        ["eval", "~nobody-here/x"], ["report", "~nobody-here/x"], ["train", "--model=~nobody-here/x"],
        ["compare", "--seeds", "0", "0", "--dry-run"], ["compare", "--methods", "vpd", "vpd", "--dry-run"],
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_one_line(words, capsys):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("vpdlab: ") and err.count("\n") == 1


@pytest.mark.parametrize("text", ["steps: 2001-99-99", 'steps: !!int ""', 'lr: !!float ""', 'resume: !!bool "x"',
                                  "out: !!timestamp x", "steps: 1" + "0" * 5000,
                                  "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
                                      f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
                                      for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "steps: *i"])  # fmt: skip
def test_presets_that_yaml_itself_stumbles_over_are_one_line(text, tmp_path, capsys):
    (tmp_path / "p.yaml").write_text(text)
    assert cli.main(["train", f"--preset={tmp_path / 'p.yaml'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and len(err) < 1000


def test_a_reader_that_goes_away_leaves_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m vpdlab --help | head -1", shell=True, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


# -- settings that a command does not read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["discover", "--method", "vpd"], "discover takes --methods, with one or several values, not --method"),
        (["compare", "--seed=3"], "compare takes --seeds, with one or several values, not --seed"),
        (["study", "words", "--seed", "3"], "the study sets seed for each of its runs: leave --seed out"),
        (["study", "words", "--method", "sdpo"], "the study sets method for each of its runs: leave --method out"),
        (["study", "words", "--preset", "words"], "the study sets preset for each of its runs: leave --preset out"),
        (["forecast", "--check", "words", "--seed", "3"], "the study sets seed for each of its runs"),
        (["forecast", "--fit", "words", "--lr", "1"], "unknown option '--lr'"),
        (["forecast", "--fit", "words", "rubbish"], "unknown option 'rubbish'"),
        (
            ["forecast", "--fit", "words", "--write", "own.txt/x.json"],
            "cannot write own.txt/x.json: own.txt is no folder",
        ),
        (["compare", "--figure", "own.txt/x.pdf", "--dry-run"], "cannot write own.txt/x.pdf: own.txt is no folder"),
        (["compare", "--jobs", "-1", "--dry-run"], "--jobs is -1, but must be 1 or more"),
        (["study", "words", "--level", "7", "--dry-run"], "--level is 7.0, but must be between 0 and 1"),
        (["compare", "--level", "nan", "--dry-run"], "--level is nan, but must be between 0 and 1"),
        (["discover", "--preset", "words-two", "--seed", "-1", "--problems", "1"], "seed is -1, but must be between"),
        (["discover", "--preset", "words-two", "--problems", "0"], "problems is 0"),
    ],
)
def test_what_a_command_would_drop_is_refused(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").touch()
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["eval", "apprentice", "--eval-samples=1", "--eval-problems=1", "--lr", "1", "--method=grpo"], "method, lr"),
        (["eval", "apprentice", "--eval-samples=1", "--eval-problems=1", "--max-new-tokens", "9", "--seed", "4"], ""),
        (["discover", "--preset=words-two", "--methods=best-of-k", "--problems=1", "--limit=4", "--steps=9",
          "--tracker=wandb", "--out=d"], "steps, tracker"),
        (["discover", "--preset=words-two", "--methods=reweight", "--problems=1", "--limit=4", "--steps=9",
          "--group=4", "--out=d"], ""),
        (["forecast", "--preset=words-two", "--prompts=2", "--group=2", "--batches=2", "--steps=9", "--lr=1"],
         "steps, lr"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_named(words, idle, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "does not read" in line]
    effect = "they have no effect" if "," in idle else "it has no effect"
    assert notes == ([f"vpdlab: note: {words[0]} does not read {idle}: {effect}"] if idle else [])


def test_a_notebook_without_settings_names_those_that_are_given(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vpdlab.cli.headless.run_notebook", lambda *given: 0)
    assert cli.main(["notebook", "em_exact", "--steps", "3", "--preset", "words", "--out", str(tmp_path / "x")]) == 0
    assert "notebook em_exact does not read preset, steps: they have no effect" in capsys.readouterr().err
    assert cli.main(["notebook", "train", "-p", "steps", "3", "--preset", "words", "--out", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().err == ""
