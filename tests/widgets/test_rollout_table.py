"""RolloutTable: what its Python side takes and refuses, and how it is in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page, status
from vpdlab_widgets import RolloutTable, TokenLens, write_page

from vpdlab.show.widget_data import lens_records, rollout_rows

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(1)>javascript:alert(1)\x1b[31m\u202e"


def record(index: int, **fields: Any) -> dict[str, Any]:
    """A line of a run's record; every third rollout is right."""
    return {
        "step": 1, "problem_id": f"p{index // 8}", "group": index // 8, "index": index % 8, "prompt": "What is 3 + 4?",
        "text": f"answer {index}", "success": index % 3 == 0, "reward": 0.0, "finished": True, "parsed": "7",
        "answer": "7", "source": "verifier", "signal": True, "reason": "", "critique": "Too high.",
        "demonstration": None, "truncated": 0, "implicit_reward": index / 10 - 1, "response_ids": [1] * (index + 1),
        "tokens": ["a", "b"] if index == 0 else None, "kl": [0.25, 0.75] if index == 0 else None,
    } | fields  # fmt: skip


def table(tmp_path: Path, records: list[dict[str, Any]], **options: Any) -> Path:
    path = tmp_path / "table.html"
    RolloutTable(rollout_rows(records), **options).to_html(path)
    return path


def shown(page: Any) -> list[str]:
    return page.locator(".vpd-rt-cell.vpd-rt-text").all_inner_texts()


# -- Python ------------------------------------------------------------------------------------------------------


def test_records_become_rows() -> None:
    first, second = rollout_rows([record(0), record(1)])
    assert (first["length"], first["kl"], first["recorded"]) == (1, 0.5, True)
    assert (second["length"], second["kl"], second["recorded"]) == (2, None, False)
    assert "response_ids" not in first


def test_choices_are_checked() -> None:
    rows = rollout_rows([record(0)])
    assert RolloutTable(rows, sort="-kl", outcome="wrong").sort == "-kl"
    with pytest.raises(ValueError, match="sort 'loss' is not one of success"):
        RolloutTable(rows, sort="loss")
    with pytest.raises(ValueError, match="selected 1 is not one of the 1 rows"):
        RolloutTable(rows, selected=1)
    with pytest.raises(TypeError, match="unknown keyword 'filter'"):
        RolloutTable(rows, filter="x")


def test_it_drives_a_lens_of_the_same_records() -> None:
    records = [record(0), record(1)]
    table = RolloutTable(rollout_rows(records))
    lens = TokenLens(lens_records([{**one, "tokens": None} for one in records]))
    table.drive(lens)
    assert lens.index is None  # the table's choice counts
    click = {"method": "update", "state": {"selected": 1}, "buffer_paths": []}
    table._handle_msg({"content": {"data": click}, "buffers": []})
    assert lens.index == 1
    assert table.row is not None
    assert table.row["text"] == "answer 1"


def test_long_texts_are_cut_for_the_browser_only() -> None:
    rows = rollout_rows([record(0, text="x" * 100_000)])
    widget = RolloutTable(rows)
    assert len(widget.rows[0]["text"]) == 4001
    assert len(rows[0]["text"]) == 100_000


def test_fallback_is_escaped() -> None:
    text = RolloutTable(rollout_rows([record(0, text=HOSTILE)] * 40), title=HOSTILE).fallback()
    assert "<script" not in text
    assert not set("\x1b\u202e") & set(text)
    assert "40 rollouts, 40 right" in text
    assert text.count("<tr>") == 13


# -- in the browser ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_keys_move_sort_filter_and_select(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table(tmp_path, [record(i) for i in range(40)])) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        assert status(page) == "40 rollouts, 14 right."
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert status(page).startswith("row 2 of 40 · wrong · answer 1")
        page.keyboard.press("Enter")
        assert "selected" in status(page)
        page.keyboard.press("End")
        assert "row 40 of 40" in status(page)
        assert "answer 39" in shown(page)  # the row was scrolled into being
        page.keyboard.press("f")
        page.wait_for_function("document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') === '14'")
        assert shown(page)[:2] == ["answer 0", "answer 3"]
        for _ in range(6):
            page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelector('[aria-sort=descending]')?.textContent.startsWith('implicit')")
        assert shown(page)[0] == "answer 39"
        page.keyboard.press("r")
        page.wait_for_function("document.querySelector('[aria-sort=ascending]')")
        assert shown(page)[0] == "answer 0"
        page.keyboard.press("/")
        page.keyboard.type("answer 21")
        page.wait_for_function("document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') === '1'")
        page.keyboard.press("Escape")
        page.wait_for_function("document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') === '14'")
        assert page.evaluate("heard") == ["Tab"]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body")


@pytest.mark.slow
def test_mosaic_and_rows_choose_the_same(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table(tmp_path, [record(i) for i in range(24)])) as page:
        cells = page.locator(".vpd-rt-cells").bounding_box()
        page.mouse.click(cells["x"] + 13 * 1.5, cells["y"] + 13 * 2.5)  # second group, third rollout
        page.mouse.move(2, 2)
        assert status(page).startswith("row 11 of 24, selected")
        page.locator(".vpd-rt-cell.vpd-rt-text", has_text="answer 3").first.click()
        page.mouse.move(2, 2)
        assert status(page).startswith("row 4 of 24, selected")
        assert "its group: 3 of 8 right, margin" in page.locator(".vpd-rt-details").inner_text()


