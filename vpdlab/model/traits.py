"""Limits of a model: how many tokens it takes, its attention windows, the ids that end a response, which words it
knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vpdlab.config import RunConfig
from vpdlab.errors import UserError, notice

UNLIMITED = 2**20
# What an architecture's own code raises when it does not support a pass.
UNFIT = (AttributeError, AssertionError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
_LENGTH = re.compile(
    r"max_position_embeddings|max_(target_)?positions|max_seq_len(gth)?|max_sequence_length"
    r"|n_positions|n_ctx|seq_len(gth)?|context_length|model_max_length"
)
_CHUNK = re.compile(r"chunk|block_size|block_length|local|span")
_WINDOW = re.compile(rf"window|{_CHUNK.pattern}")
_TRIAL = 8  # tokens of the forward pass that tries a position


def stated_length(model: Any) -> int:
    """The model's longest input according to its config, context and response together; `UNLIMITED` if not stated. A
    composite model states it in its text config."""
    stated = _numbers(model.config.get_text_config(), _LENGTH, deep=False)
    return min((number for number in stated if number > 1), default=UNLIMITED)


def windows(model: Any) -> list[int]:
    """All numbers in the config that may be an attention window or a chunk length."""
    config = model.config.get_text_config()
    kept = _WINDOW if getattr(config, "use_sliding_window", True) else _CHUNK
    return sorted(set(_numbers(config, kept, deep=True)))


@torch.no_grad()
def usable_length(model: Any, ids: list[int]) -> int:
    """The longest input, up to `stated_length`, whose last position does not affect earlier tokens.

    In a causal model the position of the last token cannot change what precedes it. It does where position embeddings
    depend on the longest input of a batch (longrope, dynamic scaling): a row's log-probabilities would then depend on
    the other rows of its minibatch. This shows in the logits, and in the buffers that hold the frequencies. Positions
    without an embedding are unusable as well.

    Args:
        ids: token ids to try it with.
    """
    stated, tokens = stated_length(model), torch.tensor([(ids * _TRIAL)[:_TRIAL]], device=model.device)

    def seen(last: int) -> list[torch.Tensor]:
        positions = torch.tensor([[*range(_TRIAL - 1), last]], device=model.device)
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0, : _TRIAL - 1].float()
        return [logits, *(buffer.detach().float().clone() for buffer in model.buffers())]

    try:
        near = seen(_TRIAL - 1)
    except UNFIT:
        return stated  # it takes no positions, or no such input at all, which the probe will report

    def fits(length: int) -> bool:
        try:
            far = seen(length - 1)
        except (IndexError, RuntimeError):
            return False
        same = len(far) == len(near) and all(a.shape == b.shape for a, b in zip(far, near, strict=True))
        return same and all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(far, near, strict=True))

    length = stated if stated <= _TRIAL or fits(stated) else _largest(fits, _TRIAL, stated)
    seen(_TRIAL - 1)  # dynamic scaling remembers the longest input: reset it
    return length if length > _TRIAL else stated  # not a matter of positions: the probe will report what is wrong


def check_lengths(config: RunConfig, model: Any, ids: list[int]) -> int:
    """How many tokens one row may have; where positions are unusable beyond a bound, says so.

    Args:
        ids: token ids to try it with.

    Raises:
        UserError: where the settings need more.
    """
    stated, usable = stated_length(model), usable_length(model, ids)
    why = "" if usable == stated else f", since positions from {usable} on change what comes before them"
    if config.max_context + config.max_new_tokens > usable:
        raise UserError(
            f"max_context {config.max_context} + max_new_tokens {config.max_new_tokens} is more than the"
            f" {usable} positions of model {config.model!r}{why}: lower one of them"
        )
    if why:
        notice(f"model {config.model!r} states {stated} positions; contexts are bounded at {usable}{why}")
    return usable


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Token ids that end a response, from the tokenizer and the generation settings."""
    named = model.generation_config.eos_token_id
    named = named if isinstance(named, list) else [named]
    return frozenset(id for id in [*named, tokenizer.eos_token_id] if id is not None)


def layer_words(model: Any) -> str:
    """The model's layer types, for messages."""
    config = model.config.get_text_config()
    kinds = sorted(set(getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or []))
    return f"its layers ({', '.join(map(str, kinds))})" if kinds else "its layers"


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest length that fits, by bisection; `low` fits and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _numbers(config: Any, name: re.Pattern[str], deep: bool) -> Iterator[int]:
    """The integers under matching names, the architecture's own names or their common aliases."""
    common = {key: getattr(config, key, None) for key in getattr(config, "attribute_map", {})}
    for key, value in {**common, **(config if isinstance(config, dict) else config.to_dict())}.items():
        matches = name.search(str(key)) if deep else name.fullmatch(str(key))
        if matches and isinstance(value, int) and not isinstance(value, bool):
            yield value
        elif deep and isinstance(value, dict):
            yield from _numbers(value, name, deep)


def closed_vocabulary(model: Any) -> bool:
    """Whether the model's config.json says `"closed_vocabulary": true`: it knows only its tokenizer's words."""
    return getattr(model.config, "closed_vocabulary", False) is True
