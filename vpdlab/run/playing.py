"""A run that trains on a thread of its own, so that the kernel stays free, with a control strip and a timeline.

played = Run.open(config).play()     # as the last line of a cell: shows both, and trains
played.wait()                        # until the run has ended

A cell that trains by itself (`for row in run.steps()`) keeps its kernel busy: JupyterLab delivers the strip's messages
only after it has ended. Hence the thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vpdlab import processes
from vpdlab.errors import UserError
from vpdlab.record import load_run
from vpdlab.show.widget_data import MOST_TOKENS, change_marks, eval_points, followed_records, histories

if TYPE_CHECKING:
    from vpdlab.run.run import Run


class Played:
    """A run, its control strip and its timeline. `Run.play` makes one.

    While the run goes on, use its model in another cell only where it is paused: two threads would share its weights.

    Attributes:
        run: the run.
        strip, timeline: `vpdlab_widgets.RunControl` and `EMTimeline`.
        history: `LensHistory` of the followed responses, which grows with the run.
        error: what ended the run, if that was an error.

    Raises:
        UserError: with several processes, whose loops a thread of one of them cannot pause.
    """

    def __init__(self, run: Run) -> None:
        from vpdlab_widgets import EMTimeline, LensHistory, RunControl

        if processes.count() > 1:
            raise UserError("a run of several processes cannot be played with: train it with run.steps()")
        self.run, self.error, self._origin, self._marked = run, None, run.origin, 0
        name, config = run.config.folder.name, run.config
        self.timeline = EMTimeline(
            run.rows, title=name, total=config.steps, state="running", evals=eval_points(run.evals),
            changes=self._marks(), kl_target=config.kl_target or None,
        )  # fmt: skip
        self.strip = RunControl(run.control, title=name)
        self._followed = (-1, 0)  # the latest point that the history has, and how many responses of it
        self._waiting: list[dict[str, Any]] = []  # points that are not shown yet
        self._next = 0.0  # when they may be
        self.history = LensHistory(self._before(), names=[name])
        self._thread = threading.Thread(target=self._train, name=f"train {name}", daemon=True)
        run.control.watch(self._mark)

    def start(self) -> None:
        """Begin to train. Raises UserError for a run that has started already."""
        if self.run.started or self._thread.is_alive():
            raise UserError("this run has started already: open a new one with Run.open to train again")
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the run's end, or for some seconds; whether it has ended. Raises the error that ended it."""
        self._thread.join(seconds)
        if self.error is not None:
            raise self.error
        return not self._thread.is_alive()

    def _train(self) -> None:
        try:
            for row in self.run.steps():
                self.timeline.append(row)
                for point in eval_points(self.run.evals)[len(self.timeline.evals) :]:
                    self.timeline.add_eval(point)
                self._show_followed(at_once=False)
        except BaseException as error:  # noqa: BLE001 (it would be lost with the thread; `wait` raises it)
            self.error = error

    def _mark(self, shown: Mapping[str, Any]) -> None:
        """Show changes of settings, and how the run ended, in the timeline."""
        if len(shown["changes"]) != self._marked:
            self.timeline.changes, self._marked = self._marks(), len(shown["changes"])
        if shown["state"] in ("complete", "stopped", "failed"):
            for point in eval_points(self.run.evals)[len(self.timeline.evals) :]:
                self.timeline.add_eval(point)
            self.timeline.reason, self.timeline.state = shown["reason"], shown["state"]
        self._show_followed(at_once=shown["state"] != "running")

    def _before(self) -> list[dict[str, Any]]:
        """What followed responses scored before the run was resumed."""
        run = self.run
        if run.resumed is None:
            return []
        self._followed = run.following.step, len(run.following.records)
        try:
            found = histories([load_run(run.config.folder)])["records"]
        except UserError:  # the run has said so when it was opened
            return []
        return [one for one in found if one["step"] <= run.resumed.step]

    def _show_followed(self, at_once: bool = True) -> None:
        """Hand on what followed responses have scored since; not `at_once`, where showing them would take more than a
        tenth of the time: each time all points are sent."""
        following = self.run.following
        step, count = self._followed
        if new := following.records[count if following.step == step else 0 :]:
            self._followed = following.step, len(following.records)
            self._waiting += self._points(new)
        started = time.monotonic()
        if self._waiting and (at_once or started >= self._next):
            self.history.append(self._waiting, MOST_TOKENS)
            self._waiting, self._next = [], started + 10 * (time.monotonic() - started)

    def _points(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return followed_records(records, betas={row["step"]: row["beta"] for row in self.run.rows})

    def _marks(self) -> list[dict[str, Any]]:
        before = self._origin.changes if self._origin is not None else ()
        return change_marks([*before, *self.run.changes], self._origin)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.strip)
        display(self.timeline)
        if self.run.record:
            display(self.history)
