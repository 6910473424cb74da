"""Batches: both views of a rollout on one response axis, split into minibatches by a token budget.

Rows are padded on the right. A causal model never looks ahead, so padding cannot affect a response token: no attention
mask or position ids are needed, and padding cannot change a result.

Rows of a group, the rollouts of a problem, go into the same minibatch, so that what they have in common can be read
once (`stages`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpdlab.model.stages import Sharing, Stages, by_group, common_prefix, padded, staged
from vpdlab.types import View


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of one view as tensors.

    Attributes:
        rows: [B] indices of these views in the list they were taken from.
        ids: [B, S] context and response, padded on the right.
        context: [B] length of each context.
        response: [B, R] response ids, padded on the right: the same in both views of a rollout.
        mask: [B, R] True for response tokens that the policy generated, False for others and for padding.
        stages: the rows in stages; None if they are read whole.
    """

    rows: Int[Tensor, " b"]
    ids: Int[Tensor, "b s"]
    context: Int[Tensor, " b"]
    response: Int[Tensor, "b r"]
    mask: Bool[Tensor, "b r"]
    stages: Stages | None = None

    @property
    def read(self) -> int:
        """Number of tokens that the model reads for this batch, padding included."""
        return self.ids.numel() if self.stages is None else sum(part.ids.numel() for part in self.stages.parts)

    @classmethod
    def empty(cls, device: torch.device | str) -> TokenBatch:
        """A batch without rows: keeps a rank in step with ranks that have more minibatches."""
        none, pair = torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long, device=device)
        return cls(none, pair, none.to(device), pair, pair.bool())

    @property
    def tokens(self) -> Int[Tensor, " n"]:
        """[N] the active response tokens, rollout after rollout."""
        return self.response[self.mask]

    @property
    def positions(self) -> Int[Tensor, "b r"]:
        """[B, R] index along S (in stages: along T of the last) of the hidden state that predicts each response token
        (clipped at padding)."""
        steps = torch.arange(self.response.shape[1], device=self.ids.device)
        if self.stages is None:
            return (self.context[:, None] - 1 + steps).clamp(max=self.ids.shape[1] - 1)
        width = self.stages.parts[-1].ids.shape[1]
        return (self.context - self.stages.offset)[:, None].add(steps - 1).clamp(max=width - 1)


def collate(
    views: Sequence[View], rows: Sequence[int], device: torch.device | str = "cpu", share: Sharing | None = None
) -> TokenBatch:
    """The views at `rows` as one padded batch.

    Args:
        share: read in stages where that saves enough; None: rows are read whole.

    Raises:
        ValueError: for a view with an empty context or response: nothing would predict its first token.
    """
    chosen = [views[row] for row in rows]
    for row, view in zip(rows, chosen, strict=True):
        if not view.context_ids or not view.response_ids:
            raise ValueError(f"view {row} has an empty context or response")
    response = padded([view.response_ids for view in chosen])
    lengths = torch.tensor([len(view.response_ids) for view in chosen])
    stages = staged(chosen, share) if share else None
    return TokenBatch(
        rows=torch.tensor(list(rows)),
        ids=padded([view.context_ids + view.response_ids for view in chosen]).to(device),
        context=torch.tensor([len(view.context_ids) for view in chosen]).to(device),
        response=response.to(device),
        mask=_own(chosen, lengths, response.shape[1]).to(device),
        stages=stages and stages.to(device),
    )


def _own(views: Sequence[View], lengths: Tensor, width: int) -> Bool[Tensor, "b r"]:
    """True at the tokens that the policy generated."""
    mask = torch.arange(width) < lengths[:, None]
    for row, view in enumerate(views):
        if view.mask:
            mask[row, : len(view.mask)] &= torch.tensor(view.mask)
    return mask


def plan(
    lengths: Sequence[int], budget: int, groups: Sequence[int] = (), prefixes: Sequence[int] = ()
) -> list[list[int]]:
    """Split row indices into minibatches of at most `budget` padded tokens, longest rows first.

    Rows of similar length go together, so that there is little padding; a row longer than the budget is alone.

    Args:
        groups: the group of each row, -1 for a row without one; rows of a group stay adjacent.
        prefixes: length of the prefix that the rows of a group share and that is read once; default 0.
    """
    groups, prefixes = groups or [-1] * len(lengths), prefixes or [0] * len(lengths)
    members = sorted(by_group(groups), key=lambda rows: -max(lengths[row] for row in rows))
    parts: list[list[int]] = []
    count = prefix = suffix = 0  # of the current minibatch: prefixes, longest prefix, longest suffix
    for rows in members:
        for index, row in enumerate(sorted(rows, key=lambda row: -lengths[row])):
            grown = count + (index == 0), max(prefix, prefixes[row]), max(suffix, lengths[row] - prefixes[row])
            if parts and grown[0] * grown[1] + (len(parts[-1]) + 1) * grown[2] <= budget:
                parts[-1].append(row)
                count, prefix, suffix = grown
            else:
                parts.append([row])
                count, prefix, suffix = 1, prefixes[row], lengths[row] - prefixes[row]
    return parts


def minibatches(
    *sides: Sequence[View],
    budget: int,
    rows: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    share: Sharing | None = None,
) -> Iterator[tuple[TokenBatch, ...]]:
    """Iterate over minibatches of one or several lists of views, the same rows of each list at a time.

    Args:
        sides: lists of views; row i of each belongs to the same rollout.
        budget: padded tokens of the longest side in one minibatch.
        rows: which rows; default all.
        share: as in `collate`.

    Raises:
        ValueError: if the lists differ in length.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"the sides have different lengths: {[len(side) for side in sides]}")
    chosen = list(range(len(sides[0]))) if rows is None else list(rows)
    longest = [max(len(side[row]) for side in sides) for row in chosen]
    groups = [sides[0][row].group for row in chosen] if share else []
    prefixes = [0] * len(groups)
    for members in by_group(groups):
        shortest = min(len(common_prefix([side[chosen[index]].context_ids for index in members])) for side in sides)
        for index in members:
            prefixes[index] = shortest
    for part in plan(longest, budget, groups, prefixes):
        picked = [chosen[index] for index in part]
        yield tuple(collate(side, picked, device, share) for side in sides)


def row_sums(values: Float[Tensor, " n"], batch: TokenBatch) -> Float[Tensor, " b"]:
    """Sum the numbers of the active tokens per row."""
    rows = batch.mask.nonzero()[:, 0]
    return torch.zeros(len(batch.mask), dtype=values.dtype, device=values.device).index_add(0, rows, values)
