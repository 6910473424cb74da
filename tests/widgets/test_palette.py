"""The palette: one file, nothing beside it, and colours that colour-blind readers can tell apart on either page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from vpdlab_widgets import palette

from vpdlab.show import plots

ROOT = Path(__file__).resolve().parents[2]
PALETTE = palette.PALETTE
WIDGETS = ROOT / "widgets" / "vpdlab_widgets"
DRAWING = [
    *sorted(path for path in WIDGETS.iterdir() if path.suffix in (".py", ".js", ".css")),
    *sorted((ROOT / "vpdlab" / "show" / "plots").glob("*.py")),
    *sorted((ROOT / "vpdlab" / "show" / "page").glob("*.js")),
]
# Machado, Oliveira and Fernandes 2009, severity 1: what linear RGB becomes for each kind of colour blindness.
EYES = {
    "all cones": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
PAGES = {one: PALETTE["page"][one]["layout-color0"] for one in ("light", "dark")}


def linear(colour: str) -> np.ndarray:
    share = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = np.array(to_xyz) @ np.clip(light, 0, 1) / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_difference(one: str, other: str) -> float:
    """The colour difference (ΔE of 1976) for the eyes that see the least of it."""
    seen = (np.array(eyes) for eyes in EYES.values())
    return min(float(np.linalg.norm(lab(eye @ linear(one)) - lab(eye @ linear(other)))) for eye in seen)


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: path.name)
def test_no_colour_stands_outside_the_palette(path):
    text = path.read_text(encoding="utf-8")
    hexadecimal = re.findall(r"(?<![&\w])#(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b", text)
    functions = re.findall(r"\b(?:rgba?|hsla?|oklch)\(\s*\d[^)]*\)", text)
    allowed = ("#ff8000", "rgba(255,128,0,0.5)", "rgba(0,0,0,0)")  # a docstring's example; fully transparent
    assert [colour for colour in [*hexadecimal, *functions] if colour not in allowed] == []


@pytest.mark.parametrize("name", ["light", "dark", "either"])
def test_colours_are_told_apart(name):
    colours = PALETTE[name]
    for pair in (("student", "teacher"), ("right", "wrong")):
        assert least_difference(*(colours[one] for one in pair)) > 20, pair
    methods = [colours[f"method{i}"] for i in range(1, 7)]
    assert all(least_difference(*pair) > 8 for pair in itertools.combinations(methods, 2))
    backgrounds = PAGES.values() if name == "either" else [PAGES[name]]
    for colour in colours.values():
        assert all(contrast(colour, background) >= 3 for background in backgrounds), colour


def test_white_text_reads_on_an_opaque_tile():
    assert all(contrast(colour, "#ffffff") >= 4.2 for colour in palette.UNDER_WHITE.values())


def test_styles_differ_in_two_ways_at_least():
    assert len(palette.STYLES) == 16
    for one, other in itertools.combinations(palette.STYLES, 2):
        same = (one.colour == other.colour) + (list(one.dash) == list(other.dash)) + (one.marker == other.marker)
        assert same <= 1, (one, other)


def test_a_known_method_always_has_the_same_style():
    from vpdlab.learn.methods import METHODS

    assert PALETTE["methods"] == list(METHODS)
    assert palette.slots(["mine", "grpo"])[1] == palette.slots(["grpo"])[0] == list(METHODS).index("grpo")
    assert len(set(palette.slots([*METHODS, "mine", "yours"]))) == len(METHODS) + 2


def test_plots_give_student_teacher_right_and_wrong_the_widgets_hues():
    either, light = palette.EITHER, PALETTE["light"]
    assert [either[name] for name in ("student", "teacher")] == [light[name] for name in ("student", "teacher")]
    assert all(least_difference(either[name], light[name]) < 20 for name in ("right", "wrong"))
    figure = plots.top_figure({"student": [("a", 0.5)], "teacher": [("b", 0.5)]}, "")
    assert [bar.marker.color for bar in figure.data] == [either["student"], either["teacher"]]
    figure = plots.implicit_reward_figure({"before": [1.0, 2.0]}, [True, False], 0.0)
    assert [box.line.color for box in figure.data] == [either["right"], either["wrong"]]
    css = palette.widget_css()
    assert f"--vpd-blue: {light['student']};" in css and f"--vpd-orange: {light['teacher']};" in css


def test_lines_of_twelve_methods_have_twelve_looks():
    names = [f"m{i}" for i in range(12)]
    curves = [{"preset": "p", "method": n, "seed": 0, "rollouts": [0, 8], "accuracy": [0, 1]} for n in names]
    lines = [trace for trace in plots.compare_figure(curves).data if trace.name]
    looks = {(line.line.color, line.line.dash, line.marker.symbol) for line in lines}
    assert len(lines) == len(looks) == 12
