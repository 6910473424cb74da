"""An executed notebook as an offline page, alive in a real browser."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from offline_browser import offline_page
from places import ROOT

from vpdlab import show
from vpdlab.errors import UserError
from vpdlab.show.page import notebook_to_page
from vpdlab.show.page.exporter import PageExporter

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PLOTLY = "application/vnd.plotly.v1+json"


def write(path: Path, cells: list[Any], **metadata: Any) -> Path:
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def shown(*outputs: Any, source: str = "1") -> Any:
    return new_code_cell(source, execution_count=1, outputs=list(outputs))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with a live widget, a figure and hostile output, executed by a real kernel."""
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    parameters = new_code_cell("steps: int = 12  # iterations")
    parameters.metadata["tags"] = ["parameters"]
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# One run\n\nIts course."),
            parameters,
            new_code_cell(
                "from vpdlab_widgets import EMTimeline\n"
                "timeline = EMTimeline(title='a run', state='running', total=steps)\ntimeline"
            ),
            new_code_cell(
                "for step in range(1, steps + 1):\n"
                "    timeline.append({'step': step, 'success_rate': step / 20, 'kl': 0.1})\n"
                "timeline.state = 'complete'"
            ),
            new_code_cell("import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 3, 2], name='a line'))"),
            new_code_cell("print('</script><script>window.hacked = true</script>')"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    path = folder / "run.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.slow
def test_page_is_alive_without_a_network(chromium: str, executed: Path, tmp_path: Path) -> None:
    target = notebook_to_page(executed, tmp_path / "deep" / "run.html")
    with offline_page(chromium, target) as page:
        assert page.title() == "One run"
        page.wait_for_selector("svg[data-panel=success]")
        status = page.locator("[role=status]")
        assert "iteration 12" in status.inner_text()  # rows appended after the display
        assert page.locator(".vpd-emt-badge").inner_text() == "complete"
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert "iteration 2\n" in status.inner_text()
        page.wait_for_selector(".vpd-plot .main-svg .trace path.js-line")
        printed = page.locator(".jp-OutputArea-output pre", has_text="</script><script>window.hacked = true</script>")
        assert printed.count() == 1
        assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_a_figure_is_saved_as_a_drawing_and_as_numbers(chromium: str, executed: Path, tmp_path: Path) -> None:
    target = notebook_to_page(executed, tmp_path / "run.html")
    with offline_page(chromium, target) as page:
        page.wait_for_selector(".vpd-plot .main-svg .trace path.js-line")
        page.locator(".vpd-plot").hover()
        saved = {}
        for title in ("Download plot as an SVG", "Download the numbers as CSV", "Download the numbers as JSON"):
            with page.expect_download() as download:
                page.locator(f'.vpd-plot [data-title="{title}"]').click()
            download.value.save_as(tmp_path / "file")
            saved[download.value.suggested_filename] = (tmp_path / "file").read_text(encoding="utf-8")
        drawing = next(text for name, text in saved.items() if name.endswith(".svg"))
        assert drawing.startswith("<svg") and "js-line" in drawing
        assert saved["figure.csv"].splitlines()[:3] == ['"line","x","y"', '"a line",0,1', '"a line",1,3']
        assert json.loads(saved["figure.json"])[1] == {"line": "a line", "x": 1, "y": 3}


def saved_tables(page: Any, kind: str, folder: Path) -> dict[str, str]:
    """What each table's button saves, by the file's name."""
    saved = {}
    for button in page.get_by_role("button", name=kind, exact=True).all():
        with page.expect_download() as download:
            button.click()
        download.value.save_as(folder / "file")
        saved[download.value.suggested_filename] = (folder / "file").read_bytes().decode("utf-8")
    return saved


@pytest.mark.slow
def test_every_table_is_saved_from_its_corner(chromium: str, tmp_path: Path) -> None:
    """Ours with the numbers that it rounds, pandas' with its spans, and Markdown's; a formula is defused."""
    ours = show.table(
        [
            {"problem": "=HYPERLINK(1)", "kl": 0.00034567, "count": 7, "right": True, "2": "12", "shown": "+1.50"},
            {"problem": "$x$\n<b>", "kl": None, "count": -3, "right": False, "2": "x", "shown": "–"},
        ]
    )._repr_html_()
    frame = pd.DataFrame({"kl": [0.5, -1.25], "who": ["Ada", "-Bob"]}, index=pd.Index([3, 4], name="step"))
    two = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_product([["a"], ["x", "x"]]))
    cells = [
        new_markdown_cell("# A page\n\n## Ours"), shown(new_output("display_data", {"text/html": ours})),
        new_markdown_cell("## Pandas"), shown(new_output("display_data", {"text/html": frame.to_html()})),
        new_markdown_cell("## Two"), shown(new_output("display_data", {"text/html": two.to_html(index=False)})),
        new_markdown_cell(
            "## Of text\n\n| a | b |\n|---|---|\n| −0.5 | 007 |\n| +17,600 | **x** |\n| 4.1e−5 | -x |\n| – | 81.1 % |"
        ),
    ]  # fmt: skip
    target = notebook_to_page(write(tmp_path / "a.ipynb", cells), tmp_path / "a.html")
    with offline_page(chromium, target) as page:
        csv, js = saved_tables(page, "CSV", tmp_path), saved_tables(page, "JSON", tmp_path)
    rows = {name.removesuffix(".json"): json.loads(text) for name, text in js.items()}
    assert [name.removesuffix(".csv") for name in csv] == list(rows) == ["Ours", "Pandas", "Two", "Of_text"]
    assert csv["Ours.csv"].splitlines()[:2] == [
        '"problem","kl","count","right","2","shown"', '"\'=HYPERLINK(1)",0.00034567,7,true,"12",1.5'
    ]  # fmt: skip
    assert list(rows["Ours"][1].values()) == ["x", "$x$\n<b>", None, -3, False, None]  # "2" is first in any object
    assert rows["Pandas"] == [{"step": 3, "kl": 0.5, "who": "Ada"}, {"step": 4, "kl": -1.25, "who": "-Bob"}]
    assert csv["Pandas.csv"].splitlines()[2] == '4,-1.25,"\'-Bob"'
    assert rows["Two"] == [{"a x": 1, "a x 2": 2}]
    assert [list(row.values()) for row in rows["Of_text"]] == [
        [-0.5, "007"], [17600, "x"], [4.1e-5, "-x"], [None, "81.1 %"]
    ]  # fmt: skip
    assert csv["Of_text.csv"].splitlines()[3:] == ['0.000041,"\'-x"', ',"81.1 %"']


