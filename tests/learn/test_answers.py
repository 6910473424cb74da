"""The teacher's own responses: what they are conditioned on, where they stand, and that an E-step learns from them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from toy import Parity, equal, toy_run, train, weights

from vpdlab.learn.answers import answered
from vpdlab.learn.e_step import OBJECTIVES, e_step
from vpdlab.model.policy import TEACHER
from vpdlab.record import load_run
from vpdlab.types import Outcome


class SomeSilent(Parity):
    """Every third rollout hears nothing."""

    def verify(self, rollout) -> Outcome:
        done = super().verify(rollout)
        return Outcome(done.reward, None, "x") if rollout.index == 2 else done


def test_each_rollout_with_feedback_is_answered_in_both_views() -> None:
    run = toy_run(method="joint", task=SomeSilent())
    batch = run.batch()
    own, heard = answered(run, batch), batch.select(batch.signal)
    assert (len(batch), len(heard), len(own)) == (16, 12, 12) and own.sampled_from == TEACHER
    assert own.feedback == heard.feedback and bool(own.signal.all()) and torch.equal(own.groups, heard.groups)
    for row, (answer, first) in enumerate(zip(own.rollouts, heard.rollouts, strict=True)):
        assert (answer.problem, answer.group, answer.index) == (first.problem, first.group, first.index)
        assert answer.prompt_ids == own.student[row].context_ids == heard.student[row].context_ids
        assert own.teacher[row].context_ids == heard.teacher[row].context_ids != answer.prompt_ids
        assert own.student[row].response_ids == own.teacher[row].response_ids == answer.response_ids
        assert answer.success == (sum(answer.response_ids) % 2 == 0) == bool(own.success[row])
    assert sum(a.response_ids != r.response_ids for a, r in zip(own.rollouts, heard.rollouts, strict=True)) > 8
    # What the sampler knows is log q, and the prior is log pi of the same responses.
    policy = run.learner.policy
    assert_close(own.sampled_logp, policy.score(own.teacher), rtol=1e-5, atol=1e-4)
    prior, mismatch = run.learner.prior(own)
    assert torch.equal(prior, policy.score(own.student)) and mismatch is None  # the feedback view shows it
    assert (prior - own.sampled_logp).abs().max() > 1e-2


def test_the_prior_of_a_fixed_anchor_is_that_of_the_start() -> None:
    run = toy_run(anchor="fixed")
    own = answered(run, run.batch())
    start = run.learner.policy.score(own.student)
    train(run, 1)
    prior, mismatch = run.learner.prior(own)
    assert_close(prior, start, rtol=1e-6, atol=1e-6)
    assert mismatch is None  # the weights that sampled are gone


def test_the_streams_are_a_function_of_seed_step_and_place() -> None:
    run = toy_run()
    first, again, later = (answered(run, run.batch(step)) for step in (1, 1, 2))
    assert first.rollouts == again.rollouts
    assert {r.response_ids for r in first.rollouts}.isdisjoint({r.response_ids for r in later.rollouts})
    assert len({r.response_ids for r in first.rollouts}) > 12  # those of a group differ


def test_the_adapter_of_a_teacher_answers() -> None:
    run = toy_run(teacher="adapter", adapter_rank=4, lora_rank=4, e_epochs=3, lr=1e-2)
    batch = run.batch()
    e_step(run.learner, batch)
    own = answered(run, batch)
    with run.policy.as_teacher():
        assert_close(own.sampled_logp, run.policy.score(own.teacher), rtol=1e-5, atol=1e-4)
    assert (own.sampled_logp - run.policy.score(own.teacher)).abs().max() > 1e-2


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_learns_from_them(objective) -> None:
    """Many updates on one batch of own responses: successes gain over failures."""
    run = toy_run(e_sample="teacher", e_objective=objective, e_epochs=10, lr=3e-4)
    own = answered(run, run.batch())
    before = run.policy.score(own.teacher)
    done = e_step(run.learner, own)
    change = run.policy.score(own.teacher) - before
    assert change[own.success].mean() > change[~own.success].mean() + 0.1
    assert done.mismatch is not None and done.mismatch.worst < 1e-4
    assert done.mismatch._count == own.response_tokens
    assert done.teacher_logp_after is not None  # the M-step reads other responses
    assert_close(done.teacher_logp_after, run.policy.score(own.teacher[:2]))  # one in eight
    assert done.lengths is not None and torch.equal(done.lengths, own.lengths)


def test_the_record_counts_what_the_teacher_sampled(tmp_path) -> None:
    run = toy_run(True, e_sample="teacher", e_every=2, steps=2, eval_every=-1, out=str(tmp_path / "own"))
    one, two = run.steps()
    assert one["teacher_rollouts"] is one["teacher_success_rate"] is None
    assert two["teacher_rollouts"] == 16 and 0 < two["teacher_success_rate"] < 1 and two["teacher_drift"] > 0
    record = load_run(tmp_path / "own")
    assert [row["teacher_text"] for row in record.rollouts(1)] == [None] * 16
    rows = record.rollouts(2)
    assert sum(row["teacher_reward"] for row in rows) / 16 == pytest.approx(two["teacher_success_rate"])
    assert sum(row["teacher_text"] != row["text"] for row in rows) > 8
    assert two["tokens_rollout"] > sum(len(row["response_ids"]) for row in rows)
    assert one["tokens_rollout"] == sum(len(row["response_ids"]) for row in record.rollouts(1))


def test_fewer_answers_are_those_to_the_first_of_each_problem_with_feedback() -> None:
    run = toy_run(method="joint", task=SomeSilent())
    every, some = (answered(run, run.batch(), most) for most in (0, 2))
    assert [(a.group, a.index) for a in some.rollouts] == [(group, index) for group in range(4) for index in (0, 1)]
    assert [a.index for a in answered(run, run.batch(), 3).rollouts] == [0, 1, 3] * 4  # the third hears nothing
    same = {(a.group, a.index): a.response_ids for a in every.rollouts}
    assert all(same[a.group, a.index] == a.response_ids for a in some.rollouts)  # each has its own random stream
    assert len(some.student) == len(some.teacher) == len(some.success) == len(some) == 8


def test_only_the_e_step_answers_less(tmp_path) -> None:
    for method, count in (("vpd", 8), ("pi-distill", 16)):
        run = toy_run(True, method=method, e_every=1, e_sample="teacher", e_answers=2, steps=1, eval_every=-1,
                      out=str(tmp_path / method))  # fmt: skip
        assert next(iter(run.steps()))["teacher_rollouts"] == count
        texts = [row["teacher_text"] for row in load_run(tmp_path / method).rollouts(1)]
        assert sum(text is not None for text in texts) == count


def test_without_feedback_nothing_is_sampled_and_a_class_alone_is_told() -> None:
    run = toy_run(e_sample="teacher")
    run.task.verify = lambda rollout: Outcome(0.0, None)
    assert train(run, 1)[0]["teacher_rollouts"] is None
    run = toy_run(e_sample="teacher")
    run.task.verify = lambda rollout: Outcome(0.0, "Wrong.")
    row = train(run, 1)[0]
    assert "E-step did not run: no success" in row["notes"] and row["teacher_success_rate"] == 0.0


def test_the_student_alone_learns_as_before() -> None:
    """The setting changes nothing where no E-step runs, and something where one does."""
    runs = [toy_run(e_sample=who, e_every=every) for every in (0, 1) for who in ("student", "teacher")]
    for run in runs:
        train(run, 1)
    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[2]), weights(runs[3]))
