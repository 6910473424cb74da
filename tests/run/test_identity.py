"""The sums that tell whether problems and judges are still those of the run; a task that was handed in stays that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest
from toy import Parity, toy_model

from vpdlab import Run, RunConfig, load_run
from vpdlab.cli import main
from vpdlab.errors import UserError
from vpdlab.learn.identity import digest, judge_sum, plain, problems_sum
from vpdlab.tasks import make_task
from vpdlab.types import Outcome, Problem

SMALL = {
    "prompts": 2, "group": 2, "max_new_tokens": 6, "max_context": 120, "steps": 2, "eval_problems": 4,
    "eval_samples": 2, "checkpoint_every": 1, "device": "cpu", "eval_teacher": False,
}  # fmt: skip


def trained(folder: Path, task=None, **fields) -> Run:
    run = Run.open(RunConfig.make(**{**SMALL, "model": toy_model(), "out": str(folder), **fields}), task=task)
    list(run.steps())
    return run


def test_a_value_has_one_plain_form():
    value = {"b": {3, 1, 2}, "a": (1, MappingProxyType({"x": b"\x01"})), "c": Outcome(1.0, "x"), "d": object()}
    assert plain(value) == {
        "a": [1, {"x": "01"}], "b": [1, 2, 3],
        "c": {"reward": 1.0, "notes": "x", "answer": None, "right": None, "turn": None},
        "d": "builtins.object",
    }  # fmt: skip
    assert digest(plain(value)) == digest(plain(dict(reversed(value.items()))))


def test_the_data_of_a_problem_counts():
    class Task(Parity):
        tests = 1

        def load(self, split):
            return [Problem(split, "p", "a", data={"tests": [self.tests]})]

    before, Task.tests = problems_sum(Task()), 2
    assert problems_sum(Task()) != before


# -- a task that was handed in -----------------------------------------------------------------------------------------


def test_a_task_that_was_handed_in_is_recorded_as_what_it_is(tmp_path):
    trained(tmp_path / "run", Parity())
    record = load_run(tmp_path / "run")
    assert record.config["task"] == "handed-in:parity"
    found = record.environment["task_identity"]
    assert (found["name"], found["class"], found["handed_in"]) == ("parity", "toy.Parity", True)
    assert found["problems"] == problems_sum(Parity())
    assert found["judge"] == judge_sum(Parity(), handed_in=True) != ""


@pytest.mark.parametrize("place", ["run", "run/final", "run/checkpoints/step-000002"])
def test_eval_does_not_score_it_against_another_task(place, tmp_path, capsys):
    trained(tmp_path / "run", Parity())
    assert main(["eval", str(tmp_path / place)]) == 2
    assert "'parity') was passed from Python" in capsys.readouterr().err


def test_no_command_resumes_it_and_python_does(tmp_path, capsys):
    trained(tmp_path / "run", Parity())
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "3"]) == 2
    assert "from Python" in capsys.readouterr().err
    run = trained(tmp_path / "run", Parity(), resume=True, steps=3)
    assert [row["step"] for row in run.rows] == [1, 2, 3]


def test_another_judge_of_the_same_problems_does_not_resume_it(tmp_path):
    class Other(Parity):
        pass

    trained(tmp_path / "run", Parity())
    Other.verify = lambda self, rollout: Outcome(1.0)  # in this file, and so of other source
    with pytest.raises(UserError, match="began with other verify function"):
        trained(tmp_path / "run", Other(), resume=True, steps=3)


# -- a judge in a file -------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch) -> list[str]:
    """The options of an own task in the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"q{n}", "hint": n} for n in range(6)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("judge.py").write_text("def verify(response, problem):\n    return len(response) % 2\n")
    quick = [f"--{name}={value}" for name, value in SMALL.items() if name != "eval_teacher"]
    return [
        "--task=own", "--data=p.jsonl", "--task_args", "verify=judge.py:verify", f"--model={toy_model()}", "--out=run",
        "--no-eval_teacher", *quick,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("judge.py", "return len", "return 1 - len", "other verify function"),
        ("p.jsonl", '"hint": 3', '"hint": 4', "other problems and their data"),
        ("p.jsonl", '"q2"', '"q22"', "rendered prompts"),
    ],
)
def test_a_judge_or_a_hidden_field_that_changed_is_noticed_on_resume(own, file, old, new, words, capsys):
    assert main(["train", *own]) == 0
    Path(file).write_text(Path(file).read_text().replace(old, new))
    again = ["train", *own, "--resume", "--steps=3"]
    assert main(again) == 2
    assert words in capsys.readouterr().err
    assert main([*again, "--resume_anyway"]) == 0


