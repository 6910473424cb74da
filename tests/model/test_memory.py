"""The memory that a run will need, against what real passes save and what can be worked out by hand."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests import architectures
from tests.toy import toy_model
from vpdlab import zoo
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.model.counting import Saved, Uncompared, count
from vpdlab.model.memory import Item, activations, estimate, peak, read_model
from vpdlab.model.passes import decoder_of

SIZE: dict[str, Any] = architectures.SIZE
HEADS: dict[str, Any] = architectures.HEADS
WORDS: dict[str, Any] = {"vocab_size": 500, "bos_token_id": 1, "eos_token_id": 2}
MODELS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SIZE, **WORDS),
    "qwen3": transformers.Qwen3Config(**HEADS, **WORDS, tie_word_embeddings=True),
    "wide": transformers.Qwen3Config(**HEADS | {"intermediate_size": 512}, **WORDS),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=256, **WORDS),
    "opt": transformers.OPTConfig(
        hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32, **WORDS
    ),
}  # fmt: skip


def really_saved(model: Any, tokens: int, mixed: bool) -> int:
    """Bytes that a real pass over two rows keeps, weights and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if mixed else contextlib.nullcontext()

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        decoder_of(model)(input_ids=torch.zeros(2, tokens // 2, dtype=torch.long), use_cache=False)
    return sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)


@pytest.mark.parametrize("precision", ["float32", "bfloat16-mixed", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_activations_are_those_of_a_real_pass(name: str, precision: str) -> None:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype).eval()
    found = count(name, Uncompared(MODELS[name]), precision, 0, 0)
    for tokens in (80, 400):
        real = really_saved(model, tokens, precision == "bfloat16-mixed")
        assert activations(found, tokens, False) == pytest.approx(real, rel=0.02)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert (found.weights, found.trained) == (size, size)
    assert found.vocabulary == 500


@pytest.mark.skipif(not zoo.catalog()[-1]["present"], reason="extra: smollm2-135m is not on this machine")
def test_activations_of_a_real_model() -> None:
    config = read_model("smollm2-135m")
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    found = count("smollm2-135m", Uncompared(config), "float32", 0, 0)
    assert activations(found, 256, False) == pytest.approx(really_saved(model, 256, False), rel=0.02)


@pytest.mark.parametrize("ranks", [(4, 0), (0, 4), (4, 2)])
def test_adapters_are_counted_as_a_policy_has_them(ranks: tuple[int, int]) -> None:
    teacher = {"teacher": "adapter", "adapter_rank": ranks[1]} if ranks[1] else {}
    policy = architectures.open_policy(toy_model(), lora_rank=ranks[0], **teacher)
    found = count("toy", Uncompared(read_model(toy_model())), "float32", *ranks)
    trained = [*policy.parameters, *(policy.teacher_parameters if ranks[1] else [])]
    assert found.trained == sum(4 * p.numel() for p in trained)
    assert found.weights == sum(4 * p.numel() for p in policy.model.parameters())
    assert activations(found, 80, False) == pytest.approx(really_saved(policy.model, 80, False), rel=0.02)


def test_recomputed_layers_keep_their_inputs() -> None:
    policy = architectures.open_policy(toy_model(), checkpointing="on")
    own = {t.untyped_storage().data_ptr() for t in (*policy.model.parameters(), *policy.model.buffers())}
    last = decoder_of(policy.model)(input_ids=torch.zeros(1, 200, dtype=torch.long), use_cache=False)
    alive = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is Tensor and t.requires_grad and t.shape[:2] == (1, 200)
    }
    assert last.last_hidden_state.untyped_storage().data_ptr() in alive
    real = sum(size for place, size in alive.items() if place not in own)
    found = count("toy", Uncompared(read_model(toy_model())), "float32", 0, 0)
    once_again = activations(found, 200, False) // found.layers
    assert activations(found, 200, True) - once_again == pytest.approx(real, rel=0.15)


def test_the_items_of_a_run() -> None:
    model = MODELS["qwen3"]
    config = RunConfig(prompts=2, group=4, max_context=40, max_new_tokens=10, sampler_rows=5, minibatch_tokens=100)
    sizes = {item.name: item.size for item in estimate(config, model, e_step=True)}
    weights = sizes["weights"]
    assert sizes["gradients"] == weights and sizes["AdamW's moments"] == 2 * weights
    assert (
        sizes["the sampler's cache, 5 rows of 50 tokens"] == 5 * 50 * 2 * 4 * 2 * 8 * 4
    )  # layers, heads, width, bytes
    assert "activations of 100 tokens" in sizes
    assert sizes["logits"] == 4 * 20 * 500 * 4  # 100 * 10 / 50 response tokens
    more = {
        item.name: item.size
        for item in estimate(config.but(teacher="ema", anchor="fixed", e_lr=1e-4), model, e_step=True, joint=True)
    }
    assert more["the teacher's copy"] == more["the prior's copy"] == weights
    assert more["AdamW's moments"] == 4 * weights
    assert more["activations of 100 tokens"] == 2 * sizes["activations of 100 tokens"]
    half = {item.name: item.size for item in estimate(config.but(precision="bfloat16"), model)}
    assert half["weights"] * 2 == weights


def test_sampling_and_update_take_turns() -> None:
    items = [
        Item("a", 10, True),
        Item("b", 5, False, "sampling"),
        Item("c", 3, True, "update"),
        Item("d", 4, True, "update"),
    ]
    assert peak(items) == 17


def test_checkpointing_keeps_less() -> None:
    saved = Saved(fixed=80, per_token=40.0, layers=8, hidden=2, weights=0, trained=0, vocabulary=1)
    assert activations(saved, 10, False) == 480
    assert activations(saved, 10, True) == (8 + 3) * 2 * 10 + 60


@pytest.mark.parametrize("name", ["qwen3-1.7b", "qwen3-4b", "qwen3-8b"])
def test_the_size_of_published_models(name: str) -> None:
    found = count(name, Uncompared(read_model(name)), "bfloat16", 0, 0)
    billions = {"qwen3-1.7b": 1.72, "qwen3-4b": 4.02, "qwen3-8b": 8.19}[name]
    assert found.weights / 2e9 == pytest.approx(billions, rel=0.005)


def test_what_cannot_be_counted_is_one_line(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_model("qwen3-900b")
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(UserError, match=r"its config\.json could not be read"):
        read_model(str(tmp_path))
    with pytest.raises(UserError, match="T5Config: its memory cannot be counted"):
        count("t5", Uncompared(transformers.T5Config()), "float32", 0, 0)
