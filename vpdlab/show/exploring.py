"""A recorded run to walk through: timeline, table and lens that follow each other, without torch or a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from vpdlab_widgets import EMTimeline, LensHistory, RolloutTable, TokenLens

from vpdlab.errors import UserError, notice
from vpdlab.record import RunRecord
from vpdlab.show import causes, slices, summary, widget_data


class Explorer:
    """Three linked widgets over one run.

    A click on an iteration of the timeline, or a drag over several, fills the table with their rollouts; a row fills
    the lens. A click on a warning fills the table with the rollouts that caused it, and *all iterations* with those
    that a query finds in the whole record, which is read one iteration at a time.
    Responses that the run followed are in a fourth one, which goes to the point nearest to the chosen iteration.

    Args:
        run: a run folder, opened (`load_run`).
        most: iterations shown at the same time; a longer range is thinned evenly.

    Attributes:
        timeline, table, lens: the widgets; the links are ordinary traitlets.
        history: the followed responses; without records where the run followed none.
    """

    def __init__(self, run: RunRecord, most: int = 4) -> None:
        self._run, self._most = run, max(1, most)
        self._records: list[dict[str, Any]] = []  # of the chosen iterations or the warning
        self._found: list[dict[str, Any]] = []  # of a search through all iterations
        self.timeline = EMTimeline(
            run.rows, evals=widget_data.eval_points(run.eval_rows), title=run.folder.resolve().name,
            state=run.status["state"], reason=run.status["reason"],
            changes=widget_data.change_marks(run.changes, run.origin),
        )  # fmt: skip
        self.table = RolloutTable(search=self._search)
        self.lens = TokenLens()
        self.history = LensHistory(**_histories(run))
        self.table.drive(self.lens)
        self.table.observe(self._fill_lens, "rows")
        self.timeline.observe(self._moved, ["selected", "window"])
        self.timeline.observe(self._alarmed, "alarm")

    @property
    def widgets(self) -> tuple[EMTimeline, RolloutTable, TokenLens]:
        """The three of them, to display."""
        return self.timeline, self.table, self.lens

    def show(self, steps: Sequence[int]) -> None:
        """Fill table and lens with the rollouts of some recorded iterations."""
        records = [
            record | {"rollout": place} for step in steps for place, record in enumerate(self._run.rollouts(step))
        ]
        self._fill(records, summary.title_of(self._run, steps))

    @property
    def address(self) -> str:
        """Where the selection is: ``runs/x#step=12&rollout=3&token=7``, for `open` and for the `folder` of
        notebooks/60_inspect_a_run.ipynb."""
        row = self.table.row
        step = row["step"] if row else self.timeline.selected
        parts = {"step": step, "rollout": row["rollout"] if row else None, "token": self.lens.selected if row else None}
        known = urlencode({name: value for name, value in parts.items() if value is not None})
        return f"{self._run.folder}#{known}" if known else str(self._run.folder)

    def open(self, place: str) -> None:
        """Select what the part of an address after # names.

        Raises:
            UserError: for an iteration, a rollout or a token that the record does not have, or another address.
        """
        asked = place_of(place)
        step = asked["step"]
        if "followed" in asked:
            self._open_followed(place, **asked)
            return
        if step not in self._run.steps:
            raise UserError(f"{place!r}: {self._run.folder} has no rollouts of iteration {step}")
        self.timeline.selected = step
        self.show([step])
        if "rollout" not in asked:
            return
        if asked["rollout"] >= len(self._records):
            raise UserError(f"{place!r}: iteration {step} has {len(self._records)} rollouts, counted from 0")
        self.table.selected = asked["rollout"]
        tokens = len(self._records[asked["rollout"]].get("tokens") or ())
        if asked.get("token", 0) >= max(1, tokens):
            raise UserError(f"{place!r}: numbers of {tokens} tokens are recorded for this rollout, counted from 0")
        self.lens.selected = asked.get("token")

    def _open_followed(self, place: str, followed: int, step: int, token: int | None = None) -> None:
        at = self.history.find(followed, step)
        if at is None:
            raise UserError(
                f"{place!r}: no followed response {followed} of {self._run.folder} is shown at iteration {step}"
            )
        if token is not None and token >= len(self.history.records[at]["tokens"]):
            raise UserError(f"{place!r}: it has {len(self.history.records[at]['tokens'])} tokens, counted from 0")
        self.history.index, self.history.selected = at, token

    def _fill(self, records: list[dict[str, Any]], title: str) -> None:
        self._records, self.table.selected = records, None  # an index into the old rows is not one into the new ones
        self.table.everywhere = False
        self.table.rows, self.table.title = widget_data.rollout_rows(records), title
        self._fill_lens()
        worth = [i for i, record in enumerate(records) if record.get("tokens") and not record["success"]]
        self.table.selected = worth[0] if worth else (0 if records else None)

    def _fill_lens(self, change: Any = None) -> None:
        records = self._found if self.table.everywhere else self._records
        if len(records) == len(self.table.rows):  # else the rows are still to come
            self.lens.records = widget_data.lens_records(records, beta=self._run.betas, config=self._run.config)

    def _search(self, query: str, outcome: str) -> tuple[list[dict[str, Any]], str]:
        found = slices.find(self._run, query, outcome)
        self._found = slices.records(self._run, found)
        return widget_data.rollout_rows(self._found), slices.line(self._run, found, len(self._found))

    def _moved(self, change: Mapping[str, Any]) -> None:
        if change["name"] == "selected" and self.timeline.window:
            self.timeline.window = None  # a click after a brush replaces it
        elif self._run.steps and not self.timeline.alarm:
            self.show(self._chosen())
        if change["name"] == "selected" and change["new"] is not None:
            self.history.go_to(change["new"])

    def _chosen(self) -> list[int]:
        """The recorded iterations in the brushed range; without one, the clicked iteration or the last."""
        steps = self._run.steps
        clicked = steps[-1] if self.timeline.selected is None else self.timeline.selected
        first, last = self.timeline.window or (clicked, clicked)
        inside = [step for step in steps if first <= step <= last]
        if not inside:
            return [min(steps, key=lambda step: abs(step - first))]
        return list(widget_data.thinned(inside, self._most))

    def _alarmed(self, change: Mapping[str, Any]) -> None:
        alarm = change["new"]
        if alarm is None:
            self.table.alarm = None
            if self._run.steps:
                self.show(self._chosen())
            return
        found = causes.cause(self._run, alarm["name"], alarm["step"])
        records = [record | {"alarms": [alarm["name"]]} for record in causes.rollouts_at(self._run, found.places)]
        self._fill(records, f"behind {alarm['name']} at iteration {alarm['step']}: {found.why}")
        self.table.alarm = alarm


def _histories(run: RunRecord) -> dict[str, Any]:
    try:
        return widget_data.histories([run])
    except UserError as error:
        notice(f"{error}; followed responses are left out")
        return {}


def place_of(address: str) -> dict[str, int]:
    """The numbers of an address: ``step=12&rollout=3&token=7``, or ``followed=1&step=12&token=7`` for a followed
    response, with or without a folder and # before it.

    Raises:
        UserError: for an address without a step, with something other than these numbers, or that is no text.

    >>> place_of("runs/x#step=12&token=7")
    {'step': 12, 'token': 7}
    """
    pairs = dict(parse_qsl(address.rpartition("#")[2])) if isinstance(address, str) else {}
    known = ("step", "token", "followed" if "followed" in pairs else "rollout")
    wrong = [name for name, value in pairs.items() if name not in known or not _counts(value)]
    if wrong or "step" not in pairs:
        raise UserError(
            f"{address!r} is no address of a rollout: write #step=12&rollout=3&token=7, whole numbers from 0"
        )
    return {name: int(value) for name, value in pairs.items()}


def _counts(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 10
