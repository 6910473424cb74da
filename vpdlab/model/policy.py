"""The policy: one network, its optimisers, and the two roles that it plays.

Student and teacher are the same weights on different prompts, unless the teacher has an adapter of its own. All forward
passes of the update go through `token_dist`; all gradients through `backward` and `update`.

The model stays in eval mode: dropout would add noise to the difference of student and teacher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vpdlab import processes
from vpdlab.config import RunConfig
from vpdlab.errors import refuse_handed_in
from vpdlab.model import attention, compiling, sharding
from vpdlab.model.adapters import adapter_layers, add_adapter, check_merge, plain_weights
from vpdlab.model.batch import TokenBatch, minibatches, row_sums
from vpdlab.model.caches import spared
from vpdlab.model.checkpointing import checkpoint_layers, keep_layers
from vpdlab.model.comparison import token_logp
from vpdlab.model.devices import pick_device
from vpdlab.model.distributions import Term, TokenDist
from vpdlab.model.loading import load
from vpdlab.model.passes import layers_of, response_states
from vpdlab.model.probe import examine
from vpdlab.model.saving import rehearse, save
from vpdlab.model.stages import Sharing
from vpdlab.model.traits import check_lengths, end_ids
from vpdlab.model.updates import adamw, set_rate, update
from vpdlab.types import View

STUDENT, TEACHER = "student", "teacher"
Role = Literal["student", "teacher"]
READS = (
    "adapter_rank", "checkpointing", "compile", "device", "e_lr", "grad_clip", "logit_mib", "lora_rank", "lr",
    "max_context", "max_new_tokens", "minibatch_tokens", "model", "precision", "sampler", "seed", "shard", "teacher",
    "teacher_rate", "temperature", "trust_mix", "warmup", "weight_decay",
)  # fmt: skip
"""Settings that a policy and its teacher read: a policy that is passed to a run must have been made with the same."""
FIXED_TOKENS = 16384  # of a minibatch, where `minibatch_tokens` is 0 and memory is not measured
COMPILED_WORTH = 0.6  # `Sharing.worth` where whole rows run compiled, which passes with a cache do not
SAMPLE = 8  # token ids of a small pass that only looks at the model


class Policy:
    """A Hugging Face causal model with what is needed to train it.

    Attributes:
        model, tokenizer: as transformers loads them.
        device: where the model lives.
        version: number of updates of the student's weights.
        updates: number of optimiser steps, the teacher adapter's included.
        longest: maximum tokens of one row, context and response together.
        minibatch_tokens: padded tokens of a minibatch of the update.
        compiled: whether passes run compiled.
        waking: seconds that the first passes on a GPU took, before the first step.
        sharing: when rows are read in stages; None: always whole.
        checkpointed: whether layers are computed again in the backward pass.
        parameters: the student's trainable parameters.
        teacher_parameters: what the E-step trains: the same, or the teacher adapter's parameters.
    """

    def __init__(self, config: RunConfig, model: Any, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        torch.manual_seed(config.seed)  # initial adapter weights
        self.device, self.version, self.updates, self.waking = pick_device(config.device), 0, 0, 0.0
        self.longest = check_lengths(config, model.eval(), self.some_ids())
        if config.shard:  # first of all: the whole model need not fit on the device
            sharding.check_shard(config.shard)
            shares = self._examine(model)
            sharding.shard(model, self.device)
            self.model = model.to(self.device).eval()
        else:
            self.model = model.to(self.device).eval()
            if self.device.type == "cuda" or (self.device.type == "cpu" and config.precision != "float32"):
                attention.install(self.model)
            shares = self._examine(self.model)
        # Sharded layers are gathered pass by pass, in step with other processes: there each minibatch is one pass.
        self.sharing = Sharing(spared=spared(self.model)) if shares and not config.shard else None
        self.decoupled = config.teacher == "adapter"
        for name, rank in ((STUDENT, config.lora_rank), (TEACHER, config.adapter_rank * self.decoupled)):
            if rank:
                add_adapter(self.model, name, rank)
        self._adapters = {STUDENT: STUDENT if config.lora_rank else None, TEACHER: TEACHER if self.decoupled else None}
        self.parameters = self._own(self._adapters[STUDENT])
        self.teacher_parameters = self._own(TEACHER) if self.decoupled else self.parameters
        for role in (STUDENT, TEACHER):
            if self._adapters[role]:
                self._use(role)
                check_merge(self.model, self.some_ids()[:SAMPLE])
        self._use(STUDENT)
        self.compiled = not config.shard and compiling.wanted(config.compile, self.model)
        if self.compiled and self.device.type == "cuda":
            compiling.prepare(self.model, layers_of(self.model))
            self.sharing = self.sharing and Sharing(worth=COMPILED_WORTH)
        self.minibatch_tokens, self.checkpointed = config.minibatch_tokens or FIXED_TOKENS, False
        if config.checkpointing == "on":
            self.checkpoint()
        self.optimizer = adamw(self.parameters, config.lr, config.weight_decay)
        separate, e_lr = self.decoupled or config.e_lr > 0, config.e_lr or config.lr
        self.e_optimizer = adamw(self.teacher_parameters, e_lr, config.weight_decay) if separate else self.optimizer

    @classmethod
    def load(cls, config: RunConfig) -> Policy:
        """Load `config.model` from the bundle, the cache, a folder or a hub.

        Raises:
            UserError: for a model that cannot be found, has no chat template, or is too short for the settings.
        """
        from vpdlab import zoo

        refuse_handed_in("policy", config.model)
        pick_device(config.device)  # a bad name is reported before a model is loaded
        sharding.check_shard(config.shard)
        dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
        return cls(config, *load(config.model, zoo.resolve(config.model), dtype))

    # -- forward -------------------------------------------------------------------------------------------
    def token_dist(self, batch: TokenBatch) -> TokenDist:
        """The distributions at the batch's active response tokens, with gradient where gradients are enabled."""
        with self.autocast():
            hidden = response_states(self.model, batch)
        # Under autocast the head runs as it does in the sampler; the softmax behind it is float32 in any case.
        dtype = torch.bfloat16 if self.config.precision == "bfloat16-mixed" else hidden.dtype
        picked = hidden.to(dtype)
        # Detached (and so pinned to the present storage) where no gradient is wanted: other weights may be lent to
        # the model for the duration of this call only.
        head = self.model.get_output_embeddings().weight
        head = head if torch.is_grad_enabled() else head.detach()
        return TokenDist((Term(picked, head.to(dtype)),), self.config.temperature, self.compiled)

    def token_logp(self, batch: TokenBatch) -> Float[Tensor, " n"]:
        """Log-probability of each active response token."""
        return token_logp(self.token_dist(batch), batch.tokens, self.config.logit_mib)

    def logp(self, batch: TokenBatch) -> Float[Tensor, " b"]:
        """Sum of the response's log-probabilities, per row."""
        return row_sums(self.token_logp(batch), batch)

    def score(
        self, views: Sequence[View], watch: Callable[[TokenBatch, Tensor], None] | None = None
    ) -> Float[Tensor, " b"]:
        """`logp` of all views, walked in minibatches, without gradient.

        Args:
            watch: called with each minibatch and the log-probabilities of its tokens.
        """
        total = torch.zeros(len(views), device=self.device)
        with torch.no_grad():
            for (batch,) in self.minibatches(views):
                logp = self.token_logp(batch)
                total[batch.rows.to(self.device)] = row_sums(logp, batch).to(total.dtype)
                if watch is not None:
                    watch(batch, logp)
        return processes.add(total)

    def minibatches(
        self, *sides: Sequence[View], rows: Sequence[int] | None = None
    ) -> Iterator[tuple[TokenBatch, ...]]:
        """`batch.minibatches` with this policy's token budget and device; of several processes, each walks its share.

        What is added up over the minibatches must then be added up over the processes.
        """
        rows = self._parts(sides, rows)[processes.rank()] if processes.count() > 1 else rows
        # A cache would be filled again when a layer is recomputed: under checkpointing, passes that may have a gradient
        # read their rows whole.
        share = None if self.checkpointed and torch.is_grad_enabled() else self.sharing
        walk = minibatches(*sides, budget=self.minibatch_tokens, rows=rows, device=self.device, share=share)
        return sharding.in_step(list(walk), len(sides), self.device) if self.config.shard else walk

    def whole(self) -> contextlib.AbstractContextManager:
        """Within the block, sampling needs no other process: sharded layers are whole."""
        return sharding.gathered(self.model) if self.config.shard else contextlib.nullcontext()

    def _parts(self, sides: Sequence[Sequence[View]], rows: Sequence[int] | None) -> list[list[int]]:
        """The rows that each process walks."""
        chosen = sorted(range(len(sides[0])) if rows is None else rows)
        tokens = [float(sum(len(side[row]) for side in sides)) for row in chosen]
        return [[chosen[index] for index in share] for share in processes.shares(tokens, processes.count())]

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 arithmetic on float32 weights, where the run asks for it."""
        if self.config.precision == "bfloat16-mixed":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def checkpoint(self, on: bool = True) -> None:
        """Keep only the inputs of the decoder's layers for the backward pass, and compute the rest again there."""
        (checkpoint_layers if on else keep_layers)(self.model)
        self.checkpointed = on

    # -- backward ------------------------------------------------------------------------------------------
    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradient of `loss`."""
        loss.backward()

    def fresh(self) -> None:
        """Clear gradients that an interrupted step may have left."""
        self.model.zero_grad(set_to_none=True)

    def update(self, role: Role) -> float | None:
        """One optimiser step with the accumulated gradient: the M-step's optimiser for the student's role, the E-step's
        for the teacher's (the same one unless `e_lr` or an adapter separates them).

        Returns:
            The gradient norm before clipping; None where it was not finite. Then, and where it is exactly 0, no weight
            changes: momentum and weight decay alone are no learning.
        """
        norm = update(self.optimizer if role == STUDENT else self.e_optimizer, self.config.grad_clip)
        if norm:
            self.updates += 1
            self.version += role == STUDENT or not self.decoupled
        return norm

    def step(self) -> float | None:
        """`update` in the student's role, by its name of version 0.1.0."""
        return self.update(STUDENT)

    def warm_up(self, step: int) -> float:
        """Set the learning rates of iteration `step` (from 1) and return the M-step's."""
        share = min(1.0, step / self.config.warmup) if self.config.warmup else 1.0
        set_rate(self.e_optimizer, (self.config.e_lr or self.config.lr) * share)
        set_rate(self.optimizer, self.config.lr * share)
        return self.config.lr * share

    def probe(self) -> list[float]:
        """One number of each trained weight: equal in all processes unless ranks diverged."""
        everywhere = [p for p in self.parameters if not sharding.sharded(p)]
        return torch.stack([p.detach().reshape(-1)[0].float() for p in everywhere]).tolist()

    # -- what the model allows -----------------------------------------------------------------------------
    def _examine(self, model: Any) -> bool:
        """Whether shared prefixes may be read once. Raises UserError for a model whose passes disagree."""
        config, ids = self.config, self.some_ids()
        length = min(self.longest, (config.max_context or self.longest) + config.max_new_tokens)
        ends = sorted(end_ids(model, self.tokenizer))
        own = config.sampler == "transformers"
        return examine(model, ids, ends, length, sampled=own, shared=not config.shard)

    def some_ids(self) -> list[int]:
        """Ordinary tokens, none that the tokenizer marks as special."""
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return [id for id in range(len(self.tokenizer)) if id not in special][:1000]

    # -- roles ---------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Play the teacher: with an adapter of its own, switch it on and let gradients reach nothing else."""
        if not self.decoupled:
            yield
            return
        self._use(TEACHER)
        try:
            yield
        finally:
            self._use(STUDENT)

    def save(self, folder: Path) -> None:
        """Write the student as an ordinary Hugging Face folder; adapters are merged into a copy of the weights.

        Of several processes all must call this, since each may hold a part of the weights; rank 0 writes.
        """
        plain = self._plain()
        if processes.main():
            save(self.model, self.tokenizer, plain, folder)

    def rehearse(self, folder: Path) -> None:
        """Everything that `save` will do at the end of a run in `folder`, but for writing tensors.

        Raises:
            UserError: where the student could not be saved.
        """
        plain = self._plain()
        processes.by_main(lambda: rehearse(self.model, self.tokenizer, plain, folder))

    def _plain(self) -> dict[str, Tensor]:
        return {name: sharding.whole(value) for name, value in plain_weights(self.model).items()}

    def _use(self, role: str) -> None:
        adapter = self._adapters[role]
        for layer in adapter_layers(self.model).values():
            layer.enable_adapters(adapter is not None)
            if adapter is not None:
                layer.set_adapter(adapter)
        self.model.requires_grad_(False)
        for parameter in self.parameters if role == STUDENT else self.teacher_parameters:
            parameter.requires_grad_(True)

    def _own(self, adapter: str | None) -> list[torch.nn.Parameter]:
        if adapter is None:
            return [p for name, p in self.model.named_parameters() if ".lora_" not in name]
        return [p for name, p in self.model.named_parameters() if f".{adapter}." in name and ".lora_" in name]
