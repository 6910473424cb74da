"""Long lists as bytes, so that a widget message of 20,000 tokens is a few arrays, not a million JSON values.

`unpackNumbers` and `unpackTexts` in shared.js read them. Numbers are little-endian; NaN stands for "no data".
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any


def floats(values: Iterable[float | None]) -> bytes:
    """32-bit floats; None, NaN and infinities become NaN.

    >>> len(floats([1.0, None]))
    8
    """
    clean = (float(value) if value is not None and math.isfinite(value) else math.nan for value in values)
    return _little(array("f", clean))


def integers(values: Iterable[int]) -> bytes:
    """32-bit signed integers."""
    return _little(array("i", values))


def texts(items: Sequence[str]) -> dict[str, Any]:
    """All items as one UTF-8 text, with the end of each in UTF-16 units, which JavaScript strings use.

    >>> texts(["a", "😀"])["ends"] == integers([1, 3])
    True
    """
    # A lone surrogate has no UTF-8 encoding: it becomes one replacement character, still one unit.
    whole = [item.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for item in items]
    ends, end = [], 0
    for item in whole:
        end += len(item.encode("utf-16-le")) // 2
        ends.append(end)
    return {"text": "".join(whole).encode("utf-8"), "ends": integers(ends)}


def _little(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
