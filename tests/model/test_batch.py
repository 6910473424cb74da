"""Both views on one response axis: alignment by hand, and minibatches that cover every row once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdlab.model.batch import collate, minibatches, plan
from vpdlab.types import View

PROPERTY = settings(max_examples=60, deadline=None, database=None, derandomize=True)

STUDENT = [View((1, 2), (50, 51, 52)), View((3,), (60,))]
TEACHER = [View((1, 9, 9, 9, 2), (50, 51, 52)), View((3, 8), (60,))]


def test_collate_by_hand() -> None:
    batch = collate(STUDENT, [0, 1])
    assert batch.rows.tolist() == [0, 1]
    assert batch.ids.tolist() == [[1, 2, 50, 51, 52], [3, 60, 0, 0, 0]]
    assert batch.context.tolist() == [2, 1]
    assert batch.response.tolist() == [[50, 51, 52], [60, 0, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.tokens.tolist() == [50, 51, 52, 60]
    # A response token is predicted at the position before its own; padding is clipped to the last position.
    assert batch.positions.tolist() == [[1, 2, 3], [0, 1, 2]]


def test_positions_of_padding_stay_inside_the_row() -> None:
    batch = collate([View((1, 2, 3, 4, 5), (6,)), View((1,), (2, 3, 4))], [0, 1])
    assert batch.ids.shape == (2, 6)
    assert batch.positions.tolist() == [[4, 5, 5], [0, 1, 2]]


def test_both_views_read_the_same_response_at_their_own_places() -> None:
    student, teacher = collate(STUDENT, [1, 0]), collate(TEACHER, [1, 0])
    assert student.rows.tolist() == teacher.rows.tolist() == [1, 0]
    assert torch.equal(student.response, teacher.response)
    assert torch.equal(student.mask, teacher.mask)
    for batch in (student, teacher):
        following = batch.ids.gather(1, (batch.positions + 1).clamp(max=batch.ids.shape[1] - 1))
        assert torch.equal(following[batch.mask], batch.tokens)
    assert teacher.positions.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("view", [View((), (1,)), View((1,), ())])
def test_a_view_without_context_or_response_is_refused(view: View) -> None:
    with pytest.raises(ValueError, match="view 1 has an empty context or response"):
        collate([STUDENT[0], view], [0, 1])


def test_plan_puts_like_lengths_together_within_the_budget() -> None:
    # 9 and 8 padded to 9 take 18 of 20; 5, 4, 4 padded to 5 take 15; 30 is above the budget and stands alone.
    assert plan([4, 9, 5, 30, 8, 4], 20) == [[3], [1, 4], [2, 0, 5]]
    assert plan([], 20) == []


@PROPERTY
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 120))
def test_plan_covers_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = plan(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


def test_plan_counts_a_common_beginning_once_and_keeps_groups_together() -> None:
    # Three rows of 10 with a shared prefix of 8 take 8 + 3 x 2 = 14 of 20; the row of 9 would make it 2 x 8 + 4 x 9.
    assert plan([10, 9, 10, 10], 20, groups=[0, -1, 0, 0], prefixes=[8, 0, 8, 8]) == [[0, 2, 3], [1]]
    assert plan([10, 9, 10, 10], 20) == [[0, 2], [3, 1]]


view_pairs = st.tuples(st.integers(1, 9), st.integers(1, 15), st.integers(1, 9))


@PROPERTY
@given(st.lists(view_pairs, min_size=1, max_size=12), st.integers(8, 80))
def test_minibatches_walk_the_same_rows_of_both_sides(sizes: list[tuple[int, int, int]], budget: int) -> None:
    student = [View((1,) * short, tuple(range(100, 100 + n))) for short, _, n in sizes]
    teacher = [View((2,) * long, tuple(range(100, 100 + n))) for _, long, n in sizes]
    seen = []
    for left, right in minibatches(student, teacher, budget=budget):
        assert torch.equal(left.rows, right.rows)
        assert torch.equal(left.tokens, right.tokens)
        assert all(len(side.rows) == 1 or side.ids.numel() <= budget for side in (left, right))
        seen += left.rows.tolist()
    assert sorted(seen) == list(range(len(sizes)))


def test_minibatches_of_some_rows_name_them_as_they_stand_in_the_list() -> None:
    views = [View((1,), (10 + row,)) for row in range(6)]
    found = [batch for (batch,) in minibatches(views, budget=4, rows=[5, 1, 3])]
    assert [batch.rows.tolist() for batch in found] == [[5, 1], [3]]
    assert [batch.response.tolist() for batch in found] == [[[15], [11]], [[13]]]


def test_no_rows_are_no_minibatches() -> None:
    assert list(minibatches(STUDENT, TEACHER, budget=10, rows=[])) == []
    assert list(minibatches([], [], budget=10)) == []


def test_sides_of_different_length_are_refused():
    view = View((1,), (2,))
    with pytest.raises(ValueError, match=r"different lengths: \[2, 3\]"):
        next(minibatches([view] * 2, [view] * 3, budget=10))
