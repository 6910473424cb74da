"""The wheel: it holds what it should, and works in an environment of its own, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from vpdlab import __version__, load_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"vpdlab": ROOT / "vpdlab", "vpdlab_widgets": ROOT / "widgets" / "vpdlab_widgets"}
LEFT_OUT = ("__pycache__", ".pyc", ".ipynb_checkpoints")


@dataclass
class Installed:
    """An environment with the wheel in it, and a folder to work in."""

    folder: Path
    work: Path

    def run(self, *words: str | Path, timeout: float = 240) -> str:
        """What a program of the environment prints; fails where it fails."""
        program = self.folder / "bin" / words[0]
        done = subprocess.run(
            [program, *words[1:]], cwd=self.work, env=self._environment(), capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        """The variables of this process, without a way back into the checkout. Jupyter's data files (nbconvert's
        templates) lie in the environment of the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return kept | {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of sdist and wheel; the wheel is built from the sdist, so that is complete too."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment that has vpdlab's dependencies from the environment of the tests.

    A path file makes them importable. Path files are not read there a second time, so the editable install of the
    checkout is not seen.
    """
    place = tmp_path_factory.mktemp("environment")
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, timeout=120)
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "work").mkdir()
    return Installed(place / "env", place / "work")


def files(names: Sequence[str]) -> set[str]:
    return {name for name in names if not name.endswith("/") and not any(part in name for part in LEFT_OUT)}


def test_the_wheel_holds_both_packages_the_notebooks_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob(f"vpdlab-{__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = files(archive.namelist())
    wanted = {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file()
    }
    wanted |= {f"vpdlab/_notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {name for name in found if ".dist-info/" not in name} == files(sorted(wanted))


def test_vpdlab_comes_from_the_wheel(installed: Installed) -> None:
    where = installed.run(
        "python", "-c", "import vpdlab, vpdlab_widgets as w; print(vpdlab.__file__); print(w.__file__)"
    )
    assert all(Path(line).is_relative_to(installed.folder) for line in where.splitlines())
    version = "import importlib.metadata as m, vpdlab; print(m.version('vpdlab'), vpdlab.__version__)"
    assert installed.run("python", "-c", version).split() == [__version__, __version__]
    assert installed.run("vpdlab", "--version").strip() == f"vpdlab {__version__}"


def test_a_tour_trains(installed: Installed) -> None:
    small = ["--steps", "3", "--prompts", "4", "--group", "4", "--eval-problems", "8", "--eval-samples", "2"]
    installed.run("vpdlab", "train", "--preset", "tour-common", *small, "--e-every", "2", "--out", "runs/tour")
    record = load_run(installed.work / "runs" / "tour")
    assert record.status["state"] == "complete" and len(record.rows) == 3
    assert record.rows[1]["e_loss"] is not None


def test_a_notebook_runs(installed: Installed) -> None:
    kernel = "from jupyter_client import KernelManager; print(KernelManager().format_kernel_cmd()[0])"
    assert Path(installed.run("python", "-c", kernel).strip()).is_relative_to(installed.folder)
    assert "00_tour" in installed.run("vpdlab", "notebook", "--help")
    installed.run("vpdlab", "notebook", "00_tour", "--out", "walk")
    assert "One iteration by hand" in (installed.work / "walk" / "00_tour.html").read_text(encoding="utf-8")
