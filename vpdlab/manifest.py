"""manifest.json: size and SHA-256 of every file in a folder, to detect changed bytes and stray files.

Checkpoints and final/ have one, because neither safetensors nor torch detects a flipped byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vpdlab.files import fsync, read_small

NAME = "manifest.json"
OF_A_SYSTEM = re.compile(r"\.DS_Store|\._.*|\.nfs[0-9a-f]+|Thumbs\.db|desktop\.ini", re.IGNORECASE)
"""Names of files that file managers and network file systems leave in any folder; nothing of vpdlab reads them."""


def write(folder: Path) -> None:
    """Sync every file of a folder to disk and write the manifest."""
    files = {}
    for name, path in _files(folder):
        fsync(path)
        files[name] = {"size": path.stat().st_size, "sha256": checksum(path)}
    (folder / NAME).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    fsync(folder / NAME)
    fsync(folder)


def damage(folder: Path) -> str:
    """The first difference between a folder's files and its manifest; "" if there is none.

    Raises:
        OSError: if a file cannot be read.
    """
    if not (folder / NAME).is_file():
        return f"{NAME} is missing"
    wanted = _read(folder / NAME)
    if wanted is None:
        return f"{NAME} is damaged"
    there = dict(_files(folder))
    for name, (size, digest) in sorted(wanted.items()):
        path = there.pop(name, None)
        if path is None:
            return f"{name} is missing"
        if path.is_symlink() or not path.is_file():
            return f"{name} is not a file of its own"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if checksum(path) != digest:
            return f"{name} is not what was written (its sha256 differs)"
    strays = [name for name in there if not OF_A_SYSTEM.fullmatch(PurePosixPath(name).name)]
    return f"{min(strays)} is not in its {NAME}" if strays else ""


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file and link below a folder except the manifest, by relative path. Links are not followed."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in sorted([*names, *links]):
            path = Path(place) / name
            inside = path.relative_to(folder).as_posix()
            if inside != NAME:
                yield inside, path


def _read(path: Path) -> dict[str, tuple[int, str]] | None:
    """name -> (size, SHA-256); None if the manifest is malformed or names a file outside the folder."""
    try:
        files: dict[str, Any] = json.loads(read_small(path).decode("utf-8"))["files"]
        found = {name: (file["size"], file["sha256"]) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    inside = all(not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in found)
    typed = all(type(size) is int and isinstance(digest, str) for size, digest in found.values())
    return found if inside and typed and found else None
