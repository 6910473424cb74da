"""LensPair: two runs at the same problem and iteration, a lens beside a lens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import traitlets

from vpdlab_widgets.base import LabWidget, safe
from vpdlab_widgets.token_lens import checked_index, pack_record, static_record


class LensPair(LabWidget):
    """Responses of two runs side by side, each in a `TokenLens`: the same problem at the same iteration.

    Both lenses show the same pair, colour by the same measure on one scale, and scroll together. Their tokens are
    aligned: the cursor and the pin of one are also at the matching token of the other, and tokens that the other
    response does not have are marked. `selected` is the pinned token of both, [left, right], or [].

    Args:
        left, right: records from `vpdlab.show.widget_data.lens_pairs`, or `lens_records`: item i of one is shown beside
            item i of the other.
        names: of the two runs.
        index: which pair is shown.
        colour, why: as of `TokenLens`; for both lenses.
        title: plain text above the pair.

    Raises:
        TypeError: a keyword is unknown, or a value is not plain data.
        ValueError: the sides differ in number, a list is not as long as its tokens, or `index` is out of range.
    """

    _parts = ("mathematics", "formulas", "token_lens")
    left = traitlets.List(traitlets.Dict()).tag(keyword=True)
    right = traitlets.List(traitlets.Dict()).tag(keyword=True)
    left_packed = traitlets.List().tag(sync=True, internal=True)
    right_packed = traitlets.List().tag(sync=True, internal=True)
    names = traitlets.List(traitlets.Unicode(), ["left", "right"], minlen=2, maxlen=2).tag(sync=True)
    index = traitlets.Int(0, allow_none=True).tag(sync=True)
    colour = traitlets.Unicode("kl").tag(sync=True)
    why = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    selected = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self, left: Iterable[Mapping[str, Any]] = (), right: Iterable[Mapping[str, Any]] = (), **kwargs: Any
    ) -> None:
        sides = {"left": [dict(record) for record in left], "right": [dict(record) for record in right]}
        if len(sides["left"]) != len(sides["right"]):
            raise ValueError(
                f"left has {len(sides['left'])} records and right {len(sides['right'])}: pairs need as many"
            )
        super().__init__(**sides, **kwargs)
        for side, records in sides.items():
            packed = [pack_record(record, f"{side}[{place}]") for place, record in enumerate(records)]
            self.set_trait(f"{side}_packed", packed)

    @traitlets.validate("index")
    def _check_index(self, proposal: Mapping[str, Any]) -> int | None:
        return checked_index(proposal["value"], self.left, "pair")

    def fallback(self) -> str:
        """Both responses, coloured, without interaction."""
        if self.index is None or self.index >= len(self.left):
            return "<p>LensPair: no pair</p>"
        pair = zip(self.names, (self.left[self.index], self.right[self.index]), strict=True)
        return f"<p>{safe(self._title())}</p>" + "".join(static_record(record, name) for name, record in pair)
