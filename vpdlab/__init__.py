"""vpdlab: an interactive workbench for Variational Policy Distillation, learning from language feedback.

`RunConfig` and `load_run` need no torch; `Run`, `Parts` and `iterate` import it when first accessed.

Rooms, from the top; each imports only those below it:

cli: commands. compare: methods and seeds side by side. run: a whole run. study: what a method does to whom. learn: one
iteration. feedback: critiques and demonstrations. sampling: rollouts. model: policy and teacher. zoo: where models come
from. show: runs for people. foreign: rollouts from elsewhere. record: the run folder. prompts: what is read. tasks:
problems and verdicts. config: settings. sandbox: programs behind a wall. losses, credit: the mathematics. types: the
records that travel. net, manifest, processes, paths, files, errors: the ground.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
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

# Modules of 0.1.0 and where they are now: scripts that name them go on working.
_MOVED = {
    "vpdlab.models": "vpdlab.zoo",
    "vpdlab.policy": "vpdlab.model.policy",
    "vpdlab.samplers.hf": "vpdlab.sampling.engines.transformers",
    "vpdlab.samplers": "vpdlab.sampling",
}


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module that has moved under its old name: the same module object, loaded once."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in _MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(_MOVED[spec.name])
        spec.loader_state = module.__spec__  # the import system is about to overwrite it
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _Moved())


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'vpdlab' has no attribute {name!r}")
