"""Rows of rollouts from elsewhere as a model reads them: both views, the rows that do not fit, feedback that is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vpdlab.errors import UserError
from vpdlab.foreign import Row
from vpdlab.learn.parts import Parts
from vpdlab.prompts import Renderer, views
from vpdlab.run.imported import grouped
from vpdlab.run.scoring import response, words_of
from vpdlab.types import Feedback, Problem, Rollout, View


@dataclass(frozen=True)
class Reading:
    """A row that a model can read.

    Attributes:
        row: as it was found.
        rollout: in the student's tokens; its problem is that of its group's first row.
        feedback: what the row says of it.
        student, teacher: the two views.
    """

    row: Row
    rollout: Rollout
    feedback: Feedback
    student: View
    teacher: View

    def at(self, group: int, index: int) -> Reading:
        """The same at a place of the batch."""
        return replace(
            self,
            rollout=replace(self.rollout, group=group, index=index),
            student=replace(self.student, group=group),
            teacher=replace(self.teacher, group=group),
        )


def readings(
    parts: Parts, rows: Sequence[Row], render: Renderer, longest: int, skip_bad: bool = False
) -> tuple[list[Reading], list[str]]:
    """Rows as student and teacher read them, at their places, and a line for each that was left out.

    Args:
        parts: the student.
        render: the teacher's renderer.
        longest: context of the teacher in tokens.
        skip_bad: leave out rows that cannot be read, instead of raising at the first.

    Raises:
        UserError: naming the row; also where none is left.
    """
    found: list[Reading] = []
    bad: list[str] = []
    problems: dict[str, Problem] = {}
    for row in rows:
        try:
            found.append(_reading(parts, row, problems.get(row.group) or _named(row), render, longest))
        except UserError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
        else:
            problems.setdefault(row.group, found[-1].rollout.problem)
    if not found:
        raise UserError(bad[0] if bad else "there are no rollouts to score")
    places = grouped([replace(one.row, step=1) for one in found])
    return [one.at(*place) for one, place in zip(found, places, strict=True)], bad


def cuts(found: Sequence[Reading], render: Renderer) -> Iterator[str]:
    """A line for each row whose feedback was cut."""
    for one in found:
        if cut := one.teacher.truncated:
            yield f"{one.row.where}: {cut} tokens of its feedback were cut to fit max_context {render.max_context}"


def _named(row: Row) -> Problem:
    return replace(row.problem, id=row.problem.id or row.where.rpartition("/")[2])


def _reading(parts: Parts, row: Row, problem: Problem, render: Renderer, longest: int) -> Reading:
    try:
        rollout, note = response(parts, row, problem), words_of(row)
        (student,), _ = views([rollout], [Feedback()], parts.render)
        _, (teacher,) = views([rollout], [note], render)
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    for view, most, what in (
        (student, parts.policy.longest, "prompt and response have"), (teacher, longest, "with its feedback it has"),
    ):  # fmt: skip
        if len(view) > most:
            raise UserError(f"{row.where}: {what} {len(view)} tokens, more than the model's {most}")
    return Reading(row, rollout, note, student, teacher)
