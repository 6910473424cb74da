"""TokenLens: what its Python side takes, sends and refuses, and how it is in a real browser."""

from __future__ import annotations

import json
import math
import re
from array import array
from pathlib import Path
from typing import Any

import pytest
import traitlets
from offline_browser import offline_page, status
from vpdlab_widgets import TokenLens, pack
from vpdlab_widgets.token_lens import pack_record

from vpdlab.show.widget_data import lens_records

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(1)>javascript:alert(1)\x1b[31m\u202e\u2066"


def record(tokens: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    """A record as `lens_records` makes them: three tokens, the second of which the teacher doubts."""
    tokens = tokens or ["The", " 6", "\n"]
    n = len(tokens)
    logp, doubt = [-0.5] * n, [-0.25, *[-2.0] * (n - 1)]
    tops = [[token, " 5"] for token in tokens]
    return {
        "step": 3, "problem_id": "a", "group": 0, "index": 1, "prompt": "What is 877 + 760?", "text": "".join(tokens),
        "success": False, "reward": 0.0, "finished": True, "source": "verifier", "reason": "", "beta": 0.1,
        "critique": "The tens digit is wrong.", "demonstration": None, "truncated": 0, "implicit_reward": -0.2,
        "tokens": tokens, "student_logp": logp, "teacher_logp": doubt, "kl": [i / n for i in range(n)],
        "divergence": None, "student_entropy": [0.5] * n, "teacher_entropy": [0.25] * n,
        "student_top": tops, "student_top_logp": [[-0.5, -1.5]] * n,
        "teacher_top": tops, "teacher_top_logp": [[d, -0.3] for d in doubt],
        "student_context": ["<|user|>", "What"], "teacher_context": ["<|user|>", "What", "\n", "wrong"],
        "student_rank": [1] * n, "teacher_rank": [1, 2, *[None] * (n - 2)], "weights": {"gate": [0.1] * n},
    } | fields  # fmt: skip


def explained(**fields: Any) -> dict[str, Any]:
    """A record whose run says what the formulas are made of: reverse KL on the full vocabulary, a failure."""
    probability = [math.exp(-0.5)] * 3
    teacher = [math.exp(-0.25), math.exp(-2.0), math.exp(-2.0)]
    divergence = [0.1, 0.4, 0.2]
    pushes = [p * (math.log(q / p) + d) for p, q, d in zip(probability, teacher, divergence, strict=True)]
    settings = {
        "method": "sdpo", "steps": 9, "temperature": 1.0, "aggregate": "token", "alpha": 1.0, "support": "full",
        "top_k": 100, "tail": "bucket", "is_clip": 0.0, "clip_low": 0.2, "clip_high": 0.28, "kl_coef": 0.0,
        "nsr_weight": 1.0, "rl_weight": 1.0, "opd_weight": 1.0, "reweight_alpha": 1.0, "reweight_steps": 0,
        "reweight_clip": 0.2, "sdar_weight": 0.01, "sdar_gate": "difference", "sdar_sharpness": 5.0,
        "distil_local": True, "distil_future": True, "distil_discount": 1.0, "distil_baseline": False, "opsd_clip": 1.0,
        "advantage": "none",
    }  # fmt: skip
    told = {
        "settings": settings, "signal": True, "advantage": -0.5, "token_weight": 0.01, "heard_weight": 0.02,
        "success_weight": None, "sampled_logp": [-0.5, -0.75, -0.5], "alpha_divergence": divergence,
        "alpha_divergence_push": pushes, "alpha_divergence_part": None, "cross_entropy": [0.5, 1.0, 0.5],
        "cross_entropy_push": [q - p for p, q in zip(probability, teacher, strict=True)],
        "clipped_kl": [0.1] * 3, "clipped_kl_push": [0.125] * 3, "clipped_kl_part": [0.9] * 3,
        "to_come": [1.5, 0.5, 0.0], "entropy_share": [0.1] * 3, "reference_logp": None,
    }  # fmt: skip
    return record(**told | fields)


def unpacked(data: bytes, kind: str = "f") -> list[float]:
    return array(kind, data).tolist()


# -- Python ------------------------------------------------------------------------------------------------------


def test_long_lists_travel_as_bytes() -> None:
    packed = pack_record(record(kl=[0.25, None, math.inf]))
    assert unpacked(packed["numbers"]["kl"])[0] == 0.25
    assert all(math.isnan(value) for value in unpacked(packed["numbers"]["kl"])[1:])
    assert packed["tokens"]["text"] == b"The 6\n"
    assert unpacked(packed["tokens"]["ends"], "i") == [3, 5, 6]
    assert "divergence" not in packed["numbers"]
    assert unpacked(packed["tops"]["student"]["ids"], "i") == [0, 1, 2, 1, 3, 1]
    assert packed["words"]["text"].decode() == "The 5 6\n"
    json.dumps(packed["meta"], allow_nan=False)


def test_offsets_count_as_javascript_does() -> None:
    packed = pack.texts(["é", "😀", "", "\ud83d"])
    assert unpacked(packed["ends"], "i") == [1, 3, 3, 4]
    assert packed["text"].decode() == "é😀\ufffd"


def test_shorter_lists_are_filled() -> None:
    packed = pack_record(record(["a", "b"], student_top=[["a"], ["b", "c"]], student_top_logp=[[-0.1], [-0.2, -3.0]]))
    assert unpacked(packed["tops"]["student"]["ids"], "i") == [0, -1, 1, 2]


def test_a_record_without_token_numbers_keeps_its_text() -> None:
    packed = pack_record({"text": "The 6", "tokens": None, "kl": None, "step": 1})
    assert packed == {"meta": {"text": "The 6", "step": 1}}


def test_a_teacher_that_was_not_recorded_is_left_out() -> None:
    lists = dict.fromkeys([key for key in record() if key.startswith("teacher_")]) | {"kl": None}
    packed = pack_record(record(**lists))
    assert set(packed["tops"]) == set(packed["contexts"]) == {"student"}
    assert "teacher_logp" not in packed["numbers"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kl": [0.1]}, r"records\[1\].kl: 1 numbers for 3 tokens"),
        ({"weights": {"gate": [1.0]}}, r"records\[1\].weights.gate: 1 numbers for 3 tokens"),
        ({"teacher_top": [["a"]]}, r"records\[1\].teacher_top: 1 and 3 lists for 3 tokens"),
        ({"student_top": [["a"]] * 3}, r"records\[1\].student_top\[0\]: 1 tokens with 2 numbers"),
    ],
)
def test_a_list_of_another_length_is_refused_with_its_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenLens([record(), record(**fields)])


def test_colour_and_index_are_checked() -> None:
    assert TokenLens(record(), colour="gate").colour == "gate"
    with pytest.raises(ValueError, match="colour 'loss' is not one of kl, ratio"):
        TokenLens(record(), colour="loss")
    with pytest.raises(ValueError, match="index 2 is not one of the 2 records"):
        TokenLens([record(), record()], index=2)
    with pytest.raises(TypeError, match="unknown keyword 'packed'"):
        TokenLens(record(), packed=[])


def test_a_table_drives_it_by_an_ordinary_link() -> None:
    class Table(traitlets.HasTraits):
        selected = traitlets.Int(None, allow_none=True)

    table, lens = Table(), TokenLens([record(), record(index=2)])
    traitlets.link((table, "selected"), (lens, "index"))
    assert lens.record is None
    table.selected = 1
    assert lens.record is not None
    assert lens.record["index"] == 2


def test_a_click_in_the_browser_is_a_state_in_python() -> None:
    lens = TokenLens(record())
    click = {"method": "update", "state": {"selected": 2}, "buffer_paths": []}
    lens._handle_msg({"content": {"data": click}, "buffers": []})
    assert lens.selected == 2


def test_fallback_is_escaped_capped_and_coloured() -> None:
    lens = TokenLens(record(["The", HOSTILE, "x" * 100_000]), title=HOSTILE)
    text = lens.fallback()
    assert "<script" not in text
    assert "<img" not in text
    assert not set("\x1b\u202e\u2066") & set(text)
    assert len(text) < 4000
    assert "rgba(230,97,1,0.74)" in text
    assert "no response" in TokenLens([]).fallback()


def test_records_of_a_run_become_items() -> None:
    ids = {"response_ids": [5, 6, 7], "student_top_ids": [[5, 9], [5, 6], [1, 2]], "teacher_top_ids": None}
    (item,) = lens_records([record() | ids], beta=0.1, weights={"gate": [[1.0, 2.0, 3.0]]})
    assert item["student_rank"] == [1, 2, None]
    assert item["teacher_rank"] is None
    assert item["weights"] == {"gate": [1.0, 2.0, 3.0]}
    assert "response_ids" not in item
    TokenLens(item)
    (bare,) = lens_records([{"step": 1, "text": "x", "tokens": None}])
    TokenLens(bare)


# -- in the browser ----------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, records: Any, **options: Any) -> Path:
    path = tmp_path / "lens.html"
    TokenLens(records, **options).to_html(path)
    return path


@pytest.mark.slow
def test_keys_walk_pin_and_leave(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record())) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        page.keyboard.press("Tab")
        assert page.locator(".vpd-tl-stage").evaluate("node => node === document.activeElement")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert status(page) == "token 2 of 3 “·6” · KL 0.333 nats · π 60.7 % · q 13.5 %"
        page.keyboard.press("Enter")
        assert "pinned" in status(page)
        page.keyboard.press("End")
        assert "token 3 of 3 “⏎”" in status(page)
        page.keyboard.press("c")
        assert "log q/π −1.5 nats" in status(page)
        page.keyboard.press("Escape")
        assert "token 2 of 3 “·6”, pinned" in status(page)
        page.keyboard.press("Escape")
        assert status(page).startswith("3 tokens.")
        page.keyboard.press("b")
        assert page.evaluate("heard") == ["Tab"]
        page.keyboard.press("Escape")  # nothing left to leave: the notebook may have it
        assert page.evaluate("heard") == ["Tab", "Escape"]
        page.keyboard.press("Tab")  # one tab stop: the next leaves the widget
        assert page.evaluate("document.activeElement === document.body")


