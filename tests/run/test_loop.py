"""The loop on a tiny model: what must be equal, what must not depend on anything, what must stop."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from toy import Parity, equal, toy_run, train, weights

from vpdlab.errors import RunFailed, UserError
from vpdlab.learn import m_step as m_steps
from vpdlab.learn.e_step import e_step, split
from vpdlab.learn.m_step import Method, m_step
from vpdlab.learn.methods import METHODS
from vpdlab.learn.parts import shuffled
from vpdlab.learn.results import Mismatch
from vpdlab.learn.state import CHECKED, Batch
from vpdlab.losses import reward_shift
from vpdlab.record import METRICS, load_run
from vpdlab.run import Run
from vpdlab.tasks import verify_all
from vpdlab.types import Outcome, Problem

TEACHERS = ("shared", "ema", "snapshot", "frozen", "trust-region", "adapter")


@pytest.mark.parametrize("teacher", ["shared", "ema", "trust-region"])
def test_vpd_without_e_step_is_sdpo_bit_for_bit(teacher):
    vpd, sdpo = toy_run(method="vpd", e_every=0, teacher=teacher), toy_run(method="sdpo", e_every=5, teacher=teacher)
    start = weights(vpd)
    rows = train(vpd), train(sdpo)
    assert equal(weights(vpd), weights(sdpo))
    assert not equal(weights(vpd), start)
    assert [row["m_loss"] for row in rows[0]] == [row["m_loss"] for row in rows[1]]
    assert all(row["e_loss"] is None and row["delta"] is None for row in rows[0])


def test_the_e_step_changes_the_outcome():
    with_e, without = toy_run(e_every=1), toy_run(e_every=0)
    train(with_e), train(without)
    assert not equal(weights(with_e), weights(without))


def test_same_seed_same_run_other_seed_other_run():
    runs = [toy_run(seed=seed) for seed in (3, 3, 4)]
    rows = [train(run, 2) for run in runs]
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))
    timed = {name for name in METRICS if name.startswith(("seconds", "peak"))}
    for a, b in zip(rows[0], rows[1], strict=True):
        assert {k: v for k, v in a.items() if k not in timed} == {k: v for k, v in b.items() if k not in timed}


@pytest.mark.parametrize(("tokens", "rows"), [(1, 686), (300, 686), (16384, 7)])
def test_the_result_does_not_depend_on_the_minibatches(monkeypatch, tokens, rows):
    """Rows a minibatch, and rows of logits a chunk (with its recomputation), change no gradient."""
    whole, split = toy_run(), toy_run(minibatch_tokens=tokens)
    one = gradients(whole)
    monkeypatch.setattr("vpdlab.model.chunks.chunk_rows", lambda dist, mib: rows)
    other = gradients(split)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def gradients(run: Run, batch: Batch | None = None) -> list[torch.Tensor]:
    """The gradients that the E-step and then the M-step hand to the optimiser."""
    policy, found = run.learner.policy, []

    def keep(role):
        found.extend(p.grad.clone() for p in policy.parameters if p.grad is not None)
        policy.model.zero_grad()
        return 1.0

    policy.update = keep
    batch = run.batch() if batch is None else batch
    e_step(run.learner, batch)
    m_step(run.learner, batch, run.method)
    assert len(found) == 2 * len(policy.parameters)
    return found


def test_the_result_does_not_depend_on_the_order_of_rollouts():
    run = toy_run()
    batch = run.batch()
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = Batch(
        *([part[i] for i in order] for part in (batch.rollouts, batch.feedback, batch.student, batch.teacher)),
        success=batch.success[order],
        signal=batch.signal[order],
    )
    for a, b in zip(gradients(run, batch), gradients(run, mixed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_scores_do_not_depend_on_padding():
    run = toy_run()
    batch, policy = run.batch(), run.learner.policy
    together = policy.score(batch.teacher)
    alone = torch.cat([policy.score([view]) for view in batch.teacher])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"teacher": "ema"}, {"lora_rank": 4}])
@pytest.mark.parametrize("tokens", [16384, 400])
def test_what_a_group_begins_with_is_read_once_and_changes_nothing(fields, tokens):
    apart, whole = (toy_run(**fields, minibatch_tokens=tokens) for _ in range(2))
    whole.learner.policy.sharing = None
    read = []
    for run in (apart, whole):
        views = run.batch().teacher
        read.append(sum(view.read for (view,) in run.learner.policy.minibatches(views)))
        for batch in run.learner.policy.minibatches(views) if tokens == 16384 else ():
            assert (batch[0].stages is None) == (run is whole)
    assert read[0] < 0.8 * read[1]
    for a, b in zip(gradients(apart), gradients(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_e_step_reads_nothing_twice(monkeypatch):
    """The prior is the sampler's; the pass that finds the shift is the update's own, where one minibatch is all."""
    run = toy_run()
    batch, policy = run.batch(), run.learner.policy
    real, calls = policy.token_dist, []
    monkeypatch.setattr(policy, "token_dist", lambda view: calls.append(view) or real(view))
    torch.testing.assert_close(run.learner.prior(batch)[0], policy.score(batch.student), rtol=1e-5, atol=1e-5)
    calls.clear()
    done = e_step(run.learner, batch)
    # Besides, a few rows show that sampler and scorer agree.
    assert ([len(view.rows) for view in calls], done.updates) == ([CHECKED, len(batch)], 1)
    assert not batch.sampled_by(policy)  # it has moved on
    assert e_step(run.learner, batch).updates == 1
    assert len(calls) == 2 + 2


def test_the_mismatch_of_sampler_and_scorer_is_recorded():
    run = toy_run(e_every=2)
    for row in train(run, 2):
        # At step 2 the E-step moves the student before the M-step's pass; it looks at a few rows before.
        for name, bound in (("mismatch_max", 1e-4), ("mismatch_mean", 1e-5), ("mismatch_kl", 1e-9)):
            assert 0 <= row[name] < bound
    rough = toy_run(precision="bfloat16-mixed", e_every=1, max_new_tokens=40)
    (row,) = train(rough, 1)  # here the E-step scores the prior itself, and tells
    assert row["mismatch_max"] > row["mismatch_mean"] > row["mismatch_kl"] > 1e-9


def test_the_mismatch_by_hand():
    found = Mismatch()
    found.add(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    found.add(torch.tensor([-3.0]), torch.tensor([-2.0]))
    assert (found.worst, found.mean) == (1.0, 0.5)
    assert found.kl == pytest.approx((math.exp(0.5) - 1.5 + math.exp(-1.0)) / 3)


def test_minibatches_of_the_e_step_are_updates():
    run = toy_run(e_minibatch=1, e_unit="prompts", e_epochs=2)
    assert e_step(run.learner, run.batch()).updates == 8  # 4 prompts, twice
    assert split(run.batch(), 0, "rollouts", 1) == [list(range(16))]
    assert [len(rows) for rows in split(run.batch(), 6, "rollouts", 1)] == [6, 6, 4]


def test_the_moving_shift_remembers():
    run = toy_run(shift="ema", shift_decay=0.5)
    deltas = [row["delta"] for row in train(run, 3)]
    fresh = toy_run(shift="step")
    first = train(fresh, 1)[0]["delta"]
    assert deltas[0] == first  # nothing to remember yet
    batch = run.batch(4)
    now = reward_shift(
        run.learner.policy.score(batch.teacher), run.learner.policy.score(batch.student), batch.success, 0.1
    ).item()
    assert e_step(run.learner, batch).delta == pytest.approx(0.5 * deltas[-1] + 0.5 * now, abs=1e-6)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_each_teacher_trains_and_reports(teacher):
    run = toy_run(teacher=teacher)
    rows = train(run, 2)
    assert set(rows[0]) | {"warnings"} == set(METRICS)
    for row in rows:
        assert row["e_loss"] is not None and row["m_loss"] is not None
        assert row["teacher_drift"] > 0
        assert row["kl"] >= 0


@pytest.mark.parametrize(("fields", "missing"), [({"reward": 0.0}, "success"), ({"reward": 1.0}, "failure")])
def test_an_absent_class_skips_the_e_step_and_says_so(fields, missing):
    run = toy_run()
    run.task.verify = lambda rollout: Outcome(fields["reward"], "The number is right.")
    row = train(run, 1)[0]
    assert row["e_loss"] is None and row["delta"] is None and row["margin"] is None and row["e_updates"] is None
    assert row["notes"] == f"E-step did not run: no {missing} with feedback in the batch"
    assert row["m_loss"] is not None


def test_without_any_feedback_nothing_changes():
    run = toy_run()
    run.task.verify = lambda rollout: Outcome(0.0, None)
    start = weights(run)
    row = train(run, 1)[0]
    assert equal(weights(run), start)
    assert row["signal_share"] == 0 and row["m_loss"] is None and row["kl"] is None
    assert "M-step did not run: no rollout has feedback" in row["notes"]


def test_a_loss_that_is_not_finite_touches_nothing_and_ends_the_run(monkeypatch, tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"), max_skipped=2, e_every=0, steps=9, eval_every=-1)
    real = m_steps.compare_tokens

    def broken(*args, **kwargs):
        found = real(*args, **kwargs)
        return found._replace(divergence=found.divergence * float("nan"))

    monkeypatch.setattr(m_steps, "compare_tokens", broken)
    start = weights(run)
    with pytest.raises(RunFailed, match="2 iterations in a row"):
        list(run.steps())
    assert equal(weights(run), start)
    assert not run.learner.policy.optimizer.state
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "failed" and "not finite" in record.status["reason"]
    assert [row["skipped"] for row in record.rows] == [1, 1]
    assert record.rows[0]["m_loss"] is None and record.rows[0]["grad_norm"] is None  # NaN is null, never 0
    assert any(warning.startswith("not-finite: ") for warning in record.rows[0]["warnings"])


def test_a_run_leaves_a_whole_record(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"), eval_every=2, e_every=2, teacher="ema")
    yielded = list(run.steps())
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "complete" and record.status["step"] == 3
    assert [row["step"] for row in record.rows] == [1, 2, 3]
    assert record.rows == json.loads(json.dumps(yielded))
    assert [row["step"] for row in record.eval_rows] == [0, 2, 3]
    assert record.steps == [1, 2, 3]
    rollouts = record.rollouts(1)  # no E-step in it, so the weights that sampled are the weights that scored
    assert len(rollouts) == 16
    kept = [r for r in rollouts if r["tokens"] is not None]
    assert len(kept) == 4
    for r in kept:
        n = len(r["response_ids"])
        assert {len(r[key]) for key in ("tokens", "kl", "student_logp", "teacher_logp", "student_top")} == {n}
        assert sum(r["student_logp"]) == pytest.approx(r["student_sum"], abs=1e-4)
        assert r["student_logp"] == pytest.approx(r["logps"], abs=1e-4)  # the sampler's and the scorer's agree
        assert r["implicit_reward"] == pytest.approx(0.1 * (r["teacher_sum"] - r["student_sum"]), abs=1e-5)
        assert "".join(r["teacher_context"]).endswith("<|assistant|>")
        assert r["critique"] in r["teacher_prompt"]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert record.environment["task"] == "parity: 12 problems"


def test_the_saved_student_is_the_trained_one(tmp_path):
    from transformers import AutoModelForCausalLM

    run = toy_run(record=True, out=str(tmp_path / "run"), eval_every=-1)
    list(run.steps())
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final").state_dict()
    assert equal(saved, weights(run))


def test_a_caller_who_leaves_the_loop_stops_the_run(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"), eval_every=-1)
    for _ in run.steps():
        break
    assert load_run(tmp_path / "run").status["state"] == "stopped"


def test_the_first_interrupt_finishes_the_step_and_saves(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"), steps=50, eval_every=-1)
    before = signal.getsignal(signal.SIGINT)
    rows = []
    for row in run.steps():
        rows.append(row)
        if row["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "stopped" and record.status["step"] == len(record.rows) == 2
    assert (tmp_path / "run" / "final" / "config.json").is_file()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_stops_at_once(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"), steps=50, eval_every=-1)
    with pytest.raises(KeyboardInterrupt):
        for row in run.steps():
            if row["step"] == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
    assert load_run(tmp_path / "run").status["state"] == "stopped"


def test_every_problem_comes_once_an_epoch():
    run = toy_run(prompts=5)
    seen = [problem.id for step in range(1, 13) for problem in run.problems(step)]
    assert len(seen) == 60
    for epoch in range(5):
        assert len(set(seen[12 * epoch : 12 * (epoch + 1)])) == 12
    assert seen[:12] != seen[12:24]
    assert shuffled(0, 0, 12).tolist() != shuffled(1, 0, 12).tolist()


def test_a_problem_that_comes_twice_in_a_batch_gets_rollouts_of_its_own():
    run = toy_run(prompts=12)
    run.problems = lambda step: [run.task.load("train")[0]] * 2
    rollouts = run.rollouts(1)
    assert len({rollout.response_ids for rollout in rollouts}) == len(rollouts) == 8


def test_a_run_is_trained_once(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"))
    list(run.steps())
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(UserError, match="this run has started already"):
        list(run.steps())
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_a_run_that_never_began_leaves_no_trace_of_one(tmp_path):
    run = toy_run(record=True, out=str(tmp_path / "run"))
    verify_all(run.task, run.rollouts(1))
    with pytest.raises(UserError, match="holds no run"):
        load_run(tmp_path / "run")
    toy_run(record=True, out=str(tmp_path / "run"))  # so the folder can be used again


def test_scores_that_are_not_finite_do_not_reach_the_moving_shift(monkeypatch):
    run = toy_run(shift="ema")
    batch, real = run.batch(), run.learner.policy.token_logp
    monkeypatch.setattr(run.learner.policy, "token_logp", lambda view: real(view) * float("nan"))
    done = e_step(run.learner, batch)
    assert (done.reason, done.skipped, done.loss) == ("log-probabilities are not finite", 1, None)
    assert run.learner.shift is None


def test_an_interrupted_steps_gradient_is_forgotten():
    clean, dirty = toy_run(), toy_run()
    for parameter in dirty.learner.policy.parameters:
        parameter.grad = torch.ones_like(parameter)
    train(clean, 1), train(dirty, 1)
    assert equal(weights(clean), weights(dirty))


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(float("nan"), "x"), "task parity, problem .*: the reward is nan, but must be a number"),
        (Outcome(1.0, "x", 7), "the answer is 7, but must be text or None"),
    ],
)
def test_an_outcome_that_is_none_is_told(outcome, words):
    run = toy_run()
    run.task.verify = lambda rollout: outcome
    with pytest.raises(UserError, match=words):
        train(run, 1)


def test_a_task_without_held_out_problems_is_told(monkeypatch):
    class Empty(Parity):
        def load(self, split):
            return super().load(split) if split == "train" else []

    monkeypatch.setattr("vpdlab.learn.parts.make_task", lambda name, **options: Empty())
    with pytest.raises(UserError, match="has no held-out problems: set eval_every to -1"):
        toy_run()
    assert toy_run(eval_every=-1).task.name == "parity"


def test_warm_up_raises_the_rate_linearly():
    run = toy_run(warmup=4, lr=1e-3, e_every=0)
    assert [row["lr"] for row in train(run, 5)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])


def test_the_teacher_is_sampled_on_failed_problems_only():
    run = toy_run(eval_teacher=True)
    row = run.evaluate(0)
    assert 0 < row["teacher_problems"] <= 4
    run.task.verify = lambda rollout: Outcome(1.0, "The number is right.", "x")
    row = run.evaluate(0)
    assert row["teacher_problems"] == 0 and row["teacher_accuracy"] is None and row["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "magic"}, "unknown method 'magic': choose one of vpd, sdpo"),
        ({"support": "sampled", "alpha": 0.0}, "support sampled is reverse KL, which takes alpha 1, but alpha is 0.0"),
        ({"prompts": 5000, "task_args": ()}, "prompts is 5000, but the task has 2000 training problems"),
        ({"max_context": 10}, "the prompt of problem .* has .* tokens, but max_context is 10"),
        ({"max_context": 510}, "max_context 510 .* is more than the 512 positions of model"),
    ],
)
def test_settings_that_do_not_fit_each_other(fields, words):
    with pytest.raises(UserError, match=words):
        toy_run(**fields)


def test_the_methods_are_what_differs():
    assert METHODS["sdpo"].loss is METHODS["vpd"].loss
    assert METHODS["sdpo"].e_step is None
    assert dataclasses.is_dataclass(Method)


@pytest.mark.slow
def test_a_real_model_makes_an_iteration(smollm2):
    run = toy_run(
        model=str(smollm2), prompts=2, group=3, max_new_tokens=6, lr=1e-5, support="topk", top_k=20, alpha=0.5
    )
    head = run.learner.policy.model.get_output_embeddings().weight
    before = head.detach().clone()
    row = train(run, 1)[0]
    assert row["n_success"] and row["n_failure"]
    assert row["e_loss"] > 0 and row["m_loss"] > 0 and row["kl"] > 0
    assert row["grad_norm"] > 0 and row["skipped"] == 0
    assert not torch.equal(head, before)


def test_a_problem_with_half_a_character_trains_and_is_recorded(tmp_path):
    """JSON can spell a lone surrogate; a tokenizer refuses it, and a file cannot hold it."""
    half = "\ud83d"

    class Broken(Parity):
        def load(self, split):
            problems = super().load(split)
            return [Problem(f"{p.id}{half}", f"{p.prompt}{half}", f"{p.answer}{half}", half) for p in problems]

        def verify(self, rollout):
            return dataclasses.replace(super().verify(rollout), notes=f"No {half}.", answer=half)

    run = toy_run(record=True, task=Broken(), out=str(tmp_path / "run"), steps=1, eval_every=-1)
    assert len(list(run.steps())) == 1
    (first, *_) = load_run(tmp_path / "run").rollouts(1)
    assert first["prompt"].endswith("\ufffd") and first["problem_id"].endswith("\ufffd")
