"""Does J ever fall? VPD's Proposition 1, case by case, with exact numbers.

The proposition says that J never falls when E-step and M-step are exact. What is true depends on which J is meant and
on what "exact" may be. Below, J_k is E[r] - beta KL to the student of iteration k, J_0 the same with the student of the
start; E[r] alone is what a user wants to rise. The tests named `holds` are cases where it does, those named `fails`
counterexamples.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from enumerated import FORKS, PRIOR, PROPERTY, REWARD, SMALL, gradient, problems, right, success, table
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from vpdlab import losses
from vpdlab.study.tabular import (
    M_STEPS,
    MStep,
    Tree,
    descend,
    em,
    expectation,
    grow,
    next_logp,
    objective,
    path_divergence,
    posterior,
    sequence_logp,
    table_of,
    tied,
)


def all_rise(values: list[float], slack: float = 1e-12) -> bool:
    return all(later >= now - slack for now, later in pairwise(values))


def successes(tree: Tree, tables: list[Tensor], reward: Tensor) -> list[float]:
    return [success(tree, x, reward).item() for x in tables]


def exact_em(reward: Tensor, beta: float, anchor: str, iterations: int) -> list[Tensor]:
    """log pi after each iteration, where a table can hold anything: the M-step copies q = pi*."""
    path = [PRIOR]
    for _ in range(iterations):
        path.append(posterior(path[0] if anchor == "fixed" else path[-1], reward, beta)[0])
    return path


def test_holds_dynamic_anchor_free_student_success_never_falls() -> None:
    """Each iteration multiplies the odds of success by exp(1 / beta): E[r] rises to 1."""
    reward, beta = REWARD[FORKS], 2.0
    path = exact_em(reward, beta, "dynamic", 5)
    rates = [expectation(logp, reward).item() for logp in path]
    start = rates[0] / (1 - rates[0])
    assert [p / (1 - p) for p in rates] == pytest.approx([start * math.exp(k / beta) for k in range(6)])
    anchored = [
        (objective(now, now, reward, beta).item(), objective(after, now, reward, beta).item())
        for now, after in pairwise(path)
    ]
    assert all(after > before for before, after in anchored)


def test_fails_dynamic_anchor_measured_from_the_start() -> None:
    """Again all steps are exact: J_0 reaches its maximum, beta log Z, after one iteration and then falls, because
    the anchor that J_0 charges for is not the one that the steps keep to. A fixed anchor stays at the maximum."""
    reward, beta = REWARD[FORKS], 0.5
    found = {}
    for anchor in ("dynamic", "fixed"):
        path = exact_em(reward, beta, anchor, 4)
        found[anchor] = [objective(logp, path[0], reward, beta).item() for logp in path]
    log_z = posterior(path[0], reward, beta)[1].item()
    assert found["fixed"] == pytest.approx([15 / 64, *[beta * log_z] * 4])
    assert found["dynamic"] == pytest.approx([0.234375, 0.457632, 0.360092, 0.294680, 0.278415], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_holds_any_student_with_the_exact_posterior_and_a_loss_over_responses(seed: int, beta: float) -> None:
    """For a student of any family, here one that cannot tell prefixes apart, and M-steps of any length that lower
    KL(pi||q) (then J_k rises, so E[r] by at least beta KL of the move) or KL(q||pi) (then log Z = log E[exp(r/beta)]
    rises, as in classical EM, and with r of 0 or 1 so does E[r])."""
    reward = torch.zeros(8, dtype=torch.float64)
    reward[torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:3]] = 1.0
    for name in ("reverse", "forward"):
        weights = em(
            FORKS, lambda w: tied(FORKS, w), table(SMALL, seed)[0], reward, beta,
            iterations=8, m_step=M_STEPS[name], lr=0.05, updates=4,
        )  # fmt: skip
        path = [sequence_logp(FORKS, tied(FORKS, w)) for w in weights]
        rates = [expectation(logp, reward).item() for logp in path]
        assert all_rise(rates)
        assert rates[-1] > rates[0] + 1e-4
        if name == "reverse":
            moves = [losses.kl(after, now).item() for now, after in pairwise(path)]
            gains = [after - now for now, after in pairwise(rates)]
            assert all(gain >= beta * move - 1e-12 for gain, move in zip(gains, moves, strict=True))


def test_holds_fixed_anchor_any_student_j_of_the_start_never_falls() -> None:
    reward, beta, start = REWARD[FORKS], 0.5, table(SMALL, 0)[0]
    weights = em(
        FORKS, lambda w: tied(FORKS, w), start, reward, beta, iterations=10, anchor="fixed", lr=0.05, updates=4
    )
    prior = sequence_logp(FORKS, tied(FORKS, start))
    values = [objective(sequence_logp(FORKS, tied(FORKS, w)), prior, reward, beta).item() for w in weights]
    assert all_rise(values)
    assert values[-1] > values[0] + 1e-3


@PROPERTY
@given(problems())
def test_holds_free_student_first_token_level_step_raises_success(
    problem: tuple[Tensor, Tensor, Tensor, float],
) -> None:
    """From pi = pi_ref the token-level pull at each prefix goes with log E[exp(r / beta)] of what follows, the policy
    gradient with E[r] of what follows: both rise with the chance of success, so their covariance is never negative."""
    prior, _, reward, beta = problem
    logits = table_of(SMALL, prior)
    teacher = table_of(SMALL, posterior(prior, reward, beta)[0])
    step = -gradient(lambda x: path_divergence(SMALL, x, teacher), logits)
    assert (step * gradient(lambda x: success(SMALL, x, reward), logits)).sum() >= -1e-12


def forgetful_em(m_step: MStep, beta: float, iterations: int = 8) -> list[float]:
    """P(token 1) over EM iterations, each M-step run to its end, of a student that has only this one number. The right
    response is "10": say 1, then not again. So E[r] = a (1 - a), best at 1/2."""
    weights = em(
        SMALL, lambda w: tied(SMALL, w), torch.tensor([0.4, 0.6], dtype=torch.float64).log(), REWARD[SMALL], beta,
        iterations=iterations, m_step=m_step, lr=0.5, updates=80,
    )  # fmt: skip
    return [w.softmax(-1)[1].item() for w in weights]


def test_fails_forgetful_student_and_token_level_m_step() -> None:
    """With the loss over responses a goes to 1/2. With the token-level loss, although the teacher is exact and the
    M-step goes to its end, E[r] falls in every iteration, from 0.24 to 0.144. In units of reward, "1" is pulled up at
    the first token by beta log Z_1, what the teacher expects of it, and down at the second by the whole reward. They
    balance where beta log(1 + (e^(1/beta) - 1)(1 - a)) = a, not where 1 - a = a."""
    beta = 0.1
    whole, token = forgetful_em(M_STEPS["reverse"], beta), forgetful_em(M_STEPS["token"], beta, 12)
    assert all_rise([a * (1 - a) for a in whole])
    assert whole[-1] * (1 - whole[-1]) == pytest.approx(0.25, abs=1e-4)
    assert all_rise([-a * (1 - a) for a in token])
    assert [a * (1 - a) for a in token[:4]] == pytest.approx([0.24, 0.1827, 0.1573, 0.1486], abs=1e-4)
    end = token[-1]
    assert end == pytest.approx(0.8254, abs=1e-3)
    assert beta * math.log(1 + math.expm1(1 / beta) * (1 - end)) == pytest.approx(end, abs=1e-3)
    assert all_rise([a * (1 - a) for a in forgetful_em(M_STEPS["token"], 1.0)])  # at beta 1 the same loss does well


@pytest.mark.parametrize(("alpha", "end"), [(0.5, 0.2229), (0.0, 0.2361)])
def test_fails_forgetful_student_whatever_the_divergence(alpha: float, end: float) -> None:
    """JS and forward KL as well: on the student's own prefixes, without future credit, E[r] falls from 0.24."""
    token = forgetful_em(partial(path_divergence, alpha=alpha), 0.1)
    assert all_rise([-a * (1 - a) for a in token])
    assert token[-1] * (1 - token[-1]) == pytest.approx(end, abs=1e-4)