@pytest.mark.slow
def test_pointer_shows_both_distributions_and_pins(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(), colour="ratio")) as page:
        token = page.locator(".vpd-tl-stage .vpd-tok", has_text="6")
        assert "vpd-down" in token.get_attribute("class")
        token.hover()
        rows = page.locator(".vpd-tl-row").all_inner_texts()
        assert [re.sub(r"\s+", " ", row) for row in rows[1:3]] == ["22.3 % ·5 74.1 %", "60.7 % ·6 13.5 %"]
        assert "log q/π −1.5" in re.sub(r"\s+", " ", page.locator(".vpd-tl-figures").inner_text())
        token.click()
        page.mouse.move(2, 2)
        assert "token 2 of 3 “·6”, pinned" in status(page)


@pytest.mark.slow
def test_slider_walks_the_rollouts_of_one_problem(chromium: str, tmp_path: Path) -> None:
    items = [record(step=step, problem_id=problem) for problem, step in (("a", 9), ("b", 1), ("a", 4))]
    with offline_page(chromium, page_of(tmp_path, items)) as page:
        assert page.locator(".vpd-tl-where").inner_text() == "iteration 9 · rollout 2"
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("[")
        page.wait_for_function("document.querySelector('.vpd-tl-where').textContent.startsWith('iteration 4')")
        page.locator(".vpd-tl-problem").select_option("b")
        page.wait_for_function("!document.querySelector('.vpd-tl-where')")  # a single rollout has no slider


