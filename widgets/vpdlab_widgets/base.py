"""What all widgets share: their files, loud refusals, a fallback for readers without a kernel, offline pages."""

from __future__ import annotations

import html
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from ipywidgets.embed import dependency_state

from vpdlab_widgets import embed

FALLBACK_LIMIT = 64 * 1024
_CELL_LIMIT = 200
_HERE = Path(__file__).parent
# Control characters, marks that change direction, invisible characters: the same as STEERING in shared.js. And halves
# of characters, which no file can hold.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class LabWidget(anywidget.AnyWidget):
    """Base of every widget: `<name>.js` and `<name>.css` beside `<name>.py`, data in, `selected` out.

    In front of each script stands `shared.js`, in front of each style sheet `base.css`. A subclass declares its data
    as synced traits, narrows `selected` to the type of its choice, and writes `fallback()`. A trait tagged
    `internal=True` is the wire between Python and browser and no keyword; one tagged `keyword=True` is a keyword
    that stays in Python. Keywords that are neither are refused: a misspelt option must not be a silent default.
    """

    selected = traitlets.Any(None, allow_none=True).tag(sync=True)
    links = traitlets.List(traitlets.Dict()).tag(sync=True, internal=True)
    """What this widget drives, for the host of an offline page: there is no kernel there to pass a change on."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        module = sys.modules[cls.__module__].__file__
        script = Path(module).with_suffix(".js") if module else None
        if "_esm" not in cls.__dict__ and script is not None and script.is_file():
            own = script.with_suffix(".css")
            cls._esm = _HERE.joinpath("shared.js").read_text(encoding="utf-8") + script.read_text(encoding="utf-8")
            shared = _HERE.joinpath("base.css").read_text(encoding="utf-8")
            cls._css = shared + (own.read_text(encoding="utf-8") if own.is_file() else "")
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - set(self._keywords()) - set(anywidget.AnyWidget.class_trait_names(sync=True)))
        if unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown keyword {', '.join(map(repr, unknown))} "
                f"(known: {', '.join(self._keywords())})"
            )
        super().__init__(**kwargs)

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
        """The widget that a saved state names as its `_anywidget_id`, if it is one of ours."""
        known = {f"{one.__module__}.{one.__qualname__}": one for one in cls.__subclasses__()}
        return known.get(name)

    def fallback(self) -> str:
        """Static HTML for a reader without a kernel or saved state; everything in it is escaped."""
        raise NotImplementedError(f"{type(self).__name__} must say what it shows without JavaScript")

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
        # HTML that is cut in the middle would swallow what follows it in the page
        return f"<p>{type(self).__name__}: too much to show without its widget ({len(text) // 1024} KiB).</p>"

    def _title(self) -> str:
        return str(getattr(self, "title", "") or type(self).__name__)

    def to_html(self, path: str | Path | None = None) -> str:
        """The widget with its present data as one HTML page that works from a file, without any request.

        Args:
            path: where to write the page too; None writes nothing.

        Returns:
            The page.
        """
        return write_page([self], path)


def write_page(widgets: Sequence[LabWidget], path: str | Path | None = None, title: str = "") -> str:
    """Several widgets with their present data as one HTML page that works from a file, without any request.

    What one of them drives (`LabWidget.drive`), it drives in the page too.

    Args:
        widgets: in the order in which they stand.
        path: where to write the page too; None writes nothing.
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

    JSON has no NaN, and a browser refuses a message that holds one; "no data" is null everywhere in a record.

    Raises:
        TypeError: something that is no data, with its place.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), where)
    raise TypeError(f"{where}: {type(value).__name__} is no plain data")


def visible(text: Any) -> str:
    """Text from outside on one's screen: what would steer a terminal or the direction of reading is made visible."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))


def safe(text: Any, limit: int = _CELL_LIMIT) -> str:
    """Text from outside as static HTML: escaped, without what would steer the reader's screen, and not endless.

    Dollars and backslashes stand in elements of their own, since JupyterLab looks for formulas in HTML too, and a
    formula may hold a link.
    """
    return re.sub(r"[$\\]", r"<span>\g<0></span>", html.escape(visible(shortened(str(text), limit))))


def shortened(text: str, limit: int) -> str:
    """The text in at most `limit` characters, the last one an ellipsis where it was cut.

    >>> shortened("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def fallback_table(
    caption: str, columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]], limit: int = 12
) -> str:
    """An escaped HTML table of at most `limit` rows, spread evenly with the first and the last among them.

    Args:
        caption: plain text above the table.
        columns: (key, heading) pairs.
        rows: the records; a missing or null value is a dash.
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
    return safe(f"{value:.4g}" if isinstance(value, float) else value)
