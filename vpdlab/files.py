"""Atomic writes of files and folders, and bounded reads.

Content is written under a hidden name next to its path and renamed into place, so neither a reader nor a kill exposes
a partial file. A failed write leaves the old content untouched and no temporary files behind.
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
    """Yield a hidden path to write to; on exit that file replaces `path`.

    Args:
        durable: sync the content to disk before the rename.
        shared: several processes or threads may write `path` at once, so each gets its own hidden name.

    Raises:
        OSError: if the file cannot be synced or renamed. After any error, `path` is unchanged.
    """
    staged = _hidden(path, shared)
    staged.unlink(missing_ok=True)  # a leftover of a killed process, or a link, which must not be written through
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
    """Yield an empty hidden folder to fill; on exit it is renamed to `path`, and the rename synced to disk.

    Syncing the content is up to the caller (`manifest.write` does it).

    Args:
        replace: replace a folder at `path`. Without it, only an empty one is replaced.
        shared: as for `staged_file`.

    Raises:
        OSError: if the folder cannot be made or renamed. After any error, `path` is unchanged.
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
    """Sync a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path) -> str:
    """Why no file can be written at `path`, whose folders may be missing; "" where one can. Nothing is made."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        return f"{_as_given(above, path)} is no folder"
    if path.is_dir():
        return "it is a folder"
    return "" if os.access(above, os.W_OK) else f"{_as_given(above, path)} cannot be written to"


def _as_given(above: Path, path: Path) -> Path:
    """A folder above `path`, relative where `path` is."""
    return above if path.is_absolute() or not above.is_relative_to(Path.cwd()) else above.relative_to(Path.cwd())


def ordinary(path: Path) -> None:
    """Raises OSError unless `path` is a regular file: reading a pipe may hang, a device may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))


def read_small(path: Path, most: int = 1 << 26) -> bytes:
    """The bytes of a regular file. Raises OSError for anything else, or for more than `most` bytes."""
    ordinary(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data
