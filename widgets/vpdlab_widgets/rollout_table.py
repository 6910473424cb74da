"""RolloutTable: the rollouts of one or more iterations with outcome, feedback and implicit reward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, counted, fallback_table, plain

OUTCOMES = ("all", "right", "wrong", "no signal")
COLUMNS = ("success", "step", "prompt", "text", "turns", "length", "kl", "implicit_reward", "source")
_TEXT_LIMIT = 4000  # characters of one text sent to the browser; the record has all of it
_FALLBACK_COLUMNS = [
    ("step", "iteration"), ("prompt", "problem"), ("text", "response"), ("success", "right"), ("turns", "turns"),
    ("length", "tokens"), ("kl", "KL (nats per token)"), ("implicit_reward", "implicit reward"), ("source", "feedback"),
]  # fmt: skip


class RolloutTable(LabWidget):
    """A row per rollout, to sort, search and select; above the rows a mosaic with a column per group.

    Rows of episodes (`turn_roles`, `turn_texts`) have a column with the number of the policy's turns; the details of a
    selected one show the whole conversation.

    `selected` is the index of the selected row in `rows`, or None, so a TokenLens of the same records follows it with
    `traitlets.link((table, "selected"), (lens, "index"))`.

    Args:
        rows: plain dicts from `vpdlab.show.widget_data.rollout_rows`.
        title: plain text above the table.
        sort: one of `COLUMNS` to sort by, with a leading `-` for descending order; empty keeps the rows' order.
        query: show only rows with this text in problem, response, answer, feedback or reason.
        outcome: show only rows with this one of `OUTCOMES`.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: `sort` is unknown, or `selected` is out of range.
    """

    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    sort = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    outcome = traitlets.Enum(OUTCOMES, "all").tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        super().__init__(rows=[dict(row) for row in rows], **kwargs)

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
