"""Files and folders that appear whole or not at all, and reads that cannot be held up.

What is written goes to a hidden name beside its path and is moved there in one rename, so a reader, or a process that
is killed, never sees half of it. A failed write leaves the old content as it was and nothing hidden behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_file(path: Path, durable: bool = True, shared: bool = False) -> Iterator[Path]:
    """Yield a hidden path to write to; leaving the block moves that file to `path`, over what was there.

    Args:
        durable: bring the content to the disk itself before the move.
        shared: several processes or threads may write `path` at once: each gets a hidden name of its own.

    Raises:
        OSError: where the file cannot be moved. After any error, `path` is as it was.
    """
    staged = _hidden(path, shared)
    staged.unlink(missing_ok=True)  # left by a killed process, or a link: never written through
    try:
        yield staged
        if durable:
            fsync(staged)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def staged_folder(path: Path, replace: bool = False, shared: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder to fill; leaving the block moves it to `path`, in one rename.

    The caller brings the content to the disk where that matters (`manifest.write` does); the rename reaches it here.

    Args:
        replace: a folder at `path` is removed once the new one is there. Without it only an empty one gives way.
        shared: as for `staged_file`.

    Raises:
        OSError: where the folder cannot be made or moved. After any error, `path` is as it was.
    """
    staged = _hidden(path, shared)
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        yield staged
        if replace and path.exists():
            _exchange(staged, path)
        else:
            staged.rename(path)
        fsync(path.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _exchange(staged: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        staged.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _hidden(path: Path, shared: bool) -> Path:
    mark = f".{os.getpid()}-{threading.get_ident()}" if shared else ""
    return path.with_name(f".{path.name}.new{mark}")


def fsync(path: Path) -> None:
    """Return once a file, or the names in a folder, are on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def ordinary(path: Path) -> None:
    """Raises OSError for what is no ordinary file: a pipe would hold whoever reads it, a device never ends."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def read_small(path: Path, most: int = 1 << 26) -> bytes:
    """The bytes of an ordinary file. Raises OSError for another one, or one of more than `most` bytes."""
    ordinary(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data
