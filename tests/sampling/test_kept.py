"""Keys and values between turns: an episode samples what it would sample with every context read anew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import RIGHT, open_policy, save
from toy import toy_run

from vpdlab.model import passes
from vpdlab.model.caches import ROOM, GrowingLayer
from vpdlab.sampling import Completion, Sampling, conversation
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.sampling.kept import Kept

TURNS = (Sampling(max_new_tokens=7), Sampling(1.0, 1.0, 12), Sampling(0.7, 1.0, 5))
ROWS = 6


def talk(sampler: HFSampler, ids: Sequence[int], kept: bool) -> list[list[Completion]]:
    """Three turns of rows whose prompts and replies have different lengths; one row leaves after each turn."""
    contexts = [tuple(ids[: 3 + 5 * (row // 2)]) for row in range(ROWS)]
    found: list[list[Completion]] = []
    with conversation(sampler if kept else object()):  # type: ignore[arg-type]
        for turn, sampling in enumerate(TURNS):
            streams = [(turn, row) for row in range(len(contexts))]
            found.append(sampler.generate(contexts, streams, sampling))
            contexts = [
                (*context, *done.ids, *ids[5 : 6 + row * (turn + 1)])
                for row, (context, done) in enumerate(zip(contexts, found[-1], strict=True))
            ][1:]
    return found


def same(one: list[list[Completion]], two: list[list[Completion]]) -> None:
    for a, b in zip(chain(*one), chain(*two), strict=True):
        assert (a.ids, a.finished) == (b.ids, b.finished)
        torch.testing.assert_close(torch.tensor(a.logps), torch.tensor(b.logps), rtol=1e-4, atol=1e-4)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each prefill."""
    rows: list[int] = []
    prefill = passes.prefill

    def counted(model: Any, contexts: Sequence[Any], device: torch.device) -> Any:
        rows.append(len(contexts))
        return prefill(model, contexts, device)

    monkeypatch.setattr(passes, "prefill", counted)
    return rows


@pytest.mark.parametrize("name", RIGHT)
def test_every_architecture_goes_on_as_if_it_read_anew(name: str, tmp_path: Path) -> None:
    kind, settings, _ = RIGHT[name]
    policy = open_policy(save(tmp_path / "model", kind, **settings))
    sampler, ids = HFSampler(policy), policy.some_ids()
    same(talk(sampler, ids, True), talk(sampler, ids, False))


def test_a_turn_reads_only_what_is_new(read: list[int]) -> None:
    policy = toy_run().policy
    sampler, ids = HFSampler(policy), policy.some_ids()
    read.clear()
    mine = talk(sampler, ids, True)
    assert read == [ROWS, 4]  # the first turn, and the trial of the second
    assert {done.finished for done in chain(*mine)} == {True, False}
    read.clear()
    same(talk(sampler, ids, True), mine)
    assert read == [ROWS]
    read.clear()
    same(talk(sampler, ids, False), mine)
    assert read == [ROWS, ROWS - 1, ROWS - 2]


def test_what_continues_nothing_is_read_and_nothing_outlasts_the_conversation(read: list[int]) -> None:
    policy = toy_run().policy
    sampler, ids, sampling = HFSampler(policy), tuple(policy.some_ids()), Sampling(max_new_tokens=4)
    read.clear()
    with conversation(sampler) as most:
        assert most == 128
        (done,) = sampler.generate([ids[:9]], [(1,)], sampling)
        onward = (*ids[:9], *done.ids, *ids[3:5])
        sampler.generate([onward, ids[1:9]], [(1,), (2,)], sampling)
        assert read == [1, 2]
        sampler.generate([ids[1:7]], [(1,)], sampling)  # shorter than what was read
        assert read == [1, 2, 1]
    assert sampler._kept is not None and not sampler._kept._pieces
    sampler.generate([onward], [(1,)], sampling)
    assert read == [1, 2, 1, 1]


def test_a_model_that_goes_on_otherwise_is_read_anew_and_told_of(read: list[int], capsys) -> None:
    policy = toy_run().policy
    sampler, ids = HFSampler(policy), policy.some_ids()
    sampler._kept = Kept(policy.model, apart=-1.0)
    read.clear()
    same(talk(sampler, ids, True), talk(sampler, ids, False))
    assert sampler._kept.refused and read[:4] == [ROWS, 4, ROWS - 1, ROWS - 2]
    said = capsys.readouterr()
    assert (said.out + said.err).count("episodes read each conversation again") == 1
    with conversation(sampler) as most:
        assert most == 0


def test_captured_steps_keep_nothing() -> None:
    with conversation(HFSampler(toy_run().policy, capture=True)) as most:
        assert most == 0


def test_no_more_episodes_are_played_at_a_time_than_are_kept(monkeypatch) -> None:
    fields: dict[str, Any] = {
        "environment": "retry", "max_turns": 3, "turn_tokens": 5, "max_new_tokens": 60, "prompts": 2, "group": 4,
    }  # fmt: skip
    runs = [toy_run(sampler_rows=rows, **fields) for rows in (3, 128)]
    sizes: list[int] = []
    generate = runs[0].sampler.generate
    monkeypatch.setattr(
        runs[0].sampler, "generate", lambda contexts, *rest: sizes.append(len(contexts)) or generate(contexts, *rest)
    )
    few, all_at_once = ([(r.response_ids, r.mask, r.text) for r in run.rollouts(1)] for run in runs)
    assert few == all_at_once and max(sizes) == 3 and len(sizes) > 3


def test_a_layer_grows_and_holds_what_a_plain_one_holds() -> None:
    from transformers.cache_utils import DynamicLayer

    mine, plain, draw = GrowingLayer(), DynamicLayer(), torch.Generator().manual_seed(0)
    rows: Any = torch.arange(3)
    for step in range(3 * ROOM):
        new = [torch.randn(len(rows), 2, 5 if step == 0 else 1, 4, generator=draw) for _ in range(2)]
        for one, other in zip(mine.update(*new), plain.update(*new), strict=True):
            assert torch.equal(one, other)
        if step == ROOM // 2:
            rows = torch.tensor([2, 0])
            mine.reorder_cache(rows)
            plain.reorder_cache(rows)
    assert mine.get_seq_length() == plain.get_seq_length() == 3 * ROOM + 4


def test_a_cache_that_gradients_flow_through_is_transformers_own() -> None:
    from vpdlab.model.caches import decoding_cache

    model = toy_run().policy.model
    with torch.no_grad():
        assert all(isinstance(layer, GrowingLayer) for layer in decoding_cache(model).layers)
    assert not any(isinstance(layer, GrowingLayer) for layer in decoding_cache(model).layers)
