"""Attention in float32 of bfloat16 inputs on a CPU, against transformers' own function in float32."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.toy import toy_run
from vpdlab.model.attention import LONG, NAME, attend
from vpdlab.types import View

ROWS, WIDTH = 3, 8
CLOSE: dict[str, Any] = {"rtol": 2.0**-8, "atol": 1e-5}  # one rounding to bfloat16
HEADS = [(4, 4), (4, 2), (6, 2)]
OURS: Any = attend
THEIRS: Any = sdpa_attention_forward
BOTH = (OURS, THEIRS)
MASKS = ["none", "causal", "bool", "per head", "added"]


def inputs(heads: int, shared: int, queries: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Query, key and value, strided as a model's projections leave them; all bfloat16 numbers, whatever the type."""
    stream = torch.Generator().manual_seed(heads * 100 + queries)
    sizes = [(heads, queries), (shared, keys), (shared, keys)]
    drawn = [torch.randn(ROWS, length, count, WIDTH, generator=stream).transpose(1, 2) for count, length in sizes]
    return [one.bfloat16().to(dtype).requires_grad_() for one in drawn]


def mask_of(kind: str, heads: int, queries: int, keys: int) -> Tensor | None:
    """Causal, and without the padding at the left of the second row. "none" and "causal" say it by no mask at all."""
    if kind in ("none", "causal"):
        return None
    seen = torch.arange(keys)[None] <= torch.arange(queries)[:, None] + keys - queries
    seen = seen.expand(ROWS, 1, queries, keys).clone()
    seen[1, :, :, :2] = False
    if kind == "per head":
        return seen.expand(ROWS, heads, queries, keys)
    low = torch.finfo(torch.bfloat16).min
    return seen if kind == "bool" else torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, low)


def module(heads: int, shared: int) -> Any:
    return SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)


def with_gradients(out: Tensor, given: list[Tensor]) -> list[Tensor]:
    """The result and its gradients with the same slope, all float32."""
    slope = torch.linspace(-1.0, 1.5, out.numel()).reshape(out.shape).bfloat16().to(out.dtype)
    return [one.detach().float() for one in (out, *torch.autograd.grad(out, given, slope))]


@pytest.mark.parametrize("mixed", [False, True], ids=["bfloat16", "autocast"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("heads", "shared"), HEADS)
def test_values_and_gradients_are_float32s_rounded_once(heads: int, shared: int, kind: str, mixed: bool) -> None:
    """Under autocast rotated queries and keys are float32, and values bfloat16."""
    for queries, keys in ((7, 7), (7, 12), (1, 12)):
        if kind == "causal" and queries != keys:
            continue
        mask, causal = mask_of(kind, heads, queries, keys), kind == "causal"
        given = inputs(heads, shared, queries, keys)
        if mixed:
            given[:2] = [one.detach().float().requires_grad_() for one in given[:2]]
        with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
            out, _ = OURS(module(heads, shared), *given, mask, scaling=0.3, is_causal=causal)
        assert out.dtype == torch.bfloat16 and out.is_contiguous()
        truth = inputs(heads, shared, queries, keys, torch.float32)
        mask = mask.float() if kind == "added" and mask is not None else mask
        wanted, _ = THEIRS(module(heads, shared), *truth, mask, scaling=0.3, is_causal=causal)
        for one, other in zip(with_gradients(out, given), with_gradients(wanted, truth), strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def test_without_gradient_the_values_are_the_same() -> None:
    given, mask = inputs(4, 2, 5, 9), mask_of("bool", 4, 5, 9)
    with torch.no_grad():
        without = OURS(module(4, 2), *given, mask)[0]
    assert torch.equal(without, OURS(module(4, 2), *given, mask)[0])


def test_a_position_bias_is_added() -> None:
    bias = torch.linspace(-2.0, 2.0, 4 * 5 * 9).reshape(1, 4, 5, 9).bfloat16()
    mask = mask_of("bool", 4, 5, 9)
    out = OURS(module(4, 2), *inputs(4, 2, 5, 9), mask, position_bias=bias)[0]
    truth = inputs(4, 2, 5, 9, torch.float32)
    wanted = THEIRS(module(4, 2), *truth, mask, position_bias=bias.float())[0]
    torch.testing.assert_close(out.float(), wanted, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_higher_precision_is_left_to_transformers(dtype: torch.dtype) -> None:
    for queries in (1, 5):
        given, mask = inputs(4, 2, queries, 9, dtype), mask_of("bool", 4, queries, 9)
        ours, theirs = (with_gradients(f(module(4, 2), *given, mask)[0], given) for f in BOTH)
        assert all(map(torch.equal, ours, theirs))


def test_the_backward_pass_of_long_rows_is_left_to_transformers() -> None:
    given = inputs(2, 1, LONG, LONG)
    ours, theirs = (f(module(2, 1), *given, None)[0] for f in BOTH)
    assert torch.equal(ours, theirs)
    short = [one[:, :, 1:] for one in given]
    ours, theirs = (f(module(2, 1), *short, None)[0] for f in BOTH)
    assert not torch.equal(ours, theirs)  # rounded elsewhere


def test_who_gets_it() -> None:
    precisions = ("float32", "bfloat16", "bfloat16-mixed")
    kinds = [toy_run(precision=kind).policy.model.config._attn_implementation for kind in precisions]
    assert kinds == ["sdpa", NAME, NAME]


def test_a_saved_model_does_not_ask_for_it(tmp_path: Path) -> None:
    toy_run(precision="bfloat16").policy.save(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-mixed"])
def test_a_policys_log_probabilities_and_gradients(precision: str) -> None:
    """As close to float32's as with torch's own attention; with shared prefixes and a mask, and with whole rows."""
    ids = toy_run().policy.some_ids()
    views = [View(tuple(ids[: 9 + 4 * (row // 3)]), tuple(ids[row : row + 5]), group=row // 3) for row in range(6)]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, kind in (("truth", "float32"), ("ours", precision), ("torch", precision)):
        policy = toy_run(precision=kind).policy
        if name == "torch":
            policy.model.set_attn_implementation("sdpa")
        policy.fresh()
        logp = policy.score(views)
        for (batch,) in policy.minibatches(views):
            policy.backward(policy.logp(batch).sum())
        slopes = [p.grad.float().reshape(-1) for p in policy.parameters if p.grad is not None]
        found[name] = logp, torch.cat(slopes)
    off = {
        name: [float((one - true).norm() / true.norm()) for one, true in zip(found[name], found["truth"], strict=True)]
        for name in ("ours", "torch")
    }
    assert off["ours"] == pytest.approx([0.0, 0.0], abs=0.02)
    assert all(ours <= 1.5 * torchs for ours, torchs in zip(off["ours"], off["torch"], strict=True))
