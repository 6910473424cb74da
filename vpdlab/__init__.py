"""vpdlab: an interactive workbench for Variational Policy Distillation, learning from language feedback.

`RunConfig` and `load_run` need no torch; `Run`, `Parts` and `iterate` import it when first accessed.

Rooms, from the top; each imports only those below it:

cli: commands. compare: methods and seeds side by side. run: a whole run. study: what a method does to whom. learn: one
iteration. feedback: critiques and demonstrations. sampling: rollouts. model: policy and teacher. zoo: where models come
from. show: runs for people. record: the run folder. prompts: what is read. tasks: problems and verdicts. config:
settings. sandbox: programs behind a wall. losses, credit: the mathematics. types: the records that travel. net,
manifest, processes, paths, files, errors: the ground.
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
