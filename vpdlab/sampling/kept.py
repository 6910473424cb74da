"""Keys and values that outlast a turn, so that an episode's next turn reads only what is new.

A turn's rows end at different steps and leave the batch; what they have read stays here, in pieces. Where every context
of the next turn continues one of them, the pieces are put together again, rows in the order of the contexts, without
the slots that were padding or came after a row's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vpdlab.errors import notice
from vpdlab.model import passes
from vpdlab.model.caches import decoding_cache

TRIED = 4  # rows of the trial


@dataclass(frozen=True)
class Piece:
    """Rows that have left a batch.

    Attributes:
        layers: keys and values [R, heads, S, width] of each layer.
        valid: [R, S] the slots that hold a token of the row.
        ids: the tokens of each row that have been read.
    """

    layers: list[tuple[Tensor, Tensor]]
    valid: Bool[Tensor, "r s"]
    ids: list[tuple[int, ...]]

    def aligned(self, rows: Sequence[int], width: int) -> list[tuple[Tensor, Tensor]]:
        """Some rows' keys and values in `width` slots, the tokens at the end."""
        at = torch.tensor(rows, device=self.valid.device)
        # A stable sort moves the slots in use behind the others and keeps their order.
        slots = self.valid[at].int().argsort(dim=1, stable=True)[:, -width:]
        slots = torch.nn.functional.pad(slots, (width - slots.shape[1], 0))[:, None, :, None]

        def gathered(part: Tensor) -> Tensor:
            return part[at].gather(2, slots.expand(-1, part.shape[1], -1, part.shape[3]))

        return [(gathered(keys), gathered(values)) for keys, values in self.layers]


class Kept:
    """What the rows of one turn have read.

    Args:
        apart: largest difference of log-probabilities in nats that rounding explains.
    """

    def __init__(self, model: Any, apart: float) -> None:
        self._model, self._apart, self._pieces = model, apart, list[Piece]()
        self._tried = False
        self.active = False  # within a conversation
        self.refused = False  # whether a trial found that the model cannot go on from kept keys and values

    def put(self, cache: Any, mask: Int[Tensor, "b s"], rows: Int[Tensor, " r"], ids: list[tuple[int, ...]]) -> None:
        """Keep rows of a batch's cache.

        Args:
            mask: slots of the cache that the batch attended to.
            rows: those to keep, in order; all rows only where the cache is not written to again.
            ids: what each row has read up to its end; later slots are forgotten.
        """
        count = torch.tensor([len(read) for read in ids], device=mask.device)
        seen, every = mask[rows].bool(), len(rows) == len(mask)  # the last rows to leave need not be copied
        valid = seen & (seen.cumsum(1) <= count[:, None])
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._pieces.append(Piece(layers if every else [(k[rows], v[rows]) for k, v in layers], valid, ids))

    def clear(self) -> None:
        """Forget all rows."""
        self._pieces = []

    def resume(
        self, contexts: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[Float[Tensor, "b v"], Any, Int[Tensor, "b s"], Int[Tensor, " b"]] | None:
        """As `passes.prefill`, reading only what is new; None where a context continues no row. The rows are forgotten
        in either case."""
        found = self._found(contexts)
        pieces, self._pieces = self._pieces, []
        if found is None:
            return None
        width = max(count for *_, count in found)
        by_piece = [[n for n, (piece, *_) in enumerate(found) if piece == number] for number in range(len(pieces))]
        parts = [
            piece.aligned([found[n][1] for n in rows], width)
            for piece, rows in zip(pieces, by_piece, strict=True)
            if rows
        ]
        back = torch.tensor([n for rows in by_piece for n in rows], device=device).argsort()
        cache = decoding_cache(self._model)
        for number, layer in enumerate(zip(*parts, strict=True)):
            keys, values = (torch.cat(side)[back] for side in zip(*layer, strict=True))
            cache.update(keys, values, number)
        return self._read(contexts, [count for *_, count in found], width, cache, device)

    def _found(self, contexts: Sequence[Sequence[int]]) -> list[tuple[int, int, int]] | None:
        """The piece, row and length of the longest row that each context continues."""
        rows = {ids: (p, r) for p, piece in enumerate(self._pieces) for r, ids in enumerate(piece.ids)}
        lengths = sorted({len(ids) for ids in rows}, reverse=True)
        found: list[tuple[int, int, int]] = []
        for context in map(tuple, contexts):
            length = next((n for n in lengths if n < len(context) and context[:n] in rows), 0)
            if not length:
                return None
            found.append((*rows[context[:length]], length))
        return found

    def _read(
        self, contexts: Sequence[Sequence[int]], counts: list[int], width: int, cache: Any, device: torch.device
    ) -> tuple[Float[Tensor, "b v"], Any, Int[Tensor, "b s"], Int[Tensor, " b"]] | None:
        """Read each context's tokens after its first `counts`, which are in the cache."""
        new = [list(context[count:]) for context, count in zip(contexts, counts, strict=True)]
        room = max(map(len, new))
        ids = torch.tensor([[0] * (room - len(part)) + part for part in new], device=device)
        mask = torch.tensor(
            [
                [0] * (width - count) + [1] * count + [0] * (room - len(part)) + [1] * len(part)
                for count, part in zip(counts, new, strict=True)
            ],
            device=device,
        )
        position = (mask.cumsum(1) - 1).clamp(min=0)
        logits = passes.next_logits(self._model, ids, mask, position[:, width:], cache)
        return (logits, cache, mask, position[:, -1]) if self._agrees(contexts, logits, device) else None

    def _agrees(self, contexts: Sequence[Sequence[int]], logits: Float[Tensor, "b v"], device: torch.device) -> bool:
        """Whether the first rows that go on are those that a fresh reading gives: a model may work out places or
        masks in ways of its own. Asked once."""
        if not self._tried:
            fresh = passes.prefill(self._model, contexts[:TRIED], device)[0]
            gap = (fresh.log_softmax(-1) - logits[:TRIED].log_softmax(-1)).abs().max().item()
            self.refused = not gap <= self._apart
            self._tried = True
            if self.refused:
                self.active = False
                notice(f"episodes read each conversation again, and slower (from kept keys, {gap:.2g} nats off)")
        return not self.refused
