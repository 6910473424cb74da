"""Figures for papers: vector graphics at the width of a column, whose lines can be told apart in grey.

matplotlib draws them, since they are printed: fonts of 7 to 9 pt are embedded as outlines (no Type 3 fonts, which some
conferences refuse), and each method keeps the colour, dashes and marker that it has everywhere in vpdlab.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab_widgets import palette
from vpdlab_widgets.base import shortened, visible

from vpdlab.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"column": 3.25, "page": 6.75}
"""Inches, of one column and of both in a two-column paper."""
FONTS = {"serif": ("STIXGeneral", "stix"), "sans": ("DejaVu Sans", "dejavusans")}
"""Name -> (family, that of formulas): those that matplotlib brings along."""
TITLES = {
    "accuracy": "held-out accuracy (%)", "success_rate": "success of rollouts (%)", "margin": "margin (reward)",
    "kl": "KL(π‖q) (nats per token)", "kl_teacher": "KL(q‖π) (nats per token)", "entropy": "entropy (nats per token)",
    "length": "length (tokens)", "reward": "reward", "beta": "β",
}  # fmt: skip
SHARES = ("accuracy", "success_rate")
"""Measures that are drawn in percent."""
FORMATS = (".pdf", ".svg")
_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "triangle-down": "v", "cross": "P", "star": "*",
    "hexagon": "h", "bowtie": "X", "pentagon": "p",
}  # fmt: skip
_MOST_MARKS = 12  # markers along a line; an evaluation has one of its own where there are no more


@dataclass(frozen=True)
class PaperFigure:
    """A figure at its printed size; a notebook shows it, `save` writes it.

    Attributes:
        figure: matplotlib's, to be changed at will.
        settings: matplotlib's settings that it is drawn with.
    """

    figure: Figure
    settings: Mapping[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write it as PDF or SVG, by the name's ending; the same figure gives the same bytes.

        Raises:
            UserError: for another ending, or a file that cannot be written.
        """
        path = Path(path)
        _check_ending(path)
        # The size is that of the figure: "tight" would change it, and with it every font in the paper.
        dates = {"CreationDate": None} if path.suffix == ".pdf" else {"Date": None}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _settled(self.settings):
                self.figure.savefig(path, metadata=dates)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        return path

    def _repr_svg_(self) -> str:
        written = io.StringIO()
        with _settled(self.settings):
            self.figure.savefig(written, format="svg", metadata={"Date": None}, facecolor="white")
        return written.getvalue()


