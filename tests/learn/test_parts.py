"""Parts that are handed in, what is recorded of them, settings that nothing reads; an iteration as a value."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial

import pytest
from places import ROOT
from toy import Parity, equal, toy_model, toy_run, weights

from vpdlab import Iteration, Parts, Run, RunConfig, cli, iterate, load_run
from vpdlab.errors import UserError
from vpdlab.feedback import SOURCES, Context
from vpdlab.learn.e_step import e_step
from vpdlab.learn.identity import method_identity
from vpdlab.learn.m_step import Method, Seen
from vpdlab.learn.methods import METHODS, distillation
from vpdlab.model.policy import READS, Policy
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.types import Feedback, Rollout

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "steps": 2, "eval_every": -1,
    "checkpoint_every": 1,
}  # fmt: skip


def config(folder, **fields) -> RunConfig:
    return RunConfig.make(**{"model": toy_model(), "out": str(folder), **SMALL, **fields})


def half(seen: Seen):
    """Half of the distillation loss, or as much as its option says."""
    return seen.options["weight"] * distillation(seen)


MINE = Method("mine", "half as much", loss=half, options={"weight": 0.5})


# -- handed in -----------------------------------------------------------------------------------------------------


def test_a_method_that_is_handed_in_is_recorded_and_held_to_on_resume(tmp_path, capsys) -> None:
    run = Run.open(config(tmp_path / "run"), task=Parity(), method=MINE)
    list(run.steps())
    record = load_run(tmp_path / "run")
    assert record.config["method"] == "handed-in:mine"
    assert record.environment["handed_in"]["method"]["name"] == "mine"
    assert len(record.environment["handed_in"]["method"]["sum"]) == 64
    longer = config(tmp_path / "run", steps=3, resume=True)
    with pytest.raises(UserError, match=r"handed.in.*method=\.\.\.|method"):
        Run.open(replace(longer, method="sdpo"), task=Parity())
    changed = Method("mine", "half as much", loss=distillation, options={"weight": 0.5})
    with pytest.raises(UserError, match="handed-in method"):
        Run.open(longer, task=Parity(), method=changed)
    assert len(list(Run.open(longer, task=Parity(), method=MINE).steps())) == 1
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "4"]) == 2
    assert "method ('mine') was passed from Python" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "run")]) == 2
    assert "from Python" in capsys.readouterr().err


def test_the_arguments_of_a_partial_are_part_of_a_method_s_identity() -> None:
    def weighted(seen: Seen, weight: float):
        return weight * distillation(seen)

    sums = [method_identity(Method("mine", "", loss=partial(weighted, weight=w)))["sum"] for w in (0.1, 0.1, 0.2)]
    assert sums[0] == sums[1] != sums[2]


def test_a_policy_and_a_sampler_that_are_handed_in_are_used_and_recorded(tmp_path) -> None:
    asked = config(tmp_path / "run", follow=0)
    policy = Policy.load(asked)

    class Counting(HFSampler):
        calls = 0

        def generate(self, contexts, streams, sampling):
            self.calls += 1
            return super().generate(contexts, streams, sampling)

    sampler = Counting(policy)
    run = Run.open(asked, task=Parity(), policy=policy, sampler=sampler)
    assert run.policy is policy and run.sampler is sampler
    list(run.steps())
    assert sampler.calls == 2
    record = load_run(tmp_path / "run")
    assert set(record.environment["handed_in"]) == {"policy", "sampler"}
    assert record.config["model"].startswith("handed-in:") and record.config["sampler"] == "handed-in:Counting"
    with pytest.raises(UserError, match="from Python"):
        Run.open(config(tmp_path / "run", steps=3, resume=True), task=Parity())


def test_a_policy_made_with_other_settings_is_refused(tmp_path) -> None:
    policy = Policy.load(config(tmp_path / "a", lr=1e-2))
    with pytest.raises(UserError, match=r"the policy was made with lr 0\.01, and the run has 0\.001"):
        Parts.open(config(tmp_path / "b"), task=Parity(), policy=policy)


# -- settings ------------------------------------------------------------------------------------------------------


def test_options_of_a_method_are_read_by_their_type(tmp_path) -> None:
    assert MINE.option_values(RunConfig()) == {"weight": 0.5}
    assert MINE.option_values(RunConfig(method_args=("weight=0.25",))) == {"weight": 0.25}
    with pytest.raises(UserError, match="weight is 'much', but must be a number"):
        MINE.option_values(RunConfig(method_args=("weight=much",)))
    with pytest.raises(UserError, match="method mine has no option 'wieght': it takes weight"):
        MINE.option_values(RunConfig(method_args=("wieght=1",)))
    with pytest.raises(UserError, match="method sdpo has no option 'weight': it takes none"):
        Parts.open(config(tmp_path / "a", method="sdpo", method_args=("weight=1",)), task=Parity())


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"method": "grpo", "sdar_weight": 0.3}, ["sdar_weight"]),
        ({"method": "grpo", "alpha": 0.0, "teacher": "ema"}, ["alpha", "teacher"]),
        ({"method": "sdpo", "teacher_rate": 0.1}, ["teacher_rate"]),
        ({"method": "sdpo", "teacher": "ema", "teacher_rate": 0.1}, []),
        ({"method": "vpd", "e_ratio_clip": 3.0}, ["e_ratio_clip"]),
        ({"method": "vpd", "e_objective": "pg", "e_ratio_clip": 3.0}, []),
        ({"method": "vpd", "vllm_dtype": "float32"}, ["vllm_dtype"]),
        ({"method": "vpd", "critic_temperature": 1.0}, ["critic_temperature"]),
        ({"method": "vpd", "critic_jobs": 3, "feedback": ["critique"]}, ["critic_jobs"]),
        ({"method": "sdpo", "beta": 0.2}, []),  # of the recorded margin
        ({"method": "grpo", "beta": 0.2}, ["beta"]),
        ({"method": "vpd", "e_every": 0, "e_lr": 1e-3, "e_epochs": 2}, ["e_epochs", "e_lr"]),
        ({"method": "vpd", "beta_max": 1.0, "shift_decay": 0.5}, ["beta_max", "shift_decay"]),
        ({"method": "vpd", "e_answers": 2}, ["e_answers"]),
        ({"method": "vpd", "e_answers": 2, "e_sample": "teacher"}, []),
        ({"method": "vpd", "kl_target": 0.1, "beta_max": 1.0, "shift": "ema", "shift_decay": 0.5}, []),
        ({"method": "sdpo", "support": "full", "top_k": 5}, ["top_k"]),
        ({"method": "distil", "distil_future": False, "distil_discount": 0.5}, ["distil_discount"]),
    ],
)
def test_a_setting_that_nothing_reads_is_told(fields, idle, tmp_path, capsys) -> None:
    Parts.open(config(tmp_path / "run", **fields), task=Parity())
    err = capsys.readouterr().err
    assert (f"nothing in this run reads {', '.join(idle)} " in err) if idle else ("reads" not in err)


def test_what_a_method_of_your_own_reads_is_not_known_unless_declared(tmp_path, capsys) -> None:
    fields = {"alpha": 0.1, "e_every": 1, "beta": 0.2, "top_k": 7}
    Parts.open(config(tmp_path / "a", **fields), task=Parity(), method=replace(MINE, e_step=e_step))
    assert "reads" not in capsys.readouterr().err
    Parts.open(config(tmp_path / "b", **fields), task=Parity(), method=replace(MINE, settings=("alpha",)))
    assert "nothing in this run reads e_every, top_k " in capsys.readouterr().err


def test_what_a_part_of_your_own_replaces_is_told(tmp_path, capsys) -> None:
    asked = config(tmp_path / "run", task_args=["digits=3"], sampler_rows=4)
    policy = Policy.load(asked)
    Parts.open(asked, task=Parity(), sampler=HFSampler(policy), policy=policy)
    assert "nothing in this run reads task_args, sampler_rows " in capsys.readouterr().err


def test_settings_of_a_resumed_run_are_not_told(tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    fields = {**SMALL, "model": toy_model(), "method": "grpo", "alpha": 0.0, "steps": 1}
    list(Run.open(RunConfig.make(**fields, out=str(folder))).steps())
    capsys.readouterr()
    resumed, _ = cli.parse_run("vpdlab train", ["--resume", "--out", str(folder), "--steps", "2"])
    assert resumed.asked == {"steps", "resume", "out"}


def test_settings_of_a_preset_are_not_told(tmp_path, capsys) -> None:
    Parts.open(RunConfig.make("tour-common", method="grpo", eval_every=-1))
    assert "nothing in this run reads" not in capsys.readouterr().err


def test_every_setting_that_a_part_names_exists() -> None:
    for method in METHODS.values():
        assert method.settings is not None
        assert set(method.settings) | set(method.needs) <= set(RunConfig().to_dict())


# -- sources -------------------------------------------------------------------------------------------------------


def test_a_source_of_your_own_is_one_function(monkeypatch, tmp_path) -> None:
    asked = []

    def length(rollouts: list[Rollout], context: Context) -> list[Feedback]:
        asked.append((len(rollouts), len(context.rollouts), context.step, context.purpose))
        return [Feedback(critique=f"{len(r.response_ids)} tokens.", source="length") for r in rollouts]

    monkeypatch.setitem(SOURCES, "length", length)
    run = Run.open(config(tmp_path / "run", feedback=["length"], follow=0), task=Parity())
    list(run.steps())
    assert asked == [(6, 6, 1, "train"), (6, 6, 2, "train")]
    assert load_run(tmp_path / "run").rollouts(1)[0]["critique"].endswith("tokens.")


def test_an_unknown_source_is_told_the_known_ones(tmp_path) -> None:
    with pytest.raises(UserError, match="feedback names 'judge': choose from verifier, sibling, reference, critique"):
        Parts.open(config(tmp_path / "run", feedback=["judge"]), task=Parity())


# -- an iteration --------------------------------------------------------------------------------------------------


def test_an_iteration_is_a_value_and_leaves_nothing_behind_but_weights() -> None:
    run = toy_run()
    before = {name: value for name, value in vars(run).items() if name != "learner"}
    start = weights(run)
    it = iterate(run, 1)
    assert isinstance(it, Iteration) and (it.step, len(it.rollouts), len(it.feedback)) == (1, 16, 16)
    assert it.e.loss is not None and it.m.loss is not None and it.mismatch is not None
    assert it.batch.step == 1 and set(it.seconds) == {"rollout", "feedback", "e", "m"}
    assert {name: value for name, value in vars(run).items() if name != "learner"} == before
    assert not equal(weights(run), start)


def test_a_watch_sees_rollouts_then_tokens_then_the_end() -> None:
    calls: list[str] = []

    class Watch:
        def sampled(self, step, rollouts) -> None:
            calls.append(f"sampled {step} {len(rollouts)} {rollouts[0].outcome is not None}")

        def tokens(self, seen, dists) -> None:
            calls.append("tokens " + " ".join(sorted(dists)))

        def finished(self) -> None:
            calls.append("finished")

    run, plain = toy_run(), toy_run()
    iterate(run, 1, Watch())
    iterate(plain, 1)
    assert calls == ["sampled 1 16 True", "tokens student teacher", "finished"]
    assert equal(weights(run), weights(plain))


def test_a_batch_is_that_of_the_iteration() -> None:
    run = toy_run()
    batch, it = run.batch(step=2), iterate(run, 2)
    assert [r.response_ids for r in batch.rollouts] == [r.response_ids for r in it.batch.rollouts]
    assert batch.feedback == it.batch.feedback


def test_what_was_handed_in_is_plain_json(tmp_path) -> None:
    run = Run.open(config(tmp_path / "run"), task=Parity(), method=MINE)
    json.dumps(run.handed_in)


def test_a_student_of_a_method_with_options_is_evaluated(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(METHODS, "mine", MINE)
    asked = RunConfig.make(
        **SMALL | {"steps": 1, "model": toy_model(), "out": str(tmp_path / "run"), "eval_problems": 2},
        method="mine", method_args=["weight=0.25"],
    )  # fmt: skip
    list(Run.open(asked).steps())
    assert cli.main(["eval", str(tmp_path / "run"), "--eval_samples", "1"]) == 0


@pytest.mark.parametrize("part", ["method", "sampler", "policy"])
def test_a_command_that_lacks_a_part_says_how_to_go_on(part, tmp_path, capsys) -> None:
    """The task can be made again, the part cannot; the student can be evaluated all the same."""
    asked = RunConfig.make(**SMALL | {"model": toy_model(), "out": str(tmp_path / "run"), "eval_problems": 2})
    policy = Policy.load(asked)
    parts = {"method": {"method": MINE}, "policy": {"policy": policy}}
    parts["sampler"] = {"sampler": HFSampler(policy), "policy": policy}
    list(Run.open(asked, **parts[part]).steps())
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(tmp_path / "run"), "--steps", "4"]) == 2
    err = capsys.readouterr().err
    assert "was passed from Python" in err and f"Run.open(config, {part}=...)" in err
    if part == "policy":
        step = ["--checkpoint", "1"]
        assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "student"), *step]) == 2
        assert "Run.open(config, policy=...)" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "run"), "--eval_samples", "1"]) == 0
    assert "nothing in this run reads" not in capsys.readouterr().err


def test_a_policy_serves_runs_that_differ_in_what_it_does_not_read(tmp_path) -> None:
    policy = Policy.load(config(tmp_path / "a"))
    other = config(tmp_path / "b", prompts=3, feedback=["sibling"], alpha=0.0, beta=0.5, eval_problems=3)
    assert Parts.open(other, task=Parity(), policy=policy).policy is policy


def test_what_a_policy_reads_is_what_its_code_reads() -> None:
    """Fields that `Policy`, teachers and others that hold a policy take from its config."""
    found = set()
    for path in (ROOT / "vpdlab").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        names = r"\bconfig\.(\w+)" if path.name == "policy.py" else r"policy\.config\.(\w+)"
        found |= set(re.findall(names, text, flags=re.MULTILINE))
    assert found & set(RunConfig().to_dict()) == set(READS)
