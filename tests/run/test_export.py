"""What leaves a run: held-out numbers, plain folders that transformers loads, adapters that peft loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import toy_model

from vpdlab import cli
from vpdlab.config import RunConfig
from vpdlab.record import load_run
from vpdlab.run import Run

SMALL = {
    "prompts": 2, "group": 2, "max_new_tokens": 6, "max_context": 120, "lr": 1e-2, "e_every": 1,
    "steps": 2, "eval_problems": 4, "eval_samples": 2, "record_tokens": 0, "alpha": 1.0, "checkpoint_every": 1,
    "eval_every": 1,
}  # fmt: skip
IDS = torch.tensor([list(range(20, 50))])
ADAPTERS = {"plain": {}, "lora": {"lora_rank": 2}, "teacher": {"teacher": "adapter"},
            "both": {"lora_rank": 2, "teacher": "adapter"}}  # fmt: skip


def logits(run: Run, role: str = "student") -> torch.Tensor:
    policy = run.learner.policy
    with torch.no_grad():
        if role == "student":
            return policy.model(input_ids=IDS).logits
        with policy.as_teacher():
            return policy.model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[Path, list[torch.Tensor], torch.Tensor]]:
    """Runs of two iterations: folder, the student's logits after each, the teacher's at the end."""
    found = {}
    for name, fields in ADAPTERS.items():
        out = tmp_path_factory.mktemp("runs") / name
        run = Run.open(RunConfig.make(**{**SMALL, **fields}, model=toy_model(), out=str(out)))
        students = [logits(run) for _ in run.steps()]
        found[name] = (out, students, logits(run, "teacher"))
    return found


def plain_logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).chat_template
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS).logits


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("step", [None, 1, 2])
def test_transformers_loads_what_was_exported(runs, tmp_path, capsys, name, step):
    out, students, _ = runs[name]
    args = ["export", str(out), str(tmp_path / "model")] + ([] if step is None else ["--checkpoint", str(step)])
    assert cli.main(args) == 0
    assert f"(step {step or 2}) -> " in capsys.readouterr().out
    torch.testing.assert_close(plain_logits(tmp_path / "model"), students[(step or 2) - 1], rtol=1e-4, atol=1e-4)
    assert (students[0] - students[1]).abs().max() > 1e-3
    assert not list((tmp_path / "model").glob("*.bin"))


@pytest.mark.parametrize(
    ("name", "role"), [("lora", "student"), ("both", "student"), ("both", "teacher"), ("teacher", "teacher")]
)
def test_peft_loads_the_adapter(runs, tmp_path, name, role):
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM

    out, students, teacher = runs[name]
    assert cli.main(["export", str(out), str(tmp_path / "adapter"), "--adapter", role]) == 0
    base = PeftConfig.from_pretrained(str(tmp_path / "adapter")).base_model_name_or_path
    assert base is not None and (Path(base) == tmp_path / "adapter" / "base") == (name == "teacher")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        found = model(input_ids=IDS).logits
    torch.testing.assert_close(found, students[-1] if role == "student" else teacher, rtol=1e-4, atol=1e-4)


def test_a_stale_final_is_not_the_newest(runs, tmp_path, capsys):
    """As after a run that went on from an earlier stop, and was killed."""
    out = Path(shutil.copytree(runs["plain"][0], tmp_path / "run"))
    status = load_run(out).status
    (out / "status.json").write_text(json.dumps(status | {"state": "running", "final": 1}))
    assert cli.main(["export", str(out), str(tmp_path / "model")]) == 0
    assert f"{out / 'checkpoints' / 'step-000002'} (step 2) -> " in capsys.readouterr().out


def refused(capsys, *args: Any) -> str:
    assert cli.main([str(arg) for arg in args]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("vpdlab: ") and "\n" not in err
    return err


@pytest.mark.parametrize("other", ["of another run", "of no run"])
def test_the_final_student_of_another_run_is_not_taken_for_its_own(runs, tmp_path, capsys, other):
    run = shutil.copytree(runs["plain"][0], tmp_path / "run")
    shutil.rmtree(run / "final")
    shutil.copytree(runs["lora"][0] / "final", run / "final")
    if other == "of no run":
        (run / "final" / "manifest.json").unlink()
    assert "final is not what this run wrote" in refused(capsys, "export", run, tmp_path / "out")
    assert "final is not what this run wrote" in refused(capsys, "export", run / "final", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_told(runs, tmp_path, capsys):
    out = runs["plain"][0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "exists already" in refused(capsys, "export", out, tmp_path / "full")
    assert "lies in the folder of the run" in refused(capsys, "export", out, out / "model")
    assert not (out / "model").exists()
    assert "has no checkpoint of step 9: it has 1, 2" in refused(
        capsys, "export", out, tmp_path / "x", "--checkpoint", 9
    )
    assert "student of this run has no adapter" in refused(
        capsys, "export", out, tmp_path / "x", "--adapter", "student"
    )
    assert "it was of the kind shared" in refused(capsys, "export", out, tmp_path / "x", "--adapter", "teacher")
    assert "adapters merged" in refused(capsys, "export", out / "final", tmp_path / "x", "--adapter", "student")
    assert "required: run, out" in refused(capsys, "export")
    assert "unknown option '--x'" in refused(capsys, "export", out, tmp_path / "x", "--x")
    assert "invalid int value" in refused(capsys, "export", out, tmp_path / "x", "--checkpoint", "last")
    hurt = Path(shutil.copytree(out, tmp_path / "hurt"))
    (hurt / "checkpoints" / "step-000002" / "student.safetensors").unlink()
    assert "student.safetensors is missing" in refused(capsys, "export", hurt, tmp_path / "x", "--checkpoint", 2)
    assert not (tmp_path / "x").exists()


# -- eval --------------------------------------------------------------------------------------------------------------


def evaluated(capsys, *args: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["eval", *map(str, args), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


NUMBERS = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "pass_at_k",
    "maj_at_k",
    "by_problem",
    "length",
    "k",
    "problems",
)


@pytest.mark.parametrize("name", ["plain", "both"])
def test_eval_says_again_what_the_run_said(runs, capsys, name):
    """The same problems and random streams: from final/, from a checkpoint, from the folder of either."""
    out = runs[name][0]
    wanted = {row["step"]: {key: row[key] for key in NUMBERS} for row in load_run(out).eval_rows}
    for step, *args in (
        (2, out), (1, out, "--checkpoint", 1), (2, out / "checkpoints" / "step-000002"), (2, out / "final"),
    ):  # fmt: skip
        row = evaluated(capsys, *args)
        assert row["step"] == step and row["task"] == "arithmetic"
        assert {key: row[key] for key in NUMBERS} == wanted[step]


def test_eval_of_any_model(capsys):
    row = evaluated(capsys, toy_model(), "--eval-problems=3", "--eval-samples=2", "--max-new-tokens=4", "--prompts=1")
    assert (row["problems"], row["k"], row["step"]) == (3, 2, None)
    assert cli.main(["eval", toy_model(), "--eval-problems=3", "--max-new-tokens=4", "--preset", "tour-common"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["avg@4", "pass@4", "maj@4"]
    assert "%" in lines[1] and lines[4].startswith("over 3 of 512 held-out problems")


def test_eval_with_more_problems_than_the_run_had(runs, capsys):
    row = evaluated(capsys, runs["plain"][0], "--eval-problems", 6, "--eval-samples", 3)
    assert (row["problems"], row["k"]) == (6, 3)


def test_what_cannot_be_evaluated_is_told(runs, capsys):
    out = runs["plain"][0]
    assert "leave --preset out" in refused(capsys, "eval", out, "--preset", "tour-rare")
    assert "lora_rank is 4, but the run's is 0" in refused(capsys, "eval", out, "--lora-rank", 4)
    assert "no such folder and not a hub name" in refused(capsys, "eval", "nothing")
    assert "is no run's folder, so it has no checkpoint 3" in refused(capsys, "eval", toy_model(), "--checkpoint", 3)
    assert "Unrecognized options: --stepz" in refused(capsys, "eval", out, "--stepz", 3)
