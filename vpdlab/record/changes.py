"""Settings that were changed while a run went on (events.jsonl), and the run that a branch comes from.

A line of events.jsonl is one change: {"step": 12, "setting": "lr", "was": 0.001, "now": 0.0005, "time": ...}. `step` is
the last iteration before it, so iteration 13 is the first with the new value. config.json keeps what the run began
with.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpdlab.config import HINTS, LIVE, RunConfig
from vpdlab.errors import UserError
from vpdlab.record import checks

EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Change:
    """One setting that was changed between two iterations.

    Attributes:
        step: the last iteration with the old value; 0 for a change before the first one.
        setting: its name.
        was, now: both values, plain.
        time: when, in seconds since 1970; None where that was not recorded.
    """

    step: int
    setting: str
    was: Any
    now: Any
    time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: a line of events.jsonl."""
        return {"step": self.step, "setting": self.setting, "was": self.was, "now": self.now, "time": self.time}

    @property
    def result(self) -> str:
        """The setting and its new value in words."""
        return f"{self.setting} {_words(self.now)}"

    def __str__(self) -> str:
        return f"{self.setting} {_words(self.was)} → {_words(self.now)}"


def differences(before: RunConfig, after: RunConfig, step: int, names: Iterable[str] = LIVE) -> list[Change]:
    """The changes that lead from one config to another after iteration `step`, in the order of `names`."""
    was, now, at = before.to_dict(), after.to_dict(), time.time()
    return [Change(step, name, was[name], now[name], at) for name in names if was[name] != now[name]]


def changed(config: RunConfig, changes: Iterable[Change]) -> RunConfig:
    """The config after some changes, in order. Raises UserError for a value that does not fit its setting."""
    return config.but(**{change.setting: change.now for change in changes})


def fault(value: Any, settings: Sequence[str] = LIVE) -> str:
    """The first fault of a line of events.jsonl; "" if there is none.

    Args:
        settings: names that may have been changed.
    """
    if reason := checks.fault(value, _CHECKS, ("step", "setting", "was", "now")):
        return reason
    if value["setting"] not in settings:
        return f"field 'setting' is {value['setting']!r}, which cannot be changed while a run goes on"[:200]
    try:
        for side in ("was", "now"):
            RunConfig.make(**{value["setting"]: value[side]})
    except UserError as error:
        return f"field {side!r}: {error}"
    return ""


def parse(rows: Iterable[Mapping[str, Any]]) -> list[Change]:
    """Lines of events.jsonl without a `fault`."""
    return [Change(row["step"], row["setting"], row["was"], row["now"], row.get("time")) for row in rows]


# -- where a branch comes from -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """The run that a branch comes from.

    Attributes:
        run: its name.
        step: the iteration after which the branch left it.
        changes: what was changed on the way to the branch's own settings: those of the original run up to `step`, then,
            with that step, whatever the branch began with instead.
        before: the origin of the original run, if it was a branch itself.
    """

    run: str
    step: int
    changes: tuple[Change, ...] = ()
    before: Origin | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the field `origin` of environment.json."""
        return {
            "run": self.run,
            "step": self.step,
            "changes": [change.to_dict() for change in self.changes],
            "before": self.before.to_dict() if self.before else None,
        }


def origin_of(value: Any) -> Origin | None:
    """The origin in an environment.json that has passed `checks`; None where the run is no branch."""
    if value is None:
        return None
    return Origin(value["run"], value["step"], tuple(parse(value["changes"])), origin_of(value.get("before")))


def is_origin(value: Any, depth: int = 0) -> bool:
    """Whether a value may be the field `origin` of environment.json."""
    if value is None:
        return True
    whole = not checks.fault(value, _ORIGIN, tuple(_ORIGIN)) and depth < _DEEPEST
    return whole and is_origin(value.get("before"), depth + 1)


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value) or "nothing"


_DEEPEST = 64
_CHECKS: dict[str, checks.Check] = {"step": checks.is_count, "setting": checks.is_text, "time": checks.is_number}
_ORIGIN: dict[str, checks.Check] = {
    "run": lambda value: isinstance(value, str) and value.isprintable(), "step": checks.is_count,
    "changes": checks.listed(lambda one: not fault(one, tuple(HINTS))),
}  # fmt: skip
