"""Sampling backends, one file each; the name of the file is the value of `sampler`.

A backend module defines

* ``SETTINGS``: the fields of RunConfig that only it reads;
* ``check(config)``: raises UserError, before a model is loaded, if it is not installed or does not suit the run;
* ``open_sampler(config, policy, max_context) -> Sampler``.

transformers: the model in this process. vllm: a vLLM engine or server.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Protocol, cast

from vpdlab.errors import UserError, refuse_handed_in

if TYPE_CHECKING:
    from vpdlab.config import RunConfig
    from vpdlab.model.policy import Policy
    from vpdlab.sampling import Sampler


class Backend(Protocol):
    """The module of a backend."""

    SETTINGS: tuple[str, ...]

    def check(self, config: RunConfig) -> None: ...
    def open_sampler(self, config: RunConfig, policy: Policy, max_context: int) -> Sampler: ...


def names() -> list[str]:
    """Names of the available backends."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Backend:
    """The module of a backend. Raises UserError for an unknown name."""
    refuse_handed_in("sampler", name)
    if name not in names():
        raise UserError(f"sampler is {name!r}: choose one of {', '.join(names())}")
    return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
