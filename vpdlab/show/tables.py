"""Text from a run as tables, headings and lines that remain text, whatever they contain.

A data set's problems, a model's answers, a critic's output, names and settings are untrusted text. In a notebook
they are only shown through this module, or through the widgets and figures, which escape text too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from vpdlab_widgets.base import safe, shortened, visible

_LONGEST = 4000  # characters per cell
_CELL = "text-align: left; vertical-align: top; white-space: pre-wrap"


class Shown:
    """An object that a notebook displays: HTML with all text escaped, and plain text for a terminal."""

    def __init__(self, markup: str, text: str) -> None:
        self._markup, self._text = markup, text

    def _repr_html_(self) -> str:
        return self._markup

    def __repr__(self) -> str:
        return self._text


def table(rows: Sequence[Mapping[str, Any]], none: str = "none") -> Shown:
    """Plain rows as a table.

    Args:
        rows: the first one's keys are the columns. Of a float four significant digits are shown, of thousands all
            digits before the point.
        none: text shown instead of an empty table.
    """
    if not rows:
        return Shown(f"<p>{safe(none, _LONGEST)}</p>", visible(none))
    names = list(rows[0])
    head = "".join(f'<th style="{_CELL}">{safe(name, _LONGEST)}</th>' for name in names)
    lines = [[row.get(name) for name in names] for row in rows]
    body = "\n".join(f"<tr>{''.join(map(_cell_markup, line))}</tr>" for line in lines)
    markup = f'<table class="dataframe"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'
    texts = [names, *([_cell(value) for value in line] for line in lines)]
    return Shown(markup, "\n".join(" | ".join(map(plain, line)) for line in texts))


def heading(title: str, headline: str, lines: Sequence[str] = ()) -> Shown:
    """A title, a sentence in bold, and further lines."""
    below = "<br>".join(safe(line, _LONGEST) for line in lines)
    markup = f"<h2>{safe(title, _LONGEST)}</h2><p><b>{safe(headline, _LONGEST)}</b></p><p>{below}</p>"
    return Shown(markup, "\n".join(map(plain, [title, headline, *lines])))


def plain(text: Any, limit: int = _LONGEST) -> str:
    """Text for `print`: without control characters that a terminal obeys, and of bounded length.

    >>> plain("red: \\x1b[31m")
    'red: \ufffd[31m'
    """
    return shortened(visible(text), limit)


def _cell_markup(value: Any) -> str:
    """A cell; what its text rounds or stands for is in `data-value`, which a page's CSV and JSON take."""
    exact = "null" if _missing(value) else _number(value)
    told = f' data-value="{exact}"' if exact else ""
    return f'<td style="{_CELL}"{told}>{safe(_cell(value), _LONGEST)}</td>'


def _number(value: Any) -> str:
    """A number or truth value as JSON; empty for all else, and for what JSON has no number for."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Integral):
        return str(int(value)) if abs(int(value)) < 2**53 else ""
    return repr(float(value)) if isinstance(value, float) and math.isfinite(value) else ""


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN


def _cell(value: Any) -> str:
    if _missing(value):
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
