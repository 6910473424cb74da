"""Broken or unusual model folders are rejected when opened, with the part that is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import toy_model

from vpdlab import RunConfig
from vpdlab.errors import UserError
from vpdlab.model.policy import Policy

NORM, DOWN, EMBED = "model.norm.weight", "model.layers.0.mlp.down_proj.weight", "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(toy_model(), tmp_path / "model"))


def load(folder: Path, **fields: Any) -> Policy:
    return Policy.load(RunConfig.make(model=str(folder), max_context=100, max_new_tokens=10, device="cpu", **fields))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """An edit of the tensors: `change` returns others, or changes them in place."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        changed = change(tensors)
        tensors = changed if isinstance(changed, dict) else tensors
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})

    return edit


def fields(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """An edit of a JSON file's values."""

    def edit(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return edit


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def sharded_outside(folder: Path) -> None:
    """An index that names a file in another folder."""
    shutil.move(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    names = load_file(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../elsewhere.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def more_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<more{n}>" for n in range(64)])
    tokenizer.save_pretrained(folder)


BROKEN = {
    "a weight is missing": (weights(lambda w: w.pop(NORM)), NORM),
    "a layer is missing": (
        weights(lambda w: {k: v for k, v in w.items() if ".layers.1." not in k}), r"model\.layers\.1"),
    "another prefix": (weights(lambda w: {f"wrapped.{k}": v for k, v in w.items()}), r"missing .* first wrapped\."),
    "fewer rows": (weights(lambda w: w.update({EMBED: w[EMBED][:-3]})), "shape"),
    "layers that the config does not have": (
        fields("config.json", lambda c: c.update(num_hidden_layers=1)), r"does not have, first model\.layers\.1"),
    "an adapter's weights": (
        weights(lambda w: w.update({"model.layers.0.self_attn.q_proj.lora_A.weight": w[NORM].clone()})), "lora_A"),
    "an adapter beside": (text("adapter_config.json", "{}"), "LoRA adapter"),
    "whole numbers": (weights(lambda w: w.update({DOWN: w[DOWN].to(torch.int8)})), "quantised .*as I8"),
    "truth values": (weights(lambda w: w.update({NORM: w[NORM].bool()})), "quantised .*as BOOL"),
    "an end that is no token": (
        fields("generation_config.json", lambda g: g.update(eos_token_id=10**6)), "eos_token_id"),
    "an end in words": (fields("generation_config.json", lambda g: g.update(eos_token_id="2")), "eos_token_id"),
    "a chat template that is a number": (
        lambda f: ((f / "chat_template.jinja").unlink(missing_ok=True),
                   fields("tokenizer_config.json", lambda t: t.update(chat_template=5))(f)), "chat template"),
    "NaN": (weights(lambda w: w[DOWN][0].fill_(float("nan"))), DOWN),
    "infinity": (weights(lambda w: w[NORM][0].fill_(float("inf"))), NORM),
    "a tokenizer of another model": (more_tokens, "more63.*rows"),
    "quantised": (fields("config.json", lambda c: c.update(quantization_config={"quant_method": "awq"})), "awq"),
    "an unknown architecture": (fields("config.json", lambda c: c.update(model_type="nothing")), "config.json"),
    "a config that is a list": (text("config.json", "[]"), "config.json"),
    "a config cut in the middle": (text("config.json", '{"model_type": "lla'), "config.json"),
    "a field of the wrong type": (
        fields("config.json", lambda c: c.update(num_hidden_layers="three")), "config.json|weights"),
    "a tokenizer of another version": (fields("tokenizer.json", lambda t: t["model"].update(type="X")), "tokenizer"),
    "a tokenizer cut in the middle": (text("tokenizer.json", '{"version": "1.0", "mod'), "tokenizer"),
    "weights cut in the middle": (lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:5000]), "weights"),
    "weights of another place": (sharded_outside, "elsewhere"),
    "an index that is damaged": (text("model.safetensors.index.json", "[1]"), "index.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_refused_in_one_line_that_names_the_part(name, folder):
    damage, words = BROKEN[name]
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_generation_settings_that_cannot_be_saved_are_told_and_reduced_to_their_ids(folder, tmp_path, capsys):
    settings = folder / "generation_config.json"
    ids = json.loads(settings.read_text())
    settings.write_text(json.dumps(ids | {"do_sample": False, "temperature": 0.7, "top_p": 0.5}))
    policy = load(folder)
    assert "generation_config.json contradicts itself" in capsys.readouterr().err
    policy.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == ids["eos_token_id"]
    assert "temperature" not in saved


@pytest.mark.parametrize("content", ["null", "[]", '{"num_return_sequences": 4}', '{"pad_token_id": -1}', "{"])
def test_other_generation_settings_that_are_odd_stop_nothing(content, folder, tmp_path):
    (folder / "generation_config.json").write_text(content)
    policy = load(folder)
    policy.rehearse(tmp_path)
    policy.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_a_model_without_an_end_is_told(folder, capsys):
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        found = json.loads((folder / name).read_text())
        found.update(eos_token_id=None) if name != "tokenizer_config.json" else found.update(eos_token=None)
        (folder / name).write_text(json.dumps(found))
    load(folder)
    assert "has no end-of-sequence token" in capsys.readouterr().err


def test_settings_that_would_change_what_a_pass_returns_change_nothing(folder):
    fields("config.json", lambda c: c.update(return_dict=False))(folder)
    assert load(folder).model.config.return_dict is True
