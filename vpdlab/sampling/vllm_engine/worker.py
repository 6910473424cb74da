"""New weights into a vLLM engine: mixed into vLLM's own worker, in this process or in a server's.

    vllm serve MODEL --worker-extension-cls vpdlab.sampling.vllm_engine.worker.Reload ...

One way for all engines: the weights lie in a safetensors file that the worker can read. Nothing is imported here
before a method is called: a server loads this module to learn the class's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Reload:
    """What vLLM's worker learns to do. Its other methods are those of the worker that it is mixed into."""

    def vpdlab_load(self: Any, path: str) -> None:
        """Take over all weights from a safetensors file with the names of the Hugging Face checkpoint."""
        self.reload_weights(weights_iterator=tensors(path))
        repack(self.get_model())


def tensors(path: str) -> Iterator[tuple[str, Any]]:
    """Name and value of each tensor of a safetensors file, one at a time."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)


def repack(model: Any) -> None:
    """Pack the heads of a CPU engine again.

    On the CPU a layer computes with a packed copy of its weight. vLLM (0.32) packs each layer again as it is loaded,
    but a head that shares its weight with the embeddings is no layer of its own to the loader, and would keep the old
    copy: log-probabilities up to 0.5 nats off, without a word.
    """
    packed = [module for module in model.modules() if hasattr(module, "cpu_linear")]
    if not packed:  # a GPU's engine
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm  # pyright: ignore
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding  # pyright: ignore

    for module in packed:
        if isinstance(module, VocabParallelEmbedding):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
