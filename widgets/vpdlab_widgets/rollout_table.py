"""RolloutTable: the rollouts of one or more iterations with outcome, feedback and implicit reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import traitlets

from vpdlab_widgets import query as queries
from vpdlab_widgets.base import LabWidget, counted, fallback_table, plain

OUTCOMES = ("all", "right", "wrong", "no signal")
COLUMNS = ("success", "step", "prompt", "text", "turns", "length", "kl", "implicit_reward", "source")
VIEWS = ("rows", "scatter", "group")
_TEXT_LIMIT = 4000  # characters of one text sent to the browser; the record has all of it
_FALLBACK_COLUMNS = [
    ("step", "iteration"), ("prompt", "problem"), ("text", "response"), ("success", "right"), ("turns", "turns"),
    ("length", "tokens"), ("kl", "KL (nats per token)"), ("implicit_reward", "implicit reward"), ("source", "feedback"),
]  # fmt: skip


class RolloutTable(LabWidget):
    """A row per rollout, to sort, filter and select; above the rows a mosaic with a column per group.

    Rows of episodes (`turn_roles`, `turn_texts`) have a column with the number of the policy's turns; the details of a
    selected one show the whole conversation.

    The search field takes text and terms such as `kl>0.5 outcome=wrong source:sibling` (`vpdlab_widgets.query`). The
    view *scatter* has a point per rollout over two columns, and dragging over points keeps these; *group* shows the
    rollouts of the selected one's problem side by side, the first difference marked. *Save* downloads the rows that
    pass the filter, and `passing()` returns them.

    `selected` is the index of the selected row in `rows`, or None, so a TokenLens of the same records follows it with
    `traitlets.link((table, "selected"), (lens, "index"))`.

    Args:
        rows: plain dicts from `vpdlab.show.widget_data.rollout_rows`.
        title: plain text above the table.
        sort: one of `COLUMNS` to sort by, with a leading `-` for descending order; empty keeps the rows' order.
        query: show only rows with these terms, and with this text in problem, response, answer, feedback or reason.
        outcome: show only rows with this one of `OUTCOMES`.
        alarm: show only rows that caused this warning, `{"step", "name"}`, by their `alarms`; `EMTimeline.alarm` drives
            it.
        view: one of `VIEWS`.
        x, y: columns of numbers that the scatter is over.
        brush: [[low, high], [low, high]] of x and y: show only rows inside.
        search: `search(query, outcome) -> (rows, line)` over all recorded rollouts, with a line that says what was
            found (`vpdlab.show.exploring.Explorer` has one). With it, *all iterations* in the browser searches there.
        everywhere: whether the rows are those that `search` found.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: `sort`, `x` or `y` is unknown, `selected` is out of range, or `everywhere` lacks a `search`.
    """

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    sort = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    outcome = traitlets.Enum(OUTCOMES, "all").tag(sync=True)
    alarm = traitlets.Dict(default_value=None, allow_none=True).tag(sync=True)
    view = traitlets.Enum(VIEWS, "rows").tag(sync=True)
    x = traitlets.Enum(queries.NUMBERS, "implicit_reward").tag(sync=True)
    y = traitlets.Enum(queries.NUMBERS, "kl").tag(sync=True)
    brush = traitlets.List(traitlets.List(traitlets.Float()), None, allow_none=True).tag(sync=True)
    everywhere = traitlets.Bool(False).tag(sync=True)
    search = traitlets.Any(None, allow_none=True).tag(keyword=True)
    can_search = traitlets.Bool(False).tag(sync=True, internal=True)
    found = traitlets.Unicode("").tag(sync=True, internal=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    _parts = ("query", "rollout_views")

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]] = (),
        search: Callable[[str, str], tuple[Sequence[Mapping[str, Any]], str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self._here: list[dict[str, Any]] = []  # the rows that are back once `everywhere` ends
        super().__init__(rows=[dict(row) for row in rows], search=search, **kwargs)
        self.can_search = search is not None
        self.observe(self._look_everywhere, ["everywhere", "query", "outcome"])

    def passing(self) -> list[dict[str, Any]]:
        """The rows that pass the filter, in their order."""
        terms, text = queries.parse(self.query)
        return [row for row in self.rows if queries.matches(row, terms, text) and self._shows(row)]

    def _shows(self, row: Mapping[str, Any]) -> bool:
        if self.alarm and self.alarm["name"] not in (row.get("alarms") or ()):
            return False
        if not queries.has_outcome(row, self.outcome):
            return False
        inside = zip((self.x, self.y), self.brush or (), strict=False)
        return all(row.get(name) is not None and low <= row[name] <= high for name, (low, high) in inside)

    def _look_everywhere(self, change: Mapping[str, Any]) -> None:
        if change["name"] == "everywhere":
            if change["new"]:
                self._here = self.rows
            else:
                self.selected, self.found, self.rows = None, "", self._here
        if self.everywhere and self.search is not None:
            rows, line = self.search(self.query, self.outcome)
            self.selected = None
            self.rows, self.found = [dict(row) for row in rows], line

    @traitlets.validate("everywhere")
    def _check_everywhere(self, proposal: Mapping[str, Any]) -> bool:
        if proposal["value"] and self.search is None:
            raise ValueError("everywhere needs a search over all recorded rollouts: RolloutTable(search=...)")
        return proposal["value"]

    @property
    def row(self) -> dict[str, Any] | None:
        """The selected row, or None."""
        return None if self.selected is None else self.rows[self.selected]

    @traitlets.validate("rows")
    def _check_rows(self, proposal: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [_short(plain(row, f"rows[{place}]")) for place, row in enumerate(proposal["value"])]

    @traitlets.validate("sort")
    def _check_sort(self, proposal: Mapping[str, Any]) -> str:
        if proposal["value"].removeprefix("-") not in ("", *COLUMNS):
            raise ValueError(f"sort {proposal['value']!r} is not one of {', '.join(COLUMNS)}")
        return proposal["value"]

    @traitlets.validate("selected")
    def _check_selected(self, proposal: Mapping[str, Any]) -> int | None:
        value = proposal["value"]
        if value is not None and not 0 <= value < len(self.rows):
            raise ValueError(f"selected {value} is not one of the {len(self.rows)} rows")
        return value

    def fallback(self) -> str:
        """A table of up to twelve rollouts."""
        right = sum(row.get("success") is True for row in self.rows)
        caption = f"{self._title()[:200]}: {counted(len(self.rows), 'rollout')}, {right} right"
        columns = [(key, name) for key, name in _FALLBACK_COLUMNS if any(row.get(key) is not None for row in self.rows)]
        return fallback_table(caption, columns, self.rows)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: [_cut(item) for item in value] if isinstance(value, list) else _cut(value) for key, value in row.items()
    }


def _cut(value: Any) -> Any:
    return f"{value[:_TEXT_LIMIT]}…" if isinstance(value, str) and len(value) > _TEXT_LIMIT else value
