"""Batches: both views of a rollout on one response axis, cut into minibatches by a token budget.

Rows are padded on the right. A causal model never looks ahead, so what stands in the padding cannot touch a
response token: no attention mask and no position ids are needed, and padding cannot change a result.

The rollouts of a problem begin with the same tokens. Rows of a group stand in the same minibatch, and what all of them
begin with is read once (`Shared`): with short responses to long problems that is most of the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vpdlab.types import View

# Reading what is common apart takes a second call of the model: worth it where it saves this share of the tokens.
WORTH = 0.1


@dataclass(frozen=True)
class Shared:
    """The same rows, cut in two: what the rows of a group begin with, and what follows in each.

    Attributes:
        ids: [G, P] the common beginnings, padded on the right.
        length: [G] of each.
        tail: [U, T] how they go on, padded on the right; the last token of its context is always in a tail. Rows that
            are equal, as many are once a policy is sure of itself, have one tail.
        owner: [U] which beginning a tail goes on from.
        row: [B] which tail a row has.
    """

    ids: Int[Tensor, "g p"]
    length: Int[Tensor, " g"]
    tail: Int[Tensor, "u t"]
    owner: Int[Tensor, " u"]
    row: Int[Tensor, " b"]

    @property
    def before(self) -> Int[Tensor, " u"]:
        """[U] how many tokens stand before each tail."""
        return self.length[self.owner]

    @property
    def seen(self) -> Int[Tensor, "u c"]:
        """[U, P + T] 1 where a tail may look: not at the padding of its beginning."""
        begun = torch.arange(self.ids.shape[1], device=self.ids.device) < self.before[:, None]
        return torch.cat([begun, torch.ones_like(self.tail, dtype=torch.bool)], dim=1).long()

    @property
    def places(self) -> Int[Tensor, "u t"]:
        """[U, T] position of each token of the tails in its own row."""
        return self.before[:, None] + torch.arange(self.tail.shape[1], device=self.tail.device)

    def to(self, device: torch.device | str) -> Shared:
        """The same on a device."""
        return Shared(*(part.to(device) for part in (self.ids, self.length, self.tail, self.owner, self.row)))


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of one view as tensors.

    Attributes:
        rows: [B] which views these are, as indices into the list they were taken from.
        ids: [B, S] context and response, padded on the right.
        context: [B] length of each context.
        response: [B, R] response ids, padded on the right: the same in both views of a rollout.
        mask: [B, R] True for the response tokens that the policy wrote itself, False for the others and for padding.
        shared: the rows cut in two; None where they are read whole.
    """

    rows: Int[Tensor, " b"]
    ids: Int[Tensor, "b s"]
    context: Int[Tensor, " b"]
    response: Int[Tensor, "b r"]
    mask: Bool[Tensor, "b r"]
    shared: Shared | None = None

    @property
    def read(self) -> int:
        """How many tokens the model reads for this batch, padding included."""
        return self.ids.numel() if self.shared is None else self.shared.ids.numel() + self.shared.tail.numel()

    @classmethod
    def empty(cls, device: torch.device | str) -> TokenBatch:
        """No rows at all: what keeps a process in step with others that have more minibatches."""
        none, pair = torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, dtype=torch.long, device=device)
        return cls(none, pair, none.to(device), pair, pair.bool())

    @property
    def tokens(self) -> Int[Tensor, " n"]:
        """[N] the active response tokens, rollout after rollout."""
        return self.response[self.mask]

    @property
    def positions(self) -> Int[Tensor, "b r"]:
        """[B, R] where along S (with `shared`: along its T) the hidden state stands that predicts each response token
        (padding: clipped)."""
        steps = torch.arange(self.response.shape[1], device=self.ids.device)
        if self.shared is None:
            return (self.context[:, None] - 1 + steps).clamp(max=self.ids.shape[1] - 1)
        before = self.shared.before[self.shared.row]
        return (self.context - before)[:, None].add(steps - 1).clamp(max=self.shared.tail.shape[1] - 1)


def collate(
    views: Sequence[View], rows: Sequence[int], device: torch.device | str = "cpu", share: bool = False
) -> TokenBatch:
    """The views at `rows` as one padded batch.

    Args:
        share: read what the rows of a group begin with once, where that saves enough.

    Raises:
        ValueError: for a view without context or without response: nothing would predict its first token.
    """
    chosen = [views[row] for row in rows]
    for row, view in zip(rows, chosen, strict=True):
        if not view.context_ids or not view.response_ids:
            raise ValueError(f"view {row} has an empty context or response")
    response = _pad([view.response_ids for view in chosen])
    lengths = torch.tensor([len(view.response_ids) for view in chosen])
    shared = _shared(chosen) if share else None
    return TokenBatch(
        rows=torch.tensor(list(rows)),
        ids=_pad([view.context_ids + view.response_ids for view in chosen]).to(device),
        context=torch.tensor([len(view.context_ids) for view in chosen]).to(device),
        response=response.to(device),
        mask=_own(chosen, lengths, response.shape[1]).to(device),
        shared=shared and shared.to(device),
    )


