"""How much memory a run will need, item by item, without its weights.

Weights, gradients, moments and the activations that a forward pass saves are counted (`counting`). What a backward pass
needs in addition, the logits and the sampler's cache are estimated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vpdlab.config import RunConfig
from vpdlab.errors import UserError, first_line
from vpdlab.model.counting import Saved, Uncompared, count
from vpdlab.model.shapes import SHAPES, qwen3
from vpdlab.model.teacher import teacher_kind

CONTEXT = 512  # tokens of a context, where `max_context` does not bound it
UNMEASURED = 4096  # tokens of a minibatch, where `minibatch_tokens` is 0 and a GPU would choose more if it has room
FIXED = 16384  # the same on a CPU
LAST = 3  # hidden states behind the last layer: its output, the same normalised, and scaled
LOGITS = 4  # both sides' logits of a chunk, their log-softmax, the slope


@dataclass(frozen=True)
class Item:
    """Some bytes of a run's peak.

    Attributes:
        name: what they hold.
        size: bytes.
        exact: whether they were counted; otherwise estimated.
        when: "always", "sampling" or "update".
    """

    name: str
    size: int
    exact: bool
    when: str = "always"


def peak(items: list[Item]) -> int:
    """Bytes at the peak: sampling and update take turns, all else is always there."""
    total = {when: sum(item.size for item in items if item.when == when) for when in ("always", "sampling", "update")}
    return total["always"] + max(total["sampling"], total["update"])


def read_model(name: str) -> Any:
    """The transformers config of a name in `SHAPES`, a bundled or downloaded model, or a folder; no weights are read.

    Raises:
        UserError: for a name that is none of these, or a config that cannot be read.
    """
    from transformers import AutoConfig

    from vpdlab import zoo

    if name in SHAPES:
        return qwen3(name)
    path = zoo.resolve(name)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model {name!r}: its config.json could not be read: {first_line(error)}") from error


def estimate(
    config: RunConfig, model: Any, *, joint: bool = False, e_step: bool = False, gpu: bool = True
) -> list[Item]:
    """What a run will hold.

    Args:
        model: the transformers config.
        joint, e_step: whether the method has a gradient in both views; whether it has an E-step.
        gpu: whether it runs on an NVIDIA GPU, where `minibatch_tokens` 0 and `checkpointing` auto look at memory: it is
            asked about 4096 tokens, fewer of which make small products, and no checkpointing.

    Raises:
        UserError: for an architecture that cannot be counted.
    """
    ranks = config.lora_rank, config.adapter_rank if config.teacher == "adapter" else 0
    saved = count(json.dumps(model.to_dict(), sort_keys=True, default=str), Uncompared(model), config.precision, *ranks)
    own_moments = 2 * saved.trained * (2 if e_step and config.e_lr and not ranks[1] else 1)
    copies = [
        ("the teacher's copy", not teacher_kind(config.teacher).live),
        ("the prior's copy", config.anchor == "fixed" and e_step),
        ("the reference's copy", config.kl_coef > 0),
    ]
    rows, row = config.prompts * config.group, (config.max_context or CONTEXT) + config.max_new_tokens
    tokens = min(rows * row, max(row, config.minibatch_tokens or (UNMEASURED if gpu else FIXED)))
    together, kept = min(rows, config.sampler_rows), activations(saved, tokens, config.checkpointing == "on")
    cache = together * row * cache_bytes(model, config)
    return [
        Item("weights", saved.weights, True),
        Item("gradients", saved.trained, True),
        Item("AdamW's moments", own_moments, True),
        *(Item(name, saved.trained, True) for name, wanted in copies if wanted),
        Item(f"the sampler's cache, {together} rows of {row} tokens", cache, False, "sampling"),
        Item(f"activations of {tokens} tokens", kept * (1 + joint), True, "update"),
        Item("the backward pass of one layer", _backward(saved, tokens), False, "update"),
        Item("logits", _logits(config, saved, tokens), False, "update"),
    ]


def activations(saved: Saved, tokens: int, checkpointed: bool) -> int:
    """Bytes that a forward pass over padded tokens keeps; under checkpointing each layer's input, and one whole layer
    while it is computed again."""
    if not checkpointed:
        return int(saved.fixed + saved.per_token * tokens)
    layer = (saved.fixed + saved.per_token * tokens) / max(1, saved.layers)
    return int((saved.layers + LAST) * saved.hidden * tokens + layer)


def cache_bytes(model: Any, config: RunConfig) -> int:
    """Bytes of one token's keys and values in every layer; layers without a growing cache count as if they had one."""
    text = model.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    pair = {"bfloat16": 4, "bfloat16-mixed": 6, "float32": 8}  # under autocast keys are float32, values bfloat16
    return text.num_hidden_layers * heads * width * pair[config.precision]


def _backward(saved: Saved, tokens: int) -> int:
    """Slopes at one layer's activations: about as large as what it saved."""
    return int(saved.per_token * tokens / max(1, saved.layers))


def _logits(config: RunConfig, saved: Saved, tokens: int) -> int:
    """Chunks of logits; `logit_mib` bounds one of them."""
    row = (config.max_context or CONTEXT) + config.max_new_tokens
    answers = tokens * config.max_new_tokens // row
    return LOGITS * min(config.logit_mib * 2**20, answers * saved.vocabulary * 4)
