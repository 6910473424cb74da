"""The E-step by hand: how a batch is cut into updates, each objective's numbers, and what an E-step reports."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from toy import toy_run

from vpdlab import losses
from vpdlab.errors import UserError
from vpdlab.learn import e_step as module
from vpdlab.learn.e_step import OBJECTIVES, Evidence, e_step, split
from vpdlab.learn.state import CHECKED, stalled
from vpdlab.model.policy import STUDENT, TEACHER
from vpdlab.types import Outcome

LN3 = math.log(3.0)


class Rows(list):
    """As much of a batch as `split` looks at: the group of each rollout."""

    def __init__(self, *groups: int) -> None:
        super().__init__(SimpleNamespace(group=group) for group in groups)

    @property
    def rollouts(self) -> Rows:
        return self


@pytest.mark.parametrize(
    ("size", "unit", "epochs", "expected"),
    [
        (0, "prompts", 1, [[0, 2, 1, 4, 3]]),
        (1, "prompts", 1, [[0, 2], [1, 4], [3]]),
        (2, "prompts", 1, [[0, 2, 1, 4], [3]]),
        (9, "prompts", 2, [[0, 2, 1, 4, 3]] * 2),
        (0, "rollouts", 1, [[0, 1, 2, 3, 4]]),
        (2, "rollouts", 2, [[0, 1], [2, 3], [4]] * 2),
    ],
)
def test_a_batch_is_split_into_updates(size, unit, epochs, expected) -> None:
    assert split(Rows(7, 0, 7, 3, 0), size, unit, epochs) == expected


# -- objectives ----------------------------------------------------------------------------------------------------

# beta 1/2. Two groups; log q - log pi before the first update is 2, -2, 2 | 0.
SUCCESS = torch.tensor([True, False, True, False])
PRIOR = torch.tensor([-3.0, -1.0, -5.0, -2.0])
BEFORE = torch.tensor([-1.0, -3.0, -3.0, -2.0])
LOGP = torch.tensor([-1.5, -2.5, -2.0, -1.0])  # at the update


def evidence(last: float | None = None, whose: str = STUDENT, **fields: Any) -> Evidence:
    config = SimpleNamespace(**{"shift": "step", "shift_decay": 0.75, "e_ratio_clip": 1e6} | fields)
    batch: Any = SimpleNamespace(success=SUCCESS, rewards=SUCCESS.float() * LN3 / 2, groups=torch.tensor([4, 4, 4, 1]))
    batch.sampled_from = whose
    learner: Any = SimpleNamespace(config=config, beta=0.5, shift=last)
    return Evidence(learner, batch, PRIOR, BEFORE)


def parts(loss, rows: list[int]) -> Tensor:
    """The loss of an update on `rows`, as a sum over minibatches of one row."""
    return sum((loss(LOGP[[row]], torch.tensor([row]), rows) for row in rows), torch.zeros(()))


def test_bco_shifts_by_the_rewards_before_the_update() -> None:
    shift, loss = OBJECTIVES["bco"].prepare(evidence())
    assert shift == 0.25  # successes 1, 1, failures -1, 0: (1 - 1/2) / 2
    for rows in ([0, 1, 2, 3], [2, 0, 1], [3]):
        assert_close(parts(loss, rows), losses.bco_loss(LOGP[rows], PRIOR[rows], SUCCESS[rows], 0.5, 0.25))


@pytest.mark.parametrize(
    ("kind", "last", "expected"),
    [("step", None, 0.25), ("step", 2.0, 0.25), ("ema", None, 0.25), ("ema", 2.0, 1.5625), ("ema", 0.0, 0.0625)],
)
def test_the_shift_is_this_steps_or_a_moving_average(kind, last, expected) -> None:
    assert OBJECTIVES["bco"].prepare(evidence(last, shift=kind))[0] == expected  # 3/4 last + 1/4 now


def test_kto_refers_to_the_mean_reward_before_the_update() -> None:
    reference, loss = OBJECTIVES["kto"].prepare(evidence())
    assert reference == 0.25  # (1 - 1 + 1 + 0) / 4
    for rows in ([0, 1, 2, 3], [2, 0, 1], [3]):
        assert_close(parts(loss, rows), losses.kto_loss(LOGP[rows], PRIOR[rows], SUCCESS[rows], 0.5, 0.25))


def test_awr_weighs_by_the_reward_in_each_group_and_averages_over_groups() -> None:
    shift, loss = OBJECTIVES["awr"].prepare(evidence())
    assert shift is None
    # exp(r / beta) is 3 for a success and 1 for a failure: 3/7, 1/7, 3/7 | 1
    first = (3 * 1.5 + 2.5 + 3 * 2.0) / 7
    assert_close(parts(loss, [0, 1, 2, 3]), torch.tensor((first + 1.0) / 2))
    assert_close(parts(loss, [0, 1, 2]), torch.tensor(first))
    assert_close(parts(loss, [3]), torch.tensor(1.0))


@pytest.mark.parametrize(("clip", "expected"), [(1e6, math.exp(-1.5)), (0.1, 0.1)])
def test_pg_compares_with_the_other_rollouts_of_the_group(clip, expected) -> None:
    shift, loss = OBJECTIVES["pg"].prepare(evidence(e_ratio_clip=clip))
    assert shift is None
    # Row 1: log ratio -1.5 at the update. Value before: r - beta log ratio = (ln 3)/2 - 1 for both others.
    value, baseline = 0.0 - 0.5 * -1.5, LN3 / 2 - 1.0
    for rows in ([1], [0, 1, 2]):
        got = loss(LOGP[[1]], torch.tensor([1]), rows)
        assert_close(got, torch.tensor(-expected * (value - baseline) * -2.5 / len(rows)))


def test_awr_on_the_teachers_own_responses_weighs_them_as_the_prior_would() -> None:
    _, loss = OBJECTIVES["awr"].prepare(evidence(whose=TEACHER))
    # exp(r / beta) pi / q with log pi - log q of -2, 2, -2 | 0
    a, b = 3 * math.exp(-2.0), math.exp(2.0)
    first = (a * 1.5 + b * 2.5 + a * 2.0) / (2 * a + b)
    assert_close(parts(loss, [0, 1, 2, 3]), torch.tensor((first + 1.0) / 2))


@pytest.mark.parametrize(("clip", "expected"), [(1e6, math.exp(0.5)), (1.5, 1.5)])
def test_pg_on_the_teachers_own_responses_compares_with_the_teacher_that_sampled(clip, expected) -> None:
    _, loss = OBJECTIVES["pg"].prepare(evidence(whose=TEACHER, e_ratio_clip=clip))
    # Row 1: log q is -2.5 at the update and was -3. Value and baseline are as on the student's responses.
    value, baseline = 0.0 - 0.5 * -1.5, LN3 / 2 - 1.0
    assert_close(loss(LOGP[[1]], torch.tensor([1]), [0, 1, 2]), torch.tensor(expected * (value - baseline) * 2.5 / 3))


@pytest.mark.parametrize("name", ["bco", "kto"])
def test_the_classifiers_do_not_ask_who_sampled(name) -> None:
    (shift, own), (same, loss) = (OBJECTIVES[name].prepare(evidence(whose=whose)) for whose in (TEACHER, STUDENT))
    assert shift == same
    assert_close(parts(own, [0, 1, 2, 3]), parts(loss, [0, 1, 2, 3]))


# -- what an E-step does and reports -------------------------------------------------------------------------------


def watched(run, norms: list[float | None] | None = None) -> list[str]:
    """Let no update change a weight; returns the list that will name whose optimiser stepped."""
    roles: list[str] = []

    def update(role: str) -> float | None:
        roles.append(role)
        run.learner.policy.fresh()
        return norms.pop(0) if norms else 1.0

    run.learner.policy.update = update
    return roles


@pytest.mark.parametrize(("tokens", "size"), [(1, 2), (1, 0), (16384, 2), (16384, 0)])
def test_what_an_e_step_reports_does_not_depend_on_its_minibatches(tokens, size) -> None:
    run = toy_run(minibatch_tokens=tokens, e_minibatch=size, e_epochs=2, beta=0.5)
    batch, policy = run.batch(), run.learner.policy
    q, prior = policy.score(batch.teacher), policy.score(batch.student)
    roles = watched(run, [1.0, None] if size == 0 else [None, 1.0, 0.0, None])
    done = e_step(run.learner, batch)
    updates = split(batch, size, "prompts", 2)
    assert roles == [TEACHER] * done.updates == [TEACHER] * len(updates)
    assert done.skipped == (1 if size == 0 else 2) and done.reason == ""
    shift = losses.reward_shift(q, prior, batch.success, 0.5).item()
    assert done.delta == pytest.approx(shift, abs=1e-5)
    each = [losses.bco_loss(q[rows], prior[rows], batch.success[rows], 0.5, shift).item() for rows in updates]
    assert done.loss == pytest.approx(sum(each) / len(each), abs=1e-5)
    read = [view.read for rows in updates for (view,) in policy.minibatches(batch.teacher, rows=rows)]
    assert done.tokens == sum(read)
    assert_close(done.teacher_logp, q)
    assert done.teacher_logp_after is None  # the M-step reads with the same weights
    assert done.mismatch is not None and done.mismatch.worst < 1e-4


def test_the_gradient_of_an_e_step_is_that_of_its_loss() -> None:
    run = toy_run(beta=0.5)
    batch, policy = run.batch(), run.learner.policy
    prior, policy.update = policy.score(batch.student), lambda role: 1.0
    shift = e_step(run.learner, batch).delta
    found = [p.grad.clone() for p in policy.parameters]
    policy.fresh()
    ((view,),) = policy.minibatches(batch.teacher)
    losses.bco_loss(policy.logp(view), prior[view.rows], batch.success[view.rows], 0.5, shift).backward()
    for a, b in zip(found, policy.parameters, strict=True):
        assert_close(a, b.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tokens", "size"), [(16384, 0), (16384, 1), (1, 0)])
def test_an_e_step_makes_no_pass_that_it_need_not(monkeypatch, tokens, size) -> None:
    run = toy_run(minibatch_tokens=tokens, e_minibatch=size)
    batch, policy, calls = run.batch(), run.learner.policy, []
    watched(run)
    real = policy.token_dist
    monkeypatch.setattr(policy, "token_dist", lambda view: calls.append(len(view.rows)) or real(view))
    e_step(run.learner, batch)
    checked = [CHECKED] if tokens > 1 else [1] * CHECKED
    # The first minibatch of the pass that finds the shift serves as the update's own, if that is over the whole batch.
    again = {(16384, 0): [16], (16384, 1): [16] + [4] * 4, (1, 0): [1] * 31}[tokens, size]
    assert calls == checked + again


def test_the_drift_of_a_teacher_apart_is_measured_on_a_few_rows(monkeypatch) -> None:
    monkeypatch.setattr(module, "DRIFT_ROWS", 3)
    monkeypatch.setattr(module, "DRIFT_SHARE", 1)
    run = toy_run(teacher="snapshot", lr=1e-2)
    batch, policy = run.batch(), run.learner.policy
    before, calls = policy.score(batch.teacher), []
    monkeypatch.setattr(run.learner.teacher, "after_e_step", lambda: calls.append(1))
    done = e_step(run.learner, batch)
    assert calls == [1]
    assert done.teacher_logp_after is not None and done.teacher_logp_after.shape == (3,)
    assert_close(done.teacher_logp, before)
    assert_close(done.teacher_logp_after, policy.score(batch.teacher)[:3])
    assert (done.teacher_logp_after - before[:3]).abs().max() > 1e-3


def test_the_objective_is_computed_with_the_teachers_adapter() -> None:
    run = toy_run(teacher="adapter", adapter_rank=4, lora_rank=4, e_epochs=2, lr=1e-2)
    batch, policy = run.batch(), run.learner.policy
    plain = policy.score(batch.teacher)
    e_step(run.learner, batch)
    with policy.as_teacher():
        q = policy.score(batch.teacher)
    assert_close(policy.score(batch.teacher), plain)
    assert (q - plain).abs().max() > 1e-3
    done = e_step(run.learner, batch)
    assert_close(done.teacher_logp, q)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(0.0, "Wrong."), "no success with feedback in the batch"),
        (Outcome(1.0, "Right."), "no failure with feedback in the batch"),
        (Outcome(1.0, None), "no rollout has feedback"),
    ],
)
def test_a_reason_is_given_where_it_cannot_run(outcome, reason) -> None:
    run = toy_run(method="joint")
    run.task.verify = lambda rollout: outcome
    done = e_step(run.learner, run.batch())
    assert (done.reason, done.loss, done.updates, done.skipped, done.tokens) == (reason, None, 0, 0, 0)


def test_numbers_that_are_not_finite_are_skipped_and_told(monkeypatch) -> None:
    for side, name in (("prior", "prior"), ("teacher", "score")):
        run = toy_run(e_minibatch=1)
        batch, bad = run.batch(), torch.full((16,), math.nan)
        roles = watched(run)
        if side == "prior":
            monkeypatch.setattr(run.learner, name, lambda batch, bad=bad: (bad, None))
        else:
            real = run.learner.policy.score
            monkeypatch.setattr(
                run.learner.policy,
                name,
                lambda views, *a, real=real, bad=bad: bad if len(views) == 16 else real(views, *a),
            )
        done = e_step(run.learner, batch)
        assert (done.reason, done.skipped, done.loss) == ("log-probabilities are not finite", 1, None)
        assert (done.mismatch is None) == (side == "prior")
        assert roles == []


# -- when E-steps end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),  # equal is no rise
        ([0.5, 0.4, 0.6], 1, True),  # and for good
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.45], 2, True),  # above the last, but not above the best
        ([0.1, 0.2, 0.3, 0.2, 0.3], 2, True),
        ([0.1, 0.2, 0.3, 0.2, 0.4, 0.3], 2, False),
    ],
)
def test_an_accuracy_stalls_where_its_best_is_not_exceeded(values, patience, expected) -> None:
    assert stalled(values, patience) is expected


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_e_steps_end_where_the_teachers_accuracy_has_stalled(whose, monkeypatch) -> None:
    run = toy_run(e_patience=2, eval_every=1, e_sample=whose, steps=5)
    accuracy = iter([0.5, 0.6, None, 0.6, 0.6, 0.9])  # before training, and after each iteration
    monkeypatch.setattr("vpdlab.run.run.evaluate", lambda run, step: {"step": step, "teacher_accuracy": next(accuracy)})
    rows = list(run.steps())
    assert [row["e_loss"] is not None for row in rows] == [True, True, True, True, False]
    assert rows[-1]["notes"] == "E-step did not run: the teacher's held-out accuracy has not risen in 2 evaluations"
    assert [row["teacher_rollouts"] for row in rows] == [16 if whose == "teacher" else None] * 4 + [None]


@pytest.mark.parametrize("fields", [{"eval_every": 0}, {"eval_every": 2, "eval_teacher": False}])
def test_patience_needs_evaluations_of_the_teacher(fields) -> None:
    with pytest.raises(UserError, match="e_patience is 3: it needs eval_every above 0, and eval_teacher"):
        toy_run(e_patience=3, **fields)
    toy_run(method="sdpo", e_patience=3, **fields)  # which has no E-step