def paper_figure(
    lines: Sequence[Mapping[str, Any]],
    width: str | float = "column",
    height: float | None = None,
    size: float = 8.0,
    font: str = "serif",
) -> PaperFigure:
    """Mean lines with their intervals as bands: a panel for each measure of each condition, one legend.

    Args:
        lines: plain dicts from `vpdlab.compare.paper.lines`: panel (the condition), name (the method), measure, over,
            x, mean, low and high (None where there is no interval). A None in `mean` is a gap.
        width: "column", "page", or inches.
        height: inches; default: by the number of panels.
        size: points of titles and labels, 7 to 9; ticks and legend are up to 1 pt smaller, but not below 7.
        font: "serif" (Times-like) or "sans".

    Raises:
        UserError: for a width, size or font that is none of these, or where there are no lines.
    """
    from matplotlib.figure import Figure

    inches = _inches(width)
    settings = _settings(size, font)
    if not lines:
        raise UserError("a paper's figure needs at least one line")
    names = list(dict.fromkeys(line["name"] for line in lines))
    panels = list(dict.fromkeys((line["measure"], line["panel"]) for line in lines))
    across = _across(panels, inches)
    down = -(-len(panels) // across)
    high = height or 0.35 + down * min(1.9, 0.78 * inches / across)
    with _settled(settings):
        figure = Figure(figsize=(inches, high), layout="constrained")
        axes = list(figure.subplots(down, across, squeeze=False).flat)
        _fill(axes, panels, lines, names, across)
        _legend(figure, names, inches, size)
    return PaperFigure(figure, settings)


def check(path: Path, width: str | float) -> None:
    """Raises UserError for a file or a width that a paper's figure cannot have."""
    _check_ending(path)
    _inches(width)


def _check_ending(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: a paper's figure is written as {' or '.join(FORMATS)}")


def _inches(width: str | float) -> float:
    try:
        found = float(WIDTHS.get(width, width) if isinstance(width, str) else width)
    except ValueError:
        found = math.nan
    if not 1.0 <= found <= 20.0:
        raise UserError(
            f"a paper's figure cannot be {width!r} wide: choose {' or '.join(WIDTHS)}, or inches from 1 to 20"
        )
    return found


def _conditions(panels: Sequence[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(condition for _, condition in panels))


def _across(panels: Sequence[tuple[str, str]], inches: float) -> int:
    """Panels in a row: in a column one, on a page one for each condition (or measure of one), three at most."""
    conditions = _conditions(panels)
    return min(max(1, int(inches / 2.1)), 3, len(conditions) if len(conditions) > 1 else len(panels))


def _fill(
    axes: Sequence[Axes], panels: Sequence[tuple[str, str]], lines: Sequence[Mapping[str, Any]], names: Sequence[str],
    across: int,
) -> None:  # fmt: skip
    """Draw all panels. Where a row is one measure of all conditions, what they share is written once."""
    conditions = _conditions(panels)
    aligned = across == len(conditions) > 1 and len(panels) % across == 0
    for place, (axis, (measure, condition)) in enumerate(zip(axes, panels, strict=False)):
        mine = [line for line in lines if (line["measure"], line["panel"]) == (measure, condition)]
        _draw(axis, mine, names)
        _dress(
            axis,
            mine[0]["over"] if place + across >= len(panels) else "",
            TITLES.get(measure, measure) if not aligned or place % across == 0 else "",
            condition if len(conditions) > 1 and (not aligned or place < across) else "",
        )
        if measure in SHARES:
            axis.set_ylim(0, 100)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()


def _settings(size: float, font: str) -> dict[str, Any]:
    if font not in FONTS:
        raise UserError(f"font is {font!r}: choose {' or '.join(FONTS)}")
    if not 7.0 <= size <= 9.0:
        raise UserError(f"size is {size:g} pt: choose 7 to 9")
    family, formulas = FONTS[font]
    small = max(7.0, size - 1.0)
    return {
        "font.family": family, "mathtext.fontset": formulas, "font.size": size, "axes.titlesize": size,
        "axes.labelsize": size, "xtick.labelsize": small, "ytick.labelsize": small, "legend.fontsize": small,
        "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "vpdlab", "axes.linewidth": 0.6,
        "lines.linewidth": 1.2, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
        "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False, "savefig.bbox": None,
        "axes.grid": True, "grid.color": "0.85", "grid.linewidth": 0.4, "axes.axisbelow": True,
        "axes.unicode_minus": True, "text.usetex": False, "figure.facecolor": "white",
    }  # fmt: skip


def _settled(settings: Mapping[str, Any]) -> AbstractContextManager[None]:
    """matplotlib with these settings, for a while: those of the notebook stay as they are."""
    import matplotlib

    known: Any = dict(settings)
    return matplotlib.rc_context(known)


def _look(names: Sequence[str], name: str) -> dict[str, Any]:
    """The colour, dashes and marker that a method has everywhere, in matplotlib's words."""
    style = palette.STYLES[palette.slots(names)[list(names).index(name)]]
    colour, kind = palette.PALETTE["light"][style.colour], style.marker.removesuffix("-open")
    hollow = kind != style.marker
    # Lengths in the palette are pixels at 2 pixels of line width; here they are multiples of the line's width.
    dashes = (0, tuple(length / 2 for length in style.dash)) if style.dash else "-"
    return {
        "color": colour, "linestyle": dashes, "marker": _MARKERS[kind], "markersize": 3.2, "markeredgewidth": 0.8,
        "markeredgecolor": colour, "markerfacecolor": "white" if hollow else colour,
    }  # fmt: skip


def _draw(axis: Axes, lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """One panel: bands first, so that no band covers a line."""
    for line in lines:
        if line["low"] is not None:
            scale = 100.0 if line["measure"] in SHARES else 1.0
            low, high = (_numbers(line[end], scale) for end in ("low", "high"))
            axis.fill_between(line["x"], low, high, color=_look(names, line["name"])["color"], alpha=0.18, linewidth=0)
    for line in lines:
        scale = 100.0 if line["measure"] in SHARES else 1.0
        every = max(1, math.ceil(len(line["x"]) / _MOST_MARKS))
        # Each line has its markers at places of its own: equal lines stay two.
        start = names.index(line["name"]) * every // max(1, len(names)) if every > 1 else 0
        axis.plot(line["x"], _numbers(line["mean"], scale), markevery=(start, every), **_look(names, line["name"]))


def _numbers(values: Sequence[float | None], scale: float) -> list[float]:
    return [math.nan if value is None else scale * value for value in values]


def _dress(axis: Axes, x_title: str, y_title: str, title: str) -> None:
    axis.set_xlabel(visible(x_title), parse_math=False)
    axis.set_ylabel(visible(y_title), parse_math=False)
    axis.set_title(shortened(visible(title), 40), parse_math=False)
    axis.margins(x=0.02)
    axis.ticklabel_format(axis="x", style="plain")
    axis.locator_params(axis="x", nbins=5)
    axis.locator_params(axis="y", nbins=5)


def _legend(figure: Figure, names: Sequence[str], inches: float, size: float) -> None:
    """All methods once, above the panels, in as many columns as fit."""
    from matplotlib.lines import Line2D

    shown = [shortened(visible(name), 32) for name in names]
    longest = max(len(name) for name in shown)
    columns = max(1, min(len(names), int(inches * 72 / ((0.52 * longest + 4.5) * size))))
    handles = [Line2D([], [], label=text, **_look(names, name)) for name, text in zip(names, shown, strict=True)]
    legend = figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, frameon=False, handlelength=2.6, columnspacing=1.2,
        borderaxespad=0.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
