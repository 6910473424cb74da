"""Calling user code from a run without letting it change the run's process state.

A judge may change the working directory, torch's default dtype or signal handlers, replace a stream, or call
`sys.exit`. `surroundings_kept` restores all of that; `raised_in_one_line` formats what was raised. Global random states
are left to the judge: the run samples from its own generators, and checkpoints save the global states for the judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import gc
import importlib
import locale
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Awaitable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from vpdlab.errors import in_one_line

JUDGE = "vpdlab_own_"  # module-name prefix of judges loaded from a file


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """Restore process-wide state on exit: working directory, environment, streams, umask, `sys.path`, signal handlers
    and alarms, warnings, logging, decimal context, locale, garbage collection, numpy's error state, and torch's default
    dtype, device, modes and thread count."""
    keepers = [_process, _python, _signals, *([_torch] if "torch" in sys.modules else [])]
    keepers += [_numpy] if "numpy" in sys.modules else []
    process = os.getpid()
    with contextlib.ExitStack() as stack:
        for keeper in keepers:
            stack.enter_context(keeper())
        try:
            yield
        finally:
            if os.getpid() != process:  # a judge that forks must not make two runs of one
                os._exit(70)


@contextlib.contextmanager
def _process() -> Iterator[None]:
    try:
        folder = os.open(".", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))  # a descriptor survives a rename
    except OSError:
        folder = -1
    environment, streams, path = dict(os.environ), (sys.stdin, sys.stdout, sys.stderr), list(sys.path)
    mask = _umask()
    try:
        yield
    finally:
        if mask is not None and _umask() != mask:
            os.umask(mask)
        sys.stdin, sys.stdout, sys.stderr = streams
        if sys.path != path:
            sys.path[:] = path
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        if folder >= 0:
            os.fchdir(folder)
            os.close(folder)


def _umask() -> int | None:
    """The umask, if it can be read without changing it."""
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


@contextlib.contextmanager
def _python() -> Iterator[None]:
    filters, show, quiet = list(warnings.filters), warnings.showwarning, logging.root.manager.disable
    collects = gc.isenabled()
    level, depth, place = logging.root.level, sys.getrecursionlimit(), locale.setlocale(locale.LC_ALL)
    try:
        with decimal.localcontext():
            yield
    finally:
        if list(warnings.filters) != filters:
            warnings.filters[:] = filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]
        (gc.enable if collects else gc.disable)()
        warnings.showwarning = show
        logging.disable(quiet)
        logging.root.setLevel(level)
        sys.setrecursionlimit(depth)
        if locale.setlocale(locale.LC_ALL) != place:
            locale.setlocale(locale.LC_ALL, place)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Signal handlers and the alarm timer; both belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    timers = [signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF] if hasattr(signal, "setitimer") else []
    running = {timer for timer in timers if signal.getitimer(timer)[0]}
    try:
        yield
    finally:
        for timer in set(timers) - running:
            if signal.getitimer(timer)[0]:
                signal.setitimer(timer, 0)  # a forgotten alarm would kill the run
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _numpy() -> Iterator[None]:
    with sys.modules["numpy"].errstate():
        yield


@contextlib.contextmanager
def _torch() -> Iterator[None]:
    """torch is looked up in `sys.modules`, never imported: tasks work without it."""
    torch: Any = sys.modules["torch"]
    kept = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    ]
    before = [read() for read, _ in kept]
    try:
        yield
    finally:
        for (read, write), value in zip(kept, before, strict=True):
            if read() != value:
                write(value)


def raised_in_one_line(error: BaseException, file: str = "") -> str:
    """Format an exception on one line: type, message, and the last line of `file` in its traceback."""
    raised = traceback.TracebackException.from_exception(error)  # survives a __str__ that raises
    message = in_one_line(raised)
    lines = [frame.lineno for frame in raised.stack if file and frame.filename == file]
    where = f" ({Path(file).name} line {lines[-1]})" if lines else ""
    text = type(error).__name__ + (f": {message}" if message else "") + where
    return text.encode("utf-8", "backslashreplace").decode()


class Guest:
    """User code that imports modules from its own folder, as a script would, without exposing that folder to the run.

    While the code runs, its folder is on `sys.path`, after the standard library and before installed packages, and its
    modules are in `sys.modules`. Two judges in different folders can therefore both have a `helper.py`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.absolute())
        self.modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Make the folder's modules importable within the block."""
        path = list(sys.path)
        place = next((n for n, entry in enumerate(path) if "site-packages" in entry), len(path))
        sys.path.insert(place, self.folder)
        importlib.invalidate_caches()  # so that files written a moment ago are found
        before = set(sys.modules)
        hidden = {name: sys.modules[name] for name in self.modules if name in before}
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            sys.path[:] = path
            for name in [name for name in sys.modules if name not in before or name in self.modules]:
                if name in self.modules or self._ours(name.partition(".")[0]):
                    self.modules[name] = sys.modules.pop(name)
            sys.modules.update(hidden)

    def _ours(self, name: str) -> bool:
        """Whether a module was imported from the folder itself (not from a virtual environment inside it)."""
        module = self.modules.get(name) or sys.modules.get(name)
        if name.startswith(JUDGE):  # pickle looks up the classes of the judge's own module
            return False
        file = getattr(module, "__file__", None)
        places = [Path(file)] if file else [Path(path) for path in getattr(module, "__path__", [])]
        if file and Path(file).name == "__init__.py":
            places = [Path(file).parent]
        return any(str(place.parent.absolute()) == self.folder for place in places)


def waited_for(value: Awaitable[Any]) -> Any:
    """Run a coroutine on an event loop that lives as long as the process, so that clients can be reused."""

    async def waiting() -> Any:
        try:
            return await value
        except (SystemExit, KeyboardInterrupt) as error:  # either would stop the loop and leave us waiting
            raise RuntimeError(f"{type(error).__name__} in a coroutine") from error

    return asyncio.run_coroutine_threadsafe(waiting(), _loop()).result()


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judge", daemon=True).start()
    return loop
