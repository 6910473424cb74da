"""Sources of models: two bundled ones, one from a package index, the hub, a folder.

`resolve` turns any model name into the path of an ordinary Hugging Face folder (or a hub name), so that all other code
treats models alike. smollm2 downloads and converts SmolLM2-135M. make_apprentice and make_reader train the bundled
models, from the parts in scratch; lessons is what the reader is taught, reader_skills what it can do. live is a small
model as data for a page, live_run that of a recorded run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vpdlab import manifest
from vpdlab.errors import UserError
from vpdlab.paths import user_path

BUNDLED = {
    "apprentice": "small bundled decoder for words and digits: learns sums visibly in minutes without a GPU",
    "reader": "small bundled decoder that reads critiques in English about made-up words (task lexicon)",
}
"""Bundled model -> what it is. Each is a folder beside this file."""
BUNDLED_FOLDER = Path(__file__).parent
APPRENTICE = BUNDLED_FOLDER / "apprentice"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

__all__ = ["APPRENTICE", "BUNDLED", "BUNDLED_FOLDER", "cache_dir", "catalog", "get", "is_model", "resolve"]


def cache_dir() -> Path:
    """The user's cache folder: VPDLAB_CACHE, else vpdlab in XDG_CACHE_HOME, else ~/.cache/vpdlab."""
    if chosen := os.environ.get("VPDLAB_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vpdlab"


def is_model(folder: Path) -> bool:
    """Whether a folder looks like a saved Hugging Face model."""
    return (folder / "config.json").is_file()


def catalog() -> list[dict[str, Any]]:
    """The models that vpdlab knows by a short name, as plain values.

    Returns:
        One dict per model with the keys name, what, where (the folder), present, licence, parameters.
    """
    smollm2 = cache_dir() / "models" / "smollm2-135m"
    bundled = [(name, what, BUNDLED_FOLDER / name) for name, what in BUNDLED.items()]
    return [
        *(
            {
                "name": name,
                "what": what,
                "where": str(folder),
                "present": is_model(folder),
                "licence": "Apache-2.0",
                "parameters": _stored_parameters(folder),
            }
            for name, what, folder in bundled
        ),
        {
            "name": "smollm2-135m",
            "what": "SmolLM2-135M-Instruct from its 4-bit package, converted to float32: a real model without a hub",
            "where": str(smollm2),
            "present": is_model(smollm2),
            "licence": "Apache-2.0",
            "parameters": 134_515_008,
        },
    ]


def _stored_parameters(folder: Path) -> int | None:
    """Parameters in a folder's safetensors file (shared ones once); None if there is no such file."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    from safetensors import safe_open

    total = 0
    with safe_open(weights, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            size = 1
            for axis in file.get_slice(name).get_shape():
                size *= axis
            total += size
    return total


def resolve(name: str) -> str:
    """The argument of `from_pretrained` for a model name.

    Args:
        name: a name of `catalog`, a folder with a saved model, or a hub name of the form org/name.

    Returns:
        The folder as text, or the hub name unchanged.

    Raises:
        UserError: if the model has not been downloaded, the folder does not contain a model, or the name is unknown.
    """
    known = {entry["name"]: entry for entry in catalog()}
    if name in known:
        entry = known[name]
        if entry["present"]:
            return entry["where"]
        if name in BUNDLED:
            raise UserError(f"model {name!r}: no model in {entry['where']}; install vpdlab again")
        raise UserError(f"model {name!r} is not on this machine yet: run `vpdlab models get {name}`")
    folder = user_path("model", name)
    if name and folder.is_dir():
        return _local(folder)
    if HUB_NAME.fullmatch(name):
        return name
    raise UserError(
        f"model {name!r}: no such folder and not a hub name (org/name); known names are {', '.join(sorted(known))}"
    )


def _local(folder: Path) -> str:
    if is_model(folder):
        if (folder / manifest.NAME).exists():
            check_whole(folder)
        return str(folder)
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model folder {folder} contains only a LoRA adapter: merge it into its base model, and name that folder"
        )
    final = folder / "final"
    hint = f"; did you mean {final}?" if is_model(final) else "; a saved model's folder has one"
    raise UserError(f"model folder {folder} has no config.json{hint}")


def check_whole(folder: Path) -> None:
    """Raises UserError if a saved model's files do not match its manifest."""
    try:
        reason = manifest.damage(folder)
    except OSError as error:
        reason = f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
    if reason:
        raise UserError(
            f"model folder {folder} has changed since it was saved: {reason}; to use it nevertheless, remove its"
            f" {manifest.NAME}"
        )


def get(name: str, progress: Callable[[str], object] = print) -> Path:
    """Download a model of the catalog, unless it is present.

    Args:
        name: a name of `catalog`.
        progress: called with one line per stage.

    Returns:
        The model's folder.

    Raises:
        UserError: if the name is unknown, or a bundled model is missing.
        RunFailed: if the download or the conversion fails.
    """
    known = {entry["name"]: entry for entry in catalog()}
    if name not in known:
        raise UserError(f"model {name!r} cannot be fetched by name; known names are {', '.join(sorted(known))}")
    folder = Path(known[name]["where"])
    if known[name]["present"]:
        progress(f"{name} is in {folder}")
        return folder
    if name == "smollm2-135m":
        from vpdlab.zoo import smollm2

        return smollm2.fetch(folder, progress)
    return Path(resolve(name))  # a bundled model is missing: raises UserError
