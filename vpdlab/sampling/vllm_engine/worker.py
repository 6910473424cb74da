"""Load new weights into a vLLM engine: a mixin for vLLM's worker, in this process or in a server.

    vllm serve MODEL --worker-extension-cls vpdlab.sampling.vllm_engine.worker.Reload ...

All engines read weights from a safetensors file that the worker can access. Nothing is imported before a method is
called, because a server loads this module just to resolve the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Reload:
    """A mixin for vLLM's worker, whose other methods it uses."""

    def vpdlab_load(self: Any, path: str) -> None:
        """Load all weights from a safetensors file that uses the names of the Hugging Face checkpoint."""
        self.reload_weights(weights_iterator=tensors(path))
        repack(self.get_model())


def tensors(path: str) -> Iterator[tuple[str, Any]]:
    """Iterate over the names and tensors of a safetensors file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)


def repack(model: Any) -> None:
    """Repack the heads of a CPU engine.

    On the CPU a layer computes with a packed copy of its weight. vLLM (0.32) repacks each layer as it is loaded, but
    skips a head tied to the embeddings, which would silently keep the old copy: log-probabilities up to 0.5 nats off.
    """
    packed = [module for module in model.modules() if hasattr(module, "cpu_linear")]
    if not packed:  # a GPU's engine
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # pyright: ignore
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding  # pyright: ignore

    for module in packed:
        if isinstance(module, VocabParallelEmbedding):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
