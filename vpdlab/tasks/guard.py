"""Running a user's code inside a run: what it does to its surroundings leaves the run alone.

A judge is anybody's function. It may change the working folder, torch's default dtype or a signal's handler, replace
a stream, or call `sys.exit`. `surroundings_kept` puts all of that back; `in_a_line` says what was raised. Random states
are left alone: the run draws from generators of its own, and its checkpoints keep the global states for the judge.
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

JUDGE = "vpdlab_own_"  # before the name of a judge's module that was loaded from a file


@contextlib.contextmanager
def surroundings_kept() -> Iterator[None]:
    """Within the block anything may be changed; behind it, the process is as it was: working folder, environment,
    streams, module path, signal handlers and alarms, warnings, logging, decimals, locale, numpy's error state, and
    torch's default dtype, device, modes and threads."""
    keepers = [_process, _python, _signals, *([_torch] if "torch" in sys.modules else [])]
    keepers += [_numpy] if "numpy" in sys.modules else []
    with contextlib.ExitStack() as stack:
        for keeper in keepers:
            stack.enter_context(keeper())
        yield


@contextlib.contextmanager
def _process() -> Iterator[None]:
    try:
        folder = os.open(".", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))  # it comes back even where it was renamed
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
    """The mask of new files, where it can be read without changing it."""
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
    """Handlers and the alarm; both belong to the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    alarm = signal.getitimer(signal.ITIMER_REAL) if hasattr(signal, "setitimer") else None
    try:
        yield
    finally:
        if alarm is not None and not alarm[0] and signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that was set and forgotten would end the run
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _numpy() -> Iterator[None]:
    with sys.modules["numpy"].errstate():
        yield


@contextlib.contextmanager
def _torch() -> Iterator[None]:
    """torch is looked up, never imported: tasks work without it."""
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


def in_a_line(error: BaseException, file: str = "") -> str:
    """An exception in one line: its type, its words, and the line of `file` that it came through last."""
    said = traceback.TracebackException.from_exception(error)  # its words survive a __str__ that fails
    words = " ".join(str(said).split())[:300]
    lines = [frame.lineno for frame in said.stack if file and frame.filename == file]
    where = f" ({Path(file).name} line {lines[-1]})" if lines else ""
    text = type(error).__name__ + (f": {words}" if words else "") + where
    return text.encode("utf-8", "backslashreplace").decode()


class Guest:
    """Code from a folder that imports its neighbours, as a script does, without the run's imports seeing that folder.

    While it runs, its folder stands on the module path behind the standard library and before installed packages; its
    modules are in `sys.modules` only then, so that two folders may each have a `helper.py`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.absolute())
        self.modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Within the block the folder's modules can be imported."""
        path = list(sys.path)
        place = next((n for n, entry in enumerate(path) if "site-packages" in entry), len(path))
        sys.path.insert(place, self.folder)
        importlib.invalidate_caches()  # a file that was written a moment ago is seen
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
        """Whether a module was imported from the folder itself (not from an environment that lies in it)."""
        module = self.modules.get(name) or sys.modules.get(name)
        if name.startswith(JUDGE):  # the judge's own module: pickle looks its classes up
            return False
        file = getattr(module, "__file__", None)
        places = [Path(file)] if file else [Path(path) for path in getattr(module, "__path__", [])]
        if file and Path(file).name == "__init__.py":
            places = [Path(file).parent]
        return any(str(place.parent.absolute()) == self.folder for place in places)


def waited_for(value: Awaitable[Any]) -> Any:
    """The result of a coroutine, in an event loop that lives as long as the process, so that clients can be kept."""

    async def waiting() -> Any:
        try:
            return await value
        except (SystemExit, KeyboardInterrupt) as error:  # either would end the loop, and nobody would get an answer
            raise RuntimeError(f"{type(error).__name__} in a coroutine") from error

    return asyncio.run_coroutine_threadsafe(waiting(), _loop()).result()


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judge", daemon=True).start()
    return loop
