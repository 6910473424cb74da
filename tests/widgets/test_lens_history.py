"""LensHistory: what it takes and refuses, how a run's points become one, and what it shows in a real browser."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from offline_browser import offline_page
from test_token_lens import HOSTILE, record
from vpdlab_widgets import LensHistory

from vpdlab.show.widget_data import followed_records, histories

WORDS = ["The", " 6", "\n"]


def point(step: int, chance: float = 0.25, **fields: Any) -> dict[str, Any]:
    """A response of three tokens; the student gives the second one `chance`, and " 5" what is left."""
    logp = [math.log(one) for one in (0.9, chance, 0.9)]
    tops = [[math.log(0.9), math.log(0.05)], [math.log(chance), math.log(1 - chance)], [math.log(0.9), math.log(0.05)]]
    told = {"student_logp": logp, "student_top": [[token, " 5"] for token in WORDS], "student_top_logp": tops}
    return record(WORDS, step=step, **told, **fields)


def course(**fields: Any) -> list[dict[str, Any]]:
    """Three points, at the last of which the student has turned from " 5" to " 6"."""
    return [point(step, chance, **fields) for step, chance in ((0, 0.2), (10, 0.3), (20, 0.8))]


# -- Python ------------------------------------------------------------------------------------------------------


def test_points_of_one_response_belong_together_whoever_made_them() -> None:
    other = record(["A", " 7"], step=0)
    widget = LensHistory([*course(), other, *course(run=1)], names=["vpd", "grpo"])
    assert [(one["response"], one["run"], one["step"]) for one in widget.packed] == [
        (0, 0, 0), (0, 0, 10), (0, 0, 20), (1, 0, 0), (0, 1, 0), (0, 1, 10), (0, 1, 20),
    ]  # fmt: skip
    assert widget.find(0, 10) == 1 and widget.find(0, 10, run=1) == 5 and widget.find(1, 10) is None
    widget.go_to(13)
    assert widget.index == 1
    widget.index = 6
    widget.go_to(4)
    assert widget.index == 4  # of the same run


def test_it_grows_while_a_run_goes_on_and_follows_a_reader_at_its_end() -> None:
    widget = LensHistory(course()[:2])
    widget.append([course()[2]])
    assert (len(widget.packed), widget.index) == (3, 0)  # the reader looks at the beginning
    widget.index = 2
    widget.append([point(30)])
    assert widget.index == 3
    for step in range(40, 400, 10):
        widget.append([point(step)], most=30)  # of three tokens each
    steps = [one["step"] for one in widget.packed]
    assert len(steps) <= 10 and steps[0] == 0 and steps[-1] == 390 and widget.index == len(steps) - 1
    widget.index = 1
    widget.append([point(step) for step in range(400, 800, 10)], most=30)
    assert (widget.record or {})["step"] < 400  # the reader stays near where they were


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record(step=0) | {"tokens": None}], r"records\[0\]: a point of a history needs tokens and a step"),
        ([record(step=None)], "needs tokens and a step"),
        ([record(step=True)], "needs tokens and a step"),
        ([record(step=0, run=1)], r"records\[0\].run: 1 is not one of the 1 run"),
        ([record(step=0, run="a")], r"run: 'a' is not one"),
        ([record(step=0, kl=[0.1])], r"records\[0\].kl: 1 numbers for 3 tokens"),
    ],
)
def test_records_that_are_no_points_are_refused(records: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LensHistory(records)


def test_the_same_words_with_another_critique_are_another_response() -> None:
    widget = LensHistory([point(0), point(0, critique="Another one."), point(0, critique=None), point(10)])
    assert [one["response"] for one in widget.packed] == [0, 1, 2, 0]


def test_numbers_that_are_not_finite_are_shown_as_none(tmp_path: Path) -> None:
    page = LensHistory([point(0, teacher_logp=[-math.inf, math.nan, -0.5])]).to_html(tmp_path / "page.html")
    assert "–" in page


def test_a_place_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="index 3 is not one of the 3 records"):
        LensHistory(course(), index=3)
    with pytest.raises(TypeError, match="unknown keyword 'packed'"):
        LensHistory(packed=[])


def test_without_javascript_it_is_a_table_of_the_first_and_the_last_point() -> None:
    text = LensHistory([point(0, 0.2, prompt=HOSTILE), point(20, 0.8)], title=HOSTILE).fallback()
    assert "<script" not in text and "<img" not in text
    assert "log π after iteration 0" in text and "log q after iteration 20" in text and "−1.61" in text
    assert "no response" in LensHistory().fallback()
    assert LensHistory([point(0)]).fallback().count("<th>") == 3


def run(name: str, method: str, records: list[dict[str, Any]]) -> Any:
    """As much of a `RunRecord` as histories are made of; `read` holds which points were read."""
    steps, read = sorted({one["step"] for one in records}), []

    def followed(wanted: int | list[int]) -> list[dict[str, Any]]:
        chosen = [wanted] if isinstance(wanted, int) else wanted
        read.extend(chosen)
        return [one | {"response_ids": [1, 2, 3]} for one in records if one["step"] in chosen]

    return SimpleNamespace(
        folder=Path(name), config={"method": method}, betas={1: 0.5}, followed=followed, followed_steps=steps,
        read=read,
    )  # fmt: skip


def test_a_runs_points_become_a_history() -> None:
    silent = record(step=0) | {"tokens": None}
    found = histories([run("a", "vpd", [*course(), silent]), run("b", "grpo", course())])
    assert found["names"] == ["vpd", "grpo"]
    assert [(one["run"], one["step"]) for one in found["records"]] == [(r, s) for r in (0, 1) for s in (0, 10, 20)]
    assert LensHistory(**found).find(0, 20, run=1) == 5
    assert histories([run("a", "vpd", []), run("b", "vpd", [])])["names"] == ["a", "b"]
    assert histories([run("a", "vpd", [])], labels=["mine"]) == {"records": [], "names": ["mine"]}


def test_the_beta_of_a_point_is_that_of_the_next_iteration() -> None:
    points = followed_records([point(step) for step in (0, 1, 2, 9)], betas={1: 0.5, 2: 0.25})
    assert [one["beta"] for one in points] == [0.5, 0.25, 0.25, None]
    assert followed_records([point(0)])[0]["beta"] is None


def test_where_there_are_too_many_tokens_points_are_left_out_evenly_and_not_read() -> None:
    many = run("a", "vpd", [point(step) for step in range(0, 101, 10)])  # 11 points of 3 tokens
    kept = [one["step"] for one in histories([many], most=15)["records"]]
    assert kept[0] == 0 and kept[-1] == 100 and 2 < len(kept) <= 6
    assert set(many.read) == set(kept)
    assert len(histories([many])["records"]) == 11
    assert len(histories([many], most=1)["records"]) <= 3


# -- in the browser ----------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, records: list[dict[str, Any]] | None = None, **options: Any) -> Path:
    path = tmp_path / "history.html"
    LensHistory(course() if records is None else records, **options).to_html(path)
    return path


def moments(page: Any) -> list[str]:
    return page.locator(".vpd-lh-moment").all_inner_texts()


def reads(page: Any, *words: str) -> None:
    """Wait until the line under the widget, drawn with the next frame, says all of this."""
    status = "document.querySelector('.vpd-lh > .vpd-status').textContent"
    page.wait_for_function(f"words => words.every((one) => {status}.includes(one))", arg=list(words), timeout=5000)


@pytest.mark.slow
def test_map_curves_and_lens_go_together(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        assert page.locator(".vpd-lh-token").all_text_contents() == ["The", "·6", "⏎"]
        assert page.locator(".vpd-lh-map rect.vpd-patch").count() == 9
        assert moments(page) == ["·6 π turns from “·5” to “·6” 10 → 20"]
        reads(page, "token 2 “·6” after iteration 0")  # the one that moves most
        page.locator(".vpd-lh-map").focus()
        page.keyboard.press("ArrowRight")
        reads(page, "after iteration 10", "π 30.0 %")
        assert page.locator(".vpd-tl-where").inner_text() == "iteration 10"
        page.keyboard.press("n")
        reads(page, "token 2", "after iteration 20", "π 80.0 %")
        assert page.locator(".vpd-tl-stage .vpd-tl-pinned").all_text_contents() == [" 6"]
        assert page.locator(".vpd-lh-flip.vpd-lh-on").count() == 1
        assert page.locator(".vpd-lh-curves .vpd-line").count() >= 2
        page.keyboard.press("Escape")
        assert page.locator(".vpd-tl-stage .vpd-tl-pinned").count() == 0
        first = page.locator(".vpd-lh-map rect.vpd-patch").first
        first.click()
        reads(page, "token 1 “The” after iteration 0")
        page.locator(".vpd-lh-moment").first.click()
        reads(page, "after iteration 20")


@pytest.mark.slow
def test_a_selection_has_an_address(chromium: str, tmp_path: Path) -> None:
    path = page_of(tmp_path, [*course(), *[point(step, problem_id="b") for step in (0, 10)]])
    with offline_page(chromium, path) as page:
        page.locator(".vpd-lh-map").focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#followed=0&step=20&token=1"
        page.evaluate("location.hash = '#followed=1&step=10&token=2'")
        reads(page, "token 3")
        reads(page, "after iteration 10")
        page.evaluate("location.hash = '#followed=1&step=10&token=3'")  # there are three
        page.wait_for_function("location.hash === '#followed=1&step=10'")
        chosen = page.locator(".vpd-lh-response")
        assert chosen.evaluate("node => node.selectedIndex") == 1
        chosen.evaluate("node => (window.list = node)")
        page.locator(".vpd-lh-map").focus()
        page.keyboard.press("]")
        page.wait_for_function("document.querySelector('.vpd-lh-response').selectedIndex === 0")
        assert page.evaluate("window.list === document.querySelector('.vpd-lh-response')")  # an open list stays open


@pytest.mark.slow
def test_two_runs_share_the_curves_and_the_scale(chromium: str, tmp_path: Path) -> None:
    records = [*course(), *(point(step, chance, run=1) for step, chance in ((0, 0.2), (12, 0.2), (20, 0.2)))]
    with offline_page(chromium, page_of(tmp_path, records, names=["with", "without"])) as page:
        lines = page.locator(".vpd-lh-curves [data-line]").evaluate_all("all => all.map((one) => one.dataset.line)")
        sides = ["student", "teacher"]
        assert sorted(lines) == sorted(f"{line} {side}" for line in ("0", "1", "rival") for side in sides)
        page.locator(".vpd-lh-map").focus()
        page.keyboard.press("End")
        reads(page, "with: π 80.0 %", "without: π 20.0 %")
        page.keyboard.press("r")
        page.wait_for_function("document.querySelector('.vpd-lh-lens .vpd-title').textContent === 'without'")
        reads(page, "after iteration 20")
        assert not any("10 → 20" in one for one in moments(page))  # nothing moves there


@pytest.mark.slow
def test_it_plays_to_its_end(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        page.get_by_role("button", name="Play").click()
        page.wait_for_function("document.querySelector('.vpd-tl-where').textContent === 'iteration 20'", timeout=5000)
        page.get_by_role("button", name="Play").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1024, 1280])
def test_the_page_never_scrolls_sideways_and_text_is_text(chromium: str, tmp_path: Path, width: int) -> None:
    records = [point(step, prompt=HOSTILE, run=run) for run in (0, 1) for step in range(0, 200, 4)]
    path = page_of(tmp_path, records, names=[HOSTILE, "grpo"], title=HOSTILE)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tops = [page.locator(name).bounding_box()["y"] for name in (".vpd-lh-map", ".vpd-lh-curves")]
        assert (abs(tops[0] - tops[1]) < 2) == (width >= 900)


@pytest.mark.slow
def test_long_masked_and_single_points_are_shown(chromium: str, tmp_path: Path) -> None:
    long = [" w"] * 300
    moved = [[-1.0] * 300, [-1.0 if i % 3 else -2.0 for i in range(300)]]
    records = [record(long, step=step, student_logp=moved[step]) for step in (0, 1)]
    with offline_page(chromium, page_of(tmp_path, records)) as page:
        assert "the 48 of 300 tokens that move most" in page.locator(".vpd-lh-map").inner_text()
    episode = {"mask": [True, False, True], "turn_roles": ["assistant", "user", "assistant"]}
    episode |= {"turn_texts": ["The", " 6", "\n"], "turn_ends": [1, 2, 3]}
    with offline_page(chromium, page_of(tmp_path, [point(0, **episode)])) as page:
        assert page.locator(".vpd-lh-token").count() == 2  # the policy's own
        assert "nothing can flip" in page.locator(".vpd-lh-moments").inner_text()
    with offline_page(chromium, page_of(tmp_path, [])) as page:
        assert "No response is followed yet" in page.locator(".vpd-lh").inner_text()
