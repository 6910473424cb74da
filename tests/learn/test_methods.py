"""Each method on the same rollouts: what it asks of each token against a formula written out here, and what it does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from toy import equal, toy_run, train, weights

from vpdlab.errors import UserError
from vpdlab.learn.e_step import OBJECTIVES, e_step
from vpdlab.learn.m_step import m_step
from vpdlab.learn.methods import METHODS, get_method
from vpdlab.learn.state import Batch, adapted
from vpdlab.model.policy import TEACHER
from vpdlab.record import METRICS, load_run
from vpdlab.run import Run
from vpdlab.study.anatomy import pushes
from vpdlab.types import Outcome

FULL = {"support": "full", "max_new_tokens": 6}
OPSD = {"teacher": "frozen", "feedback": ("reference",)}


class SomeSilent:
    """Right where the ids add up to an even number; every third rollout hears nothing."""

    name, summary = "some-silent", "some rollouts have no feedback"

    def __init__(self, task) -> None:
        self.load = task.load

    def verify(self, rollout) -> Outcome:
        right = sum(rollout.response_ids) % 2 == 0
        return Outcome(float(right), None if rollout.index == 2 else f"Digit {rollout.index} is wrong.", "x")


def opened(name: str, **fields) -> Run:
    run = toy_run(method=name, **{**FULL, **(OPSD if name == "opsd" else {}), **fields})
    run.task = SomeSilent(run.task)
    return run


class Facts:
    """All there is to know about a batch, row by row: log-probabilities [T, V] of both sides, advantage, signal."""

    def __init__(self, run: Run, batch: Batch) -> None:
        policy = run.learner.policy
        self.rows, self.batch = range(len(batch)), batch
        self.n = batch.response_tokens
        self.spoken = int(batch.lengths[batch.signal].sum())
        self.tokens = [torch.tensor(r.response_ids) for r in batch.rollouts]
        with torch.no_grad():
            self.student = [next(policy.minibatches([view]))[0] for view in batch.student]
            self.student = [policy.token_dist(view).logp() for view in self.student]
            teacher = run.learner.teacher
            self.teacher = [teacher.token_dist(next(policy.minibatches([v]))[0]).logp() for v in batch.teacher]
        rewards = [rollout.verified.reward for rollout in batch.rollouts]
        groups = [rollout.group for rollout in batch.rollouts]
        means = {g: sum(r for r, h in zip(rewards, groups, strict=True) if h == g) / groups.count(g) for g in groups}
        self.advantage = [r - means[g] for r, g in zip(rewards, groups, strict=True)]

    def at(self, side: list[Tensor], row: int) -> Tensor:
        return side[row].gather(1, self.tokens[row][:, None])[:, 0]

    def difference(self, row: int) -> Tensor:
        return (self.at(self.teacher, row) - self.at(self.student, row)) * float(self.batch.signal[row])

    def score(self, row: int, weight: Tensor | float) -> Tensor:
        """[T, V] weight times the gradient of log pi(y_t) with respect to the logits."""
        one_hot = torch.nn.functional.one_hot(self.tokens[row], self.student[row].shape[1]).float()
        return torch.as_tensor(weight).reshape(-1, 1) * (one_hot - self.student[row].exp())


def check(run: Run, expected, step: int = 1) -> None:
    """`expected(facts, row)` is minus the gradient of the loss with respect to the logits, times all its tokens."""
    batch = dataclasses.replace(run.batch(), step=step)
    facts = Facts(run, batch)
    found = pushes(run.learner, batch, run.method)
    assert max(push.size.max().item() for push in found) > 1e-3
    for row in facts.rows:
        assert_close(found[row].logits, expected(facts, row), rtol=1e-3, atol=1e-5)


# -- what each method asks of each token ---------------------------------------------------------------------------


def test_grpo_pushes_each_token_by_its_advantage() -> None:
    check(opened("grpo"), lambda f, row: f.score(row, f.advantage[row]))


def test_grpo_by_sequences_divides_by_the_length_of_each() -> None:
    run = opened("grpo", aggregate="sequence")

    def expected(f: Facts, row: int) -> Tensor:
        return f.score(row, f.advantage[row]) * f.n / len(f.tokens[row]) / len(f.batch)

    check(run, expected)


def test_grpo_scaled_divides_by_the_deviation() -> None:
    def expected(f: Facts, row: int) -> Tensor:
        group = [r for r in f.rows if f.batch.rollouts[r].group == f.batch.rollouts[row].group]
        deviation = math.sqrt(sum(f.advantage[r] ** 2 for r in group) / len(group))
        return f.score(row, f.advantage[row] / deviation if deviation else 0.0)

    check(opened("grpo", advantage="std"), expected)


def test_grpo_pays_for_leaving_its_average() -> None:
    """By k3, 1 - ref / pi on each sampled token; the reference is a moving average of the weights."""
    run = opened("grpo", kl_coef=0.5, ref_rate=0.25, lr=3e-3)
    policy, start = run.learner.policy, [p.detach().clone() for p in run.learner.policy.parameters]
    train(run, 1)
    assert run.learner.reference is not None
    for mine, old, live in zip(run.learner.reference.values, start, policy.parameters, strict=True):
        assert_close(mine, 0.75 * old + 0.25 * live.detach())

    def expected(f: Facts, row: int) -> Tensor:
        with torch.no_grad(), run.learner.reference.lent():
            reference = policy.token_dist(next(policy.minibatches([f.batch.student[row]]))[0]).logp()
        ratio = (f.at([reference] * len(f.batch), row) - f.at(f.student, row)).exp()
        assert (ratio - 1).abs().max() > 1e-3
        return f.score(row, f.advantage[row] - 0.5 * (1 - ratio))

    check(run, expected)


def test_nsr_pushes_down_failures_alone() -> None:
    check(opened("nsr", nsr_weight=0.5), lambda f, row: f.score(row, -0.5 * (not f.batch.success[row])))


def test_rltf_pushes_attempts_against_the_mean_of_the_first_ones() -> None:
    run = opened("rltf")
    first = run.verify(run.rollouts(1))  # those that hear nothing count for the mean as well

    def expected(f: Facts, row: int) -> Tensor:
        mine = f.batch.rollouts[row]
        rewards = [r.verified.reward for r in first if r.group == mine.group]
        assert len(rewards) == 4 and mine.response_ids not in [r.response_ids for r in first]
        return f.score(row, mine.verified.reward - sum(rewards) / 4)

    check(run, expected)


def test_pi_distill_pushes_the_student_by_its_clipped_ratio_and_the_forward_kl() -> None:
    run = opened("pi-distill", pi_alpha=0.25, beta=0.3, clip_low=0.02, clip_high=0.03)
    clipped = []

    def expected(f: Facts, row: int) -> Tensor:
        a, ratio = f.advantage[row], (f.at(f.student, row) - f.at(f.teacher, row)).exp()
        kept = (ratio < 1.03 if a > 0 else ratio > 0.98).float()
        clipped.append(1 - kept.mean().item())
        return 0.75 * (f.score(row, a * ratio * kept) + 0.3 * forward_kl(f, row))

    check(run, expected)
    assert 0 < sum(clipped) < len(clipped)


def test_pi_distill_moves_the_teacher_by_the_policy_gradient_and_the_reverse_kl() -> None:
    run = opened("pi-distill", pi_alpha=1.0, beta=0.3)
    batch, policy = run.batch(), run.learner.policy
    policy.update = lambda role: 1.0
    m_step(run.learner, batch, run.method)
    found = [p.grad.clone() for p in policy.parameters]
    policy.fresh()
    f, loss = Facts(run, batch), torch.zeros(())
    for row, view in enumerate(batch.teacher):
        q = policy.token_dist(next(policy.minibatches([view]))[0]).logp()
        sampled = q.gather(1, f.tokens[row][:, None])[:, 0]
        kl = (q.exp() * (q - f.student[row])).sum(1)
        loss = loss + (0.3 * kl - f.advantage[row] * sampled).sum() / f.n
    loss.backward()
    assert max(p.grad.abs().max() for p in policy.parameters) > 1e-3
    for a, p in zip(found, policy.parameters, strict=True):
        assert_close(a, p.grad, rtol=1e-3, atol=1e-5)


def test_rft_pushes_successes_alone() -> None:
    def expected(f: Facts, row: int) -> Tensor:
        total = int(f.batch.lengths[f.batch.success].sum())
        return f.score(row, float(f.batch.success[row]) * f.n / total)

    check(opened("rft"), expected)


def forward_kl(f: Facts, row: int) -> Tensor:
    return f.teacher[row].exp() - f.student[row].exp()


def reverse_kl(f: Facts, row: int) -> Tensor:
    p, ratio = f.student[row].exp(), f.teacher[row] - f.student[row]
    return p * (ratio - (p * ratio).sum(1, keepdim=True))


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, forward_kl), (1.0, reverse_kl)])
def test_sdpo_pushes_by_its_divergence(alpha, expected) -> None:
    check(opened("sdpo", alpha=alpha), expected)


def test_distil_without_the_future_is_forward_kl() -> None:
    check(opened("distil", distil_future=False), forward_kl)


def future(f: Facts, row: int, discount: float = 1.0) -> Tensor:
    """[T] sum over i > t of discount^(i-t) H_i, written as a double loop."""
    cost = -(f.teacher[row].exp() * f.student[row]).sum(1)
    count = len(cost)
    sums = [sum(discount ** (i - t) * cost[i].item() for i in range(t + 1, count)) for t in range(count)]
    return torch.tensor(sums)


@pytest.mark.parametrize("discount", [1.0, 0.5, 0.0])
def test_distil_gives_each_token_credit_for_what_comes_after_it(discount) -> None:
    def expected(f: Facts, row: int) -> Tensor:
        return forward_kl(f, row) - f.score(row, future(f, row, discount))

    check(opened("distil", distil_discount=discount), expected)


def test_distil_future_alone_against_the_siblings() -> None:
    def expected(f: Facts, row: int) -> Tensor:
        mine = f.batch.rollouts[row]
        others = [r for r in f.rows if f.batch.rollouts[r].group == mine.group and r != row]
        baseline = torch.zeros(20)
        for other in others:
            later = future(f, other)
            baseline[: len(later)] += later / len(others)
        return -f.score(row, future(f, row) - baseline[: len(f.tokens[row])])

    check(opened("distil", distil_local=False, distil_baseline=True), expected)


def test_joint_is_the_weighed_sum() -> None:
    def expected(f: Facts, row: int) -> Tensor:
        spoken = float(f.batch.signal[row]) * f.n / f.spoken
        return 0.3 * spoken * reverse_kl(f, row) + 2.0 * f.score(row, f.advantage[row])

    check(opened("joint", opd_weight=0.3, rl_weight=2.0), expected)


def test_reshape_adds_the_log_ratio_to_the_advantage() -> None:
    def expected(f: Facts, row: int) -> Tensor:
        return f.score(row, 2.0 * f.advantage[row] + 0.3 * f.difference(row))

    check(opened("reshape", opd_weight=0.3, rl_weight=2.0), expected)


def test_reweight_scales_the_advantage_within_its_clip() -> None:
    run = opened("reweight", reweight_alpha=0.5, reweight_clip=0.4, reweight_steps=10)

    def expected(f: Facts, row: int) -> Tensor:
        a = f.advantage[row]
        factor = (math.copysign(1.0, a) * (a != 0) * f.difference(row)).exp().clamp(0.6, 1.4)
        return f.score(row, a * (0.6 + 0.4 * factor))

    check(run, expected, step=3)  # two of ten steps on: a share of 0.4 is left


@pytest.mark.parametrize("gate", ["difference", "entropy", "either"])
def test_sdar_adds_gated_imitation_of_what_was_written(gate) -> None:
    def expected(f: Facts, row: int) -> Tensor:
        student = f.student[row]
        entropy = -(student.exp() * student).sum(1) / math.log(student.shape[1])
        d = f.difference(row)
        score = {"difference": d, "entropy": entropy, "either": 1 - (1 - entropy) * (1 - d)}[gate]
        spoken = float(f.batch.signal[row]) * f.n / f.spoken
        return f.score(row, f.advantage[row] + 0.5 * spoken * torch.sigmoid(3.0 * score))

    check(opened("sdar", sdar_weight=0.5, sdar_sharpness=3.0, sdar_gate=gate), expected)


def test_opsd_cuts_each_entry_of_the_forward_kl() -> None:
    check(opened("opsd", opsd_clip=1e6), forward_kl)

    def expected(f: Facts, row: int) -> Tensor:
        t = f.teacher[row].exp()
        kept = (t * (f.teacher[row] - f.student[row]) < 0.002) * t
        return kept - kept.sum(1, keepdim=True) * f.student[row].exp()

    check(opened("opsd", opsd_clip=0.002), expected)


def test_truncated_weights_scale_the_distillation() -> None:
    run = opened("sdpo", is_clip=1.5)
    batch = run.batch()
    # As if the sampler had found the first rollout's tokens half, the others' twice as likely.
    shifted = [
        dataclasses.replace(r, logps=tuple(x + math.log(0.5 if i == 0 else 2.0) for x in r.logps))
        for i, r in enumerate(batch.rollouts)
    ]
    plain = pushes(run.learner, batch, dataclasses.replace(METHODS["sdpo"]))
    found = pushes(run.learner, dataclasses.replace(batch, rollouts=shifted), METHODS["sdpo"])
    for i, (a, b) in enumerate(zip(plain, found, strict=True)):
        assert_close(b.logits, a.logits * (1.5 if i == 0 else 0.5), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [("reshape", {"opd_weight": 0.0}), ("reweight", {"reweight_alpha": 0.0}), ("sdar", {"sdar_weight": 0.0}),
     ("joint", {"opd_weight": 0.0})],
)  # fmt: skip
def test_a_hybrid_without_its_teacher_is_grpo(name, fields) -> None:
    hybrid, plain = opened(name, **fields), opened("grpo")
    for a, b in zip(*(pushes(run.learner, run.batch(), run.method) for run in (hybrid, plain)), strict=True):
        assert_close(a.logits, b.logits, rtol=1e-5, atol=1e-7)


# -- every method --------------------------------------------------------------------------------------------------

VARIANTS = [
    *((name, {}) for name in METHODS),
    ("grpo", {"aggregate": "sequence"}),
    ("distil", {"distil_baseline": True}),
    ("grpo", {"kl_coef": 0.1}),
    ("vpd", {"is_clip": 2.0, "support": "topk", "top_k": 5}),
]


@pytest.mark.parametrize(("name", "fields"), VARIANTS)
def test_minibatches_change_no_method(name, fields) -> None:
    gradients = []
    for tokens in (1, 16384):
        run = opened(name, minibatch_tokens=tokens, **fields)
        run.learner.policy.step = lambda *_: 1.0  # keep the gradient
        m_step(run.learner, run.batch(), run.method)
        gradients.append([p.grad for p in run.learner.policy.parameters])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_learns_and_says_what_it_did(name, tmp_path) -> None:
    run = opened(name, record=True, out=str(tmp_path / name), eval_every=-1)
    start = weights(run)
    list(run.steps())
    assert not equal(weights(run), start)
    record = load_run(tmp_path / name)
    both = run.method.views != "student"
    for row in record.rows:
        assert set(row) == set(METRICS)
        assert row["m_loss"] is not None and row["grad_norm"] > 0 and row["entropy"] > 0
        assert (row["e_loss"] is not None) == (name == "vpd")
        assert (row["kl"] is not None) == (row["kl_teacher"] is not None) == (row["margin"] is not None) == both
    own = run.method.samples == TEACHER
    spoken = 1.0 if name == "opsd" else 0.75
    assert record.rows[0]["signal_share"] == spoken
    assert record.rows[0]["teacher_rollouts"] == (12 if own else None)
    kept = [r for r in record.rollouts(2) if r["tokens"] is not None]
    assert len(kept) == (0 if own else 4)  # the numbers of a rollout, not of the response that the method learned from
    assert [r["teacher_text"] is not None for r in record.rollouts(2)] == [own and i % 4 != 2 for i in range(16)]
    for r in kept:
        assert (r["teacher_logp"] is not None) == (r["teacher_prompt"] is not None) == (both and r["signal"])
        assert len(r["student_logp"]) == len(r["response_ids"]) == len(r["student_top"])
        assert r["student_sum"] == pytest.approx(sum(r["student_logp"]), abs=1e-4)


@pytest.mark.parametrize(("name", "reward"), [("grpo", 1.0), ("grpo", 0.0), ("rft", 0.0), ("nsr", 1.0), ("rltf", 1.0)])
def test_where_nothing_can_be_learned_nothing_moves(name, reward) -> None:
    run = opened(name)
    train(run, 1)  # so that the optimiser has momentum that could move it
    run.task.verify = lambda rollout: Outcome(reward, "Right.")
    start = weights(run)
    row = train(run, 1)[0]
    assert equal(weights(run), start)
    assert row["grad_norm"] == 0.0
    assert "M-step did not run: nothing to learn from this batch" in row["notes"]


def test_a_method_can_be_added_by_one_function() -> None:
    def likelihood(seen):
        return seen.mean(-seen.logp)

    METHODS["likelihood"] = dataclasses.replace(METHODS["rft"], name="likelihood", loss=likelihood)
    try:
        run = opened("likelihood")
        start = weights(run)
        train(run, 1)
        assert not equal(weights(run), start)
    finally:
        del METHODS["likelihood"]


def test_a_method_without_teacher_that_asks_for_one_is_told() -> None:
    run = opened("grpo")
    run.method = dataclasses.replace(METHODS["sdpo"], views="student")
    with pytest.raises(ValueError, match="this method has no teacher"):
        m_step(run.learner, run.batch(), run.method)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "opsd"}, "method opsd is defined with teacher frozen: add --teacher frozen"),
        ({"method": "opsd", "teacher": "frozen"}, "method opsd is defined with feedback reference: add --feedback ref"),
        ({"method": "distil", "support": "sampled"}, "takes alpha 1, but method distil has a measure of its own"),
        ({"kl_target": 0.1, "beta_min": 2.0, "beta_max": 1.0}, "beta_min is 2: it must not be above beta_max"),
        ({"method": "pi-distill", "teacher": "ema"}, "pi-distill is defined with teacher shared: add --teacher shared"),
        (
            {"method": "rltf", "critic_learns": True},
            "critic_learns judges critiques by the student's rollouts, but method",
        ),
        ({"method": "grpo", "kl_coef": 0.1, "precision": "bfloat16"}, "kl_coef needs float32 weights"),
        ({"e_objective": "dpo"}, "e_objective is 'dpo': choose one of bco, kto, awr, pg"),
    ],
)
def test_settings_that_contradict_a_method(fields, words) -> None:
    with pytest.raises(UserError, match=words):
        toy_run(**fields)


def test_unknown_methods_are_refused_with_the_list() -> None:
    with pytest.raises(UserError, match="unknown method 'ppo': choose one of vpd, sdpo, grpo"):
        get_method("ppo")


# -- the E-step's choices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", ["dynamic", "fixed"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_trains_the_teacher(objective, anchor) -> None:
    run = opened("vpd", e_objective=objective, anchor=anchor, lr=3e-4)
    start = weights(run)
    done = e_step(run.learner, run.batch())
    assert not equal(weights(run), start)
    assert done.updates == 1 and math.isfinite(done.loss)
    assert (done.delta is not None) == (objective in ("bco", "kto"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_raises_the_margin(objective) -> None:
    """Many updates on one batch: successes gain over failures, whatever the objective."""
    run = opened("vpd", e_objective=objective, e_epochs=10, lr=3e-4)
    batch = run.batch().select(run.batch().signal)
    policy, success = run.learner.policy, batch.success
    before = policy.score(batch.teacher)
    e_step(run.learner, batch)
    change = policy.score(batch.teacher) - before
    assert change[success].mean() > change[~success].mean() + 0.1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_minibatches_change_no_objective(objective) -> None:
    gradients = []
    for tokens in (1, 16384):
        run = opened("vpd", e_objective=objective, minibatch_tokens=tokens)
        run.learner.policy.step = lambda *_: 1.0
        e_step(run.learner, run.batch())
        gradients.append([p.grad for p in run.learner.policy.parameters])
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_fixed_anchor_stays_where_the_run_began() -> None:
    run = opened("vpd", anchor="fixed")
    batch = run.batch()
    start = run.learner.policy.score(batch.student)
    train(run, 2)
    assert_close(run.learner.prior(batch)[0], start, rtol=1e-6, atol=1e-6)
    assert (run.learner.policy.score(batch.student) - start).abs().max() > 1e-3


def test_the_dynamic_anchor_slides_along() -> None:
    run = opened("vpd")
    train(run, 2)
    batch = run.batch()
    assert_close(run.learner.prior(batch)[0], run.learner.policy.score(batch.student), rtol=1e-6, atol=1e-6)
    e_step(run.learner, batch)  # what the sampler said is history now
    assert torch.equal(run.learner.prior(batch)[0], run.learner.policy.score(batch.student))
    assert (run.learner.prior(batch)[0] - batch.sampled_logp).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.2, 0.2), (0.13, 0.1), (0.07, 0.1), (0.05, 0.05), (9.9, 0.2), (0.0, 0.05)]
)
def test_beta_follows_the_kl(kl, expected) -> None:
    assert adapted(0.1, kl, 0.1, 0.001, 10.0) == pytest.approx(expected)
    assert adapted(0.1, kl, 0.1, 0.08, 0.15) == pytest.approx(min(max(expected, 0.08), 0.15))


def test_a_run_with_a_target_logs_the_beta_that_it_used() -> None:
    rows = train(opened("vpd", kl_target=1e-9, e_every=2, beta_max=0.4), 7)
    assert [row["beta"] for row in rows] == [
        0.1,
        0.1,
        0.2,
        0.2,
        0.4,
        0.4,
        0.4,
    ]  # doubled after steps 2 and 4, then held
    rows = train(opened("vpd", kl_target=1e3, e_every=1), 3)
    assert [row["beta"] for row in rows] == [0.1, 0.05, 0.025]
    assert [row["beta"] for row in train(opened("vpd"), 2)] == [0.1, 0.1]


def test_the_e_step_takes_rollouts_with_feedback_alone() -> None:
    run = opened("vpd")
    run.method = dataclasses.replace(METHODS["joint"], e_step=e_step)
    everyone = run.batch()
    done = run.method.e_step(run.learner, everyone)
    assert len(everyone) == 16 and int(everyone.signal.sum()) == 12
    assert done.teacher_logp.shape == (12,)
    rows = train(run, 1)
    assert rows[0]["teacher_drift"] > 0 and rows[0]["n_success"] + rows[0]["n_failure"] == 12