def test_holds_forgetful_student_and_distils_future_credit() -> None:
    """The cross-entropy whose local term falls to 0.2361 climbs to 0.2413 where what follows a token counts for it."""

    def distil(tree: Tree, student: Tensor, teacher: Tensor) -> Tensor:
        cost = losses.forward_cross_entropy(next_logp(tree, student), next_logp(tree, teacher))
        return expectation(sequence_logp(tree, student), cost.sum(-1))

    path = forgetful_em(distil, 0.1)
    assert all_rise([a * (1 - a) for a in path])
    assert path[-1] * (1 - path[-1]) == pytest.approx(0.2413, abs=1e-4)


def test_fails_free_student_and_token_level_m_step_where_success_is_rare() -> None:
    """The right response is "00", each of its tokens has 1 in 50, and the student is free. On its way to q the
    token-level M-step moves the first token before the second: J falls to -0.2 before it rises. But E[r] rises all the
    way, and after 200 updates is 0.6 where descent of KL(pi||q) over responses, which begins as the policy gradient,
    has hardly left 0.0004: a teacher that sees ahead gives a signal where no success has been seen."""
    reward, beta = right(SMALL, "00"), 0.1
    logits = torch.tensor([[0.02, 0.98], [0.02, 0.98], [0.5, 0.5]], dtype=torch.float64).log()
    prior = sequence_logp(SMALL, logits)
    teacher = table_of(SMALL, posterior(prior, reward, beta)[0])
    found = {}
    for name in ("token", "reverse"):
        found[name] = descend(lambda x, loss=M_STEPS[name]: loss(SMALL, x, teacher), logits, lr=0.05, updates=200)
    values = [objective(sequence_logp(SMALL, x), prior, reward, beta).item() for x in found["token"]]
    assert [values[0], min(values), values[-1]] == pytest.approx([0.0004, -0.2040, 0.1332], abs=1e-4)
    assert all_rise(successes(SMALL, found["token"], reward))
    ends = [success(SMALL, found[name][-1], reward).item() for name in ("token", "reverse")]
    assert ends == pytest.approx([0.6090, 0.0005], abs=1e-4)


