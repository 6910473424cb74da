"""RunControl: a strip that pauses a run, does single iterations, saves, stops, and changes settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, fallback_table, plain

MAX_UPDATES_PER_SECOND = 5
_ACTIONS = ("pause", "step", "go_on", "save", "stop", "change")


class RunControl(LabWidget):
    """Buttons and fields for a run that trains on another thread (`run.play`), so that the kernel hears the browser.

    The strip only asks; the run acts between two iterations. Keys: Space pauses or goes on, S does one iteration,
    C saves a checkpoint, E goes to the settings, Q twice stops. A value that is typed and sent with Enter is used from
    the next iteration on. `selected` is the setting that was changed last, or None.

    Args:
        control: of a run (`run.control`), or anything with its methods `pause`, `step`, `go_on`, `save`, `stop`,
            `change(**fields)` and `watch(listener)`; the listener is given a dict with `state`, `step`, `total`,
            `settings`, `pending`, `changes` and `saved` after each change of one of them. None shows `shown` alone.
        shown: such a dict.
        title: plain text above the buttons.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
    """

    control = traitlets.Any(None, allow_none=True).tag(keyword=True)
    shown = traitlets.Dict().tag(sync=True)
    trouble = traitlets.Unicode("").tag(sync=True, internal=True)
    live = traitlets.Bool(False).tag(sync=True, internal=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Unicode(None, allow_none=True).tag(sync=True)

    def __init__(self, control: Any = None, **kwargs: Any) -> None:
        super().__init__(control=control, **kwargs)
        self._lock = threading.RLock()  # the run's loop and the browser's messages are on different threads
        self._sent = float("-inf")
        self.live = control is not None
        self.on_msg(self._on_message)
        if control is not None:
            control.watch(self._show)

    @traitlets.validate("shown")
    def _check_shown(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        return plain(proposal["value"], "shown")

    def _show(self, shown: Mapping[str, Any]) -> None:
        """Show a new state of the run; of fast iterations only some are sent."""
        with self._lock:
            now = time.monotonic()
            only_steps = {**shown, "step": None} == {**self.shown, "step": None}
            if only_steps and now - self._sent < 1 / MAX_UPDATES_PER_SECOND:
                return
            self.shown, self._sent = dict(shown), now

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("kind") not in _ACTIONS or self.control is None:
            return
        kind, name = content["kind"], content.get("name")
        with self._lock:
            try:
                if kind == "change":
                    self.control.change(**{str(name): content.get("value")})
                    self.selected = str(name)
                elif kind == "step":
                    self.control.step(content.get("count", 1))
                else:
                    getattr(self.control, kind)()
                self.trouble = ""
            except Exception as error:  # noqa: BLE001  the reader sees any error; a traceback would be lost here
                self.trouble = f"{error}"[:500] or type(error).__name__

    def fallback(self) -> str:
        """The state, and a table of the settings that were changed."""
        shown = self.shown
        words = f"{shown.get('state', 'no run')}, iteration {shown.get('step', 0)} of {shown.get('total', 0)}"
        columns = [("step", "after iteration"), ("setting", "setting"), ("was", "was"), ("now", "now")]
        return fallback_table(f"{self._title()}: {words}", columns, shown.get("changes") or [])
