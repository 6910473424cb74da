"""Markdown as HTML with formulas as MathML, which browsers render without a script."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, pass_context
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from vpdlab import manifest

LONGEST_FORMULA, BRACES = 20_000, 1000  # characters; groups, at any depth

_TEMPLATE = """
{%- extends 'lab/base.html.j2' -%}
{%- block input_group -%}
{%- if cell.source.strip() -%}
{%- set tags = cell.metadata.get('tags', []) -%}
<details class="vpd-code">
<summary>{{ 'parameters' if 'parameters' in tags or 'injected-parameters' in tags else 'code' }}
{%- if cell.metadata.get('took') %} · {{ cell.metadata.took }}{% endif %}</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) | clean_html }}
</details>
{%- endif -%}
{%- endblock input_group -%}
"""


def notebook_body(notebook: Any, folder: Path) -> str:
    """The notebook's cells as HTML, not cleaned yet, code folded; images are read from `folder`."""
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
    return exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(folder)}})[0]


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


class _Renderer(IPythonRenderer):
    def _html_embed_images(self, html: str) -> str:
        # nbconvert closes every tag of each piece of HTML while it looks for images, so the content of a <details> with
        # blank lines in it would end up outside.
        return super()._html_embed_images(html) if "<img" in html else html

    def _src_to_base64(self, src: str) -> str | None:
        """An image file beside the notebook; None for links, pipes and devices."""
        path = Path(str(self.path or "")) / src
        try:
            linked = path.resolve() != Path(str(self.path or "")).resolve() / src
            manifest.read_small(path) if not linked else None
        except (OSError, ValueError):
            return None
        return None if linked else super()._src_to_base64(src)

    def inline_math(self, body: str) -> str:
        return mathml(body, f"${body}$", display=False)

    def block_math(self, body: str) -> str:
        return f"<p>{mathml(body, f'$${body}$$', display=True)}</p>"

    def latex_environment(self, name: str, body: str) -> str:
        source = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return f"<p>{mathml(source, source, display=True)}</p>"


def mathml(formula: str, source: str, *, display: bool) -> str:
    """A LaTeX formula as MathML; its source as code where the converter does not know a command."""
    # The converter recurses in native code for each brace: a formula nested too deeply would crash the process.
    groups = formula.count("{") + formula.count("\\left") + formula.count("\\begin")
    if len(formula) > LONGEST_FORMULA or groups > BRACES:
        return f"<code>{html.escape(source)}</code>"
    try:
        return LatexToMathML().convert_with_local_state(formula, displaystyle=display)
    except LatexError:
        return f"<code>{html.escape(source)}</code>"
