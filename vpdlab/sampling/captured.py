"""Decoding in fixed buffers: on a GPU a step is captured once as a graph and replayed.

A decoding step launches a thousand small kernels, and launching them one by one takes longer than running them. A CUDA
graph launches them all at once, but it repeats the very same work on the same memory: so tokens, masks and caches live
in buffers that are written in place, the draw is part of the step, and there is one graph for each size in use. Rows
that have ended stay until the rest fits into the next smaller size.

Weights change in place and a graph sees the new values; weights that are lent by exchanging storage, another adapter or
another temperature get graphs of their own. On a CPU the same steps run without a graph.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vpdlab.errors import first_line, notice
from vpdlab.model import passes
from vpdlab.model.adapters import adapter_in_use
from vpdlab.model.casting import Lowered
from vpdlab.model.compiling import parts
from vpdlab.model.policy import Policy
from vpdlab.model.slots import Slots, additive, next_logits
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.drawing import draw

LENGTHS = 128  # lengths in use are multiples of this
LOOK = 8  # steps between two looks at which rows have ended: a look waits for the device
GRAPHS = 64  # graphs that are kept
SHARE = 0.12  # of the device's memory that buffers may keep between two phases


@functools.cache
def side_stream(device: torch.device) -> Any:
    """The stream of a device that graphs are captured on. There is one, since cuBLAS keeps memory (32 MiB on an H100)
    for each stream it has worked on; and it is named, since torch's own belongs to the first device that captured."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class Buffers:
    """The memory of R rows with L slots and T new tokens.

    Attributes:
        slots: keys and values.
        mask: [R, 1, 1, L] 0 where a row may attend, else the type's least number.
        token, position: [R] the last token, its position.
        uniform, ids, logps: [R, T] random numbers; tokens; their log-probabilities.
        ended: [R] whether a row has ended.
        step: [1] the column of `ids` that is written next.
    """

    slots: Slots
    mask: Tensor
    token: Tensor
    position: Tensor
    uniform: Tensor
    ids: Tensor
    logps: Tensor
    ended: Tensor
    step: Tensor

    @classmethod
    def make(cls, like: Any, rows: int, length: int, budget: int) -> Buffers:
        """Buffers for a model whose filled cache is `like`."""
        slots = Slots(like, rows, length)
        keys = slots.layers[0].keys

        def room(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=keys.device)

        return cls(
            slots, room(rows, 1, 1, length, dtype=keys.dtype), room(rows), room(rows),
            room(rows, budget, dtype=torch.float64), room(rows, budget), room(rows, budget, dtype=torch.float32),
            room(rows, dtype=torch.bool), room(1),
        )  # fmt: skip

    def holds(self, rows: int, length: int, budget: int) -> bool:
        """Whether there is room for so much."""
        return rows <= len(self.token) and length <= self.mask.shape[3] and budget <= self.ids.shape[1]

    @property
    def small(self) -> list[Tensor]:
        """What a step changes, but for keys and values."""
        return [self.mask, self.token, self.position, self.ids, self.logps, self.ended, self.step, self.slots.at]

    def keep(self, rows: Tensor) -> None:
        """Move rows to the front."""
        self.slots.keep(rows)
        for part in (self.mask, self.token, self.position, self.uniform, self.ids, self.logps, self.ended):
            part[: len(rows)] = part[rows]


