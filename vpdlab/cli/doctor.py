"""`vpdlab doctor`: whether this machine is ready, what is missing, and what to do about it.

Nothing here fails because something is missing: each finding is a `Check`, and its remedy is a command or one sentence.
It takes a few seconds, most of them for importing torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from vpdlab.zoo import BUNDLED, cache_dir, catalog

State = Literal["ok", "missing", "problem"]
MAIN = (
    "torch", "transformers", "peft", "accelerate", "datasets", "reasoning-gym",
    "jupyterlab", "ipywidgets", "anywidget", "papermill", "plotly",
)  # fmt: skip
GIB = 2**30
REMEDY = "pip install 'vpdlab[vllm]' with an NVIDIA GPU; make vllm for its CPU build; docs/engines.md"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: of what was checked.
        state: "ok"; "missing" for something optional; "problem" for something to fix.
        detail: the finding.
        remedy: what to do about it; empty if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> list[Check]:
    """Check the machine and the environment; never raises because something is missing."""
    return [
        _python(),
        *_packages(),
        *_torch(),
        _compiler(),
        _memory(),
        _disk(),
        _load(),
        _kernel(),
        _vllm(),
        _bubblewrap(),
        _chromium(),
        *_models(),
        _offline(),
    ]


def _python() -> Check:
    # pip and make refuse an older Python, so there is none here.
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _packages() -> list[Check]:
    try:
        lines = importlib.metadata.requires("vpdlab") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check("vpdlab", "problem", "not installed, only on the import path", "pip install -e .")]
    wanted = [Requirement(line) for line in lines]
    wanted = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    checks = {need.name: _package(need) for need in wanted}
    shown = [checks.pop(name) for name in MAIN if name in checks]
    bad = [check for check in checks.values() if check.state != "ok"]
    fine = len(checks) - len(bad)
    return [*shown, *bad, Check("other packages", "ok", f"{fine} in range")]


def _package(need: Requirement) -> Check:
    remedy = f"pip install '{need.name}{need.specifier}'"
    try:
        version = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(need.name, "problem", "not installed", remedy)
    if not need.specifier.contains(version, prereleases=True):
        return Check(need.name, "problem", f"{version}, outside {need.specifier}", remedy)
    return Check(need.name, "ok", version)


def _cores() -> int:
    """Cores that this process may use; fewer than the machine has inside a container or a job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _torch() -> list[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library fails to load
        return [Check("device", "problem", f"cannot import torch: {error}", "pip install --force-reinstall torch")]
    cpu = f"{torch.get_num_threads()} torch threads on {_cores()} cores"
    if torch.cuda.is_available():
        return [_gpu(index, torch.cuda.get_device_properties(index)) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [Check("device", "ok", f"Apple GPU (mps); {cpu}")]
    if _nvidia():
        remedy = "install a CUDA build of torch that fits the driver (pytorch.org, Get Started)"
        return [Check("device", "problem", f"an NVIDIA driver is installed, but torch sees no GPU; {cpu}", remedy)]
    return [Check("device", "ok", f"CPU; {cpu}; enough for the bundled model")]


def _compiler() -> Check:
    try:
        import torch

        from vpdlab.model.compiling import obstacle
    except (ImportError, OSError) as error:
        return Check("torch.compile", "missing", f"cannot import torch: {error}")
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if why := obstacle(kind):
        remedy = "large models score more slowly without it; on a CPU it needs a C++ compiler (g++), on a GPU Triton"
        return Check("torch.compile", "missing", f"does not work on this {kind}: {why}", remedy)
    return Check("torch.compile", "ok", f"works on this {kind}")


def _nvidia() -> bool:
    return shutil.which("nvidia-smi") is not None and Path("/proc/driver/nvidia").exists()


def _gpu(index: int, device: object) -> Check:
    name, memory = getattr(device, "name", "GPU"), getattr(device, "total_memory", 0)
    return Check(f"device cuda:{index}", "ok", f"{name}, {memory / GIB:.0f} GiB")


def _memory() -> Check:
    try:
        import psutil
    except ImportError as error:
        return Check("memory", "problem", str(error), "pip install psutil")
    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < 2 * GIB:
        return Check("memory", "problem", detail, "free some memory: the bundled model needs 2 GiB, smollm2-135m 6 GiB")
    return Check("memory", "ok", detail)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / GIB:.1f} GiB free in the current folder, where runs/ is written"
    if free < 2 * GIB:
        return Check("disk", "problem", detail, "free some space, or set `--out` to a folder on another disk")
    return Check("disk", "ok", detail)


def _load() -> Check:
    cores = _cores()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    setting = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS not set"
    if not hasattr(os, "getloadavg"):
        return Check("threads", "ok", f"{cores} cores, {setting}")
    load = os.getloadavg()[0]
    detail = f"load {load:.1f} on {cores} cores, {setting}"
    if load > cores * 1.25 and threads != "1":
        remedy = "other processes use the cores: OMP_NUM_THREADS=1 is many times faster than competing threads"
        return Check("threads", "problem", detail, remedy)
    return Check("threads", "ok", detail)


def _kernel() -> Check:
    name = "jupyter kernel"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        return Check(name, "problem", str(error), "pip install ipykernel jupyterlab")
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Check(name, "problem", "no kernel named python3", "python -m ipykernel install --sys-prefix")
    program = str(spec.argv[0]) if spec.argv else "nothing"
    own = program == "python" or Path(program).parent == Path(sys.executable).parent
    if not own:
        remedy = "open notebooks with `vpdlab lab`, or run: python -m ipykernel install --sys-prefix"
        return Check(name, "problem", f"python3 starts {program}, from another environment", remedy)
    return Check(name, "ok", "python3 runs in this environment")


def _vllm() -> Check:
    # By import name, not by distribution: the CPU build has another name.
    if importlib.util.find_spec("vllm") is not None:
        return Check("vllm", "ok", "installed, for `sampler vllm`")
    if sys.platform != "linux":
        return Check("vllm", "missing", "runs on Linux only; here `sampler vllm` needs a server (vllm_url)", REMEDY)
    return Check(
        "vllm", "missing", "not installed; only needed for `sampler vllm`, which is faster than transformers", REMEDY
    )


def _bubblewrap() -> Check:
    program, use = shutil.which("bwrap"), "isolates model-written code"
    if program is None:
        return Check("bubblewrap", "missing", f"not installed; it {use}", "apt-get install bubblewrap (or dnf, pacman)")
    from vpdlab.errors import UserError
    from vpdlab.sandbox import SandboxError, describe

    try:
        found = describe()
    except (UserError, SandboxError) as error:
        return Check("bubblewrap", "problem", f"installed, but {error}", "allow user namespaces or use a server")
    held, python = len(found["holds"]), found["python"]
    return Check("bubblewrap", "ok", f"{use}: passed {held} trials; programs run on Python {python}")


def _chromium() -> Check:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return Check("chromium", "ok", f"{program} (for vpdlab's own tests)")
    return Check("chromium", "missing", "only needed for vpdlab's own browser tests", "apt-get install chromium")


def _models() -> list[Check]:
    checks = []
    for entry in catalog():
        name = f"model {entry['name']}"
        if entry["present"]:
            checks.append(Check(name, "ok", entry["where"]))
        elif entry["name"] in BUNDLED:
            checks.append(Check(name, "problem", f"not in {entry['where']}, where it should be", "reinstall vpdlab"))
        else:
            remedy = f"vpdlab models get {entry['name']}"
            checks.append(Check(name, "missing", f"not yet in {cache_dir()}", remedy))
    return checks


def _offline() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return Check("hub", "ok", "HF_HUB_OFFLINE is set: only models and data on this machine are used")
    return Check("hub", "ok", "HF_HUB_OFFLINE is not set: hub models and data are downloaded on first use")


def render(checks: list[Check]) -> str:
    """The findings as an aligned table, each remedy on its own line, followed by a count.

    >>> print(render([Check("python", "ok", "3.12.1"), Check("vllm", "missing", "not installed", "pip install vllm")]))
    ok       python  3.12.1
    missing  vllm    not installed
             -> pip install vllm
    1 ok, 1 missing (optional), 0 problems
    """
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<7}  {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"{'':<7}  -> {check.remedy}")
    count = {state: sum(check.state == state for check in checks) for state in ("ok", "missing", "problem")}
    problems = f"{count['problem']} problem{'' if count['problem'] == 1 else 's'}"
    lines.append(f"{count['ok']} ok, {count['missing']} missing (optional), {problems}")
    return "\n".join(lines)
