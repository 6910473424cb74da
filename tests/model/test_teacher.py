"""Which weights each kind of teacher reads the feedback with, before and after the steps that may move them."""

from __future__ import annotations

import pytest
import torch
from toy import equal, toy_run, weights

from vpdlab.learn.e_step import e_step
from vpdlab.learn.m_step import m_step
from vpdlab.learn.state import Batch
from vpdlab.model.teacher import Copy
from vpdlab.run import Run


def teacher_logp(run: Run, batch: Batch) -> torch.Tensor:
    """All log-probabilities of the M-step's teacher on the first rows, [N, V]."""
    (view,) = next(iter(run.learner.policy.minibatches(batch.teacher, rows=range(4))))
    return run.learner.teacher.token_dist(view).logp()


def steps(run: Run, batch: Batch) -> list[torch.Tensor]:
    """The teacher at the start, after an E-step, and after the M-step that follows it."""
    seen = [teacher_logp(run, batch)]
    e_step(run.learner, batch)
    seen.append(teacher_logp(run, batch))
    m_step(run.learner, batch, run.method)
    run.learner.teacher.after_iteration()
    return [*seen, teacher_logp(run, batch)]


@pytest.mark.parametrize(
    ("kind", "after_e", "after_m"),
    [
        ("shared", True, True),
        ("ema", False, True),
        ("snapshot", True, False),
        ("frozen", False, False),
        ("adapter", True, True),  # the base under the adapter moves with the student
    ],
)
def test_what_moves_a_teacher(kind, after_e, after_m):
    run = toy_run(teacher=kind)
    start, e, m = steps(run, run.batch())
    assert torch.equal(start, e) != after_e
    assert torch.equal(e, m) != after_m


def test_ema_follows_by_its_rate():
    run = toy_run(teacher="ema", teacher_rate=0.25)
    copy = run.learner.teacher.kept
    start = [value.clone() for value in copy.values]
    with torch.no_grad():
        for p in run.learner.policy.parameters:
            p.add_(1.0)
    run.learner.teacher.after_iteration()
    for before, after in zip(start, copy.values, strict=True):
        torch.testing.assert_close(after, before + 0.25)


@pytest.mark.parametrize(("mix", "twin"), [(0.0, "frozen"), (1.0, "shared")])
def test_the_trust_region_ends_at_frozen_and_at_live(mix, twin):
    runs = toy_run(teacher="trust-region", trust_mix=mix), toy_run(teacher=twin)
    batch = runs[0].batch()
    for run in runs:
        with torch.no_grad():
            run.learner.policy.parameters[0].mul_(1.5)  # the live weights have left the frozen ones
    torch.testing.assert_close(teacher_logp(runs[0], batch), teacher_logp(runs[1], batch), rtol=1e-4, atol=1e-4)


def test_the_trust_region_is_the_normalised_geometric_mixture():
    run, frozen = toy_run(teacher="trust-region", trust_mix=0.3), toy_run(teacher="frozen")
    batch = run.batch()
    with torch.no_grad():
        run.learner.policy.parameters[0].mul_(1.5)
    live = toy_run(teacher="shared")
    with torch.no_grad():
        live.learner.policy.parameters[0].mul_(1.5)
    p_frozen, p_live = teacher_logp(frozen, batch).exp(), teacher_logp(live, batch).exp()
    unnormalised = p_frozen**0.7 * p_live**0.3
    expected = (unnormalised / unnormalised.sum(-1, keepdim=True)).log()
    torch.testing.assert_close(teacher_logp(run, batch), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_an_adapter_teacher_is_trained_by_the_e_step_alone(lora_rank):
    run = toy_run(teacher="adapter", lora_rank=lora_rank)
    batch, policy = run.batch(), run.learner.policy
    mine = {id(p) for p in policy.teacher_parameters}
    assert not mine & {id(p) for p in policy.parameters}

    def snapshot() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [p.detach().clone() for p in policy.parameters], [p.detach().clone() for p in policy.teacher_parameters]

    def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    student, teacher = snapshot()
    e_step(run.learner, batch)
    after_e = snapshot()
    assert same(after_e[0], student) and not same(after_e[1], teacher)
    m_step(run.learner, batch, run.method)
    after_m = snapshot()
    assert not same(after_m[0], after_e[0]) and same(after_m[1], after_e[1])


def test_a_fresh_adapter_teacher_starts_as_the_student():
    decoupled, shared = toy_run(teacher="adapter"), toy_run(teacher="shared")
    batch = shared.batch()
    torch.testing.assert_close(teacher_logp(decoupled, batch), teacher_logp(shared, batch), rtol=0, atol=0)


def test_lent_weights_come_back_and_take_no_gradient():
    run = toy_run()
    copy, start = Copy(run.learner.policy), weights(run)
    for value in copy.values:
        value.zero_()
    with torch.no_grad(), pytest.raises(KeyError), copy.lent():  # also after an error inside
        assert not run.learner.policy.parameters[0].any()
        raise KeyError
    assert equal(weights(run), start)
    with pytest.raises(RuntimeError, match="without gradient only"), copy.lent():
        pass
