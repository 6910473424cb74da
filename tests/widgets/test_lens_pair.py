"""LensPair: what it pairs and refuses, and two lenses that go together in a real browser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from offline_browser import offline_page
from test_token_lens import HOSTILE, record
from vpdlab_widgets import LensPair

from vpdlab.show.widget_data import lens_pairs

LEFT = ["The", " answer", " is", " 6", "\n"]
RIGHT = ["The", " right", " answer", " is", " 7", "\n"]


def pair(**options: Any) -> LensPair:
    sides = {"left": [record(LEFT), record(LEFT, step=4)], "right": [record(RIGHT), record(LEFT, step=4)]}
    return LensPair(**sides | {"names": ["vpd", "grpo"]} | options)


# -- Python ------------------------------------------------------------------------------------------------------


def run(name: str, method: str, steps: dict[int, list[dict[str, Any]]]) -> Any:
    """As much of a `RunRecord` as pairs are made of."""
    rollouts = {step: [one | {"step": step} for one in rows] for step, rows in steps.items()}
    config = {"method": method, "temperature": 1.0}
    return SimpleNamespace(
        folder=Path(name),
        config=config,
        steps=list(steps),
        betas=dict.fromkeys(steps, 0.1),
        rollouts=rollouts.__getitem__,
    )


def told(problem: str, index: int, tokens: bool = True) -> dict[str, Any]:
    return record(problem_id=problem, index=index) | ({} if tokens else {"tokens": None})


def test_rollouts_of_the_same_problem_and_iteration_are_paired_in_order() -> None:
    left = run("a", "vpd", {1: [told("p", 0), told("p", 2), told("q", 0)], 2: [told("p", 1)]})
    right = run("b", "grpo", {1: [told("q", 0), told("p", 0, tokens=False), told("p", 1)], 2: [told("p", 3)], 3: []})
    found = lens_pairs(left, right, steps=[1, 2])
    places = [[(one["step"], one["problem_id"], one["index"]) for one in found[side]] for side in ("left", "right")]
    assert places == [[(1, "p", 0), (1, "q", 0), (2, "p", 1)], [(1, "p", 1), (1, "q", 0), (2, "p", 3)]]
    assert found["names"] == ["vpd", "grpo"]
    assert found["left"][0]["settings"]["method"] == "vpd" and found["right"][0]["settings"]["method"] == "grpo"
    last = lens_pairs(left, right)
    assert [one["step"] for one in last["left"]] == [2]
    assert lens_pairs(left, run("b", "vpd", {2: [told("p", 1)]}))["names"] == ["a", "b"]
    assert LensPair(**found).left_packed[0]["meta"]["index"] == 0


def test_sides_of_different_length_and_bad_places_are_refused() -> None:
    with pytest.raises(ValueError, match="left has 1 records and right 0"):
        LensPair(left=[record()])
    with pytest.raises(ValueError, match=r"right\[0\].kl: 1 numbers for 3 tokens"):
        LensPair(left=[record()], right=[record(kl=[0.1])])
    with pytest.raises(ValueError, match="index 2 is not one of the 2 pairs"):
        pair(index=2)
    with pytest.raises(TypeError, match="unknown keyword 'left_packed'"):
        pair(left_packed=[])


def test_without_javascript_it_is_both_responses() -> None:
    text = LensPair(left=[record([HOSTILE, "x"])], right=[record(RIGHT)], names=[HOSTILE, "grpo"]).fallback()
    assert "<script" not in text and "<img" not in text
    assert "grpo: What is 877 + 760?" in text and " right</span>" in text
    assert "no pair" in LensPair().fallback()


# -- in the browser ----------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "pair.html"
    pair(**options).to_html(path)
    return path


def at(page: Any, mark: str) -> list[list[str]]:
    """The tokens with a mark, in each lens."""
    return [
        page.locator(".vpd-lp-column").nth(side).locator(f".vpd-tl-stage .{mark}").all_text_contents()
        for side in (0, 1)
    ]


@pytest.mark.slow
def test_cursor_pin_colour_and_pair_go_together(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        assert page.locator(".vpd-lp > .vpd-head").inner_text() == "vpd and grpo"
        assert [text.split("\n")[0] for text in page.locator(".vpd-lp-column .vpd-title").all_inner_texts()] == [
            "vpd",
            "grpo",
        ]
        assert "First difference at token 2: “·answer” and “·right”; 4 tokens in common" in note(page)
        assert at(page, "vpd-lp-alone") == [[" 6"], [" right", " 7"]]
        assert at(page, "vpd-lp-first") == [[" answer"], [" right"]]
        heads = page.locator(".vpd-tl-card-head").all_inner_texts()
        assert [("first difference" in head, head.split()[0]) for head in heads] == [
            (True, "·answer"),
            (True, "·right"),
        ]
        left, right = page.locator(".vpd-tl-stage").nth(0), page.locator(".vpd-tl-stage").nth(1)
        left.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert at(page, "vpd-tl-at") == [[" answer"], [" answer"]]
        page.keyboard.press("Enter")
        assert at(page, "vpd-tl-pinned") == [[" answer"], [" answer"]]
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert at(page, "vpd-tl-at") == [[" 6"], [" 7"]]  # no match: between the same neighbours
        right.focus()
        assert at(page, "vpd-tl-at") == [[], []]
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert at(page, "vpd-tl-pinned") == [["\n"], ["\n"]]
        page.keyboard.press("c")
        assert page.locator(".vpd-lp-tools .vpd-option[aria-pressed=true]").all_inner_texts() == ["log q/π"]
        assert page.locator(".vpd-tl-status").all_inner_texts()[0].count("log q/π −1.5 nats") == 1
        page.keyboard.press("]")
        page.wait_for_function("document.querySelector('.vpd-lp-note').textContent.startsWith('The same response')")
        assert at(page, "vpd-lp-alone") == [[], []]


def note(page: Any) -> str:
    return page.locator(".vpd-lp-note").inner_text()


@pytest.mark.slow
def test_the_pointer_leads_and_texts_scroll_together(chromium: str, tmp_path: Path) -> None:
    long = [" word" if i % 9 else "\n" for i in range(1800)]
    other = [*long[:900], " but", *long[900:]]
    options = {"left": [record(long)], "right": [record(other)]}
    with offline_page(chromium, page_of(tmp_path, **options)) as page:
        left, right = page.locator(".vpd-tl-stage").nth(0), page.locator(".vpd-tl-stage").nth(1)
        left.hover()
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(300)
        shares = "node => node.scrollTop / (node.scrollHeight - node.clientHeight)"
        assert left.evaluate(shares) > 0.05
        assert right.evaluate(shares) == pytest.approx(left.evaluate(shares), abs=0.1)
        left.focus()
        page.keyboard.press("End")
        page.wait_for_timeout(200)
        inside = """node => {
          const [at, box] = [node.querySelector('.vpd-tl-at'), node].map((one) => one.getBoundingClientRect());
          return at.top >= box.top && at.bottom <= box.bottom;
        }"""
        assert left.evaluate(inside) and right.evaluate(inside)


@pytest.mark.slow
def test_colours_have_one_scale_and_only_measures_of_both(chromium: str, tmp_path: Path) -> None:
    """KL 4 on the left and 1 on the right: the right one is paler, as on one scale."""
    options = {"left": [record(kl=[0.0, 0.0, 4.0])], "right": [record(kl=[0.0, 0.0, 1.0], teacher_entropy=None)]}
    with offline_page(chromium, page_of(tmp_path, **options)) as page:
        levels = [
            page.locator(".vpd-tl-stage").nth(side).locator(".vpd-tok").nth(2).get_attribute("class") for side in (0, 1)
        ]
        assert "vpd-up8" in levels[0] and "vpd-up2" in levels[1]
        offered = page.locator(".vpd-lp-tools .vpd-option").all_inner_texts()
        assert "entropy π" in offered and "entropy q" not in offered


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1024, 1280])
def test_the_page_never_scrolls_sideways_and_text_is_text(chromium: str, tmp_path: Path, width: int) -> None:
    options = {"left": [record([HOSTILE, " 6", "\n"])], "right": [record(RIGHT)], "names": [HOSTILE, "grpo"], "why": ""}
    with offline_page(chromium, page_of(tmp_path, **options), viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        columns = page.locator(".vpd-lp-column").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect().top)"
        )
        assert (columns[0] == columns[1]) == (width > 680)


@pytest.mark.slow
def test_a_side_without_numbers_still_shows_its_text(chromium: str, tmp_path: Path) -> None:
    bare = {"step": 3, "problem_id": "a", "text": "only words", "tokens": None}
    with offline_page(chromium, page_of(tmp_path, left=[record()], right=[bare])) as page:
        assert "only words" in page.locator(".vpd-tl-stage").nth(1).inner_text()
        page.locator(".vpd-tl-stage").nth(0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert at(page, "vpd-tl-pinned")[0] == ["The"]
