"""Write a model as an ordinary Hugging Face folder, and rehearse that before a run begins.

What would fail at the end of a run (a tokenizer or config that cannot be saved, weights that cannot be converted back
to the names of their files) fails in the rehearsal as well, which writes everything but the tensors.
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
    """Write a folder that transformers loads, with a manifest; a folder of that name is replaced as a whole.

    Args:
        weights: by their names in the model, adapters merged.

    Raises:
        OSError: where the disk does not take it; what stood there is as it was.
        RunFailed: where transformers cannot write it. The weights then lie beside it, in a plain safetensors file.
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
            f" {rescue / 'model.safetensors'}, by their names in the model"
        ) from error


def save_plain(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """The tensors in one safetensors file and the config as JSON: nothing that an architecture's own code takes part
    in. Weights that are one tensor are written under each of their names."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), default=str, indent=2), encoding="utf-8")


def rehearse(model: Any, tokenizer: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Do all that `save` will do, without writing a tensor, and see that there is room for them.

    Args:
        folder: where the run will be; it exists.

    Raises:
        UserError: where the student could not be saved at the end.
    """
    size = sum(value.numel() * value.element_size() for value in {v.data_ptr(): v for v in weights.values()}.values())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"final/ will take {size >> 20} MiB, but {folder} has room for {free >> 20} MiB: free some, or choose"
            " another folder with out"
        )
    try:
        with tempfile.TemporaryDirectory() as place, _without_tensors() as written:
            _write(model, tokenizer, weights, Path(place) / "final")
    except Exception as error:
        raise UserError(
            f"model {model.name_or_path!r} could not be saved at the end of the run ({type(error).__name__}:"
            f" {in_one_line(error, 200)}): mend its folder, or choose another model"
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

    place: Any = transformers.modeling_utils
    names: dict[str, tuple[int, ...]] = {}
    real = place.safe_save_file

    def note(tensors: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        names.update({name: tuple(value.shape) for name, value in tensors.items()})

    place.safe_save_file = note
    try:
        yield names
    finally:
        place.safe_save_file = real
