"""Tiny random models of many architectures with the apprentice's tokenizer, and what is true of each of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from vpdlab import RunConfig
from vpdlab.model.loading import without_bars
from vpdlab.model.policy import Policy
from vpdlab.sampling import Sampling
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.types import View
from vpdlab.zoo.make_apprentice import build_tokenizer

SIZE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
HEADS = SIZE | {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16, "mamba_d_ssm": 64}
ROPE = {"rope_theta": 10000.0, "factor": 4.0}

# name -> (config class, settings, whether shared prefixes may be read once; None: not determined)
RIGHT = {
    "full attention": ("LlamaConfig", HEADS, True),
    "learned positions": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}, True),
    "rotary in part": ("GPTNeoXConfig", {**SIZE, "rotary_pct": 0.25}, True),
    "sliding window": ("MistralConfig", {**HEADS, "sliding_window": 16}, False),
    "sliding window beyond the run": ("MistralConfig", {**HEADS, "sliding_window": 200}, True),
    "sliding and full layers": ("Gemma3TextConfig", {**HEADS, "sliding_window": 16, "query_pre_attn_scalar": 8}, False),
    "ALiBi": ("BloomConfig", {"hidden_size": 32, "n_layer": 3, "n_head": 4}, None),
    "ALiBi from the cache's length": (
        "MptConfig", {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 256, "expansion_ratio": 2}, False),
    "local layers": ("GPTNeoConfig", {
        "hidden_size": 32, "intermediate_size": 48, "num_layers": 4, "num_heads": 4, "window_size": 16,
        "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 256}, False),
    "convolutions": ("Lfm2Config", {**SIZE, "layer_types": ["conv", "full_attention"] * 2}, False),
    "linear attention": ("Qwen3NextConfig", {
        **HEADS, **LINEAR, **EXPERTS, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
        "linear_value_head_dim": 8, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}, False),
    "attention beside a recurrence": ("FalconH1Config", {**SIZE, **MAMBA}, False),
    "experts": ("OlmoeConfig", {**SIZE, **EXPERTS}, True),
    "a whole model called its decoder": ("Llama4TextConfig", {
        **HEADS, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 16}, False),
}  # fmt: skip


def save(folder: Path, kind: str, **settings: Any) -> str:
    """Save a model of this config class; its weights are enlarged, so that every layer matters."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    ids = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if "text_config" in settings:
        settings["text_config"] = ids | settings["text_config"]
        ids = {}
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**ids, **settings))
    for name, weight in model.named_parameters():
        weight.data.mul_(3.0 if weight.dim() >= 2 and "A_log" not in name else 1.0)
    with without_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def open_policy(folder: str, **fields: Any) -> Policy:
    defaults: dict[str, Any] = {"max_context": 120, "max_new_tokens": 12, "device": "cpu", "minibatch_tokens": 10**5}
    return Policy.load(RunConfig(model=folder, **defaults | fields))


def plain(folder: str, dtype: torch.dtype = torch.float32) -> Any:
    """The folder's model as transformers alone reads it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager").eval()


def plain_logp(model: Any, context: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """[R] log-probabilities of a response by a plain pass over this row and nothing else."""
    logits = model(input_ids=torch.tensor([[*context, *response]]), use_cache=False).logits[0, len(context) - 1 : -1]
    return logits.double().log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


def distances(policy: Policy, folder: str) -> tuple[float, float, float]:
    """Largest distance of sampled and of scored log-probabilities from plain float64 passes over each row alone, and
    the relative distance of a gradient."""
    ids = policy.some_ids()
    contexts = [tuple(ids[:size]) for size in (3, 17, 60) for _ in range(3)]
    drawn = HFSampler(policy).generate(contexts, [(0, row) for row in range(9)], Sampling(1.0, 1.0, 12))
    views = [View(c, d.ids, group=row // 3) for row, (c, d) in enumerate(zip(contexts, drawn, strict=True))]
    scored: dict[int, torch.Tensor] = {}
    policy.score(views, lambda b, logp: scored.update(zip(b.rows.tolist(), logp.split(b.mask.sum(1).tolist()))))  # noqa: B905
    weights = torch.tensor([1.0, -0.5, 0.75] * 3)
    policy.fresh()
    for (batch,) in policy.minibatches(views):
        policy.backward(-(policy.logp(batch) * weights[batch.rows]).sum())
    model, sampled_off, scored_off = plain(folder, torch.float64), 0.0, 0.0
    for row, (context, done) in enumerate(zip(contexts, drawn, strict=True)):
        logp = plain_logp(model, context, done.ids)
        (-logp.sum() * weights[row].double()).backward()
        sampled_off = max(sampled_off, (logp.detach() - torch.tensor(done.logps)).abs().max().item())
        scored_off = max(scored_off, (logp.detach() - scored[row]).abs().max().item())
    theirs = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    ours = {name: weight.grad for name, weight in policy.model.named_parameters() if weight.grad is not None}
    apart = sum((ours[name].double() - grad).square().sum() for name, grad in theirs.items())
    whole = sum(grad.square().sum() for grad in theirs.values())
    return sampled_off, scored_off, float(torch.as_tensor(apart / whole).sqrt())
