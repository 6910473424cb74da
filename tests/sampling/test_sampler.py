"""The transformers sampler: correct tokens and log-probabilities, independent of the other rows."""

from __future__ import annotations

import pytest
import torch
from toy import toy_run

from vpdlab.run import Run
from vpdlab.sampling import Sampling, sample, stream
from vpdlab.sampling.engines.transformers import HFSampler

CONTEXTS = [list(b"a short one"), list(b"a context that is a good deal longer"), list(b"mid length here")]


@pytest.fixture(scope="module")
def run() -> Run:
    return toy_run()


def streams(n: int) -> list[tuple[int, ...]]:
    return [(7, i) for i in range(n)]


def test_log_probabilities_are_the_scorers(run):
    sampling = Sampling(temperature=1.0, max_new_tokens=12)
    rollouts = sample(
        run.sampler, run.render, run.learner.policy.tokenizer, run.task.load("train"), 2, sampling, seed=1
    )
    from vpdlab.types import View

    for rollout in rollouts:
        (batch,) = next(iter(run.learner.policy.minibatches([View(rollout.prompt_ids, rollout.response_ids)])))
        with torch.no_grad():
            scored = run.learner.policy.token_logp(batch)
        torch.testing.assert_close(scored, torch.tensor(rollout.logps), rtol=1e-4, atol=1e-4)


def test_a_rollout_does_not_depend_on_its_batch(run):
    sampling = Sampling(max_new_tokens=10)
    together = run.sampler.generate(CONTEXTS, streams(3), sampling)
    alone = [run.sampler.generate([c], [s], sampling)[0] for c, s in zip(CONTEXTS, streams(3), strict=True)]
    in_twos = HFSampler(run.learner.policy, rows=2).generate(CONTEXTS, streams(3), sampling)
    assert [c.ids for c in together] == [c.ids for c in alone] == [c.ids for c in in_twos]


def test_greedy_is_transformers_own_greedy(run):
    policy = run.learner.policy
    ours = run.sampler.generate(CONTEXTS, streams(3), Sampling(temperature=0, max_new_tokens=8))
    for context, mine in zip(CONTEXTS, ours, strict=True):
        ids = torch.tensor([context])
        theirs = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        assert list(mine.ids) == theirs[0, len(context) :].tolist()


def test_finished_rows_leave_and_keep_their_end_token(run):
    """Rows that end early must not change the others; the end token comes last, and only there."""
    policy, widths = run.learner.policy, []
    sampler = HFSampler(policy)
    ends = set(range(40))  # a tenth of the vocabulary ends a response: rows end at many different lengths
    sampler._ends = torch.tensor(sorted(ends))
    hook = policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    try:
        done = sampler.generate([CONTEXTS[0]] * 40, streams(40), Sampling(max_new_tokens=40))
    finally:
        hook.remove()
    assert widths[0] == 1  # one prefill for forty equal contexts
    assert widths[1] == 40 and widths[-1] < 40
    lengths = {len(c.ids) for c in done}
    assert len(lengths) > 3
    alone = [sampler.generate([CONTEXTS[0]], [s], Sampling(max_new_tokens=40))[0] for s in streams(40)[:6]]
    assert [c.ids for c in alone] == [c.ids for c in done[:6]]
    for c in done:
        assert c.finished == (c.ids[-1] in ends)
        assert not set(c.ids[:-1]) & ends
        assert len(c.ids) == len(c.logps)
        assert c.finished or len(c.ids) == 40


def test_streams_are_functions_of_what_they_are_for(run):
    a, b = run.task.load("train")[:2]
    assert stream(0, "train", 1, a, 0) == stream(0, "train", 1, a, 0)
    others = [stream(*args) for args in [
        (1, "train", 1, a, 0), (0, "eval", 1, a, 0), (0, "train", 2, a, 0), (0, "train", 1, b, 0), (0, "train", 1, a, 1)
    ]]  # fmt: skip
    assert len({stream(0, "train", 1, a, 0), *others}) == 6


def test_a_real_model_samples_what_it_scores(smollm2):
    from vpdlab.types import View

    run = toy_run(model=str(smollm2), max_context=256, max_new_tokens=12)
    rollouts = run.rollouts(1)[:4]
    assert len({rollout.response_ids for rollout in rollouts}) > 1
    for rollout in rollouts:
        (batch,) = next(iter(run.learner.policy.minibatches([View(rollout.prompt_ids, rollout.response_ids)])))
        with torch.no_grad():
            scored = run.learner.policy.token_logp(batch)
        torch.testing.assert_close(scored, torch.tensor(rollout.logps), rtol=1e-3, atol=1e-3)
