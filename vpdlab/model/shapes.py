"""Sizes of published models, for questions that need no weights: what fits on a device, how fast a step is."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-1.7b": dict(
        hidden_size=2048, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=6144, vocab_size=151_936, tie_word_embeddings=True,
    ),
    "qwen3-4b": dict(
        hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151_936, tie_word_embeddings=True,
    ),
    "qwen3-8b": dict(
        hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=12_288, vocab_size=151_936, tie_word_embeddings=False,
    ),
    "qwen3-tiny": dict(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=192, vocab_size=2048, tie_word_embeddings=True,
    ),
}  # fmt: skip
"""Name -> arguments of transformers' Qwen3Config. qwen3-tiny is none of Qwen's: it runs the same code in seconds."""
POSITIONS = 4096  # of a model that is made from a shape


def qwen3(name: str, **more: Any) -> Any:
    """The transformers config of a shape; `more` replaces or adds arguments."""
    from transformers import Qwen3Config

    return Qwen3Config(**{"max_position_embeddings": POSITIONS, **SHAPES[name], **more})
