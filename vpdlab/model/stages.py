"""Rows that are read in stages: what several of them begin with once, and only keys and values before the responses.

The rollouts of a problem share a prefix, and often the feedback behind it. Of a context nothing is wanted but its keys
and values (the last token's state, from which the response starts, is read with the response), so the last layer of a
pass over a context can stop there. With short responses to long problems the shared prefix is most of the work, and in
a model of few layers the last layer's rest is a good part of what remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vpdlab.types import View


@dataclass(frozen=True)
class Sharing:
    """What decides whether rows are read in stages. The defaults fit times on a CPU (`benchmarks/stages.py`).

    Attributes:
        worth: what each further call of the model must save, as a share of reading the rows whole: keys and values are
            copied.
        call: what it must save besides, in tokens: it reads the weights again.
        spared: the share of a pass that a token costs less if only its keys and values are wanted (`caches.spared`).
    """

    worth: float = 0.05
    call: int = 64
    spared: float = 0.0


@dataclass(frozen=True)
class Stage:
    """A part of some rows that is read in one call, after the stage before it.

    Attributes:
        ids: [N, T] distinct parts, padded on the right.
        length: [N] tokens of each.
        after: [N] the part of the stage before that precedes each; of a first stage all 0.
        offset: [N] number of tokens before each.
    """

    ids: Int[Tensor, "n t"]
    length: Int[Tensor, " n"]
    after: Int[Tensor, " n"]
    offset: Int[Tensor, " n"]

    @property
    def positions(self) -> Int[Tensor, "n t"]:
        """[N, T] position of each token in its row."""
        return self.offset[:, None] + torch.arange(self.ids.shape[1], device=self.ids.device)

    @property
    def filled(self) -> Bool[Tensor, "n t"]:
        """[N, T] False at padding."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.length[:, None]

    def to(self, device: torch.device | str) -> Stage:
        """A copy on a device."""
        return Stage(*(part.to(device) for part in (self.ids, self.length, self.after, self.offset)))


@dataclass(frozen=True)
class Stages:
    """Rows as a chain of stages: what a group begins with, the rest of each distinct context, its last token and the
    response; or the first and what remains, or the contexts and the responses. Equal parts after equal parts, which
    are common once a policy has little entropy, are read once.

    Attributes:
        parts: the stages in order; a part of the last one includes the last token of its context.
        row_of: [B] the part of the last stage with which each row ends.
    """

    parts: tuple[Stage, ...]
    row_of: Int[Tensor, " b"]

    @property
    def offset(self) -> Int[Tensor, " b"]:
        """[B] number of each row's tokens before the last stage."""
        return self.parts[-1].offset[self.row_of]

    def to(self, device: torch.device | str) -> Stages:
        """A copy on a device."""
        return Stages(tuple(part.to(device) for part in self.parts), self.row_of.to(device))


def staged(views: Sequence[View], share: Sharing) -> Stages | None:
    """The views in as many stages as cost least; None if reading them whole does."""
    begins = [0] * len(views)
    for rows in by_group([view.group for view in views]):
        length = len(common_prefix([views[row].context_ids for row in rows]))
        for row in rows:
            begins[row] = length
    ends = [len(view.context_ids) - 1 for view in views]
    ways = [_cut(views, cuts) for cuts in ([begins], [ends], [begins, ends])]
    whole = len(views) * max(map(len, views))
    cheapest = min(ways, key=lambda way: way.cost(whole, share))
    return cheapest.stages() if cheapest.cost(whole, share) < whole else None


@dataclass(frozen=True)
class _Way:
    """A way to cut rows: the distinct parts of each stage, as (number of the part before, tokens) -> number, and the
    offset of each; and the part with which each row ends."""

    parts: list[dict[tuple[int, tuple[int, ...]], int]]
    offsets: list[list[int]]
    row_of: list[int]

    def cost(self, whole: int, share: Sharing) -> float:
        """What reading these stages costs, in tokens of a whole pass."""
        *before, last = (len(parts) * max(len(ids) for _, ids in parts) for parts in self.parts)
        calls = max(1, len(before))  # beside those of whole rows, which may be compiled
        return sum(before) * (1 - share.spared) + last + calls * (share.worth * whole + share.call)

    def stages(self) -> Stages:
        """As tensors."""
        made = []
        for parts, offsets in zip(self.parts, self.offsets, strict=True):
            after, ids = zip(*parts, strict=True)
            lengths = torch.tensor([len(one) for one in ids])
            made.append(Stage(padded(ids), lengths, torch.tensor(after), torch.tensor(offsets)))
        return Stages(tuple(made), torch.tensor(self.row_of))


def _cut(views: Sequence[View], cuts: Sequence[list[int]]) -> _Way:
    """The views, cut at these places (a list for each cut, a place for each view)."""
    begin, way = [0] * len(views), _Way([], [], [0] * len(views))
    for end in (*cuts, [len(view) for view in views]):
        if end == begin:
            continue  # nothing lies between these cuts
        parts: dict[tuple[int, tuple[int, ...]], int] = {}
        offsets: list[int] = []
        for row, view in enumerate(views):
            key = way.row_of[row], (view.context_ids + view.response_ids)[begin[row] : end[row]]
            if key not in parts:
                parts[key] = len(parts)
                offsets.append(begin[row])
            way.row_of[row] = parts[key]
        way.parts.append(parts)
        way.offsets.append(offsets)
        begin = end
    return way


def by_group(groups: Sequence[int]) -> list[list[int]]:
    """The rows of each group; a row without a group (-1) is alone."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group if group >= 0 else -1 - row, []).append(row)
    return list(rows.values())


def common_prefix(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The common prefix of all contexts, without the last token of any: that one predicts the first response token."""
    low, high = min(contexts), max(contexts)  # in lexicographic order, so their common prefix is that of all
    end = min(len(context) for context in contexts) - 1
    same = next((at for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), end)
    return low[: min(same, end)]


def padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "b s"]:
    """Rows of ids, padded on the right with 0."""
    width = max(len(row) for row in rows)
    return torch.tensor([(*row, *(0,) * (width - len(row))) for row in rows])
