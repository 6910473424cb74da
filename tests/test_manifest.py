"""Checksums of a folder: what changed is named, and what a file manager leaves behind is no damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpdlab import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(b"123")
    manifest.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [".DS_Store", "._weights", ".nfs00000000012a", "Thumbs.db", "desktop.ini"])
def test_what_a_system_leaves_behind_is_no_damage(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\0")
    assert manifest.damage(folder) == ""


@pytest.mark.parametrize("name", ["more.safetensors", ".hidden", "DS_Store", ".nfs.py", "my.DS_Store"])
def test_any_other_stray_file_is(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\0")
    assert manifest.damage(folder) == f"{name} is not in its manifest.json"


def test_such_a_file_that_was_saved_must_stay_what_it_was(folder: Path) -> None:
    (folder / "Thumbs.db").write_bytes(b"1")
    manifest.write(folder)
    (folder / "Thumbs.db").write_bytes(b"2")
    assert "its sha256 differs" in manifest.damage(folder)