def _own(views: Sequence[View], lengths: Tensor, width: int) -> Bool[Tensor, "b r"]:
    """Which positions hold tokens that the policy wrote itself."""
    mask = torch.arange(width) < lengths[:, None]
    for row, view in enumerate(views):
        if view.mask:
            mask[row, : len(view.mask)] &= torch.tensor(view.mask)
    return mask


def _shared(views: Sequence[View]) -> Shared | None:
    """The views cut in two; None where too little is saved."""
    together = _together([view.group for view in views])
    begin = [_begin([views[row].context_ids for row in rows]) for rows in together]
    place: dict[tuple[int, tuple[int, ...]], int] = {}  # of each tail, by what it goes on from and what it holds
    row = [0] * len(views)
    for owner, rows in enumerate(together):
        for at in rows:
            tail = (views[at].context_ids + views[at].response_ids)[len(begin[owner]) :]
            row[at] = place.setdefault((owner, tail), len(place))
    owners, tails = zip(*place, strict=True)
    read = len(begin) * max(map(len, begin)) + len(tails) * max(map(len, tails))
    if read > (1 - WORTH) * len(views) * max(map(len, views)):
        return None
    lengths = torch.tensor([len(ids) for ids in begin])
    return Shared(_pad(begin), lengths, _pad(tails), torch.tensor(owners), torch.tensor(row))


def _together(groups: Sequence[int]) -> list[list[int]]:
    """The rows of each group; a row without one (-1) stands alone."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group if group >= 0 else -1 - row, []).append(row)
    return list(rows.values())


def _begin(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """What all contexts begin with, short of the last token of each: that one predicts the response's first."""
    low, high = min(contexts), max(contexts)  # whatever these two begin with, those between them begin with as well
    end = min(len(context) for context in contexts) - 1
    same = next((at for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), end)
    return low[: min(same, end)]


def _pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b s"]:
    width = max(len(row) for row in rows)
    return torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows])


def plan(
    lengths: Sequence[int], budget: int, groups: Sequence[int] = (), begins: Sequence[int] = ()
) -> list[list[int]]:
    """Row indices in parts so that none has more than `budget` padded tokens, longest rows first.

    Rows of like length stand together, so that little is padded; a row longer than the budget stands alone.

    Args:
        groups: the group of each row, -1 for a row without one; rows of a group stay side by side.
        begins: with how many tokens, which are read once, all rows of its group begin; default none.
    """
    groups, begins = groups or [-1] * len(lengths), begins or [0] * len(lengths)
    together = sorted(_together(groups), key=lambda rows: -max(lengths[row] for row in rows))
    parts: list[list[int]] = []
    owners = begin = tail = 0
    for rows in together:
        for place, row in enumerate(sorted(rows, key=lambda row: -lengths[row])):
            now = owners + (place == 0), max(begin, begins[row]), max(tail, lengths[row] - begins[row])
            if parts and now[0] * now[1] + (len(parts[-1]) + 1) * now[2] <= budget:
                parts[-1].append(row)
                owners, begin, tail = now
            else:
                parts.append([row])
                owners, begin, tail = 1, begins[row], lengths[row] - begins[row]
    return parts


def minibatches(
    *sides: Sequence[View],
    budget: int,
    rows: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    share: bool = False,
) -> Iterator[tuple[TokenBatch, ...]]:
    """Walk some rows of one or several lists of views, the same rows of each list at a time.

    Args:
        sides: lists of views; row i of each belongs to the same rollout.
        budget: padded tokens of the longest side in one minibatch.
        rows: which rows; default all.
        share: as in `collate`.

    Raises:
        ValueError: where the lists differ in length.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"the sides have different lengths: {[len(side) for side in sides]}")
    chosen = list(range(len(sides[0]))) if rows is None else list(rows)
    longest = [max(len(side[row]) for side in sides) for row in chosen]
    groups = [sides[0][row].group for row in chosen] if share else []
    begins = [0] * len(groups)
    for places in _together(groups):
        common = min(len(_begin([side[chosen[place]].context_ids for place in places])) for side in sides)
        for place in places:
            begins[place] = common
    for part in plan(longest, budget, groups, begins):
        picked = [chosen[index] for index in part]
        yield tuple(collate(side, picked, device, share) for side in sides)
