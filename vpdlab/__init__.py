"""vpdlab: an interactive workbench for Variational Policy Distillation, learning from language feedback.

`RunConfig` and `load_run` need no torch; `Run`, `Parts` and `iterate` bring it in when first touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.record import load_run
from vpdlab.types import Outcome, Problem

if TYPE_CHECKING:
    from vpdlab.learn.iterate import Iteration, iterate
    from vpdlab.learn.parts import Parts
    from vpdlab.run import Run

__version__ = "0.1.0"
__all__ = [
    "Iteration", "Outcome", "Parts", "Problem", "Run", "RunConfig", "RunFailed", "UserError", "__version__", "iterate",
    "load_run",
]  # fmt: skip

_LATER = {
    "Run": "vpdlab.run", "Parts": "vpdlab.learn.parts", "Iteration": "vpdlab.learn.iterate",
    "iterate": "vpdlab.learn.iterate",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'vpdlab' has no attribute {name!r}")
