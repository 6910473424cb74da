"""Other people's text stays text: no script, no move to another page, no request, no link and no tag is made of it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from offline_browser import browser_of, close_browser
from planted import NAME, PIECES, TEXT, hover_everything, opened, plant
from toy import toy_run
from vpdlab_widgets import EMTimeline, RolloutTable, RunCompare, TokenLens
from vpdlab_widgets.base import write_page

from vpdlab import cli, load_run, show
from vpdlab.cli import headless
from vpdlab.compare import page as comparison_page
from vpdlab.compare import standings
from vpdlab.show import plots, widget_data
from vpdlab.show.page import notebook_to_page

PLOTLY = "application/vnd.plotly.v1+json"
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


@pytest.fixture(autouse=True)
def browser_ends() -> Iterator[None]:
    """Each test's browser ends with it: the next one may run a notebook."""
    yield
    close_browser()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Any:
    """A recorded run with something planted in every text, in a folder whose name is markup too."""
    folder = tmp_path_factory.mktemp("planted") / "run"
    fields = {"feedback": ("sibling", "verifier"), "feedback_mode": "first", "eval_every": 0, "noise_drop": 0.2}
    for _ in toy_run(record=True, out=str(folder), **fields).steps():
        pass
    plant(folder)
    return load_run(folder.rename(folder.with_name(NAME)))  # a folder can be called anything later


def executed(name: str, target: Path, **parameters: Any) -> Path:
    import papermill

    source = headless.notebooks() / f"{name}.ipynb"
    papermill.execute_notebook(source, target, parameters, kernel_name="python3", progress_bar=False)
    return target


