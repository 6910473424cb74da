"""Parts of the bundled models that are made from nothing: their chat format, and small Llamas with random weights."""

from __future__ import annotations

from typing import Any

import torch

CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def special_tokens() -> list[Any]:
    """The control tokens, found in text before anything is normalised."""
    from tokenizers import AddedToken

    return [AddedToken(token, normalized=False) for token in SPECIAL]


def with_chat(tokenizer: Any) -> Any:
    """A `tokenizers.Tokenizer` as a Hugging Face tokenizer with the chat format."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def random_llama(tokenizer: Any, seed: int, **shape: Any) -> Any:
    """A Llama of width 96 with three layers and random weights.

    Args:
        tokenizer: gives the size of the vocabulary and the ids of the control tokens.
        seed: of the weights.
        shape: further fields of its config, or others than these.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    usual: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **usual | shape,
        )
    )
