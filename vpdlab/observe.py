"""What an iteration leaves behind: the numbers of metrics.jsonl and the rollouts of the record.

Nothing here computes anything that the step did not compute anyway; it only looks.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vpdlab import losses, processes
from vpdlab.learner import Batch, EStep, Mismatch, MStep
from vpdlab.m_step import Seen
from vpdlab.prompts import Renderer
from vpdlab.scoring import TokenDist, top_lists
from vpdlab.types import Feedback, Rollout, View


class Clock:
    """Seconds spent in named phases."""

    def __init__(self) -> None:
        self.seconds = {"rollout": 0.0, "feedback": 0.0, "e": 0.0, "m": 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


class TokenWatch:
    """Keeps the per-token numbers of the first rows of a batch, as the M-step comes by them.

    Args:
        tokenizer: to give each token its text.
        rows: how many rows of the batch are kept.
        top: length of the lists of likeliest tokens.
        mib: memory of one chunk of logits.
    """

    def __init__(self, tokenizer: Any, rows: int, top: int, mib: int) -> None:
        self._tokenizer, self._rows, self._top, self._mib = tokenizer, rows, top, mib
        self.kept: dict[int, dict[str, Any]] = {}

    def __call__(self, seen: Seen, dists: Mapping[str, TokenDist]) -> None:
        lengths = seen.view.mask.sum(1).tolist()
        start = 0
        for row, length in zip(seen.view.rows.tolist(), lengths, strict=True):
            span = torch.arange(start, start + length, device=seen.logp.device)
            start += length
            if row < self._rows:
                spoken = seen.found is not None and bool(seen.batch.signal[row])
                shown = dists if spoken else {"student": dists["student"]}
                self.kept[row] = self._numbers(seen, span, spoken) | self._tops(shown, span)

    def _numbers(self, seen: Seen, span: Tensor, spoken: bool) -> dict[str, Any]:
        """What student and teacher gave at each token; the teacher's only where there was feedback to show it."""
        numbers = {"student_logp": seen.logp, "student_entropy": seen.entropy}
        if spoken:
            names = ("teacher_logp", "kl", "divergence", "teacher_entropy")
            numbers |= {name: getattr(seen.both, name) for name in names}
        return {name: values.detach()[span].tolist() for name, values in numbers.items()}

    def _tops(self, sides: Mapping[str, TokenDist], span: Tensor) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for side, (ids, logp) in top_lists(sides, span, self._top, self._mib).items():
            out[f"{side}_top_ids"], out[f"{side}_top_logp"] = ids.tolist(), logp.tolist()
            out[f"{side}_top"] = [self.words(row) for row in ids.tolist()]
        return out

    def share(self) -> None:
        """Hand what this process has seen to the others: the main one records it."""
        self.kept = {row: numbers for kept in processes.gather(self.kept) for row, numbers in kept.items()}

    def words(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself (a part of a character shows as its replacement mark)."""
        return [self._tokenizer.decode([token]) for token in ids]


def rollout_records(
    step: int, rollouts: Sequence[Rollout], notes: Sequence[Feedback], batch: Batch, m: MStep, watch: TokenWatch,
    render: Renderer, beta: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """One plain dict a rollout, with the columns of `record.COLUMNS` (and TOKEN_COLUMNS where kept)."""
    place = {(rollout.group, rollout.index): row for row, rollout in enumerate(batch.rollouts)}
    records = []
    for rollout, note in zip(rollouts, notes, strict=True):
        record = _said(step, rollout, note, render)
        row = place.get((rollout.group, rollout.index))
        if row is not None and note.signal and batch.teacher:
            record |= {
                "teacher_prompt": _teacher_prompt(render, rollout, note, batch.teacher[row]),
                "teacher_ids": list(batch.teacher[row].context_ids),
                "truncated": batch.teacher[row].truncated,
            }
            record["teacher_context"] = watch.words(batch.teacher[row].context_ids) if row in watch.kept else None
        if row is not None and m.student_logp is not None:
            record |= _sums(m, row, note.signal, beta)
        if row is not None and row in watch.kept:
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
    return [_said(step, rollout, Feedback(reason="the critic was not asked yet"), render) for rollout in rollouts]


def _said(step: int, rollout: Rollout, note: Feedback, render: Renderer) -> dict[str, Any]:
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
    }


def teacher_drift(batch: Batch, e: EStep, m: MStep) -> float | None:
    """How far the E-step moved the teacher: mean over rollouts of |change of log q(y|x,C)| / tokens, in nats a token.

    None where no E-step ran. Where the M-step's teacher computes with the very weights that the E-step trains, its
    pass has scored them after the E-step; otherwise the E-step did so itself, of some rollouts.
    """
    after = e.teacher_logp_after
    if after is None and m.teacher_logp is not None:
        after = m.teacher_logp[batch.signal]
    if e.teacher_logp is None or after is None:
        return None
    seen = len(after)
    return ((after - e.teacher_logp[:seen]).abs() / batch.lengths[batch.signal][:seen]).mean().item()


def margin(batch: Batch, m: MStep, beta: float) -> float | None:
    """Mean implicit reward of successes minus that of failures, of rollouts with feedback; None if one is absent."""
    if m.student_logp is None or m.teacher_logp is None:
        return None
    reward = losses.implicit_reward(m.teacher_logp, m.student_logp, beta)
    return losses.margin(reward[batch.signal], batch.success[batch.signal])


def metrics_row(
    step: int, beta: float, rollouts: Sequence[Rollout], notes: Sequence[Feedback], batch: Batch, e: EStep, m: MStep,
    lr: float, clock: Clock, mismatch: Mismatch | None = None, critic_loss: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A line of metrics.jsonl (without its warnings): what does not exist at this step is None."""
    count = len(rollouts)
    outcomes = [rollout.verified for rollout in rollouts]
    judged = any(note.leaked is not None for note in notes)
    return {
        "step": step,
        "reward": sum(outcome.reward for outcome in outcomes) / count,
        "success_rate": sum(outcome.success for outcome in outcomes) / count,
        "length": sum(len(rollout.response_ids) for rollout in rollouts) / count,
        "critiques": sum("critique" in note.source for note in notes) if judged else None,
        "leaked": sum(note.leaked is True for note in notes) if judged else None,
        "critic_loss": critic_loss,
        "unfinished": sum(not rollout.finished for rollout in rollouts) / count,
        "entropy": m.entropy,
        "kl": m.kl,
        "kl_teacher": m.kl_teacher,
        "margin": margin(batch, m, beta),
        "delta": e.delta,
        "beta": beta,
        "e_loss": e.loss,
        "m_loss": m.loss,
        "signal_share": sum(note.signal for note in notes) / count,
        "n_success": int(batch.success[batch.signal].sum()),
        "n_failure": int((~batch.success)[batch.signal].sum()),
        "teacher_drift": teacher_drift(batch, e, m),
        "truncated": sum(view.truncated > 0 for view in batch.teacher),
        "skipped": e.skipped + m.skipped,
        "lr": lr,
        "grad_norm": m.grad_norm,
        "e_updates": e.updates if e.loss is not None else None,
        "mismatch_max": mismatch.worst if mismatch else None,
        "mismatch_mean": mismatch.mean if mismatch else None,
        "mismatch_kl": mismatch.kl if mismatch else None,
        **{f"seconds_{phase}": seconds for phase, seconds in clock.seconds.items()},
        "tokens_rollout": sum(len(rollout.response_ids) for rollout in rollouts),
        "tokens_e": e.tokens if e.loss is not None else None,
        "tokens_m": m.tokens if m.loss is not None else None,
        "peak_memory_mib": peak_memory_mib(batch.success.device),
        "notes": _notes({"E-step": e.reason, "M-step": m.reason}),
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
