"""What a model's config and position law allow: how many tokens it takes, and how far its layers look back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

UNLIMITED = 2**20
_LENGTH = re.compile(
    r"max_position_embeddings|max_(target_)?positions|max_seq_len(gth)?|max_sequence_length"
    r"|n_positions|n_ctx|seq_len(gth)?|context_length|model_max_length"
)
_WINDOW = re.compile(r"window|chunk|block_size|block_length|local|span")
_LAW = 8  # tokens of the forward pass that tries a position


def stated_length(model: Any) -> int:
    """How many tokens the config says the model takes, context and response together; `UNLIMITED` where it says
    nothing. A composite model states it in the config of its language part."""
    stated = _numbers(model.config.get_text_config(), _LENGTH, deep=False)
    return min((number for number in stated if number > 1), default=UNLIMITED)


def windows(model: Any) -> list[int]:
    """Every number in the config that may say how far a layer looks back, or in what pieces it reads."""
    config = model.config.get_text_config()
    found = set(_numbers(config, _WINDOW, deep=True))
    return sorted(found) if getattr(config, "use_sliding_window", True) else []


@torch.no_grad()
def usable_length(model: Any, ids: list[int]) -> int:
    """The longest input whose last position leaves all earlier tokens as they are, at most `stated_length`.

    In a causal model the position of the last token cannot change what comes before it. Where the position law depends
    on the longest input of a batch (longrope, dynamic scaling), it does: a row's log-probabilities would then depend on
    the other rows of its minibatch. Positions that the model has no embedding for are unusable as well.

    Args:
        ids: some token ids to try it with.
    """
    stated, tokens = stated_length(model), torch.tensor([(ids * _LAW)[:_LAW]], device=model.device)

    def logits(last: int) -> torch.Tensor:
        positions = torch.tensor([[*range(_LAW - 1), last]], device=model.device)
        return model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0, : _LAW - 1].float()

    try:
        near = logits(_LAW - 1)
    except (TypeError, ValueError):
        return stated  # it takes no positions

    def fits(length: int) -> bool:
        try:
            return torch.allclose(logits(length - 1), near, rtol=1e-3, atol=1e-3)
        except (IndexError, RuntimeError):
            return False

    length = stated if stated <= _LAW or fits(stated) else _largest(fits, _LAW, stated)
    logits(_LAW - 1)  # a dynamic law keeps the longest input it has seen: let it forget
    return length if length > _LAW else stated  # no law at all: what is wrong with such a model, the probe will say


def layer_words(model: Any) -> str:
    """The kinds of the model's layers in a few words, for messages."""
    config = model.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or []))
    return f"layers of type {', '.join(map(str, kinds))}" if kinds else "its attention layers"


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
