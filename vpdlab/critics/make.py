"""The critic that a config asks for."""

from __future__ import annotations

from pathlib import Path

from vpdlab.config import RunConfig
from vpdlab.critics import Criticism, SelfCritic
from vpdlab.errors import UserError
from vpdlab.policy import Policy
from vpdlab.prompts import Renderer
from vpdlab.samplers import Sampler, Sampling
from vpdlab.teacher import Copy


def make_criticism(config: RunConfig, policy: Policy, render: Renderer, sampler: Sampler) -> Criticism:
    """The feedback source "critique". Raises UserError for an endpoint whose settings do not fit."""
    sampling = Sampling(config.critic_temperature, 1.0, config.critic_max_tokens)
    if config.critic != "endpoint":
        if render.max_context + config.critic_max_tokens > policy.longest:
            raise UserError(
                f"max_context {render.max_context} + critic_max_tokens {config.critic_max_tokens} is more than the"
                f" {policy.longest} positions of the model: lower one of them"
            )
        weights = Copy(policy) if config.critic == "frozen" else None
        return Criticism(SelfCritic(sampler, render, sampling, weights), config.critic_drop_leaks)
    from vpdlab import models
    from vpdlab.critics.endpoint import Budget, EndpointCritic

    cache = Path(config.critic_cache).expanduser() if config.critic_cache else models.cache_dir() / "critiques"
    critic = EndpointCritic(
        config.critic_url, config.critic_model, render, sampling, config.critic_seconds,
        Budget(config.critic_calls, config.critic_tokens), config.critic_jobs, cache,
    )  # fmt: skip
    return Criticism(critic, config.critic_drop_leaks)
