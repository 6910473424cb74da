"""Staged writes: a path has its old content or all of the new one, and no hidden file remains."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vpdlab import files
from vpdlab.files import staged_file, staged_folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with staged_file(path, durable) as staged:
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), staged_file(path) as staged:
        staged.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_file(tmp_path / "file"):
        pass
    assert names(tmp_path) == []


def test_nothing_is_written_through_a_link_with_the_hidden_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / ".file.new").symlink_to(tmp_path / "elsewhere")
    with staged_file(tmp_path / "file") as staged:
        staged.write_text("new")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert names(tmp_path) == ["elsewhere", "file"]


def test_many_threads_may_write_one_file(tmp_path: Path) -> None:
    def write(text: str) -> None:
        for _ in range(50):
            with staged_file(tmp_path / "file", durable=False, shared=True) as staged:
                staged.write_text(text)
            assert set((tmp_path / "file").read_text()) < set("ab")

    failed: list[object] = []
    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = hook
    assert failed == []
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("before", [None, [], ["a"]])
def test_a_folder_is_replaced_as_a_whole(tmp_path: Path, before: list[str] | None) -> None:
    path = tmp_path / "folder"
    if before is not None:
        path.mkdir()
        for name in before:
            (path / name).touch()
    (tmp_path / ".folder.new").mkdir()
    (tmp_path / ".folder.new" / "of a killed process").touch()
    with staged_folder(path, replace=True) as staged:
        (staged / "b").touch()
        assert path.exists() == (before is not None)
    assert names(tmp_path) == ["folder", "folder/b"]


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_the_old_one_alone(tmp_path: Path, error: type[BaseException], replace: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    with pytest.raises(error), staged_folder(tmp_path / "folder", replace=replace) as staged:
        (staged / "b").touch()
        raise error
    assert names(tmp_path) == ["folder", "folder/a"]


def test_only_an_empty_folder_gives_way_unasked(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with staged_folder(tmp_path / "folder") as staged:
        (staged / "a").touch()
    with pytest.raises(OSError, match="not empty"), staged_folder(tmp_path / "folder") as staged:
        (staged / "b").touch()
    assert names(tmp_path) == ["folder", "folder/a"]


def test_a_folder_that_cannot_be_moved_in_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == ".folder.new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="Input/output"), staged_folder(tmp_path / "folder", replace=True) as staged:
        (staged / "b").touch()
    assert names(tmp_path) == ["folder", "folder/a"]


def test_what_stands_in_the_way_of_a_file_is_known_before_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert files.unwritable(tmp_path / "new" / "deep" / "x") == files.unwritable(tmp_path / "file") == ""
    assert files.unwritable(tmp_path) == "it is a folder"
    assert files.unwritable(tmp_path / "file" / "a" / "b") == f"{tmp_path / 'file'} is no folder"
    monkeypatch.chdir(tmp_path)
    assert files.unwritable(Path("file/b")) == "file is no folder"
    monkeypatch.setattr("os.access", lambda place, how: False)
    assert files.unwritable(Path("b")) == ". cannot be written to"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
