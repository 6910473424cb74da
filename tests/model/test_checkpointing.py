"""Gradient checkpointing changes memory alone: not values, gradients, nor the mode of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests import architectures
from tests.toy import equal, toy_model, toy_run, train, weights
from vpdlab.errors import UserError
from vpdlab.model.checkpointing import checkpoint_layers
from vpdlab.model.policy import Policy
from vpdlab.types import View

KINDS: dict[str, dict[str, Any]] = {
    "LlamaConfig": architectures.SIZE | {"attention_dropout": 0.5},
    "Qwen3Config": architectures.HEADS | {"attention_dropout": 0.5, "tie_word_embeddings": True},
    "OPTConfig": {  # whose layers apply dropout themselves
        "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 32,
        "max_position_embeddings": 256, "dropout": 0.5, "attention_dropout": 0.5,
    },
    "GPT2Config": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "resid_pdrop": 0.5, "attn_pdrop": 0.5},
    "MixtralConfig": architectures.SIZE | {"num_local_experts": 4},
    "Qwen3NextConfig": architectures.HEADS | architectures.LINEAR | architectures.EXPERTS | {
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    },
}  # fmt: skip


def gradients(policy: Policy) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = policy.some_ids()
    views = [View(tuple(ids[: 20 + row % 2]), tuple(ids[row : row + 5 + row]), group=row // 3) for row in range(6)]
    policy.fresh()
    values = torch.zeros(6)
    for (batch,) in policy.minibatches(views):
        logp = policy.logp(batch)
        values[batch.rows] = logp.detach()
        policy.backward(logp.square().sum() / 100)
    return values, {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [0, 4])
def test_values_and_gradients_are_the_same(tmp_path: Path, kind: str, rank: int) -> None:
    folder = architectures.save(tmp_path / "model", kind, **KINDS[kind])
    if rank and kind in ("MixtralConfig", "Qwen3NextConfig"):
        pytest.skip("extra: adapters on experts are not what is tested here")
    plain, ours = (
        architectures.open_policy(folder, checkpointing=how, lora_rank=rank, minibatch_tokens=120)
        for how in ("off", "on")
    )
    assert ours.checkpointed and not plain.checkpointed
    for policy in (plain, ours):  # B is 0 in a new adapter, so A would have no gradient
        torch.manual_seed(3)
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    (values, expected), (again, found) = gradients(plain), gradients(ours)
    assert torch.allclose(values, again, rtol=1e-5, atol=1e-5)
    assert expected.keys() == found.keys() and expected
    apart = sum((found[name] - grad).double().square().sum() for name, grad in expected.items())
    whole = sum(grad.double().square().sum() for grad in expected.values())
    assert float(torch.as_tensor(apart / whole)) ** 0.5 < 1e-6
    training = [[module.training for module in policy.model.modules()] for policy in (plain, ours)]
    assert training[0] == training[1]  # new adapters, whose dropout is 0, are in training mode: nothing else is
    assert rank or not any(training[1])


def test_less_is_kept_for_the_backward_pass() -> None:
    kept = {}
    for how in ("off", "on"):
        policy = architectures.open_policy(toy_model(), checkpointing=how)
        ids, sizes = policy.some_ids(), []
        view = View(tuple(ids[:60]), tuple(ids[:20]))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):  # noqa: B023
            for (batch,) in policy.minibatches([view]):
                policy.logp(batch)
        kept[how] = sum(sizes)
    assert kept["on"] < 0.5 * kept["off"]


@pytest.mark.parametrize("fields", [
    {"method": "vpd", "teacher": "adapter", "lora_rank": 4}, {"method": "vpd", "teacher": "ema"},
    {"method": "pi-distill"}, {"method": "grpo"},
])  # fmt: skip
def test_a_run_learns_the_same(fields: dict[str, Any]) -> None:
    plain, ours = (toy_run(checkpointing=how, device="cpu", **fields) for how in ("off", "on"))
    rows = [train(run, 2) for run in (plain, ours)]
    assert rows[0][0]["m_loss"] == pytest.approx(rows[1][0]["m_loss"], rel=1e-4, abs=1e-6)
    a, b = weights(plain), weights(ours)
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 2.1e-3 * 2  # AdamW's first steps are signs
    moved = torch.cat([(a[name] - b[name]).abs().flatten() for name in a])
    assert moved.median() < 1e-6


def test_it_can_be_switched_off_again_and_resumed_without(tmp_path: Path) -> None:
    policy = architectures.open_policy(toy_model(), checkpointing="on")
    policy.checkpoint(False)
    assert not policy.checkpointed
    plain = architectures.open_policy(toy_model())
    assert all(
        torch.equal(a, b) for a, b in zip(gradients(policy)[1].values(), gradients(plain)[1].values(), strict=True)
    )
    assert equal(policy.model.state_dict(), plain.model.state_dict())


def test_a_model_without_layers_is_one_line() -> None:
    class Bare(torch.nn.Module):
        config = transformers.LlamaConfig(num_hidden_layers=7)
        base_model_prefix = "model"

        def get_decoder(self) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    with pytest.raises(UserError, match="no list of decoder layers: set checkpointing to off"):
        checkpoint_layers(Bare())