def test_fails_teacher_and_student_of_different_families() -> None:
    """Three responses, one token each, a third each; only the first is right. The teacher can do no more than tell the
    last from the others, the student no more than say how much it says the second. Both steps are exact within their
    families and over responses; the teacher gets better (E[r] from 1/3 to 0.498), the student that copies it worse
    (0.071), and J falls. This is where the proof of Proposition 1 breaks: KL(pi||pi*) is KL(pi||q) + E_pi[log q/pi*],
    and the second term, held constant there, grows."""
    three, beta = grow(3, 1), 0.1
    reward, prior = right(three, "0"), torch.full((3,), 1 / 3, dtype=torch.float64).log()

    def teach(s: Tensor) -> Tensor:
        return torch.stack([s / 2, s / 2, 1 - s]).log()

    def study(b: Tensor) -> Tensor:
        return torch.stack([(1 - b) / 2, b, (1 - b) / 2]).log()

    s = torch.sigmoid(torch.tensor(math.log(2) + 1 / (2 * beta), dtype=torch.float64))
    q = teach(s)
    b = torch.sigmoid((q[1] - (q[0] + q[2]) / 2) - math.log(2))
    # J is concave in s and KL convex in b, so that a gradient of 0 is the optimum.
    assert abs(gradient(lambda x: objective(teach(x), prior, reward, beta), s).item()) < 1e-9
    assert abs(gradient(lambda x: losses.kl(study(x), q), b).item()) < 1e-9

    pi, log_z = study(b), posterior(prior, reward, beta)[1]
    rates = [expectation(logp, reward).item() for logp in (prior, q, pi)]
    values = [objective(logp, prior, reward, beta).item() for logp in (prior, q, pi)]
    assert rates == pytest.approx([1 / 3, 0.498321, 0.070509], abs=1e-6)
    assert values == pytest.approx([1 / 3, 0.459790, 0.011104], abs=1e-6)
    tilted = posterior(prior, reward, beta)[0]
    remainder = [expectation(logp, q - tilted).item() for logp in (prior, pi)]
    assert log_z.item() - values[2] / beta == pytest.approx(losses.kl(pi, q).item() + remainder[1])
    assert remainder[1] > remainder[0] + 1
    forward = study(q[1].exp())  # KL(q||pi) asks for q's share of the second: no better
    assert expectation(forward, reward).item() == pytest.approx(0.250840, abs=1e-6)


def test_fails_shared_weights_and_a_teacher_past_the_posterior() -> None:
    """One network, two views: teacher = base + what the feedback adds. Here feedback adds 3 nats of log-odds for the
    right one of two responses, pi* only 1 / beta = 1. So the exact E-step draws the teacher back, and with it the
    student, which is the same weights: E[r] from 0.5 to 0.119. One update of the M-step leaves it at 0.203; only an
    M-step to its end, toward the teacher as the E-step left it, ends above the start."""
    two, beta, offset = grow(2, 1), 1.0, torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    reward, base = right(two, "0"), torch.zeros(1, 2, dtype=torch.float64)
    prior = sequence_logp(two, base)
    path = descend(lambda x: -objective(sequence_logp(two, x + offset), prior, reward, beta), base, lr=2.0, updates=400)
    drawn = path[-1]
    teacher = (drawn + offset).detach()
    assert_close(sequence_logp(two, teacher), posterior(prior, reward, beta)[0])
    after = [descend(lambda x: path_divergence(two, x, teacher), drawn, lr=1.0, updates=n)[-1] for n in (1, 400)]
    rates = successes(two, [base, drawn, *after], reward)
    assert rates == pytest.approx([0.5, 0.119203, 0.202614, 0.731059], abs=1e-5)
