"""torch.compile, where a compiler is there: chains of small operations become one kernel.

Whether it works is tried once per kind of device, on a small function, since it depends on what the machine has
(Triton on a GPU, a C++ compiler on a CPU). Compiled code is kept on disk by torch (`TORCHINDUCTOR_CACHE_DIR`), so only
the first process pays for it.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from vpdlab.errors import first_line, notice

Choice = Literal["auto", "on", "off"]

# On a CPU compiling takes seconds at the start of each process: it pays for large vocabularies alone.
LARGE = 32_768
# A norm is called with a few shapes, with and without gradient: each is a version of the same code.
VERSIONS = 64
ROTARY = "apply_rotary_pos_emb"  # the name of a function in transformers' models
CODE = "_vpdlab_code"  # where a model keeps its compiled code
FAULTS = (RuntimeError, ImportError, OSError, AttributeError, TypeError, ValueError)  # of torch and of a compiler


@functools.cache
def obstacle(kind: str) -> str:
    """Why torch.compile does not work on this kind of device ("cpu", "cuda"); "" where it does."""
    if kind not in ("cpu", "cuda"):
        return f"not tried on {kind}"
    try:
        torch.compile(_trial, dynamic=True)(torch.ones(3, device=kind))
    except FAULTS as error:
        return f"{type(error).__name__}: {first_line(error)}"
    torch._dynamo.config.recompile_limit = max(VERSIONS, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.suppress_errors = True  # what does not compile runs as it is
    return ""


def _trial(x: torch.Tensor) -> torch.Tensor:
    return (x.exp() + 1.0).sum()


def wanted(choice: Choice, model: Any) -> bool:
    """Whether a run of this model compiles: as `compile` says; "auto" on a GPU, and on a CPU for large vocabularies.

    Where it was wanted and does not work, a notice says why, and the run goes on without.
    """
    device, vocabulary = model.device, model.get_output_embeddings().weight.shape[0]
    if choice == "off" or (choice == "auto" and device.type != "cuda" and vocabulary < LARGE):
        return False
    why = obstacle(device.type)
    if why:
        notice(f"torch.compile does not work on this {device.type} ({why}): slower passes are used; compile=off")
    return not why


@functools.cache
def compiled(function: Any) -> Any:
    """The function, compiled at its first call for inputs of any number of rows."""
    return torch.compile(function, dynamic=True)


def prepare(model: Any, layers: Sequence[torch.nn.Module]) -> None:
    """Make the code of `whole_layers` and `parts`, which compile at their first use."""
    whole = [(layer, torch.compile(layer._call_impl, dynamic=True)) for layer in layers]
    small = [
        (module, torch.compile(module._call_impl, dynamic=True))
        for module in model.modules()
        if type(module).__module__.startswith("transformers.") and re.search("Norm|MLP$", type(module).__name__)
    ]
    model.__dict__[CODE] = whole, small


@contextlib.contextmanager
def whole_layers(model: Any) -> Iterator[None]:
    """Within the block, a prepared model's layers run compiled. Not for passes with a cache: it knows layers by their
    numbers, so that each layer would need code of its own."""
    with _running(model.__dict__.get(CODE, ((), ()))[0]):
        yield


@contextlib.contextmanager
def parts(model: Any) -> Iterator[None]:
    """Within the block, what surrounds the products in a prepared model's layers runs compiled: norms, gated MLPs and
    rotary embeddings. For decoding, where each is a dozen kernels of microseconds."""
    small = model.__dict__.get(CODE, ((), ()))[1]
    sources = {sys.modules[type(module).__module__] for module, _ in small}
    plain = [(source, source.__dict__[ROTARY]) for source in sources if ROTARY in source.__dict__]
    for source, function in plain:
        source.__dict__[ROTARY] = compiled(function)
    try:
        with _running(small):
            yield
    finally:
        for source, function in plain:
            source.__dict__[ROTARY] = function


@contextlib.contextmanager
def _running(code: Sequence[tuple[torch.nn.Module, Any]]) -> Iterator[None]:
    for module, function in code:
        module._compiled_call_impl = function
    try:
        yield
    finally:
        for module, _ in code:
            module._compiled_call_impl = None
