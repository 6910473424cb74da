"""A GPU that this machine does not have: tensors that say they are on "cuda" and hold ordinary ones of the CPU.

The project's own code runs on them, with real numbers, and is held to a GPU's rules: tensors of two devices do not mix,
what makes the host wait is counted, and a captured graph repeats the same operations on the same memory, in which
nothing may wait, come from the CPU or make memory of its own. What only a GPU's kernels do (rounding, speed, their own
limits) does not show.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

PROJECT = str(Path(__file__).resolve().parents[1] / "vpdlab")
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim,
         aten.is_nonzero, aten.unique_consecutive, aten.bincount}  # fmt: skip
# In other operations a single number may come from the CPU.
STRICT = {aten.cat, aten.stack, aten.gather, aten.scatter, aten.scatter_, aten.index_select, aten.index_copy_,
          aten.index_fill_, aten.index_add, aten.mm, aten.bmm, aten.addmm, aten.searchsorted}  # fmt: skip


class Mixed(RuntimeError):
    """Tensors of two devices in one operation."""


class Illegal(RuntimeError):
    """What a stream that is captured refuses."""


class Graph:
    """Operations and the memory they work on (`torch.cuda.CUDAGraph`)."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.pool: Any = None

    def replay(self) -> None:
        """Run them again. What other graphs of the same memory have left there is gone."""
        for other in GPU.graphs:
            if other.pool == self.pool:
                other.forget()
        for func, args, kwargs, outs in self.steps:
            found = func(*args, **kwargs)
            for new, old in zip(_tensors(found) if outs else [], outs, strict=True):
                old.copy_(new)

    def forget(self) -> None:
        """Fill what it has computed with something that no result may depend on."""
        for *_, outs in self.steps:
            for out in outs:
                _spoil(out)


class State:
    """What a test may ask of the pretended GPU."""

    def __init__(self) -> None:
        self.clear()

    def clear(self, device: str = "cuda:0") -> None:
        self.device = torch.device(device)
        self.waits: Counter[str] = Counter()  # operation and place in the project -> times
        self.graphs: list[Graph] = []
        self.capturing: Graph | None = None
        self.streams: set[int] = set()  # that work has run on
        self.kept: list[Any] = []
        self.tried = 0  # captures that were begun
        self.inside = False

    def note(self, what: str) -> None:
        if self.capturing is not None:
            raise Illegal(f"operation not permitted when stream is capturing: {what} ({_place()})")
        self.waits[f"{what} {_place()}"] += 1


GPU = State()


def _place() -> str:
    frame: Any = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PROJECT):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename.removeprefix(PROJECT)[1:]}:{frame.f_lineno}"


