"""EMTimeline: a run's iterations side by side: success, margin, trust region, entropy and length, E-steps marked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, counted, fallback_table, plain

MAX_UPDATES_PER_SECOND = 5
_COLUMNS = [
    ("step", "iteration"),
    ("success_rate", "success rate"),
    ("margin", "margin"),
    ("delta", "δ"),
    ("kl", "KL (nats)"),
    ("kl_teacher", "KL teacher‖student (nats)"),
    ("beta", "β"),
    ("entropy", "entropy (nats)"),
    ("length", "length (tokens)"),
]


class EMTimeline(LabWidget):
    """A run over its iterations, in stacked panels; panels without data are omitted.

    `selected` is the selected iteration's `step`, or None; a click, Enter and `widget.selected = 25` all set it.
    `alarm` is a warning of an iteration, `{"step", "name"}`, or None: a click on its mark, W and Shift+W set it.
    `window` is a range of steps `[first, last]`, or None: dragging over the panels, Shift with the arrow keys and
    `widget.window = [20, 40]` set it, and the readout then shows the means over that range.

    A live run calls `append` after each iteration. The browser is updated at most `MAX_UPDATES_PER_SECOND` times per
    second, and only with new rows; call `flush()` (or set `state` to anything but `"running"`) at the end. Between two
    updates `rows` in Python is ahead of the display, never behind.

    Args:
        rows: one dict per iteration with the keys of `metrics.jsonl`; `step` is required, None is a gap. Each kind of
            `warnings` ("name: explanation") has a line of marks above the panels.
        title: plain text above the panels.
        evals: held-out points `{"step", "accuracy", "low", "high"}`, accuracy and interval in 0..1; `probes`, name ->
            number or None, draws what the task measured: "belief/Ada" and "belief/Bob" are lines of the panel "belief".
        kl_target: the target of a KL-controlled β in nats per token, drawn in the trust-region panel. A β that
            changes has its own panel.
        changes: settings that were changed while the run went on, `{"step", "text"}`: `step` is the last iteration
            before the change (`vpdlab.show.widget_data.change_marks`). Each is a dashed line.
        total: planned number of iterations; while `state` is `"running"` the axis extends that far.
        state: `"running"`, `"complete"`, `"stopped"`, `"failed"`, or None for no badge.
        reason: why a run stopped or failed.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: a row, an evaluation or a change has no integer `step`.
    """

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    evals = traitlets.List(traitlets.Dict()).tag(sync=True)
    changes = traitlets.List(traitlets.Dict()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    kl_target = traitlets.Float(None, allow_none=True).tag(sync=True)
    total = traitlets.Int(None, allow_none=True).tag(sync=True)
    state = traitlets.Enum(["running", "complete", "stopped", "failed"], None, allow_none=True).tag(sync=True)
    reason = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    window = traitlets.List(traitlets.Int(), None, allow_none=True).tag(sync=True)
    alarm = traitlets.Dict(default_value=None, allow_none=True).tag(sync=True)

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        super().__init__(rows=[dict(row) for row in rows], **kwargs)
        self._sent_rows = len(self.rows)  # rows sent to the browser
        self._saved_rows = len(self.rows)  # rows in the last full state, where later views and notebooks start
        self._sent_evals = len(self.evals)
        self._last_update = float("-inf")
        self._lock = threading.RLock()  # a browser's message may arrive on another thread than the training loop's
        self.observe(self._on_state, "state")
        self.observe(self._on_replaced, ["rows", "evals"])
        self.on_msg(self._on_message)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one iteration."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add iterations, in order."""
        with self._lock:
            # In place, so that traitlets sends nothing: sending the whole list each iteration would be quadratic.
            self.rows.extend([_record(row, f"rows[{len(self.rows) + index}]") for index, row in enumerate(rows)])
            self._update()

    def add_eval(self, evaluation: Mapping[str, Any]) -> None:
        """Add one held-out evaluation `{"step", "accuracy", "low", "high"}`."""
        with self._lock:
            self.evals.append(_record(evaluation, f"evals[{len(self.evals)}]"))
            self._update()

    def flush(self) -> None:
        """Send the full state now, so that later views and a saved notebook have it."""
        with self._lock:
            self.send_state(["rows", "evals"])  # one message for both
            self._mark_all_sent()
            self._last_update = time.monotonic()

    def _update(self) -> None:
        # Throttled without a timer: a timer thread could send while the loop's own thread does.
        now = time.monotonic()
        if now - self._last_update < 1 / MAX_UPDATES_PER_SECOND:
            return
        # The full state is sent each time the run has doubled: the total sent stays linear in the run's length, and
        # a view that opens late is never more than half a run behind.
        if len(self.rows) >= 2 * self._saved_rows:
            self.flush()
            return
        self._last_update = now
        if len(self.rows) > self._sent_rows:
            self.send({"kind": "rows", "from": self._sent_rows, "rows": self.rows[self._sent_rows :]})
            self._sent_rows = len(self.rows)
        if len(self.evals) > self._sent_evals:
            self.send_state("evals")
            self._sent_evals = len(self.evals)

    def _mark_all_sent(self) -> None:
        self._sent_rows = self._saved_rows = len(self.rows)
        self._sent_evals = len(self.evals)

    def _on_state(self, change: Mapping[str, Any]) -> None:
        if change["new"] != "running":
            self.flush()
            self.refresh()

    def _on_replaced(self, change: Mapping[str, Any]) -> None:
        self._mark_all_sent()  # a new list was assigned, and traitlets sends all of it

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        # A view that opened between two updates lacks the rows before those it was sent.
        if isinstance(content, dict) and content.get("kind") == "resync":
            self.flush()

    @traitlets.validate("rows", "evals", "changes")
    def _check_records(self, proposal: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = proposal["trait"].name
        return [_record(record, f"{name}[{index}]") for index, record in enumerate(proposal["value"])]

    @traitlets.validate("window")
    def _check_window(self, proposal: Mapping[str, Any]) -> list[int] | None:
        value = proposal["value"]
        if value is not None and (len(value) != 2 or value[0] > value[1]):
            raise ValueError(f"window must be [first, last], not {value}")
        return value

    @traitlets.validate("alarm")
    def _check_alarm(self, proposal: Mapping[str, Any]) -> dict[str, Any] | None:
        value = proposal["value"]
        if value is not None and (set(value) != {"step", "name"} or not isinstance(value["step"], int)):
            raise ValueError(f"alarm must be {{'step', 'name'}}, not {value}")
        return value

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        self.flush()  # a new view starts from the full state
        return super()._repr_mimebundle_(**kwargs)

    def fallback(self) -> str:
        """A table of up to twelve iterations."""
        status = f", {self.state}" if self.state else ""
        why = f" ({self.reason[:200]})" if self.reason else ""
        caption = f"{self._title()[:200]}: {counted(len(self.rows), 'iteration')}{status}{why}"
        columns = [(key, name) for key, name in _COLUMNS if any(row.get(key) is not None for row in self.rows)]
        return fallback_table(caption, columns, self.rows)


def _record(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise TypeError(f"{where}: expected a dict, not {type(record).__name__}")
    clean = plain(record, where)
    step = clean.get("step")
    # a data frame may return integers as floats
    if isinstance(step, bool) or not isinstance(step, int | float) or step != int(step):
        raise ValueError(f"{where}: `step` must be an integer, not {step!r}")
    clean["step"] = int(step)
    return clean
