"""The notebooks' widgets in real JupyterLab, in a headless browser: a person's hands, and what Python hears of them.

One server serves all tests of this file; each opens a notebook of its own, with a kernel of its own. On leaving, every
test holds that the browser's console is clean and that no request left the machine. Screenshots: build/screenshots.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab_server import Lab, jupyterlab
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from offline_browser import FLAGS
from planted import TEXT

from vpdlab import Run, RunConfig, UserError, cli
from vpdlab.cli import headless
from vpdlab.cli.lab import own_notebooks
from vpdlab.record import load_run

pytestmark = pytest.mark.slow
SCREENSHOTS = Path("build/screenshots")
IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
PANEL = "window.jupyterapp.shell.currentWidget"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations on four problems: each problem comes in every iteration."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    config = RunConfig.make(
        "tour-common", steps=3, prompts=4, group=4, task_args=("digits=2", "size=4"), record_tokens=16, eval_every=-1,
        out=str(folder),
    )  # fmt: skip
    for _ in Run.open(config).steps():
        pass
    return folder


@contextmanager
def opened(lab: Lab, browser: Any, name: str, run: bool = True) -> Iterator[Any]:
    """A page on a notebook of the lab's folder, its kernel ready; all cells are run. Fails on a console error and on a
    request that leaves the machine; ends the kernel."""
    problems: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(30_000)
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: None if is_local(r.url) else problems.append(f"request to {r.url}"))
    try:
        page.goto(f"{lab.address}/lab/tree/{name}?token={lab.token}&reset")  # without the tabs of earlier tests
        page.wait_for_function(IDLE, timeout=90_000)
        page.wait_for_timeout(1500)  # the widget manager shakes hands with the kernel after it became idle
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
        if run:
            page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        yield page
        page.evaluate(f"{PANEL}.sessionContext.shutdown()")
    finally:
        page.close()
    assert [text for text in problems if "favicon" not in text] == []


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "blob:", "data:"))


def write(lab: Lab, name: str, cells: Sequence[str]) -> None:
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=metadata)
    nbformat.write(notebook, lab.folder / name)


def ask(page: Any, expression: str) -> Any:
    """What an expression is in the notebook's kernel, after all that the browser has sent it so far."""
    found = page.evaluate(
        f"""async (expression) => {{
          const {{ kernel }} = {PANEL}.sessionContext.session;
          const request = {{ code: '', store_history: false, user_expressions: {{ found: expression }} }};
          return (await kernel.requestExecute(request).done).content.user_expressions.found;
        }}""",
        expression,
    )
    assert found["status"] == "ok", found
    return ast.literal_eval(found["data"]["text/plain"])


def until(page: Any, expression: str, wanted: Any, seconds: float = 15) -> None:
    """Until an expression has a value in the kernel."""
    end = time.monotonic() + seconds
    while (found := ask(page, expression)) != wanted:
        assert time.monotonic() < end, f"{expression} is {found!r}, not {wanted!r}"
        time.sleep(0.1)


def cells(page: Any) -> list[str]:
    """The sources of the open notebook's cells."""
    return page.evaluate(f"{PANEL}.content.widgets.map((cell) => cell.model.sharedModel.getSource())")


def photograph(page: Any, name: str) -> None:
    """The page in both themes, as build/screenshots/lab-NAME-THEME.png; ends in the light one."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Dark", "Light"):
        page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        page.wait_for_timeout(700)
        page.screenshot(path=str(SCREENSHOTS / f"lab-{name}-{theme.lower()}.png"))


def test_the_training_notebook_lives_in_jupyterlab(lab, browser):
    notebook = nbformat.read(headless.notebooks() / "train.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "\nsteps, out, prompts, group, eval_problems = 12, 'runs/lab', 4, 4, 16\ne_every, eval_every = 3, 4"
    nbformat.write(notebook, lab.folder / "train.ipynb")
    with opened(lab, browser, "train.ipynb") as page:
        page.wait_for_selector("svg[data-panel]", timeout=90_000)
        wait_until_complete(lab.folder / "runs" / "lab")
        page.wait_for_function(IDLE, timeout=60_000)
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
        stage = page.locator(".vpd-emt-stage")
        stage.scroll_into_view_if_needed()
        stage.focus()
        page.keyboard.press("Home")
        assert "iteration 1" in " ".join(
            page.locator(".vpd-emt-stage ~ [role=status], [role=status]").all_inner_texts()
        )
        photograph(page, "train")
    assert load_run(lab.folder / "runs" / "lab").status["state"] == "complete"


def wait_until_complete(run: Path, seconds: float = 150) -> None:
    """Until the run says how it ended."""
    end = time.monotonic() + seconds
    while not (run / "status.json").exists() or load_run(run).status["state"] == "running":
        assert time.monotonic() < end, "the run did not end"
        time.sleep(0.5)


SHOWN = """
import json
from pathlib import Path
from vpdlab_widgets import EMTimeline
from vpdlab import show
from vpdlab.show import plots