def test_the_judge_of_a_task_of_our_own_is_told_by_the_version():
    task = make_task("arithmetic")
    assert judge_sum(task, handed_in=False) == ""
    assert judge_sum(task, handed_in=True) != ""


def test_a_run_from_before_these_sums_can_still_be_resumed(tmp_path):
    from vpdlab import manifest

    trained(tmp_path / "run")
    for place in (tmp_path / "run" / "checkpoints").iterdir():
        state = json.loads((place / "state.json").read_text())
        state["inputs"] = {"problems": "an older sum", "base weights": ""}
        (place / "state.json").write_text(json.dumps(state))
        manifest.write(place)
    assert len(trained(tmp_path / "run", resume=True, steps=3).rows) == 3


def test_a_module_beside_the_judge_counts(own, capsys):
    Path("helper.py").write_text("def score(response):\n    return len(response) % 2\n")
    Path("judge.py").write_text(
        "from helper import score\n\n\ndef verify(response, problem):\n    return score(response)\n"
    )
    assert main(["train", *own]) == 0
    Path("helper.py").write_text("def score(response):\n    return 1 - len(response) % 2\n")
    assert main(["train", *own, "--resume", "--steps=3"]) == 2
    assert "other verify function" in capsys.readouterr().err


def test_the_settings_of_a_task_that_was_handed_in_count(tmp_path):
    class Modulo(Parity):
        def __init__(self, by: int) -> None:
            self.by = by

        def verify(self, rollout):
            return Outcome(float(sum(rollout.response_ids) % self.by == 0), "The number is odd.")

    trained(tmp_path / "run", Modulo(2))
    with pytest.raises(UserError, match="began with other verify function"):
        trained(tmp_path / "run", Modulo(3), resume=True, steps=3)
    assert len(trained(tmp_path / "run", Modulo(2), resume=True, steps=3).rows) == 3


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("tokenizer.json", lambda found: found["model"]["merges"].pop(), "other .*tokenizer"),
        ("config.json", lambda found: found.update(rms_norm_eps=0.5), "other model config"),
        ("generation_config.json", lambda found: found.update(eos_token_id=[1, 7]), "other model config"),
    ],
)
def test_a_model_that_reads_or_ends_otherwise_is_not_gone_on_with(file, change, words, tmp_path):
    model = Path(shutil.copytree(toy_model(), tmp_path / "model"))
    trained(tmp_path / "run", model=str(model))
    found = json.loads((model / file).read_text())
    change(found)
    (model / file).write_text(json.dumps(found))
    with pytest.raises(UserError, match=f"began with {words}"):
        trained(tmp_path / "run", model=str(model), resume=True, steps=3)


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "run", "--task=arithmetic"],
        ["train", "--resume_anyway", "--out=run", "--task=arithmetic", "--steps=3"],
    ],
)
def test_another_task_that_is_named_is_no_way_around(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained(Path("run"), Parity())
    assert main(words) == 2
    assert "from Python" in capsys.readouterr().err


def test_problems_that_changed_since_are_told_when_the_run_is_scored(own, capsys):
    assert main(["train", *own]) == 0
    again = ["eval", "run", "--task_args", "verify=judge.py:verify"]
    assert main(again) == 0
    assert "changed since" not in capsys.readouterr().err
    Path("p.jsonl").write_text(Path("p.jsonl").read_text().replace('"q2"', '"q22"'))
    for place in ("run", "run/checkpoints/step-000002"):
        assert main([*again[:1], place, *again[2:]]) == 0
        assert "problems of task own are not those of the run" in capsys.readouterr().err
