"""The influence of each sentence: the texts that are scored, and the numbers made of their scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import comb
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vpdlab.errors import UserError
from vpdlab.model.batch import collate
from vpdlab.model.comparison import Support, compare_tokens
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import Policy
from vpdlab.model.teacher import Teacher
from vpdlab.model.traits import closed_vocabulary
from vpdlab.prompts import Renderer
from vpdlab.study.influence.sentences import sentences, shuffled
from vpdlab.types import Feedback, Problem, View

MOST_FOR_SHAPLEY = 8


def critique_influence(
    policy: Policy,
    teacher: Teacher,
    render: Renderer,
    record: Mapping[str, Any],
    *,
    part: str = "",
    others: Mapping[str, str] | None = None,
    shapley: int = MOST_FOR_SHAPLEY,
    seed: int = 0,
) -> dict[str, Any]:
    """How each sentence of a rollout's feedback moved the teacher at each token of the response.

    The model is not changed. Must not run while another thread trains it.

    Args:
        policy, teacher, render: of an open run: `run.learner.policy, run.learner.teacher, run.render`.
        record: a rollout of a run's record (`load_run(folder).rollouts(step)`), with feedback.
        part: "critique" or "demonstration"; default: the critique if there is one. The other one stays as it is.
        others: name -> text to put in the critique's place: a critique of another rollout, the user's own text.
        shapley: largest number of sentences for which exact Shapley values are computed (2^n prompts); 0: never.
        seed: of the order in which the sentences are shuffled.

    Returns:
        Plain data for `vpdlab_widgets.CritiqueInfluence`; `vpdlab.study.influence` describes its numbers.

    Raises:
        UserError: the record has no feedback or no response.
    """
    started = time.perf_counter()
    part = part or _recorded_part(record)
    pieces, response = _to_analyse(record, part)
    named = {"shuffled": shuffled(pieces, seed)} | {name: text for name, text in dict(others or ()).items() if text}
    plan = _Plan(pieces, named, shapley)
    views = [_view(render, record, part, text, response) for text in plan.texts]
    return {
        **_described(policy, record, part, pieces, response) | {"cut": plan.cut(views, part)},
        **_effects(plan, *_score(policy, teacher, views, base=plan.whole_row)),
        "seconds": time.perf_counter() - started,
    }


@dataclass(frozen=True)
class _Response:
    """A recorded response.

    Attributes:
        ids: all its tokens.
        mask: which of them the policy wrote itself; () where it wrote all of them.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]

    @property
    def own(self) -> list[int]:
        """The policy's own tokens: the R of every result."""
        return [token for token, own in zip(self.ids, self.mask or (True,) * len(self.ids), strict=True) if own]


def _to_analyse(record: Mapping[str, Any], part: str) -> tuple[tuple[str, ...], _Response]:
    """The sentences of a part of the feedback, and the response. Raises UserError where one is missing."""
    pieces = tuple(sentences(record.get(part) or ""))
    response = _Response(tuple(record.get("response_ids") or ()), tuple(record.get("mask") or ()))
    if not pieces or not response.own:
        raise UserError(f"this rollout has no {part if response.own else 'response'} to analyse")
    return pieces, response


def _recorded_part(record: Mapping[str, Any]) -> str:
    return "critique" if record.get("critique") else "demonstration"


@dataclass(frozen=True)
class _Plan:
    """The texts to score, a row each: subsets of the n sentences, then the variants.

    Attributes:
        pieces: the sentences.
        variants: name -> a text in place of all sentences.
        shapley: for at most this many sentences all 2^n subsets; for more only none, all, and all but one.
    """

    pieces: tuple[str, ...]
    variants: Mapping[str, str]
    shapley: int

    @property
    def exact(self) -> bool:
        return len(self.pieces) <= self.shapley

    @cached_property
    def rows(self) -> dict[int, int]:
        """Subset, as a bit mask over the sentences -> its row."""
        n, whole = len(self.pieces), self._whole
        masks = range(2**n) if self.exact else [0, *(whole & ~(1 << i) for i in range(n)), whole]
        return {mask: row for row, mask in enumerate(masks)}

    @property
    def _whole(self) -> int:
        return 2 ** len(self.pieces) - 1

    @property
    def whole_row(self) -> int:
        return self.rows[self._whole]

    @property
    def dropped_rows(self) -> list[int]:
        """Row of the text without sentence i, for each i."""
        return [self.rows[self._whole & ~(1 << i)] for i in range(len(self.pieces))]

    @property
    def variant_rows(self) -> list[int]:
        return list(range(len(self.rows), len(self.rows) + len(self.variants)))

    @property
    def texts(self) -> list[str]:
        subsets = ["".join(piece for i, piece in enumerate(self.pieces) if mask >> i & 1) for mask in self.rows]
        return [*subsets, *self.variants.values()]

    def cut(self, views: Sequence[View], part: str) -> list[str]:
        """Names of the prompts that were truncated."""
        without = [f"without sentence {i + 1}" for i in range(len(self.pieces))]
        labels = [f"no {part}", f"the whole {part}", *without, *self.variants]
        rows = [self.rows[0], self.whole_row, *self.dropped_rows, *self.variant_rows]
        return [label for label, row in zip(labels, rows, strict=True) if views[row].truncated]