class Decoder:
    """Decodes batches of rows with a policy's model.

    Args:
        ends: ids that end a response.
        rows: most rows at a time.
    """

    def __init__(self, policy: Policy, ends: Tensor, rows: int) -> None:
        self._policy, self._model, self._ends, self._rows = policy, policy.model, ends, rows
        self._buffers: Buffers | None = None
        self._graphs: OrderedDict[Any, Any] = OrderedDict()
        self._pool: Any = None
        self._lowered = Lowered(self._model)
        self._weights: tuple[Any, ...] = ()  # the adapter in use, and where the weights lie: a graph reads them there
        self._replays, self._refused = ends.device.type == "cuda", False
        self.captured = 0  # graphs that have been captured so far

    @torch.no_grad()
    def decode(
        self, contexts: Sequence[Sequence[int]], uniform: Float[Tensor, "b t"], sampling: Sampling
    ) -> list[Completion]:
        """One completion per context; row i of `uniform` are its random numbers."""
        budget, count = sampling.max_new_tokens, len(contexts)
        with self._policy.autocast(), self._lowered.lent(), parts(self._model):
            self._weights = adapter_in_use(self._model), *(p.data_ptr() for p in self._model.parameters())
            logits, cache, mask, position, spread = passes.read(self._model, contexts, self._ends.device)
            width = mask.shape[1]
            buffers = self._room(cache, count, width, budget)
            self._start(buffers, cache, mask, position, spread, uniform)
            token, logp = draw(logits[spread], buffers.uniform[:count, 0], sampling)
            del cache, logits
            _write(buffers, count, token, logp, self._ends)
            out = self._steps(buffers, count, width, sampling)
        if not self._keeps(buffers):
            self.release()
        return out

    def release(self) -> None:
        """Give buffers, graphs and copies of weights back."""
        self._forget()
        self._lowered.release()

    def _forget(self) -> None:
        """Give buffers and graphs back."""
        self._buffers = None
        self._graphs.clear()
        self._pool = None

    def _keeps(self, buffers: Buffers) -> bool:
        if not self._replays:
            return False
        return buffers.slots.bytes <= SHARE * torch.cuda.get_device_properties(self._ends.device).total_memory

    def _room(self, like: Any, rows: int, width: int, budget: int) -> Buffers:
        if self._buffers is None or not self._buffers.holds(rows, width + budget, budget):
            self._forget()
            budget = max(budget, self._policy.config.max_new_tokens)  # an evaluation's and a step's fit the same
            most, length = max(rows, min(self._rows, _bucket(rows))), _multiple(width + budget, LENGTHS)
            self._buffers = Buffers.make(like, most, length, budget)
        return self._buffers

    def _start(
        self, buffers: Buffers, cache: Any, mask: Tensor, position: Tensor, spread: Tensor, uniform: Tensor
    ) -> None:
        """Fill the buffers with what the prompts have left."""
        count = len(spread)
        buffers.slots.fill(cache, spread)
        buffers.slots.at.fill_(mask.shape[1])
        buffers.mask.zero_()  # rows that stand for nothing attend to anything: no NaN
        buffers.mask[:count] = additive(mask, buffers.mask.dtype, buffers.mask.shape[3])[spread]
        buffers.position.zero_()
        buffers.position[:count] = position[spread]
        buffers.uniform[:count, : uniform.shape[1]] = uniform.to(buffers.uniform)
        buffers.ended.zero_()
        buffers.step.zero_()

    def _steps(self, buffers: Buffers, count: int, width: int, sampling: Sampling) -> list[Completion]:
        """All steps after the first token; rows leave at the sizes' borders."""
        budget = sampling.max_new_tokens
        ids, logps = torch.zeros_like(buffers.ids[:count]), torch.zeros_like(buffers.logps[:count])
        where, size = torch.arange(count, device=ids.device), min(_bucket(count), len(buffers.token))
        for t in range(1, budget):
            if t % LOOK == 0:
                alive = (~buffers.ended[: len(where)]).nonzero()[:, 0]  # waits for the device
                if not len(alive):
                    break
                if _bucket(len(alive)) < size:
                    ids[where], logps[where] = buffers.ids[: len(where)], buffers.logps[: len(where)]
                    buffers.keep(alive)
                    where, size = where[alive], _bucket(len(alive))
            self._step(buffers, size, _multiple(width + t, LENGTHS), sampling)
        ids[where], logps[where] = buffers.ids[: len(where)], buffers.logps[: len(where)]
        return _completions(ids[:, :budget], logps[:, :budget], self._ends)

    def _step(self, buffers: Buffers, rows: int, length: int, sampling: Sampling) -> None:
        """One step of the first rows over the first slots."""
        buffers.slots.rows, buffers.slots.length = rows, length
        if not self._replays:
            self._work(buffers, sampling)
            return
        key = (rows, length, sampling.temperature, sampling.top_p, self._weights)
        if key not in self._graphs:
            self._graphs[key] = self._tried(buffers, sampling)
            while len(self._graphs) > GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        if graph is None:
            self._work(buffers, sampling)
        else:
            graph.replay()

    def _tried(self, buffers: Buffers, sampling: Sampling) -> Any:
        """The step as a graph; None where something in it cannot be captured, which a notice says once. No other is
        tried then: a capture that has failed costs torch's allocator the memory that it had set aside."""
        if self._refused:
            return None
        before = [part.clone() for part in buffers.small]
        try:
            return self._capture(buffers, sampling)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Ending a capture that is void is an error of its own, which names no cause.
            why = error.__context__ or error
            notice(f"decoding runs without graphs, and slower ({first_line(why)}): set capture to off")
            self._refused = True
            return None
        finally:  # a capture runs the step; it must leave no trace
            for part, old in zip(buffers.small, before, strict=True):
                part.copy_(old)

    def _work(self, buffers: Buffers, sampling: Sampling) -> None:
        """Read each row's last token, draw the next: all in place, and nothing waits for the device."""
        rows, length = buffers.slots.rows, buffers.slots.length
        buffers.mask.index_fill_(3, buffers.slots.at, 0.0)
        buffers.position.add_(1)
        mask = buffers.mask[:rows, :, :, :length]
        logits = next_logits(
            self._model, buffers.token[:rows, None], mask, buffers.position[:rows, None], buffers.slots
        )
        uniform = buffers.uniform[:rows].index_select(1, buffers.step)[:, 0]
        token, logp = draw(logits, uniform, sampling)
        buffers.slots.at.add_(1)
        _write(buffers, rows, token, logp, self._ends)

    def _capture(self, buffers: Buffers, sampling: Sampling) -> Any:
        """The step as a graph. It runs once before, as kernels are made and memory is found at their first use."""
        device = self._ends.device
        with torch.cuda.device(device):
            side, outer = side_stream(device), torch.cuda.current_stream(device)
            side.wait_stream(outer)
            with torch.cuda.stream(side):
                self._work(buffers, sampling)
            outer.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()  # graphs replay one after the other: one memory
            try:  # what other threads do on the GPU meanwhile does not belong to the step
                with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                    self._work(buffers, sampling)
            finally:
                torch.cuda.set_stream(outer)  # torch leaves its own in place where the capture fails
        self.captured += 1
        return graph