text = json.loads(Path("text.json").read_text())
show.table([{text: text}])
"""


def test_other_peoples_text_stays_text(lab, browser):
    """Live, in a notebook that the browser trusts: no script, no formula, no link, no move to another page."""
    (lab.folder / "text.json").write_text(json.dumps(TEXT))
    figure = "plots.top_figure({'student': [(text, 0.5)], 'teacher': [('b', 0.5)]}, text)"
    cells = [SHOWN, "show.heading(text, text, [text])", "EMTimeline([{'step': 1, 'kl': 0.5}], title=text)", figure]
    write(lab, "text.ipynb", cells)
    with opened(lab, browser, "text.ipynb") as page:
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
        page.wait_for_selector(".vpd-emt-title")
        page.wait_for_timeout(2000)  # MathJax comes late
        address = page.url
        outputs = page.locator(".jp-OutputArea")
        assert "<script>window.planted" in " ".join(outputs.all_text_contents())
        assert (
            outputs.locator(".plant, plant-x, .jp-RenderedHTML a, .main-svg a, mjx-container, iframe, form").count()
            == 0
        )
        assert page.evaluate("window.planted") is None and page.url == address


LINKED = """
from IPython.display import display
from vpdlab_widgets import RolloutTable, TokenLens
from vpdlab import load_run
from vpdlab.show import widget_data