@pytest.mark.slow
def test_the_slider_can_be_dragged_and_keys_never_leave(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, [record(step=step) for step in range(1, 12)])) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        box = page.locator(".vpd-tl-range").bounding_box()
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 8, y)
        page.mouse.down()
        for share in (0.2, 0.35, 0.5):  # a frame passes between, in which the widget draws anew
            page.mouse.move(box["x"] + share * box["width"], y)
            page.wait_for_timeout(60)
        page.mouse.up()
        assert page.locator(".vpd-tl-where").inner_text().startswith("iteration 6 ")
        page.keyboard.press("x")  # the slider has the focus
        page.locator(".vpd-option", has_text="entropy q").click()
        page.keyboard.press("x")  # the button that was pressed is gone
        page.keyboard.press("ArrowRight")
        assert "entropy q 0.25 nats" in status(page)
        assert page.evaluate("heard") == []
        page.keyboard.press("Shift+Enter")  # runs the notebook's next cell
        assert page.evaluate("heard") == ["Enter"]


@pytest.mark.slow
def test_xray_shows_exact_tokens_and_marks_what_the_teacher_alone_reads(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(truncated=7))) as page:
        own = page.locator(".vpd-tl-own .vpd-tok").evaluate_all("all => all.map((one) => one.textContent)")
        assert own == ["\n", "wrong"]
        assert "7 truncated" in page.locator(".vpd-tl-side.vpd-tl-teacher").inner_text()
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("ArrowRight")
        places = page.locator(".vpd-tl-divide").all_inner_texts()
        assert places == ["response token 1 is at position 3", "response token 1 is at position 5"]
        page.keyboard.press("x")
        assert page.locator(".vpd-tl-xray").is_hidden()


