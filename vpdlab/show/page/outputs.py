"""Widgets and figures of a notebook: their data, and the places where the page's scripts draw them."""

from __future__ import annotations

import html
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import vpdlab_widgets
from vpdlab_widgets import embed
from vpdlab_widgets.base import plain

from vpdlab.show.markup import clean, without_links
from vpdlab.show.page.reading import as_dict, as_list

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_PLOTLY = "application/vnd.plotly.v1+json"
_REFERENCE = "IPY_MODEL_"
_CLASS_MODE = "class-mode"


@dataclass
class LiveOutputs:
    """The outputs of a notebook that stay interactive in the page."""

    states: Mapping[str, Any]  # every saved widget state, by model id
    models: dict[str, Any] = field(default_factory=dict)  # those that the page shows
    figures: list[dict[str, Any]] = field(default_factory=list)
    markups: list[str] = field(default_factory=list)  # our own HTML, inserted after the notebook's was cleaned
    # Marks where that HTML goes; no notebook can guess it.
    token: str = field(default_factory=lambda: f"vpd-{secrets.token_hex(16)}")

    def placeholder(self, markup: str) -> dict[str, str]:
        """An output that `fill` replaces by our own HTML."""
        self.markups.append(markup)
        return {"text/html": f"<div>{self.token}-{len(self.markups) - 1};</div>"}

    def fill(self, body: str) -> str:
        """The cleaned body with our own HTML in place of the placeholders."""
        return re.sub(rf"{self.token}-(\d+);", lambda found: self.markups[int(found[1])], body)

    def convert(self, output: Any) -> Any | None:
        """The output with its widget or figure replaced by a placeholder; None if nothing of it can be shown."""
        data = output.get("data")
        if data is None:  # a stream or an error
            return output
        output.metadata = {}  # widths and file names, which the template would insert unescaped
        # Scripts of other libraries expect a notebook around them, and there is none here.
        data.pop("application/javascript", None)
        if _PLOTLY in data:
            output.data = self.placeholder(self._figure(data))
        elif _WIDGET_VIEW in data:
            output.data = self.placeholder(self._widget(data))
        elif _is_plotly_bundle(str(data.get("text/html", ""))):
            return None
        return output if output.data else None

    def class_mode(self) -> str:
        """The bar that turns the page into a lesson; empty where the notebook shows one itself."""
        if any(_our_class(entry) is vpdlab_widgets.ClassMode for entry in self.models.values()):
            return ""
        bar = vpdlab_widgets.ClassMode()
        self.models[_CLASS_MODE] = {"state": {**bar.get_state(), "layout": None}, "buffers": []}
        bar.close()
        return embed.mount(_CLASS_MODE)

    def _figure(self, data: Mapping[str, Any]) -> str:
        figure = as_dict(without_links(plain(data[_PLOTLY], "figure")))
        self.figures.append({"data": as_list(figure.get("data")), "layout": as_dict(figure.get("layout"))})
        height = self.figures[-1]["layout"].get("height")
        style = f' style="height:{float(height):.0f}px"' if isinstance(height, int | float) else ""
        return f'<div class="vpd-plot" data-vpd-figure="{len(self.figures) - 1}"{style}></div>'

    def _widget(self, data: Mapping[str, Any]) -> str:
        model_id = str(as_dict(data[_WIDGET_VIEW]).get("model_id", ""))
        # The text output of a core widget is its first frame: a progress bar would stay at 0 %. Its saved state is the
        # last.
        texts = [_state_text(self.states[one]) for one in _family(model_id, self.states)]
        text = " ".join(text for text in texts if text) or str(data.get("text/plain", "widget"))
        fallback = clean(str(data.get("text/html") or f"<pre>{html.escape(text)}</pre>"))
        shown = [one for one in _family(model_id, self.states) if _our_class(self.states[one]) is not None]
        if not shown:  # another library's widget, or no state was saved
            return fallback
        for one in shown:
            self.models[one] = plain(_with_our_code(self.states[one]), "widget state")
        # In a box of several widgets the box's fallback would appear in each; the first one is enough.
        return "".join(embed.mount(one, "" if index else fallback) for index, one in enumerate(shown))


def _is_plotly_bundle(text: str) -> bool:
    """Some plotly renderers print all of plotly.js into the first output; the page has its own copy."""
    return len(text) > 1_000_000 and "plotly.js" in text


def _our_class(entry: Mapping[str, Any]) -> type[vpdlab_widgets.LabWidget] | None:
    return vpdlab_widgets.LabWidget.by_name(str(entry["state"].get("_anywidget_id", "")))


def _with_our_code(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A saved widget with the code of the installed one: code that a notebook contains does not run."""
    code = _our_class(entry)
    return {
        "state": {**entry["state"], "_esm": str(getattr(code, "_esm", "")), "_css": str(getattr(code, "_css", ""))},
        "buffers": [one for one in as_list(entry.get("buffers")) if _is_buffer(one)],
    }


def _is_buffer(one: Any) -> bool:
    entry = as_dict(one)
    path = as_list(entry.get("path"))
    return bool(path) and all(isinstance(key, str | int) for key in path) and isinstance(entry.get("data"), str)


def _family(model_id: str, states: Mapping[str, Any]) -> Iterator[str]:
    """A widget and its descendants, in order, each once."""
    waiting, seen = [model_id], set()
    while waiting:
        one = waiting.pop(0)
        if one in states and one not in seen:
            seen.add(one)
            yield one
            children = as_list(states[one]["state"].get("children"))
            waiting[:0] = [str(c).removeprefix(_REFERENCE) for c in children if str(c).startswith(_REFERENCE)]


def _state_text(entry: Mapping[str, Any]) -> str:
    """The text of a core widget's saved state, without markup."""
    value = entry["state"].get("value")
    return html.unescape(re.sub(r"<[^>]*>", "", value)).strip() if isinstance(value, str) else ""