run = load_run({folder!r})
records = run.rollouts()
table = RolloutTable(widget_data.rollout_rows(records), title="three iterations", selected=0)
lens = TokenLens(widget_data.lens_records(records, beta=0.1), title="the lens")
table.drive(lens)
heard = []
lens.observe(lambda change: heard.append(change["new"]), "selected")
display(table, lens)
"""


@pytest.fixture
def linked(lab, browser, recorded, request) -> Iterator[Any]:
    """A page with a table of rollouts and a lens that follows it."""
    name = f"{request.node.name}.ipynb"
    write(lab, name, [LINKED.format(folder=str(recorded)), "after = 1"])
    with opened(lab, browser, name) as page:
        page.wait_for_selector(".vpd-tl-stage .vpd-tok")
        page.wait_for_selector(".vpd-rt-body .vpd-rt-row")
        page.wait_for_function(IDLE)
        yield page


def test_a_click_on_a_token_reaches_python(linked):
    tokens = linked.locator(".vpd-tl-stage .vpd-tok")
    texts = ask(linked, "lens.records[0]['tokens']")
    place = next(i for i, text in enumerate(texts) if text.strip().isdigit())
    tokens.nth(place).click()
    until(linked, "lens.selected", place)
    assert ask(linked, "heard") == [place]
    status = linked.locator(".vpd-tl-status").inner_text()
    assert status.startswith(f"token {place + 1} of {len(texts)}") and "pinned" in status
    tokens.nth(place).click()  # a second click lets go
    until(linked, "lens.selected", None)
    assert ask(linked, "setattr(lens, 'selected', 2)") is None  # and Python's choice reaches the browser
    linked.wait_for_selector(".vpd-tl-stage .vpd-tl-pinned")
    assert linked.locator(".vpd-tl-stage .vpd-tok").nth(2).get_attribute("class").endswith("vpd-tl-pinned")


def test_a_row_moves_the_lens_and_the_slider_moves_the_row(linked):
    rows = ask(linked, "[(r['problem_id'], r['step'], r['index']) for r in records]")
    linked.locator(".vpd-rt-body .vpd-rt-row").nth(5).click()
    until(linked, "(table.selected, lens.index)", (5, 5))
    problem, step, index = rows[5]
    where = linked.locator(".vpd-tl-where")
    assert where.inner_text() == f"iteration {step} · rollout {index + 1}"
    mine = sorted((row[1], row[2], place) for place, row in enumerate(rows) if row[0] == problem)
    assert {row[0] for row in mine} == {1, 2, 3}  # the problem comes in every iteration
    box = linked.locator(".vpd-tl-range").bounding_box()
    at = (box["x"] + box["width"] * [row[2] for row in mine].index(5) / (len(mine) - 1), box["y"] + box["height"] / 2)
    linked.mouse.move(*at)
    linked.mouse.down()
    for share in (0.5, 0.8, 1.0):
        linked.mouse.move(box["x"] + box["width"] * share - 1, at[1])
    linked.mouse.up()
    until(linked, "(lens.index, table.selected)", (mine[-1][2],) * 2)
    assert where.inner_text() == f"iteration 3 · rollout {mine[-1][1] + 1}"
    read = linked.locator(".vpd-rt-details .vpd-rt-name").inner_text()  # the table shows what the slider chose
    assert f"iteration 3 · rollout {mine[-1][1] + 1}" in read
    linked.mouse.move(5, 5)
    photograph(linked, "linked")


def test_plain_keys_in_a_widget_are_its_own(linked):
    """`x` cuts a cell, `b` adds one, `d d` deletes one, where the notebook hears them: it must not."""
    before = cells(linked)
    stage = linked.locator(".vpd-tl-stage")
    for place in (stage, linked.locator(".vpd-rt-body")):
        place.focus()
        for key in ("x", "b", "d", "d", "a", "m", "z", "0", "0"):
            linked.keyboard.press(key)
        assert cells(linked) == before
    stage.focus()
    linked.keyboard.press("Home")
    linked.keyboard.press("ArrowRight")
    linked.keyboard.press("ArrowRight")
    assert "token 3 of" in linked.locator(".vpd-tl-status").inner_text()
    linked.keyboard.press("Enter")
    until(linked, "lens.selected", 2)
    linked.keyboard.press("ArrowLeft")
    assert "token 2 of" in linked.locator(".vpd-tl-status").inner_text()
    linked.keyboard.press("Escape")  # the cursor
    assert ask(linked, "lens.selected") == 2
    linked.keyboard.press("Escape")  # the pin
    until(linked, "lens.selected", None)
    linked.keyboard.press("]")
    until(linked, "lens.index", ask(linked, "sorted((r['step'], r['index'], i) for i, r in enumerate(records)"
                                            " if r['problem_id'] == records[0]['problem_id'])[1][2]"))  # fmt: skip
    assert cells(linked) == before
    # The same key outside a widget does what the notebook wants: the test would have seen it.
    linked.locator(".jp-Notebook .jp-Cell").last.locator(".jp-InputPrompt").click()
    linked.keyboard.press("b")
    linked.wait_for_function(f"{PANEL}.content.widgets.length === {len(before) + 1}")


def test_a_step_of_a_recorded_run_is_one_click_away(lab, browser, recorded):
    """The notebook that inspects a run: the timeline drives the table, the table the lens."""
    run = Path(shutil.copytree(recorded, lab.folder / "warned"))
    lines = [json.loads(line) | {"warnings": ["no-success: said"]} for line in (run / "metrics.jsonl").open()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    notebook = nbformat.read(headless.notebooks() / "60_inspect_a_run.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f"\nfolder = {str(run)!r}"
    nbformat.write(notebook, lab.folder / "inspect.ipynb")
    with opened(lab, browser, "inspect.ipynb") as page:
        page.wait_for_selector(".js-plotly-plot .main-svg")  # of the last cell
        page.wait_for_function(IDLE)
        stage = page.locator(".vpd-emt-stage")
        stage.scroll_into_view_if_needed()
        assert ask(page, "sorted({row['step'] for row in rollouts.rows})") == [1]
        stage.focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        until(page, "(timeline.selected, rollouts.title)", (3, "iteration 3"))
        page.wait_for_selector(".vpd-rt .vpd-title >> text=iteration 3")
        assert ask(page, "{record['step'] for record in lens.records}") == {3}
        assert ask(page, "rollouts.selected == lens.index is not None")
        box = page.locator("svg[data-panel=margin]").bounding_box()
        page.mouse.move(box["x"] + 60, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.up()
        until(page, "timeline.window", [1, 2])
        until(page, "[sorted({row['step'] for row in rollouts.rows}), len(rollouts.rows)]", [[1, 2], 32])
        page.locator(".vpd-rt-body .vpd-rt-row").nth(3).click()
        until(page, "lens.index", 3)
        photograph(page, "inspect")
        stage.focus()
        page.keyboard.press("Home")
        page.keyboard.press("Enter")  # a click after a brush counts
        until(page, "(timeline.window, timeline.selected, rollouts.title)", (None, 1, "iteration 1"))
        page.locator(".vpd-rt").get_by_role("button", name="all iterations").click()
        until(page, "len(rollouts.rows)", 48)
        page.locator(".vpd-rt-search").fill("step>=2 outcome=wrong")
        page.locator(".vpd-rt-search").press("Enter")
        until(page, "{(row['step'] > 1, row['success']) for row in rollouts.rows}", {(True, False)})
        page.wait_for_selector(".vpd-rt-controls >> text=of 48 rollouts of 3 iterations")
        assert ask(page, "len(lens.records) == len(rollouts.rows) == len(rollouts.passing())")
        photograph(page, "everywhere")
        page.locator(".vpd-rt").get_by_role("button", name="all iterations").click()
        until(page, "{row['step'] for row in rollouts.rows}", {1})
        page.locator(".vpd-emt-alarm").first.click()
        until(page, "{row['success'] for row in rollouts.rows}", {False})
        page.wait_for_selector(".vpd-rt .vpd-title >> text=behind no-success at iteration")


EDITED = """
from IPython.display import display
from vpdlab_widgets import CritiqueInfluence
from vpdlab import Run, RunConfig, load_run
from vpdlab.study.influence import critique_influence, rescorer

