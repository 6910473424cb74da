"""Load a model and its tokenizer, and reject in one line anything that would silently train a different model.

transformers fills missing weights with random numbers, accepts NaN, and does not notice before the first forward pass
that a tokenizer is larger than the embedding. All of that is checked here before anything runs.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vpdlab.errors import UserError, first_line, in_one_line, notice

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
HEADER = 100_000_000  # bytes; what safetensors itself allows
QUANTISED = "model {name!r} is quantised ({method}): training needs ordinary floating-point weights"
_PART = re.compile(r"lora_|(^|\.)(layers?|h|blocks?)\.\d+\.")
"""Names of weights that affect what the model computes: a layer's or an adapter's."""


def load(name: str, path: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model and tokenizer of a user's choice.

    Args:
        name: as the user wrote it, for messages.
        path: a folder or hub name.

    Raises:
        UserError: if something cannot be loaded or is incomplete; the message names the part.
    """
    _check_index(Path(path))
    _check_config(name, path)
    tokenizer, model = _tokenizer(name, path), _model(name, path, dtype)
    _check_sizes(name, model, tokenizer)
    _check_finite(name, model)
    _settle_generation(name, model, tokenizer)
    return model, tokenizer


def _check_config(name: str, path: str) -> None:
    from transformers import AutoConfig

    if (Path(path) / "adapter_config.json").is_file():
        raise UserError(
            f"model {name!r} contains a LoRA adapter (adapter_config.json), which transformers would load silently:"
            " merge it into its base model, and name that folder"
        )
    for file in sorted(Path(path).iterdir()) if Path(path).is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UserError(f"model {name!r}: {file.name} is a pipe or a device, not a file")
    with _refusing(name, "its config.json"):
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else type(quantised).__name__
        raise UserError(QUANTISED.format(name=name, method=method))
    for file in sorted(Path(path).glob("*.safetensors")):
        for key, kind in _stored_types(file).items():
            if kind not in FLOATS:
                raise UserError(QUANTISED.format(name=name, method=f"{file.name} stores {key} as {kind}"))


def _stored_types(file: Path) -> dict[str, str]:
    """The dtypes in a safetensors header, by tensor name; empty if the file has no valid header."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(size, HEADER)))
        return {key: str(value["dtype"]) for key, value in header.items() if key != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # loading it will report what is wrong


def _tokenizer(name: str, path: str) -> Any:
    from transformers import AutoTokenizer

    with _refusing(name, "its tokenizer"), without_bars():
        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left", trust_remote_code=False)
    if tokenizer.chat_template and not isinstance(tokenizer.chat_template, str | dict | list):
        raise UserError(f"model {name!r}: its chat template is {tokenizer.chat_template!r}, but must be text")
    if not tokenizer.chat_template:
        raise UserError(
            f"model {name!r} has no chat template: choose an instruct model, or save a"
            " chat_template.jinja in its folder"
        )
    return tokenizer


def _model(name: str, path: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    generation = _readable_generation(name, path)
    with _refusing(name, "its weights"), without_bars(report=False):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, **generation,
        )  # fmt: skip
    model, info = loaded
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        key, stored, expected = wrong[0]
        raise UserError(
            f"model {name!r}: the shapes of {len(wrong)} weights do not match its config.json, first {key}: the file"
            f" has {list(stored)}, the config {list(expected)}"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        others = sorted(info["unexpected_keys"])
        hint = f"; the files contain {len(others)} weights of other names, first {others[0]}" if others else ""
        raise UserError(
            f"model {name!r}: {len(missing)} weights are missing from its files, first {missing[0]}{hint}: they would"
            " be random"
        )
    spare = [key for key in sorted(info["unexpected_keys"]) if _PART.search(key)]
    if spare:
        raise UserError(
            f"model {name!r}: its files contain {len(spare)} weights that the model of its config.json does not have,"
            f" first {spare[0]}: without them it would be a different model"
        )
    if info["unexpected_keys"]:
        others = sorted(info["unexpected_keys"])
        notice(f"model {name!r}: {len(others)} weights in its files are not used, first {others[0]}")
    if info["error_msgs"]:
        raise UserError(f"model {name!r} could not be loaded: {' '.join(info['error_msgs'][0].split())}")
    model.config.return_dict = True
    return model


def _check_index(folder: Path) -> None:
    """Rejects an index that names files outside its folder."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is damaged: {first_line(error)}") from error
    for name in sorted(map(str, names)):
        if Path(name).name != name:
            raise UserError(f"{index} names the file {name!r}, which is outside its folder")


