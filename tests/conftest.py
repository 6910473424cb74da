"""What every test has: one torch thread, no hub, shapes checked, and no silent skip on a build machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch and transformers are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# Before the first test on a GPU starts cuBLAS: deterministic runs refuse to begin without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
from jaxtyping import install_import_hook

# Before anything imports these modules: shapes in their signatures are checked from here on.
CHECKED = [
    "vpdlab.losses", "vpdlab.credit", "vpdlab.model.batch", "vpdlab.model.comparison", "vpdlab.model.distributions",
    "vpdlab.model.chunks", "vpdlab.study.tabular",
]  # fmt: skip
install_import_hook(CHECKED, "beartype.beartype")

import torch

torch.set_num_threads(1)
if torch.get_num_interop_threads() != 1:  # torch refuses a second call, where pytest starts again in one process
    torch.set_num_interop_threads(1)

REQUIRE_ALL = "VPDLAB_REQUIRE_ALL"


# Where several workers share the files, these begin first.
LONGEST = ("notebooks/test_notebooks.py", "cli/test_lab.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {str(Path(__file__).parent / name): place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


def _refuse_missing(report: Any) -> None:
    """Turn a skip whose reason begins with "missing:" into a failure where everything has to be there.

    What nobody has to have (real files beside a set of our own) is skipped with "extra:", which stays a skip.
    """
    if os.environ.get(REQUIRE_ALL) != "1" or not report.skipped or not isinstance(report.longrepr, tuple):
        return  # an expected failure is reported as skipped too, but carries no (file, line, reason)
    file, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if reason.startswith("missing:"):
        report.outcome = "failed"
        report.longrepr = f"{file}:{line}: {REQUIRE_ALL}=1 allows no skip, {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    _refuse_missing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    report = yield
    _refuse_missing(report)
    return report


@pytest.fixture(scope="module")
def chromium() -> Iterator[str]:
    """Path of a Chromium for the browser tests; the one that a file's pages were opened in ends with the file."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("missing: chromium (apt-get install chromium)")
    yield program
    from offline_browser import close_browser

    close_browser()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of the real instruct model."""

    from vpdlab import zoo

    entry = next(entry for entry in zoo.catalog() if entry["name"] == "smollm2-135m")
    if not entry["present"]:
        pytest.skip("missing: smollm2-135m (vpdlab models get smollm2-135m)")
    return Path(entry["where"])
