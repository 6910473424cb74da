"""Widgets outside a notebook: their state, the host script and the theme as parts of one offline HTML page.

`LabWidget.to_html` and vpdlab's notebook exporter both build their pages from these parts, so there is one host script
(`host.js`), one theme (`page.css`) and one rule for the content of a `<script>`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdlab_widgets import palette

_HERE = Path(__file__).parent

# The page must never make a request: the policy makes the browser enforce it. Only scripts whose hashes it lists run,
# so none that text in the page might contain, and no handler in an attribute.
# 'unsafe-eval' is for plotly's WebGL traces, which compile their kernels with `new Function`.
CONTENT_POLICY = (
    "default-src 'none'; script-src {hashes} 'unsafe-eval' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)


def whole(text: str) -> str:
    """Text with U+FFFD for each lone surrogate: JSON can spell half a character, but no message or file can hold it.

    >>> whole("a\\ud83d")
    'a\ufffd'
    """
    return text if text.isascii() else re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def script_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element.

    It contains no `<`, `>` or `&`, so neither `</script>` nor `<!--` can end or alter the element.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def script_source(source: str) -> str:
    """JavaScript that is safe inside a `<script>` element: the three sequences that HTML interprets there are
    escaped in a way that strings and regular expressions ignore."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3c", source, flags=re.IGNORECASE)


def page_css() -> str:
    """The theme of an offline page: the `--jp-*` variables for light, dark and high contrast."""
    return palette.page_css() + (_HERE / "page.css").read_text(encoding="utf-8")


def files_script() -> str:
    """`files.js` for a plain script, which has no exports."""
    return re.sub(r"^export ", "", (_HERE / "files.js").read_text(encoding="utf-8"), flags=re.MULTILINE)


def host_script() -> str:
    """The script that renders a widget into every `mount()` of a page."""
    return script_source((_HERE / "host.js").read_text(encoding="utf-8"))


def mount(model_id: str, fallback: str = "") -> str:
    """The container of one widget view; `fallback` is HTML that is shown until (or unless) the widget renders."""
    return f'<div class="vpd-mount" data-vpd-model="{html.escape(model_id)}">{fallback}</div>'


def widget_script(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The data element that `host.js` reads.

    Args:
        models: model id -> entry of a notebook's widget state: `{"state": {...}, "buffers": [...]}` with base64
            buffers. Each distinct `_esm`, `_css` and buffer is written once, however many models share it.
    """
    modules: list[str] = []
    styles: list[str] = []
    data: dict[str, int] = {}  # buffer -> its place; a page may have thousands
    entries: dict[str, Any] = {}
    for model_id, entry in models.items():
        state = dict(entry["state"])
        entries[model_id] = {
            "esm": _index(modules, state.get("_esm", "")),
            "css": _index(styles, state.get("_css", "")),
            # `_model_name` and the like are for a widget manager, and there is none
            "state": {key: value for key, value in state.items() if not key.startswith("_")},
            "buffers": [
                {"path": one["path"], "data": data.setdefault(one["data"], len(data))}
                for one in entry.get("buffers", [])
            ],
        }
    text = script_json({"modules": modules, "styles": styles, "data": list(data), "models": entries})
    return f'<script type="application/json" id="vpd-widgets">{text}</script>'


def page(title: str, body: str, *, head: str = "", data: Sequence[str] = (), scripts: Sequence[str] = ()) -> str:
    """One self-contained HTML document.

    Args:
        title: plain text.
        body: HTML. Scripts in it do not run.
        head: HTML for the end of `<head>`, such as another `<style>`.
        data: HTML of data elements, such as `widget_script`, placed after the body.
        scripts: JavaScript that is safe inside a `<script>`; runs last, in this order.
    """
    # Browsers normalise line ends to \n before hashing.
    sources = [source.replace("\r\n", "\n").replace("\r", "\n") for source in scripts]
    hashes = " ".join(f"'sha256-{_sha256(source)}'" for source in sources)
    elements = "\n".join([*map(whole, data), *(f"<script>{source}</script>" for source in sources)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY.format(hashes=hashes)}">
<link rel="icon" href="data:,">
<title>{html.escape(whole(title))}</title>
<style>
{page_css()}</style>
{head}</head>
<body>
{whole(body)}
{elements}
</body>
</html>
"""


def _sha256(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode()


def _index(items: list[str], item: str) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)
