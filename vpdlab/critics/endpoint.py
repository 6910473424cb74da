"""A critic behind an OpenAI-compatible server (vLLM's, for one): bounded in time, calls, tokens and bytes.

The key comes from VPDLAB_CRITIC_KEY and from nowhere else, so that no other service's key is sent to a server by
accident; it appears in no message, no record and no cache. Replies are cached by what was asked, so that a rerun costs
nothing and says the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vpdlab import processes
from vpdlab.critics import Critique, as_data
from vpdlab.errors import UserError
from vpdlab.prompts import Renderer
from vpdlab.samplers import Sampling
from vpdlab.types import Rollout

KEY = "VPDLAB_CRITIC_KEY"
LARGEST_REPLY = 1 << 20  # bytes
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # statuses after which another try may help
TRIES = 3


class _Refused(Exception):
    """Why a critique could not be had, in words that may be recorded."""


@dataclass
class Budget:
    """Calls and tokens that may still be spent. Tokens are reserved before a call, so that the cap is never passed."""

    calls: int
    tokens: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, tokens: int) -> None:
        with self._lock:
            if self.calls < 1 or self.tokens < tokens:
                raise _Refused(f"the critic's budget is spent ({self.calls} calls and {self.tokens} tokens are left)")
            self.calls -= 1
            self.tokens -= tokens

    def settle(self, reserved: int, used: int) -> None:
        """Give back what was reserved and not used."""
        with self._lock:
            self.tokens += max(0, reserved - used)


@dataclass
class EndpointCritic:
    """Asks a chat-completions server.

    Attributes:
        url: up to and including /v1.
        model: its name on the server.
        sampling: temperature and length of a critique.
        seconds: wall clock for one critique, all tries together.
        budget: of the whole run.
        jobs: critiques asked for at the same time.
        cache: folder of the replies; None for none.
    """

    url: str
    model: str
    render: Renderer
    sampling: Sampling
    seconds: float
    budget: Budget
    jobs: int = 8
    cache: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"critic_url is {self.url!r}: it must begin with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise UserError(f"critic_url must hold no key or password: put the key in the variable {KEY}")
        if not self.model:
            raise UserError("critic_model is empty: name the model as the server knows it")
        self._key = os.environ.get(KEY, "")
        self._client = self._connect()

    def _connect(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise UserError("critic endpoint needs the openai package: pip install 'vpdlab[endpoint]'") from error
        # An account's name in the environment is not for this server either.
        no_account: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return openai.OpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=self.seconds,
            default_headers=no_account,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, trust_env=False),
        )

    def __call__(self, rollouts: Sequence[Rollout], *, seed: int, purpose: str, step: int) -> list[Critique]:
        """One critique a rollout, `jobs` at a time; of several processes the main one asks."""
        return processes.by_main(lambda: self._all(rollouts, seed, step))

    def _all(self, rollouts: Sequence[Rollout], seed: int, step: int) -> list[Critique]:
        texts = [self.render.critic_text(rollout.problem, rollout.text) for rollout in rollouts]
        # Equal attempts at a problem are asked about once each: the seed tells them apart, in the cache too.
        seeds = [seed * 1_000_003 + step * 1009 + row for row in range(len(rollouts))]
        with ThreadPoolExecutor(max(1, min(self.jobs, len(texts)))) as pool:
            return list(pool.map(self._one, texts, seeds))

    def _one(self, text: str, seed: int) -> Critique:
        body = {
            "model": self.model, "messages": [{"role": "user", "content": text}], "seed": seed % 2**31,
            "max_tokens": self.sampling.max_new_tokens, "temperature": self.sampling.temperature,
        }  # fmt: skip
        place = self._place(body)
        try:
            said = json.loads(place.read_text(encoding="utf-8")) if place and place.exists() else self._ask(body)
            words = as_data(said, self.render)
            if not words:
                raise _Refused("the critic said nothing")
        except _Refused as why:
            return Critique(None, str(why))
        except (OSError, json.JSONDecodeError) as error:
            return Critique(None, f"the critic's cache cannot be read: {type(error).__name__}")
        if place is not None and not place.exists():
            _keep(place, said)
        return Critique(words)

    def _place(self, body: dict[str, Any]) -> Path | None:
        name = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        return self.cache / name[:2] / f"{name}.json" if self.cache is not None else None

    def _ask(self, body: dict[str, Any]) -> str:
        """The reply's text, after some tries. Raises _Refused where the time or the budget ends before there is one."""
        end, why = time.monotonic() + self.seconds, ""
        for number in range(TRIES):
            wait = 0.5 * 2**number * random.uniform(0.5, 1.0)
            try:
                return self._call(body, end)
            except _Later as later:
                why, wait = str(later), max(wait, later.wait)
            if number + 1 == TRIES or time.monotonic() + wait >= end:
                break
            time.sleep(wait)
        raise _Refused(f"the critic did not answer: {why}")

    def _call(self, body: dict[str, Any], end: float) -> str:
        # A token is at least one byte, so the prompt's bytes bound its tokens; 256 for the chat template.
        reserved = len(body["messages"][0]["content"].encode()) + 256 + body["max_tokens"]
        self.budget.reserve(reserved)
        reply = self._read(body, end)
        try:
            text = reply["choices"][0]["message"]["content"]
            used = reply.get("usage") or {}
            spent = int(used.get("prompt_tokens", reserved)) + int(used.get("completion_tokens", 0))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _Refused("the critic's reply has not the shape of a chat completion") from error
        self.budget.settle(reserved, spent)
        if not isinstance(text, str):
            raise _Refused("the critic's reply holds no text")
        return text

    def _read(self, body: dict[str, Any], end: float) -> Any:
        """The reply as JSON, read piece by piece: a server that drips is given up at the deadline."""
        import openai

        left = end - time.monotonic()
        if left <= 0:
            raise _Later("its time was over")
        data = b""
        try:
            ask = self._client.with_options(timeout=left).chat.completions.with_streaming_response.create
            with ask(**body) as response:
                if response.status_code != 200:
                    raise _Refused(f"the critic's server answered with status {response.status_code}")
                for piece in response.iter_bytes():  # as it comes: a size would wait until so much is there
                    data += piece
                    if len(data) > LARGEST_REPLY:
                        raise _Refused(f"the critic's reply is larger than {LARGEST_REPLY >> 20} MiB")
                    if time.monotonic() > end:
                        raise _Later("its time was over")
        except openai.APIStatusError as error:
            status = error.status_code
            if status in AGAIN:
                raise _Later(f"status {status}", _seconds(error.response.headers.get("retry-after"))) from None
            raise _Refused(f"the critic's server answered with status {status}") from None
        except openai.APITimeoutError:
            raise _Later("it took too long") from None
        except openai.APIConnectionError:
            raise _Later("no connection") from None
        except openai.OpenAIError as error:
            raise _Refused(f"the critic's server could not be asked: {type(error).__name__}") from None
        try:
            return json.loads(data)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise _Refused("the critic's reply is no JSON") from error


class _Later(Exception):
    """A fault that may pass; `wait` is what the server asks for, in seconds."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0  # a date: our own pause will do


def _keep(place: Path, said: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    staged = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}")
    staged.write_text(json.dumps(said), encoding="utf-8")
    staged.replace(place)
