"""Pause a run, let it do one iteration, go on, save, stop, change settings: from another thread or between two steps.

run = Run.open(config)
for row in run.steps():
    if row["step"] == 40:
        run.control.change(beta=1.0)      # iteration 41 is the first with it; a line of events.jsonl says so

Each request only sets a flag. The loop acts on it between two iterations (`Control.between`), so that a run which was
paused and continued has computed the same, bit for bit, as one that was not. What is asked during the last iteration is
done after it; from then on requests are refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any

from vpdlab import processes
from vpdlab.config import LIVE, known_fields, settings
from vpdlab.errors import UserError, first_line, notice, shown
from vpdlab.learn.checks import check_change, in_use, report_unused
from vpdlab.record import differences

if TYPE_CHECKING:
    from vpdlab.run.interrupt import Interrupt
    from vpdlab.run.keeper import Keeper
    from vpdlab.run.run import Run

POLL = 0.2  # seconds between two looks at an interrupt while the run is paused
Listener = Callable[[dict[str, Any]], None]


class Control:
    """Requests to a run's loop. Every method may be called from any thread and returns at once.

    Every request raises UserError once the run has ended.

    Attributes:
        waiting: whether the loop is paused right now, between two iterations.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._turn = threading.Condition()
        self._left: int | None = None  # iterations until the next pause; None: no pause
        self._stop = self._save = self._last = self.waiting = False
        self._pending: dict[str, Any] = {}
        self._listeners: list[Listener] = []
        self._ended, self._reason = "", ""

    # -- requests --------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Pause after the iteration that is running, if one is."""
        self._ask(left=0)

    def step(self, count: int = 1) -> None:
        """Do `count` more iterations, then pause. Raises UserError for anything but a whole number from 1."""
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise UserError(f"count is {shown(count)}, but must be a whole number of iterations from 1")
        self._ask(left=int(count))

    def go_on(self) -> None:
        """Go on without a pause."""
        self._ask(left=None)

    def save(self) -> None:
        """Save a checkpoint before the next iteration: the run can be resumed, and branched, from there.

        Raises:
            UserError: the run writes no folder, or has several processes, which save together.
        """
        if processes.count() > 1:
            raise UserError("a run of several processes saves by itself: set checkpoint_every")
        if not self._run.record:
            raise UserError("this run writes no folder, so it has no checkpoints")
        with self._asking():
            self._save = True

    def stop(self) -> None:
        """End the run as an interrupt does: it is evaluated and saved after the iteration that is running."""
        with self._asking():
            self._stop = True

    def change(self, **fields: Any) -> None:
        """Change settings from the next iteration on; what differs then from the iteration before is recorded.

        Args:
            fields: values of settings in `vpdlab.config.LIVE`: lr, beta, e_every, noise_drop and others.

        Raises:
            UserError: for a setting that cannot change while a run goes on, or a value that does not fit it.
        """
        if processes.count() > 1:
            raise UserError("settings can be changed while a run of one process goes on; this one has several")
        for name in known_fields(fields):
            if name not in LIVE:
                raise UserError(f"{name} cannot be changed while a run goes on: it can for {', '.join(LIVE)}")
        run = self._run
        with self._asking():
            after = run.config.but(**self._pending).but(**fields)
            check_change(run.method, run.config, after, own_sampler="sampler" in run.handed_in)
            report_unused(run.method, after.asked_for(fields))
            self._pending = {change.setting: change.now for change in differences(run.config, after, 0)}

    # -- what a control strip shows --------------------------------------------------------------------------------

    def watch(self, listener: Listener) -> None:
        """Call `listener` with `shown()` now and after every change of it; it may be called from the loop's thread."""
        listener(self.shown())
        self._listeners.append(listener)

    def shown(self) -> dict[str, Any]:
        """The run as plain data: folder, state, reason, step, total, settings, pending, changes, saved."""
        run = self._run
        begun, now = run.begun.to_dict(), run.config.to_dict()
        names = in_use(run.method, run.config)
        return {
            "folder": str(run.config.folder) if run.record else "",
            "state": self.state,
            "reason": self._reason,
            "step": len(run.rows),
            "total": run.config.steps,
            "settings": [
                {
                    "name": one.name,
                    "value": now[one.name],
                    "begun": begun[one.name],
                    "range": list(one.range or ()),
                    "whole": one.type == "int",
                    "text": one.text,
                }
                for one in settings()
                if one.name in names
            ],
            "pending": dict(self._pending),
            "changes": [change.to_dict() for change in run.changes],
            "saved": run.saved_steps(),
        }

    @property
    def state(self) -> str:
        """ready, running, pausing, paused, stopping; or how the run ended: complete, stopped or failed."""
        if self._ended:
            return self._ended
        if not self._run.started:
            return "ready"
        if self._stop:
            return "stopping"
        return "paused" if self.waiting else "running" if self._left is None or self._left > 0 else "pausing"

    # -- the loop's side -------------------------------------------------------------------------------------------

    def between(self, interrupt: Interrupt, keeper: Keeper | None) -> None:
        """Called by the loop before each iteration: do what was asked, and wait while the run is paused.

        Changes wait until the run goes on, since they may be taken back; a checkpoint takes those made before it along.
        """
        if self._left == 0:
            self.waiting = True
            self._tell()
        while self._left == 0 and not self._stop and not interrupt.asked:
            self._act(keeper, changes=False)
            with self._turn:
                self._turn.wait_for(self._asked, POLL)
        self._act(keeper)
        self.waiting = False
        if self._stop:
            interrupt.asked = True
        if self._left is not None:
            self._left = max(0, self._left - 1)
        self._tell()

    def after_all(self, keeper: Keeper | None) -> None:
        """Called by the loop after its last iteration: do what was asked during it, and refuse what comes later."""
        with self._turn:
            self._last = True
        self._act(keeper)

    def ended(self, state: str, reason: str = "") -> None:
        """Called by the loop at its end, however it ends. Of several calls the first one counts."""
        with self._turn:
            if self._ended:
                return
            self._ended, self._reason, self.waiting = state, reason, False
        self._tell()

    def _asked(self) -> bool:
        return bool(self._left != 0 or self._stop or self._save or self._run.following.pending)

    def _ask(self, left: int | None) -> None:
        with self._asking():
            self._left = left

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Within the block a request is written down; then the loop and the listeners learn of it.

        Raises:
            UserError: nobody would act on it any more.
        """
        with self._turn:
            if self._ended or self._last:
                again = "open it with resume" if self._run.record else "open a new one with Run.open"
                raise UserError(f"the run has ended ({self._ended or 'all is done'}): {again} to train on")
            yield
            self._turn.notify_all()
        self._tell()

    def _act(self, keeper: Keeper | None, changes: bool = True) -> None:
        """Apply pending changes, score responses that were pinned, and save a checkpoint where one was asked for; a new
        one takes the changes before it along. Without `changes` they wait otherwise."""
        with self._turn:
            save, self._save = self._save, False
            new = save and keeper is not None and keeper.saved_step != len(self._run.rows)
            pending = self._pending if new or changes else {}
            if pending:  # under the lock, or a change that takes one back could come in between
                self._run.apply(differences(self._run.config, self._run.config.but(**pending), len(self._run.rows)))
                self._pending = {}
        if scored := save or self._run.following.pending:
            self._run.score_followed(len(self._run.rows))
        if save and keeper is not None:
            keeper.save(len(self._run.rows), self._run.recorder)
        if pending or scored:
            self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            try:
                listener(self.shown())
            except Exception as error:  # noqa: BLE001  # whoever looks on does not end the run
                self._listeners.remove(listener)
                notice(f"a listener of the run is not called any more: {type(error).__name__}: {first_line(error)}")
