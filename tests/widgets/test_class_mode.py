"""ClassMode: a notebook as a lesson, in an offline page; tests/cli/test_lab.py has it in JupyterLab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from offline_browser import offline_page
from vpdlab_widgets import ClassMode

from vpdlab.show.page import notebook_to_page

RAN = {"execution": {"iopub.execute_input": "2026-01-01T00:00:00Z", "shell.execute_reply": "2026-01-01T00:00:02.5Z"}}


def ran(source: str, text: str, **metadata: Any) -> Any:
    output = new_output("stream", text=text)
    return new_code_cell(source, execution_count=1, outputs=[output], metadata=metadata)


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    """A question with its answer, another one with a folded answer, and room to scroll."""
    cells = [
        new_markdown_cell("# A lesson"),
        ran("before()", "before it"),
        new_markdown_cell("Some text.\n\n*Predict:* does it rise?"),
        ran("rise()", "it falls", **RAN),
        new_markdown_cell("It fell.\n\n<details><summary>Answer</summary>\n\nBecause.\n\n</details>"),
        *[new_markdown_cell(f"## Part {i}\n\n" + "word " * 400) for i in range(3)],
        ran("after()", "after it"),
    ]
    path = tmp_path / "lesson.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return notebook_to_page(path, tmp_path / "lesson.html")


def test_the_card_is_its_static_picture_and_bad_notation_is_refused() -> None:
    assert "implicit reward" in ClassMode().fallback() and "r̃" in ClassMode().fallback()
    assert "&lt;b&gt;" in ClassMode([{"symbol": "<b>", "meaning": "x"}]).fallback()
    with pytest.raises(TypeError, match=r"notation\[0\].symbol: object is not plain data"):
        ClassMode([{"symbol": object()}])
    with pytest.raises(TypeError, match="unknown keyword 'off'"):
        ClassMode(off=True)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_answers_unfold_and_the_card_is_one_key_away(chromium: str, lesson: Path, scheme: str) -> None:
    with offline_page(chromium, lesson, color_scheme=scheme) as page:
        text = page.locator(".jp-MarkdownCell p").first
        size = "node => parseFloat(getComputedStyle(node).fontSize)"
        small = text.evaluate(size)
        page.keyboard.press("?")  # off: a key is not its own
        assert page.locator(".vpd-cm-card").count() == 0
        assert page.locator("details.vpd-code summary").nth(1).inner_text() == "code · 2.5 s"
        page.get_by_role("button", name="Class mode").click()
        page.wait_for_selector("main.vpd-class")
        assert text.evaluate(size) > small
        covered = page.locator(".vpd-class-covered")
        assert covered.count() == 1 and covered.locator("pre").is_hidden()
        assert page.get_by_text("before it").is_visible()
        page.keyboard.press("a")
        assert page.get_by_text("it falls").is_visible() and covered.count() == 0
        assert page.locator("details", has_text="Because").get_attribute("open") is None
        page.keyboard.press("a")
        assert page.get_by_text("Because.").is_visible()
        page.keyboard.press("?")
        assert "teacher" in page.get_by_role("dialog").inner_text()
        page.keyboard.press("Escape")
        assert page.get_by_role("dialog").count() == 0
        page.keyboard.press("o")
        assert page.locator("details.vpd-code[open]").count() == 3
        page.get_by_role("button", name="Class mode").click()
        page.wait_for_function("!document.querySelector('.vpd-class')")
        assert text.evaluate(size) == small


@pytest.mark.slow
def test_a_clicker_walks_through_the_cells(chromium: str, lesson: Path) -> None:
    with offline_page(chromium, lesson, viewport={"width": 1024, "height": 500}) as page:
        page.get_by_role("button", name="Class mode").click()
        page.wait_for_selector("main.vpd-class")
        tops = []
        for key in ("PageDown", "PageDown", "PageDown", "PageUp"):
            page.keyboard.press(key)
            tops.append(page.evaluate("scrollY"))
        assert tops[0] < tops[1] < tops[2] and tops[3] == tops[1]
        assert page.locator(".vpd-class-at").count() == 1
        page.locator(".vpd-class-covered").click()
        assert page.get_by_text("it falls").is_visible()


@pytest.mark.slow
def test_the_key_unfolds_no_answer_to_a_question_that_nobody_has_read(chromium: str, tmp_path: Path) -> None:
    long, after = ([new_markdown_cell(f"## Part {i}\n\n" + "word " * 400) for i in range(3)] for _ in range(2))
    question = [new_markdown_cell("*Predict:* does it rise?"), ran("rise()", "it falls")]
    path = tmp_path / "far.ipynb"
    nbformat.write(new_notebook(cells=[*long, *question, *after]), path)
    with offline_page(
        chromium, notebook_to_page(path, tmp_path / "page.html"), viewport={"width": 1024, "height": 500}
    ) as page:
        page.get_by_role("button", name="Class mode").click()
        page.wait_for_selector("main.vpd-class .vpd-class-covered")
        page.keyboard.press("a")
        assert page.evaluate("scrollY") == 0 and page.locator(".vpd-class-covered").count() == 1
        for _ in range(3):
            page.keyboard.press("PageDown")
        assert page.locator(".vpd-class-at").inner_text().startswith("Part 2")
        page.keyboard.press("PageDown")
        assert "it falls" not in page.get_by_role("status").inner_text()  # nor does a screen reader hear it
        page.keyboard.press("a")
        assert page.get_by_text("it falls", exact=True).is_visible()


@pytest.mark.slow
def test_a_line_of_folded_code_is_no_stop(chromium: str, tmp_path: Path) -> None:
    long = [new_markdown_cell(f"## Part {i}\n\n" + "word " * 400) for i in range(3)]
    path = tmp_path / "folded.ipynb"
    nbformat.write(new_notebook(cells=[long[0], new_code_cell("x = 1", execution_count=1), *long[1:]]), path)
    with offline_page(
        chromium, notebook_to_page(path, tmp_path / "page.html"), viewport={"width": 1024, "height": 500}
    ) as page:
        page.get_by_role("button", name="Class mode").click()
        page.wait_for_selector("main.vpd-class")
        for part in ("Part 0", "Part 1"):
            page.keyboard.press("PageDown")
            assert page.locator(".vpd-class-at").inner_text().startswith(part)