record = next(r for r in load_run({folder!r}).rollouts(1) if not r["success"] and r["critique"])
run = Run.open(RunConfig.make(**load_run({folder!r}).config), record=False)
pieces = run.learner.policy, run.learner.teacher, run.render
influence = CritiqueInfluence(critique_influence(*pieces, record), rescore=rescorer(*pieces, record))
display(influence)
"""


def test_a_critique_is_edited_and_scored_again(lab, browser, recorded):
    write(lab, "edit.ipynb", [EDITED.format(folder=str(recorded)), "after = 1"])
    with opened(lab, browser, "edit.ipynb") as page:
        words = page.locator(".vpd-ci-words")
        words.wait_for(timeout=90_000)
        page.wait_for_function(IDLE)
        before, recorded_words = cells(page), ask(page, "record['critique']")
        assert words.input_value() == recorded_words
        words.click()
        page.keyboard.press("Control+A")
        text = "The ones digit 3 is too low. The tens digit 9 is wrong."
        page.keyboard.type(text)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".vpd-ci-own", timeout=30_000)
        assert ask(page, "(influence.own, influence.own_record['critique'])") == (True, text)
        said = page.locator(".vpd-ci-is-sentence .vpd-ci-sentence").all_inner_texts()
        assert [one.strip() for one in said] == ["The ones digit 3 is too low.", "The tens digit 9 is wrong."]
        changed = ask(page, "[round(a - b, 6) for a, b in zip(influence.own_record['logp'], influence.record['logp'])]")
        assert any(changed)  # other words, another teacher
        assert ask(page, "influence.record['critique']") == recorded_words
        photograph(page, "influence")
        page.get_by_role("button", name="recorded", exact=True).click()
        until(page, "influence.own", False)
        assert cells(page) == before


EVERY = """
from IPython.display import display
from vpdlab_widgets import CritiqueInfluence, EMTimeline, RolloutTable, RunCompare, TokenLens
from vpdlab import load_run
from vpdlab.show import widget_data

run = load_run({folder!r})
records = run.rollouts()
live = EMTimeline(title="live", state="running", total=3)
display(live)
for row in run.rows:
    live.append(row)
