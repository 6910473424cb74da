"""The settings of a run. `learning` and `running` declare them, group by group; `setting` holds their metadata, `rules`
what a value may be, `words` the NAME=VALUE lists, `yaml_files` files of them, `naming` the default name of a run's
folder, `config` the whole record, its presets and what is derived from it."""

from vpdlab.config.config import (
    BUDGET,
    FREE,
    GROUPS,
    HINTS,
    LIVE,
    PRESETS,
    RANGES,
    RunConfig,
    known_fields,
    presets,
    read_preset,
    settings,
)
from vpdlab.config.rules import TRACKERS
from vpdlab.config.setting import SettingInfo
from vpdlab.config.words import read_options, read_values

__all__ = [
    "BUDGET", "FREE", "GROUPS", "HINTS", "LIVE", "PRESETS", "RANGES", "TRACKERS", "RunConfig", "SettingInfo",
    "known_fields", "presets", "read_options", "read_preset", "read_values", "settings",
]  # fmt: skip
