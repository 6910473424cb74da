"""Settings of learning: the problem, feedback, E-step, M-step, teacher, optimiser.

Where the paper leaves a choice open, the text under the field says so. Settings that belong to one method, objective,
teacher kind or critic are listed beside it (`Method.settings`, `OBJECTIVES`, `KINDS`), so that an unused one is
reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vpdlab.config.setting import setting


@dataclass(frozen=True)
class RunSettings:
    """The run: what is learned, from what, for how long, and where it is written."""

    task: str = setting("arithmetic")
    """Source of problems: arithmetic, code, lexicon, math, own, reasoning, science or verifiers (docs/tasks.md)."""
    data: str = setting("")
    """Input of the task: a file, a folder with train/test files, or the name of a `datasets` data set."""
    task_args: tuple[str, ...] = setting(())
    """Options of the task as NAME=VALUE, for instance digits=3 or family=chain_sum."""
    model: str = setting("apprentice")
    """A bundled model (`apprentice`, `reader`), one listed by `vpdlab models`, a hub name, or a folder."""
    method: str = setting("vpd")
    """How the student learns: vpd, sdpo, grpo, nsr, rft, distil, joint, reshape, reweight, sdar, opsd, rltf or
    pi-distill (docs/methods.md)."""
    method_args: tuple[str, ...] = setting(())
    """Options that a method of your own declares, as NAME=VALUE."""
    steps: int = setting(100, 1, changes_results=False, budget=True)
    """Number of iterations."""
    seed: int = setting(0, 0, 2**32 - 1)
    """Seed of the problem order and of every sampled token."""
    out: str = setting("", changes_results=False)
    """Run folder; empty: runs/METHOD-TASK-MODEL-sSEED, followed by a mark of the other settings that differ from their
    defaults."""
    checkpoint_every: int = setting(0, 0, changes_results=False)
    """Save a resumable checkpoint every N iterations, and at the start and the end; 0: only when interrupted."""
    checkpoint_keep: int = setting(2, 2, changes_results=False)
    """Number of checkpoints to keep, newest first; at least two."""
    resume: bool = setting(False, changes_results=False)
    """Resume from the newest intact checkpoint in the run folder; start a new run where the folder holds none."""
    resume_anyway: bool = setting(False, changes_results=False)
    """Resume even if result-affecting settings changed."""
    tracker: str = setting("", changes_results=False)
    """Also log metrics to tensorboard (inside the run folder), trackio or wandb; empty: none."""
    templates: str = setting("")
    """YAML file that replaces prompt templates (keys: fields of vpdlab.prompts.Templates)."""


@dataclass(frozen=True)
class FeedbackSettings:
    """Feedback: where critiques and demonstrations come from."""

    feedback: tuple[str, ...] = setting(("verifier",))
    """Sources of C, in order of preference: verifier (the environment's notes), sibling (a success of the same group),
    critique (a critic's text on a failure, a sibling for a success), reference (the task's own solution)."""
    feedback_mode: Literal["all", "first"] = setting("all")
    """all: join what every source provides; first: take the first source that provides anything."""
    critic: Literal["live", "frozen", "endpoint"] = setting("live")
    """Who writes critiques: the current policy, the initial policy, or a model behind `critic_url`."""
    critic_max_tokens: int = setting(96, 1)
    """Maximum length of a critique, in tokens."""
    critic_temperature: float = setting(0.7, 0, 1e3)
    """Sampling temperature of critiques."""
    critic_drop_leaks: bool = setting(False)
    """Drop critiques that state the final answer; they are counted in any case."""
    critic_learns: bool = setting(False)
    """Experiment: after each iteration, reinforce critiques that lowered the teacher's probability of failures."""
    critic_weight: float = setting(1.0, 0, 1e3)
    """Weight of the critic's policy gradient."""
    critic_url: str = setting("")
    """OpenAI-compatible server, up to and including /v1; its key is read from VPDLAB_CRITIC_KEY."""
    critic_model: str = setting("")
    """Name of the critic model on that server."""
    critic_seconds: float = setting(60.0, 0.1, 1e5, changes_results=False)
    """Time limit for one critique from the server, retries included, in seconds."""
    critic_calls: int = setting(10000, 1, changes_results=False)
    """Maximum number of server calls in a run, retries included."""
    critic_tokens: int = setting(10_000_000, 1, changes_results=False)
    """Maximum number of tokens a run may spend on the server, prompts and replies together."""
    critic_jobs: int = setting(8, 1, changes_results=False)
    """Number of concurrent requests to the server."""
    critic_cache: str = setting("", changes_results=False)
    """Folder that caches the server's replies, so that a rerun costs nothing; empty: vpdlab/critiques in the user
    cache."""
    noise_drop: float = setting(0.0, 0, 1, live=True)
    """Fraction of rollouts with feedback that lose it (noise, for studies)."""
    noise_shuffle: float = setting(0.0, 0, 1, live=True)
    """Fraction that receive another problem's feedback."""
    noise_truncate: float = setting(0.0, 0, 1, live=True)
    """Fraction whose feedback loses the second half of its words."""
    noise_contradict: float = setting(0.0, 0, 1, live=True)
    """Fraction whose critique is turned into its opposite."""


@dataclass(frozen=True)
class EStepSettings:
    """E-step: train the teacher on outcomes inside the trust region."""

    e_every: int = setting(5, 0, live=True)
    """F: run an E-step every F iterations; 0 disables it."""
    e_sample: Literal["student", "teacher"] = setting("student")
    """Responses that the E-step learns from: the rollouts, which the student sampled (the paper's), or as many that the
    teacher samples itself, one for each rollout with feedback, verified like them."""
    e_answers: int = setting(0, 0)
    """Number of responses per problem that the teacher samples for the E-step (`e_sample=teacher`), to the feedback on
    the first that many of the problem's rollouts that have some; 0: one for each rollout with feedback."""
    e_patience: int = setting(0, 0)
    """Above 0: no more E-steps once the teacher's held-out accuracy has not exceeded its best in this many evaluations
    in a row; needs `eval_every` and `eval_teacher`."""
    e_objective: Literal["bco", "kto", "awr", "pg"] = setting("bco")
    """Loss of the E-step: bco (the paper's), kto, awr (likelihood weighted by exp(r/beta)), or pg (policy gradient of
    reward minus beta KL, importance-weighted)."""
    beta: float = setting(0.1, 1e-9, 1e6, live=True)
    """Temperature of the implicit reward and coefficient of the KL to the student, in 1/nats."""
    kl_target: float = setting(0.0, 0, 1e3, live=True)
    """Above 0: adapt beta to the measured KL(teacher||student), in nats per token: doubled above 1.5 times this target,
    halved below target / 1.5, after each E-step."""
    beta_min: float = setting(0.001, 1e-9, 1e6)
    """Lower bound of beta, for `kl_target`."""
    beta_max: float = setting(10.0, 1e-9, 1e6)
    """Upper bound of beta, for `kl_target`."""
    anchor: Literal["dynamic", "fixed"] = setting("dynamic")
    """Prior of the E-step: the current student, or the initial one (the paper's ablation)."""
    e_minibatch: int = setting(32, 0)
    """Size of one E-step update, in `e_unit`s; 0: the whole batch. The paper says 32 without naming the unit."""
    e_unit: Literal["prompts", "rollouts"] = setting("prompts")
    """Unit of `e_minibatch` (open in the paper)."""
    e_epochs: int = setting(1, 1)
    """Passes over the batch in one E-step."""
    e_lr: float = setting(0.0, 0, 1e3, live=True)
    """Learning rate of a separate E-step optimiser; 0: share the M-step's optimiser and rate (open in the paper)."""
    shift: Literal["step", "ema"] = setting("step")
    """The shift delta: computed anew at each E-step, or a moving average over E-steps (open in the paper)."""
    shift_decay: float = setting(0.9, 0, 1)
    """Decay of the moving average, for `shift=ema`."""
    e_ratio_clip: float = setting(2.0, 1e-9, 1e6)
    """Upper clip of a response's importance ratio, for `e_objective=pg`."""


@dataclass(frozen=True)
class MStepSettings:
    """M-step: distil the teacher into the student."""

    alpha: float = setting(0.5, 0, 1, live=True)
    """Divergence: 0 forward KL(teacher||student), 1 reverse KL(student||teacher), between: Jensen-Shannon mixture."""
    support: Literal["full", "topk", "sampled"] = setting("topk")
    """Tokens that the divergence covers: all, the student's `top_k`, or the sampled one (score-function form)."""
    top_k: int = setting(100, 1)
    """Size of the `topk` support; at or above the vocabulary size it equals `full`."""
    tail: Literal["bucket", "renormalise"] = setting("bucket")
    """Mass outside the `topk` support: one extra outcome, or renormalised away."""
    aggregate: Literal["token", "sequence"] = setting("token")
    """Mean over all tokens of the batch, or over responses of each one's token mean."""
    is_clip: float = setting(0.0, 0, 1e3, live=True)
    """Above 0: weight distilled tokens by min(student / sampling policy, this). The paper leaves it off."""


@dataclass(frozen=True)
class OutcomeSettings:
    """Outcomes in the M-step: grpo, the hybrids and other methods of reinforcement learning."""

    advantage: Literal["none", "std"] = setting("none")
    """Scale of the group advantage: none, or the group's standard deviation."""
    clip_low: float = setting(0.2, 0, 1)
    """The ratio to the sampling policy is clipped below at 1 - this."""
    clip_high: float = setting(0.28, 0, 1e3)
    """The ratio to the sampling policy is clipped above at 1 + this."""
    kl_coef: float = setting(0.0, 0, 1e3)
    """Above 0: grpo adds this times KL(student||reference), estimated by k3 on the sampled tokens."""
    ref_rate: float = setting(0.05, 0, 1)
    """The reference of `kl_coef` is a moving average of the student: its rate per iteration; 0: the initial weights."""
    nsr_weight: float = setting(1.0, 0, 1e3)
    """The advantage of every token of a failure is minus this, for nsr."""
    pi_alpha: float = setting(0.5, 0, 1)
    """Share of the teacher's objective, for pi-distill; the student has the rest. Both KLs have the weight `beta`."""
    rl_weight: float = setting(1.0, 0, 1e3, live=True)
    """Weight of the outcomes, for joint and reshape."""
    opd_weight: float = setting(1.0, 0, 1e3, live=True)
    """Weight of the teacher, for joint and reshape."""
    reweight_alpha: float = setting(1.0, 0, 1)
    """Initial share of the teacher in the factor, for reweight."""
    reweight_steps: int = setting(0, 0)
    """Iterations over which that share decays to 0; 0: the whole run."""
    reweight_clip: float = setting(0.2, 0, 1)
    """The teacher's factor is clipped to 1 plus or minus this, for reweight."""
    sdar_weight: float = setting(0.01, 0, 1e3)
    """Weight of the gated distillation, for sdar."""
    sdar_gate: Literal["difference", "entropy", "either"] = setting("difference")
    """Score of the gate: log-ratio of teacher and student, student entropy as a share of log V, or either of the two:
    1 - (1 - entropy) (1 - difference)."""
    sdar_sharpness: float = setting(5.0, 1e-9, 1e6)
    """Factor of the score inside the gate's sigmoid, for sdar."""


@dataclass(frozen=True)
class DistilSettings:
    """The methods distil and opsd."""

    distil_local: bool = setting(True)
    """Include the cross-entropy's own gradient at each token."""
    distil_future: bool = setting(True)
    """Credit each token for the cross-entropies after it."""
    distil_discount: float = setting(1.0, 0, 1)
    """Discount of a future cross-entropy per token of distance."""
    distil_baseline: bool = setting(False)
    """Subtract the siblings' mean cost-to-go at the same position from the credit; costs one more pass."""
    opsd_clip: float = setting(1.0, 1e-9, 1e6)
    """Upper clip of each vocabulary entry's term in the forward KL, in nats, for opsd."""


@dataclass(frozen=True)
class TeacherSettings:
    """Teacher of the M-step (the paper's tables and text differ)."""

    teacher: str = setting("shared")
    """shared: the live weights; ema: their moving average; snapshot: taken at each E-step; frozen: the initial ones;
    trust-region: geometric mixture of frozen and live; adapter: a LoRA adapter that only the E-step trains."""
    teacher_rate: float = setting(0.05, 0, 1, live=True)
    """Rate of the moving average per iteration, for `teacher=ema`."""
    trust_mix: float = setting(0.5, 0, 1)
    """Share of the live log-probabilities, for `teacher=trust-region`."""
    adapter_rank: int = setting(8, 1)
    """Rank of the teacher's LoRA adapter, for `teacher=adapter`."""


@dataclass(frozen=True)
class OptimiserSettings:
    """Optimiser of the student."""

    lr: float = setting(1e-4, 0, 1e3, live=True)
    """Learning rate of AdamW."""
    warmup: int = setting(0, 0)
    """Iterations of linear learning-rate warm-up."""
    weight_decay: float = setting(0.01, 0, 1e3)
    """Weight decay of AdamW."""
    grad_clip: float = setting(1.0, 0, 1e3, live=True)
    """Maximum gradient norm; 0: no clipping."""
    lora_rank: int = setting(0, 0)
    """Train a LoRA adapter of this rank; 0: train all weights."""
    max_skipped: int = setting(5, 1, changes_results=False)
    """Stop the run after this many consecutive iterations with a non-finite loss or gradient."""
