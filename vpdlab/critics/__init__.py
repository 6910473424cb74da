"""Critics: a language model says in words what is wrong with a failed rollout.

A critic knows the problem, the attempt and the final answer, nothing of the solution, and is asked not to state the
answer; whether it did so all the same is measured (`gives_away`). It never sets a reward.

Who criticises is a choice: the policy as it is (`live`), as it was at the start (`frozen`), or a model behind an
OpenAI-compatible server (`endpoint`, critics/endpoint.py).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.credit import group_advantage
from vpdlab.feedback import sibling, without_thoughts
from vpdlab.learner import Learner
from vpdlab.prompts import Renderer
from vpdlab.samplers import Sampler, Sampling, sample
from vpdlab.teacher import Copy
from vpdlab.types import Feedback, Problem, Rollout, View

LONGEST = 2000  # characters of a critique that are kept


@dataclass(frozen=True)
class Critique:
    """What a critic said of one rollout, or why it said nothing.

    Attributes:
        text: the critique, as data: no control tokens, at most LONGEST characters; None where there is none.
        reason: why there is none.
        view: the critic's prompt and words as token ids, where it is the policy itself.
        logps: log-probabilities of these words when they were sampled.
    """

    text: str | None
    reason: str = ""
    view: View | None = None
    logps: tuple[float, ...] = ()


class Critic(Protocol):
    """One critique a rollout; a critique that fails is None with a reason, never an exception."""

    def __call__(self, rollouts: Sequence[Rollout], *, seed: int, purpose: str, step: int) -> list[Critique]: ...


@dataclass
class SelfCritic:
    """The policy criticises its own rollouts.

    Attributes:
        weights: the weights that speak; None for the live ones.
    """

    sampler: Sampler
    render: Renderer
    sampling: Sampling
    weights: Copy | None = None

    def __call__(self, rollouts: Sequence[Rollout], *, seed: int, purpose: str, step: int) -> list[Critique]:
        """Sample one critique for each rollout."""
        contexts = [self.render.critic(rollout.problem, rollout.text) for rollout in rollouts]
        problems = [rollout.problem for rollout in rollouts]
        with torch.no_grad(), self.weights.lent() if self.weights is not None else contextlib.nullcontext():
            said = sample(
                self.sampler, self.render, self.render.tokenizer, problems, 1, self.sampling,
                seed=seed, purpose=f"critique {purpose}", step=step, contexts=contexts,
            )  # fmt: skip
        found = []
        for context, one in zip(contexts, said, strict=True):
            text = as_data(one.text, self.render)
            reason = "" if text else "the critic said nothing"
            found.append(Critique(text or None, reason, View(context, one.response_ids), one.logps))
        return found


def as_data(text: str, render: Renderer) -> str:
    """A critic's words as they may stand in a prompt: thoughts and control tokens cut, at most LONGEST characters."""
    # Cut before it is cleaned: text made of control tokens within control tokens takes a pass for each of them.
    text = render.clean(without_thoughts(text)[: 8 * LONGEST])
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def gives_away(text: str, problem: Problem) -> bool:
    """Whether a critique states the final answer.

    An answer of one letter counts where it is named as an option or an answer ("(B)", "option B", "B is correct"), or
    where the words of that choice stand in the critique; any other answer where it stands in it as words of its own.
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
class Criticism:
    """The feedback source "critique": a critic for failures, a sibling for successes.

    Attributes:
        critic: who speaks.
        drop_leaks: whether a critique that gives the answer away is dropped; else it is only counted.
        said: what was said in the last call, by (group, index).
    """

    critic: Critic
    drop_leaks: bool = False
    said: dict[tuple[int, int], Critique] = field(default_factory=dict)

    def ask(self, rollouts: Sequence[Rollout], *, seed: int, purpose: str, step: int) -> None:
        """Have the failures among the rollouts criticised, for `source` to hand out."""
        failed = [rollout for rollout in rollouts if not rollout.success]
        found = self.critic(failed, seed=seed, purpose=purpose, step=step) if failed else []
        self.said = {(r.group, r.index): critique for r, critique in zip(failed, found, strict=True)}

    def source(self, rollout: Rollout, group: Sequence[Rollout]) -> Feedback:
        """A failure's critique; a success is shown a sibling, or dropped."""
        if rollout.success:
            return sibling(rollout, group)
        critique = self.said.get((rollout.group, rollout.index))
        if critique is None or critique.text is None:
            return Feedback(reason=critique.reason if critique else "the critic was not asked")
        leaked = gives_away(critique.text, rollout.problem)
        if leaked and self.drop_leaks:
            return Feedback(reason="the critique gave the answer away", leaked=True)
        return Feedback(critique=critique.text, source="critique", leaked=leaked)

    def learn(self, learner: Learner, rollouts: Sequence[Rollout], drop: Tensor) -> float | None:
        """Reinforce the critiques that lowered the teacher's belief in failures (an experiment: a co-evolving judge).

        A critique's reward is how much it made the failed response less likely, a token; against the batch's mean, in
        units of its deviation, that weighs the critique's own tokens in a clipped policy gradient. One update.

        Args:
            rollouts: B failures of the batch that had a critique of the policy's own.
            drop: [B] log pi(y|x) - log q(y|x,C), divided by the length of y.

        Returns:
            The loss; None where nothing could be learned.
        """
        found = [self.said.get((r.group, r.index)) for r in rollouts]
        kept = [(c, row) for row, c in enumerate(found) if c is not None and c.view is not None]
        if len(kept) < 2:
            return None
        policy, c = learner.policy, learner.config
        rewards = drop[[row for _, row in kept]]
        advantage = group_advantage(rewards, torch.zeros(len(kept), dtype=torch.long, device=rewards.device), "std")
        critic_views = [critique.view for critique, _ in kept if critique.view is not None]
        count = sum(len(view.response_ids) for view in critic_views)
        policy.fresh()
        total = 0.0
        for (view,) in policy.minibatches(critic_views):
            lengths, logp = view.mask.sum(1), policy.token_logp(view)
            old = torch.tensor([x for row in view.rows.tolist() for x in kept[row][0].logps], device=logp.device)
            weight = advantage[view.rows.to(advantage.device)].repeat_interleave(lengths)
            terms = losses.clipped_surrogate(logp, old.to(logp.dtype), weight.to(logp.dtype), c.clip_low, c.clip_high)
            loss = c.critic_weight * terms.sum() / count
            policy.backward(loss)
            total += loss.item()
        policy.step()
        return processes.added(total)[0]
