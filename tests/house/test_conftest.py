"""The rules that conftest.py puts on every test, tried on a small suite of their own."""

from __future__ import annotations

import os

import pytest
import torch
from jaxtyping import TypeCheckError
from places import TESTS

pytest_plugins = ["pytester"]

SUITE = """
import pytest

def test_fine(): pass

def test_absent(): pytest.skip("missing: a browser")

@pytest.mark.skipif(True, reason="missing: a model")
def test_absent_by_mark(): pass

def test_elsewhere(): pytest.skip("only on a Mac")

def test_extra(): pytest.skip("extra: real files")

@pytest.mark.xfail(reason="missing: an idea")
def test_expected(): assert False
"""
WHOLE_MODULE = 'import pytest\npytest.skip("missing: a data set", allow_module_level=True)\n'


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(test_suite=SUITE, test_whole=WHOLE_MODULE)
    return pytester


@pytest.mark.slow
def test_skips_stay_skips_on_a_workstation(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPDLAB_REQUIRE_ALL", raising=False)
    suite.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1, skipped=5, xfailed=1)


@pytest.mark.slow
def test_missing_pieces_fail_on_a_build_machine(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPDLAB_REQUIRE_ALL", "1")
    found = suite.runpytest_subprocess("-p", "no:cacheprovider", "--continue-on-collection-errors")
    # test_absent fails in its call; the mark (in setup) and the whole module (at collection) count as errors.
    found.assert_outcomes(passed=1, failed=1, errors=2, skipped=2, xfailed=1)
    for piece in ("a browser", "a model", "a data set"):
        found.stdout.fnmatch_lines(f"*allows no skip, missing: {piece}*")


def test_one_thread_and_no_hub() -> None:
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_shapes_are_checked() -> None:
    """A loss called with axes that disagree is refused by its signature, before any arithmetic."""
    from vpdlab import losses

    with pytest.raises(TypeCheckError):
        losses.token_divergence(torch.zeros(2, 3), torch.zeros(2, 4), 0.5)
