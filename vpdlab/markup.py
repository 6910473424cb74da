"""HTML that someone else may have written, made harmless: one list of what may stand in a page."""

from __future__ import annotations

import re
from typing import Any

import nh3
from vpdlab_widgets.base import visible

_MATHML = {
    "math", "mrow", "mi", "mo", "mn", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msup", "msub", "msubsup",
    "munder", "mover", "munderover", "mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "mpadded", "mphantom",
    "mstyle", "menclose", "merror",
}  # fmt: skip
_TAGS = nh3.ALLOWED_TAGS | _MATHML | {"details", "summary", "s", "tfoot", "section"} - {"area", "map"}
_OF_MATHML = {
    "accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth", "display", "displaystyle",
    "fence", "form", "frame", "height", "linethickness", "lspace", "mathvariant", "maxsize", "minsize",
    "movablelimits", "notation", "rowalign", "rowlines", "rowspacing", "rspace", "scriptlevel", "separator",
    "stretchy", "symmetric", "voffset", "width",
}  # fmt: skip
_ATTRIBUTES = {
    **nh3.ALLOWED_ATTRIBUTES,
    **dict.fromkeys(_MATHML, _OF_MATHML),
    "*": {"class", "style", "title", "lang", "dir", "role", "aria-label", "data-mime-type"},
    "details": {"open"},
}
# What moves nothing out of its place and asks for nothing.
_STYLES = {
    "background", "background-color", "border", "border-bottom", "border-top", "color", "font-family", "font-size",
    "font-style", "font-weight", "height", "max-width", "min-width", "padding", "text-align", "text-decoration",
    "vertical-align", "white-space", "width",
}  # fmt: skip
_LINK = re.compile(r"<(?=\s*/?\s*a\b)", re.IGNORECASE)


def clean(markup: str) -> str:
    """HTML without what could run, move the reader elsewhere, ask for something or hide as part of the page.

    Links to other places stay where a notebook's text has them; images stay where the page holds them itself.
    """
    return nh3.clean(
        markup,
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        attribute_filter=_kept,
        url_schemes={"http", "https", "mailto", "data"},
        url_relative="deny",
        filter_style_properties=_STYLES,
    )


def _kept(tag: str, name: str, value: str) -> str | None:
    if name == "src":
        return value if re.match(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,", value) else None
    if name == "style" and re.search(r"url|image|\\", value, re.IGNORECASE):
        return None  # asks for something, or hides that it does
    if name in ("href", "cite") and value.strip().lower().startswith("data:"):
        return None
    return value


def without_links(value: Any) -> Any:
    """A plotly figure as JSON data whose labels make no links; plotly's other tags only dress a word."""
    if isinstance(value, str):
        return _LINK.sub("&lt;", value)
    if isinstance(value, dict):
        return {key: without_links(item) for key, item in value.items()}
    return [without_links(item) for item in value] if isinstance(value, list) else value


def in_markdown(text: str) -> str:
    """Text as a name in Markdown: as code where it is plain, else with every sign with a meaning as its number."""
    if re.fullmatch(r"[\w .:,=+/@%~-]+", text):
        return f"`{text}`"
    return re.sub(r"[^\w\s]", lambda sign: f"&#{ord(sign[0])};", " ".join(visible(text).split()))
