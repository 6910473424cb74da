"""`vpdlab doctor`: quick, complete, and never in the way of what it looks for."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vpdlab.cli import doctor


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_examine_is_quick_and_covers_the_machine() -> None:
    doctor.examine()  # torch's import, once a process, is not what is timed
    start = time.perf_counter()
    checks = by_name(doctor.examine())
    assert time.perf_counter() - start < 5
    expected = {"python", "torch", "transformers", "memory", "disk", "threads", "jupyter kernel", "vllm", "bubblewrap"}
    assert expected | {"chromium", "model apprentice", "model smollm2-135m", "hub"} <= set(checks)
    assert any(name.startswith("device") for name in checks)


def test_what_is_not_ok_says_what_to_do() -> None:
    for check in doctor.examine():
        assert check.detail
        if check.state != "ok":
            assert check.remedy, check


def test_nothing_installed_is_a_report_not_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    monkeypatch.setenv("VPDLAB_CACHE", str(tmp_path))

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    checks = by_name(doctor.examine())
    assert checks["vpdlab"].state == "problem"
    for name in ("device", "memory", "jupyter kernel"):
        assert checks[name].state == "problem", checks[name]
    for name in ("vllm", "bubblewrap", "chromium", "model smollm2-135m"):
        assert checks[name].state == "missing", checks[name]
    assert checks["model smollm2-135m"].remedy == "vpdlab models get smollm2-135m"


def test_packages_are_held_against_the_declared_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=99", "no-such-package>=1", "pandas>=1", "vllm>=0.32; extra == 'vllm'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    checks = by_name(doctor._packages())
    assert checks["torch"].state == "problem"
    assert "outside >=99" in checks["torch"].detail
    assert checks["no-such-package"] == doctor.Check(
        "no-such-package", "problem", "not installed", "pip install 'no-such-package>=1'"
    )
    assert checks["other packages"].detail == "1 in range"
    assert "vllm" not in checks


def test_a_local_build_suffix_is_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert doctor._package(Requirement("torch>=2.11")).state == "ok"


def test_a_kernel_of_another_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    spec = KernelSpec(argv=["/elsewhere/bin/python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)
    check = doctor._kernel()
    assert check.state == "problem"
    assert "/elsewhere/bin/python" in check.detail


def test_busy_neighbours_are_noticed_unless_one_thread_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert doctor._load().state == "problem"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor._load().state == "ok"


def test_the_hub_switch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "is set" in doctor._offline().detail
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "is not set" in doctor._offline().detail


def test_render_aligns_and_counts() -> None:
    checks = [
        doctor.Check("a", "ok", "fine"),
        doctor.Check("longer", "missing", "not here", "get it"),
        doctor.Check("b", "problem", "broken", "mend it"),
    ]
    assert doctor.render(checks).splitlines() == [
        "ok       a       fine",
        "missing  longer  not here",
        "         -> get it",
        "problem  b       broken",
        "         -> mend it",
        "1 ok, 1 missing (optional), 1 problem",
    ]
    assert doctor.render([]) == "0 ok, 0 missing (optional), 0 problems"
