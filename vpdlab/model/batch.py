"""Batches: both views of a rollout on one response axis, split into minibatches by a token budget.

Rows are padded on the right. A causal model never looks ahead, so padding cannot affect a response token: no attention
mask or position ids are needed, and padding cannot change a result.

The rollouts of a problem share a prefix. Rows of a group go into the same minibatch, and their shared prefix is read
once (`Shared`): with short responses to long problems that is most of the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpdlab.types import View

# Reading prefixes separately takes a second model call: worth it if it saves this share of the tokens.
WORTH = 0.1


@dataclass(frozen=True)
class Shared:
    """The same rows as shared prefixes (one a group) and distinct suffixes.

    Attributes:
        prefix: [G, P] the shared prefixes, padded on the right.
        prefix_length: [G] length of each prefix.
        suffix: [U, T] the distinct suffixes, padded on the right; a suffix always includes the last token of its
            context. Equal rows, which are common once a policy has little entropy, share one suffix.
        prefix_of: [U] the prefix that precedes each suffix.
        suffix_of: [B] the suffix of each row.
    """

    prefix: Int[Tensor, "g p"]
    prefix_length: Int[Tensor, " g"]
    suffix: Int[Tensor, "u t"]
    prefix_of: Int[Tensor, " u"]
    suffix_of: Int[Tensor, " b"]

    @property
    def offset(self) -> Int[Tensor, " u"]:
        """[U] number of tokens before each suffix."""
        return self.prefix_length[self.prefix_of]

    @property
    def attention_mask(self) -> Int[Tensor, "u c"]:
        """[U, P + T] 1 where a suffix may attend: everywhere except the padding of its prefix."""
        in_prefix = torch.arange(self.prefix.shape[1], device=self.prefix.device) < self.offset[:, None]
        return torch.cat([in_prefix, torch.ones_like(self.suffix, dtype=torch.bool)], dim=1).long()

    @property
    def positions(self) -> Int[Tensor, "u t"]:
        """[U, T] position of each suffix token in its row."""
        return self.offset[:, None] + torch.arange(self.suffix.shape[1], device=self.suffix.device)

    def to(self, device: torch.device | str) -> Shared:
        """A copy on a device."""
        parts = (self.prefix, self.prefix_length, self.suffix, self.prefix_of, self.suffix_of)
        return Shared(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class TokenBatch:
    """Some rows of one view as tensors.

    Attributes:
        rows: [B] indices of these views in the list they were taken from.
        ids: [B, S] context and response, padded on the right.
        context: [B] length of each context.
        response: [B, R] response ids, padded on the right: the same in both views of a rollout.
        mask: [B, R] True for response tokens that the policy generated, False for others and for padding.
        shared: the rows as prefixes and suffixes; None if they are read whole.
    """

    rows: Int[Tensor, " b"]
    ids: Int[Tensor, "b s"]
    context: Int[Tensor, " b"]
    response: Int[Tensor, "b r"]
    mask: Bool[Tensor, "b r"]
    shared: Shared | None = None

    @property
    def read(self) -> int:
        """Number of tokens that the model reads for this batch, padding included."""
        return self.ids.numel() if self.shared is None else self.shared.prefix.numel() + self.shared.suffix.numel()

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
        """[B, R] index along S (with `shared`: along T) of the hidden state that predicts each response token (clipped
        at padding)."""
        steps = torch.arange(self.response.shape[1], device=self.ids.device)
        if self.shared is None:
            return (self.context[:, None] - 1 + steps).clamp(max=self.ids.shape[1] - 1)
        offset = self.shared.offset[self.shared.suffix_of]
        return (self.context - offset)[:, None].add(steps - 1).clamp(max=self.shared.suffix.shape[1] - 1)


def collate(
    views: Sequence[View], rows: Sequence[int], device: torch.device | str = "cpu", share: bool = False,
    worth: float = WORTH,
) -> TokenBatch:  # fmt: skip
    """The views at `rows` as one padded batch.

    Args:
        share: read the shared prefix of a group's rows once, if that saves enough.
        worth: how much that is, as a share of the tokens read.

    Raises:
        ValueError: for a view with an empty context or response: nothing would predict its first token.
    """
    chosen = [views[row] for row in rows]
    for row, view in zip(rows, chosen, strict=True):
        if not view.context_ids or not view.response_ids:
            raise ValueError(f"view {row} has an empty context or response")
    response = _pad([view.response_ids for view in chosen])
    lengths = torch.tensor([len(view.response_ids) for view in chosen])
    shared = _shared(chosen, worth) if share else None
    return TokenBatch(
        rows=torch.tensor(list(rows)),
        ids=_pad([view.context_ids + view.response_ids for view in chosen]).to(device),
        context=torch.tensor([len(view.context_ids) for view in chosen]).to(device),
        response=response.to(device),
        mask=_own(chosen, lengths, response.shape[1]).to(device),
        shared=shared and shared.to(device),
    )


def _own(views: Sequence[View], lengths: Tensor, width: int) -> Bool[Tensor, "b r"]:
    """True at the tokens that the policy generated."""
    mask = torch.arange(width) < lengths[:, None]
    for row, view in enumerate(views):
        if view.mask:
            mask[row, : len(view.mask)] &= torch.tensor(view.mask)
    return mask


def _shared(views: Sequence[View], worth: float) -> Shared | None:
    """The views as prefixes and suffixes; None if that saves too little."""
    members = _by_group([view.group for view in views])
    prefixes = [_common_prefix([views[row].context_ids for row in rows]) for rows in members]
    index: dict[tuple[int, tuple[int, ...]], int] = {}  # (prefix, suffix) -> index of the suffix
    suffix_of = [0] * len(views)
    for prefix, rows in enumerate(members):
        for row in rows:
            suffix = (views[row].context_ids + views[row].response_ids)[len(prefixes[prefix]) :]
            suffix_of[row] = index.setdefault((prefix, suffix), len(index))
    prefix_of, suffixes = zip(*index, strict=True)
    read = len(prefixes) * max(map(len, prefixes)) + len(suffixes) * max(map(len, suffixes))
    if read > (1 - worth) * len(views) * max(map(len, views)):
        return None
    lengths = torch.tensor([len(ids) for ids in prefixes])
    return Shared(_pad(prefixes), lengths, _pad(suffixes), torch.tensor(prefix_of), torch.tensor(suffix_of))


def _by_group(groups: Sequence[int]) -> list[list[int]]:
    """The rows of each group; a row without a group (-1) is alone."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group if group >= 0 else -1 - row, []).append(row)
    return list(rows.values())


