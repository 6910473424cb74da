"""A run: its parts, its record, and what is needed to resume it.

run = Run.open(RunConfig.make("tour-common"))
for row in run.steps():          # writes runs/..., row is a line of metrics.jsonl
    print(row["step"], row["success_rate"])
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vpdlab import processes
from vpdlab.config import RunConfig, known_fields
from vpdlab.errors import UserError
from vpdlab.learn.m_step import Method
from vpdlab.learn.parts import Parts, renamed
from vpdlab.model.determinism import settle
from vpdlab.model.devices import pick_device
from vpdlab.model.policy import Policy
from vpdlab.record import Change, Origin, Recorder, changed, load_run, prepare
from vpdlab.record.diagnose import Diagnosis
from vpdlab.run import train
from vpdlab.run.branch import Fork, begin, default_out, find_fork
from vpdlab.run.checkpoint import Checkpoints, Saved
from vpdlab.run.control import Control
from vpdlab.run.environment import describe
from vpdlab.run.evaluate import evaluate
from vpdlab.run.following import Following
from vpdlab.run.keeper import Keeper
from vpdlab.run.playing import Played
from vpdlab.run.resume import Replay, find, followed, recorded, replay
from vpdlab.run.tracker import check_tracker
from vpdlab.sampling import Sampler
from vpdlab.tasks import Task
from vpdlab.tasks.environments import Environment


@dataclass
class Run(Parts):
    """The parts of a run, and its record. Open one with `Run.open`; `iterate(run, step)` works on its parts alone.

    Attributes:
        record: whether the run writes a folder.
        recorder: writes it, from the first step on; with several processes, rank 0 has it.
        resumed: the checkpoint that the run resumes from; None for a new run.
        rows, evals: the lines of metrics and evaluations so far.
        started: whether `steps` was called.
        diagnosis: names what goes wrong, iteration by iteration.
        begun: the settings that the run began with, which config.json holds; `config` is what it runs with now.
        changes: the settings that were changed since, in order.
        control: pauses the run, lets it go on, and changes settings between two iterations.
        following: the responses that are scored again and again as the run goes on.
    """

    record: bool = True
    recorder: Recorder | None = None
    resumed: Saved | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    started: bool = False
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    begun: RunConfig = field(init=False)
    changes: list[Change] = field(default_factory=list)
    control: Control = field(init=False)
    following: Following = field(init=False)
    unwritten: list[Change] = field(default_factory=list)  # changes of a resumed run that events.jsonl lacks

    def __post_init__(self) -> None:
        self.begun, self.control, self.following = self.config, Control(self), Following(self)

    @classmethod
    def open(
        cls,
        config: RunConfig,
        record: bool = True,
        task: Task | None = None,
        method: Method | None = None,
        sampler: Sampler | None = None,
        policy: Policy | None = None,
        environment: Environment | None = None,
    ) -> Self:
        """Open the parts of a run; its folder is written from the first step on (unless `record` is False).

        Args:
            task, method, sampler, policy, environment: as in `Parts.open`.

        Raises:
            UserError: for anything in the config that does not fit what it names, or a folder that holds a run.
        """
        config = renamed(config, task, method, sampler, policy, environment)
        settle(config.deterministic, config.device)  # before anything runs on a GPU
        pick_device(config.device)  # several processes meet here
        resumed = processes.by_main(lambda: find(config)) if record and config.resumes else None
        if record and resumed is None:
            processes.by_main(lambda: prepare(config.folder))  # before the minutes that loading a model may take
        check_tracker(config.tracker)
        told = processes.by_main(lambda: replay(config, resumed)) if resumed is not None else Replay(config)
        config = told.begun
        run = super().open(config, task, method, sampler, policy, environment)
        run.record = record
        if record:
            run.policy.rehearse(config.folder)  # what would fail at the end fails now
        if resumed is not None:
            run._restore(resumed, told)
        return run

    def _restore(self, saved: Saved, told: Replay) -> None:
        """Go back to a checkpoint, with the settings that were changed on the way to it and right after it."""
        self.resumed = saved
        self.rows, self.evals = processes.by_main(lambda: recorded(self.config.folder, saved))
        self.take(changed(self.config, told.seen))
        self.keeper().load(saved)
        self.take(changed(self.config, told.later))
        self.changes, self.unwritten = [*told.seen, *told.later], list(told.asked)
        self.following.restore(processes.by_main(lambda: followed(self.config.folder, saved.step)))
        for row in self.evals:
            self._note_teacher(row)

    @classmethod
    def branch(cls, place: str | Path, out: str = "", parts: Mapping[str, Any] | None = None, **fields: Any) -> Self:
        """Open a new run that begins with a checkpoint of a recorded one: `Run.branch("runs/x@40", beta=1.0)`.

        Without a change it goes on as the original run did, bit for bit. Its folder has the history up to the fork.

        Args:
            place: the run's folder, and the step of one of its checkpoints; default: the newest.
            out: the branch's folder; default: beside the original, NAME-from-STEP.
            parts: parts of your own by name, as `open` takes them: the original run's, where it had any.
            fields: settings that differ from the original run's.

        Raises:
            UserError: there is no such checkpoint, or the settings do not fit it; then no folder is left behind.
        """
        fork = find_fork(place)
        return cls.open_branch(fork, fork.config.but(**known_fields(fields)), out, parts)

    @classmethod
    def open_branch(cls, fork: Fork, config: RunConfig, out: str = "", parts: Mapping[str, Any] | None = None) -> Self:
        """`branch` with the branch's settings as a config; its `out` is replaced."""
        own = dict(parts or {})
        names = ("task", "method", "sampler", "policy", "environment")
        config = renamed(config.but(out=out or default_out(fork)), *(own.get(name) for name in names))
        processes.by_main(lambda: begin(fork, config))
        try:
            return cls.open(config.but(resume=True), **own)
        except BaseException:
            processes.by_main(lambda: shutil.rmtree(config.folder))
            raise

    def keeper(self) -> Keeper:
        """What saves and restores this run's checkpoints."""
        return Keeper(self, describe(self), self.begun, self.changes)

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train: yields each iteration's line of metrics once it is on disk; ends with the final evaluation.

        However it ends, status.json says so: complete, stopped (interrupt, or the caller left the loop), failed.
        """
        return train.steps(self)

    def apply(self, changes: Sequence[Change]) -> None:
        """Change settings now, between two iterations, and record it (`control.change` does so when it is time)."""
        self.take(changed(self.config, changes))
        self.changes += changes
        for change in changes:
            if self.recorder is not None:
                self.recorder.change(change)

    def follow(self, rollout: Mapping[str, Any] | None = None, **row: Any) -> None:
        """Follow a response from now on: student and teacher score it at once, and wherever `follow` has others scored.

        Args:
            rollout: a recorded rollout, of this run or one with the same model: ``load_run(folder).rollouts(12)[3]``.
            row: instead of it the fields of a row as `vpdlab score` reads it: ``prompt`` (or ``id`` of one of the run's
                problems), ``response``, ``feedback`` and others.

        Raises:
            UserError: the model cannot read it, the run writes no folder or has ended, or follows as many as it can.
        """
        if not self.record:
            raise UserError("this run writes no folder, so it follows no responses")
        if self.control.state in ("complete", "stopped", "failed"):
            raise UserError("this run has ended: vpdlab follow scores further responses at its checkpoints")
        if self.started and processes.count() > 1:
            raise UserError("a run of several processes follows what it began with: call follow before steps")
        if (rollout is None) == (not row):
            raise UserError("follow takes a recorded rollout, or the fields of a row: prompt, response, feedback")
        self.following.add(self.following.read(row if rollout is None else rollout))

    def score_followed(self, step: int) -> None:
        """Score the followed responses after `step` iterations, those that have not been scored there yet."""
        if self.record:
            self.following.score(step, self.recorder)

    @property
    def origin(self) -> Origin | None:
        """The run that this one is a branch of, and where it left it; None for any other run."""
        return load_run(self.config.folder).origin if self.record and self.resumed is not None else None

    def saved_steps(self) -> list[int]:
        """Iterations with a checkpoint, oldest first."""
        return Checkpoints(self.config.folder / "checkpoints").steps()[::-1] if self.record else []

    def play(self, paused: bool = False) -> Played:
        """Train on a thread of its own; as the last line of a cell this shows a control strip and the timeline.

        Args:
            paused: wait before the first iteration until the strip, or `control`, says to go on.

        Raises:
            UserError: the run has started already, or has several processes.
        """
        played = Played(self)
        if paused:
            self.control.pause()
        played.start()
        return played

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluate on held-out problems, and record it; the line of eval.jsonl.

        Raises:
            UserError: the run has ended.
        """
        if self.recorder is not None and self.recorder.closed:
            raise UserError(f"the run in {self.config.folder} has ended, and its record with it: use vpdlab eval")
        row = evaluate(self, step)
        self.evals.append(row)
        self._note_teacher(row)
        if self.recorder is not None:
            self.recorder.evaluation(row)
        return row

    def _note_teacher(self, row: dict[str, Any]) -> None:
        """Let the learner know the teacher's accuracy of an evaluation, where there is one (`e_patience`)."""
        if row.get("teacher_accuracy") is not None:
            self.learner.teacher_accuracy.append(row["teacher_accuracy"])