@pytest.mark.slow
def test_rows_in_sight_stay_while_the_pointer_moves(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table(tmp_path, [record(i) for i in range(24)])) as page:
        page.evaluate("window.first = document.querySelector('.vpd-rt-body .vpd-rt-row')")
        for i in (2, 5, 3):
            page.locator(".vpd-rt-body .vpd-rt-row").nth(i).hover()
            assert status(page).startswith(f"row {i + 1} of 24")
        page.locator(".vpd-rt-body .vpd-rt-row").nth(4).click()
        assert page.evaluate("first.isConnected")
        assert page.locator("[aria-selected=true]").count() == 1


@pytest.mark.slow
def test_it_drives_a_lens_in_an_offline_page_too(chromium: str, tmp_path: Path) -> None:
    records = [record(i) for i in range(3)]
    table = RolloutTable(rollout_rows(records))
    lens = TokenLens([{"text": f"response {i}", "tokens": None} for i in range(3)])
    table.drive(lens)
    text = write_page([table, lens], tmp_path / "both.html", "both")
    assert "<title>both</title>" in text
    with offline_page(chromium, tmp_path / "both.html") as page:
        assert "Choose a rollout" in page.locator(".vpd-tl-stage").inner_text()
        page.locator(".vpd-rt-body .vpd-rt-row").nth(2).click()
        page.wait_for_function("document.querySelector('.vpd-tl-stage').textContent === 'response 2'")
        page.locator(".vpd-rt-body").focus()
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.wait_for_function("document.querySelector('.vpd-tl-stage').textContent === 'Choose a rollout'")


@pytest.mark.slow
def test_ten_thousand_rows_keep_few_elements(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table(tmp_path, [record(i, response_ids=[1]) for i in range(10_000)])) as page:
        assert page.locator(".vpd-rt-body .vpd-rt-row").count() < 40
        page.locator(".vpd-rt-body").focus()
        page.keyboard.press("End")
        assert "row 10000 of 10000" in status(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_hostile_text_is_text_and_nothing_scrolls_sideways(chromium: str, tmp_path: Path, width: int) -> None:
    hostile = {"text": HOSTILE + "x" * 5000, "prompt": HOSTILE, "critique": HOSTILE, "parsed": HOSTILE}
    path = table(tmp_path, [record(i, **hostile) for i in range(20)], title=HOSTILE, selected=1)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script, .vpd a").count() == 0
        assert not set("\x1b\u202e") & set(page.locator(".vpd").inner_text())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_an_empty_table_says_so(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table(tmp_path, [])) as page:
        assert "No rollouts" in page.locator(".vpd-rt-body").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [760, 900, 1024, 1280])
def test_what_differs_is_in_sight(chromium: str, tmp_path: Path, width: int) -> None:
    """Long answers with one beginning, long problems with one beginning, and a sentence of feedback each."""
    begin = "Let me add the two numbers digit by digit, starting from the right. The answer is"
    records = [
        record(
            i, text=f"{begin} {1000 + i}.", prompt=f"Work it out step by step, and then say: what is {i} + 1000?",
            critique=f"The response is wrong. The ones digit {i} is too low, and the tens digit too.",
        )
        for i in range(10)
    ]  # fmt: skip
    with offline_page(chromium, table(tmp_path, records), viewport={"width": width, "height": 900}) as page:
        cut = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"
        for key in ("text", "prompt", "source"):
            assert page.locator(f".vpd-rt-cell.vpd-rt-{key}").evaluate_all(cut) == []
        assert shown(page)[3].endswith("1003.") and shown(page)[3].startswith("…")
        assert "3 + 1000?" in page.locator(".vpd-rt-cell.vpd-rt-prompt").nth(3).inner_text()
        feedback = page.locator(".vpd-rt-cell.vpd-rt-source").nth(3)
        assert "digit 3 is" in feedback.inner_text() or feedback.inner_text().endswith("the tens digit too.")
        assert feedback.bounding_box()["width"] > 100
        assert feedback.get_attribute("title").startswith("verifier: The response is wrong.")


@pytest.mark.slow
@pytest.mark.parametrize("width", [760, 900, 1024, 1280])
def test_no_heading_is_cut_whatever_it_sorts_by(chromium: str, tmp_path: Path, width: int) -> None:
    records = [record(i, step=1 + i // 8, kl=[0.25, 0.75], tokens=["a", "b"]) for i in range(16)]
    with offline_page(chromium, table(tmp_path, records), viewport={"width": width, "height": 900}) as page:
        names = page.locator(".vpd-rt-sort")
        assert names.count() >= 7
        for i in range(names.count()):
            names.nth(i).click()
            page.wait_for_selector(f".vpd-rt-sort >> nth={i} >> css=.vpd-rt-arrow:not(:empty)")
            assert names.evaluate_all("all => all.filter((one) => one.scrollWidth > one.clientWidth).length") == 0
