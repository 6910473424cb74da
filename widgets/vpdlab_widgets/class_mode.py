"""ClassMode: a notebook as a lesson, in JupyterLab and in an offline page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, fallback_table, plain

NOTATION = (
    {"symbol": "π", "name": "student", "meaning": "the model with the plain prompt"},
    {"symbol": "q", "name": "teacher", "meaning": "the model that also reads the feedback"},
    {"symbol": "r̃", "name": "implicit reward", "meaning": "β (log q − log π) of a response: the teacher's preference"},
    {"symbol": "β", "name": "trust-region weight", "meaning": "large: the teacher stays close to the student"},
    {"symbol": "δ", "name": "shift", "meaning": "the value of r̃ that separates right responses from wrong ones"},
    {"symbol": "margin", "name": "", "meaning": "mean r̃ of right responses minus mean r̃ of wrong ones"},
    {"symbol": "KL", "name": "divergence", "meaning": "how far two distributions are apart, in nats"},
)  # fmt: skip


class ClassMode(LabWidget):
    """A bar that turns its notebook into a lesson: large type, folded code, answers that unfold, a card of notation.

    Show it in the first cell. While it is on, the outputs after a question (a text cell with "Predict:") are covered
    until they are asked for, and so is every folded "Answer" (`<details>`). Keys: Page Down and Page Up, as a
    presenter's clicker sends them, go to the next and the previous cell; A unfolds an answer, ? shows the card, O shows
    all code. A folded cell says how long it ran. It needs nothing of JupyterLab but the page, so it works in an offline
    page too, which `vpdlab report NOTEBOOK.ipynb` gives one of its own.

    Args:
        on: whether the lesson has begun.
        notation: what the card lists: dicts `{"symbol", "name", "meaning"}`.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
    """

    on = traitlets.Bool(False).tag(sync=True)
    notation = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.Unicode(None, allow_none=True).tag(sync=True)

    def __init__(self, notation: Iterable[Mapping[str, Any]] = NOTATION, **kwargs: Any) -> None:
        super().__init__(notation=[dict(row) for row in notation], **kwargs)

    @traitlets.validate("notation")
    def _check_notation(self, proposal: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [plain(row, f"notation[{place}]") for place, row in enumerate(proposal["value"])]

    def fallback(self) -> str:
        """The card of notation as a table."""
        columns = [(key, key) for key in ("symbol", "name", "meaning")]
        return fallback_table("Notation", columns, self.notation)
