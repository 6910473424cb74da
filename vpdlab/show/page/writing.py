"""The page: a notebook's body, the data of its widgets and figures, and the scripts that draw them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbconvert.filters.markdown_mistune import InvalidNotebook
from plotly.offline import get_plotlyjs
from vpdlab_widgets import embed

from vpdlab.errors import UserError, first_line
from vpdlab.show.markup import clean
from vpdlab.show.page.markdown import notebook_body
from vpdlab.show.page.outputs import LiveOutputs
from vpdlab.show.page.reading import as_dict, as_list, first_heading, pop_widget_states, read_notebook, took

_TAGS = ("parameters", "injected-parameters")  # the only metadata of a cell that the page uses


def notebook_to_page(notebook_path: str | Path, html_path: str | Path, title: str | None = None) -> Path:
    """Write an executed notebook as one offline HTML file.

    Code and parameters are folded. The page follows the reader's light or dark setting.

    Args:
        notebook_path: the executed notebook, with its widget state saved.
        html_path: the page to write; its folder is created if needed.
        title: the page's title; None takes the first heading, else the file's name.

    Returns:
        `html_path`.

    Raises:
        UserError: the notebook is missing, unreadable or was never executed, or the page cannot be written.
    """
    source, target = Path(notebook_path), Path(html_path)
    with _in_one_line(source):
        text = _page(read_notebook(source), source, title)
    if target.is_symlink():
        raise UserError(f"{target} is a link, and a page is never written through a link: remove it, or name another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{target}: cannot write the page ({error.strerror})") from error
    return target


def page_of(notebook: Any, source: Path, title: str | None = None) -> str:
    """The page of a notebook that was read from `source`, where its images are too. Raises UserError as above."""
    with _in_one_line(source):
        return _page(notebook, source, title)


@contextmanager
def _in_one_line(source: Path) -> Iterator[None]:
    """Whatever a notebook makes other libraries raise, as a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{source}: something in this notebook is nested too deeply for a page") from error
    except (InvalidNotebook, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{source}: something in this notebook cannot be put on a page ({reason})") from error


def _page(notebook: Any, source: Path, title: str | None) -> str:
    live = LiveOutputs(states=pop_widget_states(notebook))
    for cell in notebook.cells:
        tags = [tag for tag in as_list(cell.metadata.get("tags")) if tag in _TAGS]
        cell.metadata = {"tags": tags, "took": took(as_dict(cell.metadata))}
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := live.convert(output)) is not None]
    body = live.fill(clean(notebook_body(notebook, source.parent)))
    has_code = any(cell.cell_type == "code" and cell.source.strip() for cell in notebook.cells)
    button = '<button type="button" class="vpd-all-code" aria-pressed="false">all code</button>' if has_code else ""
    return embed.page(
        title or first_heading(notebook) or source.stem,
        f'<main>\n<div class="vpd-bar">{live.class_mode()}{button}</div>\n{body}\n</main>',
        head=f"<style>\n{_asset('page.css')}</style>\n",
        data=_data(live),
        scripts=_scripts(live),
    )


def _data(live: LiveOutputs) -> list[str]:
    """Elements with the data that the scripts read."""
    parts = [embed.widget_script(live.models)] if live.models else []
    if live.figures:
        figures = embed.script_json(live.figures)
        parts.append(f'<script type="application/json" id="vpd-figures">{figures}</script>')
        plotly = base64.b64encode(zlib.compress(get_plotlyjs().encode("utf-8"), 9)).decode("ascii")
        parts.append(f'<script type="text/plain" id="vpd-plotly">{plotly}</script>')
    return parts


def _scripts(live: LiveOutputs) -> list[str]:
    return [
        *([embed.host_script()] if live.models else []),
        embed.script_source(embed.files_script() + _asset("tables.js") + _asset("page.js")),
    ]


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
