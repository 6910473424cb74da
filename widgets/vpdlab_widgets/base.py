"""The base of all widgets: files, checked keywords, static fallbacks, offline pages, and text made safe to show."""

from __future__ import annotations

import html
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import DisplayHandle
from ipywidgets.embed import dependency_state

from vpdlab_widgets import embed, lifetime, palette
from vpdlab_widgets.embed import whole

FALLBACK_LIMIT = 64 * 1024
_CELL_LIMIT = 200
_HERE = Path(__file__).parent
# Control characters, marks that change direction, invisible characters: the same as STEERING in shared.js. Also lone
# surrogates, which cannot be encoded in a file.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class LabWidget(anywidget.AnyWidget):
    """Base of every widget: `<name>.js` and `<name>.css` beside `<name>.py`, data in, `selected` out.

    `shared.js` and `files.js` are prepended to each script and `base.css` to each style sheet, and the palette to both.
    A subclass declares its data as synced traits, narrows `selected` to the type of its selection, and implements
    `fallback()`.
    A trait tagged `internal=True` carries data between Python and browser and is not a keyword; one tagged
    `keyword=True` is a keyword whose value stays in Python. Unknown keywords raise TypeError: a misspelt option must
    not silently become a default.
    """

    selected = traitlets.Any(None, allow_none=True).tag(sync=True)
    links = traitlets.List(traitlets.Dict()).tag(sync=True, internal=True)
    """The traits that `drive` linked, for the host of an offline page, where no kernel passes changes on."""

    _parts: Sequence[str] = ()
    """Further scripts, with their styles, that its module begins with, those of other widgets among them. One is a text
    constant too (LIVE_ENGINE) where a worker of the widget is to run it."""
    _displays: Sequence[DisplayHandle] = ()
    _made_layout = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        module = sys.modules[cls.__module__].__file__
        script = Path(module).with_suffix(".js") if module else None
        if "_esm" not in cls.__dict__ and script is not None and script.is_file():
            own = script.with_suffix(".css")
            cls._esm = script_with(script, cls._parts)
            shared = palette.widget_css() + _HERE.joinpath("base.css").read_text(encoding="utf-8")
            styles = [*(_HERE / f"{name}.css" for name in cls._parts), own]
            cls._css = shared + "".join(style.read_text(encoding="utf-8") for style in styles if style.is_file())
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - set(self._keywords()) - set(anywidget.AnyWidget.class_trait_names(sync=True)))
        if unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown keyword {', '.join(map(repr, unknown))} "
                f"(known: {', '.join(self._keywords())})"
            )
        super().__init__(**kwargs)
        self._made_layout = "layout" not in kwargs
        lifetime.made(self)

    @classmethod
    def _keywords(cls) -> list[str]:
        inherited = set(anywidget.AnyWidget.class_trait_names())
        wire = set(cls.class_trait_names(internal=True))
        names = set(cls.class_trait_names(sync=True)) | set(cls.class_trait_names(keyword=True))
        return sorted(name for name in names - inherited - wire if name[0] != "_")

    def drive(self, other: LabWidget, source: str = "selected", target: str = "index") -> None:
        """Keep a trait of `other` equal to one of this widget, both ways, in a notebook and in an offline page.

        >>> table.drive(lens)  # doctest: +SKIP
        """
        traitlets.link((self, source), (other, target))
        self.links = [*self.links, {"source": source, "model": other.model_id, "target": target}]

    @classmethod
    def by_name(cls, name: str) -> type[LabWidget] | None:
        """The widget class for the `_anywidget_id` of a saved state; None if it is not one of ours."""
        known = {f"{one.__module__}.{one.__qualname__}": one for one in cls.__subclasses__()}
        return known.get(name)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state that is sent and saved; a title or a message may come from a file with half a character in it."""
        state = super().get_state(key, drop_defaults)
        return {name: whole(value) if isinstance(value, str) else value for name, value in state.items()}

    def fallback(self) -> str:
        """Static HTML for a reader without a kernel or saved state; everything in it is escaped."""
        raise NotImplementedError(f"{type(self).__name__} needs a fallback() for readers without JavaScript")

    def _ipython_display_(self, **kwargs: Any) -> None:
        bundle = None if self.comm is None else self._repr_mimebundle_()
        if bundle is None:
            print(f"<{type(self).__name__}, closed>")
            return
        lifetime.shown(self)
        handle = DisplayHandle()
        handle.display(bundle[0], metadata=bundle[1], raw=True)
        self._displays = [*self._displays, handle]

    def close(self) -> None:
        """End the widget: its views, its model, and that of its layout unless it was handed in."""
        layout = self.layout
        super().close()
        if self._made_layout:
            layout.close()

    def refresh(self) -> None:
        """Write the static picture of every display of this widget again, for readers without JavaScript.

        A display keeps the picture of the moment when it was made. The live views start again: call it where a run
        ends, not while somebody works with them.
        """
        for handle in self._displays if self.comm is not None else ():
            data, metadata = self._repr_mimebundle_() or ({}, {})
            handle.update(data, metadata=metadata, raw=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle
        data["text/plain"] = f"<{type(self).__name__}>"
        data["text/html"] = self._capped_fallback()
        return data, metadata

    def _capped_fallback(self) -> str:
        text = self.fallback()
        if len(text) <= FALLBACK_LIMIT:
            return text
        # HTML that is cut in the middle would break the rest of the page
        return f"<p>{type(self).__name__}: too large to show without JavaScript ({len(text) // 1024} KiB).</p>"

    def _title(self) -> str:
        return str(getattr(self, "title", "") or type(self).__name__)

    def to_html(self, path: str | Path | None = None) -> str:
        """The widget with its current data as one HTML page that works from a file, without any network request.

        Args:
            path: file to write the page to; None writes nothing.

        Returns:
            The page.
        """
        return write_page([self], path)


def script_with(script: Path, parts: Sequence[str] = ()) -> str:
    """A widget's module: palette, shared.js, files.js, other scripts and their texts (LIVE_ENGINE), its own script."""
    texts = {name: _HERE.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in ("shared", "files", *parts)}
    texts = {name: re.sub(r"^export default .*$", "", text, flags=re.MULTILINE) for name, text in texts.items()}
    # A classic worker has no exports.
    plain_texts = {name: re.sub(r"^export ", "", texts[name], flags=re.MULTILINE) for name in parts}
    own = script.read_text(encoding="utf-8")
    named = {name.upper(): text for name, text in plain_texts.items() if re.search(rf"\b{name.upper()}\b", own)}
    constants = "".join(f"const {name} = {json.dumps(text)};\n" for name, text in named.items())
    return palette.script() + "".join(texts.values()) + constants + own


