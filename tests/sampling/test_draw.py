"""Drawing a token: exact inverse of the cumulative probability, and never a token without probability."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from vpdlab.sampling import Sampling
from vpdlab.sampling.drawing import BLOCK, LARGE, draw

# Powers of two, so that every sum below is exact.
P = torch.tensor([0.125, 0.5, 0.25, 0.125])
LAST = 1.0 - 2.0**-53  # the largest double below 1


def drawn(p: Tensor, uniform: list[float], **sampling: float) -> list[int]:
    logits = p.log().expand(len(uniform), -1)
    return draw(logits, torch.tensor(uniform, dtype=torch.float64), Sampling(**sampling))[0].tolist()


def test_a_token_is_drawn_where_the_cumulated_probability_passes_the_number() -> None:
    # cumulative: 0.125, 0.625, 0.875, 1; boundaries belong to the token above. In float32 exp(log p) is p to 1e-7.
    below, above = -1e-6, 1e-6
    numbers = [0.0, 0.125 + below, 0.125 + above, 0.625 + below, 0.625 + above, 0.875 + below, 0.875 + above, LAST]
    assert drawn(P, numbers) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_number_on_a_boundary_takes_the_token_above_it() -> None:
    assert drawn(torch.tensor([0.5, 0.5]), [0.5]) == [1]


def test_evenly_spaced_numbers_give_the_probabilities_exactly() -> None:
    n = 4096
    found = drawn(P, [(i + 0.5) / n for i in range(n)])
    assert [found.count(token) / n for token in range(4)] == P.tolist()


def test_every_row_has_its_own_number_and_its_own_distribution() -> None:
    logits = torch.stack([P, P.flip(0)]).log()
    token, _ = draw(logits, torch.tensor([0.2, 0.2], dtype=torch.float64), Sampling())
    assert token.tolist() == [1, 1]
    token, _ = draw(logits, torch.tensor([0.7, 0.7], dtype=torch.float64), Sampling())
    assert token.tolist() == [2, 2]
    token, _ = draw(logits, torch.tensor([0.3, 0.3], dtype=torch.float64), Sampling())
    assert token.tolist() == [1, 1]
    token, _ = draw(logits, torch.tensor([0.55, 0.55], dtype=torch.float64), Sampling())
    assert token.tolist() == [1, 2]  # 0.125 + 0.5 is above, 0.125 + 0.25 is not


def test_the_log_probability_is_that_of_the_tempered_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]])
    token, logp = draw(logits, torch.tensor([LAST], dtype=torch.float64), Sampling(temperature=0.5))
    assert token.tolist() == [2]
    assert_close(logp, (logits / 0.5).log_softmax(-1)[:, 2])
    # Top-p does not change it: it is what the policy would score.
    _, inside = draw(logits, torch.tensor([0.5], dtype=torch.float64), Sampling(temperature=0.5, top_p=0.1))
    assert_close(inside, logp)


def test_temperature_sharpens_the_distribution() -> None:
    # p squared and normalised: (1, 16, 4, 1) / 22, so that token 1 ends at 17/22
    p = P**2 / (P**2).sum()
    numbers = [p[0].item() - 1e-6, p[0].item() + 1e-6, 17 / 22 - 1e-6, 17 / 22 + 1e-6]
    assert drawn(P, numbers, temperature=0.5) == [0, 1, 1, 2]


def test_temperature_zero_takes_the_likeliest_token_whatever_the_number() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]]).expand(3, -1)
    token, logp = draw(logits, torch.tensor([0.0, 0.5, LAST], dtype=torch.float64), Sampling(temperature=0, top_p=0.5))
    assert token.tolist() == [1, 1, 1]
    assert_close(logp, logits.log_softmax(-1)[:, 1])


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-6, {1}),
        (0.49, {1}),
        (0.51, {1, 2}),
        (0.74, {1, 2}),
        (0.8, {0, 1, 2}),
        (0.99, {0, 1, 2, 3}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p: float, kept: set[int]) -> None:
    p = torch.tensor([0.13, 0.5, 0.25, 0.12])
    assert set(drawn(p, [i / 1000 for i in range(1000)] + [LAST], top_p=top_p)) == kept


def test_within_the_nucleus_the_proportions_stay() -> None:
    # Kept: 1/2 and 1/4, so two thirds and one third.
    n = 3000
    found = drawn(P, [(i + 0.5) / n for i in range(n)], top_p=0.7)
    assert (found.count(1), found.count(2)) == (2000, 1000)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5])
@pytest.mark.parametrize(
    "p",
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0], [0.7, 0.0, 0.3, 0.0], [0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]],
)
def test_a_token_without_probability_is_never_drawn(p: list[float], top_p: float) -> None:
    found = drawn(torch.tensor(p), [0.0, 2.0**-53, 0.25, 0.5, 0.7, 0.75, 1 - 2.0**-24, LAST], top_p=top_p)
    assert all(p[token] > 0 for token in found)


def test_the_ends_of_the_unit_interval_are_safe_for_random_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(400, 60, generator=generator)
    holes = torch.rand(400, 60, generator=generator) < 0.5
    holes[:, 0], holes[:, -1] = True, True
    holes[:, 30] = False
    logits = logits.masked_fill(holes, -math.inf)
    for top_p in (1.0, 0.95):
        for number in (0.0, LAST):
            token, logp = draw(logits, torch.full((400,), number, dtype=torch.float64), Sampling(top_p=top_p))
            assert not holes.gather(1, token[:, None]).any()
            assert logp.isfinite().all()


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should() -> None:
    # 2^18 tokens that weigh 2^-26 each, after one that weighs the rest: beside 1 - 2^-8 a float32 sum, whose steps
    # are 2^-24 there, cannot count them.
    rare, count = 2.0**-26, 2**18
    p = torch.full((count + 1,), rare)
    p[0] = 1 - count * rare
    wanted = [1, 1000, count // 2, count]
    numbers = [1 - count * rare + (token - 0.5) * rare for token in wanted]
    found = drawn(p, numbers)
    assert all(abs(token - target) <= 8 for token, target in zip(found, wanted, strict=True))


@pytest.mark.parametrize("size", [LARGE, LARGE + 1, 40_000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_over_a_large_vocabulary_the_two_searches_find_the_same_token(size: int, temperature: float) -> None:
    stream = torch.Generator().manual_seed(size)
    logits = 4 * torch.randn(200, size, generator=stream)
    logits[:20, BLOCK:] = -torch.inf  # all mass in the first block
    uniform = torch.rand(200, generator=stream, dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, LAST, 0.5], dtype=torch.float64)
    token, logp = draw(logits, uniform, Sampling(temperature))
    exact = torch.log_softmax(logits.double() / temperature, -1)
    mass = exact.exp().cumsum(-1)
    wanted = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:], right=True)[:, 0].clamp(max=size - 1)
    near = (mass - (uniform[:, None] * mass[:, -1:])).abs().amin(-1) < 1e-5  # rounding decides at a border
    assert ((token == wanted) | near).all() and (~near).sum() > 60
    assert torch.isfinite(logp).all()
    assert_close(logp.double(), exact.gather(-1, token[:, None])[:, 0], atol=1e-4, rtol=1e-4)
