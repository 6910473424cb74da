"""RunConfig: every choice of a run, in one frozen record.

The same fields are the options of `vpdlab train`, the parameters of `notebooks/train.ipynb`, the keys of a
preset and the content of a run's `config.json`: there is no second place where a setting lives. Where the
paper leaves a choice open, the text under the field says so.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import reprlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vpdlab.errors import FAULTS, UserError, in_one_line, is_text
from vpdlab.paths import user_path

PRESETS = Path(__file__).parent / "presets"
SOURCES = ("verifier", "sibling", "reference", "critique")
TRACKERS = ("tensorboard", "trackio", "wandb")


@dataclass(frozen=True)
class RunConfig:
    """All settings of one run."""

    # -- what is learned ---------------------------------------------------------------------------------
    task: str = "arithmetic"
    """Where problems come from: arithmetic, code, math, own, reasoning or science (docs/tasks.md)."""
    data: str = ""
    """What the task reads: a file, a folder with train/test files, or the name of a `datasets` data set."""
    task_args: tuple[str, ...] = ()
    """Options of the task itself as NAME=VALUE, for instance digits=3 or family=chain_sum."""
    model: str = "apprentice"
    """The bundled `apprentice`, a model of `vpdlab models`, a hub name, or a folder."""
    method: str = "vpd"
    """How the student learns: vpd, sdpo, grpo, rft, distil, joint, reshape, reweight, sdar, opsd (docs/methods.md)."""
    steps: int = 100
    """Iterations of the run."""
    seed: int = 0
    """Decides the order of problems and every sampled token."""
    out: str = ""
    """The run's folder; empty: runs/METHOD-TASK-MODEL-sSEED."""
    checkpoint_every: int = 0
    """Save all that the run goes on from each so many iterations, and at the start and the end; 0: only where an
    interrupt stops the run."""
    checkpoint_keep: int = 2
    """So many checkpoints are kept, the newest ones; at least two."""
    resume: bool = False
    """Go on from the newest whole checkpoint in the run's folder; begin where the folder holds no run yet."""
    resume_anyway: bool = False
    """Resume, although settings that make the run what it is differ from those that it began with."""
    tracker: str = ""
    """Also send the numbers to tensorboard (in the run's folder), trackio or wandb; empty: to none."""
    templates: str = ""
    """A YAML file that replaces some of the prompt templates (keys: those of vpdlab.prompts.Templates)."""

    # -- rollouts ----------------------------------------------------------------------------------------
    prompts: int = 16
    """Problems an iteration."""
    group: int = 8
    """N: rollouts per problem."""
    temperature: float = 1.0
    """Sampling temperature; the tempered distribution is the policy, in sampling and in scoring alike."""
    max_new_tokens: int = 256
    """A response is cut here."""
    max_context: int = 0
    """Longest context in tokens, of either view; 0: as long as the model takes. A longer teacher prompt loses part of
    its feedback and is counted; a longer student prompt is an error."""
    chat_args: tuple[str, ...] = ()
    """Variables of the model's chat template as NAME=VALUE, for instance enable_thinking=false."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """What draws the tokens: transformers (the model itself), or vllm, an engine with a copy of its weights
    (docs/engines.md)."""
    sampler_rows: int = 128
    """Rollouts decoded at the same time."""
    vllm_url: str = ""
    """A running vLLM server; empty: vLLM in the process of the run."""
    vllm_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What vLLM computes in, and what weights are sent in (a server: as it was started); auto: float32 where
    `precision` is."""
    vllm_memory: float = 0.4
    """Share of the GPU's memory that vLLM in the process may take while it samples; on the CPU of the free memory, at
    most 2 GiB."""
    vllm_lora: Literal["auto", "merge", "adapter"] = "auto"
    """How a LoRA student reaches vLLM in the process: merged into its weights, or as an adapter; auto: as an adapter on
    a GPU."""
    vllm_folder: str = ""
    """Where new weights lie until vLLM has read them; empty: in shared memory. A server on another machine needs a
    folder that both see."""

    # -- feedback ----------------------------------------------------------------------------------------
    feedback: tuple[str, ...] = ("verifier",)
    """Sources of C, in order of preference: verifier (the environment's words), sibling (a success of the same group),
    critique (a critic's words on a failure, a sibling for a success), reference (the task's own solution)."""
    feedback_mode: Literal["all", "first"] = "all"
    """all: every source that has something to say; first: only the first one that has."""

    critic: Literal["live", "frozen", "endpoint"] = "live"
    """Who writes critiques: the policy as it is, as it was at the start, or a model behind `critic_url`."""
    critic_max_tokens: int = 96
    """A critique is cut here."""
    critic_temperature: float = 0.7
    """Sampling temperature of a critique."""
    critic_drop_leaks: bool = False
    """Drop critiques that state the final answer; they are counted in any case."""
    critic_learns: bool = False
    """Experiment: after each iteration, reinforce the critiques that lowered the teacher's belief in failures."""
    critic_weight: float = 1.0
    """Weight of that policy gradient."""
    critic_url: str = ""
    """An OpenAI-compatible server, up to and including /v1; the key is taken from VPDLAB_CRITIC_KEY."""
    critic_model: str = ""
    """The critic's name on that server."""
    critic_seconds: float = 60.0
    """Wall clock for one critique from the server, all tries together."""
    critic_calls: int = 10000
    """Calls to the server that a run may make, retries included."""
    critic_tokens: int = 10_000_000
    """Tokens, of prompts and replies, that a run may spend on the server."""
    critic_jobs: int = 8
    """Critiques asked for at the same time."""
    critic_cache: str = ""
    """Folder of the server's replies, so that a rerun costs nothing; empty: vpdlab/critiques in the user's cache."""
    noise_drop: float = 0.0
    """Share of rollouts with feedback whose feedback is dropped (noise, for studies)."""
    noise_shuffle: float = 0.0
    """Share that gets the feedback of another problem."""
    noise_truncate: float = 0.0
    """Share whose feedback loses the second half of its words."""
    noise_contradict: float = 0.0
    """Share whose critique says the opposite."""

    # -- E-step: train the teacher on outcomes inside the trust region ------------------------------------
    e_every: int = 5
    """F: an E-step each F iterations; 0 turns it off."""
    e_objective: Literal["bco", "kto", "awr", "pg"] = "bco"
    """What the E-step minimises: bco (the paper's), kto, awr (likelihood weighted by exp(r/beta)), or pg (policy
    gradient of reward minus beta KL, importance-weighted)."""
    beta: float = 0.1
    """Temperature of the implicit reward and coefficient of the KL to the student, in 1/nats."""
    kl_target: float = 0.0
    """Where above 0: beta follows the measured KL(teacher||student), in nats a token: doubled above 1.5 times this
    target, halved below target / 1.5, after each E-step."""
    beta_min: float = 0.001
    """Lowest beta, for `kl_target`."""
    beta_max: float = 10.0
    """Highest beta, for `kl_target`."""
    anchor: Literal["dynamic", "fixed"] = "dynamic"
    """The prior of the E-step: the student as it is, or the initial one (the paper's ablation)."""
    e_minibatch: int = 32
    """What share of the batch makes one update of the E-step, in `e_unit`s; 0: the whole batch. The paper says 32,
    not of what."""
    e_unit: Literal["prompts", "rollouts"] = "prompts"
    """The unit of `e_minibatch` (open in the paper)."""
    e_epochs: int = 1
    """Passes over the batch in one E-step."""
    e_lr: float = 0.0
    """Learning rate of an optimiser of the E-step's own; 0: the M-step's optimiser and rate (open in the paper)."""
    shift: Literal["step", "ema"] = "step"
    """The shift delta: computed anew at each E-step, or as a moving average over E-steps (open in the paper)."""
    shift_decay: float = 0.9
    """Decay of the moving average, for `shift=ema`."""
    e_ratio_clip: float = 2.0
    """Largest importance ratio of a whole response, for `e_objective=pg`."""

    # -- M-step: distil the teacher into the student -------------------------------------------------------
    alpha: float = 0.5
    """Divergence: 0 forward KL(teacher||student), 1 reverse KL(student||teacher), between: Jensen-Shannon mixture."""
    support: Literal["full", "topk", "sampled"] = "topk"
    """Tokens the divergence is taken on: all, the student's `top_k`, or the sampled one (score-function form)."""
    top_k: int = 100
    """Size of the `topk` support; at or above the vocabulary's size it equals `full`."""
    tail: Literal["bucket", "renormalise"] = "bucket"
    """The mass outside the `topk` support: one more outcome, or divided out."""

    aggregate: Literal["token", "sequence"] = "token"
    """A mean over all tokens of the batch, or over responses of the mean over each one's tokens."""
    is_clip: float = 0.0
    """Where above 0: distilled tokens are weighted by min(student / sampling policy, this). The paper leaves it off."""

    # -- outcomes in the M-step: grpo and the hybrids ------------------------------------------------------
    advantage: Literal["none", "std"] = "none"
    """Scale of the group advantage: as it is, or divided by the group's standard deviation."""
    clip_low: float = 0.2
    """The ratio to the sampling policy is clipped at 1 - this."""
    clip_high: float = 0.28
    """The ratio to the sampling policy is clipped at 1 + this."""
    rl_weight: float = 1.0
    """Weight of the outcomes, for joint and reshape."""
    opd_weight: float = 1.0
    """Weight of the teacher, for joint and reshape."""
    reweight_alpha: float = 1.0
    """Share of the teacher in the factor, at the start, for reweight."""
    reweight_steps: int = 0
    """Iterations in which that share falls to 0; 0: the whole run."""
    reweight_clip: float = 0.2
    """The teacher's factor is clipped to 1 plus or minus this, for reweight."""
    sdar_weight: float = 0.01
    """Weight of the gated distillation, for sdar."""
    sdar_gate: Literal["difference", "entropy", "either"] = "difference"
    """Score of the gate: log-ratio of teacher and student, entropy of the student as a share of log V, or either of
    the two: 1 - (1 - entropy) (1 - difference)."""
    sdar_sharpness: float = 5.0
    """Factor of the score within the gate's sigmoid, for sdar."""

    # -- distil and opsd -----------------------------------------------------------------------------------
    distil_local: bool = True
    """The cross-entropy's own gradient at each token."""
    distil_future: bool = True
    """The credit of each token for the cross-entropies after it."""
    distil_discount: float = 1.0
    """Discount of a cross-entropy for each token that it lies ahead."""
    distil_baseline: bool = False
    """Subtract from the credit what the siblings of the group have still to come at the same place; one more pass."""
    opsd_clip: float = 1.0
    """Largest term of a vocabulary entry in the forward KL, in nats, for opsd."""

    # -- teacher of the M-step (the paper's tables and text differ) ----------------------------------------
    teacher: Literal["shared", "ema", "snapshot", "frozen", "trust-region", "adapter"] = "shared"
    """shared: the live weights; ema: their moving average; snapshot: taken at each E-step; frozen: the initial ones;
    trust-region: geometric mixture of frozen and live; adapter: a LoRA adapter that only the E-step trains."""
    teacher_rate: float = 0.05
    """Rate of the moving average per iteration, for `teacher=ema`."""
    trust_mix: float = 0.5
    """Share of the live log-probabilities, for `teacher=trust-region`."""
    adapter_rank: int = 8
    """Rank of the teacher's LoRA adapter, for `teacher=adapter`."""

    # -- optimiser -----------------------------------------------------------------------------------------
    lr: float = 1e-4
    """Learning rate of AdamW."""
    warmup: int = 0
    """Iterations over which the learning rate rises linearly."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    grad_clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    lora_rank: int = 0
    """Train a LoRA adapter of this rank instead of all weights; 0: all weights."""
    max_skipped: int = 5
    """So many iterations in a row with a loss or gradient that is not finite end the run."""

    # -- engine --------------------------------------------------------------------------------------------
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["float32", "bfloat16-mixed", "bfloat16"] = "float32"
    """bfloat16-mixed keeps float32 weights (advised: at small learning rates bfloat16 weights round updates away)."""
    threads: int = 0
    """Threads of torch on the CPU; 0: leave as it is."""
    minibatch_tokens: int = 16384
    """Padded tokens in one forward pass of the update; changes speed and memory, not the result."""
    logit_mib: int = 256
    """Logits that take no more than this are kept for the backward pass; more are walked in chunks of a quarter of it
    and computed twice. Changes speed and memory, not the result."""
    shard: bool = False
    """Of several processes (docs/processes.md): shard the decoder's layers, gradients and moments over them (FSDP2);
    else each has all of them (DDP)."""

    # -- evaluation ----------------------------------------------------------------------------------------
    eval_every: int = 0
    """Evaluate on held-out problems each so many iterations; 0: before and after only; -1: never."""
    eval_problems: int = 128
    """Held-out problems of an evaluation."""
    eval_seed: int = 0
    """Draws them where the task holds more; the same problems in every run, whatever its `seed`."""
    eval_samples: int = 4
    """k: responses per held-out problem (avg@k, pass@k, maj@k)."""
    eval_temperature: float = 0.6
    """Sampling temperature of the evaluation (the paper's)."""
    eval_top_p: float = 0.95
    """Nucleus of the evaluation (the paper's)."""
    eval_teacher: bool = True
    """Also sample the teacher on held-out problems that the student failed: its own accuracy, beside its margin."""

    # -- record --------------------------------------------------------------------------------------------
    record_tokens: int = 8
    """Rollouts an iteration whose per-token numbers are recorded (both top lists, KL, entropies)."""
    record_top: int = 10
    """Length of the recorded top lists."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), HINTS[field.name]))
        for name, low, high in RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name} is {value}, but must be between {low:g} and {high:g}")
        for name, value in vars(self).items():
            for text in [value] if isinstance(value, str) else value if isinstance(value, tuple) else []:
                if "\0" in text:
                    raise UserError(f"{name} is {text!r}, which holds a NUL character")
                if not is_text(text):
                    shown = text.encode("utf-8", "backslashreplace").decode()
                    raise UserError(f"{name} is {shown!r}, which is not UTF-8: rename the file, or write it again")
        for source in self.feedback:
            if source not in SOURCES:
                raise UserError(f"feedback names {source!r}: choose from {', '.join(SOURCES)}")
        if self.tracker and self.tracker not in TRACKERS:
            raise UserError(f"tracker is {self.tracker!r}: choose one of {', '.join(TRACKERS)}, or leave it empty")
        if not self.feedback:
            raise UserError(f"feedback is empty: choose from {', '.join(SOURCES)}")
        for name in ("task_args", "chat_args"):
            for arg in getattr(self, name):
                if not re.fullmatch(r"[A-Za-z_]\w*=.*", arg):
                    raise UserError(f"{name} has {arg!r}: write NAME=VALUE, for instance digits=3")
        if (noise := self.noise_drop + self.noise_shuffle + self.noise_truncate + self.noise_contradict) > 1 + 1e-9:
            raise UserError(f"the shares of noise add up to {noise:g}, but must not exceed 1")
        if self.critic_learns and self.critic != "live":
            raise UserError(f"critic_learns needs critic live: critic {self.critic} does not change")
        if self.shard and (self.lora_rank or self.teacher == "adapter"):
            raise UserError("shard is for training all weights: an adapter is small, so leave shard out")
        if self.precision == "bfloat16" and self.teacher == "ema":
            raise UserError(
                "teacher ema needs float32 weights (a small rate rounds to nothing in bfloat16): set precision to"
                " bfloat16-mixed"
            )

    @classmethod
    def make(cls, preset: str = "", **fields: Any) -> RunConfig:
        """A config from a preset (a name of `presets()` or a YAML file) with some fields replaced.

        Raises:
            UserError: for an unknown preset or field, or a value that does not fit its field.
        """
        return cls(**{**(read_preset(preset) if preset else {}), **known_fields(fields)})

    @classmethod
    def from_names(cls, names: Mapping[str, Any]) -> RunConfig:
        """The config that a notebook's variables say: `preset`, and each field that has a variable of its name that is
        not None. Call it right below the parameters, with `globals()`."""
        fields = {name: names[name] for name in HINTS if names.get(name) is not None}
        return cls.make(names.get("preset") or "", **fields)

    @property
    def folder(self) -> Path:
        """The run's folder. Raises UserError where its name could not be a run's name."""
        model = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model).name) or "model"
        folder = (
            user_path("out", self.out) if self.out else Path("runs") / f"{self.method}-{self.task}-{model}-s{self.seed}"
        )
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", folder.resolve().name):
            raise UserError(
                f"out is {str(folder)!r}: a run's name has 1 to 64 letters, digits, '.', '_' or '-', and no leading dot"
            )
        return folder

    @property
    def resumes(self) -> bool:
        """Whether the run goes on from a checkpoint."""
        return self.resume or self.resume_anyway

    def task_options(self) -> dict[str, Any]:
        """`task_args` (and `data`) as keyword arguments; values are text, which the task reads by its own types."""
        return ({"data": self.data} if self.data else {}) | read_options(self.task_args)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, field by field."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }


HINTS: dict[str, Any] = typing.get_type_hints(RunConfig)

# (field, lowest, highest): what can be checked without looking at anything else.
RANGES: list[tuple[str, float, float]] = [
    *((name, 1, 10**9) for name in ("steps", "prompts", "group", "max_new_tokens", "sampler_rows")),
    *((name, 1, 10**9) for name in ("top_k", "adapter_rank", "max_skipped", "minibatch_tokens", "logit_mib")),
    *((name, 1, 10**9) for name in ("eval_problems", "eval_samples", "e_epochs")),
    *((name, 0, 10**9) for name in ("max_context", "e_every", "e_minibatch", "warmup", "lora_rank", "threads")),
    ("record_tokens", 0, 10**9),
    *((name, 0, 1) for name in ("alpha", "teacher_rate", "trust_mix", "shift_decay", "reweight_alpha")),
    *((name, 0, 1) for name in ("clip_low", "reweight_clip", "distil_discount")),
    *((name, 0, 1e3) for name in ("clip_high", "is_clip", "kl_target", "rl_weight", "opd_weight", "sdar_weight")),
    *((name, 1e-9, 1e6) for name in ("beta_min", "beta_max", "e_ratio_clip", "opsd_clip", "sdar_sharpness")),
    ("reweight_steps", 0, 10**9),
    *((name, 0, 1) for name in ("noise_drop", "noise_shuffle", "noise_truncate", "noise_contradict")),
    *((name, 1, 10**9) for name in ("critic_max_tokens", "critic_calls", "critic_tokens", "critic_jobs")),
    *((name, 0, 1e3) for name in ("critic_temperature", "critic_weight")),
    ("critic_seconds", 0.1, 1e5),
    ("vllm_memory", 0.01, 1),
    *((name, 0, 1e3) for name in ("lr", "e_lr", "weight_decay", "grad_clip", "eval_temperature")),
    *((name, 0, 2**32 - 1) for name in ("seed", "eval_seed")),
    ("checkpoint_every", 0, 10**9),
    ("checkpoint_keep", 2, 10**9),
    ("temperature", 1e-3, 1e2),
    ("beta", 1e-9, 1e6),
    ("eval_top_p", 1e-6, 1),
    ("eval_every", -1, 10**9),
    ("record_top", 1, 1000),
]


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type, without guessing: 1 may stand for 1.0, nothing else is converted."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{name} is {_short(value)}: choose one of {', '.join(typing.get_args(hint))}")
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, Sequence) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise UserError(f"{name} is {_short(value)}, but must be a list of words")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    # YAML reads 1e-4 as a word: it wants a point in it.
    hint_yaml = " (in YAML write 1.0e-4, with a point)" if hint is float and isinstance(value, str) else ""
    raise UserError(f"{name} is {_short(value)}, but must be of type {hint.__name__}{hint_yaml}")


def _short(value: Any) -> str:
    """A value for a message: its repr, but of a few items and characters only, whatever it holds."""
    return reprlib.repr(value)


def read_options(args: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as keyword arguments. Values stay text: only what takes an option knows its type.

    >>> read_options(("digits=3", "name=007", "until=2025-02-01"))
    {'digits': '3', 'name': '007', 'until': '2025-02-01'}

    Raises:
        UserError: for a name that is given twice.
    """
    options: dict[str, str] = {}
    for arg in args:
        name, _, text = arg.partition("=")
        if name in options:
            raise UserError(f"{name} is given twice: {name}={options[name]} and {arg}")
        options[name] = text
    return options


def read_values(args: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE words for what declares no types (a chat template): JSON where a value is JSON, else text. Python's
    True, False and None, in any case, are JSON's.

    >>> read_values(("enable_thinking=False", "level=3", "effort=high"))
    {'enable_thinking': False, 'level': 3, 'effort': 'high'}
    """
    return {name: _value(text) for name, text in read_options(args).items()}


def _value(text: str) -> Any:
    known = {"true": True, "false": False, "null": None, "none": None}
    if text.strip().casefold() in known:
        return known[text.strip().casefold()]
    try:
        return json.loads(text, parse_constant=lambda name: name)  # NaN is a word
    except (ValueError, RecursionError):
        return text


def known_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields. Raises UserError for a name that RunConfig does not have, with the nearest one."""
    for name in fields:
        if name not in HINTS:
            near = difflib.get_close_matches(str(name), HINTS, n=1)
            hint = f": did you mean {near[0]!r}?" if near else "; `vpdlab train --help` lists them"
            raise UserError(f"there is no setting {name!r}{hint}")
    return dict(fields)


def presets() -> list[str]:
    """Names of the bundled presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The fields that a preset sets: a bundled name, or the path of a YAML file.

    Raises:
        UserError: where there is no such preset, or the file is not a mapping of RunConfig's fields.
    """
    import yaml

    path = user_path("preset", name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(presets())}, or name a .yaml file")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except (yaml.YAMLError, *FAULTS) as error:
        raise UserError(f"{path}: not a YAML file: {in_one_line(error)}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected lines of FIELD: VALUE")
    try:
        return known_fields(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