def _spoil(out: Tensor) -> None:
    out.fill_(torch.nan if out.is_floating_point() else True if out.dtype == torch.bool else 0)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class OnGPU(Tensor):
    """A tensor "on cuda:0"; `inner` holds its numbers."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGPU:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=inner.device, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    device = property(lambda self: GPU.device)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, new: Any) -> None:
        if not isinstance(new, OnGPU):
            raise Mixed("the data of a tensor on a GPU was set to one on the CPU")
        Tensor.data.__set__(self, new)  # type: ignore[attr-defined]
        self.inner = new.inner

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        GPU.note("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.inner})"

    def __deepcopy__(self, memo: Any) -> Any:
        made = OnGPU(self.inner.clone())
        return torch.nn.Parameter(made, self.requires_grad) if isinstance(self, torch.nn.Parameter) else made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _check(func, args, kwargs)
        kwargs.pop("device", None)  # torch names the device that it believes in
        out = tree_map_only(Tensor, OnGPU, _run(func, _unwrapped((args, kwargs))))
        return return_and_correct_aliasing(func, args, kwargs, out)


def _unwrapped(tree: Any) -> Any:
    return tree_map_only(OnGPU, lambda one: one.inner, tree)


def _check(func: Any, args: Any, kwargs: Any) -> None:
    """The rules of devices, and what waits."""
    packet, leaves = func.overloadpacket, _tensors((args, kwargs))
    foreign = [one for one in leaves if not isinstance(one, OnGPU)]
    if packet in WAITS or (packet in (aten.index, aten.index_put, aten.index_put_) and _chooses(args[1])):
        GPU.note(packet.__name__)
    indexed = packet in (aten.index, aten.index_put, aten.index_put_) and isinstance(args[0], OnGPU)
    if foreign and (packet is aten.copy_ or (indexed and all(one.dim() == 0 for one in _values(args, foreign)))):
        GPU.note(f"{packet.__name__} between devices")
        return
    if any(one.dim() or packet in STRICT for one in foreign):
        shapes = [(str(one.device), tuple(one.shape)) for one in leaves]
        raise Mixed(f"Expected all tensors to be on the same device: {func} of {shapes} ({_place()})")


def _chooses(indices: Any) -> bool:
    return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices)


def _values(args: Any, foreign: list[Tensor]) -> list[Tensor]:
    """What comes from the CPU and is no index."""
    indices = {id(one) for one in args[1] if one is not None}
    return [one for one in foreign if id(one) not in indices]


def _run(func: Any, unwrapped: Any) -> Any:
    """The operation; in a capture it is written down, and nothing but its shape is found out."""
    args, kwargs = unwrapped
    graph = GPU.capturing
    if graph is None:
        return func(*args, **kwargs)
    schema = func._schema
    if any(one.alias_info is not None and one.alias_info.is_write for one in schema.arguments):
        graph.steps.append((func, args, kwargs, []))
        written = [one for one, kind in zip(args, schema.arguments, strict=False)
                   if kind.alias_info is not None and kind.alias_info.is_write]  # fmt: skip
        return written[0] if schema.returns else None
    out = func(*args, **kwargs)
    held = {one.untyped_storage().data_ptr() for one in _tensors(unwrapped)}
    if any(one.untyped_storage().data_ptr() in held for one in _tensors(out)):
        return out  # a view
    outs = _tensors(out)
    graph.steps.append((func, args, kwargs, outs))
    for one in outs:
        _spoil(one)
    return out


class _Upload(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor) -> Tensor:  # type: ignore[override]
        return OnGPU(one.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.inner  # type: ignore[attr-defined]


class _Download(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor) -> Tensor:  # type: ignore[override]
        return one.inner.detach().clone()  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return OnGPU(gradient)


def uploaded(one: Tensor) -> Tensor:
    """A copy on the GPU."""
    if GPU.capturing is not None:
        raise Illegal(f"operation not permitted when stream is capturing: a copy from the CPU ({_place()})")
    return _Upload.apply(one)  # type: ignore[no-any-return,no-untyped-call]


def _kind(device: Any) -> str:
    return torch.device(device).type if isinstance(device, str | torch.device) else ""


class _Devices(TorchFunctionMode):
    """Lets functions make and move tensors there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if isinstance(func, torch._ops.OpOverload):  # called by the mode below
            return func(*args, **kwargs)
        if name in ("backward", "grad") and func.__module__ in ("torch._tensor", "torch.autograd"):
            with self, _inside(any(isinstance(one, OnGPU) for one in _tensors(args))):
                return (_backward if name == "backward" else _grad)(*args, **kwargs)
        with _inside(any(isinstance(one, OnGPU) for one in _tensors((args, kwargs)))):
            return self._called(func, name, args, kwargs)

    def _called(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], Tensor):
            return self._moved(func, name, args, kwargs)
        on_gpu = any(isinstance(one, OnGPU) for one in _tensors(args))
        if _kind(kwargs.get("device")) != "cuda":
            out = func(*args, **kwargs)
            return out.inner if on_gpu and _kind(kwargs.get("device")) == "cpu" else out
        if on_gpu and name not in ("tensor", "as_tensor"):
            del kwargs["device"]  # it is there already
            return func(*args, **kwargs)
        out = func(*args, **{**kwargs, "device": "cpu"})
        if name in ("tensor", "as_tensor", "from_numpy") and GPU.capturing is not None:
            raise Illegal(f"operation not permitted when stream is capturing: {name} ({_place()})")
        if GPU.capturing is not None:  # zeros, arange: made again in each replay
            again = {**kwargs, "device": "cpu"}
            GPU.capturing.steps.append((func, args, again, [out]))
        return OnGPU(out)

    def _moved(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        one, rest = args[0], list(args[1:])
        target = {"cpu": "cpu", "cuda": "cuda"}.get(name, "")
        for place, value in [*enumerate(rest), *kwargs.items()]:
            if isinstance(value, Tensor):
                target = value.device.type
                there = value.dtype
                rest = [there]
                kwargs.pop("other", None)
                break
            if _kind(value):
                target = _kind(value)
                kwargs.pop("device", None)
                rest = [part for index, part in enumerate(rest) if index != place]
                break
        rest = [part for part in rest if isinstance(part, torch.dtype)] if name == "to" else []
        kwargs.pop("non_blocking", None)
        here = one.device.type
        if target and target != here:
            if target == "cpu":
                GPU.note("copy to the CPU")
                one = _Download.apply(one)  # type: ignore[no-untyped-call]
            else:
                one = uploaded(one)
        return func(one, *rest, **kwargs) if rest or kwargs else one


def _backward(loss: Tensor, gradient: Any = None, *_: Any, **__: Any) -> None:
    slope = torch.ones_like(loss) if gradient is None else gradient
    torch.autograd.graph._engine_run_backward((loss,), (slope,), False, False, (), True, accumulate_grad=True)


def _grad(outputs: Any, inputs: Any, grad_outputs: Any = None, allow_unused: bool = False, **_: Any) -> Any:
    outputs, inputs = (tuple(side) if isinstance(side, list | tuple) else (side,) for side in (outputs, inputs))
    given = tuple(grad_outputs) if isinstance(grad_outputs, list | tuple) else (grad_outputs,) * len(outputs)
    slopes = tuple(torch.ones_like(out) if one is None else one for out, one in zip(outputs, given, strict=True))
    return torch.autograd.graph._engine_run_backward(
        outputs, slopes, False, False, inputs, allow_unused, accumulate_grad=False
    )


def _model_moved(plain: Any) -> Any:
    """`torch.nn.Module.to`, which keeps shared weights shared."""

    def to(module: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(_kind(one) == "cuda" for one in (*args, *kwargs.values())):
            return plain(module, *args, **kwargs)
        memo: dict[int, Any] = {}
        for part in module.modules():
            for kept in (part._parameters, part._buffers):
                for name, old in kept.items():
                    if old is None or isinstance(old, OnGPU):
                        continue
                    if id(old) not in memo:
                        new = OnGPU(old.detach().clone())
                        is_weight = isinstance(old, torch.nn.Parameter)
                        memo[id(old)] = (torch.nn.Parameter(new, old.requires_grad) if is_weight else new), old
                    kept[name] = memo[id(old)][0]
        return module

    return to


class Stream:
    """`torch.cuda.Stream`, of the first device unless one is named."""

    def __init__(self, device: Any = "cuda:0") -> None:
        self.device = torch.device(device)

    def wait_stream(self, other: Any) -> None:
        """Operations run in order here."""


@contextlib.contextmanager
def _block(stream_or_device: Any) -> Iterator[None]:
    """`torch.cuda.stream`, `torch.cuda.device`."""
    if isinstance(stream_or_device, Stream):
        GPU.streams.add(id(stream_or_device))
        GPU.kept.append(stream_or_device)  # its id is not given to another one
    yield


@contextlib.contextmanager
def _graph(graph: Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """`torch.cuda.graph`. A stream of another device captures nothing of what runs on this one."""
    graph.pool, GPU.tried = pool, GPU.tried + 1
    GPU.capturing = graph if (stream or Stream()).device == GPU.device else None
    try:
        yield
    finally:
        GPU.capturing = None
    GPU.graphs.append(graph)


class Generator(torch.Generator):
    """`torch.Generator`, on the CPU whatever it is asked for."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


def _slopes(plain: Any) -> Any:
    """`BackwardCFunction.apply`: slopes of 0 that autograd has filled in lie where the others do."""

    def apply(node: Any, *slopes: Any) -> Any:
        if any(isinstance(one, OnGPU) for one in slopes):
            slopes = tuple(tree_map_only(Tensor, lambda one: one if isinstance(one, OnGPU) else OnGPU(one), slopes))
        with _inside(False):
            return plain(node, *slopes)

    return apply


@contextlib.contextmanager
def _inside(on: bool) -> Iterator[None]:
    """Whether what torch itself makes from here on belongs to the GPU."""
    before, GPU.inside = GPU.inside, on
    try:
        yield
    finally:
        GPU.inside = before


class _Made(TorchDispatchMode):
    """What an operation on the GPU makes for itself lies there too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if GPU.inside and type(out) is Tensor and not _tensors((args, kwargs)):
            if GPU.capturing is not None:
                GPU.capturing.steps.append((func, args, kwargs or {}, [out]))
            return OnGPU(out)
        return out


MEMORY = 2**36
FUNCTIONS: dict[str, Any] = {
    "Stream": Stream, "current_stream": lambda device="cuda:0": Stream(device), "stream": _block, "device": _block,
    "CUDAGraph": Graph, "graph": _graph, "graph_pool_handle": object, "set_stream": lambda _: None,
    "is_initialized": lambda: True, "synchronize": lambda *_: None, "empty_cache": lambda: None,
    "mem_get_info": lambda *_: (MEMORY, MEMORY), "get_device_name": lambda *_: "pretended",
    "get_device_properties": lambda *_: SimpleNamespace(total_memory=MEMORY, name="pretended", major=9, minor=0),
    "get_rng_state": lambda *_: torch.get_rng_state(), "set_rng_state": lambda *_: None, "current_device": lambda: 0,
    "memory_reserved": lambda *_: 0, "memory_allocated": lambda *_: 0, "max_memory_allocated": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None, "device_count": lambda: 1,
}  # fmt: skip


@contextlib.contextmanager
def pretended_gpu(device: str = "cuda:0") -> Iterator[State]:
    """Within the block this device is there. Compiled functions run as they are."""
    from vpdlab.model import compiling
    from vpdlab.sampling import captured

    kept_between = (compiling.compiled, captured.side_stream)
    with pytest.MonkeyPatch.context() as patch:
        for name, function in FUNCTIONS.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch.nn.Module, "to", _model_moved(torch.nn.Module.to))
        patch.setattr(BackwardCFunction, "apply", _slopes(BackwardCFunction.apply))
        autocast, enabled, kind = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype
        patch.setattr(torch, "autocast", lambda device_type, **how: autocast("cpu", **how))
        patch.setattr(torch, "is_autocast_enabled", lambda device="cpu": enabled("cpu"))
        patch.setattr(torch, "get_autocast_dtype", lambda device="cpu": kind("cpu"))
        patch.setattr(torch, "compile", lambda function, **_: function)
        patch.setattr(compiling, "obstacle", lambda kind: "")
        try:
            for function in kept_between:
                function.cache_clear()
            GPU.clear(device)
            with torch.autograd.set_multithreading_enabled(False), _Made(), _Devices():
                yield GPU
        finally:
            for function in kept_between:
                function.cache_clear()
            GPU.clear()
