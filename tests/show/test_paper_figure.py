"""Figures for papers, read back from their files: size, fonts, colours, and lines that differ in grey."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from vpdlab_widgets.palette import PALETTE

from vpdlab.errors import UserError
from vpdlab.learn.methods import METHODS
from vpdlab.show.plots import paper_figure
from vpdlab.show.plots.paper import _look, check


def line(name: str = "vpd", panel: str = "", measure: str = "accuracy", band: bool = True, **fields: Any) -> dict:
    mean = [0.1, 0.4, None, 0.8]
    low, high = ([None if v is None else v + by for v in mean] for by in (-0.1, 0.1))
    bands = {"low": low, "high": high} if band else {"low": None, "high": None}
    found = {"panel": panel, "name": name, "measure": measure, "over": "rollouts", "x": [0.0, 128.0, 256.0, 384.0]}
    return found | {"mean": mean} | bands | fields


def pdf_text(path: Path) -> str:
    """A PDF with its compressed streams written out."""
    data = path.read_bytes()

    def plain(match: re.Match[bytes]) -> bytes:
        try:
            return b"stream\n" + zlib.decompress(match[1])
        except zlib.error:
            return match[0]

    return re.sub(rb"stream\r?\n(.*?)\r?\nendstream", plain, data, flags=re.S).decode("latin-1")


@pytest.mark.parametrize(("width", "points"), [("column", 234), ("page", 486), (5.5, 396), ("5.5", 396)])
def test_it_is_as_wide_as_the_column(tmp_path: Path, width: Any, points: int) -> None:
    figure = paper_figure([line(panel=panel) for panel in ("common", "rare")], width)
    text = pdf_text(figure.save(tmp_path / "figure.pdf"))
    box = re.search(r"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", text)
    assert box and float(box[1]) == pytest.approx(points)
    svg = figure.save(tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert re.search(rf'<svg [^>]*width="{points}pt"', svg)


def test_fonts_are_embedded_and_of_seven_to_nine_points(tmp_path: Path) -> None:
    lines = [line(panel=panel, measure=measure) for measure in ("accuracy", "margin") for panel in ("common", "rare")]
    for size in (7.0, 8.0, 9.0):
        text = pdf_text(paper_figure(lines, "page", size=size).save(tmp_path / "figure.pdf"))
        fonts = re.findall(r"/BaseFont /(\S+)", text)
        assert fonts and all("STIX" in font for font in fonts)
        assert "/FontFile2" in text and "/Type3" not in text
        sizes = {float(found) for found in re.findall(r"/\S+ ([\d.]+) Tf", text)}
        assert sizes == {max(7.0, size - 1), size}
        for words in ("held-out accuracy (%)", "margin (reward)"):
            assert words in figure_texts(paper_figure(lines, "page", size=size))
    sans = pdf_text(paper_figure(lines, font="sans").save(tmp_path / "sans.pdf"))
    assert all("DejaVuSans" in font for font in re.findall(r"/BaseFont /(\S+)", sans))
    svg = (paper_figure(lines).save(tmp_path / "f.svg")).read_text(encoding="utf-8")
    assert "<text" not in svg and "<path" in svg  # letters are outlines, the same everywhere


def figure_texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.figure.findobj(Text) if text.get_text()]


def test_colours_are_the_palette_s_and_lines_differ_without_them(tmp_path: Path) -> None:
    names = list(METHODS)
    svg = paper_figure([line(name, band=False) for name in names]).save(tmp_path / "f.svg").read_text(encoding="utf-8")
    ours = {PALETTE["light"][f"method{i}"] for i in range(1, 7)}
    used = set(re.findall(r"#[0-9a-f]{6}", svg))
    assert used - {"#ffffff", "#000000", "#d9d9d9"} == ours
    looks = [_look(names, name) for name in names]
    grey = {(str(look["linestyle"]), look["marker"], look["markerfacecolor"] == "white") for look in looks}
    assert len(grey) == len(names)  # dashes and marker alone tell all of them apart


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for ending in ("pdf", "svg"):
        first, second = (paper_figure([line()]).save(tmp_path / f"{i}.{ending}").read_bytes() for i in range(2))
        assert first == second
        assert b"CreationDate" not in first and b"dc:date" not in first


def test_lines_hold_their_numbers_in_percent_and_gaps_stay_gaps() -> None:
    (axis,) = paper_figure([line("vpd"), line("sdpo", band=False)]).figure.axes
    first, second = axis.get_lines()
    assert (
        first.get_ydata()[:2].tolist() == pytest.approx([10.0, 40.0]) and first.get_ydata()[2] != first.get_ydata()[2]
    )
    assert len(axis.collections) == 1  # the band of the first alone
    assert axis.get_ylim() == (0, 100)
    assert second.get_marker() != first.get_marker()


def test_a_row_is_one_measure_and_its_titles_are_written_once() -> None:
    lines = [line(panel=panel, measure=measure) for measure in ("accuracy", "margin") for panel in ("common", "rare")]
    axes = paper_figure(lines, "page").figure.axes
    assert [axis.get_title() for axis in axes] == ["common", "rare", "", ""]
    assert [axis.get_xlabel() for axis in axes] == ["", "", "rollouts", "rollouts"]
    assert [axis.get_ylabel() for axis in axes] == ["held-out accuracy (%)", "", "margin (reward)", ""]
    column = paper_figure(lines).figure.axes
    assert [axis.get_title() for axis in column] == ["common", "rare", "common", "rare"]
    alone = paper_figure([line(measure=measure) for measure in ("accuracy", "margin")], "page").figure.axes
    assert [axis.get_ylabel() for axis in alone] == ["held-out accuracy (%)", "margin (reward)"]


def written(axis: Any) -> list[Any]:
    """The texts of a panel that are drawn."""
    ticks = [
        text
        for side, (low, high) in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim()))
        for place, text in zip(side.get_ticklocs(), side.get_ticklabels(), strict=True)
        if low <= place <= high
    ]
    return [text for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *ticks) if text.get_text()]


@pytest.mark.parametrize("count", [1, 4, 13])
def test_nothing_is_cut_or_overlaps(count: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panels = [(measure, panel) for measure in ("accuracy", "margin") for panel in ("common", "rare")]
    lines = [line(n, panel=panel, measure=measure) for measure, panel in panels for n in list(METHODS)[:count]]
    for width in ("column", "page"):
        figure = paper_figure(lines, width).figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        texts = [text for axis in figure.axes for text in written(axis)] + figure.legends[0].get_texts()
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
        assert len(boxes) > 20
        for box in boxes:
            assert min(box.x0, box.y0) >= -0.5
            assert box.x1 <= figure.bbox.x1 + 0.5 and box.y1 <= figure.bbox.y1 + 0.5
        pairs = [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
        assert [(texts[i].get_text(), texts[j].get_text()) for i, j in pairs] == []


def test_names_are_text_and_no_formula(tmp_path: Path) -> None:
    figure = paper_figure([line("$x^2$ \\frac", panel="a $b$"), line("sdpo", panel="c")])
    figure.save(tmp_path / "f.pdf")
    assert "$x^2$ \\frac" in figure_texts(figure) and "a $b$" in figure_texts(figure)


def test_a_notebook_shows_it_and_settings_of_others_are_not_touched() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    assert paper_figure([line()])._repr_svg_().lstrip().startswith("<?xml")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": "wide"}, "cannot be 'wide' wide: choose column or page, or inches from 1 to 20"),
        ({"width": 50.0}, "cannot be 50.0 wide"),
        ({"size": 12.0}, "size is 12 pt: choose 7 to 9"),
        ({"font": "comic"}, "font is 'comic': choose serif or sans"),
    ],
)
def test_what_no_paper_takes_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        paper_figure([line()], **fields)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f.png: a paper's figure is written as .pdf or .svg"):
        paper_figure([line()]).save(tmp_path / "f.png")
    with pytest.raises(UserError, match=r"is written as .pdf or .svg"):
        check(Path("f.eps"), "column")
    with pytest.raises(UserError, match="at least one line"):
        paper_figure([])
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken"):
        paper_figure([line()]).save(tmp_path / "taken" / "f.pdf")
