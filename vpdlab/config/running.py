"""Settings of execution: rollouts and their engine, devices, evaluation, what is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vpdlab.config.setting import setting


@dataclass(frozen=True)
class RolloutSettings:
    """Rollouts: how responses are sampled."""

    prompts: int = setting(16, 1)
    """Problems per iteration."""
    group: int = setting(8, 1)
    """N: rollouts per problem."""
    temperature: float = setting(1.0, 1e-3, 1e2)
    """Sampling temperature; the tempered distribution is the policy, in sampling and in scoring alike."""
    max_new_tokens: int = setting(256, 1)
    """Maximum length of a response, in tokens."""
    max_context: int = setting(0, 0)
    """Maximum context length in tokens, of either view; 0: as long as the model allows. A longer teacher prompt loses
    part of its feedback and is counted; a longer student prompt is an error."""
    chat_args: tuple[str, ...] = setting(())
    """Variables of the model's chat template as NAME=VALUE, for instance enable_thinking=false."""
    sampler: str = setting("transformers")
    """Sampling backend: transformers (the model itself) or vllm, which holds a copy of its weights
    (docs/engines.md)."""
    sampler_rows: int = setting(128, 1, changes_results=False)
    """Number of rollouts decoded at the same time."""
    capture: Literal["auto", "on", "off"] = setting("auto", changes_results=False)
    """Decode in fixed buffers, with steps that a GPU replays as one graph (sampler transformers); auto: on a GPU. On a
    CPU "on" runs the same steps without graphs."""
    vllm_url: str = setting("", changes_results=False)
    """A running vLLM server; empty: vLLM inside the run's process."""
    vllm_dtype: Literal["auto", "float32", "bfloat16"] = setting("auto")
    """Number format of vLLM and of the weights sent to it (a server keeps its own); auto: float32 if `precision` is
    float32, else bfloat16."""
    vllm_memory: float = setting(0.4, 0.01, 1, changes_results=False)
    """Share of GPU memory that in-process vLLM may use while sampling; on the CPU, of free memory and at most 2 GiB."""
    vllm_lora: Literal["auto", "merge", "adapter"] = setting("auto", changes_results=False)
    """How a LoRA student reaches in-process vLLM: merged weights, or an adapter; auto: an adapter on a GPU."""
    vllm_folder: str = setting("", changes_results=False)
    """Folder for new weights until vLLM has read them; empty: shared memory. A server on another machine needs a folder
    visible to both."""


@dataclass(frozen=True)
class EpisodeSettings:
    """Episodes: several turns with an environment (docs/episodes.md)."""

    environment: str = setting("")
    """What answers the policy's turns: one_turn, retry, python, lookup or verifiers; empty: nothing, a response is a
    single turn. With an environment `max_new_tokens` bounds the whole episode, its replies included."""
    environment_args: tuple[str, ...] = setting(())
    """Options of the environment as NAME=VALUE, for instance seconds=2."""
    max_turns: int = setting(4, 1, 1000)
    """Most turns of the policy in an episode."""
    turn_tokens: int = setting(0, 0)
    """Maximum length of one turn, in tokens; 0: as long as the episode may be."""


@dataclass(frozen=True)
class EngineSettings:
    """Devices, precision and memory."""

    device: str = setting("auto", changes_results=False)
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["float32", "bfloat16-mixed", "bfloat16"] = setting("float32")
    """bfloat16-mixed keeps float32 weights (recommended: bfloat16 weights round small updates away)."""
    deterministic: bool = setting(False)
    """On a GPU: the same run twice, and a resumed one, end in the same weights bit for bit (on a CPU they do anyway).
    Slower attention; CUBLAS_WORKSPACE_CONFIG=:4096:8 is set if CUDA has not started yet."""
    threads: int = setting(0, 0, 1024, changes_results=False)
    """Number of CPU threads for torch; 0: torch's default."""
    minibatch_tokens: int = setting(0, 0, changes_results=False)
    """Padded tokens per forward pass of the update; affects speed and memory, not results. 0: on an NVIDIA GPU as many
    as fit, measured once when a run opens and recorded in environment.json; elsewhere 16384."""
    checkpointing: Literal["auto", "on", "off"] = setting("auto", changes_results=False)
    """Gradient checkpointing: compute each layer's activations again in the backward pass (a third more arithmetic for
    a fraction of the memory; prompts shared by a group are then read with each rollout). auto: on an NVIDIA GPU where
    memory would not do without it, else off."""
    logit_mib: int = setting(256, 1, changes_results=False)
    """Logits up to this size, in MiB, are kept for the backward pass; larger ones are processed in chunks of a quarter
    of it (on a GPU, of all of it) and recomputed. Affects speed and memory, not results."""
    compile: Literal["auto", "on", "off"] = setting("auto", changes_results=False)
    """Compile chains of small operations (torch.compile); auto: on a GPU, and on a CPU for vocabularies of 32,768
    tokens and more. Affects speed and memory, and results by rounding alone."""
    shard: bool = setting(False, changes_results=False)
    """With several processes (docs/processes.md): shard the decoder's layers, gradients and moments (FSDP2) instead of
    replicating them (DDP)."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation on held-out problems."""

    eval_every: int = setting(0, -1, changes_results=False, budget=True)
    """Evaluate every N iterations; 0: before and after training only; -1: never."""
    eval_problems: int = setting(128, 1)
    """Number of held-out problems in an evaluation."""
    eval_seed: int = setting(0, 0, 2**32 - 1)
    """Seed that draws them where the task has more; the same problems in every run, whatever its `seed`."""
    eval_samples: int = setting(4, 1)
    """k: responses per held-out problem (avg@k, pass@k, maj@k)."""
    eval_temperature: float = setting(0.6, 0, 1e3)
    """Sampling temperature of the evaluation (the paper's)."""
    eval_top_p: float = setting(0.95, 1e-6, 1)
    """Nucleus (top-p) of the evaluation (the paper's)."""
    eval_teacher: bool = setting(True)
    """Also sample the teacher on held-out problems that the student failed (its own accuracy, beside its margin), and
    ask the task's probes."""


@dataclass(frozen=True)
class RecordSettings:
    """Record: what a run keeps for later inspection."""

    record_tokens: int = setting(8, 0, changes_results=False)
    """Rollouts per iteration whose per-token numbers are recorded (both top lists, KL, entropies)."""
    record_top: int = setting(10, 1, 1000, changes_results=False)
    """Length of the recorded top lists."""
    record_telemetry: bool = setting(True, changes_results=False)
    """Measure both KLs and both entropies over the whole vocabulary, in every M-step. Without them it is a little
    faster, and their columns are empty."""
    follow: int = setting(4, 0, 32, changes_results=False)
    """Responses that are followed through the run (followed/): drawn from the first policy on held-out problems by
    `eval_seed`, and scored token by token at the start, at every evaluation and checkpoint, and at the end. A critic is
    asked about four responses to each of their problems, once."""
    follow_file: str = setting("", changes_results=False)
    """JSON lines or parquet of further responses to follow, with the columns that `vpdlab score` reads."""
    follow_every: int = setting(0, 0, changes_results=False)
    """Also score the followed responses every N iterations; 0: not."""
