"""Executed notebooks as offline pages, for the documentation site: executed once, then taken from a cache.

The cache is build/notebooks. A page's name holds a digest of the notebook and of all sources of `vpdlab` and
`vpdlab_widgets`, so a page is never older than what it shows. `vpdlab notebook` makes the pages, so widgets and figures
stay alive in them as in every page of ours.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE, CACHE = ROOT / "notebooks", ROOT / "build" / "notebooks"
CODE = ("*.py", "*.js", "*.css", "*.yaml")
SMALL = {"train": ["--preset", "tour-common"]}  # options beyond the notebook's own defaults


def names() -> list[str]:
    """All notebooks, in reading order; the report comes after the run that it reports."""
    found = sorted(path.stem for path in SOURCE.glob("*.ipynb"))
    return sorted(found, key=lambda name: (not name[0].isdigit(), name == "report", name))


def prose(name: str) -> list[str]:
    """The Markdown cells of a notebook."""
    cells = nbformat.read(SOURCE / f"{name}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


def title(name: str) -> str:
    """The first heading of a notebook."""
    found = re.search(r"^# (.+)$", "\n".join(prose(name)), re.MULTILINE)
    return found[1].strip() if found else name


def page(name: str) -> Path:
    """The notebook's executed page; executes it where the cache does not have it.

    Raises:
        RuntimeError: the notebook failed; the message ends with its output.
    """
    target = CACHE / f"{name}-{_digest(name)}.html"
    if target.is_file():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        if name == "report":
            _command(place, "train", *SMALL["train"], "--out", "run")
            _command(place, "report", "run", "report.html")
            made = Path(place) / "report.html"
        else:
            _command(place, "notebook", name, *SMALL.get(name, []), "--out", "run")
            made = Path(place) / "run" / f"{name}.html"
        for old in CACHE.glob(f"{name}-*.html"):
            old.unlink()
        shutil.move(made, target)
    return target


def _digest(name: str) -> str:
    folders = [ROOT / "vpdlab", ROOT / "widgets" / "vpdlab_widgets"]
    files = sorted(file for folder in folders for pattern in CODE for file in folder.rglob(pattern))
    digest = hashlib.sha256()
    for file in [SOURCE / f"{name}.ipynb", *files]:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _command(place: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpdlab", *words], cwd=place, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"vpdlab {' '.join(words)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
