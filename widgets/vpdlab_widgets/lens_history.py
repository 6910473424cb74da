"""LensHistory: one response through a run, scored again and again: its tokens, their curves, the moments they flip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, counted, fallback_table
from vpdlab_widgets.token_lens import checked_index, pack_record


class LensHistory(LabWidget):
    """Followed responses: a `TokenLens` at one point of the run, and below it every token at every point.

    A map has a row a token and a column a point, in the colours of the lens; beside it are the curves of log pi and
    log q of the current token, with those of other runs that followed the same response. A token flips where it
    becomes or stops being the likeliest one of a side, or where teacher and student change places.

    `selected` is the index of the pinned token in the response, or None; `index` is the record shown.

    Args:
        records: from `vpdlab.show.widget_data.histories`: records as of `TokenLens`, each with the iterations done as
            its `step` and the place of its run in `names` as `run`. Those with the same problem, tokens and feedback
            are one response.
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
        self._known: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}  # id of a record -> it, and it packed
        super().__init__(records=[dict(record) for record in records], **kwargs)
        self._send_records()
        self.observe(self._send_records, "records")

    @property
    def record(self) -> dict[str, Any] | None:
        """The record shown, or None."""
        return None if self.index is None or self.index >= len(self.records) else self.records[self.index]

    def append(self, records: Iterable[Mapping[str, Any]], most: int | None = None) -> None:
        """Add what a point gave, while a run goes on. A reader who looks at the newest point goes on to it.

        Args:
            most: tokens in all; where there are more, points before the newest are left out evenly.
        """
        shown, newest = self.record, self._newest(self.record)
        follows = newest is not None and newest == self.index
        self.records = _thinned([*self.records, *(dict(record) for record in records)], most)
        if shown is not None:
            step = float("inf") if follows else shown["step"]
            self.index = self._nearest(shown, step)

    def go_to(self, step: int) -> None:
        """Show the point of the current response and run that is nearest to an iteration."""
        if self.record is not None:
            self.index = self._nearest(self.record, step)

    def find(self, response: int, step: int, run: int = 0) -> int | None:
        """The place of a response's record at a point; None where there is none.

        Args:
            response: its number, from 0 in the order of the records.
        """
        wanted = {"response": response, "step": step, "run": run}
        return next((at for at, one in enumerate(self.packed) if wanted.items() <= one.items()), None)

    def _newest(self, record: Mapping[str, Any] | None) -> int | None:
        """The place of the latest record of the same response and run."""
        return None if record is None else self._nearest(record, float("inf"))

    def _nearest(self, record: Mapping[str, Any], step: float) -> int:
        """The place of the record of the same response and run that is nearest to an iteration."""
        mine = _series(record)
        same = [at for at, one in enumerate(self.records) if _series(one) == mine]
        last = max(self.records[at]["step"] for at in same)
        return min(same, key=lambda at: abs(self.records[at]["step"] - min(step, last)))

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
            packed.append({"run": run, "response": response, "step": step, **self._pack(record, where)})
        self._known = {id(record): self._known[id(record)] for record in self.records}
        self.packed = packed

    def _pack(self, record: dict[str, Any], where: str) -> dict[str, Any]:
        """Each record is packed once: a run that goes on adds to thousands."""
        if id(record) not in self._known:
            own = {key: value for key, value in record.items() if key not in ("run", "index", "group")}
            self._known[id(record)] = record, pack_record(own, where)
        return self._known[id(record)][1]

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
    told = (record.get("critique"), record.get("demonstration"))  # another critique is another teacher
    return record.get("problem_id"), tuple(record["tokens"]), *told


def _series(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record.get("run", 0), *_response(record)


def _thinned(records: list[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """The records without every second point but the newest, again and again, until they have at most `most` tokens."""
    steps = sorted({record["step"] for record in records})
    while most is not None and len(steps) > 2 and sum(len(record["tokens"]) for record in records) > most:
        steps = [*steps[:-1:2], steps[-1]]
        records = [record for record in records if record["step"] in steps]
    return records
