"""The sampler that a config asks for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from vpdlab import models, processes
from vpdlab.adapters import adapter_layers
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.policy import Policy
from vpdlab.samplers import Sampler
from vpdlab.samplers.hf import HFSampler

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
COOLEST = 0.01  # vLLM raises any temperature between 0 and this one


def check_sampler(config: RunConfig) -> None:
    """Raises UserError where the sampler's engine is not here, or not for this run: before the minutes that loading a
    model may take."""
    if config.sampler != "vllm":
        return
    _check_processes(config)
    for name in ("temperature", "eval_temperature", "critic_temperature"):
        if 0 < getattr(config, name) < COOLEST:
            raise UserError(f"{name} is {getattr(config, name)}, but vLLM samples at {COOLEST} or above")
    if config.vllm_url:
        from vpdlab.samplers.server import checked_url

        checked_url(config.vllm_url)
    elif importlib.util.find_spec("vllm") is None:
        how = "pip install 'vpdlab[vllm]' (an NVIDIA GPU), or make vllm (its CPU build)"
        where = how if sys.platform == "linux" else "it runs on Linux only; name a server with vllm_url"
        raise UserError(f"sampler vllm needs vLLM, which is not installed: {where}")


def make_sampler(config: RunConfig, policy: Policy, max_context: int) -> Sampler:
    """The sampler of a run.

    Args:
        max_context: longest context of either view, in tokens.

    Raises:
        UserError: where vLLM does not start with this model, or no server answers.
    """
    if config.sampler == "transformers":
        return HFSampler(policy, config.sampler_rows)
    from vpdlab.samplers.vllm import VLLMSampler

    longest = max(config.max_new_tokens, config.critic_max_tokens if "critique" in config.feedback else 0)
    length = min(max_context + longest, policy.longest)
    wanted = config.precision if config.vllm_dtype == "auto" else config.vllm_dtype
    folder = str(Path(config.vllm_folder).expanduser()) if config.vllm_folder else ""
    dtype = "float32" if wanted == "float32" else "bfloat16"  # bfloat16-mixed computes in it too
    if config.vllm_url:
        from vpdlab.samplers.server import ServerEngine

        engine, merged = ServerEngine(config.vllm_url, length, config.sampler_rows), True
        return VLLMSampler(policy, engine, dtype, folder, merged)
    _check_first_gpu(policy)
    from vpdlab.samplers.engine import LocalEngine, Spec

    merged = not config.lora_rank or config.vllm_lora == "merge"
    if config.lora_rank and config.vllm_lora == "auto":
        merged = policy.device.type != "cuda"  # on the CPU adapters are a quarter as fast as merged weights
    rank = 0 if merged else _rank(max(config.lora_rank, config.adapter_rank * policy.decoupled))
    spec = Spec(
        models.resolve(config.model), dtype, length, config.sampler_rows, config.vllm_memory, rank,
        tuple(sorted({name.split(".")[-1] for name in adapter_layers(policy.model)})) if rank else (),
    )  # fmt: skip
    return VLLMSampler(policy, LocalEngine.of(spec), dtype, folder, merged)


def _rank(rank: int) -> int:
    fitting = [room for room in RANKS if room >= rank]
    if not fitting:
        raise UserError(f"vLLM takes adapters up to rank {RANKS[-1]}, not {rank}: set vllm_lora to merge")
    return fitting[0]


def _check_processes(config: RunConfig) -> None:
    """Of several processes the main one samples, which must not keep the others' GPUs, nor wait for their weights."""
    if processes.count() > 1 and not config.vllm_url:
        raise UserError("several processes need a vLLM server beside them: name it with vllm_url")
    if config.shard:
        raise UserError("sampler vllm takes whole weights, and shard cuts them: leave one of the two out")


def _check_first_gpu(policy: Policy) -> None:
    if policy.device.type == "cuda" and policy.device.index:
        raise UserError(
            f"vLLM in the process of the run takes the first GPU, and device is {policy.device}: choose the GPU with"
            f" CUDA_VISIBLE_DEVICES={policy.device.index} and device cuda"
        )
