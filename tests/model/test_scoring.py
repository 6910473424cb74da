"""Scoring: chunks change nothing, supports are what they say, gradients reach the student alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from supports import on_support
from torch import Tensor
from torch.testing import assert_close

from vpdlab import losses
from vpdlab.model.comparison import Comparison, Support, _measured, compare_tokens, token_logp, top_lists
from vpdlab.model.distributions import Term, TokenDist

N, H, V = 37, 5, 2**14  # at 1 MiB a chunk holds 16 rows: 37 rows are 3 chunks, the last one short
FULL, TOPK = Support(), Support("topk", 20)
SUPPORTS = {
    "full": (FULL, 0.5),
    "reverse": (FULL, 1.0),
    "bucket": (TOPK, 0.5),
    "renormalise": (Support("topk", 20, "renormalise"), 0.0),
    "sampled": (Support("sampled"), 1.0),
}


def states(seed: int, vocabulary: int = V, grad: bool = False, temperature: float = 1.0, n: int = N) -> TokenDist:
    """A distribution in float64, from random hidden states and a random head."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(rows, H, generator=generator, dtype=torch.float64) for rows in (n, vocabulary))
    return TokenDist((Term(hidden.requires_grad_(grad), head.requires_grad_(grad)),), temperature)


def tokens(vocabulary: int = V, n: int = N) -> Tensor:
    return torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(7))


def direct(dist: TokenDist) -> Tensor:
    """The log-probabilities by their textbook formula."""
    (term,) = dist.terms
    logits = term.hidden @ term.head.T / dist.temperature
    return logits - logits.exp().sum(-1, keepdim=True).log()


def gradients(value: Tensor, dist: TokenDist) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, [dist.terms[0].hidden, dist.terms[0].head])


# -- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logp_is_the_tempered_log_softmax(temperature: float) -> None:
    dist, at = states(0, 50, temperature=temperature), tokens(50)
    assert_close(token_logp(dist, at), direct(dist)[torch.arange(N), at])


def test_numbers_beside_the_divergence_are_those_of_the_full_vocabulary() -> None:
    student, teacher, at = states(0, 50), states(1, 50), tokens(50)
    s, t, rows = direct(student), direct(teacher), torch.arange(N)
    for support, alpha in SUPPORTS.values():
        found = compare_tokens(student, teacher, at, support, alpha)
        assert_close(found.student_logp, s[rows, at])
        assert_close(found.teacher_logp, t[rows, at])
        assert_close(found.kl, (s.exp() * (s - t)).sum(-1))
        assert_close(found.student_entropy, -(s.exp() * s).sum(-1))
        assert_close(found.teacher_entropy, -(t.exp() * t).sum(-1))


def test_each_support_gives_the_divergence_it_names() -> None:
    student, teacher, at = states(0, 50), states(1, 50), tokens(50)
    s, t = direct(student), direct(teacher)
    assert_close(compare_tokens(student, teacher, at, FULL, 0.3).divergence, losses.token_divergence(s, t, 0.3))
    ids = s.topk(20).indices
    kept = s.gather(-1, ids), t.gather(-1, ids)
    assert_close(
        compare_tokens(student, teacher, at, TOPK, 0.3).divergence,
        losses.token_divergence(losses.add_tail(kept[0]), losses.add_tail(kept[1]), 0.3),
    )
    alone = [logp - logp.exp().sum(-1, keepdim=True).log() for logp in kept]
    assert_close(
        compare_tokens(student, teacher, at, Support("topk", 20, "renormalise"), 0.3).divergence,
        losses.token_divergence(*alone, 0.3),
    )
    rows = torch.arange(N)
    assert_close(
        compare_tokens(student, teacher, at, Support("sampled"), 1.0).divergence,
        (s[rows, at] - t[rows, at]) * s[rows, at],
    )


@pytest.mark.parametrize("k", [50, 51, 10**6])
def test_topk_at_or_above_the_vocabulary_is_full(k: int) -> None:
    student, teacher, at = states(0, 50), states(1, 50), tokens(50)
    full = compare_tokens(student, teacher, at, FULL, 0.5).divergence
    assert torch.equal(compare_tokens(student, teacher, at, Support("topk", k), 0.5).divergence, full)


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_both_sides_of_a_support_sum_to_one(tail: str) -> None:
    s, t = direct(states(0, 50)), direct(states(1, 50))
    for side, width in zip(on_support(s, t, Support("topk", 20, tail)), (20, 20), strict=True):
        assert side.shape == (N, width + (tail == "bucket"))
        assert_close(side.exp().sum(-1), torch.ones(N, dtype=torch.float64))


