"""A run folder from somebody else runs nothing, sends nothing, writes nowhere but in itself, unless it is asked to."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import toy_model

from vpdlab import Run, RunConfig
from vpdlab.cli import main
from vpdlab.errors import UserError
from vpdlab.run.trust import given, risks

SMALL = {
    "prompts": 2, "group": 2, "max_new_tokens": 4, "max_context": 120, "steps": 2, "eval_problems": 2,
    "eval_samples": 1, "checkpoint_every": 1, "device": "cpu", "eval_teacher": False,
}  # fmt: skip
COMMANDS = {
    "eval": ["eval", "run"],
    "eval a checkpoint": ["eval", "run/checkpoints/step-000002"],
    "resume": ["train", "--resume", "--out=run", "--steps=3"],
    "notebook": ["notebook", "train", "--resume", "--out=run", "--steps=3"],
}


def recorded(run: Path, **fields: Any) -> None:
    """Change the settings that a run and its checkpoints have recorded, sums included."""
    from vpdlab import manifest

    for path in (run / "config.json", *run.glob("checkpoints/*/state.json")):
        found = json.loads(path.read_text())
        found = found | fields if path.parent == run else found | {"config": found["config"] | fields}
        path.write_text(json.dumps(found))
        if path.parent != run:
            manifest.write(path.parent)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of arithmetic, whose folder is `run` of the working folder."""
    with contextlib.chdir(tmp_path_factory.mktemp("finished")):
        list(Run.open(RunConfig.make(model=toy_model(), task="arithmetic", out="run", **SMALL)).steps())
        return Path("run").resolve()


