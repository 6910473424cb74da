"""What the tests on enumerated problems share: trees, tables, and expectations over all groups of responses."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from vpdlab.study.tabular import Tree, expectation, grow, sequence_logp, tied

PROPERTY = settings(max_examples=40, deadline=None, database=None, derandomize=True)

FORKS = grow(2, 3)  # eight responses of three tokens
WORDS = grow(3, 3, end=2)  # fifteen responses of one to three tokens; token 2 ends one
SMALL = grow(2, 2)
CASES = pytest.mark.parametrize("tree", [FORKS, WORDS], ids=["equal lengths", "with an end"])


def table(tree: Tree, seed: int) -> Tensor:
    """Random logits of every prefix, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(len(tree.prefixes), tree.vocabulary, generator=generator, dtype=torch.float64)


def right(tree: Tree, *responses: str) -> Tensor:
    """Reward 1 for these responses, written as digits, and 0 for all others."""
    found = ["".join(map(str, response)) for response in tree.responses]
    assert set(responses) <= set(found)
    return torch.tensor([float(response in responses) for response in found], dtype=torch.float64)


REWARD = {FORKS: right(FORKS, "010", "101", "110"), WORDS: right(WORDS, "02", "2", "110"), SMALL: right(SMALL, "10")}


# Token 0 three times in four, whatever came before.
QUARTER = tied(FORKS, torch.tensor([3.0, 1.0], dtype=torch.float64).log())
PRIOR = sequence_logp(FORKS, QUARTER)


@st.composite
def problems(draw: Callable) -> tuple[Tensor, Tensor, Tensor, float]:
    """Two policies on SMALL as log-probabilities of its four responses, a reward of each, and beta."""
    row = st.lists(st.floats(-6, 6), min_size=4, max_size=4)
    prior, other = (torch.tensor(draw(row), dtype=torch.float64).log_softmax(-1) for _ in range(2))
    reward = torch.tensor(draw(st.lists(st.sampled_from((0.0, 1.0)), min_size=4, max_size=4)), dtype=torch.float64)
    return prior, other, reward, draw(st.floats(0.05, 3.0))


def gradient(value: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(value(at), at)
    return found


def success(tree: Tree, logits: Tensor, reward: Tensor) -> Tensor:
    """E_pi[r]."""
    return expectation(sequence_logp(tree, logits), reward)


def over_groups(tree: Tree, logits: Tensor, size: int, loss: Callable[[list[int]], Tensor]) -> Tensor:
    """Expectation of the loss of `size` responses drawn from pi, over all groups; the drawing takes no gradient."""
    p = sequence_logp(tree, logits).detach().exp().tolist()
    groups = product(range(len(p)), repeat=size)
    return sum((math.prod(p[y] for y in rows) * loss(list(rows)) for rows in groups), torch.zeros(()).double())


def visits(tree: Tree, logits: Tensor) -> Tensor:
    """[P] probability that a response passes each prefix."""
    p = sequence_logp(tree, logits).detach().exp()[:, None].expand_as(tree.mask)[tree.mask]
    return torch.zeros(len(tree.prefixes), dtype=p.dtype).index_add(0, tree.states[tree.mask], p)
