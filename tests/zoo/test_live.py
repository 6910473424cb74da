"""Models as data for a page: the bundled ones, and what no page can hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vpdlab.errors import UserError
from vpdlab.zoo import BUNDLED, BUNDLED_FOLDER, live


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED_FOLDER / "apprentice", tmp_path / "mine"))


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


@pytest.mark.parametrize("name", BUNDLED)
def test_each_bundled_model_has_examples_with_a_critique(name: str) -> None:
    found = live.bundled(name)
    assert found["model"]["parameters"] < live.LARGEST
    assert len({one["problem"] for one in found["examples"]}) == len(found["examples"]) == 8
    assert all(one["critique"] and one["answer"] for one in found["examples"])
    assert found["model"]["closed"] == (name == "reader")


def test_it_needs_no_torch() -> None:
    code = "import sys; from vpdlab.zoo import live, live_run; live.bundled('reader'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_any_format_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -0.0078125], [3.0e-5, 7.0]]).to(dtype)
    save_file({"a": values}, tmp_path / "w.safetensors")
    found = live.tensors(tmp_path / "w.safetensors")["a"]
    assert found.dtype == np.float32
    assert found.tolist() == values.float().tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen3"}, "model_type is 'qwen3', and the engine in the page has 'llama' only"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide', not a size"),
    ],
)
def test_another_architecture_is_one_line(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder / "config.json", **fields)
    with pytest.raises(UserError, match=message):
        live.live_model(folder)


def test_another_tokenizer_is_one_line(folder: Path) -> None:
    change(folder / "tokenizer.json", normalizer={"type": "NFC"})
    with pytest.raises(UserError, match="its normalizer is of a kind that the engine in the page lacks"):
        live.live_model(folder)


def test_too_many_weights_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = live.tensors(folder / "model.safetensors")
    monkeypatch.setattr(live, "LARGEST", 500_000)
    assert live.live_model(folder)["weights"]["student"] == live.live_model(folder)["weights"]["teacher"]
    with pytest.raises(UserError, match="369,120 weights for each of student and teacher are too many"):
        live.live_model(folder, teacher=own)


def test_what_is_not_finite_is_named(folder: Path) -> None:
    own = live.tensors(folder / "model.safetensors")
    own["model.norm.weight"] = own["model.norm.weight"] * np.nan
    with pytest.raises(UserError, match=r"model\.norm\.weight holds numbers that are not finite"):
        live.live_model(folder, student=own)
