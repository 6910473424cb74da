"""What all widgets share: their files, loud refusals, a fallback for readers without a kernel, offline pages."""

from __future__ import annotations

import html
import math
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


class LabWidget(anywidget.AnyWidget):
    """Base of every widget: `<name>.js` and `<name>.css` beside `<name>.py`, data in, `selected` out.

    A subclass declares its data as synced traits, narrows `selected` to the type of its choice, and writes
    `fallback()`. Keywords that are no trait of it are refused: a misspelt option must not be a silent default.
    """

    selected = traitlets.Any(None, allow_none=True).tag(sync=True)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        module = sys.modules[cls.__module__].__file__
        script = Path(module).with_suffix(".js") if module else None
        if "_esm" not in cls.__dict__ and script is not None and script.is_file():
            cls._esm = script
            own = script.with_suffix(".css")
            shared = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
            cls._css = shared + (own.read_text(encoding="utf-8") if own.is_file() else "")
        super().__init_subclass__(**kwargs)

    def __init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - set(self.trait_names(sync=True)))
        if unknown:
            raise TypeError(
                f"{type(self).__name__}: unknown keyword {', '.join(map(repr, unknown))} "
                f"(known: {', '.join(self._keywords())})"
            )
        super().__init__(**kwargs)

    @classmethod
    def _keywords(cls) -> list[str]:
        inherited = set(anywidget.AnyWidget.class_trait_names())
        return sorted(name for name in cls.class_trait_names(sync=True) if name not in inherited and name[0] != "_")

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
        model_id = self.model_id
        models = dependency_state([self], drop_defaults=False)
        text = embed.page(
            self._title(),
            f"<main>{embed.mount(model_id, self._capped_fallback())}</main>",
            scripts=f"{embed.widget_script({model_id: models[model_id]})}\n<script>{embed.host_script()}</script>",
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
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= _CELL_LIMIT else text[: _CELL_LIMIT - 1] + "…")
