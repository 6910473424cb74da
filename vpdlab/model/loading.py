"""Load a model and its tokenizer, and refuse in one line what would train on something else than it seems to.

transformers fills missing weights with random numbers, accepts NaN, and leaves it to the first forward pass to find a
tokenizer that is larger than the embedding. Here all of that is looked at before anything runs.
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
"""Names of weights that are a part of what the model computes: a layer's, or an adapter's."""


def load(name: str, place: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model and tokenizer that a user names.

    Args:
        name: as the user wrote it, for messages.
        place: a folder or hub name.

    Raises:
        UserError: for what cannot be loaded, or is not whole; the line says which part.
    """
    _check_index(Path(place))
    _check_config(name, place)
    tokenizer, model = _tokenizer(name, place), _model(name, place, dtype)
    _check_sizes(name, model, tokenizer)
    _check_finite(name, model)
    _settle_generation(name, model, tokenizer)
    return model, tokenizer


def _check_config(name: str, place: str) -> None:
    from transformers import AutoConfig

    if (Path(place) / "adapter_config.json").is_file():
        raise UserError(
            f"model {name!r} holds a LoRA adapter (adapter_config.json), which would be loaded unseen: merge it into"
            " the model that it belongs to, and name that folder"
        )
    for file in sorted(Path(place).iterdir()) if Path(place).is_dir() else ():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UserError(f"model {name!r}: {file.name} is a pipe or a device, not a file")
    with _refusing(name, "its config.json"):
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else type(quantised).__name__
        raise UserError(QUANTISED.format(name=name, method=method))
    for file in sorted(Path(place).glob("*.safetensors")):
        for key, kind in _stored_types(file).items():
            if kind not in FLOATS:
                raise UserError(QUANTISED.format(name=name, method=f"{file.name} holds {key} as {kind}"))


def _stored_types(file: Path) -> dict[str, str]:
    """The types of a file's tensors, by name, as its header has them; none where it has no such header."""
    try:
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(size, HEADER)))
        return {key: str(value["dtype"]) for key, value in header.items() if key != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # loading it will say what is wrong


def _tokenizer(name: str, place: str) -> Any:
    from transformers import AutoTokenizer

    with _refusing(name, "its tokenizer"), without_bars():
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", trust_remote_code=False)
    if tokenizer.chat_template and not isinstance(tokenizer.chat_template, str | dict | list):
        raise UserError(f"model {name!r}: its chat template is {tokenizer.chat_template!r}, but must be text")
    if not tokenizer.chat_template:
        raise UserError(
            f"model {name!r} has no chat template: choose an instruct model, or save a"
            " chat_template.jinja in its folder"
        )
    return tokenizer


def _model(name: str, place: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    generation = _readable_generation(name, place)
    with _refusing(name, "its weights"), without_bars(), _without_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, **generation,
        )  # fmt: skip
    model, info = loaded
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        key, found, wanted = wrong[0]
        raise UserError(
            f"model {name!r}: {len(wrong)} weights have another shape than its config.json says, first {key}: the file"
            f" has {list(found)}, the config {list(wanted)}"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        others = sorted(info["unexpected_keys"])
        hint = f"; the files hold {len(others)} weights of other names, first {others[0]}" if others else ""
        raise UserError(
            f"model {name!r}: {len(missing)} weights are missing from its files, first {missing[0]}{hint}: random"
            " numbers would take their place"
        )
    spare = [key for key in sorted(info["unexpected_keys"]) if _PART.search(key)]
    if spare:
        raise UserError(
            f"model {name!r}: its files hold {len(spare)} weights that the model of its config.json has no place for,"
            f" first {spare[0]}: it would be another model without them"
        )
    if info["unexpected_keys"]:
        others = sorted(info["unexpected_keys"])
        notice(f"model {name!r}: {len(others)} weights in its files are not used, first {others[0]}")
    if info["error_msgs"]:
        raise UserError(f"model {name!r} could not be loaded: {' '.join(info['error_msgs'][0].split())}")
    model.config.return_dict = True
    return model


def _check_index(folder: Path) -> None:
    """An index may name the files beside it and no others."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is damaged: {first_line(error)}") from error
    for name in sorted(map(str, names)):
        if Path(name).name != name:
            raise UserError(f"{index} names the file {name!r}, which is not beside it")


def _check_sizes(name: str, model: Any, tokenizer: Any) -> None:
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(
            f"model {name!r} ({type(model).__name__}) has no head over the vocabulary: choose a language model"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest[1] >= rows:
        raise UserError(
            f"model {name!r}: its tokenizer has tokens up to id {largest[1]} ({largest[0]!r}), but its embedding has"
            f" {rows} rows: save the tokenizer that belongs to these weights, or resize the embedding"
        )
    if head.weight.shape[0] > rows:
        raise UserError(
            f"model {name!r}: its head has {head.weight.shape[0]} rows, but its embedding {rows}: a sampled token could"
            " not be read"
        )


@torch.no_grad()
def _check_finite(name: str, model: Any) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise UserError(f"model {name!r}: the weight {key} holds numbers that are not finite (NaN or infinity)")


def _readable_generation(name: str, place: str) -> dict[str, Any]:
    """What from_pretrained is to be told of generation settings: nothing where it can read the folder's itself, empty
    ones where it cannot."""
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_pretrained(place)
    except OSError:
        return {}  # there are none
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        notice(f"model {name!r}: its generation_config.json cannot be read ({in_one_line(error, 200)}); it is left out")
        return {"generation_config": GenerationConfig()}
    return {}


def _settle_generation(name: str, model: Any, tokenizer: Any) -> None:
    """Of generation settings vpdlab uses the ids alone; where the others contradict each other, and could not be saved
    again, only the ids are kept. Ids that are none are refused or told."""
    from transformers import GenerationConfig

    settings, rows = model.generation_config or GenerationConfig(), model.get_input_embeddings().weight.shape[0]
    ids = {key: getattr(settings, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for key, value in ids.items():
        named = value if isinstance(value, list) else [] if value is None else [value]
        if all(type(id) is int and 0 <= id < rows for id in named):
            continue
        if key == "eos_token_id":  # a response would end at another place, or never
            raise UserError(
                f"model {name!r}: generation_config.json has {key} {value!r}, but an id is a whole number below {rows}"
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
        notice(f"model {name!r} names no token that ends a response: each will be cut at max_new_tokens")


@contextlib.contextmanager
def _refusing(name: str, part: str) -> Iterator[None]:
    """What a dozen libraries raise for files that do not suit them, as one line that names the part."""
    try:
        yield
    except (UserError, KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(f"model {name!r}: {part} could not be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    said = first_line(error) if isinstance(error, OSError) else in_one_line(error, 200)
    return said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """transformers draws a progress bar for each file it reads or writes, and leaves it in every notebook: not here."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _without_report() -> Iterator[None]:
    """transformers prints a table of what it did not find; we say it in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