def test_the_support_is_the_students_and_not_the_teachers() -> None:
    student = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.05, 0.15, 0.3, 0.5]], dtype=torch.float64).log()
    s, t = on_support(student, teacher, Support("topk", 2))
    assert_close(s.exp(), torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64))
    assert_close(t.exp(), torch.tensor([[0.05, 0.15, 0.8]], dtype=torch.float64))


def test_the_bucket_of_a_peaked_distribution_is_exact_in_float32() -> None:
    # Beside a token with logit 40 three others have e^-40 each: 1 minus the kept mass is 0 in float32.
    logp = torch.tensor([[40.0, 0.0, 0.0, 0.0]]).log_softmax(-1)
    bucket, _ = on_support(logp, logp, Support("topk", 1))
    assert bucket[0, 1].item() == pytest.approx(math.log(3) - 40, abs=1e-5)


def test_a_bucket_of_excluded_tokens_has_no_mass_and_a_finite_gradient() -> None:
    logits = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]]).log_softmax(-1)
    for support in (Support("topk", 2), Support("topk", 3)):
        for alpha in (0.0, 0.5, 1.0):
            logp = logits.log_softmax(-1)
            sides = on_support(logp, teacher, support)
            assert sides[0].exp()[0, -1] == 0.0
            divergence = losses.token_divergence(*sides, alpha).sum()
            assert_close(divergence, losses.token_divergence(logp[:, :2], teacher[:, :2], alpha).sum())
            assert torch.autograd.grad(divergence, logits)[0][0, :2].isfinite().all()


def test_the_mixture_of_several_terms_is_geometric_and_normalised() -> None:
    first, second = states(0, 50), states(1, 50)
    a, b = first.terms[0], second.terms[0]
    mixed = TokenDist((Term(a.hidden, a.head, 0.25), Term(b.hidden, b.head, 0.75)))
    product = direct(first).exp() ** 0.25 * direct(second).exp() ** 0.75
    assert_close(mixed.logp().exp(), product / product.sum(-1, keepdim=True))
    at = tokens(50)
    assert_close(compare_tokens(first, mixed, at, FULL, 1.0).teacher_logp, mixed.logp()[torch.arange(N), at])


def test_a_mixture_with_all_weight_on_one_term_is_that_term() -> None:
    first, second = states(0, 50), states(1, 50)
    a, b = first.terms[0], second.terms[0]
    assert_close(TokenDist((Term(a.hidden, a.head, 0.0), Term(b.hidden, b.head, 1.0))).logp(), direct(second))


def test_a_single_weighted_term_is_normalised_too() -> None:
    term = states(0, 50).terms[0]
    flat = TokenDist((Term(term.hidden, term.head, 0.5),)).logp()
    assert_close(flat.exp().sum(-1), torch.ones(N, dtype=torch.float64))


def test_kl_in_fewer_passes_is_the_same_bit_for_bit() -> None:
    torch.manual_seed(0)
    s, t = (torch.log_softmax(4 * torch.randn(9, 50), -1) for _ in range(2))
    s[0, 3:20], t[0, 10:30] = -torch.inf, -torch.inf
    s[1], s[2, :9], t[3, :5] = t[1], -100.0, -95.0
    forward, backward, *_ = _measured(s, t)
    # As integers: 0.0 and -0.0 are different.
    assert torch.equal(forward.view(torch.int32), losses.kl(s, t).view(torch.int32))
    assert torch.equal(backward.view(torch.int32), losses.kl(t, s).view(torch.int32))


def test_entropy_and_kl_take_excluded_tokens() -> None:
    head = torch.tensor([[1.0], [2.0], [-math.inf]])  # the last token has probability 0 on both sides
    student, teacher = (TokenDist((Term(torch.tensor([[h]]), head),)) for h in (1.0, 2.0))
    found = compare_tokens(student, teacher, torch.tensor([0]), FULL, 0.5)
    s, t = torch.tensor([1.0, 2.0]).log_softmax(-1), torch.tensor([2.0, 4.0]).log_softmax(-1)
    assert found.kl.item() == pytest.approx((s.exp() * (s - t)).sum().item(), abs=1e-6)
    assert found.student_entropy.item() == pytest.approx(-(s.exp() * s).sum().item(), abs=1e-6)


def test_log_softmax_is_taken_in_float32_for_a_bfloat16_model() -> None:
    hidden, head = torch.eye(3, dtype=torch.bfloat16)[:1], torch.tensor([[3.0], [1.0], [0.5]]).repeat(1, 3).bfloat16()
    logp = TokenDist((Term(hidden, head),)).logp()
    assert logp.dtype == torch.float32
    assert_close(logp, torch.tensor([[3.0, 1.0, 0.5]]).log_softmax(-1))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.999])
