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
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpdlab import net, processes
from vpdlab.errors import UserError
from vpdlab.feedback.critics import Critique, as_data
from vpdlab.feedback.reply import LARGEST, checked_text, completion
from vpdlab.feedback.sources import Context
from vpdlab.files import staged_file
from vpdlab.prompts import Renderer
from vpdlab.sampling import Sampling
from vpdlab.types import Rollout

KEY = "VPDLAB_CRITIC_KEY"
AGAIN = (408, 409, 429, 500, 502, 503, 504)  # statuses after which another try may help
TRIES = 3


class _Refused(Exception):
    """Why there is no critique, in words that may be recorded."""


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
        self._address = net.checked_url(self.url, "critic_url", KEY)
        if not self.model:
            raise UserError("critic_model is empty: name the model as the server knows it")
        self._key = net.checked_key(os.environ.get(KEY, ""), KEY)  # of no other service: no other variable is read
        self._headers = {"Content-Type": "application/json"}
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"
        self._cache_fails = False

    def __call__(self, rollouts: Sequence[Rollout], context: Context) -> list[Critique]:
        """One critique per rollout, `jobs` at a time; with several processes rank 0 asks."""
        return processes.by_main(lambda: self._all(rollouts, context.seed, context.step))

    def _all(self, rollouts: Sequence[Rollout], seed: int, step: int) -> list[Critique]:
        texts = [self.render.critic_text(rollout.problem, rollout.transcript) for rollout in rollouts]
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
        kept = self._kept(place)
        try:
            said = self._ask(body) if kept is None else kept
        except _Refused as why:
            return Critique(None, str(why))
        words = as_data(said, self.render)
        if not words:
            return Critique(None, "the critic said nothing")
        if place is not None and kept is None:
            self._keep(place, said)
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
        data = json.dumps(body).encode()
        # A token is at least one byte, so the prompt's bytes bound its tokens; 256 for the chat template.
        text = body["messages"][0]["content"].encode("utf-8", "surrogatepass")
        reserved = len(text) + 256 + body["max_tokens"]
        self.budget.reserve(reserved)
        try:
            reply = net.exchange(
                "POST", f"{self._address}/chat/completions", body=data, headers=self._headers,
                seconds=max(0.0, end - time.monotonic()), largest=LARGEST,
            )  # fmt: skip
            if reply.status in AGAIN:
                raise _Later(f"status {reply.status}", _seconds(reply.headers.get("retry-after")))
            if reply.status != 200:
                raise _Refused(f"the critic's server answered with status {reply.status}")
            said, used = completion(reply.body)
            if len(self._key) > 8 and self._key in said:  # a shorter one is a word that a server wants, no secret
                raise _Refused("the critic's reply quotes the key")
        except (net.Late, net.Unreachable) as error:
            raise _Later(str(error)) from None
        except net.BadReply as error:
            raise _Refused(f"the critic's server failed: {error}") from None
        self.budget.settle(reserved, reserved if used is None else used)
        return said

    # -- the cache -------------------------------------------------------------------------------------------
    def _kept(self, place: Path | None) -> str | None:
        """What the cache holds; None where it holds nothing that may be used, so that it is asked for again."""
        try:
            if place is None or not place.is_file() or place.stat().st_size > 8 * LARGEST:
                return None
            return checked_text(net.read_json(place.read_bytes()))
        except (OSError, net.BadReply):
            return None

    def _keep(self, place: Path, said: str) -> None:
        """Keep a reply. A cache that cannot be written costs money, not the run: said once."""
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with staged_file(place, durable=False, shared=True) as staged:
                staged.write_text(json.dumps(said), encoding="utf-8")
        except (OSError, ValueError) as error:  # a disk's errors; a name that no folder can have
            if not self._cache_fails:
                print(net.printable(f"the critic's cache cannot be written: {error}"), file=sys.stderr)
            self._cache_fails = True


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
