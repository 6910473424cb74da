"""A vLLM engine in this process: started once per model, prompted with token ids, asleep between sampling phases."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from vpdlab.errors import UserError, first_line
from vpdlab.sampling import Completion, Sampling

EXTENSION = "vpdlab.sampling.vllm_engine.worker.Reload"
CPU_CACHE = 2 * 2**30  # largest key-value cache on the CPU, in bytes


@dataclass(frozen=True)
class Spec:
    """The settings of an engine.

    Attributes:
        model: folder or hub name.
        dtype: "float32" or "bfloat16".
        length: longest context and response together, in tokens.
        rows: rollouts decoded at the same time.
        memory: share of the GPU's memory; on the CPU, share of the free memory, up to `CPU_CACHE`.
        rank: the highest rank of an adapter; 0: the engine only gets merged weights.
        targets: names of the layers that have an adapter.
    """

    model: str
    dtype: str
    length: int
    rows: int
    memory: float
    rank: int = 0
    targets: tuple[str, ...] = ()


class LocalEngine:
    """vLLM in this process. Only one runs at a time: an engine that another one has replaced restarts on `wake`.

    Attributes:
        held: fingerprint of the weights in the engine, which may serve several runs in turn.

    Raises:
        UserError: if vLLM does not start with this model.
    """

    running: ClassVar[LocalEngine | None] = None

    def __init__(self, spec: Spec) -> None:
        self.spec, self._versions = spec, 0
        self._llm: Any = None
        self._start()
        self.sleep()

    @classmethod
    def of(cls, spec: Spec) -> LocalEngine:
        """An engine with these settings: the running one if it has them."""
        running = cls.running
        return running if running is not None and running.spec == spec else cls(spec)

    def _start(self) -> None:
        if LocalEngine.running is not None:
            LocalEngine.running.close()
        spec, self.held, self._adapter, self._asleep = self.spec, None, None, False
        with _surroundings():
            try:
                from vllm import LLM  # pyright: ignore
                from vllm.platforms import current_platform  # pyright: ignore
            except ImportError as error:
                raise UserError(f"vLLM is installed but does not import ({error}): see vpdlab doctor") from error
            self._cpu = current_platform.is_cpu()
            try:
                self._llm = LLM(**(_on_cpu(spec) if self._cpu else _on_gpu(spec)), **_common(spec))
            except (ValueError, RuntimeError, OSError, NotImplementedError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"vLLM does not start with {spec.model}: {first_line(error)}") from error
        LocalEngine.running = self

    def close(self) -> None:
        """Shut the engine down and free its memory."""
        self._llm = self.held = self._adapter = None
        LocalEngine.running = None
        gc.collect()  # vLLM's objects form cycles; collecting them after the next start would break it

    def complete(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, ends: Sequence[int]
    ) -> list[Completion]:
        """One completion per context, in order; `ends` are the end-of-sequence ids."""
        from vllm import SamplingParams  # pyright: ignore

        params = [
            SamplingParams(
                seed=seed, temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_new_tokens,
                logprobs=0, stop_token_ids=list(ends), ignore_eos=True, detokenize=False,
            )
            for seed in seeds
        ]  # fmt: skip
        prompts: list[Any] = [{"prompt_token_ids": list(context)} for context in contexts]
        try:
            with _same_generators():
                done = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
        except BaseException:
            self.close()  # it may have pending requests, whose outputs the next call would get
            raise
        return [_completion(request.outputs[0]) for _, request in zip(contexts, done, strict=True)]

    def load(self, path: Path) -> None:
        """Load weights from a safetensors file."""
        self._llm.collective_rpc("vpdlab_load", args=(str(path),))
        self._llm.reset_prefix_cache()

    def load_adapter(self, folder: Path) -> None:
        """Use the LoRA adapter in a PEFT folder for all requests from now on."""
        from vllm.lora.request import LoRARequest  # pyright: ignore

        old, self._versions = self._adapter, self._versions + 1
        new = LoRARequest(f"version-{self._versions}", self._versions, str(folder))  # ids are never reused
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
        self._llm.llm_engine.add_lora(new)
        self._adapter = new

    def wake(self) -> None:
        """Reclaim the GPU's memory before a sampling phase. A no-op for the CPU build."""
        if LocalEngine.running is not self:
            self._start()
        if self._asleep:
            gc.collect()
            torch.cuda.empty_cache()  # what the update left in torch's own cache
            self._llm.wake_up()
            self._asleep = False

    def sleep(self) -> None:
        """Free the GPU's memory for the update: weights move to host memory, the key-value cache is dropped."""
        if not self._cpu and LocalEngine.running is self:
            self._llm.sleep(level=1)
            self._asleep = True


def _common(spec: Spec) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": spec.model, "dtype": spec.dtype, "max_model_len": spec.length, "max_num_seqs": spec.rows,
        "worker_extension_cls": EXTENSION, "enable_prefix_caching": True, "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm", "skip_tokenizer_init": True, "use_tqdm_on_load": False, "seed": 0,
    }  # fmt: skip
    if spec.rank:
        # Only the layers that have an adapter: if all are wrapped, including the head, the CPU build (0.32) crashes.
        settings |= {
            "enable_lora": True, "max_loras": 1, "max_lora_rank": spec.rank, "lora_target_modules": list(spec.targets)
        }  # fmt: skip
    return settings


def _on_cpu(spec: Spec) -> dict[str, Any]:
    import psutil

    _check_heads(spec.model)
    free = int(psutil.virtual_memory().available * spec.memory)
    return {"kv_cache_memory_bytes": min(free, CPU_CACHE), "enforce_eager": True}  # compilation does not pay off here


def _on_gpu(spec: Spec) -> dict[str, Any]:
    return {"gpu_memory_utilization": spec.memory, "enable_sleep_mode": True}


def _check_heads(model: str) -> None:
    """Raises UserError for a head size that the CPU build does not support; it would fail at the first token."""
    from transformers import AutoConfig
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if size not in known:
        raise UserError(
            f"vLLM's CPU build supports attention heads of {', '.join(map(str, known))} dimensions, but those of"
            f" {model} have {size}: use sampler transformers, or another model"
        )


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    logps = tuple(float(position[token].logprob) for token, position in zip(ids, output.logprobs, strict=True))
    return Completion(ids, logps, output.finish_reason == "stop")


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """Set up process state for vLLM's start, and restore it afterwards."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a subprocess would run a script's main module again
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    set_num_threads = torch.set_num_threads
    os.environ.update(wanted)
    logging.getLogger("vllm").setLevel(
        wanted["VLLM_LOGGING_LEVEL"].upper()
    )  # for messages before it reads the variable
    try:
        with _same_generators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vLLM's warnings are for its developers
            yield
    finally:
        torch.set_num_threads = set_num_threads  # the CPU worker replaces it with a no-op
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _same_generators() -> Iterator[None]:
    """Restore the global random generators, which vLLM seeds and draws from; resuming a run depends on them."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
