"""What a model holds and what a forward pass of it saves for the backward pass, counted without its weights.

The model is built on the meta device and run forward on fake tensors, which have shapes, types and no content. Tests
compare the counts with those of real passes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpdlab.errors import UserError, first_line
from vpdlab.model.adapters import adapter_layers, add_adapter
from vpdlab.model.passes import decoder_of, layers_of
from vpdlab.model.traits import UNFIT

COUNTED = "vpdlab-counted"  # name of the attention that only counts
WIDTHS = (64, 128)  # tokens of the two passes


@dataclass(frozen=True)
class Saved:
    """What a forward pass with gradient saves for its backward pass.

    Attributes:
        fixed: bytes whatever the number of tokens: weights cast by autocast.
        per_token: bytes of one padded token.
        layers, hidden: number of layers; bytes of one token's hidden state between two of them.
        weights, trained: bytes of all weights, adapters included; of those with gradient.
        vocabulary: V.
    """

    fixed: int
    per_token: float
    layers: int
    hidden: int
    weights: int
    trained: int
    vocabulary: int


class Uncompared:
    """A config as a cached function's argument: two are equal where their texts, beside them, are."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Uncompared)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=64)
def count(text: str, model: Uncompared, precision: str, lora_rank: int, adapter_rank: int) -> Saved:
    """Build a model on fake tensors and run two forward passes of different lengths.

    Args:
        text, model: the config as JSON, which tells configs apart, and itself.
        precision, lora_rank: as in the settings. adapter_rank: of the teacher's adapter; 0: it has none.

    Raises:
        UserError: for an architecture that cannot be run this way.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with _counting():
            built = _built(model.model, torch.bfloat16 if precision == "bfloat16" else torch.float32)
            trained = _adapted(built, lora_rank, adapter_rank)
            with FakeTensorMode():
                _faked(built)
                mixed = precision == "bfloat16-mixed"
                (short, hidden), (long, _) = (saved_bytes(built, width, mixed) for width in WIDTHS)
    except UNFIT as error:
        raise UserError(f"{type(model.model).__name__}: its memory cannot be counted: {first_line(error)}") from error
    per_token = (long - short) / (WIDTHS[1] - WIDTHS[0])
    return Saved(
        fixed=int(short - per_token * WIDTHS[0]),
        per_token=per_token,
        layers=len(layers_of(built)),
        hidden=hidden,
        weights=sum(p.numel() * p.element_size() for p in built.parameters()),
        trained=trained,
        vocabulary=built.get_output_embeddings().weight.shape[0],
    )


def _built(model: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    config = type(model).from_dict(model.to_dict())
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=COUNTED).eval()


def _faked(model: Any) -> None:
    """Move a model from the meta device to fake tensors of a CPU, which autocast knows. Call it in a FakeTensorMode."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, old in kept.items():
                if old is not None:
                    moved.setdefault(id(old), _like(old))
                    kept[name] = moved[id(old)]


def _like(old: Tensor) -> Tensor:
    new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
    return torch.nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, torch.nn.Parameter) else new


def _adapted(model: Any, lora_rank: int, adapter_rank: int) -> int:
    """Add the adapters; bytes of everything that is trained. What the student trains takes a gradient."""
    for name, rank in (("student", lora_rank), ("teacher", adapter_rank)):
        if rank:
            add_adapter(model, name, rank)
    kinds = {name: [p for key, p in model.named_parameters() if f".{name}." in key] for name in ("student", "teacher")}
    base = [p for key, p in model.named_parameters() if ".lora_" not in key]
    student = kinds["student"] if lora_rank else base
    for layer in adapter_layers(model).values():
        layer.enable_adapters(bool(lora_rank))
        if lora_rank:
            layer.set_adapter("student")
    model.requires_grad_(False)
    for p in student:
        p.requires_grad_(True)
    return sum(p.numel() * p.element_size() for p in [*student, *(kinds["teacher"] if adapter_rank else [])])


def saved_bytes(model: Any, tokens: int, mixed: bool) -> tuple[int, int]:
    """Bytes that one row's forward pass saves, weights and buffers left out; bytes of one token's hidden state.

    Args:
        mixed: under bfloat16's autocast.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if mixed else contextlib.nullcontext()
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
    sizes = [tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own]
    return sum(sizes), hidden.shape[-1] * hidden.element_size()


class _Attention(torch.autograd.Function):
    """What a fused attention saves: its inputs, its output and one number a row. It computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        rows, heads, tokens, _ = query.shape
        out = query.new_empty(rows, tokens, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(rows, heads, tokens, dtype=torch.float32))
        return out


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    if torch.is_autocast_enabled("cpu"):  # as the fused attention's inputs are
        query, key, value = (one.to(torch.bfloat16) for one in (query, key, value))
    return _Attention.apply(query, key, value), None  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _counting() -> Iterator[None]:
    """Within the block transformers knows the attention that only counts."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(COUNTED, _attention)
    AttentionMaskInterface.register(COUNTED, sdpa_mask)
    yield
