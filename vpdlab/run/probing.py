"""The task's probes at an evaluation: the policy as a task may question it, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from vpdlab import processes
from vpdlab.errors import RunFailed, UserError, notice, shown
from vpdlab.learn.parts import Parts
from vpdlab.model.batch import row_sums
from vpdlab.model.comparison import token_logp
from vpdlab.tasks.common.guard import raised_in_one_line, surroundings_kept
from vpdlab.tasks.common.probes import Answer, Question, checked
from vpdlab.types import Problem, View


def probed(parts: Parts, step: int, answers: Sequence[Answer]) -> dict[str, Any]:
    """The field `probes` of an evaluation's line; nothing for a task without probes.

    Probes are the task's own code and only observe: where they fail, the evaluation has none, and one line says why.
    """
    if getattr(parts.task, "probes", None) is None:
        return {}
    found = _asked(parts, PolicyReader(parts, step, tuple(answers)))
    return {"probes": processes.by_main(lambda: found)}  # the same in every process, whatever the task's code did


def _asked(parts: Parts, reader: PolicyReader) -> dict[str, float | None]:
    try:
        with surroundings_kept():
            return checked(parts.task.probes(reader))  # type: ignore[attr-defined]
    except (KeyboardInterrupt, GeneratorExit, RunFailed):
        raise
    except BaseException as error:  # noqa: BLE001 (SystemExit too; reported, and the run continues)
        if processes.main():
            why = str(error) if isinstance(error, UserError) else raised_in_one_line(error)
            notice(f"task {parts.task.name}: no probes at step {reader.step}: {why}")
        return {}


@dataclass(frozen=True)
class PolicyReader:
    """The run's policy, as `tasks.common.probes.Reader` describes it."""

    parts: Parts
    step: int
    answers: Sequence[Answer]

    @property
    def problems(self) -> Sequence[Problem]:
        """The held-out problems of this evaluation."""
        return self.parts.held_out

    def logp(self, questions: Sequence[Question], by: Literal["teacher", "student"] = "teacher") -> list[float]:
        """Log-probability of each question's response (`Reader.logp`)."""
        if by not in ("teacher", "student"):
            raise UserError(f"by is {shown(by)}: choose teacher or student")
        views = [self._view(question) for question in questions]
        policy, teacher = self.parts.policy, self.parts.learner.teacher
        total = torch.zeros(len(views), dtype=torch.float64)
        with torch.no_grad():
            for (batch,) in policy.minibatches(views):
                dist = teacher.token_dist(batch) if by == "teacher" else policy.token_dist(batch)
                logp = token_logp(dist, batch.tokens, policy.config.logit_mib)
                total[batch.rows] = row_sums(logp, batch).double().cpu()
        return processes.add(total).tolist()

    def _view(self, question: Question) -> View:
        """The question in tokens; the mask holds those that count."""
        render, problem = self.parts.render, question.problem
        given = question.feedback
        context = render.student(problem) if given is None else render.teacher(problem, given)[0]
        ids, offsets = render.encoder.located(question.response)
        spans = question.spans or ((0, len(question.response)),)
        mask = tuple(any(low < end and start < high for low, high in spans) for start, end in offsets)
        if not any(mask):
            raise UserError(f"no token of {shown(question.response)} lies in {shown(question.spans)}")
        last = len(mask) - mask[::-1].index(True)
        if (length := len(context) + last) > (longest := self.parts.policy.longest):
            raise UserError(
                f"problem {problem.id} and the response have {length} tokens, more than the model's {longest}"
            )
        return View(context, ids[:last], mask=mask[:last])
