"""Sampling with vLLM: an engine with its own copy of the policy's weights, kept in sync and checked.

Before each sampling phase the policy's weights are compared with those that the engine has, whatever may have changed
them: an update, a checkpoint, swapped-in evaluation weights, another adapter. No caller has to announce a change, and a
teacher or a frozen critic can be sampled like the student. After each phase the policy scores some of the sampled
tokens, and the run fails if the two disagree by more than rounding.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf, log, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vpdlab import processes, zoo
from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.model.adapters import adapter_in_use, adapter_layers, plain_weights, save_adapter
from vpdlab.model.batch import collate
from vpdlab.model.comparison import token_logp
from vpdlab.model.policy import Policy
from vpdlab.model.traits import end_ids
from vpdlab.sampling import Completion, Sampling
from vpdlab.types import View

if TYPE_CHECKING:
    from vpdlab.sampling.vllm_engine.local import Spec

SETTINGS = ("vllm_url", "vllm_dtype", "vllm_memory", "vllm_lora", "vllm_folder")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the maximum adapter ranks that vLLM supports
COOLEST = 0.01  # vLLM raises lower temperatures (except 0) to this
TRANSFER = "vpdlab-weights-"  # prefix of the folders that weights are transferred in
CHECKED_ROWS, CHECKED_TOKENS = 4, 256  # scored again after each phase: completions, tokens including contexts
# Largest mean difference of log-probabilities that rounding explains, in nats per token. Measured with smollm2-135m:
# 5e-6 (at most 6e-5) in float32, 0.04 (at most 0.5) if one side or both compute in bfloat16.
BOUND = {"float32": 1e-3, "bfloat16": 0.25}


def check(config: RunConfig) -> None:
    """Raises UserError if vLLM is not installed, or cannot serve this run."""
    if (
        processes.count() > 1 and not config.vllm_url
    ):  # rank 0 samples for all; an engine here would take the other ranks' GPUs
        raise UserError("several processes need a vLLM server beside them: name it with vllm_url")
    if config.shard:
        raise UserError("sampler vllm needs whole weights, but shard splits them: drop one of the two")
    for name in ("temperature", "eval_temperature", "critic_temperature"):
        if 0 < getattr(config, name) < COOLEST:
            raise UserError(f"{name} is {getattr(config, name)}, but vLLM samples at {COOLEST} or above")
    if config.vllm_url:
        from vpdlab.sampling.vllm_engine.server import checked_url

        checked_url(config.vllm_url)
    elif importlib.util.find_spec("vllm") is None:
        how = "pip install 'vpdlab[vllm]' (an NVIDIA GPU), or make vllm (its CPU build)"
        where = how if sys.platform == "linux" else "it runs on Linux only; name a server with vllm_url"
        raise UserError(f"sampler vllm needs vLLM, which is not installed: {where}")


def open_sampler(config: RunConfig, policy: Policy, max_context: int) -> VLLMSampler:
    """The sampler of a run.

    Args:
        max_context: longest context of either view, in tokens.

    Raises:
        UserError: if vLLM does not start with this model, or no server answers.
    """
    longest = max(config.max_new_tokens, config.critic_max_tokens if "critique" in config.feedback else 0)
    length = min(max_context + longest, policy.longest)
    wanted = config.precision if config.vllm_dtype == "auto" else config.vllm_dtype
    folder = str(Path(config.vllm_folder).expanduser()) if config.vllm_folder else ""
    dtype = "float32" if wanted == "float32" else "bfloat16"  # bfloat16-mixed computes in it too
    if config.vllm_url:
        from vpdlab.sampling.vllm_engine.server import ServerEngine

        engine, merged = ServerEngine(config.vllm_url, length, config.sampler_rows), True
        return VLLMSampler(policy, engine, dtype, folder, merged)
    if policy.device.type == "cuda" and policy.device.index:
        raise UserError(
            f"in-process vLLM takes the first GPU, and device is {policy.device}: select the GPU with"
            f" CUDA_VISIBLE_DEVICES={policy.device.index} and device cuda"
        )
    from vpdlab.sampling.vllm_engine.local import LocalEngine

    merged = not config.lora_rank or config.vllm_lora == "merge"
    if config.lora_rank and config.vllm_lora == "auto":
        merged = policy.device.type != "cuda"  # on the CPU, adapters are four times slower than merged weights
    return VLLMSampler(policy, LocalEngine.of(_spec(config, policy, dtype, length, merged)), dtype, folder, merged)


def _spec(config: RunConfig, policy: Policy, dtype: str, length: int, merged: bool) -> Spec:
    rank = 0 if merged else _rank(max(config.lora_rank, config.adapter_rank * policy.decoupled))
    from vpdlab.sampling.vllm_engine.local import Spec

    targets = sorted({name.split(".")[-1] for name in adapter_layers(policy.model)}) if rank else []
    model, rows, memory = zoo.resolve(config.model), config.sampler_rows, config.vllm_memory
    return Spec(model, dtype, length, rows, memory, rank, tuple(targets))


def _rank(rank: int) -> int:
    fitting = [room for room in RANKS if room >= rank]
    if not fitting:
        raise UserError(f"vLLM takes adapters up to rank {RANKS[-1]}, not {rank}: set vllm_lora to merge")
    return fitting[0]


class Engine(Protocol):
    """vLLM in this process (`local.LocalEngine`) or behind a URL (`server.ServerEngine`).

    Attributes:
        held: fingerprint of the weights in the engine; None at the start.
    """

    held: Any

    def complete(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, ends: Sequence[int]
    ) -> list[Completion]: ...
    def load(self, path: Path) -> None: ...
    def load_adapter(self, folder: Path) -> None: ...
    def wake(self) -> None: ...
    def sleep(self) -> None: ...


class VLLMSampler:
    """Samples from a policy's weights in a vLLM engine.

    A row is a function of its context, its stream and the weights, up to rounding: the engine batches rows, and near a
    tie the last bit may decide.

    Args:
        dtype: the engine's compute dtype, "float32" or "bfloat16".
        folder: where new weights are stored until the engine has read them; "" for shared memory.
        merged: whether an adapter is merged into the weights; if not, the engine loads it as an adapter.
    """

    exact = False
    central = True  # several ranks share one server, which batches the requests of all

    def __init__(self, policy: Policy, engine: Engine, dtype: str, folder: str = "", merged: bool = True) -> None:
        self.engine, self._policy, self._dtype, self._folder, self._merged = engine, policy, dtype, folder, merged
        self._ends = sorted(end_ids(policy.model, policy.tokenizer))
        self._bound = BOUND["float32" if {dtype, policy.config.precision} == {"float32"} else "bfloat16"]

    def generate(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        """One completion per context; see `sampling.Sampler`.

        The engine does not return log-probabilities before top-p: with `top_p` below 1 they are NaN.

        Raises:
            RunFailed: if sampler and policy distributions differ.
        """
        self.engine.wake()
        try:
            self._sync()
            done = self.engine.complete(contexts, [seed(stream) for stream in streams], sampling, self._ends)
        finally:
            self.engine.sleep()
        self._check(contexts, done, sampling)
        if sampling.top_p < 1 and sampling.temperature > 0:
            done = [replace(one, logps=(nan,) * len(one.ids)) for one in done]
        return done

    # -- weights ---------------------------------------------------------------------------------------------
    def _sync(self) -> None:
        now = (self._merged, content(self._policy))
        if now == self.engine.held:
            return
        self.engine.held = None  # if this is interrupted, the engine's weights are undefined
        with torch.no_grad(), _transfer_folder(self._folder, self._policy.model) as folder:
            if self._merged:
                self._save(folder / "weights.safetensors")
                self.engine.load(folder / "weights.safetensors")
            else:
                save_adapter(self._policy.model, folder)
                self.engine.load_adapter(folder)
        self.engine.held = now

    def _save(self, path: Path) -> None:
        from safetensors.torch import save_file

        dtype = torch.bfloat16 if self._dtype == "bfloat16" else torch.float32
        distinct: dict[int, tuple[str, Tensor]] = {}
        for name, value in plain_weights(self._policy.model).items():
            distinct.setdefault(value.data_ptr(), (name, value))  # tied weights are written once
        save_file({name: value.to("cpu", dtype).contiguous() for name, value in distinct.values()}, path)

    # -- the check -------------------------------------------------------------------------------------------
    def _check(self, contexts: Sequence[Sequence[int]], done: Sequence[Completion], sampling: Sampling) -> None:
        """Score some completions with the policy and compare; raises RunFailed if they differ by more than rounding."""
        rows = checked([len(context) + len(one.ids) for context, one in zip(contexts, done, strict=True)])
        views = [View(tuple(contexts[row]), done[row].ids) for row in rows]
        temperature = sampling.temperature or 1.0
        # The engine normalises over the nucleus: its numbers are higher by -log of the nucleus's mass (at least top_p).
        allowance = -log(sampling.top_p) if sampling.temperature > 0 else 0.0
        batch = collate(views, range(len(views)), self._policy.device)
        with torch.no_grad():
            dist = replace(self._policy.token_dist(batch), temperature=temperature)
            ours = token_logp(dist, batch.tokens, self._policy.config.logit_mib).double().cpu()
        more = torch.tensor([value for row in rows for value in done[row].logps], dtype=torch.float64) - ours
        gap = torch.maximum(more - allowance, -more).clamp(min=0.0)
        bound = self._bound / min(1.0, temperature)  # a temperature below 1 amplifies differences
        mean = gap.mean().item() if gap.isfinite().all() else inf
        if mean > bound:
            raise RunFailed(
                f"sampler and policy differ: vLLM's log-probabilities are off by {mean:.2g} nats per token (at most"
                f" {gap.max().item():.2g}), and rounding explains {bound:.2g}: it does not have the policy's weights"
            )


def seed(stream: tuple[int, ...]) -> int:
    """The engine's seed for a random stream: 63 bits, since vLLM takes a signed integer."""
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def checked(lengths: Sequence[int]) -> list[int]:
    """The rows to score again: the first ones, as many as fit into a small pass, at least one."""
    rows, total = [], 0
    for row, length in enumerate(lengths[:CHECKED_ROWS]):
        total += length
        if rows and total > CHECKED_TOKENS:
            break
        rows.append(row)
    return rows


def content(policy: Policy) -> tuple[Any, ...]:
    """A fingerprint of the policy's current weights: the sum of each parameter's bits, and the active adapter. Any
    update changes it, however it was made."""
    sums = []
    for parameter in policy.model.parameters():
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
        sums.append(parameter.detach().view(bits).sum(dtype=torch.int64))
    return (*torch.stack(sums).tolist(), adapter_in_use(policy.model))


@contextmanager
def _transfer_folder(folder: str, model: torch.nn.Module) -> Iterator[Path]:
    """A temporary folder for one transfer: in shared memory if it has room, else in the system's temporary folder."""
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    memory = Path("/dev/shm")
    parent = Path(folder or tempfile.gettempdir())
    if not folder and memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size:
        parent = memory
    for old in parent.glob(f"{TRANSFER}*"):  # of a run that was killed during a transfer
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > 3600:
                shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=TRANSFER, dir=parent) as path:
        yield Path(path)
