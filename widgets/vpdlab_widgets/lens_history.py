"""LensHistory: one response through a run, scored again and again: its tokens, their curves, the moments they flip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, checked_index, counted, fallback_table
from vpdlab_widgets.token_lens import pack_record


class LensHistory(LabWidget):
    """Followed responses: a `TokenLens` at one point of the run, and below it every token at every point.

    A map has a row a token and a column a point, in the colours of the lens; beside it are the curves of log pi and
    log q of the current token, with those of other runs that followed the same response. A token flips where it
    becomes or stops being the likeliest one of a side, or where teacher and student change places.

    `selected` is the index of the pinned token in the response, or None; `index` is the record shown.

    Args:
        records: from `vpdlab.show.widget_data.histories`: records as of `TokenLens`, each with the iterations done as
            its `step` and the place of its run in `names` as `run`. Those with the same problem and tokens are one
            response.
        names: of the runs.
        index: which record is shown.
        colour: the measure that colours the tokens, as of `TokenLens`.
        title: plain text above the response.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: a record has no tokens, no step or a run without a name, a list is not as long as its tokens, or
            `index` is out of range.
    """

    _parts = ("mathematics", "formulas", "token_lens")
    records = traitlets.List(traitlets.Dict()).tag(keyword=True)
    packed = traitlets.List().tag(sync=True, internal=True)
    names = traitlets.List(traitlets.Unicode(), ["run"], minlen=1).tag(sync=True)
    index = traitlets.Int(0, allow_none=True).tag(sync=True)
    colour = traitlets.Unicode("ratio").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(self, records: Iterable[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        super().__init__(records=[dict(record) for record in records], **kwargs)
        self._send_records()
        self.observe(self._send_records, "records")

    @property
    def record(self) -> dict[str, Any] | None:
        """The record shown, or None."""
        return None if self.index is None or self.index >= len(self.records) else self.records[self.index]

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add what a point gave, while a run goes on. A reader who looks at the newest point goes on to it."""
        newest = self._newest(self.record)
        follows = newest is not None and newest == self.index
        self.records = [*self.records, *(dict(record) for record in records)]
        if follows:
            self.index = self._newest(self.record)

    def go_to(self, step: int) -> None:
        """Show the point of the current response and run that is nearest to an iteration."""
        if self.record is not None:
            mine = _series(self.record)
            same = [at for at, one in enumerate(self.records) if _series(one) == mine]
            self.index = min(same, key=lambda at: abs(self.records[at]["step"] - step))

    def find(self, response: int, step: int, run: int = 0) -> int | None:
        """The place of a response's record at a point; None where there is none.

        Args:
            response: its number, from 0 in the order of the records.
        """
        wanted = {"response": response, "step": step, "run": run}
        return next((at for at, one in enumerate(self.packed) if wanted.items() <= one.items()), None)

    def _newest(self, record: Mapping[str, Any] | None) -> int | None:
        """The place of the latest record of the same response and run."""
        if record is None:
            return None
        same = [at for at, one in enumerate(self.records) if _series(one) == _series(record)]
        return max(same, key=lambda at: self.records[at]["step"])

    def _send_records(self, change: Any = None) -> None:
        responses: dict[Any, int] = {}
        packed = []
        for place, record in enumerate(self.records):
            where = f"records[{place}]"
            run, step = record.get("run", 0), record.get("step")
            if record.get("tokens") is None or not _is_count(step):
                raise ValueError(f"{where}: a point of a history needs tokens and a step")
            if not _is_count(run) or run >= len(self.names):
                raise ValueError(f"{where}.run: {run!r} is not one of the {counted(len(self.names), 'run')}")
            response = responses.setdefault(_response(record), len(responses))
            own = {key: value for key, value in record.items() if key not in ("run", "index", "group")}
            packed.append({"run": run, "response": response, "step": step, **pack_record(own, where)})
        self.packed = packed

    @traitlets.validate("index")
    def _check_index(self, proposal: Mapping[str, Any]) -> int | None:
        return checked_index(proposal["value"], self.records, "record")

    def fallback(self) -> str:
        """The current response at its first and its last point, as a table."""
        if self.record is None:
            return "<p>LensHistory: no response</p>"
        points = [one for one in self.records if _series(one) == _series(self.record)]
        first, last = (choose(points, key=lambda one: one["step"]) for choose in (min, max))
        columns = [("token", "token")]
        rows: list[dict[str, Any]] = [{"token": token} for token in first["tokens"]]
        for end in [first, last] if first is not last else [first]:
            for side, sign in (("student_logp", "π"), ("teacher_logp", "q")):
                key = f"{sign} {end['step']}"
                columns.append((key, f"log {sign} after iteration {end['step']}"))
                for row, value in zip(rows, end.get(side) or [None] * len(rows), strict=True):
                    row[key] = value
        caption = f"{self._title()}: {self.record.get('prompt') or ''}"
        return fallback_table(caption, columns, rows)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _response(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record.get("problem_id"), tuple(record["tokens"])


def _series(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record.get("run", 0), *_response(record)
