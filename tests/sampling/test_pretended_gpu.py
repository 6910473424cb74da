"""Decoding from graphs on a GPU that is pretended: what a graph sees, on which device, and what capturing costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pretended_gpu import State, pretended_gpu
from toy import toy_run

from vpdlab.model.policy import Policy
from vpdlab.model.teacher import Copy
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.engines.transformers import HFSampler

CONTEXTS = [list(b"a short one"), list(b"a context that is a good deal longer"), list(b"mid length here")] * 6
STREAMS = [(7, row) for row in range(len(CONTEXTS))]
SAMPLING = Sampling(max_new_tokens=12)
FIXED = {"compile": "off", "minibatch_tokens": 4096, "checkpointing": "off"}  # nothing is measured


@pytest.fixture
def gpu() -> Iterator[State]:
    with pretended_gpu() as state:
        yield state


def opened(device: str = "cuda", **fields: str) -> Policy:
    return toy_run(device=device, **{**FIXED, **fields}).policy


def drawn(sampler: HFSampler, sampling: Sampling = SAMPLING) -> list[Completion]:
    return sampler.generate(CONTEXTS, STREAMS, sampling)


def tokens(found: list[Completion]) -> list[tuple[int, ...]]:
    return [one.ids for one in found]


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_the_tokens_are_those_of_the_cpu(device: str) -> None:
    plain = tokens(drawn(HFSampler(opened("cpu"))))
    with pretended_gpu(device):
        sampler = HFSampler(opened(device), 128, capture=True)
        assert tokens(drawn(sampler)) == plain
        assert sampler.decoder.captured


def test_graphs_see_new_weights_and_lent_ones(gpu: State) -> None:
    policy = opened()
    plain, sampler = HFSampler(policy), HFSampler(policy, 128, capture=True)
    first, copy = tokens(drawn(sampler)), Copy(policy)
    with torch.no_grad():
        for weight in policy.parameters:
            weight.mul_(1.5)
    moved, captured = tokens(drawn(sampler)), sampler.decoder.captured
    assert moved == tokens(drawn(plain)) != first
    assert captured == 1  # they have changed in place
    with torch.no_grad(), copy.lent():
        assert tokens(drawn(sampler)) == first
    assert sampler.decoder.captured == 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16-mixed"])
def test_a_graph_is_captured_once(gpu: State, precision: str) -> None:
    """Also where the weights that it reads are copies in another type."""
    sampler = HFSampler(opened(precision=precision), 128, capture=True)
    found = [tokens(drawn(sampler)) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert sampler.decoder.captured == 1


def test_all_graphs_are_captured_on_one_stream(gpu: State) -> None:
    """cuBLAS keeps memory for each stream that it has seen."""
    policy = opened()
    for rows in (3, 128):
        sampler = HFSampler(policy, rows, capture=True)
        drawn(sampler)
        drawn(sampler, Sampling(0.5, 0.9, 12))
    assert len(gpu.graphs) > 3
    assert len(gpu.streams) == 1


def test_steps_wait_for_the_device_only_to_look_who_has_ended(gpu: State) -> None:
    sampler, sampling = HFSampler(opened(), 128, capture=True), Sampling(max_new_tokens=40)
    drawn(sampler, sampling)
    gpu.waits.clear()
    drawn(sampler, sampling)
    inside = {place: count for place, count in gpu.waits.items() if "captured.py" in place}
    assert sum(count for place, count in inside.items() if "nonzero" in place) == 4
    assert sum(inside.values()) == 4 + 4  # the lists of all rows, once each


@pytest.mark.parametrize("fault", ["mask", "item"])
def test_a_step_that_no_graph_can_repeat_runs_without_one(
    gpu: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """Once: what one step cannot, no other can."""
    policy = opened()
    plain, sampler = HFSampler(policy), HFSampler(policy, 128, capture=True)
    work = sampler.decoder._work

    def waits(buffers: object, sampling: Sampling) -> None:
        work(buffers, sampling)  # type: ignore[arg-type]
        if fault == "mask":
            torch.zeros(3).to("cuda")
        else:
            buffers.step.item()  # type: ignore[attr-defined]

    monkeypatch.setattr(sampler.decoder, "_work", waits)
    assert tokens(drawn(sampler)) == tokens(drawn(plain))
    said = "".join(capsys.readouterr())
    assert said.count("without graphs") == 1 and "stream is capturing" in said
    tried = len(gpu.streams), gpu.tried
    drawn(sampler, Sampling(0.5, 1.0, 12))
    assert (len(gpu.streams), gpu.tried) == tried
