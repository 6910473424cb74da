"""An executed notebook as one HTML page: its widgets and plotly charts stay alive, and it asks the network nothing.

nbconvert alone shows no widget and no plotly chart without a network. Here it renders text, code and plain outputs;
widget views and figures are swapped for places that the host of `vpdlab_widgets` and `page.js` fill in the browser.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader, pass_context
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from plotly.offline import get_plotlyjs
from vpdlab_widgets import embed
from vpdlab_widgets.base import plain

from vpdlab.errors import UserError

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_PLOTLY = "application/vnd.plotly.v1+json"
_REFERENCE = "IPY_MODEL_"

_TEMPLATE = """
{%- extends 'lab/base.html.j2' -%}
{%- block input_group -%}
{%- if cell.source.strip() -%}
{%- set tags = cell.metadata.get('tags', []) -%}
<details class="vpd-code">
<summary>{{ 'parameters' if 'parameters' in tags or 'injected-parameters' in tags else 'code' }}</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) | clean_html }}
</details>
{%- endif -%}
{%- endblock input_group -%}
"""


@dataclass
class _Living:
    """What of a notebook lives on in the page."""

    states: Mapping[str, Any]  # every saved widget state, by model id
    models: dict[str, Any] = field(default_factory=dict)  # those that the page shows
    figures: list[dict[str, Any]] = field(default_factory=list)


def notebook_to_page(notebook_path: str | Path, html_path: str | Path, title: str | None = None) -> Path:
    """Write an executed notebook as one offline HTML file.

    Code and parameters are folded. The page follows the reader's light or dark setting.

    Args:
        notebook_path: the executed notebook, widget state saved in it.
        html_path: the page to write; its folder is made where it is missing.
        title: the page's title; None takes the first heading, else the file's name.

    Returns:
        `html_path`.

    Raises:
        UserError: the notebook is missing, unreadable or was never executed, or the page cannot be written.
    """
    source, target = Path(notebook_path), Path(html_path)
    notebook = _read(source)
    saved = notebook.metadata.pop("widgets", {}).get(_WIDGET_STATE, {})
    living = _Living(states=saved.get("state", {}))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _living_output(output, living)) is not None]
    text = embed.page(
        title or _first_heading(notebook) or source.stem,
        _body(notebook, source.parent),
        head=f"<style>\n{_asset('page.css')}</style>\n",
        scripts=_scripts(living),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target}: cannot write the page ({error.strerror})") from error
    return target


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot read the notebook ({error.strerror})") from error
    except ValueError as error:  # neither UTF-8 nor JSON
        raise UserError(f"{path}: this is not a Jupyter notebook (no JSON text)") from error
    if not isinstance(document, dict) or document.get("nbformat") != 4:
        raise UserError(f"{path}: this is not a Jupyter notebook of format 4")
    try:
        nbformat.validate(document)
    except nbformat.ValidationError as error:
        reason = error.message.splitlines()[0][:200]
        raise UserError(f"{path}: this is not a Jupyter notebook ({reason})") from error
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if code and not any(cell.execution_count or cell.outputs for cell in code):
        raise UserError(f"{path}: the notebook was never executed; run it first, then export it")
    return notebook


def _living_output(output: Any, living: _Living) -> Any | None:
    """The output with its widget or figure swapped for a place in the page; None if nothing of it can be shown."""
    data = output.get("data")
    if data is None:  # a stream or an error
        return output
    # Scripts of other libraries look for a notebook around them, and find none here.
    data.pop("application/javascript", None)
    if _PLOTLY in data:
        living.figures.append(plain(data[_PLOTLY], "figure"))
        height = (living.figures[-1].get("layout") or {}).get("height")
        style = f' style="height:{float(height):.0f}px"' if isinstance(height, int | float) else ""
        output.data = {"text/html": f'<div class="vpd-plot" data-vpd-figure="{len(living.figures) - 1}"{style}></div>'}
    elif _WIDGET_VIEW in data:
        output.data = {"text/html": _widget_html(data, living)}
    elif _is_plotly_bundle(data.get("text/html", "")):
        return None
    return output if output.data else None


def _is_plotly_bundle(text: str) -> bool:
    """Some plotly renderers print all of plotly.js into the first output; the page has its own, once."""
    return len(text) > 1_000_000 and "plotly.js" in text


def _widget_html(data: Mapping[str, Any], living: _Living) -> str:
    model_id = data[_WIDGET_VIEW].get("model_id", "")
    # The text of a core widget is its first frame: a progress bar would stay at 0 %. Its saved state is the last.
    text = " ".join(_saved_texts(model_id, living.states)) or data.get("text/plain", "widget")
    fallback = data.get("text/html") or f"<pre>{html.escape(text)}</pre>"
    shown = list(_anywidgets(model_id, living.states))
    if not shown:  # a core widget, or no state was saved
        return fallback
    for model_id in shown:
        living.models[model_id] = plain(living.states[model_id], "widget state")
    # In a box of several widgets the box's fallback would stand in each; its first place is enough.
    return "".join(embed.mount(model_id, "" if index else fallback) for index, model_id in enumerate(shown))


def _anywidgets(model_id: str, states: Mapping[str, Any]) -> Iterator[str]:
    """The anywidget models that a view shows: its own, or those inside a box, in order."""
    if "_esm" in _state(model_id, states):
        yield model_id
    for child in _children(model_id, states):
        yield from _anywidgets(child, states)


def _saved_texts(model_id: str, states: Mapping[str, Any]) -> Iterator[str]:
    """What the labels of a core widget say in its saved state, without markup."""
    value = _state(model_id, states).get("value")
    if isinstance(value, str) and "_esm" not in _state(model_id, states):
        yield html.unescape(re.sub(r"<[^>]*>", "", value)).strip()
    for child in _children(model_id, states):
        yield from _saved_texts(child, states)


def _children(model_id: str, states: Mapping[str, Any]) -> list[str]:
    children = _state(model_id, states).get("children", [])
    return [child.removeprefix(_REFERENCE) for child in children if str(child).startswith(_REFERENCE)]


def _state(model_id: str, states: Mapping[str, Any]) -> Mapping[str, Any]:
    return states.get(model_id, {}).get("state", {})


class _Renderer(IPythonRenderer):
    """Markdown with its formulas as MathML, which browsers draw without a script."""

    def _html_embed_images(self, html: str) -> str:
        # nbconvert closes every tag of each piece of HTML while it looks for images; what a <details> folds, with blank
        # lines in it, would then stand outside.
        return super()._html_embed_images(html) if "<img" in html else html

    def inline_math(self, body: str) -> str:
        return _mathml(body, f"${body}$", display=False)

    def block_math(self, body: str) -> str:
        return f"<p>{_mathml(body, f'$${body}$$', display=True)}</p>"

    def latex_environment(self, name: str, body: str) -> str:
        source = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return f"<p>{_mathml(source, source, display=True)}</p>"


def _mathml(formula: str, source: str, *, display: bool) -> str:
    try:
        return LatexToMathML().convert_with_local_state(formula, displaystyle=display)
    except LatexError:
        return f"<code>{html.escape(source)}</code>"  # a command it does not know: the reader gets the source


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        renderer = _Renderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            exclude_anchor_links=True,
            path=context["resources"]["metadata"]["path"],
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def _body(notebook: Any, folder: Path) -> str:
    exporter = _Exporter(
        template_name="lab",
        template_file="vpdlab-page.html.j2",
        extra_loaders=[DictLoader({"vpdlab-page.html.j2": _TEMPLATE})],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        embed_images=True,
        require_js_url="",
        mathjax_url="",
    )
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(folder)}})
    has_code = any(cell.cell_type == "code" and cell.source.strip() for cell in notebook.cells)
    button = '<button type="button" class="vpd-all-code" aria-pressed="false">all code</button>' if has_code else ""
    return f'<main>\n<div class="vpd-bar">{button}</div>\n{body}\n</main>'


def _scripts(living: _Living) -> str:
    parts = []
    if living.models:
        parts += [embed.widget_script(living.models), f"<script>{embed.host_script()}</script>"]
    if living.figures:
        parts.append(f"<script>{embed.script_source(get_plotlyjs())}</script>")
        figures = embed.script_json(living.figures)
        parts.append(f'<script type="application/json" id="vpd-figures">{figures}</script>')
    parts.append(f"<script>{embed.script_source(_asset('page.js'))}</script>")
    return "\n".join(parts)


def _first_heading(notebook: Any) -> str | None:
    for cell in notebook.cells:
        found = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if found:
            return found.group(1).strip()
    return None


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
