"""Several processes, one run: what they agree on, and what they hand each other.

Every process holds the same settings, the same batch and the same weights, and runs the same lines. Only what is
expensive is shared out: generating, verifying, and the passes of the update. Each process does its part, what comes of
it is gathered or added up, and then all know everything. Losses are means over the whole batch, so the gradients of the
parts add up to its gradient. Only the main process (rank 0) writes and speaks.

With one process each function below is the identity: nothing is sent, nothing is computed.
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

# How long a process waits for the others: the slowest part of a step that only one of them does must fit (a critic's
# server, a large checkpoint). A process that dies is noticed at once; this is for one that hangs.
PATIENCE = timedelta(minutes=30)
BUCKET = 1 << 25  # numbers in one message of gradients
TOLD = "told by the process that it happened in"
ONE_AFTER_ALL = (
    "accelerate launch --cpu starts a single process without mpirun: for several on a CPU use --multi_gpu in its place"
)


# -- who we are --------------------------------------------------------------------------------------------------------


def launched() -> int:
    """Processes that a launcher (accelerate launch, torchrun) has started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0, also before the processes have met."""
    return int(os.environ.get("RANK", "0")) if launched() > 1 else 0


def main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def count() -> int:
    """Processes that share the work: those that have met (`join`), else 1."""
    if "torch" not in sys.modules:
        return 1
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def words() -> str:
    """This process in words, for messages: "" where there is one, or for the main one."""
    return "" if main() else f"process {rank()} of {launched()}: "


def join(device: str) -> Any:
    """Meet the other processes, where there are some, and find this one's own device.

    Args:
        device: "auto", or a kind of device: "cpu", "cuda".

    Returns:
        The torch device that accelerate gives this process.

    Raises:
        UserError: for a device that several processes cannot have.
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
        # gloo beside NCCL: what is no tensor on a GPU need not travel through one.
        with _together():
            distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    found = torch.device(str(PartialState(cpu=cpu).device))
    if device not in ("auto", found.type):
        raise UserError(f"device {device!r} cannot be used here: auto picks one")
    return found


def leave() -> None:
    """Part from the other processes, at the end."""
    if count() > 1:
        from torch import distributed

        distributed.destroy_process_group()


def speaks(error: BaseException) -> bool:
    """Whether this process is the one to tell of an error: that of all is told by the main one, that of one by it."""
    return main() or (count() > 1 and TOLD not in getattr(error, "__notes__", []))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block only the main process prints to standard output."""
    if main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


# -- sharing out -------------------------------------------------------------------------------------------------------


def shares(weights: Sequence[float], parts: int) -> list[range]:
    """Cut a sequence into `parts` runs of about equal weight, in order; some are empty where there are too few.

    Neighbours stay together: those of a group have a prompt in common.

    >>> shares([3, 1, 1, 1], 2)
    [range(0, 1), range(1, 4)]
    """
    middles = [end - weight / 2 for end, weight in zip(accumulate(weights), weights, strict=True)]
    total = sum(weights)
    cuts = [bisect_right(middles, total * part / parts) for part in range(1, parts)]
    return [range(start, end) for start, end in zip([0, *cuts], [*cuts, len(weights)], strict=True)]


def spread(work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T]) -> list[R]:
    """`work` on all items, each process on its share; its results, in order, for every process.

    Args:
        work: from some items (perhaps none) to one result each; an error that it raises anywhere is raised everywhere.
    """
    if count() == 1:
        return list(work(items))
    mine = shares([1.0] * len(items), count())[rank()]
    parts = _outcomes(lambda: list(work([items[index] for index in mine])))
    return [result for part in parts for result in part]


def by_main(work: Callable[[], T]) -> T:
    """What `work` gives the main process, for every process; an error that it raises is raised everywhere."""
    if count() == 1:
        return work()
    return _outcomes(work if main() else lambda: None)[0]  # type: ignore[return-value]


def gather(mine: T) -> list[T]:
    """What each process has, in the order of their numbers, for every process. Plain values and records."""
    if count() == 1:
        return [mine]
    from torch import distributed

    found: list[Any] = [None] * count()
    with _together():
        distributed.all_gather_object(found, mine)
    return found


def anywhere(asked: bool) -> bool:
    """Whether something holds in any process. All must ask at the same place."""
    return asked if count() == 1 else any(gather(asked))


def agree(what: str, probe: Callable[[], Any]) -> None:
    """Raises RunFailed where something is not the same in all processes."""
    if count() > 1 and len({repr(found) for found in gather(probe())}) > 1:
        raise RunFailed(f"the processes have parted: {what} are not the same in all of them")


def _outcomes(work: Callable[[], T]) -> list[T]:
    """What `work` gives each process; where it fails in one, that error, in all."""
    error: Exception | None = None
    try:
        value = work()
    except Exception as raised:  # noqa: BLE001 (whatever it is, the others wait for this process: told, and raised)
        value, error = None, raised
    told = None if error is None else (isinstance(error, UserError), f"{words()}{_said(error)}")
    found = gather((value, told))
    if error is not None:
        raise error
    for _, failure in found:
        if failure is not None:
            copy = (UserError if failure[0] else RunFailed)(failure[1])
            copy.add_note(TOLD)
            raise copy
    return [value for value, _ in found]  # type: ignore[misc]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError | RunFailed) else f"{type(error).__name__}: {error}"


# -- adding up ---------------------------------------------------------------------------------------------------------


def add(tensor: Any) -> Any:
    """Add a tensor up over the processes, in place; returns it."""
    if count() > 1:
        from torch import distributed

        with _together():
            distributed.all_reduce(tensor)
    return tensor


def added(*numbers: float) -> tuple[float, ...]:
    """Sums of numbers over the processes, in float64."""
    if count() == 1:
        return numbers
    import torch

    return tuple(add(torch.tensor(numbers, dtype=torch.float64)).tolist())


def add_gradients(parameters: Sequence[Any]) -> None:
    """Add the gradients of parameters up over the processes; a process that has none for one takes part with zeros.

    What DDP does behind the last backward pass of an update, in as few messages.
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
    """Neighbours of one type, as many as make a message."""
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
def _together() -> Iterator[None]:
    """Within the block, a lost process is told in one line."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise RunFailed(f"the other processes are lost (the one that failed says why): {first}") from error