def write_page(widgets: Sequence[LabWidget], path: str | Path | None = None, title: str = "") -> str:
    """Several widgets with their current data as one HTML page that works from a file, without any network request.

    Widgets linked with `LabWidget.drive` stay linked in the page.

    Args:
        widgets: in their order on the page.
        path: file to write the page to; None writes nothing.
        title: of the page; empty takes the first widget's.

    Returns:
        The page.
    """
    models = dependency_state(widgets, drop_defaults=False)
    mounts = "\n".join(embed.mount(str(widget.model_id), widget._capped_fallback()) for widget in widgets)
    states = {str(widget.model_id): models[widget.model_id] for widget in widgets}
    text = embed.page(
        title or widgets[0]._title(),
        f"<main>{mounts}</main>",
        data=[embed.widget_script(states)],
        scripts=[embed.host_script()],
    )
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def plain(value: Any, where: str = "value") -> Any:
    """`value` as JSON data: NumPy scalars become numbers, NaN and infinities become None.

    JSON has no NaN, and browsers reject a message that contains one; "no data" is null everywhere in a record.

    Raises:
        TypeError: a value that is not plain data; the message says where.
    """
    if isinstance(value, str):
        return whole(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {whole(str(key)): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), where)
    raise TypeError(f"{where}: {type(value).__name__} is not plain data")


def visible(text: Any) -> str:
    """Untrusted text with each character that controls a terminal or the reading direction replaced by a mark."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def safe(text: Any, limit: int = _CELL_LIMIT) -> str:
    """Untrusted text as static HTML: escaped, without control characters, of bounded length.

    Each dollar sign and backslash gets its own element, since JupyterLab also looks for formulas in HTML, and a formula
    may contain a link.
    """
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html.escape(visible(shortened(str(text), limit))))


def brief(value: float) -> str:
    """A number in at most three significant digits, as `brief` in shared.js writes it; a dash for what is not finite.

    >>> brief(-0.33333), brief(5.48e-6), brief(1234.5), brief(30.0), brief(-math.inf)
    ('−0.333', '5.5e−6', '1230', '30', '–')
    """
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size and not 1e-3 <= size < 1e5:
        mantissa, exponent = f"{size:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}".replace("-", "−")
    else:
        text = f"{float(f'{size:.3g}'):.10g}"
    return ("−" if value < 0 else "") + text


def counted(count: int, noun: str) -> str:
    """A noun with its count.

    >>> counted(1, "token"), counted(2, "token")
    ('1 token', '2 tokens')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shortened(text: str, limit: int) -> str:
    """The text in at most `limit` characters, the last one an ellipsis where it was cut.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fallback_table(
    caption: str, columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]], limit: int = 12
) -> str:
    """An escaped HTML table of at most `limit` rows, evenly spaced and including the first and the last.

    Args:
        caption: plain text above the table.
        columns: (key, heading) pairs.
        rows: the records; a missing or None value is a dash.
        limit: largest number of rows.
    """
    if len(rows) > limit:
        last = len(rows) - 1
        shown = [rows[round(index * last / (limit - 1))] for index in range(limit)]
    else:
        shown = list(rows)
    head = "".join(f"<th>{html.escape(heading)}</th>" for _, heading in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(key))}</td>" for key, _ in columns) + "</tr>" for row in shown)
    return f"<table><caption>{safe(caption, 400)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return safe(brief(value) if isinstance(value, float) else value)
