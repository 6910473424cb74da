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
from vpdlab.errors import UserError, ended_by, part_name
from vpdlab.foreign import Row
from vpdlab.learn.state import Batch
from vpdlab.model.batch import TokenBatch
from vpdlab.model.distributions import TokenDist
from vpdlab.model.policy import TEACHER, Policy
from vpdlab.model.teacher import Teacher
from vpdlab.prompts import Renderer
from vpdlab.record import SCORED, Recorder, plain
from vpdlab.record.folder import write_lines
from vpdlab.record.influence import INFLUENCE
from vpdlab.run.checkpoint import load_weights, weights_by_name
from vpdlab.run.environment import describe
from vpdlab.run.export import Student, alone, load_policy
from vpdlab.run.imported import mean_columns, outcome_columns
from vpdlab.run.observe import TokenWatch, metrics_row, rollout_records
from vpdlab.run.run import Run
from vpdlab.run.scorable import Reading, cuts, readings
from vpdlab.run.scoring import SCORING, batch_of, scored
from vpdlab.study.influence import critique_influence
from vpdlab.tasks import Task
from vpdlab.types import Outcome, Problem, Rollout


class Brought:
    """The problems of rollouts from elsewhere, as a task."""

    name = part_name(SCORED["task"])

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


class Scorer(Run):
    """A student whose problems are given once its model is there to say which of them it can read."""

    def check_problems(self) -> None:
        """As of any run, once there are problems."""
        if self.task.load("train"):
            super().check_problems()

    def give(self, found: Sequence[Reading], origin: str, teacher: Student | None) -> None:
        """Go on with the problems of these rows of a file. Raises UserError as `check_problems` does."""
        groups = [one.rollout.group for one in found]
        problems = list({one.rollout.group: one.rollout.problem for one in reversed(found)}.items())
        beside = f" beside the teacher {teacher.words}" if teacher is not None else ""
        count = "1 rollout" if len(found) == 1 else f"{len(found)} rollouts"
        summary = f"{count} of {Path(origin).name}, scored{beside}: nothing was trained"
        self.task = cast(Task, Brought([problem for _, problem in sorted(problems, key=lambda one: one[0])], summary))
        most = max(groups.count(group) for group in set(groups))
        self.take(self.config.but(prompts=len(problems), group=most, record_tokens=len(found)))
        self.check_problems()


@dataclass
class Scored:
    """Rollouts that were scored.

    Attributes:
        run: the opened student, with its renderer.
        teacher, teacher_render: what computes the teacher's side.
        records: the rollouts as recorded.
        rows: those that were scored.
        left_out: a line for each row that was not.
        cut: a line for each row whose feedback was cut.
    """

    run: Run
    teacher: Teacher
    teacher_render: Renderer
    records: list[dict[str, Any]]
    rows: list[Row]
    left_out: list[str]
    cut: list[str]

    def influence(self, count: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(rollout, its `critique_influence`) of the rollouts with feedback whose KL is largest.

        Those whose prompt is a whole conversation are left out: the record has no place for it.
        """

        def peak(record: Mapping[str, Any]) -> float:
            return max((value for value in record.get("kl") or () if value is not None), default=0.0)

        plain_ids = {problem.id for problem in self.run.task.load("train") if not problem.history}
        heard = [one for one in self.records if one["signal"] and one.get("kl") and one["problem_id"] in plain_ids]
        for record in sorted(heard, key=peak, reverse=True)[:count]:
            found = critique_influence(self.teacher.policy, self.teacher, self.teacher_render, record)
            yield record, found | {"step": None}  # of no iteration


def score(
    rows: Sequence[Row], student: Student, config: RunConfig, origin: str, teacher: Student | None = None,
    influence: int = 8, skip_bad: bool = False,
) -> Scored:  # fmt: skip
    """Score rows and write the run folder `config.folder`.

    Args:
        student, teacher: models, final students or checkpoints of runs (`export.find_student`); without a teacher the
            student's own weights read the feedback.
        origin: the file that the rows come from, for the record.
        influence: number of rollouts whose critique is analysed sentence by sentence.
        skip_bad: leave out rows that the model cannot read, instead of raising at the first.

    Raises:
        UserError: naming file and line, for a row that the model cannot read; for a teacher with another tokenizer.
    """
    run = _opened(student, config)
    render, other = run.render, run.learner.teacher
    if teacher is not None:
        policy = _other(run, teacher, config)
        other, render = OtherTeacher(policy), replace(run.render, tokenizer=policy.tokenizer)
        run.learner.teacher = other
    read, left_out = readings(run, rows, render, other.policy.longest, skip_bad)
    run.give(read, origin, teacher)
    watch = TokenWatch(run.policy.tokenizer, len(read), config.record_top, config.logit_mib)
    iteration = scored(run, _batch(run, read), watch, step=1)
    kept = [one.row for one in read]
    records = [
        {**record, **outcome_columns(row), "critique": record["critique"], "demonstration": record["demonstration"]}
        for record, row in zip(rollout_records(iteration, watch, run.render, config), kept, strict=True)
    ]
    found = Scored(run, other, render, records, kept, left_out, list(cuts(read, render)))
    _write(found, {**metrics_row(iteration), **mean_columns(kept), "warnings": []}, influence)
    return found


def _opened(student: Student, config: RunConfig) -> Scorer:
    """The student as a run without problems yet, and a folder that holds nothing yet."""
    shape = alone(student, config)
    fields = {
        "task_args": (), "data": "", "environment": "", "environment_args": (), "e_every": 0, "steps": 1, "seed": 0,
        "eval_every": -1, "beta": config.beta, "out": str(config.folder), "tracker": "", "checkpoint_every": 0,
        "sampler": "transformers", "capture": "off", "lr": 0.0,
    }  # fmt: skip
    if student.config is None:
        fields["model"] = config.model  # as it was named
    run = Scorer.open(shape.but(**fields), task=cast(Task, Brought([], "no rollouts yet")), method=SCORING)
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


def _batch(run: Run, found: Sequence[Reading]) -> Batch:
    rollouts, feedback = [one.rollout for one in found], [one.feedback for one in found]
    return batch_of(run, rollouts, feedback, [one.student for one in found], [one.teacher for one in found])


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
        recorder.close(*ended_by(error))
        raise
    recorder.close("complete")
