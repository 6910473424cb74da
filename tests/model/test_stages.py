"""Rows in stages: cut by hand, what is read of them and what is not, and the same numbers as whole rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vpdlab import zoo
from vpdlab.model.batch import TokenBatch, collate
from vpdlab.model.caches import context_cache, evened, keys_only, spared
from vpdlab.model.passes import layers_of, response_states
from vpdlab.model.stages import Sharing
from vpdlab.types import View

PROPERTY = settings(max_examples=40, deadline=None, database=None, derandomize=True)
SHARE = Sharing(call=0)  # a few tokens are worth a call
STAGES = Sharing(worth=0.0, call=0, spared=0.5)  # so are further stages


def grouped() -> list[View]:
    """Three rollouts of a problem, one with other feedback; one of another problem; one without a group."""
    return [
        View((1, 2, 3, 4), (50, 51), group=0),
        View((9, 9, 9, 9, 9, 9), (60,), group=1),
        View((1, 2, 3, 5, 6), (52,), group=0),
        View((1, 2, 3, 4), (53,), group=0),
        View((1, 2, 3, 4), (70,)),
    ]


def parts(batch: TokenBatch) -> list[list[list[int]]]:
    assert batch.stages is not None
    return [part.ids.tolist() for part in batch.stages.parts]


def test_what_a_group_begins_with_by_hand() -> None:
    batch, whole = collate(grouped(), [0, 1, 2, 3], share=SHARE), collate(grouped(), [0, 1, 2, 3])
    assert parts(batch) == [[[1, 2, 3, 0, 0], [9, 9, 9, 9, 9]], [[4, 50, 51], [9, 60, 0], [5, 6, 52], [4, 53, 0]]]
    assert batch.stages is not None
    first, last = batch.stages.parts
    assert (first.length.tolist(), first.offset.tolist(), first.after.tolist()) == ([3, 5], [0, 0], [0, 0])
    assert (last.length.tolist(), last.offset.tolist(), last.after.tolist()) == (
        [3, 2, 3, 2],
        [3, 5, 3, 3],
        [0, 1, 0, 0],
    )
    assert first.filled.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert last.positions.tolist() == [[3, 4, 5], [5, 6, 7], [3, 4, 5], [3, 4, 5]]
    assert batch.stages.row_of.tolist() == [0, 1, 2, 3]
    assert (batch.read, whole.read) == (22, 28)
    # The state that predicts a token is that of the token before it, in stages as in rows.
    before = whole.ids.gather(1, whole.positions)[whole.mask]
    assert torch.equal(last.ids[batch.stages.row_of].gather(1, batch.positions)[batch.mask], before)
    assert before.tolist() == [4, 50, 9, 6, 4]


def test_three_stages_by_hand() -> None:
    """The group's beginning, the rest of each distinct context, and the responses behind its last token."""
    views = [
        View((1, 2, 7, 8, 3), (50,), group=0),
        View((1, 2, 9, 3), (51, 52), group=0),
        View((1, 2, 7, 8, 3), (53,), group=0),
    ]
    batch = collate(views, [0, 1, 2], share=STAGES)
    assert parts(batch) == [[[1, 2]], [[7, 8], [9, 0]], [[3, 50, 0], [3, 51, 52], [3, 53, 0]]]
    assert batch.stages is not None
    assert [part.after.tolist() for part in batch.stages.parts] == [[0], [0, 0], [0, 1, 0]]
    assert [part.offset.tolist() for part in batch.stages.parts] == [[0], [2, 2], [4, 3, 4]]
    assert batch.stages.offset.tolist() == [4, 3, 4]
    assert batch.positions.tolist() == [[0, 1], [0, 1], [0, 1]]


def test_equal_rows_are_read_once() -> None:
    views = [View((1, 2), (5, 6), group=0), View((1, 2), (5, 7), group=0), View((1, 2), (5, 6), group=0)]
    batch = collate(views, [0, 1, 2], share=SHARE)
    assert batch.stages is not None
    assert (parts(batch)[-1], batch.stages.row_of.tolist()) == ([[2, 5, 6], [2, 5, 7]], [0, 1, 0])
    assert batch.tokens.tolist() == [5, 6, 5, 7, 5, 6]  # all of them count


def test_what_saves_too_little_is_read_whole() -> None:
    assert collate(grouped(), [1, 4], share=SHARE).stages is None  # two without a common group
    alike = [View((1, 2), tuple(range(100, 140)), group=0), View((1, 3), tuple(range(100, 140)), group=0)]
    assert collate(alike, [0, 1], share=SHARE).stages is None  # one token of 84
    views = [View(tuple(range(40)), (90 + row,), group=0) for row in range(3)]  # 78 of 123 saved, 6.15 asked
    assert collate(views, [0, 1, 2], share=Sharing(call=71)).stages is not None
    assert collate(views, [0, 1, 2], share=Sharing(call=72)).stages is None


def test_equal_contexts_keep_their_last_token() -> None:
    """It predicts the first token of the response."""
    batch = collate([View((1, 2, 3), (5,), group=0), View((1, 2, 3), (6,), group=0)], [0, 1], share=SHARE)
    assert parts(batch) == [[[1, 2]], [[3, 5], [3, 6]]]


def test_contexts_of_one_token_leave_nothing_to_read_before() -> None:
    assert collate([View((1,), (5,)), View((2,), (6,))], [0, 1], share=STAGES).stages is None


