"""Critique influence: which sentence of the feedback moved which token of the response.

The same response is scored under many teacher prompts: with the whole critique, without any of it, without each
sentence, with others in its place. What changes at token t is log q(y_t), the teacher's log-probability of the token
that the student wrote, and the whole distribution, measured as KL.

Two ways to share the effect out among n sentences:
  leave-one-out   log q(y_t | C) - log q(y_t | C without sentence i): n prompts. Sentences that say the same hide each
                  other, so these need not add up to the effect of the whole critique; what is missing is the gap.
  Shapley values  the mean over all orders in which the sentences could have been said: 2^n prompts, adds up exactly.

All prompts go through the pieces that training uses: `Renderer.teacher`, `batch`, `Teacher.states`, `scoring`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import comb
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vpdlab.batch import collate
from vpdlab.errors import UserError
from vpdlab.policy import Policy
from vpdlab.prompts import Renderer
from vpdlab.scoring import Support, TokenDist, compare
from vpdlab.teacher import Teacher
from vpdlab.types import Feedback, Problem, View

MOST_SENTENCES = 32
MOST_FOR_SHAPLEY = 8
_MOST_SEGMENTED = 20_000  # characters; the segmenter's time grows faster than the text


def sentences(text: str, most: int = MOST_SENTENCES) -> list[str]:
    """The sentences of a text, white space included, so that joined they are the text again.

    Args:
        most: where there are more, neighbours are joined until so many are left.

    >>> sentences("The tens digit is wrong. The ones digit 7 is right.")
    ['The tens digit is wrong. ', 'The ones digit 7 is right.']
    """
    parts: list[str] = _segmenter()(text) if len(text) <= _MOST_SEGMENTED else []
    if "".join(parts) != text:  # the segmenter promises it, but text from a model can be anything
        parts = re.findall(r".+?(?:[.!?]\s+|\n+|\Z)\s*", text, re.DOTALL) or [text]
    joined: list[str] = []
    for part in parts:  # white space alone is no sentence
        if joined and (not part.strip() or not joined[-1].strip()):
            joined[-1] += part
        else:
            joined.append(part)
    while len(joined) > most:
        at = min(range(len(joined) - 1), key=lambda i: len(joined[i]) + len(joined[i + 1]))
        joined[at : at + 2] = [joined[at] + joined[at + 1]]
    return [part for part in joined if part.strip()]


@cache
def _segmenter() -> Callable[[str], Any]:
    import pysbd

    return pysbd.Segmenter(language="en", clean=False).segment


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

    Nothing of the model changes. Must not run while another thread trains it.

    Args:
        policy, teacher, render: of an open run: `run.learner.policy, run.learner.teacher, run.render`.
        record: a rollout of a run's record (`load_run(folder).rollouts(step)`), with feedback.
        part: "critique" or "demonstration"; by default what the record has, the critique first. The other part stays
            in every prompt as it is.
        others: texts to put in the critique's place, by name: a critique of another rollout, the user's own words.
        shapley: exact Shapley values for at most so many sentences (2^n prompts); 0 leaves them out.
        seed: of the order in which the sentences are shuffled.

    Returns:
        Plain data for `vpdlab_widgets.CritiqueInfluence`. Per response token, in nats: `logp` under the whole critique,
        `empty_logp` under none, `student_logp`; `total` = logp - empty_logp and `total_kl`; `drop` and `drop_kl`
        [sentences, tokens]; `shapley` [sentences, tokens] or null with a `shapley_reason`; `gap` = total - sum of drop;
        `variants` with `delta` = logp - that variant's, and `kl`. KL is KL(q with the whole critique || q with the
        variant) over the full vocabulary. `cut` names the prompts that had to be truncated.

    Raises:
        UserError: for a record without feedback or without response.
    """
    started = time.perf_counter()
    part = part or ("critique" if record.get("critique") else "demonstration")
    text = record.get(part) or ""
    response: tuple[int, ...] = tuple(record.get("response_ids") or ())
    pieces = sentences(text)
    if not pieces or not response:
        raise UserError(f"this rollout has no {part if response else 'response'} to take apart")
    problem = Problem(
        record["problem_id"], record["prompt"], record.get("answer") or "", system=record.get("system") or ""
    )
    note = Feedback(record.get("critique") or None, record.get("demonstration") or None)
    n = len(pieces)
    whole = 2**n - 1
    exact = n <= shapley
    masks = list(range(2**n)) if exact else [0, *(whole & ~(1 << i) for i in range(n)), whole]
    named = {"shuffled": shuffled(pieces, seed)} | {name: other for name, other in dict(others or ()).items() if other}
    texts = [_kept(pieces, mask) for mask in masks] + list(named.values())
    views = [_view(render, problem, replace(note, **{part: chosen.strip() or None}), response) for chosen in texts]
    logp, kl = _score(policy, teacher, views, base=masks.index(whole))
    at = {mask: row for row, mask in enumerate(masks)}
    full, empty = logp[at[whole]], logp[at[0]]
    dropped = [at[whole & ~(1 << i)] for i in range(n)]
    drop = full - logp[dropped]
    values = _shapley(logp, at, n) if exact else None
    labels = ["no " + part, "the whole " + part, *(f"without sentence {i + 1}" for i in range(n)), *named]
    rows = [at[0], at[whole], *dropped, *range(len(masks), len(texts))]
    return {
        **{key: record.get(key) for key in ("step", "problem_id", "group", "index", "prompt", "text", "success")},
        "tokens": [policy.tokenizer.decode([token]) for token in response],
        "part": part,
        "critique": text,
        "sentences": pieces,
        "student_logp": _student(policy, record, response),
        "logp": full.tolist(),
        "empty_logp": empty.tolist(),
        "total": (full - empty).tolist(),
        "total_kl": kl[at[0]].tolist(),
        "drop": drop.tolist(),
        "drop_kl": kl[dropped].tolist(),
        "gap": (full - empty - drop.sum(0)).tolist(),
        "shapley": None if values is None else values.tolist(),
        "shapley_reason": "" if exact else f"{n} sentences: exact values are taken for at most {shapley}",
        "variants": [
            {
                "name": name,
                "text": named[name],
                "delta": (full - logp[len(masks) + place]).tolist(),
                "kl": kl[len(masks) + place].tolist(),
            }
            for place, name in enumerate(named)
        ],
        "cut": [label for label, row in zip(labels, rows, strict=True) if views[row].truncated],
        "prompts": len(views),
        "seconds": time.perf_counter() - started,
    }


