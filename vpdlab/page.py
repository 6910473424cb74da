"""An executed notebook as one HTML page: its widgets and plotly charts stay alive, and it asks the network nothing.

nbconvert alone shows no widget and no plotly chart without a network. Here it renders text, code and plain outputs;
widget views and figures are swapped for places that the host of `vpdlab_widgets` and `page.js` fill in the browser.

A notebook may come from someone else, so nothing in it is trusted: what nbconvert makes of it goes through one list of
allowed elements, widgets get their data from the notebook and their code from the installed `vpdlab_widgets`, and no
script runs whose sum the page's policy does not list.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import vpdlab_widgets
from jinja2 import DictLoader, pass_context
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath
from plotly.offline import get_plotlyjs
from vpdlab_widgets import embed
from vpdlab_widgets.base import plain

from vpdlab.errors import UserError, first_line
from vpdlab.files import read_small
from vpdlab.markup import clean, without_links

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_PLOTLY = "application/vnd.plotly.v1+json"
_REFERENCE = "IPY_MODEL_"
LONGEST_FORMULA, BRACES = 20_000, 1000  # characters; groups, however deep
_TAGS = ("parameters", "injected-parameters")  # the only metadata of a cell that the page looks at

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
    places: list[str] = field(default_factory=list)  # our own HTML, put in after the notebook's was cleaned
    # Stands where they go; no notebook can know it.
    word: str = field(default_factory=lambda: f"vpd-{secrets.token_hex(16)}")

    def place(self, markup: str) -> dict[str, str]:
        """An output in whose place our own HTML will stand."""
        self.places.append(markup)
        return {"text/html": f"<div>{self.word}-{len(self.places) - 1};</div>"}

    def fill(self, body: str) -> str:
        """The cleaned body with our own HTML in its places."""
        return re.sub(rf"{self.word}-(\d+);", lambda found: self.places[int(found[1])], body)


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
    try:
        text = _page(_read(source), source, title)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{source}: something in this notebook is nested too deep for a page") from error
    except (InvalidNotebook, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{source}: something in this notebook cannot be put on a page ({reason})") from error
    if target.is_symlink():
        raise UserError(f"{target} is a link, and a page is written into a file of its own: remove it, or name another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{target}: cannot write the page ({error.strerror})") from error
    return target


def _page(notebook: Any, source: Path, title: str | None) -> str:
    living = _Living(states=_saved_states(notebook))
    for cell in notebook.cells:
        cell.metadata = {"tags": [tag for tag in _list(cell.metadata.get("tags")) if tag in _TAGS]}
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := _living_output(output, living)) is not None]
    return embed.page(
        title or _first_heading(notebook) or source.stem,
        _body(notebook, source.parent, living),
        head=f"<style>\n{_asset('page.css')}</style>\n",
        data=_data(living),
        scripts=_scripts(living),
    )


def _read(path: Path) -> Any:
    try:
        text = read_small(path, 1 << 29).decode("utf-8")
        document = json.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot read the notebook ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor JSON, or JSON without a bottom
        raise UserError(f"{path}: this is not a Jupyter notebook (no JSON text)") from error
    if not isinstance(document, dict) or document.get("nbformat") != 4:
        raise UserError(f"{path}: this is not a Jupyter notebook of format 4")
    try:
        nbformat.validate(document)
        notebook = nbformat.reads(text, as_version=4)
    except nbformat.ValidationError as error:
        reason = error.message.splitlines()[0][:200]
        raise UserError(f"{path}: this is not a Jupyter notebook ({reason})") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: this is not a Jupyter notebook ({first_line(error)})") from error
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if code and not any(cell.execution_count or cell.outputs for cell in code):
        raise UserError(f"{path}: the notebook was never executed; run it first, then export it")
    return notebook


def _saved_states(notebook: Any) -> dict[str, Any]:
    """The saved state of each widget, as far as it has the shape of one."""
    saved: Any = notebook.metadata.pop("widgets", {})
    for key in (_WIDGET_STATE, "state"):
        saved = saved.get(key, {}) if isinstance(saved, Mapping) else {}
    found = saved.items() if isinstance(saved, Mapping) else ()
    return {str(key): entry for key, entry in found if isinstance(_dict(entry).get("state"), Mapping)}


def _living_output(output: Any, living: _Living) -> Any | None:
    """The output with its widget or figure swapped for a place in the page; None if nothing of it can be shown."""
    data = output.get("data")
    if data is None:  # a stream or an error
        return output
    output.metadata = {}  # widths and file names, which the template writes as they are
    # Scripts of other libraries look for a notebook around them, and find none here.
    data.pop("application/javascript", None)
    if _PLOTLY in data:
        figure = _dict(without_links(plain(data[_PLOTLY], "figure")))
        living.figures.append({"data": _list(figure.get("data")), "layout": _dict(figure.get("layout"))})
        height = living.figures[-1]["layout"].get("height")
        style = f' style="height:{float(height):.0f}px"' if isinstance(height, int | float) else ""
        output.data = living.place(f'<div class="vpd-plot" data-vpd-figure="{len(living.figures) - 1}"{style}></div>')
    elif _WIDGET_VIEW in data:
        output.data = living.place(_widget_html(data, living))
    elif _is_plotly_bundle(str(data.get("text/html", ""))):
        return None
    return output if output.data else None


def _is_plotly_bundle(text: str) -> bool:
    """Some plotly renderers print all of plotly.js into the first output; the page has its own, once."""
    return len(text) > 1_000_000 and "plotly.js" in text


def _widget_html(data: Mapping[str, Any], living: _Living) -> str:
    model_id = str(_dict(data[_WIDGET_VIEW]).get("model_id", ""))
    # The text of a core widget is its first frame: a progress bar would stay at 0 %. Its saved state is the last.
    texts = [_words(living.states[one]) for one in _family(model_id, living.states)]
    text = " ".join(text for text in texts if text) or str(data.get("text/plain", "widget"))
    fallback = clean(str(data.get("text/html") or f"<pre>{html.escape(text)}</pre>"))
    shown = [one for one in _family(model_id, living.states) if _ours(living.states[one]) is not None]
    if not shown:  # a widget of someone else's, or no state was saved
        return fallback
    for one in shown:
        living.models[one] = plain(_revived(living.states[one]), "widget state")
    # In a box of several widgets the box's fallback would stand in each; its first place is enough.
    return "".join(embed.mount(one, "" if index else fallback) for index, one in enumerate(shown))


def _ours(entry: Mapping[str, Any]) -> type[vpdlab_widgets.LabWidget] | None:
    return vpdlab_widgets.LabWidget.by_name(str(entry["state"].get("_anywidget_id", "")))


def _revived(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A saved widget with the code of the one that is installed: what a notebook brings along does not run."""
    code = _ours(entry)
    return {
        "state": {**entry["state"], "_esm": str(getattr(code, "_esm", "")), "_css": str(getattr(code, "_css", ""))},
        "buffers": [one for one in _list(entry.get("buffers")) if _is_buffer(one)],
    }