rows = st.tuples(
    st.integers(0, 2),
    st.lists(st.integers(1, 3), min_size=1, max_size=6),
    st.lists(st.integers(4, 6), min_size=1, max_size=4),
)


@PROPERTY
@given(st.lists(rows, min_size=1, max_size=7), st.sampled_from([SHARE, STAGES]))
def test_stages_put_together_are_the_rows(rows: list[tuple[int, list[int], list[int]]], share: Sharing) -> None:
    views = [View(tuple(context), tuple(response), group=group) for group, context, response in rows]
    batch = collate(views, range(len(views)), share=share)
    if batch.stages is None:
        return
    for row, view in enumerate(views):
        at, told = int(batch.stages.row_of[row]), ()
        for part in reversed(batch.stages.parts):
            ids = tuple(part.ids[at, : part.length[at]].tolist())
            told = ids + told
            assert int(part.offset[at]) == len(view) - len(told)
            at = int(part.after[at])
        assert told == view.context_ids + view.response_ids


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(zoo.resolve("apprentice")).eval()


def feedback_views() -> list[View]:
    """Two groups of three rows whose contexts differ in their ends and in their lengths; one row twice."""
    made = [
        View(
            (*range(20 + group, 40), *range(60 + 10 * row, 66 + 11 * row), 9), tuple(range(100 + row, 104)), group=group
        )
        for group in (0, 1)
        for row in (0, 1, 2)
    ]
    return [*made, made[0]]


@pytest.mark.parametrize("share", [SHARE, STAGES])
def test_stages_give_the_states_and_gradients_of_whole_rows(model: Any, share: Sharing) -> None:
    views, found = feedback_views(), []
    for asked in (None, share):
        batch = collate(views, range(len(views)), share=asked)
        assert asked is None or len(parts(batch)) == (3 if share is STAGES else 2)
        model.zero_grad(set_to_none=True)
        states = response_states(model, batch)
        weights = torch.linspace(-1.0, 2.0, states.numel()).view_as(states)
        (states * weights).sum().backward()
        found.append([states.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 20
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-4)


def test_the_last_layer_reads_only_the_responses(model: Any) -> None:
    batch, read = collate(feedback_views(), range(7), share=STAGES), {"first": 0, "last": 0}

    def count(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            read[name] += inputs[0].shape[0] * inputs[0].shape[1]

        return hook

    layers = layers_of(model)
    hooks = [
        layer.mlp.register_forward_hook(count(name)) for layer, name in ((layers[0], "first"), (layers[-1], "last"))
    ]
    try:
        response_states(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    assert batch.stages is not None
    assert read == {"first": batch.read, "last": batch.stages.parts[-1].ids.numel()}
    assert spared(model) == pytest.approx(0.25)  # three quarters of one of three layers


def test_attention_behind_a_stage_gets_whole_vectors_of_keys(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, attention = [], torch.nn.functional.scaled_dot_product_attention

    def seen(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        given.append((query.shape[2], key.shape[2]))
        return attention(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    views = feedback_views()
    response_states(model, collate(views, range(len(views)), share=STAGES))
    behind = {keys for queries, keys in given if keys != queries}
    assert len(behind) == 2  # of the second stage and of the third
    assert all(keys % 8 == 0 for keys in behind)


def test_caches_of_other_layers_get_no_empty_slots() -> None:
    cache = DynamicCache()
    cache.layers = [DynamicLayer(), DynamicSlidingWindowLayer(sliding_window=4)]
    for layer in range(2):
        cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), layer)
    seen = torch.ones(1, 3, dtype=torch.bool)
    assert evened(cache, seen, 2) is seen
    assert cache.layers[0].keys.shape[2] == 3


class Sources(TorchDispatchMode):
    """Whether what is added up by index lay in one block, for each time."""

    def __init__(self) -> None:
        super().__init__()
        self.in_one_block: list[bool] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op is torch.ops.aten.index_add.default:
            self.in_one_block.append(args[3].is_contiguous())
        return op(*args, **(kwargs or {}))


def test_gradients_of_shared_keys_are_added_up_in_one_block(model: Any) -> None:
    views, sources = feedback_views(), Sources()
    states = response_states(model, collate(views, range(len(views)), share=STAGES))
    with sources:
        (states * states).sum().backward()
    # Keys and values of three layers in front of two stages (those that precede their only part are not selected),
    # and the states themselves.
    assert len(sources.in_one_block) > 6
    assert all(sources.in_one_block)


def test_a_pass_that_fails_is_no_pass_that_ended(model: Any) -> None:
    cache = context_cache(model)
    with pytest.raises(IndexError), keys_only(cache):
        model.get_decoder()(input_ids=torch.tensor([[10_000]]), past_key_values=cache, use_cache=True)
    # And afterwards passes run to their end again.
    assert model.get_decoder()(input_ids=torch.tensor([[5]]), past_key_values=cache).last_hidden_state.shape == (
        1,
        1,
        96,
    )


def test_a_model_whose_last_layer_is_of_another_kind_reads_to_the_end(model: Any) -> None:
    """`keys_only` then changes nothing: here with transformers' own cache."""
    cache = DynamicCache(config=model.config)
    with keys_only(cache):
        out = model.get_decoder()(input_ids=torch.tensor([[5, 6]]), past_key_values=cache, use_cache=True)
    assert out.last_hidden_state.shape == (1, 2, 96)
