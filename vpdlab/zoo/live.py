"""A small model as plain data for `vpdlab_widgets.LiveModel`, which computes with it in a browser.

The browser's engine knows one architecture (Llama) and byte-level tokenizers, which is what the bundled models are.
Weights travel in float32: rounded to bfloat16 the log-probabilities of the bundled reader change by up to 0.16, in
float16 by 0.016, in 24 bits by 5e-4. Needs neither torch nor a GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab import manifest
from vpdlab.errors import FAULTS, UserError, first_line, in_one_line
from vpdlab.files import read_small
from vpdlab.prompts import Renderer, Templates
from vpdlab.prompts.pieces import prompt_pieces
from vpdlab.tasks import Task, make_task
from vpdlab.types import Feedback, Problem, Rollout
from vpdlab.zoo import BUNDLED_FOLDER, check_whole

LARGEST = 1_100_000
"""Weights that a page may hold, those of a teacher of its own included: with them a report stays under 8 MB."""
_NEEDED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_SHAPE = {
    "hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads", "head_dim": "head_dim", "inner": "intermediate_size", "eps": "rms_norm_eps",
    "vocab": "vocab_size", "positions": "max_position_embeddings", "tied": "tie_word_embeddings",
}  # fmt: skip
"""Name in the engine -> field of config.json."""
_FORMATS = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
}  # NumPy has no bfloat16: its bits are the upper half of a float32
_LONGEST = 1 << 27  # bytes of a file of weights
_STEPS = {"Split", "Digits", "ByteLevel"}
_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "reader": ("lexicon", {"verdicts": False}),
    "apprentice": ("arithmetic", {}),
}
"""Bundled model -> the task that it was made for."""


def live_model(
    folder: Path,
    name: str = "",
    templates: Templates | None = None,
    chat_args: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    student: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A saved model as `LiveModel` takes it.

    Args:
        folder: a Hugging Face folder.
        name: shown to the reader; default: the folder's.
        templates, chat_args: of the prompts (`Renderer`).
        teacher: tensors by name of a teacher with weights of its own; None: the student's weights read the feedback.
        notes, student: lines to show above the model; tensors by name in place of those in the folder.

    Returns:
        Plain values, and the weights as bytes.

    Raises:
        UserError: the folder cannot be read, or its model is too large or of an architecture that the engine lacks.
    """
    config, tokenizer = (_json(folder / f"{part}.json") for part in ("config", "tokenizer"))
    shape = _shape(folder, config)
    _check_tokenizer(folder, tokenizer)
    own = _saved(folder) if student is None else student
    _check_size(folder, own, teacher is not None)
    return {
        "name": name or folder.name,
        "shape": shape,
        "tokenizer": {part: tokenizer[part] for part in ("added_tokens", "pre_tokenizer", "model")},
        "prompts": prompt_pieces(_renderer(folder, templates, chat_args)),
        "ends": _ends(folder, config),
        "closed": config.get("closed_vocabulary") is True,
        "parameters": _count(own),
        "notes": list(notes),
        **_weights(folder, own, own if teacher is None else teacher),
    }


def bundled(name: str) -> dict[str, Any]:
    """Keywords of `LiveModel` for a bundled model: the model, with a few problems and critiques of its task."""
    task, options = _TASKS[name]
    return {"model": live_model(BUNDLED_FOLDER / name), "examples": examples(make_task(task, **options)), "length": 24}


def example(problem: Problem, feedback: Feedback) -> dict[str, str]:
    """A problem and what was said about an attempt at it, as `LiveModel` lists it."""
    said = {"critique": feedback.critique, "demonstration": feedback.demonstration}
    return {
        "problem": problem.prompt,
        "system": problem.system,
        "answer": problem.answer,
        **{name: text or "" for name, text in said.items()},
    }


def examples(task: Task, most: int = 8) -> list[dict[str, str]]:
    """Held-out problems of a task, each with what its environment says about a wrong attempt."""
    found = []
    for index, problem in enumerate(task.load("test")[:most]):
        attempt = _attempt(problem)
        rollout = Rollout(problem, 0, index, (), (), (), attempt, True)
        found.append(example(problem, Feedback(critique=task.verify(rollout).notes)))
    return found