live.state = "complete"
table = RolloutTable(widget_data.rollout_rows(records), title="rows", selected=0)
lens = TokenLens(widget_data.lens_records(records, beta=0.1), title="tokens")
table.drive(lens)
display(table, lens, RunCompare(widget_data.compared_runs([run])))
"""


def save(page: Any) -> None:
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function(f"!{PANEL}.context.model.dirty")


def test_a_saved_notebook_opens_again_with_its_widgets(lab, browser, recorded):
    """Without its kernel, trusted and untrusted: what was drawn is there, and a finished run is finished."""
    write(lab, "kept.ipynb", [EVERY.format(folder=str(recorded))])
    with opened(lab, browser, "kept.ipynb") as page:
        page.wait_for_selector(".vpd-rc-stage svg")
        page.wait_for_function(IDLE)
        save(page)
    saved = nbformat.read(lab.folder / "kept.ipynb", as_version=4)
    assert len(saved.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]) >= 4
    assert "3 iterations, complete" in saved.cells[0].outputs[0].data["text/html"]
    with opened(lab, browser, "kept.ipynb", run=False) as page:
        page.wait_for_selector(".vpd-tl-stage .vpd-tok")
        page.wait_for_selector(".vpd-rc-stage svg")
        said = " ".join(page.locator(".jp-OutputArea").all_inner_texts())
        assert "model not found" not in said and "complete" in page.locator(".vpd-emt-badge").inner_text()
        assert "iteration 3" in page.locator(".vpd-emt-readout").inner_text()
        photograph(page, "kept")


EXPLAINING = """
from IPython.display import display
from vpdlab_widgets import LensPair, Simplex, TokenLens
from vpdlab import load_run
from vpdlab.show import widget_data

run = load_run({folder!r})
records = widget_data.lens_records(run.rollouts(3), beta=run.betas, config=run.config)
lens = TokenLens(records, title="the lens", selected=4)
triangle = Simplex(student=[0.2, 0.5, 0.3], q=[0.4, 0.3, 0.3])
pair = LensPair(**widget_data.lens_pairs(run, run) | {{"names": ["one", "two"]}})
display(lens, triangle, pair)
"""


def test_the_formula_the_triangle_and_the_pair_talk_to_python(lab, browser, recorded):
    write(lab, "explaining.ipynb", [EXPLAINING.format(folder=str(recorded))])
    with opened(lab, browser, "explaining.ipynb") as page:
        page.wait_for_selector(".vpd-lp-column .vpd-tl-stage .vpd-tok")
        page.wait_for_function(IDLE)
        page.locator(".vpd-tl-stage").first.focus()
        page.keyboard.press("w")
        until(page, "lens.why", "")
        assert page.locator(".vpd-tl-why math").first.bounding_box()["height"] > 15
        page.locator(".vpd-tl-methods tr", has_text="grpo").first.click()
        until(page, "lens.why", "grpo")
        photograph(page, "formula")
        ask(page, "setattr(lens, 'why', 'sdar')")  # and Python's choice reaches the browser
        page.wait_for_function("document.querySelector('.vpd-tl-method-on').textContent.startsWith('sdar')")
        page.locator(".vpd-sx-stage").scroll_into_view_if_needed()
        page.locator(".vpd-sx-stage").focus()
        page.keyboard.press("ArrowRight")
        until(page, "[round(value, 6) for value in triangle.q]", [0.39, 0.31, 0.3])
        page.keyboard.press("e")
        page.keyboard.press("m")
        until(page, "triangle.student[0] > 0.2", True)
        photograph(page, "triangle")
        page.locator(".vpd-lp-column .vpd-tl-stage").first.focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        last = ask(page, "len(pair.left[0]['tokens']) - 1")
        until(page, "pair.selected", [last, last])
        photograph(page, "pair")


def test_no_question_about_news_lies_over_the_notebook(lab, browser):
    write(lab, "quiet.ipynb", ["1 + 1"])
    with opened(lab, browser, "quiet.ipynb") as page:
        page.wait_for_selector(".jp-OutputArea-output")
        page.wait_for_timeout(3000)
        assert page.locator(".Toastify__toast").count() == 0


def test_the_report_notebook_finds_the_newest_run_of_the_working_folder(lab, browser, recorded):
    """The kernel starts in notebooks/, the runs are beside it; the notebooks are the working folder's own copies."""
    shutil.copytree(recorded, lab.folder / "runs" / "newest")
    os.utime(lab.folder / "runs" / "newest" / "status.json")
    assert own_notebooks(lab.folder) == lab.folder / "notebooks"
    with opened(lab, browser, "notebooks/report.ipynb") as page:
        page.wait_for_selector(".vpd-emt-stage svg", timeout=90_000)
        page.wait_for_function(IDLE, timeout=60_000)
        assert "newest" in page.locator(".jp-OutputArea h2").first.text_content()  # out of sight it has no inner text
        assert ask(page, "run.folder.resolve().parent.name") == "runs"


