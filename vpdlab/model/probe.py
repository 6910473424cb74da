"""A check of a freshly loaded model: do the fast passes compute what each row computes when it is read alone?

Sampling pads on the left, keeps a cache and drops rows from it; scoring pads on the right and reads a group's shared
prefix once. Both assume that a token attends to all earlier tokens and nothing else. Whether that holds depends on each
architecture's code, so it is measured on the model itself instead of being looked up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vpdlab.errors import UserError, first_line
from vpdlab.model import passes, traits
from vpdlab.model.batch import TokenBatch, collate
from vpdlab.model.stages import Sharing
from vpdlab.types import View

CLOSE = 1e-4  # tolerance in nats per token; larger for a model with larger rounding errors
LIMIT = 1e-3  # upper limit of the tolerance, whatever the rounding
FLOOR, NOISE = 2e-5, 20  # tolerance of shared prefixes, which only affect speed; tolerance in units of the rounding
SLOPE = 1e-4  # tolerance of the relative distance of two gradients
SHORT, LONG, ROWS = 12, 40, 3  # tokens of the two contexts, and responses to each
RESPONSE = 6
MOST = {"cpu": 1024, "cuda": 8192}  # longest context that is read to exceed an attention window
SLOPES = 1 << 21  # elements of the gradient that is compared
OWN = 3  # tokens at the end of each row's own context
MOST_STAGES = Sharing(worth=0.0, call=0, spared=0.5)
AMPLIFIED = 100.0  # hidden states are scaled by this: a linear head must scale its logits by as much


def examine(
    model: Any, ids: Sequence[int], ends: Sequence[int], longest: int, *, sampled: bool = True, shared: bool = True
) -> bool:
    """Compare the passes of sampling and scoring with each row read alone, in float32.

    Args:
        ids: ordinary token ids to make prompts of.
        ends: ids that end a response; they also stand in prompts.
        longest: tokens of the longest row that the run may make; the check exceeds any shorter attention window.
        sampled: whether the run decodes with this model.
        shared: whether the run wants to read rows in stages.

    Returns:
        Whether stages give the same values and gradients; if not, rows must be read whole.

    Raises:
        UserError: if the model gives different log-probabilities in a batch than alone.
    """
    length, within = _length(model, longest)
    views = _views(ids, ends, length)
    with _float32(model):
        alone = _attempt(model, "a plain pass over one row", lambda: [_alone(model, view) for view in views])
        truth = torch.cat(alone)
        _check_head(model, views[0])
        twice = _attempt(model, "a plain pass over two equal rows", lambda: _alone(model, views[-1], rows=2))
        noise = (twice - alone[-1]).abs().max().item()
        if not noise < LIMIT:  # more than rounding: the tolerances below would be meaningless
            raise _apart(model, "beside an equal row", noise)
        checks = {
            "a batch padded on the right": lambda: _scored(model, collate(views, range(len(views)), model.device))
        }
        if sampled:
            checks["decoding with a cache in a batch padded on the left"] = lambda: _decoded(model, views)
        for name, check in checks.items():
            with torch.no_grad():
                gap = (_attempt(model, name, check) - truth).abs().max().item()
            if not gap < min(max(CLOSE, NOISE * noise), LIMIT):
                raise _apart(model, f"in {name}", gap)
        return shared and within and _shares(model, views, truth, min(max(FLOOR, NOISE * noise), LIMIT))


def _apart(model: Any, where: str, gap: float) -> UserError:
    return UserError(
        f"{_name(model)} gives log-probabilities {gap:.2g} nats apart when a row is read alone and {where}:"
        f" {traits.layer_words(model)} are not plain attention over exactly the earlier tokens (padding, the cache or"
        " other rows change what they compute), so training would be wrong; choose another model"
    )


@torch.no_grad()
def _check_head(model: Any, view: View) -> None:
    """Reject a model whose logits are not hidden states times head (soft-capped or scaled), as scoring assumes.

    Soft-capping hardly affects small logits, so the hidden states are amplified before the head.
    """
    ids = torch.tensor([list(view.context_ids)], device=model.device)
    head, seen = model.get_output_embeddings(), []
    decoder = _attempt(model, "finding its decoder", lambda: passes.decoder_of(model))

    def amplify(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * AMPLIFIED
        seen.append(output.last_hidden_state)
        return output

    handle = decoder.register_forward_hook(amplify)
    try:
        logits = _attempt(model, "a plain pass", lambda: model(input_ids=ids, use_cache=False).logits.float())
    finally:
        handle.remove()
    if not seen or not logits.isfinite().all():
        why = "gives logits that are not finite" if seen else "does not pass through its decoder"
        raise UserError(f"{_name(model)} {why}: choose another model")
    ours = torch.nn.functional.linear(seen[0], head.weight).float()
    close = ours.shape == logits.shape and (ours - logits).abs().max() <= 1e-4 * ours.abs().max()
    if getattr(head, "bias", None) is not None or not close:
        raise UserError(
            f"{_name(model)} changes its logits after the head (a bias, a scale or a soft cap), which scoring does not"
            " support: choose another model"
        )


def _length(model: Any, longest: int) -> tuple[int, bool]:
    """(tokens of the longer context, whether it exceeds every attention window that matters to the run)."""
    most = MOST.get(model.device.type, MOST["cpu"])
    windows = [window for window in traits.windows(model) if window < longest]
    seen = [window for window in windows if window + LONG <= most]
    length = max([LONG, *(window + LONG for window in seen)])
    return max(SHORT, min(length, longest - RESPONSE)), len(seen) == len(windows)


def _views(ids: Sequence[int], ends: Sequence[int], length: int) -> list[View]:
    """Two groups with contexts of different lengths, whose rows have their beginnings in common; responses differ in
    their tokens and in their lengths."""
    stream = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(ids[int(at)] for at in torch.randint(len(ids), (count,), generator=stream))

    views, end = [], tuple(ends[:1])
    for group, size in enumerate((SHORT, length)):
        context = some(size // 2) + end + some(size - size // 2 - len(end))
        for row in range(ROWS):
            response = some(RESPONSE if row % 2 == 0 else RESPONSE // 2)
            own = context[: size - OWN] + some(OWN)
            views.append(View(own, response[: len(response) - len(end)] + end, group=group))
    return views


def _attempt(model: Any, what: str, work: Any) -> Any:
    try:
        return work()
    except torch.OutOfMemoryError:
        raise
    except traits.UNFIT as error:
        raise UserError(
            f"{_name(model)} fails in {what} ({type(error).__name__}: {first_line(error)}): vpdlab needs a causal"
            " decoder whose attention and other layers keep their state in an ordinary cache; choose another model"
        ) from error


def _alone(model: Any, view: View, rows: int = 1) -> Tensor:
    ids = torch.tensor([[*view.context_ids, *view.response_ids]] * rows, device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(view.context_ids) - 1 : -1]
    return _picked(logits, torch.tensor(view.response_ids, device=model.device))


def _scored(model: Any, batch: TokenBatch) -> Tensor:
    head = model.get_output_embeddings().weight
    return _picked(torch.nn.functional.linear(passes.response_states(model, batch), head), batch.tokens)


def _decoded(model: Any, views: Sequence[View]) -> Tensor:
    """The sampler's passes over given responses: prefill, one token at a time, finished rows dropped."""
    device = model.device
    logits, cache, mask, position = passes.prefill(model, [view.context_ids for view in views], device)
    rows, found = torch.arange(len(views), device=device), [[] for _ in views]
    for t in range(RESPONSE):
        token = torch.tensor([views[row].response_ids[t] for row in rows.tolist()], device=device)
        for row, value in zip(rows.tolist(), _picked(logits, token), strict=True):
            found[row].append(value)
        keep = torch.tensor([t + 1 < len(views[row].response_ids) for row in rows.tolist()], device=device)
        if not keep.any():
            break
        if not keep.all():
            passes.select(cache, keep.nonzero()[:, 0])
            rows, token, mask, position = rows[keep], token[keep], mask[keep], position[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = position + 1
        logits = passes.next_logits(model, token[:, None], mask, position[:, None], cache)
    return torch.stack([value for row in found for value in row])


def _shares(model: Any, views: Sequence[View], truth: Tensor, close: float) -> bool:
    """Whether reading rows in stages gives the same log-probabilities and the same gradient."""
    batches = [collate(views, range(len(views)), model.device, share=share) for share in (None, MOST_STAGES)]
    if batches[1].stages is None or len(batches[1].stages.parts) < 3:
        raise ValueError("the probe's rows are not read in three stages")
    try:
        with torch.enable_grad():
            logps = [_scored(model, batch) for batch in batches]
            if not (logps[1] - truth).abs().max().item() < close:
                return False
            slopes = [_slope(model, logp) for logp in logps]
    except torch.OutOfMemoryError:
        raise
    except traits.UNFIT:
        return False  # this model's layers cannot continue from such a cache
    return bool((slopes[1] - slopes[0]).norm() <= SLOPE * slopes[0].norm())


def _slope(model: Any, logp: Tensor) -> Tensor:
    """Gradient of a weighted sum of log-probabilities with respect to the smallest parameters: the norms and biases of
    every layer, which reveal a pass that stops gradients."""
    chosen: list[Tensor] = []
    for parameter in sorted((p for p in model.parameters() if p.requires_grad), key=torch.Tensor.numel):
        if chosen and sum(map(torch.Tensor.numel, chosen)) + parameter.numel() > SLOPES:
            break
        chosen.append(parameter)
    weights = torch.linspace(-1.0, 1.5, len(logp), device=logp.device)
    found = torch.autograd.grad((weights * logp).sum(), chosen, allow_unused=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(chosen, found, strict=True)]
    )


def _picked(logits: Tensor, tokens: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens[:, None])[:, 0]


def _name(model: Any) -> str:
    return type(model).__name__


@contextlib.contextmanager
def _float32(model: Any) -> Iterator[None]:
    """Within the block, weights of lower precision are float32, so that rounding cannot hide a difference; afterwards
    they are exactly as before."""
    low = [p for p in model.parameters() if p.is_floating_point() and p.dtype != torch.float32]
    kinds = [p.dtype for p in low]
    try:
        for p in low:
            p.data = p.data.float()
        yield
    finally:
        for p, kind in zip(low, kinds, strict=True):
            p.data = p.data.to(kind)
