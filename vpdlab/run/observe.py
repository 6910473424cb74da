"""What an iteration leaves on disk: its line of metrics.jsonl and its rollouts.

Nothing here runs the model: it only reads what the iteration returned, and what a watch saw of its M-step.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.config import RunConfig
from vpdlab.learn.iterate import Iteration
from vpdlab.learn.m_step import Seen
from vpdlab.learn.results import EStep, MStep
from vpdlab.learn.state import Batch
from vpdlab.model.comparison import top_lists
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import STUDENT
from vpdlab.prompts import Renderer
from vpdlab.record import METRICS
from vpdlab.study.anatomy import rollout_terms, token_terms
from vpdlab.types import Feedback, Rollout, View

TELEMETRY = ("kl", "student_entropy", "teacher_entropy")  # columns that `record_telemetry` fills


class TokenWatch:
    """Keeps the per-token numbers of the first rows of a batch, as the M-step computes them (`iterate.Watch`).

    Args:
        tokenizer: to give each token its text.
        rows: how many rows of the batch are kept.
        top: length of the lists of likeliest tokens.
        mib: memory of one chunk of logits.
        on_sampled: called with the step and its verified rollouts, before feedback is asked for.
    """

    def __init__(
        self, tokenizer: Any, rows: int, top: int, mib: int,
        on_sampled: Callable[[int, Sequence[Rollout]], None] | None = None,
    ) -> None:  # fmt: skip
        self._tokenizer, self._rows, self._top, self._mib = tokenizer, rows, top, mib
        self._on_sampled = on_sampled
        self.kept: dict[int, dict[str, Any]] = {}

    def sampled(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Hand the rollouts on."""
        if self._on_sampled is not None:
            self._on_sampled(step, rollouts)

    def tokens(self, seen: Seen, dists: Mapping[str, TokenDist]) -> None:
        """Keep the numbers of the rows that are wanted."""
        lengths = seen.view.mask.sum(1).tolist()
        start = 0
        for place, (row, length) in enumerate(zip(seen.view.rows.tolist(), lengths, strict=True)):
            span = torch.arange(start, start + length, device=seen.logp.device)
            start += length
            if row < self._rows:
                spoken = seen.found is not None and bool(seen.batch.signal[row])
                shown = dists if spoken else {"student": dists["student"]}
                own = seen.batch.rollouts[row].tokens.mask
                numbers, tops = self._numbers(seen, span, spoken), self._tops(shown, span)
                numbers |= token_terms(seen, shown, place, span)
                self.kept[row] = {name: _spread(values, own, None) for name, values in numbers.items()}
                self.kept[row] |= {name: _spread(values, own, ()) for name, values in tops.items()}

    def _numbers(self, seen: Seen, span: Tensor, spoken: bool) -> dict[str, Any]:
        """What student and teacher gave at each token; the teacher's only where there was feedback to show it."""
        numbers = {"student_logp": seen.logp, "student_entropy": seen.entropy}
        if spoken:
            names = ("teacher_logp", "kl", "divergence", "teacher_entropy")
            numbers |= {name: getattr(seen.both, name) for name in names}
        if not seen.config.record_telemetry:
            numbers = {name: values for name, values in numbers.items() if name not in TELEMETRY}
        return {name: values.detach()[span].tolist() for name, values in numbers.items()}

    def _tops(self, sides: Mapping[str, TokenDist], span: Tensor) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for side, (ids, logp) in top_lists(sides, span, self._top, self._mib).items():
            out[f"{side}_top_ids"], out[f"{side}_top_logp"] = ids.tolist(), logp.tolist()
            out[f"{side}_top"] = [self.words(row) for row in ids.tolist()]
        return out

    def finished(self) -> None:
        """With several processes, gather what each has seen: rank 0 records it."""
        self.kept = {row: numbers for kept in processes.gather(self.kept) for row, numbers in kept.items()}

    def words(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself (a part of a character shows as its replacement mark)."""
        return [self._tokenizer.decode([token]) for token in ids]


def _spread(values: Sequence[Any], own: Sequence[bool], gap: Any) -> list[Any]:
    """One value per response token, from those of the policy's own tokens; `gap` for the others."""
    found = iter(values)
    return [next(found) if mine else gap for mine in own]


def rollout_records(it: Iteration, watch: TokenWatch, render: Renderer, config: RunConfig) -> list[dict[str, Any]]:
    """One plain dict per rollout, with the columns of `record.COLUMNS` (and TOKEN_COLUMNS where kept)."""
    batch, m = it.batch, it.m
    place = {(rollout.group, rollout.index): row for row, rollout in enumerate(batch.rollouts)}
    answers = {(answer.group, answer.index): answer for answer in (it.answers.rollouts if it.answers else ())}
    same = batch.sampled_from == STUDENT  # else the M-step's numbers are of other responses
    terms, records = rollout_terms(it.rollouts, it.feedback, config), []
    for rollout, note, own in zip(it.rollouts, it.feedback, terms, strict=True):
        record = _outcome_columns(it.step, rollout, note, render) | own
        row = place.get((rollout.group, rollout.index))
        if answer := answers.get((rollout.group, rollout.index)):
            record |= {"teacher_text": answer.text, "teacher_reward": answer.verified.reward}
        if row is not None and note.signal and batch.teacher:
            record |= {
                "teacher_prompt": _teacher_prompt(render, rollout, note, batch.teacher[row]),
                "teacher_ids": list(batch.teacher[row].context_ids),
                "truncated": batch.teacher[row].truncated,
            }
            record["teacher_context"] = watch.words(batch.teacher[row].context_ids) if row in watch.kept else None
        if row is not None and m.student_logp is not None and same:
            record |= _sums(m, row, note.signal, it.beta)
        if row is not None and row in watch.kept and same:
            record |= watch.kept[row] | {
                "tokens": watch.words(rollout.response_ids),
                "student_context": watch.words(rollout.prompt_ids),
            }
        records.append(record)
    return records


def _sums(m: MStep, row: int, signal: bool, beta: float) -> dict[str, float]:
    """Log-probabilities of the whole response, and the implicit reward where there is a teacher with feedback."""
    assert m.student_logp is not None
    student = m.student_logp[row].item()
    if m.teacher_logp is None or not signal:
        return {"student_sum": student}
    teacher = m.teacher_logp[row].item()
    return {"student_sum": student, "teacher_sum": teacher, "implicit_reward": beta * (teacher - student)}


def _teacher_prompt(render: Renderer, rollout: Rollout, note: Feedback, view: View) -> str:
    """What the teacher read: its user turn; where that was cut or changed on the way, the whole context as it was."""
    text, read = render.teacher_text(rollout.problem, note), render.tokenizer.decode(view.context_ids)
    return text if text.strip() in read and not view.truncated else read


def sampled_records(step: int, rollouts: Sequence[Rollout], render: Renderer) -> list[dict[str, Any]]:
    """The records of rollouts that no critic has been asked about yet."""
    pending = Feedback(reason="the critic was not asked yet")
    return [_outcome_columns(step, rollout, pending, render) for rollout in rollouts]


def _outcome_columns(step: int, rollout: Rollout, note: Feedback, render: Renderer) -> dict[str, Any]:
    """What was asked, answered and said. The prompt is recorded as it was read."""
    problem, outcome = rollout.problem, rollout.verified
    system, prompt = render.read(problem)
    return {
        "step": step,
        "problem_id": problem.id,
        "group": rollout.group,
        "index": rollout.index,
        "system": system,
        "prompt": prompt,
        "answer": problem.answer,
        "text": rollout.text,
        "parsed": outcome.answer,
        "reward": outcome.reward,
        "success": outcome.success,
        "finished": rollout.finished,
        "environment": outcome.notes,
        "critique": render.as_data(note.critique),
        "demonstration": render.as_data(note.demonstration),
        "source": note.source,
        "reason": note.reason,
        "signal": note.signal,
        "leaked": note.leaked,
        "noise": note.noise,
        "prompt_ids": list(rollout.prompt_ids),
        "response_ids": list(rollout.response_ids),
        "logps": list(rollout.logps),
        "mask": list(rollout.mask) or None,
        "feedback_turn": note.turn,
        **_turn_columns(rollout),
    }


def _turn_columns(rollout: Rollout) -> dict[str, Any]:
    """The turns of an episode: who spoke, what, and where in the response the turn ends."""
    if not rollout.turns:
        return {}
    return {
        "turn_roles": [turn.role for turn in rollout.turns],
        "turn_texts": [turn.text for turn in rollout.turns],
        "turn_ends": [turn.end for turn in rollout.turns],
    }


def teacher_drift(batch: Batch, e: EStep, m: MStep) -> float | None:
    """How far the E-step moved the teacher: mean over rollouts of |change of log q(y|x,C)| / tokens, in nats per token.

    None where no E-step ran. Where the M-step's teacher computes with the very weights that the E-step trains, its
    pass has scored them after the E-step; otherwise the E-step did so itself, of some rollouts.
    """
    after = e.teacher_logp_after
    if after is None and m.teacher_logp is not None:
        after = m.teacher_logp[batch.signal]
    if e.teacher_logp is None or e.lengths is None or after is None:
        return None
    seen = len(after)
    return ((after - e.teacher_logp[:seen]).abs() / e.lengths[:seen]).mean().item()


def margin(batch: Batch, m: MStep, beta: float) -> float | None:
    """Mean implicit reward of successes minus that of failures, of rollouts with feedback; None if one is absent."""
    if m.student_logp is None or m.teacher_logp is None:
        return None
    reward = losses.implicit_reward(m.teacher_logp, m.student_logp, beta)
    return losses.margin(reward[batch.signal], batch.success[batch.signal])


def metrics_row(it: Iteration) -> dict[str, Any]:
    """A line of metrics.jsonl (without its warnings): what does not exist at this step is None."""
    row = {
        "step": it.step,
        **_rollout_numbers(it.rollouts, it.answers.rollouts if it.answers is not None else ()),
        **_critic_numbers(it),
        **_learning_numbers(it.batch, it.e, it.m, it.beta),
        "signal_share": sum(one.signal for one in it.feedback) / len(it.feedback),
        "lr": it.lr,
        "mismatch_max": it.mismatch.worst if it.mismatch else None,
        "mismatch_mean": it.mismatch.mean if it.mismatch else None,
        "mismatch_kl": it.mismatch.kl if it.mismatch else None,
        **{f"seconds_{phase}": seconds for phase, seconds in it.seconds.items()},
        "peak_memory_mib": peak_memory_mib(it.batch.success.device),
        "notes": _notes({"E-step": it.e.reason, "M-step": it.m.reason}),
    }
    return {key: row[key] for key in METRICS if key in row}


def _rollout_numbers(rollouts: Sequence[Rollout], answers: Sequence[Rollout]) -> dict[str, Any]:
    count, outcomes = len(rollouts), [rollout.verified for rollout in rollouts]
    tokens = sum(rollout.own_tokens for rollout in rollouts)
    return {
        "reward": sum(outcome.reward for outcome in outcomes) / count,
        "success_rate": sum(outcome.success for outcome in outcomes) / count,
        "length": tokens / count,
        "unfinished": sum(not rollout.finished for rollout in rollouts) / count,
        "tokens_rollout": tokens + sum(answer.own_tokens for answer in answers),
        "teacher_rollouts": len(answers) or None,
        "teacher_success_rate": sum(answer.success for answer in answers) / len(answers) if answers else None,
    }


def _critic_numbers(it: Iteration) -> dict[str, Any]:
    judged = any(one.leaked is not None for one in it.feedback)
    return {
        "critiques": sum("critique" in one.source for one in it.feedback) if judged else None,
        "leaked": sum(one.leaked is True for one in it.feedback) if judged else None,
        "critic_loss": it.critic_loss,
    }


def _learning_numbers(batch: Batch, e: EStep, m: MStep, beta: float) -> dict[str, Any]:
    return {
        "entropy": m.entropy,
        "kl": m.kl,
        "kl_teacher": m.kl_teacher,
        "margin": margin(batch, m, beta),
        "delta": e.delta,
        "beta": beta,
        "e_loss": e.loss,
        "m_loss": m.loss,
        "n_success": int(batch.success[batch.signal].sum()),
        "n_failure": int((~batch.success)[batch.signal].sum()),
        "teacher_drift": teacher_drift(batch, e, m),
        "truncated": sum(view.truncated > 0 for view in batch.teacher),
        "skipped": e.skipped + m.skipped,
        "grad_norm": m.grad_norm,
        "e_updates": e.updates if e.loss is not None else None,
        "tokens_e": e.tokens if e.loss is not None else None,
        "tokens_m": m.tokens if m.loss is not None else None,
    }


def _notes(reasons: Mapping[str, str]) -> str | None:
    said = [f"{phase} did not run: {reason}" for phase, reason in reasons.items() if reason]
    return "; ".join(said) or None


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held so far: on the run's GPU since the run was opened, else of the whole process ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
