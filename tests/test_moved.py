"""Old module names: the same modules, loaded once."""

from __future__ import annotations

import importlib

import pytest

import vpdlab


@pytest.mark.parametrize(("old", "new"), sorted(vpdlab._MOVED.items()))
def test_a_module_that_moved_is_imported_by_its_old_name(old: str, new: str) -> None:
    module = importlib.import_module(new)
    assert importlib.import_module(old) is module
    assert module.__spec__ is not None and module.__spec__.name == module.__name__ == new
