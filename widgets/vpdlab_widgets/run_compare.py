"""RunCompare: learning curves of several runs, the seeds of one method as a band."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets import palette
from vpdlab_widgets.base import LabWidget, fallback_table, plain

AXES = ("iterations", "rollouts", "tokens", "time")


class RunCompare(LabWidget):
    """Learning curves of several runs on one axis: iterations, rollouts, sampled tokens or training time.

    Runs with the same `method` are seeds of one another: their mean is a line, their range a band. Time excludes
    evaluations. `selected` is the name of the selected run, or None.

    Args:
        runs: plain dicts `{"name", "method", "seed", "rows", "evals"}` (`vpdlab.show.widget_data.compared_runs`): rows
            are lines of metrics.jsonl, evals lines of eval.jsonl. The rollouts axis needs `rollouts_per_step` too. A
            branch has `origin`, `{"run": name, "step": step}`: beside that run its line begins at the fork.
        axis: one of `AXES`.
        hidden: methods not to draw.
        title: plain text above the curves.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: a run has no name, method or rows, or two have the same name.
    """

    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    slots = traitlets.Dict().tag(sync=True, internal=True)
    """The index in `palette.STYLES` of each method."""
    axis = traitlets.Enum(AXES, "iterations").tag(sync=True)
    hidden = traitlets.List(traitlets.Unicode()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.Unicode(None, allow_none=True).tag(sync=True)

    def __init__(self, runs: Iterable[Mapping[str, Any]] = (), **kwargs: Any) -> None:
        super().__init__(runs=[dict(run) for run in runs], **kwargs)
        self._give_styles()
        self.observe(self._give_styles, "runs")

    def _give_styles(self, change: Any = None) -> None:
        methods = list(dict.fromkeys(run["method"] for run in self.runs))
        self.slots = dict(zip(methods, palette.slots(methods), strict=True))

    @traitlets.validate("runs")
    def _check_runs(self, proposal: Mapping[str, Any]) -> list[dict[str, Any]]:
        runs = [plain(run, f"runs[{place}]") for place, run in enumerate(proposal["value"])]
        for place, run in enumerate(runs):
            for key, kind in (("name", str), ("method", str), ("rows", list)):
                if not isinstance(run.get(key), kind):
                    raise ValueError(f"runs[{place}]: `{key}` must be a {kind.__name__}, not {run.get(key)!r}"[:300])
        names = [run["name"] for run in runs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two runs are named {sorted(twice)[0]!r}")
        return runs

    @traitlets.validate("selected")
    def _check_selected(self, proposal: Mapping[str, Any]) -> str | None:
        names = [run["name"] for run in self.runs]
        if proposal["value"] is not None and proposal["value"] not in names:
            raise ValueError(f"selected {proposal['value']!r} is not one of {', '.join(names)}")
        return proposal["value"]

    def fallback(self) -> str:
        """A table of the runs with their first and last accuracy."""
        rows = []
        for run in self.runs:
            points = [e["accuracy"] for e in run.get("evals") or () if e.get("accuracy") is not None]
            ends = {"start": points[0], "final": points[-1]} if points else {}
            rows.append({**run, "iterations": len(run["rows"]), **ends})
        columns = [("name", "run"), ("method", "method"), ("seed", "seed"), ("iterations", "iterations")]
        return fallback_table(self._title(), [*columns, ("start", "accuracy, start"), ("final", "final")], rows)
