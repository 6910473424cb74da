"""The saved model equals the trained one, and a model that could not be saved is rejected at the start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import EXPERTS, HEADS, SIZE, open_policy, plain, plain_logp, save
from safetensors.torch import load_file
from toy import Parity, toy_model, toy_run, weights

from vpdlab import Run, RunConfig, load_run, manifest, zoo
from vpdlab.errors import RunFailed, UserError
from vpdlab.model.policy import Policy
from vpdlab.types import View

LORA = {
    "Llama": ("LlamaConfig", HEADS),
    "layers that are stored transposed": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "experts in one tensor": ("OlmoeConfig", {**SIZE, **EXPERTS}),
    "experts and a shared one": ("Qwen2MoeConfig", {
        **SIZE, **EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}),
    "convolutions": ("Lfm2Config", {**SIZE, "layer_types": ["conv", "full_attention"] * 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", LORA)
def test_an_adapter_is_saved_as_it_is_live(name, tmp_path):
    kind, settings = LORA[name]
    policy = open_policy(save(tmp_path / "model", kind, **settings), lora_rank=4, lr=1e-2)
    ids = policy.some_ids()
    views = [View(tuple(ids[:9]), tuple(ids[20 + row : 28 + row]), group=0) for row in range(3)]
    before = policy.score(views)
    for _ in range(3):
        for (batch,) in policy.minibatches(views):
            policy.backward(-policy.logp(batch).mean())
        policy.update("student")
    after = policy.score(views)
    policy.save(tmp_path / "saved")
    saved = plain(str(tmp_path / "saved"))
    with torch.no_grad():
        sums = torch.stack([plain_logp(saved, view.context_ids, view.response_ids).sum() for view in views])
    assert (after - before).abs().max() > 0.1
    assert (after - sums).abs().max() < 1e-4


def test_a_layer_that_uses_its_weight_without_the_adapter_is_refused_at_open(tmp_path, monkeypatch):
    """As in some kernels, which use `layer.weight` and never call the adapter's forward pass."""
    from peft.tuners.lora.layer import Linear

    folder = save(tmp_path / "model", "LlamaConfig", **HEADS)
    real = Linear.forward

    def bypassed(self, x, *args, **options):
        return self.base_layer(x) if self.out_features == 48 else real(self, x, *args, **options)

    monkeypatch.setattr(Linear, "forward", bypassed)
    with pytest.raises(UserError, match="LoRA adapter cannot be merged"):
        open_policy(folder, lora_rank=4)


@pytest.mark.parametrize("part", ["config", "tokenizer", "weights"])
def test_what_could_not_be_saved_at_the_end_is_told_before_the_first_step(part, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise TypeError("Object of type dtype is not JSON serializable")

    from transformers import PreTrainedConfig, PreTrainedTokenizerBase, modeling_utils

    owner, name = {
        "config": (PreTrainedConfig, "save_pretrained"),
        "tokenizer": (PreTrainedTokenizerBase, "save_pretrained"),
        "weights": (modeling_utils, "revert_weight_conversion"),
    }[part]
    model = toy_model()
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(UserError, match="could not be saved at the end"):
        toy_run(record=True, model=model, out=str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_disk_without_room_for_the_student_is_told_before_the_first_step(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="has 0 MiB free"):
        toy_run(record=True, out=str(tmp_path / "run"))


def test_a_rehearsal_writes_no_tensor_and_leaves_transformers_as_it_was(tmp_path):
    policy = Policy.load(RunConfig(model=toy_model(), device="cpu"))
    policy.rehearse(tmp_path)
    assert list(tmp_path.iterdir()) == []
    policy.save(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors")


def test_weights_that_cannot_be_saved_in_their_form_are_saved_in_a_plain_one(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    run = Run.open(
        RunConfig(model=toy_model(), prompts=2, group=2, max_new_tokens=4, steps=1, eval_every=-1, out=str(folder),
                  device="cpu"), task=Parity(),
    )  # fmt: skip

    def fails(*args, **options):
        raise KeyError("mlp.experts.weight")

    monkeypatch.setattr(type(run.learner.policy.model), "save_pretrained", fails)
    with pytest.raises(RunFailed, match=r"final could not be written .*final-weights/model\.safetensors"):
        list(run.steps())
    saved = load_file(folder / "final-weights" / "model.safetensors")
    live = weights(run)
    assert saved.keys() == live.keys()
    assert all(torch.equal(saved[name], live[name]) for name in live)
    assert json.loads((folder / "final-weights" / "config.json").read_text())["model_type"] == "llama"
    status = load_run(folder).status
    assert (status["state"], status["final"]) == ("failed", None)
    assert "final-weights" in status["reason"]
    assert not list(folder.glob(".final*"))


# -- sums ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    Policy.load(RunConfig(model=toy_model(), device="cpu")).save(tmp_path / "final")
    return tmp_path / "final"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, **sums) -> None:
    found = json.loads(path.read_text())
    found["files"] |= sums
    path.write_text(json.dumps(found))


CHANGES = {
    "a flipped byte": (lambda f: flip(f / "model.safetensors"), "model.safetensors is not what was written"),
    "another chat template": (lambda f: (f / "chat_template.jinja").write_text("x"), "chat_template.jinja has 1 bytes"),
    "a file is gone": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "a file more": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json is not in its"),
    "a link": (lambda f: (shutil.move(f / "config.json", f.parent), (f / "config.json").symlink_to(
        f.parent / "config.json")), "config.json is not a file of its own"),
    "a file outside": (lambda f: rewrite(f / manifest.NAME, **{"../x": {"size": 0, "sha256": ""}}), "is damaged"),
    "no object": (lambda f: (f / manifest.NAME).write_text("[]"), "is damaged"),
    "a manifest nested too deep": (lambda f: (f / manifest.NAME).write_text("[" * 100_000), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_saved_student_that_has_changed_is_not_loaded(name, saved):
    assert zoo.resolve(str(saved)) == str(saved)
    change, words = CHANGES[name]
    change(saved)
    with pytest.raises(UserError, match=words):
        zoo.resolve(str(saved))