@pytest.mark.slow
def test_the_corner_of_a_table_is_reached_by_keys_and_a_widget_s_fallback_has_none(
    chromium: str, executed: Path, tmp_path: Path
) -> None:
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells.append(new_markdown_cell("| a | b |\n|---|---|\n| " + "long words " * 90 + " | 2 |"))
    wide = "|".join(f"a-column-of-{place}" for place in range(40))
    notebook.cells.append(new_markdown_cell(f"| {wide} |\n|{'---|' * 40}\n| {wide} |\n\n| a |\n|---|\n| 1 |"))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    with offline_page(chromium, notebook_to_page(tmp_path / "a.ipynb", tmp_path / "a.html")) as page:
        page.wait_for_selector("svg[data-panel=success]")
        corners = page.locator(".vpd-table-save")
        assert corners.count() == 3
        corners.first.get_by_role("button", name="CSV", exact=True).focus()
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename == "One_run.csv"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = [
            [frame.locator(one).bounding_box() for one in (".vpd-table-save", "table")] + [frame.bounding_box()]
            for frame in page.locator(".vpd-table-frame").all()
        ]
        for corner, table, frame in boxes:  # at the right of what is seen of the table, above it, and whole
            right = min(max(table["x"] + table["width"], corner["x"] + corner["width"]), frame["x"] + frame["width"])
            assert corner["x"] + corner["width"] == pytest.approx(right, abs=1)
            assert corner["x"] >= frame["x"] and corner["y"] + corner["height"] <= table["y"] + 1
        assert boxes[1][1]["width"] > boxes[1][2]["width"] > 600  # the wide one scrolls in its frame
        page.emulate_media(media="print")
        assert not any(corner.is_visible() for corner in corners.all())


