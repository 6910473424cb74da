"""What a model's config and position law allow: how many tokens it takes, and how far its layers look back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

UNLIMITED = 2**20
# What an architecture's own code raises where a pass does not suit it.
UNFIT = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
_LENGTH = re.compile(
    r"max_position_embeddings|max_(target_)?positions|max_seq_len(gth)?|max_sequence_length"
    r"|n_positions|n_ctx|seq_len(gth)?|context_length|model_max_length"
)
_CHUNK = re.compile(r"chunk|block_size|block_length|local|span")
_WINDOW = re.compile(rf"window|{_CHUNK.pattern}")
_LAW = 8  # tokens of the forward pass that tries a position


def stated_length(model: Any) -> int:
    """How many tokens the config says the model takes, context and response together; `UNLIMITED` where it says
    nothing. A composite model states it in the config of its language part."""
    stated = _numbers(model.config.get_text_config(), _LENGTH, deep=False)
    return min((number for number in stated if number > 1), default=UNLIMITED)


def windows(model: Any) -> list[int]:
    """Every number in the config that may say how far a layer looks back, or in what pieces it reads."""
    config = model.config.get_text_config()
    kept = _WINDOW if getattr(config, "use_sliding_window", True) else _CHUNK
    return sorted(set(_numbers(config, kept, deep=True)))


@torch.no_grad()
def usable_length(model: Any, ids: list[int]) -> int:
    """The longest input whose last position leaves all earlier tokens as they are, at most `stated_length`.

    In a causal model the position of the last token cannot change what comes before it. Where the position law depends
    on the longest input of a batch (longrope, dynamic scaling), it does: a row's log-probabilities would then depend on
    the other rows of its minibatch. It is seen in the logits, and in the buffers that such a law keeps its frequencies
    in. Positions that the model has no embedding for are unusable as well.

    Args:
        ids: some token ids to try it with.
    """
    stated, tokens = stated_length(model), torch.tensor([(ids * _LAW)[:_LAW]], device=model.device)

    def seen(last: int) -> list[torch.Tensor]:
        positions = torch.tensor([[*range(_LAW - 1), last]], device=model.device)
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0, : _LAW - 1].float()
        return [logits, *(buffer.detach().float().clone() for buffer in model.buffers())]

    try:
        near = seen(_LAW - 1)
    except UNFIT:
        return stated  # it takes no positions, or no such input at all, which the probe will say

    def fits(length: int) -> bool:
        try:
            far = seen(length - 1)
        except (IndexError, RuntimeError):
            return False
        same = len(far) == len(near) and all(a.shape == b.shape for a, b in zip(far, near, strict=True))
        return same and all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(far, near, strict=True))

    length = stated if stated <= _LAW or fits(stated) else _largest(fits, _LAW, stated)
    seen(_LAW - 1)  # a dynamic law keeps the longest input it has seen: let it forget
    return length if length > _LAW else stated  # no law at all: what is wrong with such a model, the probe will say


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a response: the tokenizer's and the generation settings'."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return frozenset(id for id in [*named, tokenizer.eos_token_id] if id is not None)


def layer_words(model: Any) -> str:
    """The kinds of the model's layers in a few words, for messages."""
    config = model.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or []))
    return f"its layers ({', '.join(map(str, kinds))})" if kinds else "its layers"


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest length that fits, by bisection: `low` does and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _numbers(config: Any, name: re.Pattern[str], deep: bool) -> Iterator[int]:
    """The whole numbers that stand under a matching name, an architecture's own name or the common one."""
    common = {key: getattr(config, key, None) for key in getattr(config, "attribute_map", {})}
    for key, value in {**common, **(config if isinstance(config, dict) else config.to_dict())}.items():
        matches = name.search(str(key)) if deep else name.fullmatch(str(key))
        if matches and isinstance(value, int) and not isinstance(value, bool):
            yield value
        elif deep and isinstance(value, dict):
            yield from _numbers(value, name, deep)
