"""The push of a loss on episodes: only the policy's own tokens have one."""

from __future__ import annotations

import torch
from toy import toy_model

from vpdlab.config import RunConfig
from vpdlab.run import Run
from vpdlab.study.anatomy import pushes


def test_only_the_policys_own_tokens_of_an_episode_are_pushed() -> None:
    config = RunConfig.make(
        model=toy_model(), task="arithmetic", environment="retry", environment_args=("about=last",), method="sdpo",
        support="full", prompts=2, group=2, max_new_tokens=90, turn_tokens=5, max_turns=2, max_context=160,
        eval_every=-1,
    )  # fmt: skip
    run = Run.open(config, record=False)
    batch = run.batch(1)
    found = pushes(run.learner, batch, run.method)
    assert any(len(rollout.turns) == 3 for rollout in batch.rollouts)
    for push, rollout in zip(found, batch.rollouts, strict=True):
        own = [token for token, mine in zip(rollout.response_ids, rollout.tokens.mask, strict=True) if mine]
        assert push.tokens.tolist() == own and len(push.logits) == len(own)
        if rollout.turns:
            assert len(own) < len(rollout.response_ids)
            assert push.size[-1] > 0
            # The verifier speaks of the last attempt: the first one is not pushed.
            torch.testing.assert_close(push.size[: rollout.turns[0].end], torch.zeros(rollout.turns[0].end))