@pytest.mark.slow
def test_code_is_folded_and_opens(chromium: str, executed: Path, tmp_path: Path) -> None:
    target = notebook_to_page(executed, tmp_path / "run.html", title="<Mine>")
    with offline_page(chromium, target, color_scheme="dark") as page:
        assert page.title() == "<Mine>"
        code = page.locator(".vpd-code .highlight")
        assert [code.nth(i).is_visible() for i in range(code.count())] == [False] * 5
        assert page.locator(".vpd-code summary").first.inner_text().startswith("parameters")
        page.locator(".vpd-all-code").click()
        assert "steps" in code.first.inner_text()
        page.wait_for_selector(".vpd-plot .main-svg")
        colour = "getComputedStyle(document.querySelector('.vpd-plot .xtick text')).fill"
        assert page.evaluate(colour) == "rgb(227, 230, 234)"  # light text on the dark page


def test_what_is_folded_in_the_text_stays_folded(tmp_path: Path) -> None:
    text = "<details><summary>Solution</summary>\n\nA paragraph.\n\n```python\nanswer = 1\n```\n\n</details>\n\nafter"
    source = write(tmp_path / "a.ipynb", [new_markdown_cell(text), shown()])
    page = notebook_to_page(source, tmp_path / "a.html").read_text()
    inside, outside = page.split("<summary>Solution</summary>")[1].split("</details>", 1)
    assert "A paragraph." in inside and "answer" in inside and "after" in outside


def test_plotly_stands_once_and_only_where_needed(tmp_path: Path) -> None:
    figure = {"data": [{"y": [1, None]}], "layout": {"height": 300}}
    plain = notebook_to_page(write(tmp_path / "a.ipynb", [shown()]), tmp_path / "a.html")
    assert plain.stat().st_size < 88_000
    cells = [shown(new_output("display_data", {PLOTLY: figure, "text/html": "x" * 2_000_000})) for _ in range(3)]
    drawn = notebook_to_page(write(tmp_path / "b.ipynb", cells), tmp_path / "b.html").read_text(encoding="utf-8")
    assert 1_500_000 < len(drawn) < 2_500_000  # deflated
    assert drawn.count('class="vpd-plot"') == 3
    assert drawn.count("height:300px") == 3


def test_modules_stand_once_and_the_saved_state_only_where_shown(tmp_path: Path) -> None:
    name = "vpdlab_widgets.em_timeline.EMTimeline"
    entry = {"state": {"_anywidget_id": name, "_esm": "of the notebook", "_css": "", "title": "</script>"}}
    view = {WIDGET_VIEW: {"model_id": "m1"}, "text/html": "<p>fallback</p>", "text/plain": "w"}
    states = {"m1": entry, "m2": entry, "box": {"state": {"children": ["IPY_MODEL_m1", "IPY_MODEL_m2"]}}}
    cells = [
        shown(new_output("display_data", view), new_output("display_data", view)),
        shown(new_output("display_data", {WIDGET_VIEW: {"model_id": "box"}, "text/plain": "VBox()"})),
    ]
    saved = {"widgets": {WIDGET_STATE: {"state": states, "version_major": 2, "version_minor": 0}}}
    text = notebook_to_page(write(tmp_path / "a.ipynb", cells, **saved), tmp_path / "a.html").read_text(
        encoding="utf-8"
    )
    assert text.count("class Timeline") == 1 and "of the notebook" not in text
    assert text.count('data-vpd-model="m1"') == 3
    assert text.count('data-vpd-model="m2"') == 1
    assert text.count("<p>fallback</p>") == 2
    assert "widget-state+json" not in text
    data = json.loads(re.search(r'id="vpd-widgets">(.*?)</script>', text, re.DOTALL).group(1))
    assert set(data["models"]) == {"m1", "m2", "class-mode"}


