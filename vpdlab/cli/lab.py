"""JupyterLab on the notebooks: in the working folder, with widgets that a saved notebook keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpdlab.cli.headless import notebooks
from vpdlab.errors import UserError, reason

FOLDER = "notebooks"
_ROOTS = ("--notebook-dir", "--ServerApp.root_dir", "--ServerApp.notebook_dir")


def open_lab(args: Sequence[str]) -> int:
    """Start JupyterLab on the working folder's notebooks and wait for its end; returns its exit status."""
    own = []  # a folder that the user names is left as it is
    if not any(word.partition("=")[0] in _ROOTS for word in args):
        own_notebooks(Path.cwd())
        own = [f"--ServerApp.root_dir={Path.cwd()}", f"--LabApp.default_url=/lab/tree/{FOLDER}"]
    return subprocess.call([sys.executable, "-m", "jupyterlab", *own, *args], env=environment(os.environ))


def own_notebooks(here: Path) -> Path:
    """The folder `notebooks` of a working folder, with a copy of each notebook that it lacks.

    Runs and edits belong to the user, and the notebooks of an installed package do not. A file that is there, or a
    link, is never replaced. A checkout's own notebooks are used as they are.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = here / FOLDER
    if folder.exists() and folder.samefile(notebooks()):
        return folder
    copied = []
    try:
        folder.mkdir(exist_ok=True)
        for source in sorted(notebooks().glob("*.ipynb")):
            try:
                with source.open("rb") as packaged, (folder / source.name).open("xb") as mine:
                    shutil.copyfileobj(packaged, mine)
                copied.append(source.name)
            except FileExistsError:
                continue
    except OSError as error:
        raise UserError(f"{folder}: cannot copy the notebooks ({reason(error)})") from error
    if copied:
        print(f"{len(copied)} notebooks copied to {folder}; no existing file is replaced", flush=True)
    return folder


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a JupyterLab whose notebooks keep their widgets when they are saved.

    The kernel of this Python environment wins over one of the same name elsewhere. `labconfig` holds defaults for
    JupyterLab's settings, which a user's own settings override: widget state is saved, and no question about news lies
    over the first output.
    """
    paths = [str(Path(__file__).parent), *filter(None, [given.get("JUPYTER_CONFIG_PATH", "")])]
    return {**given, "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_PATH": os.pathsep.join(paths)}
