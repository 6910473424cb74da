"""The parts of a run: what one iteration acts on, opened from a config or handed in."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self, cast

import numpy as np
import torch

from vpdlab import processes
from vpdlab.config import FREE, LIVE, RunConfig, read_values
from vpdlab.credit import group_mean
from vpdlab.errors import HANDED_IN, UserError, notice
from vpdlab.feedback.critics import CriticSource, open_critic
from vpdlab.feedback.noise import shares, with_noise
from vpdlab.feedback.sources import CRITIQUE, Context, find_sources, give_feedback
from vpdlab.learn.answers import answered
from vpdlab.learn.checks import check, report_unused
from vpdlab.learn.identity import environment_identity, method_identity, policy_identity, sampler_identity
from vpdlab.learn.m_step import Method
from vpdlab.learn.methods import get_method
from vpdlab.learn.state import Batch, Learner
from vpdlab.model.budget import fit
from vpdlab.model.determinism import settle
from vpdlab.model.devices import forget_peak, pick_device
from vpdlab.model.policy import READS, TEACHER, Policy
from vpdlab.model.teacher import KINDS, Copy, teacher_kind
from vpdlab.prompts import Checked, Renderer, Templates, views
from vpdlab.sampling import Sampler, Sampling, engines, sample
from vpdlab.sampling.episodes import Limits, Player
from vpdlab.tasks import Task, make_task, verify_all
from vpdlab.tasks.environments import Environment, Opened, make_environment
from vpdlab.types import Feedback, Outcome, Problem, Rollout


@dataclass
class Parts:
    """Everything that one iteration acts on. Open them with `Parts.open`.

    Attributes:
        config, task, method, learner (policy, teacher and carried state), render, sampler: the parts.
        critic: the feedback source "critique", where the config names it.
        environment: what answers the policy's turns; None where a response is a single turn.
        handed_in: identities of the parts that came from Python rather than from the config, by name.
        checked: what rendering all student prompts showed when the parts were opened.
    """

    config: RunConfig
    task: Task
    method: Method
    learner: Learner
    render: Renderer
    sampler: Sampler
    critic: CriticSource | None = None
    environment: Environment | None = None
    handed_in: dict[str, dict[str, Any]] = field(default_factory=dict)
    checked: Checked | None = None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        task: Task | None = None,
        method: Method | None = None,
        sampler: Sampler | None = None,
        policy: Policy | None = None,
        environment: Environment | None = None,
    ) -> Self:
        """Load what the config names, but for the parts that are handed in.

        Args:
            task, method, sampler, policy, environment: a part of your own, in place of the one that the config names;
                its identity is recorded, and no command will resume or score the run with another.

        Raises:
            UserError: for anything in the config that does not fit what it names.
        """
        config = renamed(config, task, method, sampler, policy, environment)
        settle(config.deterministic, config.device)  # before anything runs on a GPU
        pick_device(config.device)  # a bad name is reported before a model is loaded; several processes meet here
        handed_in = _identities(method, sampler, policy, environment)
        method = method or get_method(config.method)
        check(method, config, own_sampler=sampler is not None)
        report_unused(method, config)
        if config.threads:
            torch.set_num_threads(config.threads)
        source, environment = _problems(config, task, environment)
        policy = policy or Policy.load(config)
        forget_peak(policy.device)
        render = _renderer(config, policy, environment)
        sampler = sampler or engines.find(config.sampler).open_sampler(config, policy, render.max_context)
        learner = _learner(config, policy, method, sampler.exact)
        fit(policy, method.joint)
        critic = open_critic(config, policy, render, sampler) if CRITIQUE in config.feedback else None
        parts = cls(config, source, method, learner, render, sampler, critic, environment, handed_in)
        parts.check_problems()
        return parts

    def check_problems(self) -> None:
        """Render every prompt now, not after an hour, and report what is lost on its way to the model.

        Raises:
            UserError: for too few problems; for a prompt that is too long, in either view, or cannot be rendered.
        """
        config, train = self.config, self.task.load("train")
        if config.prompts > len(train):
            raise UserError(f"prompts is {config.prompts}, but the task has {len(train)} training problems")
        if config.eval_every >= 0 and not self.task.load("test"):
            raise UserError(f"task {config.task} has no held-out problems: set eval_every to -1")
        problems = [*train, *self.held_out]
        self.checked = checked = self.render.check(problems)
        for line in checked.lines if processes.main() else ():
            notice(line)
        order = sorted(range(len(problems)), key=lambda place: checked.lengths[place])
        for place in order[-8:]:  # the teacher's frame adds about the same to each
            self.render.teacher(problems[place], Feedback())
            if self.critic is not None:
                self.render.critic(problems[place], "")

    def fresh_learner(self) -> Learner:
        """A learner that starts from the policy's present weights, with nothing carried over."""
        return _learner(self.config, self.policy, self.method, self.sampler.exact)

    def take(self, config: RunConfig) -> None:
        """Go on with other values of the settings in `LIVE`; call it between two iterations."""
        if config.beta != self.config.beta:
            self.learner.beta = config.beta
        self.config = self.learner.config = config
        self.policy.config = self.policy.config.but(**{name: getattr(config, name) for name in LIVE})

    @property
    def policy(self) -> Policy:
        """The policy: student and, in most runs, teacher."""
        return self.learner.policy

    @property
    def held_out(self) -> list[Problem]:
        """The held-out problems of every evaluation: all of them, or `eval_problems` of them drawn by `eval_seed`, in
        the task's order. They are the same in every run on the same data."""
        found, count = self.task.load("test"), self.config.eval_problems
        if len(found) <= count:
            return list(found)
        chosen = np.random.default_rng([self.config.eval_seed, len(found)]).choice(len(found), count, replace=False)
        return [found[place] for place in sorted(chosen.tolist())]

    def problems(self, step: int) -> list[Problem]:
        """The problems of iteration `step` (from 1): epoch by epoch, each in its own shuffled order."""
        train, count = self.task.load("train"), self.config.prompts
        places = range((step - 1) * count, step * count)
        return [
            train[shuffled(self.config.seed, place // len(train), len(train))[place % len(train)]] for place in places
        ]

    def sample(
        self, problems: Sequence[Problem], n: int, sampling: Sampling, seed: int | None = None, **how: Any
    ) -> list[Rollout]:
        """n responses to each problem by the sampler (`sampling.sample`), not verified yet; with an environment n
        episodes, which have their outcomes (`sampling.episodes`). `seed`: default the run's."""
        seed = self.config.seed if seed is None else seed
        if self.environment is not None:
            limits = Limits(self.config.max_turns, self.config.turn_tokens)
            player = Player(self.sampler, self.render, self.environment, limits)
            return player.play(problems, n, sampling, seed=seed, **how)
        return sample(self.sampler, self.render, self.policy.tokenizer, problems, n, sampling, seed=seed, **how)

    def rollouts(self, step: int) -> list[Rollout]:
        """The sampled responses of an iteration, not verified yet."""
        config = self.config
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens)
        return self.sample(self.problems(step), config.group, sampling, step=step, version=self.policy.version)

    def verify(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with their outcomes; with several processes, each judges its share. Episodes keep theirs."""
        if self.environment is not None:
            return list(rollouts)

        def judge(part: Sequence[Rollout]) -> list[Outcome]:  # outcomes travel: a problem's data need not be picklable
            return [rollout.verified for rollout in verify_all(self.task, part)]

        outcomes = processes.spread(judge, rollouts)
        return [replace(rollout, outcome=outcome) for rollout, outcome in zip(rollouts, outcomes, strict=True)]

    def feedback(self, rollouts: Sequence[Rollout], step: int = 1, purpose: str = "train") -> list[Feedback]:
        """C of each verified rollout, from the config's sources; in training with the config's noise, if any."""
        config = self.config
        context = Context(rollouts, config.seed, purpose, step)
        given = give_feedback(rollouts, find_sources(config.feedback, self.critic), config.feedback_mode, context)
        seed = (config.seed, zlib.crc32(f"noise {purpose}".encode()), step)
        return with_noise(rollouts, given, shares(config), seed) if purpose == "train" else given

    def pack(self, rollouts: Sequence[Rollout], feedback: Sequence[Feedback], step: int = 1) -> Batch:
        """The rollouts that the method learns from, in the views that it needs."""
        rewards = torch.tensor([rollout.verified.reward for rollout in rollouts])
        mean = group_mean(rewards, torch.tensor([rollout.group for rollout in rollouts], dtype=torch.long))
        if self.method.views == "both":
            kept = [row for row, one in enumerate(feedback) if one.signal]
            rollouts, feedback, mean = [rollouts[row] for row in kept], [feedback[row] for row in kept], mean[kept]
        student, teacher = views(rollouts, feedback, self.render)
        device = self.policy.device
        return Batch(
            rollouts, feedback, student, teacher if self.method.views != "student" else [],
            success=torch.tensor([rollout.success for rollout in rollouts], dtype=torch.bool, device=device),
            signal=torch.tensor([one.signal for one in feedback], dtype=torch.bool, device=device), step=step,
            student_reward=mean.to(device),
        )  # fmt: skip

    def batch(self, step: int = 1) -> Batch:
        """The batch that the M-step of an iteration learns from: sampled, verified, with feedback, in both views.
        Nothing is trained."""
        rollouts = self.verify(self.rollouts(step))
        batch = self.pack(rollouts, self.feedback(rollouts, step), step)
        return answered(self, batch) if self.method.samples == TEACHER else batch


def renamed(
    config: RunConfig, task: Task | None, method: Method | None, sampler: Sampler | None, policy: Policy | None,
    environment: Environment | None = None,
) -> RunConfig:  # fmt: skip
    """The config as it is recorded: handed-in parts have names that no command can make again.

    Raises:
        UserError: for a policy that was made with other settings.
    """
    names: dict[str, str] = {}
    if task is not None:
        names["task"] = HANDED_IN + str(task.name)
    if method is not None:
        names["method"] = HANDED_IN + method.name
    if sampler is not None:
        names["sampler"] = HANDED_IN + type(sampler).__name__
    if environment is not None:
        names["environment"] = HANDED_IN + environment.name
    if policy is not None:
        names["model"] = HANDED_IN + type(policy.model).__name__
        _refuse_other_settings(policy.config.to_dict(), config.to_dict())
    # The folder keeps the name that the caller's config gives it.
    return config.but(**names, out=str(config.folder)) if names else config


def _refuse_other_settings(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name in READS:
        if name not in FREE | {"model", "sampler"} and theirs[name] != ours[name]:
            raise UserError(
                f"the policy was made with {name} {theirs[name]!r}, and the run has {ours[name]!r}: give both the same"
                " settings"
            )


def _identities(
    method: Method | None, sampler: Sampler | None, policy: Policy | None, environment: Environment | None
) -> dict[str, dict[str, Any]]:
    """Of the parts that were handed in, by name; a task's is recorded in any case (`identity.describe_task`)."""
    found = {
        "method": method_identity(method) if method is not None else None,
        "sampler": sampler_identity(sampler) if sampler is not None else None,
        "policy": policy_identity(policy) if policy is not None else None,
        "environment": environment_identity(environment) if environment is not None else None,
    }
    return {name: identity for name, identity in found.items() if identity is not None}


def _problems(config: RunConfig, task: Task | None, environment: Environment | None) -> tuple[Task, Environment | None]:
    """The task and the environment, handed in or as the config names them; an environment opens the task's problems."""
    task = task or make_task(config.task, **config.task_options())
    if environment is None and config.environment:
        environment = make_environment(config.environment, task, **config.environment_options())
    return (cast(Task, Opened(task, environment)) if environment is not None else task), environment


def _renderer(config: RunConfig, policy: Policy, environment: Environment | None) -> Renderer:
    tools = tuple(getattr(environment, "tools", ()))
    templates = Templates.read(config.templates) if config.templates else Templates()
    context = config.max_context or policy.longest - config.max_new_tokens
    render = Renderer(policy.tokenizer, templates, context, read_values(config.chat_args), tools)
    if environment is not None and hasattr(environment, "native_tools"):
        setattr(environment, "native_tools", render.chat.describes_tools)  # noqa: B010 (only some have it)
    return render


def _learner(config: RunConfig, policy: Policy, method: Method, exact: bool) -> Learner:
    kind = KINDS["shared"] if method.views == "student" else teacher_kind(config.teacher)
    anchor = Copy(policy) if config.anchor == "fixed" and method.e_step else None
    reference = Copy(policy) if config.kl_coef and "kl_coef" in (method.settings or ()) else None
    return Learner(config, policy, kind(policy), anchor, reference, exact)


@lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` problems in one epoch: a function of the seed, so that any step can be asked for."""
    return np.random.default_rng([seed, epoch]).permutation(count)
