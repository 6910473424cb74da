"""A vLLM engine behind a URL: on a GPU of its own, or on another machine.

The server takes new weights from a file that it can read itself, so nothing but a path goes over the wire. Whoever can
reach these routes can change the server's weights: it belongs on the loopback or in a private network (docs/engines.md
has the command that starts it).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from vpdlab.errors import RunFailed, UserError
from vpdlab.samplers import Completion, Sampling

SECONDS = 1800.0  # for one answer: a server with many rows decodes long ones slowly
EXTENSION = "--worker-extension-cls vpdlab.samplers.worker.Reload"


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
        self._opener = build_opener(ProxyHandler({}), _Stay)
        try:
            model = self._get("/v1/models")["data"][0]
            self._model, longest = model["id"], model["max_model_len"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"vllm_url is {url!r}, but no vLLM server answers there ({_words(error)}): docs/engines.md starts one"
            ) from error
        if longest < length:
            raise UserError(
                f"the vLLM server at {url} takes {longest} tokens, and this run may need {length}: start it with"
                f" --max-model-len {length}, or lower max_context"
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
            if len(ids) != len(logps) or not ids:
                raise ValueError(f"{len(ids)} tokens, {len(logps)} log-probabilities")
            done = Completion(tuple(map(int, ids)), tuple(map(float, logps)), choice["finish_reason"] == "stop")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise RunFailed(f"the answer of {self._url} is no vLLM completion: {_words(error)}") from error
        return done

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
        if self._post("/reset_prefix_cache", {}).get("success") is not True:
            raise RunFailed(f"{self._url} could not forget what it cached for the old weights: is it in use?")

    def load_adapter(self, folder: Path) -> None:
        """Never asked for: a server gets merged weights."""
        raise NotImplementedError("a vLLM server gets merged weights")

    def wake(self) -> None:
        """A server keeps its own memory."""

    def sleep(self) -> None:
        """A server keeps its own memory."""

    # -- over the wire ---------------------------------------------------------------------------------------
    def _get(self, route: str) -> Any:
        with self._opener.open(self._url + route, timeout=10.0) as response:
            return json.load(response)

    def _post(self, route: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = Request(self._url + route, data, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=SECONDS) as response:
                return json.loads(response.read() or b"{}")
        except HTTPError as error:
            said = " ".join(error.read(300).decode(errors="replace").split())
            raise RunFailed(f"{self._url}{route} answered with status {error.code}: {said}") from error
        except (OSError, ValueError) as error:
            raise RunFailed(f"{self._url}{route} did not answer: {_words(error)}") from error


class _Stay(HTTPRedirectHandler):
    """What is sent to one server goes to no other."""

    def redirect_request(self, *args: Any) -> None:
        return None


def checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises UserError for one that is none, or holds a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"vllm_url is {url!r}: it must begin with http:// or https://")
    if parts.username or parts.password or parts.query:
        raise UserError("vllm_url must hold no key or password")
    return url.rstrip("/").removesuffix("/v1")


def _words(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
