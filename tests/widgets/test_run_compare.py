"""RunCompare: what its Python side takes and refuses, and how it is in a real browser."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from offline_browser import offline_page, status
from vpdlab_widgets import RunCompare

from vpdlab.show.widget_data import compared_runs

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e"


def run(name: str, method: str = "vpd", seed: int = 0, steps: int = 20, **fields: Any) -> dict[str, Any]:
    rows = [
        {
            "step": step, "success_rate": step / (40 + seed), "kl": 1 / step, "margin": None, "entropy": 1 - step / 50,
            "length": 10, "seconds_rollout": 1.0 + seed, "seconds_m": 1.0, "tokens_rollout": 100, "signal_share": 1.0,
        }
        for step in range(1, steps + 1)
    ]  # fmt: skip
    evals = [{"step": step, "accuracy": step / (50 + 10 * seed)} for step in range(0, steps + 1, 5)]
    return {
        "name": name, "method": method, "seed": seed, "rollouts_per_step": 8, "rows": rows, "evals": evals
    } | fields  # fmt: skip


RUNS = [run("vpd-0"), run("vpd-1", seed=1), run("sdpo-0", "sdpo", steps=12), run("sdpo-1", "sdpo", 1, steps=12)]


def page_of(tmp_path: Path, runs: list[dict[str, Any]], **options: Any) -> Path:
    path = tmp_path / "compare.html"
    RunCompare(runs, **options).to_html(path)
    return path


# -- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([{"name": "a", "rows": []}], r"runs\[0\]: `method` must be a str, not None"),
        ([{"name": "a", "method": "vpd", "rows": None}], r"runs\[0\]: `rows` must be a list"),
        ([RUNS[0], RUNS[0]], "two runs are named 'vpd-0'"),
    ],
)
def test_runs_that_cannot_be_shown_are_refused(runs: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunCompare(runs)


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="selected 'x' is not one of vpd-0"):
        RunCompare(RUNS, selected="x")
    with pytest.raises(TypeError, match="unknown keyword 'axes'"):
        RunCompare(RUNS, axes="time")


def test_recorded_runs_become_plain_data() -> None:
    row = {"step": 1, "kl": float("nan"), "notes": "x" * 9000, "warnings": []}
    records = [
        SimpleNamespace(
            folder=Path("runs") / f"r{seed}", config={"method": "vpd", "seed": seed, "prompts": 4, "group": 8},
            rows=[row], eval_rows=[{"step": 0, "accuracy": 0.5, "k": 4}], origin=None,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    runs = compared_runs(records, labels=["F=5", "F=10"])
    assert [(one["name"], one["method"], one["seed"], one["rollouts_per_step"]) for one in runs] == [
        ("r0", "F=5", 0, 32), ("r1", "F=10", 1, 32)
    ]  # fmt: skip
    assert "notes" not in runs[0]["rows"][0]
    widget = RunCompare(runs)
    assert widget.runs[0]["rows"][0]["kl"] is None
    json.dumps(widget.runs, allow_nan=False)
    assert compared_runs(records)[1]["method"] == "vpd"


def test_fallback_is_a_table_of_runs() -> None:
    text = RunCompare([run(HOSTILE)], title=HOSTILE).fallback()
    assert "<script" not in text
    assert not set("\x1b\u202e") & set(text)
    assert "0.4" in text


# -- in the browser ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_keys_move_align_and_choose(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, RUNS)) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        panels = page.locator("svg[data-panel]").evaluate_all("all => all.map((one) => one.dataset.panel)")
        assert panels == ["accuracy", "success_rate", "kl", "entropy", "length"]  # no margin, and a signal throughout
        page.keyboard.press("Tab")
        page.keyboard.press("End")
        page.keyboard.press("PageUp")
        assert status(page) == "Held-out accuracy at 10 iterations: vpd 0.183 [0.167, 0.2] · sdpo 0.183 [0.167, 0.2]"
        page.keyboard.press("End")
        assert "sdpo –" in status(page)  # a shorter run has no value there
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.querySelector('[role=status]').textContent === 'run vpd-0 selected'")
        assert page.locator("path[data-run=vpd-0]").count() == 5
        for name in ("rollouts", "sampled tokens", "training time"):
            page.keyboard.press("x")
            page.wait_for_function(f"document.querySelector('[aria-pressed=true].vpd-option').textContent === '{name}'")
        page.keyboard.press("Escape")
        page.wait_for_function("!document.querySelector('[data-run]')")
        assert page.evaluate("heard") == ["Tab"]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body")


@pytest.mark.slow
def test_methods_hide_and_lines_are_chosen_by_pointer(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, RUNS)) as page:
        page.locator(".vpd-rc-method", has_text="sdpo").click()
        page.wait_for_function("document.querySelectorAll('.vpd-rc-end').length === 1")
        page.locator(".vpd-rc-seed").nth(1).click()
        page.wait_for_function("document.querySelector('path[data-run=vpd-1]')")
        box = page.locator("svg[data-panel=accuracy]").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
        assert "Held-out accuracy at" in status(page)
        page.locator(".vpd-rc-method", has_text="vpd").click()
        page.wait_for_function("document.querySelector('.vpd-empty')")


@pytest.mark.slow
def test_an_axis_that_one_run_lacks_is_not_offered(chromium: str, tmp_path: Path) -> None:
    bare = run("bare", rollouts_per_step=None, rows=[{"step": 1, "kl": 0.1}, {"step": 2, "kl": 0.2}])
    with offline_page(chromium, page_of(tmp_path, [RUNS[0], bare])) as page:
        assert page.locator(".vpd-rc-controls .vpd-option").count() == 0
    with offline_page(chromium, page_of(tmp_path, [])) as page:
        assert "No runs" in page.locator(".vpd-rc-stage").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_hostile_names_are_text_and_nothing_scrolls_sideways(chromium: str, tmp_path: Path, width: int) -> None:
    runs = [run(f"{HOSTILE}{i}", f"{HOSTILE}{i % 7}", i) for i in range(9)]
    path = page_of(tmp_path, runs, title=HOSTILE)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script, .vpd a").count() == 0
        assert not set("\x1b\u202e") & set(page.locator(".vpd").inner_text())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_twelve_methods_have_twelve_looks_and_no_name_over_another(chromium: str, tmp_path: Path) -> None:
    """Curves that end at the same value: the names are pushed apart and stay inside the panel."""
    runs = [run(f"r{i}", f"method {i}") for i in range(12)]
    look = """() => [...document.querySelectorAll('svg[data-panel=accuracy] path[data-method]')].map((line) => {
      const marker = line.nextElementSibling;
      const shape = marker.getAttribute('d').split('Z')[0].replace(/[\\d.]+/g, '0');
      const { stroke, strokeDasharray } = getComputedStyle(line);
      return [stroke, strokeDasharray, shape, marker.classList.length].join(';');
    })"""
    with offline_page(chromium, page_of(tmp_path, runs)) as page:
        looks = page.evaluate(look)
        assert len(looks) == len(set(looks)) == 12
        frame = page.locator("svg[data-panel=accuracy]").bounding_box()
        boxes = [one.bounding_box() for one in page.locator(".vpd-rc-end").all()]
        tops = sorted(box["y"] for box in boxes)
        assert all(below - above >= 14 for above, below in pairwise(tops))
        assert tops[0] >= frame["y"] - 4 and tops[-1] + 14 <= frame["y"] + frame["height"]


@pytest.mark.slow
def test_an_empty_stage_says_why(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, [run("vpd-0") | {"rows": [], "evals": []}])) as page:
        assert page.locator(".vpd-empty").inner_text() == "No iterations"
    with offline_page(chromium, page_of(tmp_path, RUNS[:1])) as page:
        page.locator(".vpd-rc-method").click()
        assert page.locator(".vpd-empty").inner_text() == "All methods are hidden"


@pytest.mark.slow
def test_every_column_fits_a_projector(chromium: str, tmp_path: Path) -> None:
    """640 pixels are what a notebook has at 1024 x 768 and 125 %."""
    runs = [run(f"F{every}", f"F = {every}") for every in (1, 5, 10)]
    with offline_page(chromium, page_of(tmp_path, runs), viewport={"width": 640, "height": 600}) as page:
        table = page.locator(".vpd-rc-table")
        assert table.evaluate("node => node.scrollWidth <= node.clientWidth")
        heights = page.locator(".vpd-rc-method").evaluate_all("all => all.map((one) => one.offsetHeight)")
        assert len(set(heights)) == 1  # "F = 10" is not broken


@pytest.mark.parametrize("axis", ["iterations", "rollouts", "tokens", "time"])
def test_a_branch_is_aligned_at_its_fork(chromium: str, tmp_path: Path, axis: str) -> None:
    origin = run("x")
    branch = run("y", f"vpd from 8: beta 1 {HOSTILE}", origin={"run": "x", "step": 8})
    with offline_page(chromium, page_of(tmp_path, [origin, branch], axis=axis)) as page:
        panels = page.locator("svg[data-panel]").count()
        forks = page.locator(".vpd-rc-fork[data-fork='8']")
        assert forks.count() == panels
        line = page.locator("svg[data-panel='success_rate'] [data-method='1']").get_attribute("d")
        fork = page.locator("svg[data-panel='success_rate'] .vpd-rc-fork").get_attribute("d")
        begin = [float(path.removeprefix("M").split()[0]) for path in (line, fork)]
        assert abs(begin[0] - begin[1]) < 0.2  # the branch's line begins where it left the other
        assert page.locator("svg text", has_text="fork at 8").count() == 1
        assert page.locator("img").count() == 0