def rescorer(
    policy: Policy, teacher: Teacher, render: Renderer, record: Mapping[str, Any], **options: Any
) -> Callable[[str], dict[str, Any]]:
    """For the button of `vpdlab_widgets.CritiqueInfluence`: the influence of other words on the same response.

    The recorded critique is among the variants, so the widget shows how far the new words are from it.
    """
    part = options.pop("part", "") or ("critique" if record.get("critique") else "demonstration")
    others = {f"the recorded {part}": record.get(part) or "", **options.pop("others", {})}

    def rescore(text: str) -> dict[str, Any]:
        return critique_influence(policy, teacher, render, {**record, part: text}, part=part, others=others, **options)

    return rescore


def swapped(record: Mapping[str, Any], records: Sequence[Mapping[str, Any]], part: str = "critique") -> str | None:
    """The critique of another problem's rollout, for `others`: what the teacher makes of words on something else."""
    own = record.get(part)
    return next(
        (r[part] for r in records if r["problem_id"] != record["problem_id"] and r[part] not in (None, own)), None
    )


def shuffled(pieces: Sequence[str], seed: int) -> str:
    """The sentences in another order; of a single sentence, its words."""
    single = len(pieces) == 1
    parts = pieces[0].split() if single else [piece.strip() for piece in pieces]
    rng = np.random.default_rng(seed)
    order = list(range(len(parts)))
    for _ in range(20):  # a shuffle may well change nothing
        rng.shuffle(order)
        if [parts[i] for i in order] != parts:
            break
    return " ".join(parts[i] for i in order)


def _kept(pieces: Sequence[str], mask: int) -> str:
    return "".join(piece for i, piece in enumerate(pieces) if mask >> i & 1)


def _view(render: Renderer, problem: Problem, note: Feedback, response: tuple[int, ...]) -> View:
    context, cut = render.teacher(problem, note)
    return View(context, response, cut, group=0)


def _score(policy: Policy, teacher: Teacher, views: Sequence[View], base: int) -> tuple[Tensor, Tensor]:
    """([views, R] log q of each token, [views, R] KL(q of view `base` || q of the view)), in double precision."""
    length = len(views[base].response_ids)
    logp = torch.zeros(len(views), length, dtype=torch.float64)
    kl = torch.zeros_like(logp)
    with torch.no_grad():
        reference = teacher.states(collate(views, [base], policy.device))
        for (batch,) in policy.minibatches(views):
            again = torch.arange(length, device=policy.device).repeat(len(batch.rows))
            found = compare(
                _rows(reference, again), teacher.states(batch), batch.tokens, Support("sampled"), 1.0,
                policy.config.logit_mib,
            )  # fmt: skip
            logp[batch.rows] = found.teacher_logp.double().cpu().view(-1, length)
            kl[batch.rows] = found.kl.double().cpu().view(-1, length)
    return logp, kl.clamp(min=0)  # rounding may leave a zero below zero


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


def _student(policy: Policy, record: Mapping[str, Any], response: tuple[int, ...]) -> list[float] | None:
    """Log-probabilities on the plain prompt, by the present weights."""
    if not record.get("prompt_ids"):
        return None
    with torch.no_grad():
        return policy.token_logp(collate([View(tuple(record["prompt_ids"]), response)], [0], policy.device)).tolist()