def _check_sizes(name: str, model: Any, tokenizer: Any) -> None:
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(
            f"model {name!r} ({type(model).__name__}) has no language-model head: choose a causal language model"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest[1] >= rows:
        raise UserError(
            f"model {name!r}: its tokenizer has tokens up to id {largest[1]} ({largest[0]!r}), but its embedding has"
            f" {rows} rows: save the tokenizer of these weights, or resize the embedding"
        )
    if head.weight.shape[0] > rows:
        raise UserError(
            f"model {name!r}: its head has {head.weight.shape[0]} rows, but its embedding {rows}: some sampled"
            " tokens could not be embedded"
        )


@torch.no_grad()
def _check_finite(name: str, model: Any) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise UserError(f"model {name!r}: the weight {key} has non-finite values (NaN or infinity)")


def _readable_generation(name: str, path: str) -> dict[str, Any]:
    """Arguments for from_pretrained: empty generation settings if it could not read those of the folder, else none."""
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_pretrained(path)
    except OSError:
        return {}  # there are none
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        notice(f"model {name!r}: its generation_config.json cannot be read ({in_one_line(error, 200)}) and is ignored")
        return {"generation_config": GenerationConfig()}
    return {}


def _settle_generation(name: str, model: Any, tokenizer: Any) -> None:
    """Check the token ids of the generation settings, the only ones that vpdlab uses. An invalid end id is an error,
    another invalid id is dropped. If the other settings contradict each other, so that they could not be saved again,
    they are dropped too."""
    from transformers import GenerationConfig

    settings, rows = model.generation_config or GenerationConfig(), model.get_input_embeddings().weight.shape[0]
    ids = {key: getattr(settings, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for key, value in ids.items():
        named = value if isinstance(value, list) else [] if value is None else [value]
        if all(type(id) is int and 0 <= id < rows for id in named):
            continue
        if key == "eos_token_id":  # a response would end at the wrong token, or never
            raise UserError(
                f"model {name!r}: generation_config.json has {key} {value!r}, but an id must be an integer below {rows}"
            )
        ids[key] = None
        setattr(settings, key, None)
    try:
        settings.validate(strict=True)
    except ValueError as error:
        settings = GenerationConfig(**ids)
        why = in_one_line(error, 200)
        notice(f"model {name!r}: its generation_config.json contradicts itself ({why}); only its ids are kept")
    model.generation_config = settings
    if ids["eos_token_id"] in (None, []) and tokenizer.eos_token_id is None:
        notice(f"model {name!r} has no end-of-sequence token: every response will be cut at max_new_tokens")


@contextlib.contextmanager
def _refusing(name: str, part: str) -> Iterator[None]:
    """Convert whatever the loading libraries raise for unsuitable files to one line that names the part."""
    try:
        yield
    except (UserError, KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"model {name!r}: {part} could not be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = first_line(error) if isinstance(error, OSError) else in_one_line(error, 200)
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


@contextlib.contextmanager
def without_bars(report: bool = True) -> Iterator[None]:
    """Within the block transformers draws no progress bars, which would stay in every notebook.

    Args:
        report: whether it may log a table of missing and unexpected weights, which `load` reports in one line.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    if not report:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        logging.set_verbosity(level)
