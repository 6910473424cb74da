"""Parts of the bundled models that are made from nothing: their chat format, and small Llamas with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
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
        tokenizer: gives the ids of the control tokens, and the size of the vocabulary unless `shape` does.
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
        "vocab_size": len(tokenizer),
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **usual | shape,
        )
    )


def make(
    what: str,
    stages: Iterable[str],
    build_tokenizer: Callable[[], Any],
    build_model: Callable[[Any, int], Any],
    train: Callable[[Any, Any, str, int], None],
) -> tuple[Any, Any]:
    """Parse the options of a script that makes a model, train its stages, and save it after each.

    Args:
        what: the script in a sentence.
        stages: names of the stages, in order.
        build_tokenizer, build_model: the latter from tokenizer and seed, with random weights.
        train: trains one stage of a model, given its tokenizer, the stage's name and the seed.

    Returns:
        The model and its tokenizer.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=1, help="default: 1, as for the bundled model")
    parser.add_argument("--start", type=Path, help="start from this model instead of random weights")
    parser.add_argument("--stages", nargs="+", choices=list(stages), default=list(stages), help="default: all")
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)  # one thread: a fixed order of summation, and so reproducible weights
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(args.start) if args.start else build_model(tokenizer, args.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    for name in args.stages:
        train(model, tokenizer, name, args.seed)
        model.save_pretrained(args.out)  # after each stage, so that training can resume with --start
        tokenizer.save_pretrained(args.out)
    print(f"saved to {args.out}")
    return model, tokenizer