def streams(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", "60_inspect_a_run"])
def test_a_run_is_read_by_a_notebook(name, run, chromium, tmp_path) -> None:
    notebook = executed(name, tmp_path / "a.ipynb", folder=str(run.folder))
    assert "\x1b" not in streams(notebook)
    with opened(chromium, notebook_to_page(notebook, tmp_path / "a.html")) as page:
        assert hover_everything(page) > 0
        for table in page.locator(".vpd-rt").all():
            table.locator(".vpd-rt-body .vpd-rt-row").nth(1).click()
        for lens in page.locator(".vpd-tl-stage").all():
            lens.focus()
            for key in ("ArrowRight", "ArrowRight", "Enter"):
                page.keyboard.press(key)
        for button in page.locator("[aria-pressed]").all():
            if button.is_visible():
                button.click()


@pytest.mark.slow
def test_a_report_by_the_command(run, chromium, capsys) -> None:
    assert cli.main(["report", str(run.folder)]) == 0
    with opened(chromium, run.folder / "report.html") as page:
        assert page.title() == f"{NAME}: report"
        assert page.locator(".vpd-emt-stage svg").count() >= 4  # and all of it is alive


@pytest.mark.slow
def test_a_training_notebook_on_a_data_set_with_markup(chromium, tmp_path, capfd) -> None:
    """Problems, ids, answers and the judge's notes are other people's."""
    items = [{"id": f"{i} {TEXT}", "prompt": f"{piece} What is {i}?", "answer": TEXT} for i, piece in enumerate(PIECES)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    says = "return Outcome(float(len(response) % 2), TEXT, TEXT)"
    (tmp_path / "judge.py").write_text(
        f"from vpdlab import Outcome\nTEXT = {TEXT!r}\ndef verify(response, problem):\n    {says}\n"
    )
    out, judge = tmp_path / "run", f"verify={tmp_path / 'judge.py'}:verify"
    args = ["--task", "own", "--data", str(tmp_path / "data.jsonl"), "--task-args", judge]
    small = ["--steps=1", "--prompts=8", "--group=4", "--eval-every=-1", "--max-context=480", "--record-tokens=32"]
    assert cli.main(["notebook", "train", "--preset", "tour-common", "--out", str(out), *args, *small]) == 0
    assert "\x1b]" not in capfd.readouterr().out and "\x1b" not in streams(out / "train.ipynb")
    with opened(chromium, out / "train.html"):
        pass


@pytest.mark.slow
def test_a_comparison(run, chromium, tmp_path) -> None:
    folder = run.folder
    cells: Any = [SimpleNamespace(preset=TEXT, label=f"{x} {TEXT}", seed=0, folder=folder) for x in ("first", "second")]
    rows = standings.summarise(cells)
    path = comparison_page.write(cells, rows, tmp_path, f"vpdlab compare {TEXT}")
    with opened(chromium, path) as page:
        assert hover_everything(page) > 0


@pytest.mark.slow
def test_the_widgets(run, chromium, tmp_path) -> None:
    records = run.rollouts(run.steps[0])
    marked = {TEXT: [[0.5] * len(r["tokens"]) if r.get("tokens") else None for r in records]}
    lens = TokenLens(widget_data.lens_records(records, beta=0.1, weights=marked), title=TEXT)
    table = RolloutTable(widget_data.rollout_rows(records), title=TEXT)
    table.drive(lens)
    points = [point | {"probes": {TEXT: 0.5}} for point in widget_data.eval_points(run.eval_rows)]
    timeline = EMTimeline(run.rows, evals=points, title=TEXT, state="failed", reason=TEXT)
    first, second = widget_data.compared_runs([run, run], labels=[f"a {TEXT}", f"b {TEXT}"])
    compared = RunCompare([first, second | {"name": TEXT}])
    write_page([timeline, table, lens, compared], tmp_path / "a.html", title=TEXT)
    with opened(chromium, tmp_path / "a.html") as page:
        assert page.title().startswith("<script>")
        for stage in page.locator("[tabindex='0']").all():
            stage.focus()
            for key in ("Home", "ArrowRight", "Enter", "End"):
                page.keyboard.press(key)


@pytest.mark.slow
def test_without_their_scripts_the_widgets_show_no_markup(run, chromium, tmp_path) -> None:
    records = run.rollouts(run.steps[0])
    lens = TokenLens(widget_data.lens_records(records, beta=0.1), title=TEXT)
    both = [lens, RolloutTable(widget_data.rollout_rows(records), title=TEXT), EMTimeline(run.rows, title=TEXT)]
    (tmp_path / "a.html").write_text("".join(widget.fallback() for widget in both))
    with opened(chromium, tmp_path / "a.html"):
        pass


FIGURES = sorted(name for name in vars(plots) if name.endswith("_figure") and name != "paper_figure")


def figures() -> dict[str, Any]:
    """One of each kind, markup wherever a text can stand, and where a number should."""
    row = {"success_rate": 0.5, "margin": None, "delta": 1, "e_loss": None, "kl": TEXT, "entropy": 0.1, "length": 2.0}
    rows = [row | {"step": 1}, row | {"step": 2}]
    probes = {TEXT: 0.5, f"b {TEXT}": TEXT, "belief/" + TEXT: 0.5}
    evals = [{"step": 1, "accuracy": 0.2, "accuracy_low": TEXT, "accuracy_high": 0.3, "probes": probes}]
    words, tops = list(PIECES), [(piece, 0.1) for piece in PIECES]
    curves = [{"preset": p, "method": TEXT, "seed": 0, "rollouts": [0, 9], "accuracy": [0.1, 0.2]} for p in (TEXT, "b")]
    return {
        "training_figure": plots.training_figure(rows, evals),
        "belief_figure": plots.belief_figure({TEXT: evals, "b": evals}, title=TEXT, names={TEXT: f"c {TEXT}"}),
        "lines_figure": plots.lines_figure([1, 2], {f"panel {TEXT}": {TEXT: [1, TEXT], "b": [2, 3]}}, TEXT),
        "compare_figure": plots.compare_figure(curves),
        "implicit_reward_figure": plots.implicit_reward_figure({TEXT: [1.0, 2.0]}, [True, False], 0.5),
        "token_figure": plots.token_figure(words, [0.1] * len(words)),
        "top_figure": plots.top_figure({"student": tops, "teacher": tops}, TEXT),
        "push_figure": plots.push_figure(words, {TEXT: [0.1] * len(words)}, {TEXT: 1.0}),
        "likeness_figure": plots.likeness_figure([f"a {TEXT}", f"b {TEXT}"], [[1.0, 0.0], [0.0, 1.0]]),
        "discovery_figure": plots.discovery_figure([{"method": TEXT, "k": 1, "solved": 0.5, "low": 0.1, "high": 0.9}]),
        "move_figure": plots.move_figure({TEXT: dict(tops)}, TEXT),
    }


def test_every_kind_of_figure_is_among_those_that_are_tried() -> None:
    assert set(figures()) == set(FIGURES)


@pytest.mark.slow
def test_labels_legends_titles_and_hover_texts_of_figures(chromium, tmp_path) -> None:
    outputs = [new_output("display_data", {PLOTLY: json.loads(f.to_json())}) for f in figures().values()]
    cell = new_code_cell("1", execution_count=1, outputs=outputs)
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    with opened(chromium, notebook_to_page(tmp_path / "a.ipynb", tmp_path / "a.html")) as page:
        page.wait_for_function("document.querySelectorAll('.main-svg').length >= 20")
        assert page.locator(".vpd-plot a").count() == 0
        assert hover_everything(page) > 9
        texts = page.locator(".vpd-plot text").all_text_contents()
        assert any('<a class="plant" href="https://planted.invalid/plant">link</a>' in text for text in texts)
        assert any("$$\\href{javascript:window.planted=1}{x}$$" in text for text in texts)


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_holds_a_tag_of_the_text(name) -> None:
    ours = re.compile(r"<br><span style='font-size:0.85em'>|</span>|<extra></extra>")
    text = ours.sub("", json.dumps(figures()[name].to_dict(), default=list))
    assert "<" not in text and "$$" not in text


# -- a notebook that someone else has executed -------------------------------------------------------------------------

MARKUP = "".join(PIECES)


def test_a_paper_s_figure_holds_no_tag_of_the_text(tmp_path) -> None:
    """A notebook shows its SVG; the names are drawn, and written into comments."""
    shared = {"measure": "accuracy", "over": TEXT, "x": [0.0, 1.0], "mean": [0.1, 0.2], "low": None, "high": None}
    lines = [{"panel": panel, "name": name} | shared for panel in (TEXT, "b") for name in (TEXT, "c")]
    figure = plots.paper_figure(lines)
    svg = figure._repr_svg_()
    root = ElementTree.fromstring(svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags & {"script", "img", "image", "a", "foreignObject", "iframe", "style"} <= {"style"}
    assert "<script" not in svg and "<img" not in svg and "\x1b" not in svg
    assert figure.save(tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


MOUNT = '<div class="vpd-mount plant-free" data-vpd-model="m1"></div><div class="vpd-plot" data-vpd-figure="7"></div>'
HOSTILE = "export default { render() { window.planted = 'module'; location.href = 'https://planted.invalid/' } }"


def someone_elses() -> Any:
    """A notebook with markup and scripts wherever a page might take it from."""
    ours = EMTimeline([{"step": 1, "kl": 0.5}], title=TEXT).get_state() | {"_esm": HOSTILE}
    paths = [["__proto__", "x"], ["constructor", "prototype", "y"], ["rows", "__proto__"], [], "odd"]
    states = {
        "m1": {"state": {"_esm": HOSTILE, "_css": "main{display:none}"}, "buffers": []},
        "m2": {"state": ours, "buffers": [*({"path": path, "data": ""} for path in paths), 7]},
        "loop": {"state": {"children": ["IPY_MODEL_loop", "IPY_MODEL_m2"], "value": TEXT}},
        "none": None, "odd": {"state": 7},
    }  # fmt: skip
    link = "<A HREF='https://planted.invalid'>plant</A>"
    figure = {
        "data": [{"y": [1, 2], "name": link, "text": [TEXT, TEXT]}], "layout": {"title": {"text": link}},
        "config": {"showLink": True, "linkText": "plant", "plotlyServerURL": "https://planted.invalid"},
    }  # fmt: skip
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    image = new_output("display_data", {"image/png": png})
    image.metadata = {"image/png": {"width": "1 onerror=window.planted=1 class=plant", "height": 5}}
    svg = "<svg xmlns='http://www.w3.org/2000/svg' onload='window.planted=1'><script>window.planted=1</script></svg>"
    bad = "<style><img src=x onerror=window.planted=1></style>"
    deep = f"<math><mtext><table><mglyph>{bad}</mglyph></table></mtext></math>"
    views_ = ({VIEW: {"model_id": one}, "text/html": MARKUP, "text/plain": MARKUP} for one in [*states, "gone"])
    bundles: list[dict[str, Any]] = [
        {"text/html": MARKUP}, {"text/html": MOUNT}, {"text/markdown": MARKUP}, {"image/svg+xml": svg},
        {"text/latex": MARKUP}, {"application/javascript": "window.planted=1", "text/plain": "x"},
        {"text/vnd.mermaid": MARKUP}, {"text/plain": MARKUP}, {PLOTLY: figure},
        {"text/html": f"<svg>{bad}</svg>"}, {"text/html": deep}, *views_,
    ]  # fmt: skip
    outputs = [image, *(new_output("display_data", bundle) for bundle in bundles)]
    outputs.append(new_output("stream", name="stdout", text=MARKUP))
    outputs.append(new_output("error", ename="E", evalue=MARKUP, traceback=[MARKUP]))
    code = new_code_cell(MARKUP, execution_count=1, outputs=outputs)
    code.metadata = {"tags": ['x" onclick="window.planted=1', "parameters"], "vpd": MARKUP}
    named = new_markdown_cell(f"{MARKUP}\n\n![a](attachment:a.html)")
    named.attachments = {"a.html": {"text/html": "PHNjcmlwdD4="}}
    metadata = {
        "widgets": {STATE: {"state": states, "version_major": 2, "version_minor": 0}}, "title": MARKUP,
        "language_info": {"name": 'python" onload="window.planted=1', "pygments_lexer": "ipython3"},
    }  # fmt: skip
    return new_notebook(cells=[named, code, *(new_markdown_cell(piece) for piece in PIECES)], metadata=metadata)


@pytest.mark.slow
def test_a_notebook_from_someone_else_runs_nothing_in_its_page(chromium, tmp_path) -> None:
    nbformat.write(someone_elses(), tmp_path / "a.ipynb")
    target = notebook_to_page(tmp_path / "a.ipynb", tmp_path / "a.html")
    with opened(chromium, target, theirs=True) as page:
        page.wait_for_selector(".vpd-emt-title")  # ours is alive, with the notebook's data
        page.locator(".vpd-all-code").click()
        page.locator(".vpd-plot .main-svg").first.wait_for(state="attached")
        assert page.locator("svg a").count() == 0
        assert page.evaluate("({}).x === undefined && ({}).y === undefined")
        for link in page.locator("a[href]").all():
            assert link.get_attribute("href").startswith(("https://", "#"))


@pytest.mark.slow
def test_a_script_that_got_into_a_page_would_not_run(chromium, tmp_path) -> None:
    """The second wall: the policy lists the sums of the page's own scripts, and no other one runs."""
    page_file = notebook_to_page(_plain(tmp_path), tmp_path / "a.html")
    text = page_file.read_text()
    bad = "<script>window.planted=1</script><img src=x onerror='window.planted=1'><svg onload='window.planted=1'></svg>"
    page_file.write_text(text.replace("<main>", f"<main>{bad}<form action='https://planted.invalid'></form>"))
    page = browser_of(chromium).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelector('form').submit()")
    page.wait_for_timeout(300)
    assert page.evaluate("window.planted") is None
    assert page.url == page_file.as_uri() and not any("planted.invalid" in url for url in asked)
    page.close()


def _plain(folder: Path) -> Path:
    cell = new_code_cell("1", execution_count=1, outputs=[new_output("stream", text="x")])
    nbformat.write(new_notebook(cells=[cell]), folder / "plain.ipynb")
    return folder / "plain.ipynb"


# -- the helpers, and that nothing goes past them ----------------------------------------------------------------------


@pytest.mark.parametrize("piece", PIECES)
def test_a_table_and_a_heading_hold_no_tag_of_the_text(piece) -> None:
    written = r"style=\"[^\"]*\"|class=\"dataframe\"|data-value=\"(null|1\.5)\""
    ours = rf"</?(table|thead|tbody|tr|th|td|p|h2|b|br|span)( ({written}))*>"
    table = show.table([{piece: piece, "b": 1.5, "c": None}])
    for shown in (table, show.table([], piece), show.heading(piece, piece, [piece])):
        markup = shown._repr_html_()
        assert all(re.fullmatch(ours, tag) for tag in re.findall(r"<[^>]*>", markup))
        assert not re.search(r"\$[^<]|\\[^<]", markup)  # no formula: each of its signs stands alone
        assert not re.search("[\x1b\u202e\u2066\x07]", markup + repr(shown))


FORBIDDEN = (
    r"\.style\b", r"\bHTML\(", r"\bMarkdown\(", r"\bDataFrame\b", r"\bto_html\b", r"\bpd\.", r"\bJavascript\(",
    r"\bSVG\(", r"%%(html|javascript|svg|markdown|latex)", r"\.metrics\b", r"\.evals\.(head|tail)",
)  # fmt: skip


@pytest.mark.parametrize("path", sorted(headless.notebooks().glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_show_text_through_the_helper_only(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            code = re.sub(r'f?"[^"\n]*"', '""', cell.source)  # what a string says is no call
            assert not [word for word in FORBIDDEN if re.search(word, code)], cell.source


@pytest.mark.parametrize("name", ["report", "60_inspect_a_run", "train"])
def test_what_is_printed_of_a_run_goes_through_plain(name) -> None:
    """Where a notebook reads other people's text, each print of something that is no number or constant is plain."""
    notebook = nbformat.read(headless.notebooks() / f"{name}.ipynb", as_version=4)
    allowed = ("show.plain(", "summary.progress_line(", "summary.conclusion(", '"', 'f"iteration {', 'f"── {title}')
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for said in re.findall(r"\bprint\((.*)", cell.source):
                assert said.startswith(allowed), said


def test_a_terminal_hears_colours_and_no_commands() -> None:
    heard: list[str] = []
    out = type("Out", (), {"write": lambda self, text: heard.append(text), "flush": lambda self: None})()
    terminal = headless._Terminal(out)
    terminal.write("\x1b[31mred\x1b[0m \x1b]52;c;cGxhbnQ=\x07 \x1b[2J\x9b2J 50%\r100%\n\x1b[A\x1b[K\u202e")
    assert "".join(heard) == "\x1b[31mred\x1b[0m �]52;c;cGxhbnQ=� �[2J�2J 50%\r100%\n\x1b[A\x1b[K�"


def test_what_cannot_be_written_is_replaced(tmp_path) -> None:
    lens = EMTimeline([{"step": 1}], title="half \ud800 of one")
    lens.to_html(tmp_path / "a.html")
    assert "half � of one" in (tmp_path / "a.html").read_text("utf-8")