def _effects(plan: _Plan, logp: Float[Tensor, "t r"], kl: Float[Tensor, "t r"]) -> dict[str, Any]:
    """The numbers of the result, from those of each text."""
    full, empty = logp[plan.whole_row], logp[plan.rows[0]]
    drop = full - logp[plan.dropped_rows]
    reason = "" if plan.exact else f"{len(plan.pieces)} sentences: exact values only for at most {plan.shapley}"
    return {
        "logp": full.tolist(),
        "empty_logp": empty.tolist(),
        "total": (full - empty).tolist(),
        "total_kl": kl[plan.rows[0]].tolist(),
        "drop": drop.tolist(),
        "drop_kl": kl[plan.dropped_rows].tolist(),
        "gap": (full - empty - drop.sum(0)).tolist(),
        "shapley": _shapley(logp, plan.rows, len(plan.pieces)).tolist() if plan.exact else None,
        "shapley_reason": reason,
        "prompts": len(logp),
        "variants": [
            {"name": name, "text": text, "delta": (full - logp[row]).tolist(), "kl": kl[row].tolist()}
            for (name, text), row in zip(plan.variants.items(), plan.variant_rows, strict=True)
        ],
    }


def _described(
    policy: Policy, record: Mapping[str, Any], part: str, pieces: Sequence[str], response: _Response
) -> dict[str, Any]:
    """What the result repeats of the rollout."""
    return {
        **{key: record.get(key) for key in ("step", "problem_id", "group", "index", "prompt", "text", "success")},
        "tokens": [policy.tokenizer.decode([token]) for token in response.own],
        "part": part,
        "critique": record.get(part) or "",
        "sentences": list(pieces),
        "student_logp": _student(policy, record, response),
    }


@dataclass(frozen=True)
class Rescorer:
    """Scores another text in a critique's place.

    Attributes:
        influence: from the text to what `critique_influence` returns; a call of the rescorer is a call of it.
        unknown_words: from the text to those of its words that the model's vocabulary lacks; None for a model whose
            vocabulary is open (`traits.closed_vocabulary`).
    """

    influence: Callable[[str], dict[str, Any]]
    unknown_words: Callable[[str], list[str]] | None = None

    def __call__(self, text: str) -> dict[str, Any]:
        """The influence of `text`."""
        return self.influence(text)


def rescorer(policy: Policy, teacher: Teacher, render: Renderer, record: Mapping[str, Any], **options: Any) -> Rescorer:
    """For the editor of `vpdlab_widgets.CritiqueInfluence`: the influence of another text on the same response.

    The recorded critique is among the variants, so the widget shows how far the new text is from it.
    """
    part = options.pop("part", "") or _recorded_part(record)
    others = {f"the recorded {part}": record.get(part) or "", **options.pop("others", {})}

    def rescore(text: str) -> dict[str, Any]:
        return critique_influence(policy, teacher, render, {**record, part: text}, part=part, others=others, **options)

    return Rescorer(rescore, render.encoder.unknown_words if closed_vocabulary(policy.model) else None)


def _view(render: Renderer, record: Mapping[str, Any], part: str, text: str, response: _Response) -> View:
    """The teacher's view of the response with `text` as its critique or demonstration."""
    problem = Problem(
        record["problem_id"], record["prompt"], record.get("answer") or "", system=record.get("system") or ""
    )
    note = Feedback(record.get("critique") or None, record.get("demonstration") or None)
    context, cut = render.teacher(problem, replace(note, **{part: text.strip() or None}))
    return View(context, response.ids, cut, group=0, mask=response.mask)


def _score(policy: Policy, teacher: Teacher, views: Sequence[View], base: int) -> tuple[Tensor, Tensor]:
    """(log q of each own token, KL(q of view `base` || q of the view)), each [views, R] in double precision."""
    whole = collate(views, [base], policy.device)
    length = len(whole.tokens)
    logp = torch.zeros(len(views), length, dtype=torch.float64)
    kl = torch.zeros_like(logp)
    with torch.no_grad():
        reference = teacher.token_dist(whole)
        for (batch,) in policy.minibatches(views):
            again = torch.arange(length, device=policy.device).repeat(len(batch.rows))
            found = compare_tokens(
                _rows(reference, again), teacher.token_dist(batch), batch.tokens, Support("sampled"), 1.0,
                policy.config.logit_mib,
            )  # fmt: skip
            logp[batch.rows] = found.teacher_logp.double().cpu().view(-1, length)
            kl[batch.rows] = found.kl.double().cpu().view(-1, length)
    return logp, kl.clamp(min=0)  # rounding may make a zero negative


def _rows(dist: TokenDist, rows: Int[Tensor, " n"]) -> TokenDist:
    return replace(dist, terms=tuple(replace(term, hidden=term.hidden[rows]) for term in dist.terms))


def _shapley(logp: Tensor, at: Mapping[int, int], n: int) -> Tensor:
    """[n, R] exact Shapley values of the n sentences for log q at each token."""
    values = torch.zeros(n, logp.shape[1], dtype=logp.dtype)
    for i in range(n):
        for mask in range(2**n):
            if not mask >> i & 1:
                share = 1 / (n * comb(n - 1, mask.bit_count()))
                values[i] += share * (logp[at[mask | 1 << i]] - logp[at[mask]])
    return values


def _student(policy: Policy, record: Mapping[str, Any], response: _Response) -> list[float] | None:
    """Log-probabilities on the plain prompt under the current weights."""
    if not record.get("prompt_ids"):
        return None
    view = View(tuple(record["prompt_ids"]), response.ids, mask=response.mask)
    with torch.no_grad():
        return policy.token_logp(collate([view], [0], policy.device)).tolist()
