"""Rollouts from elsewhere, scored token by token by a student and a teacher, as a run folder of one step. No training.

The numbers are those of a run: the same prompts, passes and record. The student reads the prompt; the teacher, the same
weights or those of another model, reads the feedback as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.foreign import Row
from vpdlab.learn.state import Batch
from vpdlab.model.batch import TokenBatch
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import TEACHER, Policy
from vpdlab.model.teacher import Teacher
from vpdlab.prompts import Renderer
from vpdlab.record import Recorder, plain
from vpdlab.record.folder import write_lines
from vpdlab.record.influence import INFLUENCE
from vpdlab.run.checkpoint import load_weights, weights_by_name
from vpdlab.run.environment import describe
from vpdlab.run.export import Student, alone, load_policy
from vpdlab.run.imported import grouped, mean_columns, outcome_columns
from vpdlab.run.observe import TokenWatch, metrics_row, rollout_records
from vpdlab.run.run import Run
from vpdlab.run.scoring import SCORING, batch_of, response, scored, words_of
from vpdlab.study.influence import critique_influence
from vpdlab.tasks import Task
from vpdlab.types import Feedback, Outcome, Problem, Rollout


class Brought:
    """The problems of rollouts from elsewhere, as a task."""

    name = "rollouts"

    def __init__(self, problems: Sequence[Problem], summary: str) -> None:
        self.problems, self.summary = list(problems), summary

    def load(self, split: str) -> Sequence[Problem]:
        return self.problems if split == "train" else []

    def verify(self, rollout: Rollout) -> Outcome:
        raise UserError("what was said of these rollouts is recorded: nothing judges them again")


class OtherTeacher(Teacher):
    """Another model as the teacher: its own weights, the student's tokens."""

    def token_dist(self, batch: TokenBatch) -> TokenDist:
        """The other model's distributions."""
        with torch.no_grad():
            return self.policy.token_dist(batch)


@dataclass
class Scored:
    """Rollouts that were scored.

    Attributes:
        run: the opened student, with its renderer.
        teacher, teacher_render: what computes the teacher's side.
        records: the rollouts as recorded.
    """

    run: Run
    teacher: Teacher
    teacher_render: Renderer
    records: list[dict[str, Any]]

    def influence(self, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(rollout, its `critique_influence`) of the rollouts with feedback whose KL is largest.

        Those whose prompt is a whole conversation are left out: the record has no place for it.
        """

        def peak(record: Mapping[str, Any]) -> float:
            return max((value for value in record.get("kl") or () if value is not None), default=0.0)

        plain_ids = {problem.id for problem in self.run.task.load("train") if not problem.history}
        heard = [one for one in self.records if one["signal"] and one.get("kl") and one["problem_id"] in plain_ids]
        for record in sorted(heard, key=peak, reverse=True)[:count]:
            yield record, critique_influence(self.teacher.policy, self.teacher, self.teacher_render, record)


def score(
    rows: Sequence[Row], student: Student, config: RunConfig, origin: str, teacher: Student | None = None,
    influence: int = 8,
) -> Scored:  # fmt: skip
    """Score rows and write the run folder `config.folder`.

    Args:
        student, teacher: models, final students or checkpoints of runs (`export.find_student`); without a teacher the
            student's own weights read the feedback.
        origin: the file that the rows come from, for the record.
        influence: number of rollouts whose critique is analysed sentence by sentence.

    Raises:
        UserError: naming file and line, for a row that the model cannot read; for a teacher with another tokenizer.
    """
    run = _opened(rows, student, config, origin)
    problems = run.task.load("train")
    rollouts = [
        response(run, row, problems[place[0]], place) for row, place in zip(rows, grouped(_one_step(rows)), strict=True)
    ]
    feedback = [words_of(row) for row in rows]
    render, other = run.render, run.learner.teacher
    if teacher is not None:
        policy = _other(run, teacher, config)
        other, render = OtherTeacher(policy), replace(run.render, tokenizer=policy.tokenizer)
        run.learner.teacher = other
    batch = _batch(run, rollouts, feedback, render, rows)
    watch = TokenWatch(run.policy.tokenizer, len(rows), config.record_top, config.logit_mib)
    iteration = scored(run, batch, watch, step=1)
    records = [
        {**record, **outcome_columns(row), "critique": record["critique"], "demonstration": record["demonstration"]}
        for record, row in zip(rollout_records(iteration, watch, run.render, config), rows, strict=True)
    ]
    found = Scored(run, other, render, records)
    _write(found, {**metrics_row(iteration), **mean_columns(rows), "warnings": []}, influence)
    return found


def _one_step(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, step=1) for row in rows]


def _opened(rows: Sequence[Row], student: Student, config: RunConfig, origin: str) -> Run:
    """The student as a run on the rows' problems, and a folder that holds nothing yet."""
    groups = [group for group, _ in grouped(_one_step(rows))]
    problems: dict[int, Problem] = {}
    for row, group in zip(rows, groups, strict=True):
        problems.setdefault(group, replace(row.problem, id=row.problem.id or row.where.rpartition("/")[2]))
    name = Path(origin).name
    task = Brought(list(problems.values()), f"{len(rows)} rollouts of {name}, scored: nothing was trained")
    shape = alone(student, config)
    fields = {
        "task_args": (), "data": "", "environment": "", "environment_args": (), "e_every": 0, "steps": 1, "seed": 0,
        "prompts": len(problems), "group": max(groups.count(group) for group in problems), "eval_every": -1,
        "beta": config.beta, "record_tokens": len(rows), "out": str(config.folder), "tracker": "",
        "checkpoint_every": 0, "sampler": "transformers", "capture": "off", "lr": 0.0,
    }  # fmt: skip
    if student.config is None:
        fields["model"] = config.model  # as it was named
    run = Run.open(shape.but(**fields), task=cast(Task, task), method=SCORING)
    if student.saved is not None:
        load_weights(weights_by_name(run.policy), student.saved, "student")
        if run.policy.decoupled:
            load_weights(weights_by_name(run.policy, role=TEACHER), student.saved, TEACHER)
    return run


def _other(run: Run, teacher: Student, config: RunConfig) -> Policy:
    policy = load_policy(teacher, config)
    if policy.tokenizer.get_vocab() != run.policy.tokenizer.get_vocab():
        raise UserError(
            f"the teacher {teacher.place} has another vocabulary than the student: both must read the same tokens"
        )
    return policy


def _batch(
    run: Run, rollouts: Sequence[Rollout], feedback: Sequence[Feedback], render: Renderer, rows: Sequence[Row]
) -> Batch:
    try:
        batch = batch_of(run, rollouts, feedback, render)
    except UserError as error:
        raise UserError(f"{rows[0].where.rpartition(' ')[0]}: {error}") from error
    for row, view in zip(rows, batch.teacher, strict=True):
        if len(view) > run.policy.longest:
            raise UserError(f"{row.where}: with its feedback it has {len(view)} tokens, more than {run.policy.longest}")
    return batch


def _write(found: Scored, row: dict[str, Any], influence: int) -> None:
    """The run folder. What takes longest comes before it is complete."""
    config = found.run.config
    recorder = Recorder(config.folder, replace(config, resume=False).to_dict(), describe(found.run))
    try:
        recorder.rollouts(1, found.records)
        recorder.metrics(plain(row))
        lines = [
            {"step": 1, "group": record["group"], "index": record["index"], "influence": plain(one)}
            for record, one in found.influence(influence)
        ]
        write_lines(config.folder / INFLUENCE, lines)
    except BaseException as error:
        recorder.close("failed", f"{type(error).__name__}: {error}")
        raise
    recorder.close("complete")
