"""Data-parallel runs: splitting work between ranks, all-reduce and gather, and errors that reach every rank.

Every rank holds the same settings, the same batch and the same weights, and executes the same code. Only the expensive
parts are split: generation, verification, and the passes of the update. Results are gathered or all-reduced, so every
rank has all of them. Losses are means over the whole batch, so the gradients of the parts sum to its gradient. Only
rank 0 writes files and prints.

With a single process every function below is the identity: nothing is sent, nothing is computed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import accumulate
from typing import Any, TypeVar

from vpdlab.errors import RunFailed, UserError

T = TypeVar("T")
R = TypeVar("R")

# Collective timeout. It must exceed the slowest work that a single rank does alone (a critic's server, a large
# checkpoint). A rank that dies is noticed at once; this covers one that hangs.
PATIENCE = timedelta(minutes=30)
BUCKET = 1 << 25  # gradient elements per all-reduce
REPORTED = "reported by the rank that raised it"
ONE_AFTER_ALL = (
    "accelerate launch --cpu starts a single process without mpirun; to start several on a CPU, use --multi_gpu instead"
)


# -- ranks -------------------------------------------------------------------------------------------------------------


def launched() -> int:
    """Number of processes that a launcher (accelerate launch, torchrun) started for this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's rank; available before `join`."""
    return int(os.environ.get("RANK", "0")) if launched() > 1 else 0


def main() -> bool:
    """Whether this is rank 0, which writes files and prints."""
    return rank() == 0


def count() -> int:
    """Number of ranks that share the work: the world size after `join`, else 1."""
    if "torch" not in sys.modules:
        return 1
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def words() -> str:
    """Prefix that names this rank in messages; "" for rank 0 and for a single process."""
    return "" if main() else f"process {rank()} of {launched()}: "


def join(device: str) -> Any:
    """Initialise the process group if there are several processes, and choose this rank's device.

    Args:
        device: "auto", or a device type: "cpu", "cuda".

    Returns:
        The torch device that accelerate assigns to this rank.

    Raises:
        UserError: for a device that is unavailable, or that several processes cannot use.
    """
    import torch
    from accelerate import PartialState
    from torch import distributed

    several, cpu = launched() > 1, device == "cpu"
    if not several and os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
        print(ONE_AFTER_ALL, file=sys.stderr)
    if several and device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r}, but {launched()} processes need one each: choose auto, cpu or cuda")
    if several and not distributed.is_initialized():
        gpu = torch.cuda.is_available() and not cpu
        # gloo beside NCCL, so that CPU tensors and objects need not pass through a GPU.
        with _losing_ranks():
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    chosen = torch.device(str(PartialState(cpu=cpu).device))
    if device not in ("auto", chosen.type):
        raise UserError(f"device {device!r} is unavailable; use auto")
    return chosen


def leave() -> None:
    """Destroy the process group at the end of a run."""
    if count() > 1:
        from torch import distributed

        distributed.destroy_process_group()


def speaks(error: BaseException) -> bool:
    """Whether this rank reports an error: rank 0 reports those common to all, other ranks those they raised."""
    return main() or (count() > 1 and REPORTED not in getattr(error, "__notes__", []))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block only rank 0 prints to standard output."""
    if main():
        yield
        return
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        yield


# -- splitting work ---------------------------------------------------------------------------------------------------


def shares(weights: Sequence[float], parts: int) -> list[range]:
    """Split a sequence into `parts` contiguous ranges of about equal weight; some are empty if there are too few items.

    Ranges are contiguous because the members of a group, which share a prompt, are neighbours.

    >>> shares([3, 1, 1, 1], 2)
    [range(0, 1), range(1, 4)]
    """
    centres = [end - weight / 2 for end, weight in zip(accumulate(weights), weights, strict=True)]
    total = sum(weights)
    cuts = [bisect_right(centres, total * part / parts) for part in range(1, parts)]
    return [range(start, end) for start, end in zip([0, *cuts], [*cuts, len(weights)], strict=True)]


def spread(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
    """Apply `work` to all items, each rank to its share; every rank gets all results, in order.

    Args:
        work: maps some items (possibly none) to one result each; an error raised on one rank is raised on all.
    """
    if count() == 1:
        return list(work(items))
    mine = shares([1.0] * len(items), count())[rank()]
    parts = _gather_results(lambda: list(work([items[index] for index in mine])))
    return [result for part in parts for result in part]


def by_main(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and broadcast its result; an error that it raises is raised on all ranks."""
    if count() == 1:
        return work()
    return _gather_results(work if main() else lambda: None)[0]  # type: ignore[return-value]


def gather(mine: T) -> list[T]:
    """All-gather: every rank gets the value of each rank, in rank order. For plain values and records."""
    if count() == 1:
        return [mine]
    from torch import distributed

    values: list[Any] = [None] * count()
    with _losing_ranks():
        distributed.all_gather_object(values, mine)
    return values


def anywhere(asked: bool) -> bool:
    """Whether `asked` is true on any rank. A collective: all ranks must call it."""
    return asked if count() == 1 else any(gather(asked))


def agree(what: str, probe: Callable[[], Any]) -> None:
    """Raises RunFailed if `probe` returns different values on different ranks."""
    if count() > 1 and len({repr(value) for value in gather(probe())}) > 1:
        raise RunFailed(f"ranks diverged: {what} differ between processes")


def _gather_results(work: Callable[[], T]) -> list[T]:
    """The result of `work` on each rank; if it fails on one, every rank raises that error."""
    error: Exception | None = None
    try:
        value = work()
    except Exception as raised:  # noqa: BLE001 (the other ranks are waiting: it is sent to them, and raised)
        value, error = None, raised
    failure = None if error is None else (isinstance(error, UserError), f"{words()}{_message(error)}")
    results = gather((value, failure))
    if error is not None:
        raise error
    for _, failure in results:
        if failure is not None:
            copy = (UserError if failure[0] else RunFailed)(failure[1])
            copy.add_note(REPORTED)
            raise copy
    return [value for value, _ in results]  # type: ignore[misc]


def _message(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | RunFailed) else f"{type(error).__name__}: {error}"


# -- all-reduce -------------------------------------------------------------------------------------------------------


def add(tensor: Any) -> Any:
    """All-reduce (sum) a tensor in place; returns it."""
    if count() > 1:
        from torch import distributed

        with _losing_ranks():
            distributed.all_reduce(tensor)
    return tensor


def added(*numbers: float) -> tuple[float, ...]:
    """Sums of numbers over all ranks, in float64."""
    if count() == 1:
        return numbers
    import torch

    return tuple(add(torch.tensor(numbers, dtype=torch.float64)).tolist())


def add_gradients(parameters: Sequence[Any]) -> None:
    """All-reduce (sum) the gradients of parameters; a rank without a gradient contributes zeros.

    What DDP does after the last backward pass of an update, in as few messages.
    """
    if count() == 1:
        return
    import torch

    has = add(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)).tolist()
    wanted = [p for p, processes in zip(parameters, has, strict=True) if processes]
    for p in wanted:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    for bucket in _buckets([p.grad for p in wanted]):
        flat = add(torch.cat([gradient.reshape(-1) for gradient in bucket]))
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    """Consecutive tensors of one dtype, in groups of at most `BUCKET` elements (a larger tensor is alone)."""
    bucket: list[Any] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextlib.contextmanager
def _losing_ranks() -> Iterator[None]:
    """Within the block, the loss of another rank is reported in one line."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise RunFailed(f"lost the other processes (the one that failed says why): {first}") from error