@pytest.mark.slow
def test_hostile_text_is_text(chromium: str, tmp_path: Path) -> None:
    tokens = [HOSTILE, "\n", "x" * 100_000]
    hostile = record(tokens, prompt=HOSTILE, critique=HOSTILE, source=HOSTILE, student_context=[HOSTILE])
    with offline_page(chromium, page_of(tmp_path, [hostile, hostile], title=HOSTILE)) as page:
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".vpd-tl-side").count() == 2
        assert page.locator(".vpd img, .vpd script, .vpd a").count() == 0
        text = page.locator(".vpd").inner_text()
        assert not set("\x1b\u202e\u2066") & set(text)
        assert "<script>alert(1)</script>" in page.locator(".vpd-tl-stage").inner_text()


@pytest.mark.slow
def test_text_without_numbers_says_why(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, {"text": "only words", "tokens": None})) as page:
        assert "only words" in page.locator(".vpd-tl-stage").inner_text()
        assert "record_tokens" in page.locator(".vpd-tl-controls").inner_text()
        assert page.locator(".vpd-tl-card").is_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_the_page_never_scrolls_sideways(chromium: str, tmp_path: Path, width: int) -> None:
    path = page_of(tmp_path, [record(["word"] * 90), record(["word"] * 90, index=2)])
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("x")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_coloured_text_stays_readable(chromium: str, tmp_path: Path, scheme: str) -> None:
    contrasts = """() => {
      const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
      const paint = (...colours) => {
        context.clearRect(0, 0, 1, 1);
        for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
      const light = (rgb) => rgb.reduce((sum, c, i) => sum + linear(c / 255) * [0.2126, 0.7152, 0.0722][i], 0);
      const stage = document.querySelector('.vpd-tl-stage');
      const result = {};
      for (const way of ['up', 'down']) for (let level = 1; level <= 8; level++) {
        const token = document.createElement('span');
        token.className = `vpd-tok vpd-${way}${level}`;
        stage.append(token);
        const style = getComputedStyle(token);
        const page = getComputedStyle(document.body).backgroundColor;
        const [back, text] = [light(paint(page, style.backgroundColor)), light(paint(style.color))];
        result[way + level] = (Math.max(back, text) + 0.05) / (Math.min(back, text) + 0.05);
      }
      return result;
    }"""
    with offline_page(chromium, page_of(tmp_path, record()), color_scheme=scheme) as page:
        found = page.evaluate(contrasts)
    assert len({round(value, 3) for value in found.values()}) == 16
    assert min(found.values()) >= 4.5, found


IN_SIGHT = """(node) => {
  const [box, at] = [node.closest('.vpd-tl-stage').getBoundingClientRect(), node.getBoundingClientRect()];
  return at.top >= box.top && at.bottom <= box.bottom;
}"""
MOVE = """() => {
  const start = performance.now();
  document.querySelector('.vpd-tl-stage').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
  return performance.now() - start;
}"""


