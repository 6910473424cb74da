"""Save a model as an ordinary Hugging Face folder, and rehearse saving before a run starts.

The rehearsal writes everything except the tensors, so what would fail at the end of a run (a tokenizer or config that
cannot be saved, weights that cannot be converted back to their names on disk) fails before it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vpdlab import manifest
from vpdlab.errors import RunFailed, UserError, first_line, in_one_line
from vpdlab.files import staged_folder
from vpdlab.model.loading import without_bars


def save(model: Any, tokenizer: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write a folder that transformers can load, with a manifest; an existing folder is replaced atomically.

    Args:
        weights: by their names in the model, adapters merged.

    Raises:
        OSError: if writing fails; an existing folder is unchanged.
        RunFailed: if transformers cannot write it. The weights are then saved beside it, in a plain safetensors file.
    """
    try:
        with staged_folder(folder, replace=True) as staged:
            _write(model, tokenizer, weights, staged)
            manifest.write(staged)
    except OSError:
        raise
    except Exception as error:
        rescue = folder.with_name(f"{folder.name}-weights")
        save_plain(model, weights, rescue)
        raise RunFailed(
            f"{folder} could not be written ({type(error).__name__}: {first_line(error)}); the weights are in"
            f" {rescue / 'model.safetensors'}, under their names in the model"
        ) from error


def save_plain(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the tensors to one safetensors file and the config as JSON, without any of the architecture's own code.
    Tied weights are written under each of their names."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), default=str, indent=2), encoding="utf-8")


def rehearse(model: Any, tokenizer: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Do what `save` will do, without writing tensors, and check that there is disk space for them.

    Args:
        folder: the run's folder; it exists.

    Raises:
        UserError: if the student could not be saved at the end.
    """
    size = sum(value.numel() * value.element_size() for value in {v.data_ptr(): v for v in weights.values()}.values())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"final/ will take {size >> 20} MiB, but {folder} has {free >> 20} MiB free: free some space, or choose"
            " another folder with out"
        )
    try:
        with tempfile.TemporaryDirectory() as scratch, _without_tensors() as written:
            _write(model, tokenizer, weights, Path(scratch) / "final")
    except Exception as error:
        raise UserError(
            f"model {model.name_or_path!r} could not be saved at the end of the run ({type(error).__name__}:"
            f" {in_one_line(error, 200)}): fix its folder, or choose another model"
        ) from error
    if not written:
        raise UserError(f"model {model.name_or_path!r} could not be saved at the end of the run: it has no weights")


def _write(model: Any, tokenizer: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    with without_bars():
        model.save_pretrained(folder, state_dict=dict(weights))
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _without_tensors() -> Iterator[dict[str, tuple[int, ...]]]:
    """Within the block transformers writes no tensors; yields the names and shapes that it would have written."""
    import transformers.modeling_utils

    module: Any = transformers.modeling_utils
    names: dict[str, tuple[int, ...]] = {}
    real = module.safe_save_file

    def note(tensors: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        names.update({name: tuple(value.shape) for name, value in tensors.items()})

    module.safe_save_file = note
    try:
        yield names
    finally:
        module.safe_save_file = real
