"""A run: its parts, its record, and what is needed to resume it.

run = Run.open(RunConfig.make("tour-common"))
for row in run.steps():          # writes runs/..., row is a line of metrics.jsonl
    print(row["step"], row["success_rate"])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from vpdlab import processes
from vpdlab.config import RunConfig
from vpdlab.learn.m_step import Method
from vpdlab.learn.parts import Parts, renamed
from vpdlab.model.determinism import settle
from vpdlab.model.devices import pick_device
from vpdlab.model.policy import Policy
from vpdlab.record import Recorder, prepare
from vpdlab.run import train
from vpdlab.run.checkpoint import Saved
from vpdlab.run.diagnose import Diagnosis
from vpdlab.run.environment import describe
from vpdlab.run.evaluate import evaluate
from vpdlab.run.keeper import Keeper
from vpdlab.run.resume import find, recorded
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
    """

    record: bool = True
    recorder: Recorder | None = None
    resumed: Saved | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    started: bool = False
    diagnosis: Diagnosis = field(default_factory=Diagnosis)

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
        run = super().open(config, task, method, sampler, policy, environment)
        run.record = record
        if record:
            run.policy.rehearse(config.folder)  # what would fail at the end fails now
        if resumed is not None:
            run.resumed = resumed
            run.rows, run.evals = processes.by_main(lambda: recorded(config.folder, resumed))
            run.keeper().load(resumed)
            for row in run.evals:
                run._note_teacher(row)
        return run

    def keeper(self) -> Keeper:
        """What saves and restores this run's checkpoints."""
        return Keeper(self, describe(self))

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train: yields each iteration's line of metrics once it is on disk; ends with the final evaluation.

        However it ends, status.json says so: complete, stopped (interrupt, or the caller left the loop), failed.
        """
        return train.steps(self)

    def evaluate(self, step: int) -> dict[str, Any]:
        """Evaluate on held-out problems, and record it; the line of eval.jsonl."""
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
