"""A vLLM engine in this process: started once for a model, asked with token ids, put to sleep between phases."""

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
CPU_CACHE = 2 * 2**30  # bytes of the key-value cache on the CPU, at most


@dataclass(frozen=True)
class Spec:
    """What an engine is started with.

    Attributes:
        model: folder or hub name.
        dtype: "float32" or "bfloat16".
        length: longest context and response together, in tokens.
        rows: rollouts decoded at the same time.
        memory: share of the GPU's memory; on the CPU of the free memory, and at most `CPU_CACHE`.
        rank: the highest rank of an adapter; 0: adapters are merged into the weights before they come here.
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
    """vLLM in this process. There is one at a time: it starts again where another one has taken its place.

    Attributes:
        held: what the weights in the engine are known by; the engine may serve several runs, one after the other.

    Raises:
        UserError: where vLLM does not start with this model.
    """

    running: ClassVar[LocalEngine | None] = None

    def __init__(self, spec: Spec) -> None:
        self.spec, self._versions = spec, 0
        self._llm: Any = None
        self._start()
        self.sleep()

    @classmethod
    def of(cls, spec: Spec) -> LocalEngine:
        """The engine with these settings: the running one where it has them."""
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
        """End it, and give all its memory back."""
        self._llm = self.held = self._adapter = None
        LocalEngine.running = None
        gc.collect()  # vLLM's parts refer to each other; what is collected after the next start takes that down

    def complete(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, ends: Sequence[int]
    ) -> list[Completion]:
        """One completion a context, in order; `ends` are the tokens that end one."""
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
            self.close()  # it may still hold requests, whose answers the next call would get
            raise
        return [_completion(request.outputs[0]) for _, request in zip(contexts, done, strict=True)]

    def load(self, path: Path) -> None:
        """Take over the weights of a safetensors file."""
        self._llm.collective_rpc("vpdlab_load", args=(str(path),))
        self._llm.reset_prefix_cache()

    def load_adapter(self, folder: Path) -> None:
        """Answer with the LoRA adapter in a PEFT folder from now on, every request alike."""
        from vllm.lora.request import LoRARequest  # pyright: ignore

        old, self._versions = self._adapter, self._versions + 1
        new = LoRARequest(f"version-{self._versions}", self._versions, str(folder))  # a number names one content only
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
        self._llm.llm_engine.add_lora(new)
        self._adapter = new

    def wake(self) -> None:
        """Take the memory back before a phase of sampling. The CPU build has nothing to give or take."""
        if LocalEngine.running is not self:
            self._start()
        if self._asleep:
            gc.collect()
            torch.cuda.empty_cache()  # what the update left in torch's own cache
            self._llm.wake_up()
            self._asleep = False

    def sleep(self) -> None:
        """Give the GPU's memory to the update: weights go to the host's memory, the key-value cache is dropped."""
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
        # Only the layers that have an adapter: with all of them wrapped, the head too, the CPU build (0.32) crashes.
        settings |= {
            "enable_lora": True, "max_loras": 1, "max_lora_rank": spec.rank, "lora_target_modules": list(spec.targets)
        }  # fmt: skip
    return settings


def _on_cpu(spec: Spec) -> dict[str, Any]:
    import psutil

    _check_heads(spec.model)
    free = int(psutil.virtual_memory().available * spec.memory)
    return {"kv_cache_memory_bytes": min(free, CPU_CACHE), "enforce_eager": True}  # compiling does not pay here


def _on_gpu(spec: Spec) -> dict[str, Any]:
    return {"gpu_memory_utilization": spec.memory, "enable_sleep_mode": True}


def _check_heads(model: str) -> None:
    """Else the engine starts, and fails at its first token."""
    from transformers import AutoConfig
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore

    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    known = CPUAttentionBackend.get_supported_head_sizes()
    if size not in known:
        raise UserError(
            f"vLLM's CPU build knows attention heads of {', '.join(map(str, known))} dimensions, and those of {model}"
            f" have {size}: use sampler transformers, or another model"
        )


def _completion(output: Any) -> Completion:
    ids = tuple(output.token_ids)
    logps = tuple(float(said[token].logprob) for token, said in zip(ids, output.logprobs, strict=True))
    return Completion(ids, logps, output.finish_reason == "stop")


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    """What vLLM needs around its start, and what it must not leave behind in the process of a notebook."""
    wanted = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process of its own: it would run a script's main module again
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    before = {name: os.environ.get(name) for name in wanted}
    set_num_threads = torch.set_num_threads
    os.environ.update(wanted)
    logging.getLogger("vllm").setLevel(wanted["VLLM_LOGGING_LEVEL"].upper())  # what it says before it reads that
    try:
        with _same_generators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of vLLM to its own authors
            yield
    finally:
        torch.set_num_threads = set_num_threads  # the CPU worker puts a function there that does nothing
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _same_generators() -> Iterator[None]:
    """vLLM seeds and draws from the process's own generators; a run that goes on later must find them as they were."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
