"""Sandbox backends by name, each created and tested once per process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from vpdlab.errors import UserError
from vpdlab.sandbox.limits import Limits, Report
from vpdlab.sandbox.probe import probe
from vpdlab.sandbox.remote import Remote
from vpdlab.sandbox.wall import Bubblewrap, Unsafe


class Backend(Protocol):
    """Runs jobs of `inside`. Its `name` is part of every result."""

    @property
    def name(self) -> str: ...

    def execute(self, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int = 1) -> Report:
        """Run one job. Raises SandboxError if the sandbox itself failed."""
        ...


_lock = threading.Lock()
_known: dict[str, tuple[Backend, dict[str, Any]]] = {}


def backend(name: str | Backend = "bubblewrap") -> Backend:
    """The backend of that name.

    Args:
        name: "bubblewrap"; the address of a SandboxFusion server (http:// or https://); "unsafe" for no wall at all,
            which is never chosen automatically; or a backend object.

    Raises:
        UserError: for an unknown name, or if no wall is available; the message says how to get one.
    """
    return _find(name)[0] if isinstance(name, str) else name


def describe(name: str = "bubblewrap") -> dict[str, Any]:
    """The backend and the results of its test, as plain JSON for a run's record. Raises as `backend`."""
    return dict(_find(name)[1])


def _find(name: str) -> tuple[Backend, dict[str, Any]]:
    with _lock:
        if name not in _known:
            _known[name] = _build(name)
        return _known[name]


def _build(name: str) -> tuple[Backend, dict[str, Any]]:
    if name == "bubblewrap":
        wall = Bubblewrap.find()
        return wall, probe(wall)
    if name.startswith(("http://", "https://")):
        remote = Remote(name)
        return remote, {"wall": remote.name, "holds": "what that server holds"}
    if name == "unsafe":
        if sys.platform != "linux":
            raise UserError("sandbox unsafe runs on Linux only: name a SandboxFusion server (http://HOST:PORT)")
        return Unsafe(), {"wall": "unsafe", "holds": []}
    raise UserError(
        f"unknown sandbox {name!r}: choose bubblewrap, the http address of a SandboxFusion server, or unsafe"
    )