@pytest.mark.slow
def test_twenty_thousand_tokens_stay_fluid(chromium: str, tmp_path: Path) -> None:
    tokens = [" word" if i % 50 else "\n" for i in range(20_000)]
    with offline_page(chromium, page_of(tmp_path, record(tokens))) as page:
        sizes = page.locator(".vpd-chunk").evaluate_all("all => all.map((one) => one.childElementCount)")
        assert sum(sizes) == 20_000
        assert max(sizes) <= 400
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("End")
        assert "token 20000 of 20000" in status(page)
        assert page.locator(".vpd-tl-stage .vpd-tl-at").evaluate(IN_SIGHT)
        assert page.evaluate(MOVE) < 250  # milliseconds; about 5 on a quiet machine


FIGURES = """() => {
  // One significant digit more than three, in any number that is not a count.
  const long = /(?<![\\d.])\\d*\\.\\d+/g;
  return [...document.querySelectorAll('.vpd *')].filter((node) => node.childElementCount === 0).flatMap((node) =>
    (node.textContent.match(long) ?? []).filter((text) => text.replace('.', '').replace(/^0+/, '').length > 3));
}"""
OVERLAPS = """(selector) => {
  const boxes = [...document.querySelectorAll(selector)].map((node) => {
    const range = document.createRange();
    range.selectNodeContents(node);
    return [node.textContent, range.getBoundingClientRect()];
  });
  return boxes.flatMap(([text, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    a.right > b.left + 0.5 && b.right > a.left + 0.5 && a.bottom > b.top + 1 && b.bottom > a.top + 1,
  ).map(([other]) => `${text} over ${other}`));
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [900, 1280])
def test_settled_tokens_have_short_numbers_that_do_not_overlap(chromium: str, tmp_path: Path, width: int) -> None:
    """Both sides nearly certain: log ratios of a millionth, which used to be written with eleven characters."""
    tokens = ["1", "6", "3", "7", ".", "The", " answer", " is", " 1637", ".", "<|end|>"]
    settled = [-0.0000054836 * (1 + i / 7) for i in range(len(tokens))]
    ours = record(tokens, student_logp=[-1.23456e-5] * len(tokens), teacher_logp=settled, kl=[1.23456e-6] * len(tokens))
    for colour in ("ratio", "kl", "reward"):
        path = tmp_path / f"{colour}.html"
        TokenLens(ours, colour=colour, selected=3).to_html(path)
        with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
            assert page.evaluate(FIGURES) == []
            assert page.evaluate(OVERLAPS, ".vpd-tl-figure .vpd-num") == []
            assert page.evaluate(OVERLAPS, ".vpd-tl-number") == []
            assert "1 token " not in page.locator(".vpd-tl-status").inner_text()


# -- why this push -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 900, 1280])
def test_no_percentage_is_cut_and_bars_and_corner_stand_in_line(chromium: str, tmp_path: Path, width: int) -> None:
    """`0.00022 %` is wider than `94.6 %`: the columns of both sides are as wide as their widest, in every row."""
    long = [-13.0, -13.0], [-13.3, -0.05]  # 0.00023 %, 0.00017 %
    tops = {"student_top_logp": [long[1]] * 3, "teacher_top_logp": [long[0]] * 3}
    tiny = record(student_logp=[-13.3] * 3, teacher_logp=[-13.0] * 3, **tops)
    path = page_of(tmp_path, [tiny])
    widest = """() => [...document.querySelectorAll('.vpd-tl-share')].map((one) => one.scrollWidth - one.clientWidth)"""
    starts = """(side) => [...document.querySelectorAll(`.vpd-tl-bar-${side}`)].map((one) => {
      const box = one.getBoundingClientRect();
      return [Math.round(box.left), Math.round(box.right)].join();
    })"""
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        corner, root = (page.locator(one).bounding_box() for one in (".vpd-head > .vpd-save", ".vpd-tl"))
        assert corner["x"] + corner["width"] == pytest.approx(root["x"] + root["width"], abs=1)
        page.locator(".vpd-tl-stage .vpd-tok").first.click()
        page.add_style_tag(content=".vpd-tl-share { font-size: 14px !important; }")  # a reader's larger font
        assert "0.00023 %" in page.locator(".vpd-tl-bars-table").inner_text()
        assert page.evaluate(widest) == [0] * page.locator(".vpd-tl-share").count()
        for side in ("student", "teacher"):
            assert len(set(page.evaluate(starts, side))) == 1


def formula(page: Any) -> list[str]:
    """The two equations, each in symbols and in numbers, without white space."""
    rows = page.locator(".vpd-math mtr").all_text_contents()
    return [re.sub(r"[\s\u2062]", "", row) for row in rows]


def methods(page: Any) -> dict[str, list[str]]:
    rows = page.locator(".vpd-tl-methods tr").evaluate_all(
        "all => all.map((r) => [...r.cells].map((c) => c.innerText))"
    )
    return {name: cells for name, *cells in rows[1:]}


@pytest.mark.slow
def test_the_formula_has_this_token_s_numbers(chromium: str, tmp_path: Path) -> None:
    """Token 2: π 0.607, q 0.135, sampled at 0.472; its divergence is 0.4 and its advantage −0.5."""
    with offline_page(chromium, page_of(tmp_path, explained(), selected=1)) as page:
        assert page.locator(".vpd-tl-why").is_hidden()
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("w")
        assert formula(page) == ["ℓt=Dt", "=0.4", "uy=−∂ℓt∂zy=πy(dt+Dt)", "=0.607·(−1.5+0.4)=−0.667"]
        assert "1/50" in page.locator(".vpd-tl-why-line").inner_text()
        page.keyboard.press("m")
        page.keyboard.press("m")
        assert formula(page)[:2] == [
            "ℓt=−min(ρtA,clip(ρt,1−ε,1+ε′)A)",
            "=−min(1.28·(−0.5),clip(1.28,0.8,1.28)·(−0.5))=0.642",
        ]
        assert formula(page)[3] == "=1.28·(−0.5)·1·0.393=−0.253"
        terms = page.locator(".vpd-tl-terms tr").all_inner_texts()
        assert any("−0.5" in term and "advantage" in term for term in terms)
        found = methods(page)
        assert found["sdpo (this run)"] == ["+0.4", "−0.667", "−1.33"]  # a mean over half as many tokens
        assert found["grpo"] == ["+0.642", "−0.253", "−0.253"]
        assert "teacher sampled itself" in found["rltf"][0]
        assert found["opsd"][1] == "+0.125"  # no closed form gives it: the recorded number
        page.keyboard.press("ArrowRight")
        assert formula(page)[3] == "=1·(−0.5)·1·0.393=−0.197"
        page.locator(".vpd-tl-methods tr", has_text="distil").first.click()
        assert formula(page)[0] == "ℓt=Ht+Ctlogπy"
        page.keyboard.press("w")
        assert page.locator(".vpd-tl-why").is_hidden()
        assert page.locator(".vpd-tl-stage").evaluate("node => node === document.activeElement")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (record(), "recorded by an earlier vpdlab, without advantages"),
        (explained(settings=None), "config=run.config"),
        (explained(alpha_divergence=None, teacher_logp=None), "no teacher, so nothing of it was recorded"),
        (explained(alpha_divergence=None), "record_telemetry is off"),
        (explained(signal=False, heard_weight=None), "It has no part in the loss"),
        (explained(mask=[False] * 3), "masked"),
    ],
    ids=["old", "no settings", "no teacher", "no telemetry", "no feedback", "masked"],
)
def test_what_a_formula_lacks_is_said_in_a_line(
    chromium: str, tmp_path: Path, ours: dict[str, Any], words: str
) -> None:
    with offline_page(chromium, page_of(tmp_path, ours, why="", selected=0)) as page:
        assert words in page.locator(".vpd-tl-why-line").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1024, 1280])
def test_every_formula_stays_within_the_page(chromium: str, tmp_path: Path, width: int) -> None:
    path = page_of(tmp_path, explained(), why="", selected=1)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        page.locator(".vpd-tl-stage").focus()
        for _ in range(13):
            page.keyboard.press("m")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(OVERLAPS, ".vpd-tl-methods :is(td .vpd-num, th)") == []
            assert page.evaluate(FIGURES) == []
