"""Sampling with vLLM: an engine that holds a copy of the policy's weights, and a watch over that copy.

Before each phase of sampling the policy's weights are compared with those that the engine was given, whatever changed
them: an update, a checkpoint, a copy that is lent for the time of an evaluation, another adapter. So nobody has to say
that they changed, and a teacher or a frozen critic may be sampled like the student. After each phase some of the
sampled tokens are scored by the policy itself, and the run ends where the two disagree by more than rounding.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf, log, nan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vpdlab.adapters import adapter_in_use, plain_weights, save_adapter
from vpdlab.batch import collate
from vpdlab.errors import RunFailed
from vpdlab.policy import Policy, end_ids
from vpdlab.samplers import Completion, Sampling
from vpdlab.scoring import token_logp
from vpdlab.types import View

SHELF = "vpdlab-weights-"
CHECKED_ROWS, CHECKED_TOKENS = 4, 256  # what is scored again after each phase: completions, tokens with their contexts
# Mean difference of log-probabilities that rounding explains, nats a token. Measured with smollm2-135m: 5e-6 (at most
# 6e-5) in float32, 0.04 (at most 0.5) where one side or both compute in bfloat16.
BOUND = {"float32": 1e-3, "bfloat16": 0.25}


class Engine(Protocol):
    """vLLM in this process (`engine.LocalEngine`) or behind a URL (`server.ServerEngine`).

    Attributes:
        held: what the weights in it are known by; None at the start.
    """

    held: Any

    def complete(
        self, contexts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, ends: Sequence[int]
    ) -> list[Completion]: ...
    def load(self, path: Path) -> None: ...
    def load_adapter(self, folder: Path) -> None: ...
    def wake(self) -> None: ...
    def sleep(self) -> None: ...


class VLLMSampler:
    """Draws tokens from a policy's weights in a vLLM engine.

    A row is a function of its context, its stream and the weights, up to rounding: the engine computes a row together
    with others, and near a tie the last bit may decide.

    Args:
        dtype: "float32" or "bfloat16", what the engine computes in.
        folder: where new weights lie until the engine has read them; "" for shared memory.
        merged: whether an adapter is merged into the weights; else the engine takes it as an adapter.
    """

    exact = False
    central = True  # with several processes there is one server, which takes all requests in together

    def __init__(self, policy: Policy, engine: Engine, dtype: str, folder: str = "", merged: bool = True) -> None:
        self.engine, self._policy, self._dtype, self._folder, self._merged = engine, policy, dtype, folder, merged
        self._ends = sorted(end_ids(policy.model, policy.tokenizer))
        self._bound = BOUND["float32" if {dtype, policy.config.precision} == {"float32"} else "bfloat16"]

    def generate(
        self, contexts: Sequence[Sequence[int]], streams: Sequence[tuple[int, ...]], sampling: Sampling
    ) -> list[Completion]:
        """One completion a context; see `samplers.Sampler`.

        The engine knows no log-probabilities from before the nucleus: where `top_p` is below 1 they are NaN.

        Raises:
            RunFailed: where what was sampled is not what the policy would sample.
        """
        self.engine.wake()
        try:
            self._bring_up_to_date()
            done = self.engine.complete(contexts, [seed(stream) for stream in streams], sampling, self._ends)
        finally:
            self.engine.sleep()
        self._check(contexts, done, sampling)
        if sampling.top_p < 1 and sampling.temperature > 0:
            done = [replace(one, logps=(nan,) * len(one.ids)) for one in done]
        return done

    # -- weights ---------------------------------------------------------------------------------------------
    def _bring_up_to_date(self) -> None:
        now = (self._merged, content(self._policy))
        if now == self.engine.held:
            return
        self.engine.held = None  # neither the old weights nor the new ones, if this is interrupted
        with torch.no_grad(), _shelf(self._folder, self._policy.model) as shelf:
            if self._merged:
                self._save(shelf / "weights.safetensors")
                self.engine.load(shelf / "weights.safetensors")
            else:
                save_adapter(self._policy.model, shelf)
                self.engine.load_adapter(shelf)
        self.engine.held = now

    def _save(self, path: Path) -> None:
        from safetensors.torch import save_file

        dtype = torch.bfloat16 if self._dtype == "bfloat16" else torch.float32
        found: dict[int, tuple[str, Tensor]] = {}
        for name, value in plain_weights(self._policy.model).items():
            found.setdefault(value.data_ptr(), (name, value))  # a head that is the embeddings is written once
        save_file({name: value.to("cpu", dtype).contiguous() for name, value in found.values()}, path)

    # -- the check -------------------------------------------------------------------------------------------
    def _check(self, contexts: Sequence[Sequence[int]], done: Sequence[Completion], sampling: Sampling) -> None:
        """Score some completions with the policy, and compare."""
        rows = checked([len(context) + len(one.ids) for context, one in zip(contexts, done, strict=True)])
        views = [View(tuple(contexts[row]), done[row].ids) for row in rows]
        temperature = sampling.temperature or 1.0
        # The engine's numbers are those within the nucleus: higher by -log of its mass, which is at least top_p.
        room = -log(sampling.top_p) if sampling.temperature > 0 else 0.0
        batch = collate(views, range(len(views)), self._policy.device)
        with torch.no_grad():
            dist = replace(self._policy.states(batch), temperature=temperature)
            ours = token_logp(dist, batch.tokens, self._policy.config.logit_mib).double().cpu()
        more = torch.tensor([value for row in rows for value in done[row].logps], dtype=torch.float64) - ours
        gap = torch.maximum(more - room, -more).clamp(min=0.0)
        bound = self._bound / min(1.0, temperature)  # a temperature below 1 stretches all differences
        found = gap.mean().item() if gap.isfinite().all() else inf
        if found > bound:
            raise RunFailed(
                f"vLLM's log-probabilities are {found:.2g} nats a token off the policy's own (at most"
                f" {gap.max().item():.2g}), and rounding explains {bound:.2g}: it does not sample the policy's weights"
            )


def seed(stream: tuple[int, ...]) -> int:
    """The engine's seed of a random stream: 63 bits, since vLLM takes a signed number."""
    return int(np.random.SeedSequence(stream).generate_state(1, np.uint64)[0] >> np.uint64(1))


def checked(lengths: Sequence[int]) -> list[int]:
    """Which rows are scored again: the first ones, as many as a small pass takes, at least one."""
    rows, total = [], 0
    for row, length in enumerate(lengths[:CHECKED_ROWS]):
        total += length
        if rows and total > CHECKED_TOKENS:
            break
        rows.append(row)
    return rows


def content(policy: Policy) -> tuple[Any, ...]:
    """What a policy computes with at this moment, in a few numbers: the sum of each weight's bits, and the adapters
    that are switched on. An update changes it, however it was made."""
    sums = []
    for parameter in policy.model.parameters():
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
        sums.append(parameter.detach().view(bits).sum(dtype=torch.int64))
    return (*torch.stack(sums).tolist(), adapter_in_use(policy.model))


@contextmanager
def _shelf(folder: str, model: torch.nn.Module) -> Iterator[Path]:
    """A folder for the time of one transfer: shared memory where there is room, else the folder for temporary files."""
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    memory = Path("/dev/shm")
    parent = Path(folder or tempfile.gettempdir())
    if not folder and memory.is_dir() and shutil.disk_usage(memory).free > 1.1 * size:
        parent = memory
    for old in parent.glob(f"{SHELF}*"):  # of a run that was killed in the middle of a transfer
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > 3600:
                shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=SHELF, dir=parent) as path:
        yield Path(path)
