"""The widgets as a person meets them: offline pages in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page
from vpdlab_widgets import EMTimeline, RolloutTable, TokenLens, write_page

pytestmark = pytest.mark.slow

STEPS = 60


def rows(steps: int = STEPS) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "reward": round(0.2 + step / 120, 4),
            "success_rate": round(0.2 + step / 120, 4),
            "margin": None if step == 7 else step / 30 - 0.5,
            "delta": None,
            "kl": 0.4 / step,
            "teacher_drift": 0.01 * (step % 5),
            "beta": 0.1,
            "entropy": 1 - step / 100,
            "length": 30 + step,
            "e_loss": 0.6 if step % 5 == 0 else None,
            "notes": {"e": "every rollout failed <b>&"} if step == 7 else None,
        }
        for step in range(1, steps + 1)
    ]


@pytest.fixture
def timeline(tmp_path: Path) -> Path:
    path = tmp_path / "timeline.html"
    evals = [{"step": step, "accuracy": 0.3, "low": 0.25, "high": 0.35} for step in (0, 30)]
    EMTimeline(rows(), title="<img src=x>", evals=evals, kl_target=0.2, state="complete").to_html(path)
    return path


def readout(page: Any) -> str:
    return re.sub(r"\s+", " ", page.locator("[role=status]").inner_text())


def test_keyboard_walks_selects_and_leaves(chromium: str, timeline: Path) -> None:
    with offline_page(chromium, timeline) as page:
        stage = page.locator(".vpd-emt-stage")
        assert "iteration 60 latest" in readout(page)
        page.keyboard.press("Tab")
        assert stage.evaluate("node => node === document.activeElement")
        page.keyboard.press("Home")
        assert "iteration 1 " in readout(page)
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert "iteration 5 E-step" in readout(page)
        assert "success rate 0.242 " in readout(page)
        assert "margin −0.333 " in readout(page)
        assert "β 0.1 " in readout(page)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "margin – " in readout(page)  # null, not 0
        assert "every rollout failed <b>&" in readout(page)
        page.keyboard.press("Enter")
        assert "iteration 7 selected" in readout(page)
        page.keyboard.press("End")
        assert "iteration 60" in readout(page)
        page.keyboard.press("Escape")
        assert "iteration 7 selected" in readout(page)
        page.keyboard.press("Escape")
        assert "iteration 60 latest" in readout(page)


def test_pointer_shows_and_selects(chromium: str, timeline: Path) -> None:
    with offline_page(chromium, timeline) as page:
        box = page.locator("svg[data-panel=margin]").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        assert page.locator(".vpd-emt-cursor").count() == 5  # one line in every panel
        shown = int(re.search(r"iteration (\d+)", readout(page)).group(1))
        assert 25 <= shown <= 35
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
        assert f"iteration {shown} selected" in readout(page)
        page.mouse.move(2, 2)
        assert f"iteration {shown} selected" in readout(page)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.move(2, 2)
        assert "iteration 60 latest" in readout(page)


def test_dragging_and_shift_choose_a_range(chromium: str, timeline: Path) -> None:
    with offline_page(chromium, timeline) as page:
        box = page.locator("svg[data-panel=margin]").bounding_box()
        at = lambda share: (box["x"] + share * box["width"], box["y"] + 20)  # noqa: E731
        page.mouse.move(*at(0.3))
        page.mouse.down()
        page.mouse.move(*at(0.4))
        page.mouse.move(*at(0.6))
        page.mouse.up()
        page.mouse.move(2, 2)
        found = re.search(r"iterations (\d+) to (\d+) means of (\d+)", readout(page))
        assert found is not None
        first, last, count = map(int, found.groups())
        assert (last - first + 1) == count > 10
        assert "selected" not in readout(page)  # the end of a brush is no click
        assert page.locator(".vpd-emt-range").count() == 5
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("Home")
        for _ in range(3):
            page.keyboard.press("Shift+ArrowRight")
        page.mouse.move(2, 2)
        page.locator(".vpd-emt-stage").blur()
        assert "iterations 1 to 4 means of 4" in readout(page)
        assert "mean reward 0.221 " in readout(page)
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("Escape")
        assert "iteration 60 latest" in readout(page)


def test_the_trust_region_shows_both_divergences_and_beta(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "trust.html"
    data = [one | {"kl_teacher": None if one["step"] < 3 else 0.3, "beta": 0.1} for one in rows(12)]
    EMTimeline(data, kl_target=0.2).to_html(path)
    with offline_page(chromium, path) as page:
        legend = page.locator(".vpd-emt-panel", has=page.locator("svg[data-panel=trust]")).inner_text()
        for name in ("KL student‖teacher", "KL teacher‖student", "teacher drift", "KL target 0.2", "β 0.1"):
            assert name in legend
        assert page.locator("svg[data-panel=beta]").count() == 0
    EMTimeline([one | {"beta": 0.1 * one["step"]} for one in data]).to_html(path)
    with offline_page(chromium, path) as page:
        assert page.locator("svg[data-panel=beta]").count() == 1  # a β that changes has its own panel


def test_plain_keys_stay_in_the_widget(chromium: str, timeline: Path) -> None:
    with offline_page(chromium, timeline) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        page.locator(".vpd-emt-stage").focus()
        for key in ("b", "ArrowLeft", "Escape"):
            page.keyboard.press(key)
        assert page.evaluate("heard") == []
        page.keyboard.press("Escape")  # nothing left to leave: the notebook may have it
        assert page.evaluate("heard") == ["Escape"]


def test_title_is_text_and_empty_panels_are_left_out(chromium: str, tmp_path: Path, timeline: Path) -> None:
    with offline_page(chromium, timeline) as page:
        assert page.locator(".vpd-emt-title").inner_text() == "<img src=x>"
        assert page.locator(".vpd-emt-title img").count() == 0
        assert page.locator(".vpd-emt-eval").count() == 3  # two points and the key
    bare = tmp_path / "bare.html"
    EMTimeline([{"step": 1, "entropy": 0.5}, {"step": 2, "entropy": None}]).to_html(bare)
    with offline_page(chromium, bare) as page:
        assert page.locator("svg[data-panel]").evaluate_all("all => all.map((one) => one.dataset.panel)") == ["entropy"]


def probed(tmp_path: Path) -> Path:
    """A timeline with belief at steps 0, 20, 40 and 60; at 40 Bob's is unknown."""
    path = tmp_path / "probed.html"
    evals = [
        {"step": step, "accuracy": 0.3, "low": 0.25, "high": 0.35}
        | {"probes": {"belief/Ada": step / 60, "belief/<b>Bob": None if step == 40 else 0.25, "teacher_accuracy": 0.5}}
        for step in (0, 20, 40, 60)
    ]
    EMTimeline(rows(), title="liar", evals=evals, state="complete").to_html(path)
    return path


