"""The records that travel, and tokens that the policy did not write itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from toy import Parity, toy_model, toy_run
from vpdlab_widgets import TokenLens

from vpdlab import RunConfig, load_run
from vpdlab.learn.m_step import m_step, survey
from vpdlab.learn.state import Batch
from vpdlab.model.batch import collate
from vpdlab.model.policy import Policy
from vpdlab.run import Run
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.show.widget_data import lens_records, rollout_rows
from vpdlab.types import Problem, Rollout, RolloutTokens, View


def test_tokens_have_one_mask_value_and_one_logp_each() -> None:
    tokens = RolloutTokens((5, 6, 7), (True, False, True), (-0.1, 0.0, -0.3))
    assert len(tokens) == 3 and tokens.own_logps == (-0.1, -0.3)
    with pytest.raises(ValueError, match="3 ids, 2 mask values, 3 log-prob"):
        RolloutTokens((5, 6, 7), (True, False), (-0.1, 0.0, -0.3))


def test_a_rollout_without_a_mask_is_all_the_policy_s_own() -> None:
    rollout = Rollout(Problem("p", "?", "7"), 0, 0, (1,), (5, 6), (-0.1, -0.2), "x", True)
    assert rollout.tokens == RolloutTokens((5, 6), (True, True), (-0.1, -0.2))


def test_a_batch_s_mask_leaves_out_padding_and_other_people_s_tokens() -> None:
    views = [View((1, 2), (5, 6, 7), mask=(True, False, True)), View((1,), (8, 9))]
    batch = collate(views, [0, 1])
    assert batch.mask.tolist() == [[True, False, True], [True, True, False]]
    assert batch.tokens.tolist() == [5, 7, 8, 9]


def with_a_foreign_token(run: Run) -> tuple[Batch, Batch]:
    """A batch, and the same with the second token of each long response not the policy's own."""
    rollouts = [rollout for rollout in run.verify(run.rollouts(1)) if len(rollout.response_ids) > 2]
    feedback = run.feedback(rollouts)
    masked = [replace(r, mask=tuple(t != 1 for t in range(len(r.response_ids)))) for r in rollouts]
    return run.pack(rollouts, feedback), run.pack(masked, feedback)


@pytest.mark.parametrize("method", ["grpo", "sdpo", "distil", "joint"])
def test_a_token_that_is_not_the_policy_s_own_takes_no_part_in_a_loss(method: str) -> None:
    run = toy_run(method=method)
    whole, masked = with_a_foreign_token(run)
    assert masked.response_tokens == whole.response_tokens - len(whole)
    assert masked.lengths.tolist() == [length - 1 for length in whole.lengths.tolist()]
    seen = [one.logp.detach() for one, _, _ in survey(run.learner, masked, run.method)]
    kept = [one.view.tokens for one, _, _ in survey(run.learner, masked, run.method)]
    expected = [t for r in masked.rollouts for t, own in zip(r.response_ids, r.mask, strict=True) if own]
    assert sorted(torch.cat(kept).tolist()) == sorted(expected) and sum(map(len, seen)) == masked.response_tokens
    done = m_step(run.learner, masked, run.method)
    assert done.loss is not None and done.grad_norm is not None and done.grad_norm > 0.0
    own = torch.tensor([sum(r.tokens.own_logps) for r in masked.rollouts])
    assert torch.allclose(done.student_logp, own, atol=1e-4)  # sums over the policy's own tokens alone


def test_the_baseline_of_distil_covers_responses_that_are_longer_than_their_own_tokens() -> None:
    run = toy_run(method="distil", distil_baseline=True)
    _, masked = with_a_foreign_token(run)
    done = m_step(run.learner, masked, run.method)
    assert done.loss is not None and done.skipped == 0


class Interrupting(HFSampler):
    """Says that the second token of each response is a tool's."""

    def generate(self, contexts, streams, sampling):
        done = super().generate(contexts, streams, sampling)
        return [replace(one, mask=tuple(place != 1 for place in range(len(one.ids)))) for one in done]


def test_a_sampler_s_mask_reaches_the_batch_and_the_record(tmp_path) -> None:
    config = RunConfig.make(
        model=toy_model(), prompts=4, group=4, max_new_tokens=9, max_context=120, steps=1, e_every=1, eval_every=-1,
        record_tokens=16, record_top=3, out=str(tmp_path / "run"),
    )  # fmt: skip
    policy = Policy.load(config)
    run = Run.open(config, task=Parity(), sampler=Interrupting(policy), policy=policy)
    list(run.steps())
    records = [one for one in load_run(tmp_path / "run").rollouts(1) if one["student_logp"] and len(one["tokens"]) > 2]
    assert records
    for record in records:
        assert [value is None for value in record["student_logp"]] == [t == 1 for t in range(len(record["tokens"]))]
        assert record["student_top"][1] == [] and len(record["student_top"][0]) == 3
    assert TokenLens(lens_records(records, 0.1)).fallback()
    kl = [row["kl"] for row in rollout_rows(records) if row["kl"] is not None]
    assert kl and all(value >= 0 for value in kl)
