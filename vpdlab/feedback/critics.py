"""Critics: a language model says what is wrong with a failed rollout.

A critic knows the problem, the attempt and the final answer, nothing of the solution, and is asked not to state the
answer; whether it did so all the same is measured (`gives_away`). It never sets a reward.

Who criticises is a choice: the current policy (`live`), the initial one (`frozen`), or a model behind an
OpenAI-compatible server (`endpoint`, endpoint.py).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.feedback.sources import Context, sibling, without_thoughts
from vpdlab.model.policy import Policy
from vpdlab.model.teacher import Copy
from vpdlab.prompts import Renderer
from vpdlab.sampling import Sampler, Sampling, sample
from vpdlab.types import Feedback, Problem, Rollout, SampledText

LONGEST = 2000  # characters of a critique that are kept
SETTINGS = ("critic", "critic_max_tokens", "critic_temperature", "critic_drop_leaks", "critic_learns")
"""Fields of RunConfig that only runs with a critic read."""
ENDPOINT_SETTINGS = ("critic_url", "critic_model", "critic_seconds", "critic_calls", "critic_tokens", "critic_jobs",
                     "critic_cache")  # fmt: skip
"""Those that only a critic behind a server reads."""


@dataclass(frozen=True)
class Critique:
    """A critic's text on one rollout, or why there is none.

    Attributes:
        text: the critique, as data: no control tokens, at most LONGEST characters; None where there is none.
        reason: why there is none.
        sampled: its tokens, where the policy itself wrote it.
    """

    text: str | None
    reason: str = ""
    sampled: SampledText | None = None


class Critic(Protocol):
    """One critique per rollout; a critique that fails is None with a reason, never an exception."""

    def __call__(self, rollouts: Sequence[Rollout], context: Context) -> list[Critique]: ...


@dataclass
class SelfCritic:
    """The policy criticises its own rollouts.

    Attributes:
        weights: the weights that write; None for the live ones.
    """

    sampler: Sampler
    render: Renderer
    sampling: Sampling
    weights: Copy | None = None

    def __call__(self, rollouts: Sequence[Rollout], context: Context) -> list[Critique]:
        """Sample one critique for each rollout."""
        prompts = [self.render.critic(rollout.problem, rollout.transcript) for rollout in rollouts]
        problems = [rollout.problem for rollout in rollouts]
        with torch.no_grad(), self.weights.lent() if self.weights is not None else contextlib.nullcontext():
            answers = sample(
                self.sampler, self.render, self.render.tokenizer, problems, 1, self.sampling,
                seed=context.seed, purpose=f"critique {context.purpose}", step=context.step, contexts=prompts,
            )  # fmt: skip
        critiques = []
        for prompt, one in zip(prompts, answers, strict=True):
            text = as_data(one.text, self.render)
            reason = "" if text else "the critic said nothing"
            critiques.append(Critique(text or None, reason, SampledText(prompt, one.tokens)))
        return critiques


def as_data(text: str, render: Renderer) -> str:
    """A critic's text as it may stand in a prompt: thoughts and control tokens cut, at most LONGEST characters."""
    # Cut before it is cleaned: text made of control tokens within control tokens takes a pass for each of them.
    text = render.clean(without_thoughts(text)[: 8 * LONGEST])
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def gives_away(text: str, problem: Problem) -> bool:
    """Whether a critique states the final answer.

    An answer of one letter counts where it is named as an option or an answer ("(B)", "option B", "B is correct"), or
    where the text of that choice stands in the critique; any other answer where it stands in it as separate words.
    """
    answer = problem.answer.strip()
    if not answer:
        return False
    if re.fullmatch(r"[A-Z]", answer):
        before = r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer(?: is)?:?)\s+\(?"
        after = r" (?:is|was) (?:the )?(?:correct|right)"
        named = rf"\({answer}\)|{before}{answer}\b|\b{answer}{after}"
        choice = str(problem.data.get("choices", {}).get(answer, "")).strip()
        return bool(re.search(named, text)) or (len(choice) > 2 and _stands_in(choice, text))
    return _stands_in(answer, text)


def _stands_in(words: str, text: str) -> bool:
    wanted = r"\s+".join(re.escape(word) for word in words.casefold().split())
    return bool(re.search(rf"(?<![\w.]){wanted}(?![\w]|\.\d)", text.casefold()))


@dataclass
class CriticSource:
    """The feedback source "critique": a critic for failures, a sibling for successes.

    Attributes:
        critic: who writes.
        drop_leaks: whether a critique that gives the answer away is dropped; else it is only counted.
    """

    critic: Critic
    drop_leaks: bool = False

    def __call__(self, rollouts: Sequence[Rollout], context: Context) -> list[Feedback]:
        """Feedback on each rollout; the critic is asked about the failures only."""
        failed = [row for row, rollout in enumerate(rollouts) if not rollout.success]
        critiques = self.critic([rollouts[row] for row in failed], context) if failed else []
        feedback = sibling(rollouts, context)
        for row, critique in zip(failed, critiques, strict=True):
            feedback[row] = self._feedback(critique, rollouts[row].problem)
        return feedback

    def _feedback(self, critique: Critique, problem: Problem) -> Feedback:
        if critique.text is None:
            return Feedback(reason=critique.reason)
        leaked = gives_away(critique.text, problem)
        if leaked and self.drop_leaks:
            return Feedback(reason="the critique gave the answer away", leaked=True)
        return Feedback(critique=critique.text, source="critique", leaked=leaked, sampled=critique.sampled)


def open_critic(config: RunConfig, policy: Policy, render: Renderer, sampler: Sampler) -> CriticSource:
    """The feedback source "critique". Raises UserError for settings that do not fit."""
    sampling = Sampling(config.critic_temperature, 1.0, config.critic_max_tokens)
    if config.critic != "endpoint":
        if render.max_context + config.critic_max_tokens > policy.longest:
            raise UserError(
                f"max_context {render.max_context} + critic_max_tokens {config.critic_max_tokens} exceeds the"
                f" {policy.longest} positions of the model: lower one of them"
            )
        weights = Copy(policy) if config.critic == "frozen" else None
        return CriticSource(SelfCritic(sampler, render, sampling, weights), config.critic_drop_leaks)
    from vpdlab import zoo
    from vpdlab.feedback.endpoint import Budget, EndpointCritic

    cache = Path(config.critic_cache).expanduser() if config.critic_cache else zoo.cache_dir() / "critiques"
    critic = EndpointCritic(
        config.critic_url, config.critic_model, render, sampling, config.critic_seconds,
        Budget(config.critic_calls, config.critic_tokens), config.critic_jobs, cache,
    )  # fmt: skip
    return CriticSource(critic, config.critic_drop_leaks)
