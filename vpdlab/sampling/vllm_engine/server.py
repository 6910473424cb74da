"""A vLLM engine behind a URL: on its own GPU, or on another machine.

The server loads new weights from a file that it can read, so only a path is sent. Anyone who can reach these routes can
change the server's weights: run it on the loopback interface or in a private network (docs/engines.md has the command
that starts it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vpdlab import net
from vpdlab.errors import RunFailed, UserError
from vpdlab.sampling import Completion, Sampling

SECONDS = 1800.0  # timeout of one request: a server with many rows decodes long ones slowly
START = 10.0  # timeout of the first request, in seconds
LARGEST = 1 << 26  # bytes of a reply
EXTENSION = "--worker-extension-cls vpdlab.sampling.vllm_engine.worker.Reload"


class ServerEngine:
    """A vLLM server.

    Args:
        url: without /v1.
        length: longest context and response together, in tokens.
        rows: concurrent requests.

    Attributes:
        held: fingerprint of the weights in the server.

    Raises:
        UserError: if no vLLM server answers, or its maximum length is too short.
    """

    def __init__(self, url: str, length: int, rows: int) -> None:
        self.held: Any = None
        self._url, self._rows = checked_url(url), rows
        self._model, longest = self._served_model()
        if longest < length:
            raise UserError(
                f"the vLLM server at {url} takes {longest} tokens, but this run may need {length}: start it with"
                f" --max-model-len {length}, or lower max_context"
            )

    def _served_model(self) -> tuple[str, int]:
        """The model's name on the server, and its maximum length."""
        why = "its list of models has an unexpected form"
        try:
            reply = net.exchange("GET", f"{self._url}/v1/models", seconds=START, largest=LARGEST)
            if reply.status == 200:
                model = net.read_json(reply.body)["data"][0]
                name, longest = model["id"], model["max_model_len"]
                if isinstance(name, str) and type(longest) is int:
                    return name, longest
            else:
                why = f"status {reply.status}"
        except net.NoReply as error:
            why = str(error)
        except (KeyError, IndexError, TypeError):
            pass
        raise UserError(
            f"vllm_url is {self._url!r}, but no vLLM server answers there ({why}): docs/engines.md starts one"
        )

    def complete(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, ends: Sequence[int]
    ) -> list[Completion]:
        """One completion per context, in order; `ends` are the end-of-sequence ids."""
        bodies = [self._body(context, seed, sampling, ends) for context, seed in zip(contexts, seeds, strict=True)]
        with ThreadPoolExecutor(max(1, min(self._rows, len(bodies)))) as pool:
            return list(pool.map(self._one, bodies))

    def _body(self, context: Sequence[int], seed: int, sampling: Sampling, ends: Sequence[int]) -> dict[str, Any]:
        return {
            "model": self._model, "prompt": list(context), "seed": seed, "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, "min_p": 0.0,
            "repetition_penalty": 1.0, "logprobs": 0, "return_token_ids": True, "stop_token_ids": list(ends),
            "ignore_eos": True, "add_special_tokens": False,
        }  # fmt: skip

    def _one(self, body: dict[str, Any]) -> Completion:
        answer = self._post("/v1/completions", body)
        try:
            choice = answer["choices"][0]
            ids, logps = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            return Completion(*_tokens(ids, logps, body["max_tokens"]), choice["finish_reason"] == "stop")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise RunFailed(f"the reply of {self._url} is not a vLLM completion: {net.printable(why)}") from error

    def load(self, path: Path) -> None:
        """Make the server load weights from a safetensors file that it can read."""
        body = {"method": "vpdlab_load", "args": [str(path)]}
        try:
            self._post("/collective_rpc", body)
        except RunFailed as error:
            raise RunFailed(
                f"{error}; the server needs VLLM_SERVER_DEV_MODE=1, {EXTENSION}, and access to {path.parent.parent}"
                " (vllm_folder sets another folder)"
            ) from error
        done = self._post("/reset_prefix_cache", {})
        if not isinstance(done, dict) or done.get("success") is not True:
            raise RunFailed(f"{self._url} failed to clear its prefix cache for the new weights: is it in use?")

    def load_adapter(self, folder: Path) -> None:
        """Not supported: a server gets merged weights."""
        raise NotImplementedError("a vLLM server gets merged weights")

    def wake(self) -> None:
        """A no-op: a server manages its own memory."""

    def sleep(self) -> None:
        """A no-op: a server manages its own memory."""

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        url, data = f"{self._url}{route}", json.dumps(body).encode()
        try:
            reply = net.exchange(
                "POST", url, body=data, headers={"Content-Type": "application/json"}, seconds=SECONDS, largest=LARGEST
            )
            if reply.status != 200:
                text = net.printable(reply.body[:2000].decode(errors="replace"))
                raise RunFailed(f"{url} answered with status {reply.status}: {text}")
            return net.read_json(reply.body or b"{}")
        except net.NoReply as error:
            raise RunFailed(f"{url} did not answer: {error}") from error


def _tokens(ids: Any, logps: Any, most: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Validated token ids and log-probabilities. Raises ValueError or TypeError for invalid ones."""
    if not isinstance(ids, list) or not isinstance(logps, list):
        raise TypeError("the tokens are not lists")
    if not 0 < len(ids) == len(logps) <= most:
        raise ValueError(f"{len(ids)} tokens, {len(logps)} log-probabilities, but at most {most} were requested")
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in ids):
        raise ValueError("a token id is not a non-negative integer")
    # Rounding can put the log-probability of a certain token slightly above 0.
    if not all(type(x) in (int, float) and math.isfinite(x) and x < 1e-3 for x in logps):
        raise ValueError("a log-probability is not a finite number up to 0")
    return tuple(ids), tuple(map(float, logps))


def checked_url(url: str) -> str:
    """The URL without a trailing slash or /v1. Raises UserError if it is invalid or contains a password."""
    return net.checked_url(url, "vllm_url").removesuffix("/v1")
