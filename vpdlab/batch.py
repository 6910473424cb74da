"""Batches: both views of a rollout on one response axis, cut into minibatches by a token budget.

Rows are padded on the right. A causal model never looks ahead, so what stands in the padding cannot touch a
response token: no attention mask and no position ids are needed, and padding cannot change a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vpdlab.types import View


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of one view as tensors.

    Attributes:
        rows: [B] which views these are, as indices into the list they were taken from.
        ids: [B, S] context and response, padded on the right.
        context: [B] length of each context.
        response: [B, R] response ids, padded on the right: the same in both views of a rollout.
        mask: [B, R] True for response tokens.
    """

    rows: Int[Tensor, " b"]
    ids: Int[Tensor, "b s"]
    context: Int[Tensor, " b"]
    response: Int[Tensor, "b r"]
    mask: Bool[Tensor, "b r"]

    @property
    def tokens(self) -> Int[Tensor, " n"]:
        """[N] the active response tokens, rollout after rollout."""
        return self.response[self.mask]

    @property
    def positions(self) -> Int[Tensor, "b r"]:
        """[B, R] where along S the hidden state stands that predicts each response token (padding: clipped)."""
        steps = torch.arange(self.response.shape[1], device=self.ids.device)
        return (self.context[:, None] - 1 + steps).clamp(max=self.ids.shape[1] - 1)


def collate(views: Sequence[View], rows: Sequence[int], device: torch.device | str = "cpu") -> TokenBatch:
    """The views at `rows` as one padded batch.

    Raises:
        ValueError: for a view without context or without response: nothing would predict its first token.
    """
    chosen = [views[row] for row in rows]
    for row, view in zip(rows, chosen, strict=True):
        if not view.context_ids or not view.response_ids:
            raise ValueError(f"view {row} has an empty context or response")
    response = _pad([view.response_ids for view in chosen])
    lengths = torch.tensor([len(view.response_ids) for view in chosen])
    return TokenBatch(
        rows=torch.tensor(list(rows)),
        ids=_pad([view.context_ids + view.response_ids for view in chosen]).to(device),
        context=torch.tensor([len(view.context_ids) for view in chosen]).to(device),
        response=response.to(device),
        mask=(torch.arange(response.shape[1]) < lengths[:, None]).to(device),
    )


def _pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b s"]:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *(0 for _ in range(width - len(row)))] for row in rows])


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Row indices grouped so that no group has more than `budget` padded tokens, longest rows first.

    Rows of like length stand together, so that little is padded; a row longer than the budget stands alone.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def minibatches(
    *sides: Sequence[View], budget: int, rows: Sequence[int] | None = None, device: torch.device | str = "cpu"
) -> Iterator[tuple[TokenBatch, ...]]:
    """Walk some rows of one or several lists of views, the same rows of each list at a time.

    Args:
        sides: lists of views; row i of each belongs to the same rollout.
        budget: padded tokens of the longest side in one minibatch.
        rows: which rows; default all.

    Raises:
        ValueError: where the lists differ in length.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"the sides have different lengths: {[len(side) for side in sides]}")
    chosen = list(range(len(sides[0]))) if rows is None else list(rows)
    longest = [max(len(side[row]) for side in sides) for row in chosen]
    for group in plan(longest, budget):
        picked = [chosen[index] for index in group]
        yield tuple(collate(side, picked, device) for side in sides)