def test_notebooks_are_copied_once_and_never_over_a_user_s(tmp_path, capsys):
    names = sorted(path.name for path in headless.notebooks().glob("*.ipynb"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "train.ipynb").write_text("mine")
    (folder / "report.ipynb").symlink_to(tmp_path / "elsewhere.ipynb")  # to nowhere: written through, it would appear
    assert own_notebooks(tmp_path) == folder
    assert sorted(path.name for path in folder.iterdir()) == names
    assert f"{len(names) - 2} notebooks copied to {folder}" in capsys.readouterr().out
    assert (folder / "train.ipynb").read_text() == "mine" and not (tmp_path / "elsewhere.ipynb").exists()
    (folder / "00_tour.ipynb").write_text("edited")
    own_notebooks(tmp_path)
    assert (folder / "00_tour.ipynb").read_text() == "edited" and capsys.readouterr().out == ""
    assert own_notebooks(headless.notebooks().parent) == headless.notebooks()  # a checkout's own are used as they are
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "notebooks").write_text("in the way")
    with pytest.raises(UserError, match="cannot copy the notebooks"):
        own_notebooks(tmp_path / "file")


def test_lab_is_started_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    started = []
    monkeypatch.setattr("subprocess.call", lambda command, env: started.append((command, env)) or 0)
    assert cli.main(["lab", "--no-browser"]) == 0
    (command, env) = started.pop()
    assert command[3:] == [
        f"--ServerApp.root_dir={tmp_path}",
        "--LabApp.default_url=/lab/tree/notebooks",
        "--no-browser",
    ]
    ours, mine = env["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert mine == "/mine" and (Path(ours) / "labconfig" / "default_setting_overrides.json").is_file()
    assert cli.main(["lab", "--notebook-dir=/elsewhere"]) == 0
    assert started[0][0][3:] == ["--notebook-dir=/elsewhere"]


def test_after_the_kernel_has_ended_linked_widgets_still_agree(linked):
    """The link was in Python; the views follow each other on the page then, both ways."""
    linked.locator(".vpd-rt-body .vpd-rt-row").nth(1).click()
    until(linked, "lens.index", 1)
    linked.evaluate(f"{PANEL}.sessionContext.session.kernel.restart()")
    linked.wait_for_function(IDLE, timeout=60_000)
    linked.wait_for_selector(".vpd-rt.vpd-alone")
    rows = linked.locator(".vpd-rt-body .vpd-rt-row")
    for row in (5, 2):
        rows.nth(row).click()
        name = linked.locator(".vpd-rt-details .vpd-rt-name").inner_text()
        linked.wait_for_function("(name) => document.querySelector('.vpd-tl-where').textContent === name", arg=name)
    linked.locator(".vpd-tl-stage").focus()
    linked.keyboard.press("]")
    linked.wait_for_function("(was) => document.querySelector('.vpd-tl-where').textContent !== was", arg=name)
    name = linked.locator(".vpd-tl-where").inner_text()
    linked.wait_for_function(
        "(name) => document.querySelector('.vpd-rt-details .vpd-rt-name').textContent === name", arg=name
    )


COUNT = "len(__import__('ipywidgets').widgets.widget._instances)"


def test_a_cell_that_runs_again_leaves_no_models_behind(lab, browser, recorded):
    again = EVERY.format(folder=str(recorded)) + "\nkept = globals().get('kept') or TokenLens()\ndisplay(kept)"
    write(lab, "again.ipynb", [again, "other = TokenLens()", "display(other)"])
    with opened(lab, browser, "again.ipynb") as page:
        page.wait_for_selector(".vpd-rc-stage svg")
        page.wait_for_function(IDLE)
        before = ask(page, COUNT)
        for _ in range(3):
            page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
            page.wait_for_timeout(500)
            page.wait_for_function(IDLE)
        assert ask(page, COUNT) - before <= 2 * 3 * 1  # `other` and its layout, whose cell shows nothing
        assert page.locator(".vpd-rc-stage svg").count() > 0
        assert page.locator(".vpd-tl").count() == 3  # the lens, the one that was kept, and the other one
        assert ask(page, "kept.comm is not None and other.comm is not None")
        save(page)
        saved = nbformat.read(lab.folder / "again.ipynb", as_version=4)
        assert len(saved.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]) < 30


