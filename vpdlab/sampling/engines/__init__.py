"""Sampling backends, one file each; the file's name is the value of `sampler`.

A backend's module has

* ``SETTINGS``: fields of RunConfig that only it reads;
* ``check(config)``: raises UserError where it is not installed, or not for this run, before a model is loaded;
* ``open_sampler(config, policy, max_context) -> Sampler``.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from vpdlab.errors import UserError


def names() -> list[str]:
    """The backends that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of a backend. Raises UserError for a name that none has."""
    if name not in names():
        raise UserError(f"sampler is {name!r}: choose one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
