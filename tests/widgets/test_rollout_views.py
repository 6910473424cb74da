"""Warnings that lead to rollouts, the other views of the table, files that the reader saves, and addresses of pages."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from offline_browser import offline_page
from vpdlab_widgets import CritiqueInfluence, EMTimeline, RolloutTable, RunCompare, TokenLens, write_page

from tests.widgets.test_critique_influence import record as influence_record
from vpdlab.show.widget_data import lens_records, rollout_rows

pytestmark = pytest.mark.slow
SVG = "{http://www.w3.org/2000/svg}"


def record(step: int, index: int) -> dict[str, Any]:
    """Four rollouts of two problems in each iteration; those of the second problem hear of a warning."""
    return {
        "step": step, "problem_id": f"p{index // 2}", "group": index // 2, "index": index % 2, "prompt": "3 + 4?",
        "text": f"the sum is {index + step}" if index else '=HYPERLINK("x")', "success": index % 2 == 0, "reward": 0.0,
        "finished": True, "source": "verifier", "signal": True, "truncated": 0, "implicit_reward": index / 2 - step,
        "response_ids": [1, 2, 3], "logps": [-0.1] * 3, "tokens": ["a", "b", "c"], "kl": [step / 10 + index / 100] * 3,
        "student_logp": [-0.5] * 3, "teacher_logp": [-0.7] * 3, "alarms": ["length-collapse"] if index > 1 else [],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    records = [record(step, index) for step in range(1, 7) for index in range(4)]
    rows = [
        {"step": step, "success_rate": 0.5, "reward": 0.5, "margin": 0.1 * step,
         "warnings": ["length-collapse: responses shrank"] if step in (2, 3, 5) else []}
        for step in range(1, 7)
    ]  # fmt: skip
    timeline, table = EMTimeline(rows, title="a run"), RolloutTable(rollout_rows(records), title="rollouts")
    lens = TokenLens(lens_records(records, beta=1.0))
    timeline.drive(table, "alarm", "alarm")
    table.drive(lens)
    write_page([timeline, table, lens], tmp_path / "page.html")
    return tmp_path / "page.html"


def rows_shown(page: Any, count: int) -> None:
    page.wait_for_function(f"document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') === '{count}'")


def test_a_warning_leads_to_its_rollouts_by_pointer_and_by_key(chromium: str, place: Path) -> None:
    with offline_page(chromium, place) as page:
        rows_shown(page, 24)
        assert page.locator(".vpd-emt-alarm").count() == 2  # iterations 2 and 3 are one mark
        page.locator(".vpd-emt-alarm").last.click()
        rows_shown(page, 12)
        assert "responses shrank" in page.locator(".vpd-emt-warnings").inner_text()
        page.locator(".vpd-rt-alarm").click()
        rows_shown(page, 24)
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("w")
        rows_shown(page, 12)
        assert page.locator(".vpd-emt-alarm.vpd-emt-picked").count() == 1
        page.keyboard.press("Escape")
        rows_shown(page, 24)
        page.locator(".vpd-emt-alarm").first.click()
        rows_shown(page, 12)
        page.locator("svg[data-panel=margin]").click()
        rows_shown(page, 24)


def test_the_search_field_takes_columns(chromium: str, place: Path) -> None:
    with offline_page(chromium, place) as page:
        page.locator(".vpd-rt-search").fill("kl>0.5 outcome=wrong")
        rows_shown(page, 4)
        page.locator(".vpd-rt-search").fill("step<3 sum is 3")
        rows_shown(page, 2)
        page.locator(".vpd-rt-search").press("Escape")
        rows_shown(page, 24)
        assert page.locator(".vpd-rt-search").input_value() == ""
        assert page.get_by_text("all iterations").count() == 0  # nobody could search them without a kernel


@pytest.mark.parametrize("width", [900, 1280])
def test_a_drag_over_the_scatter_keeps_what_is_inside(chromium: str, place: Path, width: int) -> None:
    with offline_page(chromium, place, viewport={"width": width, "height": 1400}) as page:
        page.get_by_role("button", name="scatter").click()
        picture = page.locator(".vpd-rt-scatter svg")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        assert box["x"] + box["width"] <= width
        page.mouse.move(box["x"] + 60, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 4, box["y"] + 110, steps=4)
        page.mouse.up()
        page.wait_for_function("+document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') < 24")
        inside = int(page.locator(".vpd-rt-body").get_attribute("aria-rowcount"))
        assert 0 < inside < 24
        page.locator(".vpd-rt-body").focus()
        page.keyboard.press("Escape")
        rows_shown(page, 24)
        page.locator(".vpd-rt-axis").nth(1).select_option("step")
        page.wait_for_function("document.querySelector('.vpd-rt-scatter').textContent.includes('iteration')")


def test_rollouts_of_a_problem_stand_side_by_side(chromium: str, place: Path) -> None:
    with offline_page(chromium, place) as page:
        page.locator(".vpd-rt-body").focus()
        for _ in range(2):
            page.keyboard.press("v")
        page.wait_for_function("document.querySelector('.vpd-rt-panel').textContent.includes('Select a rollout')")
        page.locator(".vpd-rt-body .vpd-rt-row").nth(2).click()
        page.wait_for_selector(".vpd-rt-card")
        assert page.locator(".vpd-rt-card").count() == 12  # both rollouts of the problem in six iterations
        page.wait_for_function(
            "document.querySelector('.vpd-chosen .vpd-rt-card-text')?.textContent === 'the sum is 3'"
        )
        assert page.locator(".vpd-rt-differs").first.inner_text().strip() == "4"
        page.locator(".vpd-rt-card").last.click()
        page.wait_for_function("document.querySelector('.vpd-rt-card.vpd-chosen').textContent.includes('the sum is 9')")


def saved(page: Any, widget: str, kind: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.locator(widget).get_by_role("button", name=kind, exact=True).click()
    place = folder / download.value.suggested_filename
    download.value.save_as(place)
    return place


def test_tables_and_pictures_are_saved_from_their_corner(chromium: str, place: Path, tmp_path: Path) -> None:
    with offline_page(chromium, place) as page:
        page.locator(".vpd-rt-search").fill("step=2")
        rows_shown(page, 4)
        rows = json.loads(saved(page, ".vpd-rt", "JSON", tmp_path).read_text(encoding="utf-8"))
        assert [(row["step"], row["rollout"]) for row in rows] == [(2, place) for place in range(4)]
        with saved(page, ".vpd-rt", "CSV", tmp_path).open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        assert (
            len(lines) == 4 and lines[0]["text"] == '\'=HYPERLINK("x")' and float(lines[1]["kl"]) == pytest.approx(0.21)
        )
        picture = ElementTree.parse(saved(page, ".vpd-emt", "SVG", tmp_path)).getroot()
        said = [node.text for node in picture.iter(f"{SVG}text")]
        assert {"Warnings", "length-collapse", "iteration", "Margin implicit reward r̃"} <= set(said)
        lines_drawn = [node for node in picture.iter(f"{SVG}path") if node.get("stroke", "").startswith("rgb")]
        assert lines_drawn and not any("class" in node.attrib for node in picture.iter())
        png = saved(page, ".vpd-emt", "PNG", tmp_path).read_bytes()
        assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20]) == 2 * float(picture.get("width"))
        assert len(json.loads(saved(page, ".vpd-emt", "JSON", tmp_path).read_text())) == 6


@pytest.mark.parametrize("widget", [TokenLens, CritiqueInfluence, RunCompare], ids=lambda one: one.__name__)
def test_other_widgets_save_their_numbers_too(chromium: str, tmp_path: Path, widget: Any) -> None:
    if widget is TokenLens:
        made, root = TokenLens(lens_records([record(1, 1)], beta=1.0)), ".vpd-tl"
    elif widget is RunCompare:
        rows = [{"step": step, "success_rate": step / 10, "kl": 0.1} for step in range(1, 5)]
        made, root = RunCompare([{"name": name, "method": name, "seed": 0, "rollouts_per_step": 8, "rows": rows,
                                  "evals": []} for name in ("vpd", "sdpo")]), ".vpd-rc"  # fmt: skip
    else:
        made, root = CritiqueInfluence(influence_record()), ".vpd-ci"
    made.to_html(tmp_path / "page.html")
    with offline_page(chromium, tmp_path / "page.html") as page:
        rows = json.loads(saved(page, root, "JSON", tmp_path).read_text(encoding="utf-8"))
        with saved(page, root, "CSV", tmp_path).open(encoding="utf-8", newline="") as file:
            assert len(list(csv.DictReader(file))) == len(rows)
        if widget is TokenLens:
            assert [(row["token"], row["kl"]) for row in rows] == [(one, pytest.approx(0.11)) for one in "abc"]
        elif widget is RunCompare:
            assert [(row["run"], row["step"]) for row in rows[::4]] == [("vpd", 1), ("sdpo", 1)] and len(rows) == 8
            picture = ElementTree.parse(saved(page, root, "SVG", tmp_path)).getroot()
            assert {"iterations", "vpd", "sdpo"} <= {node.text for node in picture.iter(f"{SVG}text")}
        else:
            assert rows[0]["kind"] == "sentence" and len(rows[0]) == 3 + 4


def test_a_selection_has_an_address_that_opens_it(chromium: str, place: Path) -> None:
    with offline_page(chromium, place) as page:
        page.locator(".vpd-rt-body .vpd-rt-row").nth(6).click()
        page.wait_for_function("location.hash === '#step=2&rollout=2'")
        page.locator(".vpd-tl-stage .vpd-tok").nth(1).click()
        page.wait_for_function("location.hash === '#step=2&rollout=2&token=1'")
        page.goto(f"{place.resolve().as_uri()}#step=4&rollout=3&token=2")
        page.reload()
        page.wait_for_function(
            "document.querySelector('.vpd-rt-status').textContent.startsWith('row 16 of 24, selected')"
        )
        page.wait_for_function("document.querySelector('.vpd-tl-stage .vpd-tl-pinned')?.textContent === 'c'")
        for token in ("3", "-1", "x", "999999999"):  # three tokens, counted from 0
            page.evaluate("(hash) => { location.hash = hash; }", f"#step=4&rollout=3&token={token}")
            page.wait_for_function("location.hash === '#step=4&rollout=3'")
            page.wait_for_function("!document.querySelector('.vpd-tl-stage .vpd-tl-pinned')")
        told = """(hash) => new Promise((done) => {
            const written = [];
            const replace = history.replaceState.bind(history);
            history.replaceState = (state, title, url) => { written.push(url); replace(state, title, url); };
            location.hash = hash;
            setTimeout(() => { history.replaceState = replace; done(written); }, 300);
        })"""
        page.evaluate("location.hash = '#step=4&rollout=3&token=1'")
        page.wait_for_function("document.querySelector('.vpd-tl-stage .vpd-tl-pinned')?.textContent === 'b'")
        # Not the new rollout with the old token first: a reload in that moment would open it.
        assert page.evaluate(told, "#step=2&rollout=1&token=2") == ["#step=2&rollout=1&token=2"]
        page.evaluate("location.hash = '#step=4&rollout=3'")
        page.wait_for_function("document.querySelector('.vpd-rt-status').textContent.startsWith('row 16 of 24')")
        for nonsense in ("#step=99", "#step=1e9&rollout=x", "#%00%ff", "#step=4&rollout=99"):
            page.evaluate("(hash) => { location.hash = hash; }", nonsense)
        page.wait_for_timeout(200)
        assert "row 16 of 24" in page.locator(".vpd-rt-status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_are_seen_with_forced_colours(chromium: str, place: Path, scheme: str) -> None:
    with offline_page(chromium, place, color_scheme=scheme, forced_colors="active") as page:
        page.get_by_role("button", name="scatter").click()
        paint = "(node, name) => getComputedStyle(node)[name]"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.locator(".vpd-emt-alarm").first.evaluate(paint, "fill") != ground
        assert page.locator(".vpd-rt-scatter .vpd-rt-point").first.evaluate(paint, "stroke") != ground
