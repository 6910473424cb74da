"""Compiled scoring: the values and gradients of the plain passes, whatever the support, the measure, the chunks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from devices import DEVICES
from torch import Tensor

from vpdlab import losses
from vpdlab.model import compiling, fused
from vpdlab.model.comparison import Support, compare_tokens, logp_and_entropy, token_logp
from vpdlab.model.distributions import Measure, Term, TokenDist

N, H, V = 150, 16, 3001  # at 1 MiB a chunk has 64 rows: 150 rows are three, the last one short

pytestmark = pytest.mark.slow  # compiling takes seconds
TOPK = Support("topk", 20)
CASES: dict[str, tuple[Support, float, Measure | None]] = {
    "reverse": (TOPK, 1.0, None),
    "jensen-shannon": (TOPK, 0.5, None),
    "forward": (TOPK, 0.0, None),
    "renormalised": (Support("topk", 20, "renormalise"), 0.5, None),
    "sampled": (Support("sampled"), 1.0, None),
    "cross-entropy": (TOPK, 0.5, losses.forward_cross_entropy),
    "clipped": (TOPK, 0.5, partial(losses.clipped_forward_kl, largest=0.05)),
    "full": (Support(), 0.5, None),
}


@pytest.fixture(params=DEVICES, scope="module")
def device(request: pytest.FixtureRequest) -> str:
    if why := compiling.obstacle(request.param):
        pytest.skip(f"missing: a compiler ({why})")
    return request.param


def sides(device: str, fuse: bool, kind: torch.dtype, temperature: float = 0.8) -> tuple[TokenDist, TokenDist, Tensor]:
    """Student, teacher and sampled tokens."""
    stream = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=stream)
    near, head = hidden + 0.3 * torch.randn(N, H, generator=stream), torch.randn(V, H, generator=stream) / 2
    tokens = torch.randint(V, (N,), generator=stream).to(device)
    hidden, near, head = (part.to(device, kind) for part in (hidden, near, head))
    student = Term(hidden.requires_grad_(), head.requires_grad_())
    teacher = Term(near, head.detach())
    return TokenDist((student,), temperature, fuse), TokenDist((teacher,), temperature, fuse), tokens


def apart(first: Tensor, second: Tensor) -> float:
    """Largest difference as a share of the largest number."""
    return ((first - second).abs().max() / first.abs().max()).item()


@pytest.mark.parametrize("mib", [256, 1], ids=["kept", "chunks"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_passes(device: str, case: str, mib: int) -> None:
    support, alpha, measure = CASES[case]
    found = []
    for fuse in (False, True):
        student, teacher, tokens = sides(device, fuse, torch.float32)
        numbers = compare_tokens(student, teacher, tokens, support, alpha, mib, measure)  # type: ignore[arg-type]
        weights = torch.linspace(0.1, 1.0, N, device=device)
        (numbers.divergence * weights + weights.flip(0) * numbers.student_logp).sum().backward()
        (term,) = student.terms
        found.append([*(part.detach() for part in numbers), term.hidden.grad, term.head.grad])
    assert max(apart(a, b) for a, b in zip(*found, strict=True)) < 2e-5


def test_the_gradient_is_autograds_in_float64(device: str) -> None:
    student, teacher, tokens = sides(device, True, torch.float32)
    compare_tokens(student, teacher, tokens, TOPK, 1.0, mib=1).divergence.sum().backward()
    exact, far, _ = sides(device, False, torch.float64)
    compare_tokens(exact, far, tokens, TOPK, 1.0).divergence.sum().backward()
    assert apart(exact.terms[0].hidden.grad, student.terms[0].hidden.grad.double()) < 2e-5


def test_in_bfloat16_gradients_differ_by_its_rounding(device: str) -> None:
    found = []
    for fuse in (False, True):
        student, teacher, tokens = sides(device, fuse, torch.bfloat16)
        numbers = compare_tokens(student, teacher, tokens, TOPK, 1.0)
        numbers.divergence.sum().backward()
        found.append((numbers.divergence.detach(), student.terms[0].hidden.grad.float()))
    assert apart(found[0][0], found[1][0]) < 2e-5
    assert apart(found[0][1], found[1][1]) < 1e-2


def test_log_probabilities_and_entropy(device: str) -> None:
    found = []
    for fuse in (False, True):
        student, _, tokens = sides(device, fuse, torch.float32)
        logp, entropy = logp_and_entropy(student, tokens, 1)
        (logp * torch.linspace(-1.0, 1.0, N, device=device)).sum().backward()
        found.append((logp.detach(), entropy, student.terms[0].hidden.grad, student.terms[0].head.grad))
        assert torch.equal(token_logp(student, tokens, 1), logp)
    assert max(apart(a, b) for a, b in zip(*found, strict=True)) < 1e-5


def test_a_mixture_teacher_is_normalised_first(device: str) -> None:
    found = []
    for fuse in (False, True):
        student, teacher, tokens = sides(device, fuse, torch.float32)
        (term,) = teacher.terms
        terms = (Term(term.hidden, term.head, 0.3), Term(student.terms[0].hidden.detach(), term.head, 0.7))
        mixed = TokenDist(terms, teacher.temperature, fuse)
        found.append(torch.stack([part.detach() for part in compare_tokens(student, mixed, tokens, TOPK, 0.5)]))
    assert apart(*found) < 1e-5


def test_a_support_without_others_has_no_tail() -> None:
    """All mass is on the support: the others' log-probability is held at `EXCLUDED`, and nothing is NaN."""
    hidden = torch.zeros(3, 4).requires_grad_()
    head = torch.zeros(40, 4)
    logits = torch.full((3, 40), -torch.inf)
    logits[:, :5] = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    value = fused._visit(
        TokenDist((Term(hidden, head),)), TokenDist((Term(hidden, head),)), torch.zeros(3, dtype=torch.long),
        slice(0, 3), 5, "bucket", partial(losses.token_divergence, alpha=1.0), True,
    )[0]  # fmt: skip
    assert all(torch.isfinite(part).all() for part in value)


def test_one_token_is_a_chunk(device: str) -> None:
    student, teacher, tokens = sides(device, True, torch.float32)
    (s,), (t,) = student.terms, teacher.terms
    one = [TokenDist((Term(side.hidden[:1], side.head),), 0.8, True) for side in (s, t)]
    whole = compare_tokens(student, teacher, tokens, TOPK, 1.0)
    assert apart(whole.divergence[:1], compare_tokens(*one, tokens[:1], TOPK, 1.0).divergence) < 1e-5