def _common_prefix(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The common prefix of all contexts, without the last token of any: that one predicts the first response token."""
    low, high = min(contexts), max(contexts)  # in lexicographic order, so their common prefix is that of all
    end = min(len(context) for context in contexts) - 1
    same = next((at for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), end)
    return low[: min(same, end)]


def _pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b s"]:
    width = max(len(row) for row in rows)
    return torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows])


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
    members = sorted(_by_group(groups), key=lambda rows: -max(lengths[row] for row in rows))
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
    share: bool = False,
    worth: float = WORTH,
) -> Iterator[tuple[TokenBatch, ...]]:
    """Iterate over minibatches of one or several lists of views, the same rows of each list at a time.

    Args:
        sides: lists of views; row i of each belongs to the same rollout.
        budget: padded tokens of the longest side in one minibatch.
        rows: which rows; default all.
        share, worth: as in `collate`.

    Raises:
        ValueError: if the lists differ in length.
    """
    if len({len(side) for side in sides}) != 1:
        raise ValueError(f"the sides have different lengths: {[len(side) for side in sides]}")
    chosen = list(range(len(sides[0]))) if rows is None else list(rows)
    longest = [max(len(side[row]) for side in sides) for row in chosen]
    groups = [sides[0][row].group for row in chosen] if share else []
    prefixes = [0] * len(groups)
    for members in _by_group(groups):
        shortest = min(len(_common_prefix([side[chosen[index]].context_ids for index in members])) for side in sides)
        for index in members:
            prefixes[index] = shortest
    for part in plan(longest, budget, groups, prefixes):
        picked = [chosen[index] for index in part]
        yield tuple(collate(side, picked, device, share, worth) for side in sides)


def row_sums(values: Float[Tensor, " n"], batch: TokenBatch) -> Float[Tensor, " b"]:
    """Sum the numbers of the active tokens per row."""
    rows = batch.mask.nonzero()[:, 0]
    return torch.zeros(len(batch.mask), dtype=values.dtype, device=values.device).index_add(0, rows, values)
