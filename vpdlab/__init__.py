"""vpdlab: an interactive workbench for Variational Policy Distillation, learning from language feedback.

`RunConfig` and `load_run` need no torch; `Run` brings it in when it is first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.record import load_run
from vpdlab.types import Outcome, Problem

if TYPE_CHECKING:
    from vpdlab.loop import Run

__version__ = "0.1.0"
__all__ = ["Outcome", "Problem", "Run", "RunConfig", "RunFailed", "UserError", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from vpdlab.loop import Run

        return Run
    raise AttributeError(f"module 'vpdlab' has no attribute {name!r}")
