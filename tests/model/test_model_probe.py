"""The probe: a model whose fast passes differ from single rows runs without them, or is rejected."""

from __future__ import annotations

import re

import pytest
import torch
from architectures import EXPERTS, HEADS, LINEAR, RIGHT, ROPE, SIZE, distances, open_policy, plain, plain_logp, save
from toy import toy_model, toy_run

from vpdlab import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.learn.state import Mismatch
from vpdlab.model import traits
from vpdlab.model.policy import Policy
from vpdlab.run import iterate
from vpdlab.types import View

REFUSED = {
    "a recurrence": ("MambaConfig", {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 3}),
    "rows that are mixed": ("DogeConfig", {**SIZE, **EXPERTS, "is_moe": True, "keep_window_size": 256}),
    "a cache of its own": ("MiniMaxConfig", {**HEADS, **LINEAR, "num_local_experts": 2, "block_size": 16}),
    "the decoder of an encoder-decoder": ("BartConfig", {
        "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "encoder_layers": 1,
        "encoder_attention_heads": 4, "max_position_embeddings": 256, "is_decoder": True, "is_encoder_decoder": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_opened_is_sampled_and_scored_as_each_row_alone(name, tmp_path):
    kind, settings, shares = RIGHT[name]
    policy = open_policy(save(tmp_path / "model", kind, **settings))
    if shares is not None:
        assert (policy.sharing is not None) is shares
    assert max(distances(policy, str(tmp_path / "model"))) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_batched_is_refused_in_one_line_with_the_reason(name, tmp_path):
    kind, settings = REFUSED[name]
    with pytest.raises(UserError, match="attention") as error:
        open_policy(save(tmp_path / "model", kind, **settings))
    assert "\n" not in str(error.value)


def test_the_probe_leaves_weights_gradients_and_generators_as_they_were(tmp_path):
    folder = save(tmp_path / "model", "LlamaConfig", **HEADS)
    torch.manual_seed(5)
    policy = open_policy(folder, precision="bfloat16", seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())
    kept = plain(folder, torch.bfloat16).state_dict()
    for key, value in policy.model.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, kept[key])
    assert all(parameter.grad is None for parameter in policy.model.parameters())


# -- positions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "longest"),
    [
        ("LlamaConfig", HEADS, 256),
        ("GPT2Config", {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 96}, 96),
        ("MptConfig", {"d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 80, "expansion_ratio": 2}, 80),
        ("BloomConfig", {"hidden_size": 32, "n_layer": 1, "n_head": 4}, traits.UNLIMITED),
        ("Gemma3Config", {
            "text_config": HEADS | {"query_pre_attn_scalar": 8, "max_position_embeddings": 200},
            "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 1, "image_size": 28, "patch_size": 14}}, 200),
        ("Phi3Config", HEADS | {
            "original_max_position_embeddings": 64, "rope_parameters": ROPE | {
                "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 64}}, 64),
        ("LlamaConfig", HEADS | {
            "rope_parameters": ROPE | {"rope_type": "yarn", "original_max_position_embeddings": 64}}, 256),
    ],
)  # fmt: skip
def test_the_longest_row_is_what_the_language_part_states_and_its_position_law_bears(kind, settings, longest, tmp_path):
    policy = open_policy(save(tmp_path / "model", kind, **settings), max_context=0)
    assert policy.longest == longest


def test_rows_beyond_a_law_that_depends_on_length_are_refused_and_the_law_is_back_where_it_was(tmp_path, capsys):
    law = ROPE | {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    law["original_max_position_embeddings"] = 64
    folder = save(tmp_path / "model", "Phi3Config", **HEADS, rope_parameters=law, original_max_position_embeddings=64)
    with pytest.raises(UserError, match=r"64 positions .* change what comes before"):
        open_policy(folder, max_context=100)
    policy = open_policy(folder, max_context=40)
    assert "bounded at 64" in capsys.readouterr().err
    assert max(distances_within(policy, folder, 40)) < 1e-5


@pytest.mark.parametrize("factors", [[1.0, 1.0, 1.0, 64.0], [1.0, 1.0, 1.5, 2.0], [1.0, 1.0, 1.0, 1.01]])
def test_a_law_that_hardly_shows_at_the_first_tokens_bounds_the_rows_all_the_same(factors, tmp_path):
    law = ROPE | {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": factors}
    law["original_max_position_embeddings"] = 64
    folder = save(tmp_path / "model", "Phi3Config", **HEADS, rope_parameters=law, original_max_position_embeddings=64)
    assert open_policy(folder, max_context=0).longest == 64


def distances_within(policy: Policy, folder: str, size: int) -> list[float]:
    context, response, model = tuple(policy.some_ids()[:size]), (5, 6, 7), plain(folder, torch.float64)
    logp = plain_logp(model, context, response)
    return [(policy.score([View(context, response)])[0] - logp.sum()).abs().item()]


# -- while it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1])
def test_an_exact_sampler_that_differs_from_the_scorer_ends_the_run(every, monkeypatch):
    """With an E-step in each iteration no later pass sees the weights that sampled: a few rows are scored for it."""
    run = toy_run(e_every=every)
    assert iterate(run, 1).mismatch.worst < 1e-4
    true = run.sampler.generate

    def wrong(*args):
        done = true(*args)
        return [type(one)(one.ids, tuple(value - 0.01 for value in one.logps), one.finished) for one in done]

    monkeypatch.setattr(run.sampler, "generate", wrong)
    before = run.learner.policy.version
    with pytest.raises(RunFailed, match=r"iteration 2: .* up to 0\.01 nats"):
        iterate(run, 2)
    assert run.learner.policy.version == before


def test_a_mismatch_of_a_sampler_that_rounds_in_its_own_way_is_only_recorded():
    learner = toy_run(precision="bfloat16").learner
    found = Mismatch()
    found.add(torch.tensor([0.5]), torch.tensor([0.0]))
    assert learner.checked(found, 1).worst == 0.5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("CohereConfig", SIZE | {"logit_scale": 0.25}),
        ("CohereConfig", SIZE | {"logit_scale": 0.995}),
        ("Gemma2Config", HEADS | {"final_logit_softcapping": 30.0, "query_pre_attn_scalar": 8}),
        ("Gemma2Config", HEADS | {"final_logit_softcapping": 300.0, "query_pre_attn_scalar": 8}),
    ],
)
def test_a_head_that_scoring_does_not_follow_is_told(kind, settings, tmp_path):
    folder = save(tmp_path / "model", kind, **settings)
    with pytest.raises(UserError, match="after the head"):
        open_policy(folder)


def test_settings_that_need_more_than_the_model_has_are_told_before_anything_is_probed(monkeypatch):
    monkeypatch.setattr("vpdlab.model.policy.examine", lambda *args, **options: pytest.fail("probed"))
    with pytest.raises(UserError, match=re.escape("max_context 600")):
        Policy.load(RunConfig(model=toy_model(), max_context=600, max_new_tokens=10, device="cpu"))
