"""Decoding in fixed buffers: the tokens of the plain sampler, whatever leaves when; on a GPU from replayed graphs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import HEADS, LINEAR, SIZE, open_policy, save
from devices import DEVICES
from toy import toy_run

from vpdlab import UserError
from vpdlab.model.policy import Policy
from vpdlab.model.slots import trial
from vpdlab.model.teacher import Copy
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.captured import _bucket
from vpdlab.sampling.engines.transformers import HFSampler, captures

CONTEXTS = [list(b"a short one"), list(b"a context that is a good deal longer"), list(b"mid length here")] * 6
STREAMS = [(7, row) for row in range(len(CONTEXTS))]


@pytest.fixture(params=DEVICES, scope="module")
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def policy(device: str) -> Policy:
    return toy_run(device=device, compile="off").policy


def both(policy: Policy, sampling: Sampling, rows: int = 128) -> list[list[Completion]]:
    return [HFSampler(policy, rows, capture).generate(CONTEXTS, STREAMS, sampling) for capture in (False, True)]


def same(plain: list[Completion], captured: list[Completion]) -> None:
    """Equal tokens; log-probabilities equal up to rounding."""
    assert [(c.ids, c.finished) for c in plain] == [(c.ids, c.finished) for c in captured]
    for one, other in zip(plain, captured, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=2e-5)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_new_tokens=40), Sampling(0.5, 0.9, 40), Sampling(0.0, 1.0, 20), Sampling(max_new_tokens=1)],
    ids=["plain", "nucleus", "greedy", "one token"],
)
def test_the_tokens_are_the_plain_samplers(policy: Policy, sampling: Sampling) -> None:
    same(*both(policy, sampling))


def test_rows_leave_at_the_borders_of_sizes(policy: Policy) -> None:
    """With many end tokens rows end early: the batch shrinks through several sizes."""
    samplers = [HFSampler(policy, 128, capture) for capture in (False, True)]
    for sampler in samplers:
        sampler._ends = torch.arange(0, 60, 4, device=policy.device)
    found = [sampler.generate(CONTEXTS, STREAMS, Sampling(max_new_tokens=40)) for sampler in samplers]
    assert len({len(one.ids) for one in found[0]}) > 4
    same(*found)


def test_several_batches_and_lengths_share_one_decoder(policy: Policy) -> None:
    sampler, plain = HFSampler(policy, 5, True), HFSampler(policy, 5)
    for tokens in (12, 200, 12):
        sampling = Sampling(max_new_tokens=tokens)
        same(plain.generate(CONTEXTS, STREAMS, sampling), sampler.generate(CONTEXTS, STREAMS, sampling))


def test_it_sees_new_weights_and_lent_ones(device: str) -> None:
    policy = toy_run(device=device, compile="off").policy
    plain, sampler, sampling = HFSampler(policy), HFSampler(policy, 128, True), Sampling(max_new_tokens=12)
    first = sampler.generate(CONTEXTS, STREAMS, sampling)
    copy = Copy(policy)
    with torch.no_grad():
        for weight in policy.parameters:
            weight.mul_(1.5)
    moved = sampler.generate(CONTEXTS, STREAMS, sampling)
    assert moved != first
    same(plain.generate(CONTEXTS, STREAMS, sampling), moved)
    with torch.no_grad(), copy.lent():
        same(first, sampler.generate(CONTEXTS, STREAMS, sampling))


@pytest.mark.parametrize("fields", [{"lora_rank": 4}, {"teacher": "adapter"}], ids=["lora", "adapter"])
def test_adapters(device: str, fields: dict[str, object]) -> None:
    policy = toy_run(device=device, compile="off", **fields).policy
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if ".lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator(device).manual_seed(0))
    student = both(policy, Sampling(max_new_tokens=12))
    same(*student)
    with policy.as_teacher():
        teacher = both(policy, Sampling(max_new_tokens=12))
    same(*teacher)
    assert (teacher[0] == student[0]) == (not policy.decoupled)


def test_under_autocast_linear_layers_have_their_weights_in_place(device: str) -> None:
    policy = toy_run(device=device, compile="off", precision="bfloat16-mixed").policy
    before = {name: (id(weight), weight.dtype) for name, weight in policy.model.named_parameters()}
    plain, captured = both(policy, Sampling(max_new_tokens=12))
    assert {name: (id(weight), weight.dtype) for name, weight in policy.model.named_parameters()} == before
    agree = sum(a.ids == b.ids for a, b in zip(plain, captured, strict=True))
    assert agree >= len(plain) - 4  # near a tie rounding decides


def test_a_model_that_cannot_is_decoded_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    window = open_policy(save(tmp_path / "w", "MistralConfig", **HEADS, sliding_window=8), capture="on")
    assert not captures(window.config, window, 132)
    linear = open_policy(save(tmp_path / "l", "Qwen3NextConfig", **HEADS, **LINEAR), capture="on")
    assert not captures(linear.config, linear, 132)
    said = capsys.readouterr()
    assert "window of 8" in said.out + said.err and "LinearAttentionLayer" in said.out + said.err


@pytest.mark.parametrize(
    "kind", ["LlamaConfig", "Qwen2Config", "Qwen3Config", "GemmaConfig", "OlmoConfig", "GPTNeoXConfig"]
)
def test_architectures(tmp_path: Path, kind: str, device: str) -> None:
    settings = HEADS if kind in ("Qwen3Config", "GemmaConfig") else SIZE
    try:
        policy = open_policy(save(tmp_path / "m", kind, **settings), device=device, compile="off")
    except UserError as error:
        pytest.skip(f"extra: {error}")
    contexts = [policy.some_ids()[:size] for size in (4, 30, 9, 30)]
    found = [
        HFSampler(policy, 128, capture).generate(contexts, STREAMS[:4], Sampling(max_new_tokens=20))
        for capture in (False, True)
    ]
    same(*found)


def test_a_model_that_counts_by_its_cache_is_found_out(tmp_path: Path) -> None:
    """GPT-Neo's local layers take positions from the cache's length, which here is not the row's."""
    policy = open_policy(save(
        tmp_path / "n", "GPTNeoConfig", hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global"], 2]],
        max_position_embeddings=256, intermediate_size=48, window_size=256,
    ))  # fmt: skip
    assert trial(policy.model, policy.some_ids()) > 1e-3 or not captures(policy.config, policy, 132)


def test_sizes() -> None:
    assert [_bucket(rows) for rows in (1, 2, 3, 16, 17, 24, 25, 33, 48, 49, 100, 128)] == [
        1, 2, 4, 16, 24, 24, 32, 48, 48, 64, 128, 128,
    ]  # fmt: skip


def test_what_cannot_be_captured_runs_without_a_graph(monkeypatch, capsys) -> None:
    """A step that ran in part before the capture failed leaves no trace."""
    policy = toy_run(device="cpu", compile="off").policy
    plain, sampler = HFSampler(policy), HFSampler(policy, 128, True)
    decoder = sampler.decoder

    def fails(buffers, sampling):
        decoder._work(buffers, sampling)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(decoder, "_replays", True)
    monkeypatch.setattr(decoder, "_keeps", lambda buffers: True)
    monkeypatch.setattr(decoder, "_capture", fails)
    sampling = Sampling(max_new_tokens=20)
    for _ in range(2):
        same(plain.generate(CONTEXTS, STREAMS, sampling), sampler.generate(CONTEXTS, STREAMS, sampling))
    said = "".join(capsys.readouterr())
    assert said.count("without graphs") == 1 and "not permitted" in said
