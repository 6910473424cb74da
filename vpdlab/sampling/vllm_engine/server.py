"""A vLLM engine behind a URL: on a GPU of its own, or on another machine.

The server takes new weights from a file that it can read itself, so nothing but a path goes over the wire. Whoever can
reach these routes can change the server's weights: it belongs on the loopback or in a private network (docs/engines.md
has the command that starts it).
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

SECONDS = 1800.0  # for one answer: a server with many rows decodes long ones slowly
START = 10.0  # seconds for the first answer
LARGEST = 1 << 26  # bytes of an answer
EXTENSION = "--worker-extension-cls vpdlab.sampling.vllm_engine.worker.Reload"


class ServerEngine:
    """A vLLM server.

    Args:
        url: without /v1.
        length: longest context and response together, in tokens.
        rows: requests under way at the same time.

    Attributes:
        held: what the weights in the server are known by.

    Raises:
        UserError: where no vLLM server answers, or its contexts are too short.
    """

    def __init__(self, url: str, length: int, rows: int) -> None:
        self.held: Any = None
        self._url, self._rows = checked_url(url), rows
        self._model, longest = self._first()
        if longest < length:
            raise UserError(
                f"the vLLM server at {url} takes {longest} tokens, and this run may need {length}: start it with"
                f" --max-model-len {length}, or lower max_context"
            )

    def _first(self) -> tuple[str, int]:
        """The model's name on the server, and its longest context."""
        why = "its list of models has another shape"
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
        """One completion a context, in order; `ends` are the tokens that end one."""
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
            raise RunFailed(f"the answer of {self._url} is no vLLM completion: {net.printable(why)}") from error

    def load(self, path: Path) -> None:
        """Let the server take over the weights of a safetensors file that it can read."""
        body = {"method": "vpdlab_load", "args": [str(path)]}
        try:
            self._post("/collective_rpc", body)
        except RunFailed as error:
            raise RunFailed(
                f"{error}; the server needs VLLM_SERVER_DEV_MODE=1, {EXTENSION}, and must see {path.parent.parent}"
                " (vllm_folder names another place)"
            ) from error
        done = self._post("/reset_prefix_cache", {})
        if not isinstance(done, dict) or done.get("success") is not True:
            raise RunFailed(f"{self._url} could not forget what it cached for the old weights: is it in use?")

    def load_adapter(self, folder: Path) -> None:
        """Never asked for: a server gets merged weights."""
        raise NotImplementedError("a vLLM server gets merged weights")

    def wake(self) -> None:
        """A server keeps its own memory."""

    def sleep(self) -> None:
        """A server keeps its own memory."""

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        place, data = f"{self._url}{route}", json.dumps(body).encode()
        try:
            reply = net.exchange(
                "POST", place, body=data, headers={"Content-Type": "application/json"}, seconds=SECONDS, largest=LARGEST
            )
            if reply.status != 200:
                said = net.printable(reply.body[:2000].decode(errors="replace"))
                raise RunFailed(f"{place} answered with status {reply.status}: {said}")
            return net.read_json(reply.body or b"{}")
        except net.NoReply as error:
            raise RunFailed(f"{place} did not answer: {error}") from error


def _tokens(ids: Any, logps: Any, most: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Token ids and log-probabilities as numbers that they can be. Raises ValueError or TypeError for others."""
    if not isinstance(ids, list) or not isinstance(logps, list):
        raise TypeError("no lists of tokens")
    if not 0 < len(ids) == len(logps) <= most:
        raise ValueError(f"{len(ids)} tokens, {len(logps)} log-probabilities, and at most {most} were asked for")
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in ids):
        raise ValueError("a token id that is no number from 0")
    # Rounding puts the logarithm of a certain token a little above 0.
    if not all(type(x) in (int, float) and math.isfinite(x) and x < 1e-3 for x in logps):
        raise ValueError("a log-probability that is no number up to 0")
    return tuple(ids), tuple(map(float, logps))


def checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises UserError for one that is none, or holds a password."""
    return net.checked_url(url, "vllm_url").removesuffix("/v1")
