"""Responses that are followed through a run: scored token by token, by student and teacher, again and again.

A few are drawn when the run begins, from its first policy on held-out problems; others can be pinned at any time
(`Run.follow`). All are scored before the first iteration, at every evaluation and checkpoint, and at the end; nothing
is trained on them. followed/ in the run folder has the layout of rollouts/, `step` being the iterations done.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vpdlab.errors import UserError, notice, shown
from vpdlab.foreign import Row, read_row, read_rows
from vpdlab.foreign.rows import FIELDS
from vpdlab.learn.parts import Parts
from vpdlab.paths import user_path
from vpdlab.prompts import views
from vpdlab.record import COLUMNS
from vpdlab.run.observe import TokenWatch, rollout_records
from vpdlab.run.scoring import batch_of, response, scored, words_of
from vpdlab.sampling import Sampling
from vpdlab.types import Feedback, Outcome, Problem, Rollout, Turn

if TYPE_CHECKING:
    from vpdlab.record import Recorder

MOST = 64  # responses that a run follows
DRAWN = 4  # responses to a problem, one of which is followed
_OF_A_BATCH = ("advantage", "token_weight", "heard_weight", "success_weight")  # these responses are in none
Response = tuple[Rollout, Feedback]


@dataclass
class Following:
    """The responses that a run follows.

    Attributes:
        parts: what scores them.
        responses: each with its feedback, in the order in which they were drawn or pinned.
        step: the iterations done when they were last scored; -1 before.
        records: what that gave, a record each.
        numbers: of all that were ever followed, their `group` in the record.
        begun: whether the run has begun, so that a pinned response is scored before the next iteration.
        unjudged: those whose outcome nobody knows.
    """

    parts: Parts
    responses: list[Response] = field(default_factory=list)
    step: int = -1
    records: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)
    begun: bool = False
    unjudged: set[tuple[Any, ...]] = field(default_factory=set)

    @property
    def pending(self) -> bool:
        """Whether a response was pinned and has not been scored since."""
        return self.begun and bool(self.unscored(self.step))

    def unscored(self, step: int) -> list[int]:
        """Places of the responses that have no record after `step` iterations."""
        done = {record["group"] for record in self.records} if step == self.step else set()
        return [place for place, (rollout, _) in enumerate(self.responses) if rollout.group not in done]

    def draw(self) -> None:
        """Choose `follow` responses of the present policy; they come before those that were pinned.

        The same in every run that begins with the same weights and problems, whatever its method; and whatever its
        seed, but for what a critic samples.
        """
        count = self.parts.config.follow
        pinned, self.responses, self.numbers, self.begun = self.responses, [], {}, True
        for one in [*(self._drawn(count) if count else ()), *pinned]:
            self.add(one)

    def read_file(self) -> None:
        """Pin the responses of `follow_file`. Raises UserError naming file and line of one that cannot be read."""
        for where, fields in read_rows(user_path("follow_file", self.parts.config.follow_file)):
            if isinstance(fields, UserError):
                raise fields
            self.pin(read_row(fields, where))

    def restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Go on with what a run has followed up to the checkpoint that it resumes from, under the same numbers."""
        self.numbers, lost = {}, set[int]()
        for record in records:
            if (number := self.numbers.setdefault(_key_of_record(record), record["group"])) in lost:
                continue
            try:
                self.add(self._of_record(record), judged=record["success"] is not None)
            except UserError as error:
                lost.add(number)
                notice(f"{error}; it is not followed any more")
        self.begun = True
        self.step = max((record["step"] for record in records), default=-1)
        self.records = [dict(record) for record in records if record["step"] == self.step]

    def pin(self, given: Mapping[str, Any] | Row) -> None:
        """Follow a response from now on; one that is followed already is not added again.

        Args:
            given: a recorded rollout (`RunRecord.rollouts`), a row of a file, or the fields of one as `vpdlab score`
                reads it: prompt or id of one of the run's problems, response, feedback and others
                (`foreign.rows.FIELDS`).

        Raises:
            UserError: the model cannot read it, or reads its prompt as other tokens than those that were recorded; or
                `MOST` responses are followed already.
        """
        if not isinstance(given, Row | Mapping):
            raise UserError(f"{shown(given)} is no response: give a recorded rollout, or the fields of a row")
        if isinstance(given, Mapping) and "response_ids" in given:
            if lacking := [name for name in COLUMNS if name not in given]:
                raise UserError(f"this rollout was not recorded by vpdlab: it has no {lacking[0]!r}")
            self.add(self._of_record(given), judged=given["success"] is not None)
            return
        row, known = (given, self._known(given)) if isinstance(given, Row) else self._row(given)
        self.add(self._of_row(row, known), judged=known is not None or row.success is not None)

    def add(self, one: Response, judged: bool = True) -> None:
        """Follow a response as the model reads it (`pin`); `judged`: whether its outcome is known."""
        rollout, note = one
        key = _key(rollout, note)
        if any(key == _key(*other) for other in self.responses):
            return
        most = MOST if self.begun else MOST - self.parts.config.follow  # those that will be drawn have their places
        if len(self.responses) >= most:
            raise UserError(f"{MOST} responses, those to be drawn among them, are the most that a run follows")
        number = self.numbers.setdefault(key, max(self.numbers.values(), default=-1) + 1)
        self.responses.append((replace(rollout, group=number, index=0), note))
        if not judged:
            self.unjudged.add(key)

    def score(self, step: int, recorder: Recorder | None) -> None:
        """Score, after `step` iterations, every response that has not been scored there yet, and record it."""
        before, places = self.records if step == self.step else [], self.unscored(step)
        if not places:
            return
        parts, config, new = self.parts, self.parts.config, [self.responses[place] for place in places]
        rollouts, notes = [rollout for rollout, _ in new], [note for _, note in new]
        batch = batch_of(parts, rollouts, notes, *views(rollouts, notes, parts.render))
        watch = TokenWatch(parts.policy.tokenizer, len(new), config.record_top, config.logit_mib)
        iteration = scored(parts, batch, watch, step)
        for place, one in zip(places, zip(iteration.rollouts, iteration.feedback, strict=True), strict=True):
            self.responses[place] = one
        found = rollout_records(iteration, watch, parts.render, config)
        self.step, self.records = step, [*before, *map(self._cleared, found)]
        if recorder is not None:
            recorder.followed(step, self.records)

    def _cleared(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record without what it stands for nothing of: a place in a batch, an outcome that nobody knows."""
        outcome = ("reward", "success") if _key_of_record(record) in self.unjudged else ()
        return record | dict.fromkeys((*_OF_A_BATCH, *outcome))

    # -- which ---------------------------------------------------------------------------------------------------------

    def _drawn(self, count: int) -> list[Response]:
        """One response to each of `count` problems: three of four are failures with feedback, where there are any."""
        parts, config = self.parts, self.parts.config
        problems = parts.held_out or list(parts.task.load("train"))
        rng = np.random.default_rng([config.eval_seed, len(problems), zlib.crc32(b"follow")])
        places = sorted(rng.choice(len(problems), min(count, len(problems)), replace=False).tolist())
        sampling = Sampling(config.temperature, 1.0, config.max_new_tokens)
        rollouts = parts.verify(
            parts.sample([problems[at] for at in places], DRAWN, sampling, seed=config.eval_seed, purpose="follow")
        )
        found = list(zip(rollouts, parts.feedback(rollouts, 0, "follow"), strict=True))
        groups = [[one for one in found if one[0].group == group] for group in range(len(places))]
        return [_chosen(group, success=place % 4 == 3) for place, group in enumerate(groups)]

    # -- reading -------------------------------------------------------------------------------------------------------

    def _problem(self, name: str) -> Problem | None:
        return next((problem for problem in self._problems() if problem.id == name), None)

    def _problems(self) -> Iterator[Problem]:
        for split in ("test", "train"):
            yield from self.parts.task.load(split)

    def _row(self, given: Mapping[str, Any]) -> tuple[Row, Problem | None]:
        """A row from its fields, and the problem of the run that it answers: of that, its id is enough."""
        fields, known = dict(given), None
        if "prompt" not in fields and "id" in fields:
            if (known := self._problem(str(fields["id"]))) is None:
                raise UserError(f"this run has no problem {shown(fields['id'])}: give its prompt as well")
            fields["prompt"] = known.prompt
        row = read_row(fields, "the response")
        if row.unknown:
            raise UserError(f"the response has no field {row.unknown[0]!r}: choose from {', '.join(FIELDS)}")
        return row, known or self._known(row)

    def _known(self, row: Row) -> Problem | None:
        """The problem of the run that a row answers."""
        asked = (row.problem.system, row.problem.history, row.problem.prompt)
        found = [one for one in self._problems() if (one.system, one.history, one.prompt) == asked]
        return next((one for one in found if one.id == row.problem.id), found[0] if found else None)

    def _of_row(self, row: Row, known: Problem | None) -> Response:
        said, as_data = words_of(row), self.parts.render.as_data
        note = replace(said, critique=as_data(said.critique), demonstration=as_data(said.demonstration))
        rollout = self._rollout(row, known or row.problem)
        if row.success is None and known is not None:
            rollout = self.parts.verify([rollout])[0]
        return self._fitting((rollout, note), row.where)

    def _rollout(self, row: Row, problem: Problem) -> Rollout:
        try:
            return response(self.parts, row, problem)
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from error

    def _of_record(self, record: Mapping[str, Any]) -> Response:
        where = f"rollout {record['index']} of problem {record['problem_id']} at step {record['step']}"
        fits = [problem for problem in self._candidates(record) if self._reads(problem, record)]
        if not fits:
            raise UserError(f"{where}: this run's model reads its prompt as other tokens than those that were recorded")
        ends = record.get("turn_ends") or ()
        turns = zip(record.get("turn_roles") or (), record.get("turn_texts") or (), (0, *ends), ends, strict=False)
        outcome = Outcome(record["reward"] or 0.0, record["environment"], record["parsed"], bool(record["success"]))
        rollout = Rollout(
            fits[0], 0, 0, tuple(record["prompt_ids"]), tuple(record["response_ids"]), tuple(record["logps"]),
            record["text"], record["finished"] is not False, outcome, mask=tuple(record["mask"] or ()),
            turns=tuple(Turn(*turn) for turn in turns),
        )  # fmt: skip
        names = ("critique", "demonstration", "leaked")
        note = Feedback(
            **{name: record[name] for name in names}, source=record["source"] or "", reason=record["reason"] or "",
            noise=record["noise"] or "", turn=record.get("feedback_turn"),
        )  # fmt: skip
        return self._fitting((rollout, note), where)

    def _candidates(self, record: Mapping[str, Any]) -> list[Problem]:
        """The problem of a record: the task's own, else one made of what was recorded."""
        made = Problem(record["problem_id"], record["prompt"], record["answer"] or "", record["system"] or "")
        own = self._problem(record["problem_id"])
        return [made] if own is None else [own, made]

    def _reads(self, problem: Problem, record: Mapping[str, Any]) -> bool:
        return self.parts.render.student(problem) == tuple(record["prompt_ids"])

    def _fitting(self, one: Response, where: str) -> Response:
        """The response. Raises UserError where the model cannot read it with its feedback."""
        rollout, note = one
        policy, width = self.parts.policy, self.parts.policy.model.get_input_embeddings().weight.shape[0]
        if not rollout.response_ids or not all(0 <= token < width for token in rollout.response_ids):
            raise UserError(f"{where}: its tokens are not those of this run's model")
        try:
            context = self.parts.render.teacher(rollout.problem, note)[0] if note.signal else rollout.prompt_ids
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if (length := max(len(context), len(rollout.prompt_ids)) + len(rollout.response_ids)) > policy.longest:
            raise UserError(f"{where}: with its prompt it has {length} tokens, more than the model's {policy.longest}")
        return one


def _key(rollout: Rollout, note: Feedback) -> tuple[Any, ...]:
    return rollout.prompt_ids, rollout.response_ids, note.critique, note.demonstration


def _key_of_record(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record["prompt_ids"]), tuple(record["response_ids"]), record["critique"], record["demonstration"]


def _chosen(group: Sequence[Response], success: bool) -> Response:
    """The response of a group to follow: one with the wanted outcome, and with feedback."""
    return min(group, key=lambda one: (one[0].success != success, not one[1].signal, one[0].index))
