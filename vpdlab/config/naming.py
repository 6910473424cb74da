"""The default name of a run's folder: what the run is, and a mark of what else differs from the defaults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LONGEST = 64
_NAMED = ("method", "task", "model", "seed")
_MARK = 6  # hexadecimal digits


def run_name(settings: Mapping[str, Any], differing: Iterable[str], asked: Iterable[str]) -> str:
    """METHOD-TASK-MODEL-sSEED, and, where other result-affecting settings differ, those asked for and a mark of all.

    Two runs whose settings differ have two names, so that a second run never meets the first one's folder.

    Args:
        settings: every setting of the run.
        differing: names of the result-affecting settings that differ from their defaults.
        asked: those that a person has named, which the name spells out as far as there is room.
    """
    model = _plain(Path(settings["model"]).name) or "model"
    name = f"{settings['method']}-{settings['task']}-{model}-s{settings['seed']}"
    others = {key: settings[key] for key in sorted(differing) if key not in _NAMED}
    for key in sorted(set(asked) & set(others)):
        longer = f"{name}-{key}-{_plain(_text(others[key]))}"
        name = longer if len(longer) + 1 + _MARK <= LONGEST else name
    data = json.dumps(others, sort_keys=True, default=list).encode()
    return f"{name}-{hashlib.sha256(data).hexdigest()[:_MARK]}" if others else name


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