def test_the_sampled_support_is_reverse_kl_only(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be 1"):
        compare_tokens(states(0, 50), states(1, 50), tokens(50), Support("sampled"), alpha)


def test_top_lists_are_each_sides_own() -> None:
    student, teacher = states(0, 50), states(1, 50)
    rows = torch.tensor([4, 2])
    lists = top_lists({"student": student, "teacher": teacher}, rows, 3)
    for name, dist in (("student", student), ("teacher", teacher)):
        values, ids = direct(dist)[rows].topk(3)
        assert torch.equal(lists[name][0], ids)
        assert_close(lists[name][1], values)
    assert top_lists({"student": student, "teacher": teacher}, rows, 99)["student"][0].shape == (2, 50)


def test_no_tokens_give_empty_numbers() -> None:
    empty = torch.zeros(0, dtype=torch.long)
    found = compare_tokens(states(0, 50, n=0), states(1, 50, n=0), empty, TOPK, 0.5)
    assert [part.shape for part in found] == [(0,)] * 7
    assert token_logp(states(0, 50, n=0), empty).shape == (0,)


# -- chunks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("support", "alpha"), SUPPORTS.values(), ids=SUPPORTS)
def test_chunks_change_neither_numbers_nor_gradients(support: Support, alpha: float) -> None:
    student, teacher, at = states(0, grad=True), states(1), tokens()
    whole, chunked = (compare_tokens(student, teacher, at, support, alpha, mib) for mib in (64, 1))
    for name, one, other in zip(Comparison._fields, whole, chunked, strict=True):
        assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    weights = torch.linspace(-1, 1, N, dtype=torch.float64)
    for one, other in zip(
        gradients((whole.divergence * weights).sum(), student),
        gradients((chunked.divergence * weights).sum(), student),
        strict=True,
    ):
        assert one.abs().max() > 0
        assert_close(one, other)


def test_chunks_change_no_token_logp_and_no_gradient() -> None:
    dist, at = states(0, grad=True), tokens()
    whole, chunked = (token_logp(dist, at, mib) for mib in (64, 1))
    assert_close(whole, chunked)
    for one, other in zip(gradients(whole.sum(), dist), gradients(chunked.sum(), dist), strict=True):
        assert_close(one, other)


def test_token_logp_has_the_gradient_of_its_value() -> None:
    at = tokens(6, 4)

    def value(hidden: Tensor, head: Tensor) -> Tensor:
        return token_logp(TokenDist((Term(hidden, head),), 0.8), at)

    (term,) = states(0, 6, grad=True, n=4).terms
    assert torch.autograd.gradcheck(value, (term.hidden, term.head))


@pytest.mark.parametrize("mib", [1, 64])
@pytest.mark.parametrize(("support", "alpha"), SUPPORTS.values(), ids=SUPPORTS)
def test_only_divergence_and_own_log_probability_have_a_gradient(support: Support, alpha: float, mib: int) -> None:
    student, teacher = states(0, grad=True), states(1, grad=True)
    found = compare_tokens(student, teacher, tokens(), support, alpha, mib)
    assert [part.requires_grad for part in found] == [True, True, False, False, False, False, False]
    (found.divergence.sum() + found.student_logp.sum()).backward()
    assert teacher.terms[0].hidden.grad is None
    assert teacher.terms[0].head.grad is None
    assert student.terms[0].hidden.grad.abs().min(dim=-1).values.max() > 0


@contextmanager
def largest_saved() -> Iterator[list[int]]:
    """Elements of the largest tensor that autograd keeps for the backward pass."""
    largest = [0]

    def keep(tensor: Tensor) -> Tensor:
        largest[0] = max(largest[0], tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield largest


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_vocabulary() -> None:
    student, teacher, at = states(0, grad=True), states(1), tokens()
    with largest_saved() as whole:
        compare_tokens(student, teacher, at, TOPK, 0.5, mib=64)
    assert whole[0] >= N * V
    for score in (
        lambda: compare_tokens(student, teacher, at, TOPK, 0.5, mib=1),
        lambda: compare_tokens(student, teacher, at, FULL, 1.0, mib=1),
        lambda: token_logp(student, at, mib=1),
    ):
        with largest_saved() as chunked:
            score()
        assert chunked[0] <= V * H  # the head itself; no chunk of logits


def test_every_row_is_asked_for_once_and_no_more_than_a_chunk_at_a_time() -> None:
    calls = []

    class Counting(TokenDist):
        def logp(self, rows: slice | Tensor = slice(None)) -> Tensor:
            calls.append(rows)
            return super().logp(rows)

    dist = Counting(states(0, grad=True).terms)
    with torch.no_grad():
        token_logp(dist, tokens(), mib=1)
    assert calls == [slice(start, start + 4) for start in range(0, N, 4)]  # 1 MiB holds 16 rows: a quarter of them