def test_a_progress_bar_shows_its_last_state(tmp_path: Path) -> None:
    states = {
        "bar": {"state": {"children": ["IPY_MODEL_left", "IPY_MODEL_middle", "IPY_MODEL_right"]}},
        "left": {"state": {"value": "<b>100%</b>"}},
        "middle": {"state": {"value": 3.0}},
        "right": {"state": {"value": " 3/3 [00:01&lt;00:00]"}},
    }
    cell = shown(new_output("display_data", {WIDGET_VIEW: {"model_id": "bar"}, "text/plain": "0%| 0/3"}))
    path = write(tmp_path / "a.ipynb", [cell], widgets={WIDGET_STATE: {"state": states}})
    text = notebook_to_page(path, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<pre>100% 3/3 [00:01&lt;00:00]</pre>" in text
    assert "0/3" not in text


def test_a_widget_without_saved_state_shows_its_fallback(tmp_path: Path) -> None:
    output = new_output("display_data", {WIDGET_VIEW: {"model_id": "gone"}, "text/html": "<p>a table</p>"})
    target = notebook_to_page(write(tmp_path / "a.ipynb", [shown(output)]), tmp_path / "a.html")
    text = target.read_text(encoding="utf-8")
    assert "<p>a table</p>" in text
    assert text.count('data-vpd-model="') == 1  # class mode's


def test_errors_and_colours_of_a_terminal_are_shown_as_text(tmp_path: Path) -> None:
    failure = new_output("error", ename="ValueError", evalue="<b>", traceback=["\x1b[31mValueError\x1b[0m: <b>"])
    text = notebook_to_page(write(tmp_path / "a.ipynb", [shown(failure)]), tmp_path / "a.html").read_text("utf-8")
    assert "ansi-red-fg" in text
    assert "&lt;b&gt;" in text


def test_a_notebook_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.ipynb: cannot read the notebook \(No such file or directory\)"):
        notebook_to_page(tmp_path / "gone.ipynb", tmp_path / "a.html")


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '"a"', '{"nbformat": 4, "cells": [{}]}'])
def test_a_file_that_is_no_notebook(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    with pytest.raises(UserError, match="this is not a Jupyter notebook") as error:
        notebook_to_page(path, tmp_path / "a.html")
    assert "\n" not in str(error.value)


def test_a_notebook_that_never_ran(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", [new_code_cell("1 + 1")])
    with pytest.raises(UserError, match="was never executed"):
        notebook_to_page(path, tmp_path / "a.html")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ipynb", [shown()])
    with pytest.raises(UserError, match="cannot write the page"):
        notebook_to_page(path, path / "under-a-file.html")


def nested(path: Path, depth: int) -> Path:
    write(path, [shown(new_output("display_data", {PLOTLY: {"data": [], "layout": {"meta": "HERE"}}}))])
    path.write_text(path.read_text().replace('"HERE"', "[" * depth + "]" * depth))
    return path


def test_a_notebook_nested_as_deep_as_they_are_is_a_page(tmp_path: Path) -> None:
    assert "vpd-plot" in notebook_to_page(nested(tmp_path / "a.ipynb", 50), tmp_path / "a.html").read_text("utf-8")


@pytest.mark.parametrize("depth", [500, 900, 5_000, 100_000])
def test_a_notebook_nested_without_a_bottom_is_one_line(tmp_path: Path, depth: int) -> None:
    with pytest.raises(UserError, match="notebook") as error:
        notebook_to_page(nested(tmp_path / "a.ipynb", depth), tmp_path / "a.html")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("formula", ["{" * 20_000, "\\frac{" * 5_000, "x" * 30_000, "\\left(" * 3_000])
def test_a_formula_without_a_bottom_is_shown_as_it_stands(formula):
    from vpdlab.show.page.markdown import mathml

    assert mathml(formula, f"${formula}$", display=False).startswith("<code>$")


@pytest.mark.parametrize(
    "cell",
    [
        {"cell_type": "markdown", "source": "![x](attachment:nope.png)"},
        {"cell_type": "markdown", "source": "half \ud83d a character"},
        {"cell_type": "code", "source": "1", "execution_count": 1, "outputs": [{
            "output_type": "display_data", "metadata": {}, "data": {
                "application/vnd.plotly.v1+json": {"data": [], "layout": {"height": 10**400}}}}]},
    ],
)  # fmt: skip
def test_a_notebook_that_cannot_be_shown_is_told_or_shown_without(cell, tmp_path):
    done = {"cell_type": "code", "source": "1", "execution_count": 1, "outputs": [], "metadata": {}, "id": "a"}
    cells = [done, {"metadata": {}, "id": "b", **cell}]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    try:
        page = notebook_to_page(tmp_path / "n.ipynb", tmp_path / "n.html")
    except UserError as error:
        said = str(error)
    else:
        said = "n.ipynb" if page.is_file() else ""
    assert "n.ipynb" in said and "\n" not in said


def test_a_page_is_not_written_through_a_link(tmp_path):
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "n.html").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"n\.html is a link"):
        notebook_to_page(tmp_path / "n.ipynb", tmp_path / "n.html")
    assert (tmp_path / "victim").read_text() == "mine"