@pytest.fixture
def run(finished, tmp_path, monkeypatch) -> Path:
    """A copy of it, in the folder `run` of the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(finished, "run"))


TRAP = "from pathlib import Path\nPath('sprung').touch()\n\n\ndef verify(response, problem):\n    return 0.5\n"
RISKY = {
    "code": ({"task": "own", "data": "p.jsonl", "task_args": ["verify=trap.py:verify"]}, "task_args"),
    "no wall": ({"task": "code", "data": "p.jsonl", "task_args": ["source=mbpp", "sandbox=unsafe"]}, "task_args"),
    "no wall around a tool": ({"environment": "python", "environment_args": ["sandbox=unsafe"]}, "environment_args"),
    "another's wall": ({"task": "code", "task_args": ["sandbox=http://127.0.0.1:9/"]}, "task_args"),
    "templates": ({"templates": "t.yaml"}, "templates"),
    "vllm": ({"sampler": "vllm", "vllm_url": "http://127.0.0.1:9"}, "vllm_url"),
    "vllm's folder": ({"sampler": "vllm", "vllm_folder": "elsewhere"}, "vllm_folder"),
}
SENT = {
    "critic": ({"critic": "endpoint", "critic_url": "http://127.0.0.1:9/v1", "critic_model": "m",
                "feedback": ["verifier", "critique"]}, "critic_url"),
    "tracker": ({"tracker": "wandb"}, "tracker"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("risk", RISKY)
def test_what_a_recorded_setting_would_do_is_asked_for_again(risk, command, run, capsys, monkeypatch):
    fields, name = RISKY[risk]
    Path("trap.py").write_text(TRAP)
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(4)))
    monkeypatch.setenv("VPDLAB_CRITIC_KEY", "secret-key")
    recorded(run, **fields)
    assert main(COMMANDS[command]) == 2
    err = capsys.readouterr().err
    assert f"have {name} " in err
    assert "--trust" in err
    assert not Path("sprung").exists()


@pytest.mark.parametrize("command", ["resume", "notebook"])
@pytest.mark.parametrize("risk", SENT)
def test_what_a_resumed_run_would_send_is_asked_for_again(risk, command, run, capsys):
    fields, name = SENT[risk]
    recorded(run, **fields)
    assert main(COMMANDS[command]) == 2
    assert f"have {name} " in capsys.readouterr().err


@pytest.mark.parametrize("risk", [name for name, (fields, _) in RISKY.items() if "sampler" not in fields])
def test_what_a_follow_up_would_run_is_asked_for_again(risk, run, capsys):
    fields, name = RISKY[risk]
    Path("trap.py").write_text(TRAP)
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(4)))
    recorded(run, **fields)
    assert main(["follow", "run", "--rollout", "1/0"]) == 2
    err = capsys.readouterr().err
    assert f"have {name} " in err
    assert "--trust" in err
    assert not Path("sprung").exists()


@pytest.mark.parametrize("risk", ["vllm", "vllm's folder", *SENT])
def test_a_follow_up_asks_nobody(risk, run, monkeypatch):
    monkeypatch.setenv("VPDLAB_CRITIC_KEY", "secret-key")
    recorded(run, **(RISKY | SENT)[risk][0])
    assert main(["follow", "run", "--rollout", "1/0"]) == 0
    assert not Path("elsewhere").exists()


def test_responses_that_a_critic_would_judge_are_not_drawn_unasked(run, capsys, monkeypatch):
    shutil.rmtree(run)
    config = RunConfig.make(model=toy_model(), task="arithmetic", out="run", **SMALL, checkpoint_keep=9, follow=0)
    list(Run.open(config).steps())
    recorded(run, follow=2, **SENT["critic"][0])
    assert main(["follow", "run"]) == 2
    assert "have critic_url http://127.0.0.1:9/v1, which sends problems" in capsys.readouterr().err
    recorded(run, critic="live", feedback=["verifier"], follow_file="secret.jsonl")
    assert main(["follow", "run"]) == 2
    assert "have follow_file secret.jsonl, which reads that file into the record" in capsys.readouterr().err


def test_a_file_of_responses_is_not_read_unasked(run, capsys):
    recorded(run, follow_file="secret.jsonl")
    assert main(COMMANDS["resume"]) == 2
    assert "have follow_file secret.jsonl" in capsys.readouterr().err
    assert main(COMMANDS["eval"]) == main(["follow", "run"]) == 0  # they do not read it


@pytest.mark.parametrize(
    "words", [["--trust"], ["--task_args", "verify=trap.py:verify"], ["--task-args=verify=trap.py:verify"]]
)
def test_what_is_asked_for_again_is_done(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trap.py").write_text(TRAP)
    Path("p.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(4)))
    fields = {"task": "own", "data": "p.jsonl", "task_args": ("verify=trap.py:verify",)}
    list(Run.open(RunConfig.make(model=toy_model(), out="run", **SMALL, **fields)).steps())
    Path("sprung").unlink()
    assert main(["eval", "run", *words]) == 0
    assert Path("sprung").exists()
    assert main([*COMMANDS["resume"], *words]) == 0


def test_nothing_is_asked_where_nothing_happens(run):
    recorded(run, critic_url="http://127.0.0.1:9/v1", vllm_url="http://127.0.0.1:9", vllm_folder="x")  # not in use
    assert main(COMMANDS["eval"]) == 0
    assert main(["train", "--resume_anyway", "--out=run", "--steps=3"]) == 0


def test_risks_by_hand():
    assert list(risks(RunConfig())) == []
    assert [name for name, _, _ in risks(RunConfig(task_args=("sandbox=bubblewrap",), tracker="tensorboard"))] == []
    config = RunConfig(
        task_args=("verify=a:b", "sandbox=unsafe"), templates="t.yaml", tracker="trackio", follow_file="f.jsonl"
    )
    assert [name for name, _, _ in risks(config)] == ["task_args", "task_args", "tracker", "templates", "follow_file"]


def test_which_fields_stand_on_a_command_line():
    words = ["run", "--task-args", "a=b", "--critic_url=http://x", "--no-eval_teacher", "-x", "plain", "--other"]
    assert given(words, ["task_args", "critic_url", "eval_teacher", "templates"]) == {
        "task_args", "critic_url", "eval_teacher",
    }  # fmt: skip


# -- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["lock", "status.json", ".status.json.new", "metrics.jsonl", "rollouts", "final", "checkpoints",
             "report.html", "rollouts/.step-000003.parquet.new", "checkpoints/.step-000003.new", ".probe",
             "train.html"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["resume", "report", "notebook"])
def test_a_link_in_a_run_folder_is_never_followed_on_write(name, command, run, capsys):
    outside = Path("outside")
    outside.mkdir()
    (outside / "file").write_text("mine")
    place = run / name
    if place.is_dir():
        shutil.move(place, outside / "folder")
        place.symlink_to((outside / "folder").absolute())
    else:
        place.unlink(missing_ok=True)
        place.symlink_to((outside / "file").absolute())
    before = sorted((str(path), path.stat().st_mtime_ns) for path in outside.rglob("*"))
    assert main({**COMMANDS, "report": ["report", "run"]}[command]) == 2
    assert f"{place} is a link" in capsys.readouterr().err
    assert sorted((str(path), path.stat().st_mtime_ns) for path in outside.rglob("*")) == before


def test_a_pipe_in_a_run_folder_holds_nobody(run, capsys):
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    assert main(COMMANDS["resume"]) == 2
    assert "metrics.jsonl is no ordinary file" in capsys.readouterr().err


def test_a_new_run_is_not_written_through_a_link_that_waits_for_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run" / ".status.json.new").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match="is a link"):
        Run.open(RunConfig.make(model=toy_model(), out=str(tmp_path / "run"), **SMALL))
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_itself_may_be_a_link(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large")
    list(Run.open(RunConfig.make(model=toy_model(), out=str(tmp_path / "run"), **SMALL)).steps())
    assert (tmp_path / "large" / "final").is_dir()


@pytest.mark.parametrize(
    "name", ["lock", "metrics.jsonl", ".status.json.new", ".environment.json.new", "final/config.json"]
)
def test_a_file_that_has_another_name_elsewhere_is_not_written(name, run, capsys):
    Path("victim").write_text("mine")
    (run / name).unlink(missing_ok=True)
    os.link("victim", run / name)
    assert main(COMMANDS["resume"]) == 2
    assert f"{run / name} is a link" in capsys.readouterr().err
    assert Path("victim").read_text() == "mine"


@pytest.mark.parametrize("command", ["eval", "resume", "report"])
@pytest.mark.parametrize("name", ["status.json", "eval.jsonl", "environment.json", "final/config.json"])
def test_a_pipe_holds_no_reader(name, command, run, capsys):
    (run / name).unlink()
    os.mkfifo(run / name)
    status = main({**COMMANDS, "report": ["report", "run", "page.html"]}[command])
    err = capsys.readouterr().err
    assert status == 0 or Path(name).name in err or "final" in err


def test_a_notebook_without_a_run_is_not_written_through_a_link(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("victim").write_text("mine")
    Path("run/train.ipynb").symlink_to(Path("victim").absolute())
    assert main(COMMANDS["notebook"]) == 2
    assert "train.ipynb is a link" in capsys.readouterr().err
    assert Path("victim").read_text() == "mine"


def test_a_comparison_is_not_written_through_a_link(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("out/compare.html").symlink_to("/dev/null")
    assert main(["compare", "--out=out", "--methods", "vpd", "--seeds", "0", "--dry-run"]) == 2
    assert "compare.html is a link" in capsys.readouterr().err


def test_a_run_is_resumed_where_it_was_found(run):
    """Whatever its record says of its own place."""
    recorded(run, out="elsewhere")
    assert main(COMMANDS["resume"]) == 0
    assert not Path("elsewhere").exists()
    assert json.loads((run / "status.json").read_text())["step"] == 3


def test_a_link_beside_weights_is_not_exported(run, capsys):
    Path("secret").write_text("mine")
    (run / "final" / "manifest.json").unlink()  # as an earlier version left it, whose status had no sum of it
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"final_manifest": None}))
    (run / "final" / "notes.txt").symlink_to(Path("secret").absolute())
    assert main(["export", "run", "out"]) == 2
    assert "notes.txt is a link" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("fields", [{"model": "some/model"}, {"task": "science", "data": "some/data"}])
@pytest.mark.parametrize("command", ["eval a checkpoint", "resume"])
def test_what_would_be_fetched_is_asked_for_again(fields, command, run, capsys):
    recorded(run, **fields)
    assert main(COMMANDS[command]) == 2
    assert "from a hub" in capsys.readouterr().err


def test_names_of_files_do_not_steer_the_terminal(run, capsys):
    (run / "checkpoints" / "step-000002" / "x\x1b]0;pwned\x07\nvpdlab: all is well").write_text("")
    main(["eval", "run", "--eval_samples=1"])
    main(COMMANDS["resume"])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert not any(line.startswith("vpdlab: all") for line in (said.out + said.err).splitlines())
