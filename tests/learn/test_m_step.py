"""The M-step by hand: means over the batch, what it reports of student and teacher, and what it hands to a method."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from toy import Parity, toy_run

from vpdlab.errors import UserError
from vpdlab.learn.m_step import Method, Seen, m_step, survey
from vpdlab.learn.methods import METHODS
from vpdlab.model.comparison import Support, compare_tokens
from vpdlab.model.policy import STUDENT
from vpdlab.run import Run
from vpdlab.types import Outcome


class SomeSilent(Parity):
    """Every third rollout of a group has no feedback."""

    def verify(self, rollout) -> Outcome:
        right = sum(rollout.response_ids) % 2 == 0
        return Outcome(float(right), None if rollout.index == 2 else f"Digit {rollout.index} is wrong.", "x")


def opened(name: str, **fields: Any) -> Run:
    return toy_run(task=SomeSilent(), method=name, **{"support": "full", **fields})


# -- means ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregate", "chosen", "expected"),
    [
        ("token", None, 15 / 6),  # tokens 1, 2 | 4 | 8 of rows 0, 1, 2 with 2, 1 and 3 tokens in all
        ("token", [True, False, True], 11 / 5),
        ("token", [False, True, False], 4.0),
        ("token", [False, False, False], 0.0),
        ("sequence", None, (3 / 2 + 4 + 8 / 3) / 3),
        ("sequence", [True, False, True], (3 / 2 + 8 / 3) / 2),
        ("sequence", [False, True, False], 4.0),
        ("sequence", [False, False, False], 0.0),
    ],
)
def test_a_minibatchs_share_of_the_mean(aggregate, chosen, expected) -> None:
    batch = SimpleNamespace(lengths=torch.tensor([2.0, 1.0, 3.0]), success=torch.tensor([True, False, False]))
    seen: Any = SimpleNamespace(
        batch=batch, rows=torch.tensor([0, 0, 1, 2]), config=SimpleNamespace(aggregate=aggregate)
    )
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    which = None if chosen is None else torch.tensor(chosen)
    seen._share = partial(Seen._share, seen)
    got = Seen.mean(seen, values, which)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(expected)


def test_a_value_of_a_rollout_that_is_not_chosen_is_not_read() -> None:
    batch = SimpleNamespace(lengths=torch.tensor([1.0, 1.0]), success=torch.tensor([True, True]))
    seen: Any = SimpleNamespace(batch=batch, rows=torch.tensor([0, 1]), config=SimpleNamespace(aggregate="token"))
    values = torch.tensor([3.0, math.nan])
    seen._share = partial(Seen._share, seen)
    assert Seen.mean(seen, values, torch.tensor([True, False])).item() == 3.0


# -- what an M-step reports ----------------------------------------------------------------------------------------


def held(run: Run, norm: float | None) -> list[str]:
    """Let the update change nothing and return this norm; the list will name whose optimiser stepped."""
    roles: list[str] = []
    run.learner.policy.update = lambda role: roles.append(role) or norm
    return roles


@pytest.mark.parametrize("tokens", [1, 16384])
@pytest.mark.parametrize(("name", "teacher"), [("sdpo", "shared"), ("joint", "frozen"), ("grpo", "shared")])
def test_what_an_m_step_reports_by_hand(name, teacher, tokens) -> None:
    run = opened(name, minibatch_tokens=tokens, teacher=teacher)
    policy, both = run.learner.policy, name != "grpo"
    with torch.no_grad():  # so that a frozen teacher differs from the student without feedback too
        for parameter in policy.parameters:
            parameter.mul_(1.1)
    batch = run.batch()
    roles = held(run, 2.5)
    done = m_step(run.learner, batch, run.method)
    assert (done.reason, done.grad_norm, done.skipped, roles) == ("", 2.5, 0, [STUDENT])
    kl, kl_teacher, entropy, read = 0.0, 0.0, 0.0, 0
    sides = [batch.student, batch.teacher] if both else [batch.student]
    with torch.no_grad():
        for views in policy.minibatches(*sides):
            read += sum(view.read for view in views)
            logp = policy.token_dist(views[0]).logp()
            entropy -= (logp.exp() * logp).sum().item()
            if both:
                q = run.learner.teacher.token_dist(views[1]).logp()
                spoken = batch.signal[views[0].rows.repeat_interleave(views[0].mask.sum(1))]
                kl += (logp.exp() * (logp - q)).sum(1)[spoken].sum().item()
                kl_teacher += (q.exp() * (q - logp)).sum(1)[spoken].sum().item()
    count = int(batch.lengths[batch.signal].sum())
    assert 0 < count < batch.response_tokens or name == "sdpo"
    assert done.tokens == read
    assert done.entropy == pytest.approx(entropy / batch.response_tokens, rel=1e-4)
    assert_close(done.student_logp, policy.score(batch.student))
    if both:
        if teacher == "shared":
            assert_close(done.teacher_logp, policy.score(batch.teacher))
        assert done.kl == pytest.approx(kl / count, rel=1e-3)
        assert done.kl_teacher == pytest.approx(kl_teacher / count, rel=1e-3)
    else:
        assert (done.teacher_logp, done.kl, done.kl_teacher) == (None, None, None)
    if name == "sdpo":
        assert done.loss == pytest.approx(kl / count, rel=1e-3)  # alpha 1: its loss is this KL
    assert done.mismatch is not None and 0 < done.mismatch.worst < 1e-4
    assert done.mismatch._count == batch.response_tokens


def test_without_any_feedback_there_is_no_kl() -> None:
    run = opened("joint")
    run.task.verify = lambda rollout: Outcome(float(rollout.index == 0), None)
    done = m_step(run.learner, run.batch(), run.method)
    assert (done.kl, done.kl_teacher) == (None, None)
    assert done.teacher_logp is not None and done.loss is not None


def test_a_kl_of_zero_is_a_number() -> None:
    run = opened("sdpo")
    batch = run.batch()
    done = m_step(run.learner, dataclasses.replace(batch, teacher=batch.student), run.method)
    assert done.kl == pytest.approx(0.0, abs=1e-6) and done.kl_teacher == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("norm", "reason", "skipped"),
    [(0.0, "nothing to learn from this batch: the gradient is 0", 0), (None, "", 1), (1e-9, "", 0)],
)
def test_an_update_that_changes_nothing_is_told(norm, reason, skipped) -> None:
    run = opened("grpo")
    held(run, norm)
    done = m_step(run.learner, run.batch(), run.method)
    assert (done.reason, done.grad_norm, done.skipped) == (reason, norm, skipped)


def test_an_empty_batch_is_told_and_touches_nothing() -> None:
    run = opened("sdpo")
    batch = run.batch()
    roles = held(run, 1.0)
    done = m_step(run.learner, batch.select(torch.zeros_like(batch.signal)), run.method)
    assert done == type(done)(reason="no rollout has feedback")
    assert roles == []


def test_the_mismatch_is_that_of_the_weights_that_sampled() -> None:
    run = opened("grpo")
    batch = run.batch()
    run.learner.exact = False
    off = [dataclasses.replace(r, logps=tuple(x + 0.5 for x in r.logps)) for r in batch.rollouts]
    done = m_step(run.learner, dataclasses.replace(batch, rollouts=off), run.method)
    assert done.mismatch is not None and done.mismatch.mean == pytest.approx(0.5, abs=1e-4)
    assert done.mismatch.kl == pytest.approx(math.exp(-0.5) - 0.5, abs=1e-4)
    assert m_step(run.learner, batch, run.method).mismatch is None  # the update has moved the student


# -- what a method and a watcher see -------------------------------------------------------------------------------


def test_a_method_sees_the_numbers_of_its_minibatch() -> None:
    run = opened("joint", minibatch_tokens=300, alpha=0.5, support="topk", top_k=5)
    batch, policy, teacher = run.batch(), run.learner.policy, run.learner.teacher
    prepared = {"some": torch.ones(1)}
    found = list(survey(run.learner, batch, run.method, prepared))
    assert len(found) > 1
    assert torch.cat([seen.view.rows for seen, _, _ in found]).sort().values.tolist() == list(range(16))
    walk = policy.minibatches(batch.student, batch.teacher)
    for (seen, dists, count), (student, other) in zip(found, walk, strict=True):
        assert list(dists) == ["teacher", "student"]
        p, q = policy.token_dist(student), teacher.token_dist(other)
        for name, dist in (("student", p), ("teacher", q)):
            assert_close(dists[name].logp(), dist.logp())
        expected = compare_tokens(p, q, student.tokens, Support("topk", 5, "bucket"), 0.5, 64)
        assert_close(seen.both.divergence, expected.divergence)
        assert_close(seen.logp, expected.student_logp)
        assert_close(seen.entropy, expected.student_entropy)
        assert seen.rows.tolist() == [r for r in seen.view.rows.tolist() for _ in batch.rollouts[r].response_ids]
        assert (seen.config, seen.batch, seen.prepared) == (run.config, batch, prepared)
        assert seen.vocabulary == p.logp().shape[1]
        assert seen.step == batch.step
        assert count == student.read + other.read


def test_without_a_teacher_a_method_sees_the_student_alone() -> None:
    run = opened("grpo", support="topk", top_k=3)
    ((seen, dists, _),) = survey(run.learner, run.batch(), run.method)
    logp = dists["student"].logp()
    assert list(dists) == ["student"] and seen.found is None and seen.prepared == {}
    assert_close(seen.logp, logp.gather(1, seen.view.tokens[:, None])[:, 0])
    assert_close(seen.entropy, -(logp.exp() * logp).sum(1))


def test_the_students_distributions_can_come_from_elsewhere() -> None:
    run = opened("sdpo")
    calls = []

    def forward(view):
        calls.append(view)
        return run.learner.policy.token_dist(view)

    found = list(survey(run.learner, run.batch(), run.method, forward=forward))
    assert [view is seen.view for view, (seen, _, _) in zip(calls, found, strict=True)] == [True] * len(found)


def test_what_a_method_prepares_and_its_options_reach_its_loss() -> None:
    kept: list[Seen] = []

    def loss(seen: Seen):
        kept.append(seen)
        return seen.mean(-seen.logp)

    method = Method(
        "mine", "a test", loss, views="student", options={"power": 2.0, "name": "x"},
        prepare=lambda learner, batch, method: {"own": batch.rewards + len(method.name)},
    )  # fmt: skip
    run = toy_run(method="grpo")
    run.learner.config = dataclasses.replace(run.config, method_args=("power=3",))
    batch = run.batch()
    watched: list[tuple[Seen, list[str]]] = []
    done = m_step(run.learner, batch, method, watch=lambda seen, dists: watched.append((seen, list(dists))))
    (seen,) = kept
    assert watched == [(seen, ["student"])]
    assert seen.options == {"power": 3.0, "name": "x"}
    assert seen.prepared["own"].tolist() == (batch.rewards + 4).tolist()
    assert done.loss == pytest.approx(-seen.logp.mean().item(), abs=1e-5)


def test_a_measure_replaces_the_divergence() -> None:
    run = opened("sdpo")
    measured: list[Any] = []

    def measure(config):
        measured.append(config)
        return lambda s, t: (s.exp() * (s - t)).sum(-1) * 2.0

    doubled = dataclasses.replace(METHODS["sdpo"], measure=measure)
    batch = run.batch()
    ((plain, _, _),), ((twice, _, _),) = (survey(run.learner, batch, m) for m in (METHODS["sdpo"], doubled))
    assert measured == [run.config]
    assert_close(twice.both.divergence, 2 * plain.both.divergence, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "args", "words"),
    [
        ({}, ("a=1",), "method mine has no option 'a': it takes none"),
        ({"b": 1, "c": "x"}, ("b=2", "a=1"), "method mine has no option 'a': it takes b, c"),
        ({"b": 1}, ("b=x",), "method mine: b is 'x', but must be"),
    ],
)
def test_options_that_a_method_does_not_take_are_refused(options, args, words) -> None:
    method = Method("mine", "a test", lambda seen: seen.logp.sum(), options=options)
    with pytest.raises(UserError, match=words):
        method.option_values(SimpleNamespace(method_args=args))  # type: ignore[arg-type]


def test_options_are_read_as_the_type_of_their_default() -> None:
    method = Method("mine", "a test", lambda seen: seen.logp.sum(), options={"b": 1, "c": "x", "d": 0.5})
    config: Any = SimpleNamespace(method_args=("c=7", "d=2"))
    assert method.option_values(config) == {"b": 1, "c": "7", "d": 2.0}
