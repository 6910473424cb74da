"""RunConfig: every choice of a run, in one frozen record.

The same fields are the options of `vpdlab train`, the parameters of `notebooks/train.ipynb`, the keys of a preset and
the content of a run's `config.json`: there is no second place where a setting lives.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from vpdlab.config import learning, rules, running
from vpdlab.config.naming import run_name
from vpdlab.config.setting import SettingInfo, describe
from vpdlab.config.words import read_options
from vpdlab.config.yaml_files import read_yaml
from vpdlab.errors import UserError
from vpdlab.paths import user_path

PRESETS = Path(__file__).parent / "presets"

GROUPS: dict[str, type] = {
    "run": learning.RunSettings,
    "rollouts": running.RolloutSettings,
    "episodes": running.EpisodeSettings,
    "feedback": learning.FeedbackSettings,
    "e_step": learning.EStepSettings,
    "m_step": learning.MStepSettings,
    "outcomes": learning.OutcomeSettings,
    "distil_opsd": learning.DistilSettings,
    "teacher": learning.TeacherSettings,
    "optimiser": learning.OptimiserSettings,
    "engine": running.EngineSettings,
    "evaluation": running.EvaluationSettings,
    "record": running.RecordSettings,
}
"""The groups of settings, in the order in which `--help` and config.json list them."""


@dataclass(frozen=True)
class RunConfig(  # a dataclass collects its fields from the last base to the first
    running.RecordSettings,
    running.EvaluationSettings,
    running.EngineSettings,
    learning.OptimiserSettings,
    learning.TeacherSettings,
    learning.DistilSettings,
    learning.OutcomeSettings,
    learning.MStepSettings,
    learning.EStepSettings,
    learning.FeedbackSettings,
    running.EpisodeSettings,
    running.RolloutSettings,
    learning.RunSettings,
):
    """All settings of one run, from every group of `GROUPS`."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, rules.typed(field.name, getattr(self, field.name), HINTS[field.name]))
        rules.check(self, RANGES)

    @classmethod
    def make(cls, preset: str = "", **fields: Any) -> RunConfig:
        """A config from a preset (a name of `presets()` or a YAML file) with some fields replaced.

        Raises:
            UserError: for an unknown preset or field, or a value that does not fit its field.
        """
        return cls(**{**(read_preset(preset) if preset else {}), **known_fields(fields)}).asked_for(fields)

    @classmethod
    def from_names(cls, names: Mapping[str, Any]) -> RunConfig:
        """The config that a notebook's variables say: `preset`, and each field that has a variable of its name that is
        not None. Call it right below the parameters, with `globals()`."""
        fields = {name: names[name] for name in HINTS if names.get(name) is not None}
        return cls.make(names.get("preset") or "", **fields)

    @property
    def folder(self) -> Path:
        """The run's folder. Raises UserError where its name could not be a run's name."""
        folder = user_path("out", self.out) if self.out else self._default_folder()
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", folder.resolve().name):
            raise UserError(
                f"out is {str(folder)!r}: a run's name has 1 to 64 letters, digits, '.', '_' or '-', and no leading dot"
            )
        return folder

    def _default_folder(self) -> Path:
        others = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default} - FREE
        short, full = (Path("runs") / run_name(self.to_dict(), names, self.asked) for names in ((), others))
        # Before names told settings apart, a run had the short one: it can still be resumed without naming its folder.
        old = self.resumes and not (full / "config.json").exists() and (short / "config.json").exists()
        return short if old else full

    @property
    def resumes(self) -> bool:
        """Whether the run resumes from a checkpoint."""
        return self.resume or self.resume_anyway

    def task_options(self) -> dict[str, Any]:
        """`task_args` (and `data`) as keyword arguments; values are text, which the task reads by its own types."""
        return ({"data": self.data} if self.data else {}) | read_options(self.task_args)

    def environment_options(self) -> dict[str, Any]:
        """`environment_args` as keyword arguments; values are text, which the environment reads by its own types."""
        return dict(read_options(self.environment_args))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, field by field."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    def but(self, **fields: Any) -> Self:
        """The same config with some fields replaced, which still remembers the settings that a person has named."""
        return dataclasses.replace(self, **fields).asked_for(self.asked)

    def asked_for(self, names: Iterable[str]) -> Self:
        """The same config, which remembers the settings that a person has named beside a preset."""
        object.__setattr__(self, "_asked", frozenset(names))
        return self

    @property
    def asked(self) -> frozenset[str]:
        """Settings that a person has named; where that is not known, those that differ from their defaults."""
        changed = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default}
        return frozenset(changed & self.__dict__.get("_asked", changed))


HINTS: dict[str, Any] = typing.get_type_hints(RunConfig)
SETTINGS: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(RunConfig)}
RANGES: dict[str, tuple[float, float]] = {
    name: field.metadata["range"] for name, field in SETTINGS.items() if field.metadata["range"]
}
FREE = frozenset(name for name, field in SETTINGS.items() if not field.metadata["changes_results"])
"""Settings that a resumed run may change: how long, how fast, what is written. All others affect results."""
LIVE = tuple(name for name, field in SETTINGS.items() if field.metadata["live"])
"""Settings that may be changed between two iterations of a run, in order of declaration; each change is recorded."""
BUDGET = frozenset(name for name, field in SETTINGS.items() if field.metadata["budget"])
"""Settings of `FREE` that runs must nevertheless share to be compared."""


def settings() -> list[SettingInfo]:
    """Every setting with its group, type, default, range and text: what docs/settings.md is made from."""
    return list(describe(GROUPS))


def known_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields. Raises UserError for a name that RunConfig does not have, with the nearest one."""
    for name in fields:
        if name not in HINTS:
            near = difflib.get_close_matches(str(name), HINTS, n=1)
            hint = f": did you mean {near[0]!r}?" if near else "; `vpdlab train --help` lists them"
            raise UserError(f"there is no setting {name!r}{hint}")
    return dict(fields)


def presets() -> list[str]:
    """Names of the bundled presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The fields that a preset sets: a bundled name, or the path of a YAML file.

    Raises:
        UserError: where there is no such preset, or the file is not a mapping of RunConfig's fields; names the file.
    """
    path = user_path("preset", name) if name.endswith((".yaml", ".yml")) else PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(presets())}, or name a .yaml file")
    fields = read_yaml(path) or {}
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected lines of FIELD: VALUE")
    try:
        for field, value in known_fields(fields).items():
            rules.typed(field, value, HINTS[field])
        rules.check_ranges(fields, RANGES)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return fields