def _attempt(problem: Problem) -> str:
    """A wrong answer: a number that is off by eleven; "" for any other kind of answer."""
    return str(int(problem.answer) + 11) if problem.answer.lstrip("-").isdigit() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_small(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {in_one_line(error)}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read: expected a mapping")
    return found


def _shape(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's sizes, as the engine names them. Raises UserError for an architecture that it lacks."""
    rope = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta"),
        **(config.get("rope_scaling") or {}),
    }
    needed = {name: config.get(name, False if "bias" in name else None) for name in _NEEDED}
    kind = rope.get("rope_type", "default")
    for field, value, wanted in [*((f, needed[f], _NEEDED[f]) for f in _NEEDED), ("rope_type", kind, "default")]:
        if value != wanted:
            raise UserError(f"{folder}: {field} is {value!r}, and the engine in the page has {wanted!r} only")
    shape = {name: config.get(field) for name, field in _SHAPE.items()}
    heads, hidden = shape["heads"], shape["hidden"]
    shape["kv_heads"] = shape["kv_heads"] or heads
    shape["head_dim"] = shape["head_dim"] or (hidden // heads if heads and hidden else None)
    shape["theta"], shape["tied"] = rope.get("rope_theta"), bool(shape["tied"])
    for name, value in shape.items():
        if not isinstance(value, int | float) or (name != "tied" and value <= 0):
            raise UserError(f"{folder / 'config.json'}: {_SHAPE.get(name, 'rope_theta')} is {value!r}, not a size")
    return shape


def _check_tokenizer(folder: Path, found: Mapping[str, Any]) -> None:
    """Raises UserError for a tokenizer that the engine lacks."""
    model, steps = found.get("model") or {}, found.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers") or [steps]
    plain = all(step.get("behavior", "Isolated") == "Isolated" and not step.get("invert") for step in steps)
    bytewise = not any(step.get("add_prefix_space") for step in steps) and steps[-1].get("type") == "ByteLevel"
    faults = {
        "normalizer": found.get("normalizer") is not None,
        "model": model.get("type") not in ("Unigram", "BPE") or bool(model.get("byte_fallback")),
        "pre_tokenizer": not (plain and bytewise and {step.get("type") for step in steps} <= _STEPS),
        "added_tokens": any(one.get("normalized") or one.get("lstrip") or one.get("rstrip") or one.get("single_word")
                            for one in found.get("added_tokens") or ()),
    }  # fmt: skip
    for part, unknown in faults.items():
        if unknown:
            raise UserError(f"{folder / 'tokenizer.json'}: its {part} is of a kind that the engine in the page lacks")


def _ends(folder: Path, config: Mapping[str, Any]) -> list[int]:
    """Token ids that end a response, as `model.traits.end_ids` reads them."""
    file = folder / "generation_config.json"
    named = [(_json(file) if file.is_file() else config).get("eos_token_id"), config.get("eos_token_id")]
    ids = [id for one in named for id in (one if isinstance(one, list) else [one])]
    return sorted({id for id in ids if isinstance(id, int)})


def _check_size(folder: Path, own: Mapping[str, Any], twice: bool) -> None:
    """Raises UserError for more weights than a page may hold; `twice`: a teacher has as many again."""
    if _count(own) * (2 if twice else 1) > LARGEST:
        each = " for each of student and teacher" if twice else ""
        raise UserError(f"{folder}: {_count(own):,} weights{each} are too many for a page, which takes {LARGEST:,}")


def _renderer(folder: Path, templates: Templates | None, chat_args: Mapping[str, Any] | None) -> Renderer:
    from transformers import PreTrainedTokenizerFast  # this class alone: it runs no code that a folder contains

    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except (OSError, *FAULTS) as error:
        raise UserError(f"{folder}: its tokenizer cannot be read: {first_line(error)}") from error
    return Renderer(tokenizer, templates or Templates(), chat_args=dict(chat_args or {}))


def tensors(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file as float32 arrays, by name. Raises UserError where it cannot be read."""
    import numpy as np
    from safetensors import SafetensorError, deserialize

    try:
        found = dict(deserialize(read_small(file, _LONGEST)))
    except (OSError, SafetensorError, *FAULTS) as error:
        raise UserError(f"{file} cannot be read: {in_one_line(error)}") from error
    arrays = {}
    for name, one in found.items():
        if one["dtype"] not in _FORMATS:
            raise UserError(f"{file}: {name} is of type {one['dtype']}, not one of {', '.join(_FORMATS)}")
        raw = np.frombuffer(one["data"], dtype=_FORMATS[one["dtype"]])
        whole = (raw.astype("<u4") << 16).view("<f4") if one["dtype"] == "BF16" else raw.astype("<f4")
        arrays[name] = whole.reshape(one["shape"])
    return arrays


def _saved(folder: Path) -> dict[str, Any]:
    """The weights of a folder, checked where it has a manifest."""
    if (folder / manifest.NAME).exists():
        check_whole(folder)
    return tensors(folder / "model.safetensors")


def _count(tensors: Mapping[str, Any]) -> int:
    return sum(int(one.size) for one in tensors.values())


def _weights(folder: Path, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Which set of weights each side has, and each set once."""
    sides = {"student": _packed(student, folder), "teacher": _packed(teacher, folder)}
    return {
        "weights": {side: one["sum"] for side, one in sides.items()},
        "sets": {one["sum"]: {"shapes": one["shapes"], "values": one["values"]} for one in sides.values()},
    }


def _packed(tensors: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Tensors as little-endian float32 bytes, with their names and shapes, and a checksum that names them."""
    import numpy as np

    parts: list[bytes] = []
    shapes: list[tuple[str, Sequence[int]]] = []
    for name, one in sorted(tensors.items()):
        values = np.ascontiguousarray(one, dtype="<f4")
        if not np.isfinite(values).all():
            raise UserError(f"{folder}: {name} holds numbers that are not finite")
        parts.append(values.tobytes())
        shapes.append((name, list(values.shape)))
    data = b"".join(parts)
    return {"sum": hashlib.sha256(data).hexdigest()[:16], "shapes": shapes, "values": data}