def test_belief_has_a_panel_with_a_line_for_each_voice(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, probed(tmp_path)) as page:
        panels = page.locator("svg[data-panel]").evaluate_all("all => all.map((one) => one.dataset.panel)")
        assert panels[:4] == ["success", "probe:belief", "probe:teacher_accuracy", "margin"]
        legend = page.locator(".vpd-emt-panel", has=page.locator("svg[data-panel='probe:belief']"))
        assert legend.locator(".vpd-key").all_inner_texts() == ["Ada", "<b>Bob"]
        lines = page.locator("svg[data-panel='probe:belief'] .vpd-line")
        assert {line.get_attribute("data-series"): line.get_attribute("d").count("L") for line in lines.all()} == {
            "belief/Ada": 3, "belief/<b>Bob": 1,  # a gap at 40
        }  # fmt: skip
        assert len({line.evaluate("line => getComputedStyle(line).stroke") for line in lines.all()}) == 2
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("Home")
        for _ in range(19):
            page.keyboard.press("ArrowRight")
        assert "belief Ada 0.333 belief <b>Bob 0.25 teacher accuracy 0.5 " in readout(page)
        assert page.locator("svg[data-panel='probe:belief'] .vpd-emt-dot").count() == 2
        page.keyboard.press("ArrowRight")
        assert "belief Ada – " in readout(page)  # no evaluation there
        for _ in range(25):
            page.keyboard.press("Shift+ArrowRight")
        page.locator(".vpd-emt-stage").blur()
        assert "iterations 21 to 46 means of 26" in readout(page)
        assert "belief Ada 0.667 belief <b>Bob – " in readout(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_lines_of_probes_read_on_either_page(chromium: str, tmp_path: Path, scheme: str) -> None:
    contrast = """() => {
      const light = (text) => {
        const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const page = light(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll('.vpd-emt-probe.vpd-line')].map((line) => {
        const own = light(getComputedStyle(line).stroke);
        return (Math.max(own, page) + 0.05) / (Math.min(own, page) + 0.05);
      });
    }"""
    evals = [
        {"step": step, "accuracy": 0.5, "probes": {f"belief/{voice}": 0.1 * n for n, voice in enumerate("ABCDEF")}}
        for step in (0, 60)
    ]
    EMTimeline(rows(), evals=evals).to_html(tmp_path / "six.html")
    with offline_page(chromium, tmp_path / "six.html", color_scheme=scheme) as page:
        found = page.evaluate(contrast)
    assert len(found) == 12  # six lines and their keys
    assert min(found) > 3


@pytest.mark.parametrize("width", [500, 900, 1600])
@pytest.mark.parametrize("probes", [False, True])
def test_nothing_is_cut_or_overlaps(chromium: str, timeline: Path, tmp_path: Path, width: int, probes: bool) -> None:
    overlaps = """() => {
      const problems = [];
      if (document.documentElement.scrollWidth > innerWidth) problems.push('the page scrolls sideways');
      for (const svg of document.querySelectorAll('svg[data-panel]')) {
        const frame = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll('text:not([visibility])')];
        const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
        boxes.forEach(([name, a], i) => {
          if (a.left < frame.left - 0.5 || a.right > frame.right + 0.5) problems.push(`${name} is cut`);
          for (const [other, b] of boxes.slice(i + 1)) {
            const apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
            if (!apart) problems.push(`${name} over ${other}`);
          }
        });
      }
      for (const value of document.querySelectorAll('.vpd-emt-value'))
        if (value.scrollWidth > value.parentElement.clientWidth + 1) problems.push(`${value.textContent} is too wide`);
      return problems;
    }"""
    shown = probed(tmp_path) if probes else timeline
    with offline_page(chromium, shown, viewport={"width": width, "height": 800}) as page:
        page.locator(".vpd-emt-stage").focus()
        page.keyboard.press("Home")
        assert page.evaluate(overlaps) == []


@pytest.mark.parametrize("count", [2, 60])
def test_the_marks_of_warnings_end_with_the_plot(chromium: str, tmp_path: Path, count: int) -> None:
    """Half an iteration's width to either side of its point, but no further than the frame."""
    alarmed = [one | {"warnings": ["no-success: none"]} for one in rows(count)]
    path = tmp_path / "alarmed.html"
    EMTimeline(alarmed, state="complete").to_html(path)
    edges = """(selector) => {
      const box = document.querySelector(selector).getBoundingClientRect();
      return [box.left, box.right];
    }"""
    with offline_page(chromium, path) as page:
        mark, frame = page.evaluate(edges, ".vpd-emt-alarm"), page.evaluate(edges, "svg[data-panel] .vpd-frame")
    assert mark == pytest.approx(frame, abs=1.5)


def test_page_follows_the_colour_scheme(chromium: str, timeline: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with offline_page(chromium, timeline, color_scheme="dark") as page:
        assert page.evaluate(background) == "rgb(18, 21, 26)"
        page.emulate_media(color_scheme="light")
        assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_live_rows_arrive_as_messages(chromium: str, timeline: Path) -> None:
    live = """async (rows) => {
      const { modules } = JSON.parse(document.getElementById('vpd-widgets').textContent);
      const url = URL.createObjectURL(new Blob([modules[0]], { type: 'text/javascript' }));
      const { default: widget } = await import(url);
      const state = { rows: rows.slice(0, 10), evals: [], title: '', kl_target: null, total: 60, state: 'running',
                      reason: '', selected: null };
      const listeners = {};
      const sent = [];
      const model = {
        get: (key) => state[key], set: (key, value) => { state[key] = value; listeners[`change:${key}`]?.(); },
        on: (name, call) => { listeners[name] = call; }, off: (name) => { delete listeners[name]; },
        save_changes: () => sent.push({ selected: state.selected }), send: (message) => sent.push(message),
      };
      const el = document.createElement('div');
      document.body.replaceChildren(el);
      const leave = await widget.render({ model, el });
      const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      const at = () => el.querySelector('.vpd-emt-at').textContent;
      const seen = [at()];
      listeners['msg:custom']({ kind: 'rows', from: 10, rows: rows.slice(10, 12) });
      await frame(); seen.push(at());
      listeners['msg:custom']({ kind: 'rows', from: 11, rows: rows.slice(11, 15) });  // overlaps: the newer counts
      await frame(); seen.push(at());
      listeners['msg:custom']({ kind: 'rows', from: 40, rows: rows.slice(40, 41) });  // a gap: ask for all
      await frame(); seen.push(at());
      model.set('rows', rows);
      await frame(); seen.push(at());
      el.querySelector('.vpd-emt-stage').dispatchEvent(new KeyboardEvent('keydown', { key: 'End' }));
      el.querySelector('.vpd-emt-stage').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter' }));
      leave();
      return { seen, sent, left: Object.keys(listeners) };
    }"""
    with offline_page(chromium, timeline) as page:
        result = page.evaluate(live, json.loads(json.dumps(rows())))
    assert result["seen"] == [f"iteration {step}" for step in (10, 12, 15, 15, 60)]
    assert result["sent"] == [{"kind": "resync"}, {"selected": 60}]
    assert result["left"] == []


def test_two_thousand_rows_draw_at_once(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "long.html"
    EMTimeline(rows(2500)).to_html(path)
    with offline_page(chromium, path) as page:
        assert "iteration 2500" in readout(page)
        points = page.locator("path[data-series=entropy]").get_attribute("d").count("L")
        assert 500 < points < 2500  # thinned


COLOURED = """(selector) => {
  // Whether an element, or what is before it, shows a colour that is neither the canvas nor its text.
  const grey = (colour) => {
    const [r, g, b, a] = colour.match(/[\\d.]+/g).map(Number);
    return a === 0 || (r === g && g === b);
  };
  const shown = (node) => [null, '::before'].flatMap((part) => {
    const style = getComputedStyle(node, part);
    return [style.backgroundColor, style.fill, style.stroke].filter((one) => /^(rgb|color)/.test(one));
  });
  return [...document.querySelectorAll(selector)].filter((node) => shown(node).every(grey)).length;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_data_and_choices_are_seen_with_forced_colours(chromium: str, tmp_path: Path, scheme: str) -> None:
    """High contrast replaces backgrounds and shadows: heat, bars, dots, legends and what is chosen must not go too."""
    path = tmp_path / "all.html"
    tokens = ["The", " 6", "."]
    lens = {
        "tokens": tokens, "kl": [0.5, 1.0, 0.2], "student_logp": [-1.0] * 3, "teacher_logp": [-2.0, -0.5, -1.0],
        "text": "The 6.", "success": False, "step": 1, "index": 0, "problem_id": "a", "prompt": "?",
        "student_top": [["a"]] * 3, "student_top_logp": [[-0.5]] * 3,
        "teacher_top": [["b"]] * 3, "teacher_top_logp": [[-0.5]] * 3,
    }  # fmt: skip
    table = [
        {"text": str(i), "prompt": "?", "success": i == 0, "step": 1, "length": 3, "kl": 0.5, "group": i,
         "implicit_reward": i - 0.5}
        for i in range(2)
    ]  # fmt: skip
    write_page([EMTimeline(rows(8)), RolloutTable(table, selected=1), TokenLens([lens, lens | {"step": 2}])], path)
    context = {"forced_colors": "active", "color_scheme": scheme, "viewport": {"width": 1280, "height": 1200}}
    with offline_page(chromium, path, **context) as page:
        for selector in (
            ".vpd-tl-stage .vpd-tok", ".vpd-tl-bar i", ".vpd-tl-swatch", ".vpd-tl-tick", ".vpd-rt-dot",
            ".vpd-rt-up i", ".vpd-rt-signed i", ".vpd-badge.vpd-right", ".vpd-badge.vpd-wrong",
            ".vpd-heatstrip i:last-child",
            ".vpd-option[aria-pressed=true]",
        ):  # fmt: skip
            assert page.locator(selector).count() > 0, selector
            assert page.evaluate(COLOURED, selector) == 0, selector
        row = page.locator(".vpd-rt-body [aria-selected=true]")
        assert row.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        text = page.locator(".vpd-chart text").first.evaluate("node => getComputedStyle(node).fill")
        assert text == page.locator("body").evaluate("node => getComputedStyle(node).color")


def test_every_tab_stop_has_a_name(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "all.html"
    write_page(
        [EMTimeline(rows(4)), RolloutTable([{"text": "a", "prompt": "b", "success": True}]), TokenLens({"text": "a"})],
        path,
    )
    with offline_page(chromium, path) as page:
        names = page.locator(".vpd [tabindex='0']").evaluate_all("all => all.map((one) => one.ariaLabel ?? '')")
        assert len(names) == 3 and all("rrow" in name or "no tokens" in name for name in names), names


@pytest.mark.slow
def test_an_equal_line_does_not_hide_another(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "equal.html"
    EMTimeline([{"step": step, "kl": 0.5, "kl_teacher": 0.5, "teacher_drift": 0.1} for step in (1, 2)]).to_html(path)
    widths = "all => all.map((one) => [one.dataset.series, getComputedStyle(one).strokeWidth])"
    with offline_page(chromium, path) as page:
        drawn = page.locator("svg[data-panel=trust] path[data-series]").evaluate_all(widths)
        assert [name for name, _ in drawn] == ["teacher_drift", "kl_teacher", "kl"]  # the last is on top
        assert float(drawn[1][1].removesuffix("px")) > 2 * float(drawn[2][1].removesuffix("px"))
