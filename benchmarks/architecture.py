"""How the code is connected: rooms, import arrows, and the files that a reader meets on two ways through it.

    python benchmarks/architecture.py [ROOT]        # ROOT: a checkout, default this one

rooms: packages and modules directly inside vpdlab; arrows: pairs of them of which one imports the other (grimp, the
graph of import-linter). Two ways, counted as distinct files on the call stacks: from the command line to the gradient
of the E-step, and from a verifier's verdict over feedback and the teacher's prompt to the teacher's logits. They are
taken from a real run of one iteration, so that nobody's idea of the design enters.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

IMPORTS = """
import json, pkgutil, grimp, vpdlab
graph = grimp.build_graph("vpdlab")
inside = {f"vpdlab.{module.name}" for module in pkgutil.iter_modules(vpdlab.__path__) if module.name != "__main__"}
room = lambda name: ".".join(name.split(".")[:2])
arrows = {(room(a), room(b)) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
modules = [name for name in graph.modules if name != "vpdlab"]
links = sum(len(graph.find_modules_directly_imported_by(name)) for name in modules)
between = {pair for pair in arrows if pair[0] != pair[1] and set(pair) <= inside}
print(json.dumps({"rooms": len(inside), "arrows": len(between), "modules": len(modules), "imports": links}))
"""

WAYS = """
import contextlib, io, json, sys, traceback
from pathlib import Path
import torch, vpdlab
from vpdlab import cli
from vpdlab.prompts import Renderer
from vpdlab.tasks.arithmetic import Arithmetic
home, ways = Path(vpdlab.__file__).parent, {"gradient": set(), "logits": set()}
within = ["iterate"]

def note(way, top):
    frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(home)]
    names = [f.name for f in frames]
    if top in names:
        files = [str(Path(f.filename).relative_to(home)) for f in frames[names.index(top):]]
        ways[way] |= set(files)

def watch(owner, name, way, top):
    real = getattr(owner, name)
    def call(*args, **options):
        note(way, top)
        return real(*args, **options)
    setattr(owner, name, call)

backward = torch.Tensor.backward
def first(self, *args, **options):
    if not ways["gradient"]:
        note("gradient", "main")
    return backward(self, *args, **options)
torch.Tensor.backward = first
watch(Arithmetic, "verify", "logits", "iterate")
watch(Renderer, "teacher", "logits", "iterate")
linear = torch.nn.functional.linear
def logits(*args, **options):
    if any(f.name in ("states", "token_dist") and "teacher" in f.filename for f in traceback.extract_stack()):
        note("logits", "iterate")
    return linear(*args, **options)
torch.nn.functional.linear = logits
out = sys.argv[1]
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status = cli.main(["train", "--preset", "tour-common", "--e_every", "1", "--steps", "1", "--prompts", "2",
    "--eval_every",
                       "-1", "--out", out])
assert status == 0
print(json.dumps({way: sorted(files) for way, files in ways.items()}))
"""


def measured(root: Path, program: str, *words: str) -> dict:
    """What a program prints about the checkout in `root`."""
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'widgets')!r}]\n{program}"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd="/")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> int:
    """Print the counts of one checkout."""
    import tempfile

    root = Path(arguments[0]).resolve() if arguments else ROOT
    counts = measured(root, IMPORTS)
    print(f"{counts['rooms']} rooms, {counts['arrows']} arrows between them; {counts['modules']} modules,"
          f" {counts['imports']} imports")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ways = measured(root, WAYS, str(Path(folder) / "run"))
    for way, text in (
        ("gradient", "command line to the E-step's gradient"),
        ("logits", "verdict to the teacher's logits"),
    ):
        print(f"{text}: {len(ways[way])} files: {', '.join(ways[way])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
