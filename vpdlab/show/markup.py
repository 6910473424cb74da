"""Untrusted HTML made harmless: one list of the elements and attributes that a page may contain."""

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
    "td": nh3.ALLOWED_ATTRIBUTES["td"] | {"data-value"},  # a number before it was rounded for the eye
}
# Properties that neither reposition an element nor load anything.
_STYLES = {
    "background", "background-color", "border", "border-bottom", "border-top", "color", "font-family", "font-size",
    "font-style", "font-weight", "height", "list-style-type", "max-width", "min-width", "padding", "text-align",
    "text-decoration", "vertical-align", "white-space", "width",
}  # fmt: skip
_LINK = re.compile(r"<(?=\s*/?\s*a\b)", re.IGNORECASE)


def clean(markup: str) -> str:
    """HTML without anything that could run, navigate, make a request or pass as part of the page.

    Links in a notebook's text are kept; images are kept if their data is embedded.
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
        return None  # may load something, or hide that it does
    if name in ("href", "cite") and value.strip().lower().startswith("data:"):
        return None
    return value


def without_links(value: Any) -> Any:
    """A plotly figure as JSON data whose labels contain no links; plotly's other tags only format text."""
    if isinstance(value, str):
        return _LINK.sub("&lt;", value)
    if isinstance(value, dict):
        return {key: without_links(item) for key, item in value.items()}
    return [without_links(item) for item in value] if isinstance(value, list) else value


def in_markdown(text: str) -> str:
    """Text as a name in Markdown: as code if it is harmless, else with every special character as an entity."""
    if re.fullmatch(r"[\w .:,=+/@%~-]+", text):
        return f"`{text}`"
    return re.sub(r"[^\w\s]", lambda sign: f"&#{ord(sign[0])};", " ".join(visible(text).split()))