def test_nbconvert_can_write_the_page(executed: Path, tmp_path: Path) -> None:
    """`jupyter nbconvert --to vpdlab`, and JupyterLab's menu: the same page as `vpdlab report NOTEBOOK`."""
    text, resources = PageExporter().from_filename(str(executed))
    page = notebook_to_page(executed, tmp_path / "page.html").read_text()
    assert re.sub("vpd-[0-9a-f]{32}", "", text) == re.sub("vpd-[0-9a-f]{32}", "", page)
    assert resources["output_extension"] == ".html" and PageExporter.export_from_notebook
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["nbconvert.exporters"]["vpdlab"] == f"{PageExporter.__module__}:PageExporter"


def test_a_page_has_one_class_mode_and_the_time_of_each_cell(tmp_path: Path) -> None:
    state = {"_anywidget_id": "vpdlab_widgets.class_mode.ClassMode", "on": True, "notation": []}
    saved = {"widgets": {WIDGET_STATE: {"state": {"mine": {"state": state}}, "version_major": 2, "version_minor": 0}}}
    own = shown(new_output("display_data", {WIDGET_VIEW: {"model_id": "mine"}, "text/plain": "w"}))
    text = notebook_to_page(write(tmp_path / "a.ipynb", [own], **saved), tmp_path / "a.html").read_text()
    assert text.count('data-vpd-model="') == 1 and 'data-vpd-model="mine"' in text
    times = [
        {"papermill": {"duration": 75.25}}, {"papermill": {"duration": "</summary>"}}, {"papermill": {"duration": 600}},
        {"execution": {"iopub.execute_input": "2026-01-01T00:00:00Z", "shell.execute_reply": "never"}}, {},
    ]  # fmt: skip
    cells = [new_code_cell("1", execution_count=1, metadata=one) for one in times]
    text = notebook_to_page(write(tmp_path / "b.ipynb", cells), tmp_path / "b.html").read_text()
    assert re.findall(r"<summary>(.*?)</summary>", text) == ["code · 75.2 s", "code", "code · 10 min", "code", "code"]
