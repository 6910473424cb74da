"""Simplex: what its Python side takes, and what a browser shows against the exact values of `study.tabular`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from offline_browser import offline_page, status
from vpdlab_widgets import Simplex

from vpdlab.losses import kl
from vpdlab.study.tabular import M_STEPS, descend, elbo, grow, posterior, sequence_logp

STUDENT, TEACHER, REWARD = [0.25, 0.45, 0.3], [0.5, 0.2, 0.3], [1.0, 0.0, 0.5]


# -- Python ------------------------------------------------------------------------------------------------------


def test_the_teacher_starts_as_the_student() -> None:
    assert Simplex(student=STUDENT).q == STUDENT
    assert Simplex(student=STUDENT, q=TEACHER).q == TEACHER


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": [0.5, 0.5]}, r"student is \[0.5, 0.5\]: it needs three probabilities"),
        ({"q": [0.5, 0.6, -0.1]}, "q is .*: it needs three probabilities"),
        ({"q": [0.5, 0.4, 0.2]}, "q sums to 1.1"),
        ({"q": [1.0, 0.0, 0.0]}, "each probability must be at least 0.0001"),
        ({"line": [[0.5, 0.0, 0.5]]}, "line has 1 points"),
        ({"line": [[0.5, 0.0, 0.5], [0.0, 2.0, 0.0]]}, r"line\[1\] sums to 2"),
        ({"names": ["A", "B"]}, "names has 2 values"),
        ({"reward": [1.0]}, "reward has 1 values"),
    ],
)
def test_what_is_no_point_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Simplex(**fields)


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="unknown keyword 'teacher'"):
        Simplex(teacher=TEACHER)


def test_without_javascript_it_is_a_table() -> None:
    text = Simplex(student=STUDENT, names=["<b>", "B", "C"]).fallback()
    assert "&lt;b&gt;" in text and "0.45" in text


# -- in the browser ----------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "simplex.html"
    Simplex(**{"student": STUDENT, "q": TEACHER, "reward": REWARD} | options).to_html(path)
    return path


def shown(page: Any) -> dict[str, float]:
    """The numbers of the panel in full: those of the M-step, and the probabilities, as "π* B"."""
    cells = """() => Object.fromEntries([...document.querySelectorAll('.vpd-sx-mline .vpd-cell')]
      .map((cell) => [cell.children[0].textContent, Number(cell.children[1].title)]))"""
    table = """() => [...document.querySelectorAll('.vpd-sx-table tr')].map((row) =>
      [...row.cells].map((cell) => cell.title || cell.textContent))"""
    head, *rows = page.evaluate(table)
    columns = {f"{head[i]} {row[0]}": float(row[i]) for row in rows for i in range(2, 6)}
    return page.evaluate(cells) | columns


def equations(page: Any) -> list[str]:
    return [re.sub(r"[\s\u2062]", "", row) for row in page.locator(".vpd-math mtr").all_text_contents()]


def point(found: dict[str, float], name: str) -> torch.Tensor:
    return torch.tensor([found[f"{name} {response}"] for response in "ABC"], dtype=torch.float64)


def check(page: Any, beta: float, loss: str, lr: float = 0.5, updates: int = 4) -> dict[str, float]:
    """What is shown is what `study.tabular` computes for the student and the teacher that are shown."""
    found, tree = shown(page), grow(3, 1)
    student, q = point(found, "π").log(), point(found, "q").log()
    reward = torch.tensor(REWARD, dtype=torch.float64)
    target, log_z = posterior(student, reward, beta)
    torch.testing.assert_close(point(found, "π*"), target.exp())
    steps = descend(lambda table: M_STEPS[loss](tree, table, q[None]), student[None], lr, updates)
    torch.testing.assert_close(point(found, "π′"), sequence_logp(tree, steps[-1]).exp(), rtol=1e-9, atol=1e-12)
    assert found["KL(π‖q)"] == pytest.approx(kl(student, q).item())
    assert found["KL(q‖π)"] == pytest.approx(kl(q, student).item())
    assert found["E[r] of π"] == pytest.approx((student.exp() * reward).sum().item())
    bound, gap = elbo(q, student, reward, beta).item(), kl(q, target).item()
    numbers = re.findall(r"−?\d+\.?\d*(?:×10−?\d+)?", equations(page)[3])
    read = [float(n.replace("−", "-").replace("×10", "e")) for n in numbers]
    assert read == pytest.approx([bound, gap, log_z.item()], rel=6e-3, abs=6e-3)
    return found


@pytest.mark.slow
def test_the_numbers_are_those_of_tabular_wherever_the_teacher_is_dragged(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        first = check(page, 0.5, "reverse")
        assert [first[f"q {name}"] for name in "ABC"] == TEACHER
        box = page.locator(".vpd-sx-chart").bounding_box()
        mark = page.locator(".vpd-sx-at-q").bounding_box()
        x, y = mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        for share in (0.3, 0.6, 1.0):
            page.mouse.move(x + share * (box["x"] + box["width"] / 2 - x), y + share * (box["y"] + 60 - y))
            page.wait_for_timeout(40)
        moved = check(page, 0.5, "reverse")
        assert moved["q C"] > 0.9 and moved["π A"] == 0.25  # toward the top, and the student stays
        page.mouse.move(0, 0)  # far outside: the nearest point within
        page.wait_for_timeout(40)
        outside = check(page, 0.5, "reverse")
        assert min(outside[f"q {name}"] for name in "ABC") >= 1e-4
        page.mouse.up()
        page.mouse.move(600, 300)
        page.wait_for_timeout(40)
        assert shown(page) == outside  # released


@pytest.mark.slow
def test_keys_do_em_by_hand(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        page.keyboard.press("Tab")

        def press(*keys: str) -> None:
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_timeout(50)

        press("ArrowRight")
        moved = check(page, 0.5, "reverse")
        assert moved["q B"] == pytest.approx(0.21) and moved["q A"] == pytest.approx(0.49)
        press("e")
        there = check(page, 0.5, "reverse")
        assert there["q A"] == pytest.approx(there["π* A"], abs=1e-9)
        assert "gap 0 nats" in status(page)
        expected = there["E[r] of π′"]
        press("m")
        after = check(page, 0.5, "reverse")
        assert after["E[r] of π"] == pytest.approx(expected) and after["E[r] of π"] > there["E[r] of π"]
        press("l")
        check(page, 0.5, "forward")
        press("b")
        check(page, 0.55, "forward")
        press("p", "Shift+ArrowUp")
        student = check(page, 0.55, "forward")
        assert student["π C"] > after["π C"] and student["q A"] == after["q A"]
        press("r")
        assert shown(page) == shown_at_start(page, chromium, tmp_path)
        assert page.evaluate("heard") == ["Tab"]
        page.keyboard.press("Tab")  # one tab stop
        assert page.evaluate("document.activeElement === document.body")


def shown_at_start(page: Any, chromium: str, tmp_path: Path) -> dict[str, float]:
    page.reload()
    page.wait_for_selector(".vpd-sx-table")
    page.evaluate("window.heard = ['Tab']")
    page.keyboard.press("Tab")
    return shown(page)


@pytest.mark.slow
def test_a_finger_drags_the_teacher(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path), has_touch=True, viewport={"width": 420, "height": 900}) as page:
        mark = page.locator(".vpd-sx-at-q").bounding_box()
        x, y = mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2
        session = page.context.new_cdp_session(page)
        touch = lambda kind, points: session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})  # noqa: E731
        touch("touchStart", [{"x": x, "y": y}])
        for by in (10, 20, 40):
            touch("touchMove", [{"x": x + by, "y": y}])
            page.wait_for_timeout(30)
        touch("touchEnd", [])
        page.wait_for_timeout(50)
        assert shown(page)["q B"] > TEACHER[1] + 0.08
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_student_on_a_line_gets_worse_by_a_perfect_copy(chromium: str, tmp_path: Path) -> None:
    """The exercise of em_exact."""
    s = 2 * math.exp(5) / (1 + 2 * math.exp(5))
    line = {"line": [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]], "student": [1 / 3] * 3, "q": [s / 2, s / 2, 1 - s]}
    with offline_page(chromium, page_of(tmp_path, reward=[1.0, 0.0, 0.0], beta=0.1, **line)) as page:
        found = shown(page)
        assert found["E[r] of π"] == pytest.approx(1 / 3) and found["E[r] of π′"] == pytest.approx(0.0705, abs=5e-5)
        assert page.locator(".vpd-sx-line").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 800, 900, 1024, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_and_no_label_is_over_another(chromium: str, tmp_path: Path, width: int, scheme: str) -> None:
    names = ["the first response", "B", "a third one"]
    path = page_of(tmp_path, names=names, student=[0.2, 0.5, 0.3], q=[0.4, 0.3, 0.3], reward=[1, 0, 0], beta=0.5)
    overlaps = """() => {
      const labels = [...document.querySelectorAll('.vpd-sx-name, .vpd-sx-corner, .vpd-sx-level')];
      const boxes = labels.map((node) => node.getBoundingClientRect());
      return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
        a.right > b.left && b.right > a.left && a.bottom > b.top + 3 && b.bottom > a.top + 3)).length;
    }"""
    with offline_page(chromium, path, viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.locator(".vpd-sx-stage").focus()
        assert page.evaluate(overlaps) == 0
        for key in ("ArrowLeft", "e", "m", "m", "Shift+ArrowUp"):
            page.keyboard.press(key)
            page.wait_for_timeout(40)
            assert page.evaluate(overlaps) == 0, key
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        stage, chart = (page.locator(one).bounding_box() for one in (".vpd-sx-stage", ".vpd-sx-chart"))
        middles = [box["x"] + box["width"] / 2 for box in (stage, chart)]
        assert middles[1] == pytest.approx(middles[0], abs=2)  # a wide page has the triangle in its middle
        inside = """() => [...document.querySelectorAll('.vpd-sx-chart text')].every((node) => {
          const [a, b] = [node.getBoundingClientRect(), document.body.getBoundingClientRect()];
          return a.left >= b.left && a.right <= b.right;
        })"""
        assert page.evaluate(inside)