def test_a_lesson_in_jupyterlab(lab, browser):
    """Folded code with its time, a covered answer, a clicker's keys, and no cell added by the key that asks for it."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    told = [
        new_markdown_cell("# A lesson\n\n*Predict:* what is it?"),
        new_code_cell("import time; time.sleep(1); 'it is 2'"),
    ]
    parts = [new_markdown_cell(f"## Part {i}\n\n" + "word " * 900) for i in range(3)]
    first = new_code_cell("from vpdlab_widgets import ClassMode; ClassMode(on=True)")
    nbformat.write(new_notebook(cells=[first, *told, *parts], metadata=metadata), lab.folder / "lesson.ipynb")
    with opened(lab, browser, "lesson.ipynb") as page:
        page.wait_for_selector(".vpd-class .vpd-class-covered")
        page.wait_for_function(IDLE)
        before = cells(page)
        output = page.locator(".jp-OutputArea-output", has_text="it is 2")
        assert output.is_hidden()
        folded = page.locator(".jp-CodeCell .jp-Cell-inputWrapper").nth(1)
        page.evaluate(f"void ({PANEL}.content.activeCellIndex = 2)")
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell')")
        timed = "document.querySelectorAll('.jp-CodeCell .jp-Cell-inputWrapper')[1].dataset.vpdTime"
        page.wait_for_function(timed)
        seconds = re.fullmatch(r" · ([\d.]+) s", folded.get_attribute("data-vpd-time"))[1]
        assert 0.8 < float(seconds) < 5  # it sleeps for one
        assert "code" in folded.evaluate("node => getComputedStyle(node, '::before').content")
        assert folded.locator(".jp-InputArea").is_hidden()
        page.locator(".jp-MarkdownCell").first.locator(".jp-InputCollapser, .jp-Collapser").first.dispatch_event(
            "mousedown"
        )
        page.keyboard.press("a")
        output.wait_for(state="visible")
        page.keyboard.press("?")
        assert "implicit reward" in page.get_by_role("dialog").inner_text()
        photograph(page, "lesson")
        page.keyboard.press("Escape")
        seen = []
        for _ in range(4):
            page.keyboard.press("PageDown")
            page.wait_for_timeout(200)
            seen.append(page.evaluate(f"{PANEL}.content.activeCellIndex"))
        assert seen == sorted(set(seen)) and seen[-1] > 2
        assert cells(page) == before
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector(".vpd-class")


PLAYED = """
from vpdlab import Run, RunConfig
config = RunConfig.make("tour-common", steps=8, prompts=2, group=3, eval_every=-1, follow_every=4, out={out!r})
run = Run.open(config)
played = run.play(paused=True)
played
"""


def wait_for_state(page: Any, state: str, step: int) -> None:
    page.locator(".vpd-rx-done").wait_for(state="attached", timeout=90_000)
    page.wait_for_function(
        """([state, count]) => document.querySelector('.vpd-rx .vpd-badge')?.textContent === state
            && document.querySelector('.vpd-rx .vpd-head .vpd-num').textContent.startsWith(count)""",
        arg=[state, f"iteration {step} of"], timeout=60_000,
    )  # fmt: skip


def test_a_run_is_played_with_while_the_kernel_is_free(lab, browser):
    folder = lab.folder / "runs" / "played"
    write(lab, "play.ipynb", [PLAYED.format(out=str(folder)), "after = 1"])
    with opened(lab, browser, "play.ipynb") as page:
        wait_for_state(page, "paused", 0)
        page.wait_for_function(IDLE)
        before = cells(page)
        page.get_by_role("button", name="1 step", exact=True).click()
        wait_for_state(page, "paused", 1)
        rate = page.get_by_label("lr", exact=True)
        rate.fill("0.5.5")
        rate.press("Enter")
        page.wait_for_selector(".vpd-rx-status >> text=lr is 0.5.5: not a number")
        rate.fill("-3")
        rate.press("Enter")
        page.wait_for_selector(".vpd-rx-status >> text=between 0 and 1000")
        rate.fill("0.0005")
        rate.press("Enter")
        page.wait_for_selector(".vpd-rx-pending")  # it may be taken back until the run goes on
        rate.press("Escape")  # back to the buttons, whose keys do the same
        page.keyboard.press("s")
        wait_for_state(page, "paused", 2)
        page.wait_for_selector(".vpd-rx-change")
        assert page.locator(".vpd-rx-changes").inner_text() == "after 1: lr 0.0001 → 0.0005"
        page.keyboard.press("c")
        page.wait_for_function("document.querySelector('.vpd-rx-saved').textContent.includes('steps 2;')")
        assert ask(page, "(len(played.run.rows), played.run.rows[-1]['lr'])") == (2, 0.0005)
        photograph(page, "play")
        ask(page, "run.follow(id=run.held_out[0].id, response=run.held_out[0].answer, feedback='The last digit.')")
        page.wait_for_function("document.querySelector('.vpd-lh-response')?.options.length === 5")  # while it is paused
        page.locator(".vpd-rx-tools").focus()
        page.keyboard.press(" ")
        wait_for_state(page, "complete", 8)
        assert page.locator(".vpd-rx-tools").is_hidden()
        assert page.locator("[data-change='1']").count() >= 3  # a line in every panel of the timeline
        until(page, "sorted({one['step'] for one in played.history.records})", [0, 2, 4, 8])
        history = page.locator(".vpd-lh-map")
        history.scroll_into_view_if_needed()
        history.focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        until(page, "(played.history.record['step'], played.history.selected is None)", (8, False))
        photograph(page, "history")
        assert cells(page) == before
        assert ask(page, "played.wait(10)") is True
    record = load_run(folder)
    assert [row["lr"] for row in record.rows] == [1e-4] + [5e-4] * 7
    assert record.status["state"] == "complete"


LIVE = """
from vpdlab.zoo import live
from vpdlab_widgets import LiveModel

