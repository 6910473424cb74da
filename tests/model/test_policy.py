"""Loading, refusing and saving models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy import toy_model, toy_run, train

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.model.policy import Policy


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(toy_model(), tmp_path / "model"))


def load(folder: Path, **fields) -> Policy:
    return Policy.load(RunConfig.make(model=str(folder), max_context=100, max_new_tokens=10, **fields))


def test_a_model_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has no chat template: choose an instruct model"):
        load(folder)


def test_a_model_that_is_too_short_is_refused(folder):
    with pytest.raises(UserError, match="max_context 600 .* is more than the 512 positions"):
        Policy.load(RunConfig.make(model=str(folder), max_context=600, max_new_tokens=10))


def test_damaged_weights_are_refused_in_one_line(folder):
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="could not be loaded") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_a_model_that_caps_its_logits_is_refused(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from vpdlab.zoo.make_apprentice import build_tokenizer

    tokenizer = build_tokenizer()
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, head_dim=8,
            num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.05, max_position_embeddings=512,
        )
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="changes its logits after the head"):
        load(tmp_path)


@pytest.mark.parametrize("fields", [{"lora_rank": 4}, {"teacher": "adapter"}, {"lora_rank": 4, "teacher": "adapter"}])
def test_a_student_with_adapters_is_saved_as_a_plain_model(fields, tmp_path):
    from transformers import AutoModelForCausalLM

    run = toy_run(**fields)
    train(run, 2)
    ids = torch.tensor([list(range(20, 40))])
    policy = run.learner.policy
    with torch.no_grad():
        mine = policy.model(input_ids=ids).logits
        policy.save(tmp_path)
        again = policy.model(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)(input_ids=ids).logits
    torch.testing.assert_close(plain, mine, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, mine, rtol=1e-4, atol=1e-4)  # saving left the run as it was
    start = AutoModelForCausalLM.from_pretrained(toy_model())(input_ids=ids).logits
    assert (plain - start).abs().max() > 1e-3


def test_a_lora_student_leaves_the_base_alone():
    run = toy_run(lora_rank=4)
    policy = run.learner.policy
    base = {n: p.detach().clone() for n, p in policy.model.named_parameters() if ".lora_" not in n}
    train(run, 2)
    assert all(torch.equal(p, base[n]) for n, p in policy.model.named_parameters() if n in base)
    assert sum(p.numel() for p in policy.parameters) < 0.2 * sum(p.numel() for p in base.values())


@pytest.mark.parametrize("fields", [{"lora_rank": 10_000_000}, {"teacher": "adapter", "adapter_rank": 10_000_000}])
def test_an_adapter_larger_than_the_weights_is_refused(fields):
    with pytest.raises(UserError, match="rank 10000000 .* at most [0-9]+: lower it"):
        toy_run(**fields)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16-mixed"])
def test_bfloat16_scores_near_float32(precision):
    exact, rough = toy_run(), toy_run(precision=precision)
    batch = exact.batch()
    a, b = exact.learner.policy.score(batch.teacher), rough.learner.policy.score(batch.teacher)
    assert b.dtype == torch.float32
    torch.testing.assert_close(a, b, rtol=0.02, atol=0.5)
    assert train(rough, 1)[0]["grad_norm"] > 0


def test_gradients_are_clipped_and_their_norm_reported():
    run = toy_run(grad_clip=1e-3)
    policy, seen = run.learner.policy, []
    policy.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in policy.parameters if p.grad is not None]).norm())
    )
    row = train(run, 1)[0]
    assert row["grad_norm"] > 1e-3
    assert seen and all(norm <= 1.001e-3 for norm in seen)


def test_a_chat_template_that_takes_no_system_turn_is_told(folder):
    (folder / "chat_template.jinja").write_text("{{ raise_exception('System role not supported') }}")
    policy = load(folder)
    from vpdlab.prompts import Renderer
    from vpdlab.types import Problem

    with pytest.raises(UserError, match="the model's chat template refuses problem p1: System role not supported"):
        Renderer(policy.tokenizer).student(Problem("p1", "What is 1 + 1?", "2", system="Be brief."))


def test_a_moving_average_of_bfloat16_weights_is_refused():
    with pytest.raises(UserError, match="teacher ema needs float32 weights"):
        RunConfig.make(precision="bfloat16", teacher="ema")


def test_step_is_an_update_of_the_student():
    runs = [toy_run(), toy_run()]
    for run, name in zip(runs, ("step", "update"), strict=True):
        policy = run.policy
        (view,) = next(iter(policy.minibatches(run.batch().student)))
        policy.backward(-policy.logp(view).mean())
        norm = policy.step() if name == "step" else policy.update("student")
        assert norm is not None and norm > 0.0 and policy.version == 1
    assert all(torch.equal(a, b) for a, b in zip(runs[0].policy.parameters, runs[1].policy.parameters, strict=True))