def _write(buffers: Buffers, rows: int, token: Tensor, logp: Tensor, ends: Tensor) -> None:
    """Enter the tokens of a step."""
    buffers.token[:rows] = token
    buffers.ids[:rows].index_copy_(1, buffers.step, token[:, None])
    buffers.logps[:rows].index_copy_(1, buffers.step, logp[:, None].float())
    buffers.ended[:rows] |= (token[:, None] == ends).any(1)
    buffers.step.add_(1)


def _completions(ids: Tensor, logps: Tensor, ends: Tensor) -> list[Completion]:
    """Cut each row after its first end token."""
    end = (ids[:, :, None] == ends).any(-1) if len(ends) else torch.zeros_like(ids, dtype=torch.bool)
    finished = end.any(1)
    length = torch.where(finished, end.int().argmax(1) + 1, ids.shape[1])
    rows = zip(ids.tolist(), logps.tolist(), length.tolist(), finished.tolist(), strict=True)
    return [Completion(tuple(row[:n]), tuple(numbers[:n]), bool(done)) for row, numbers, n, done in rows]


def _bucket(rows: int) -> int:
    """The smallest size in use that holds `rows` rows: powers of two, and one between each two of them above 16."""
    size = 1 << (rows - 1).bit_length() if rows > 1 else 1
    return 3 * size // 4 if size >= 32 and rows <= 3 * size // 4 else size


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of