def _is_buffer(one: Any) -> bool:
    path = _list(_dict(one).get("path"))
    return bool(path) and all(isinstance(key, str | int) for key in path) and isinstance(_dict(one).get("data"), str)


def _family(model_id: str, states: Mapping[str, Any]) -> Iterator[str]:
    """A widget and those inside it, in order, each once."""
    waiting, seen = [model_id], set()
    while waiting:
        one = waiting.pop(0)
        if one in states and one not in seen:
            seen.add(one)
            yield one
            children = _list(states[one]["state"].get("children"))
            waiting[:0] = [str(c).removeprefix(_REFERENCE) for c in children if str(c).startswith(_REFERENCE)]


def _words(entry: Mapping[str, Any]) -> str:
    """What a core widget says in its saved state, without markup."""
    value = entry["state"].get("value")
    return html.unescape(re.sub(r"<[^>]*>", "", value)).strip() if isinstance(value, str) else ""


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


class _Renderer(IPythonRenderer):
    """Markdown with its formulas as MathML, which browsers draw without a script."""

    def _html_embed_images(self, html: str) -> str:
        # nbconvert closes every tag of each piece of HTML while it looks for images; what a <details> folds, with blank
        # lines in it, would then stand outside.
        return super()._html_embed_images(html) if "<img" in html else html

    def _src_to_base64(self, src: str) -> str | None:
        """An image beside the notebook; a link, a pipe or a device there is none."""
        path = Path(str(self.path or "")) / src
        try:
            linked = path.resolve() != Path(str(self.path or "")).resolve() / src
            read_small(path) if not linked else None
        except (OSError, ValueError):
            return None
        return None if linked else super()._src_to_base64(src)

    def inline_math(self, body: str) -> str:
        return _mathml(body, f"${body}$", display=False)

    def block_math(self, body: str) -> str:
        return f"<p>{_mathml(body, f'$${body}$$', display=True)}</p>"

    def latex_environment(self, name: str, body: str) -> str:
        source = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return f"<p>{_mathml(source, source, display=True)}</p>"


def _mathml(formula: str, source: str, *, display: bool) -> str:
    # The converter calls itself for each brace, in machine code: a formula without a bottom would end the process.
    if (
        len(formula) > LONGEST_FORMULA
        or formula.count("{") + formula.count("\\left") + formula.count("\\begin") > BRACES
    ):
        return f"<code>{html.escape(source)}</code>"
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


def _body(notebook: Any, folder: Path, living: _Living) -> str:
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
    return f'<main>\n<div class="vpd-bar">{button}</div>\n{living.fill(clean(body))}\n</main>'


def _data(living: _Living) -> list[str]:
    """What the scripts read."""
    parts = [embed.widget_script(living.models)] if living.models else []
    if living.figures:
        figures = embed.script_json(living.figures)
        parts.append(f'<script type="application/json" id="vpd-figures">{figures}</script>')
    return parts


def _scripts(living: _Living) -> list[str]:
    plotly = [embed.script_source(get_plotlyjs())] if living.figures else []
    return [*([embed.host_script()] if living.models else []), *plotly, embed.script_source(_asset("page.js"))]


def _first_heading(notebook: Any) -> str | None:
    for cell in notebook.cells:
        found = re.search(r"^#\s+(.+)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if found:
            return found.group(1).strip()
    return None


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