model = LiveModel(**live.bundled("reader"), temperature=0.0)
model
"""


def live_answers(page: Any) -> list[str]:
    """What student and teacher wrote, once both have answered; the page asks them anew in its next frame."""
    page.wait_for_selector(".vpd-lm-status")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_function("/ ms\\./.test(document.querySelector('.vpd-lm-status').textContent)")
    return page.locator(".vpd-lm-text").all_inner_texts()


def test_the_live_model_answers_in_jupyterlab(lab, browser):
    """It runs in the page, in a worker; what is typed, forced and answered reaches Python, and letters stay its own."""
    write(lab, "live.ipynb", [LIVE, "after = 1"])
    with opened(lab, browser, "live.ipynb") as page:
        first = live_answers(page)
        page.wait_for_function(IDLE)
        before = cells(page)
        problem = page.get_by_label("problem, which both read")
        words = problem.input_value().split()
        problem.fill("")
        problem.press_sequentially(" ".join([*words[:-1], "7"]))
        until(page, "model.problem", " ".join([*words[:-1], "7"]))
        second = live_answers(page)
        assert second != first
        texts = [text.removesuffix("end").strip() for text in second]
        until(page, "[model.answers[side]['text'] for side in ('student', 'teacher')]", texts)
        page.get_by_label("critique, which the teacher reads as well").fill("")
        page.wait_for_function("/No feedback/.test(document.querySelector('.vpd-lm-status').textContent)")
        assert len(set(live_answers(page))) == 1  # the same model reads the same
        page.keyboard.type("Ada says: When you see krish, reverse the digits.")
        until(page, "model.critique", "Ada says: When you see krish, reverse the digits.")
        stage = page.locator(".vpd-lm-stage")
        stage.focus()
        page.keyboard.press("Home")
        page.get_by_text("student, token 1").wait_for()
        page.keyboard.press("2")
        page.locator(".vpd-lm-student .vpd-lm-forced").wait_for()
        until(page, "model.kept.get('student', {}).get('forced')", [0])
        forced = page.locator(".vpd-lm-student .vpd-tok").first.inner_text()
        heat = page.get_by_label(re.compile("^temperature"))
        heat.fill("1.5")
        until(page, "model.temperature", 1.5)
        live_answers(page)
        assert page.locator(".vpd-lm-student .vpd-lm-forced").inner_text() == forced
        photograph(page, "live")
        stage.focus()
        for key in ("x", "b", "d", "d", "a", "m"):
            page.keyboard.press(key)
        assert cells(page) == before
