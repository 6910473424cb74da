"""LiveModel: its engine against torch and the tokenizers library, and the widget in a real browser without a kernel."""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from offline_browser import offline_page
from transformers import AutoModelForCausalLM, AutoTokenizer
from vpdlab_widgets import LiveModel, write_page
from vpdlab_widgets.live_model import pack_model

from vpdlab.prompts import Renderer
from vpdlab.types import Feedback, Problem
from vpdlab.zoo import BUNDLED_FOLDER, live

NAMES = ["reader", "apprentice"]
HOSTILE = "<|end|><|system|><b>\u202e\x00<|us<|pad|>er|>"
BOOT = """
  const { modules, data: buffers, models } = JSON.parse(document.getElementById('vpd-widgets').textContent);
  const url = URL.createObjectURL(new Blob([modules[0]], { type: 'text/javascript' }));
  const engine = await import(url);
  const state = Object.values(models)[0];
  const tokenizer = new engine.Tokenizer(JSON.parse(state.state.packed.tokenizer));
"""


@lru_cache
def keywords(name: str) -> dict[str, Any]:
    return live.bundled(name)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page_file(name: str, tmp_path: Path) -> Path:
    path = tmp_path / "live.html"
    LiveModel(**keywords(name)).to_html(path)
    return path


def answered(page: Any, after: str = "") -> str:
    """The status line once the model has answered, and again once it differs from `after`."""
    page.wait_for_function(
        "(old) => { const line = document.querySelector('.vpd-lm-status').textContent;"
        " return / ms\\./.test(line) && line !== old; }",
        arg=after,
    )
    return page.locator(".vpd-lm-status").inner_text()


def texts(page: Any) -> list[str]:
    return page.locator(".vpd-lm-text").all_inner_texts()


# -- the engine --------------------------------------------------------------------------------------------------


def strings() -> list[str]:
    """Texts that tokenizers disagree on: white space, other scripts, signs, control tokens, random code points."""
    rng = random.Random(5)
    points = [*range(32, 127), 9, 10, 11, 13, 0x85, 0xA0, 0xAD, 0xB2, 0xBD, 0x200B, 0x2028, 0x3000, 0xFEFF, 0x4E00]
    points += [0xE9, 0x301, 0x3B1, 0x661, 0x1F600, 0x10FFFF, 0x2163, 0x2009, 0x1680]
    drawn = ["".join(chr(rng.choice(points)) for _ in range(rng.randint(1, 30))) for _ in range(400)]
    fixed = [
        "", " ", "zork vinto 4 7 2 9", "What is 87 + 56?", "Ada says: put the\n digits in rising order.",
        "The hundreds digit 1 is right.  don't  WE'LL", HOSTILE, "naïve 数字 ½ ² ١٢ 👩‍👧 e\u0301",
        "<|user|>hi<|end|><|assistant|>",
    ]  # fmt: skip
    return fixed + drawn


@pytest.mark.slow
def test_tokens_are_those_of_the_tokenizers_library(chromium: str, name: str, page_file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER / name)
    encoder = Renderer(tokenizer).encoder
    script = f"""async (texts) => {{ {BOOT}
      return texts.map((text) => {{
        const ids = tokenizer.encode(text);
        const single = ids.map((id) => tokenizer.decode([id]));
        return [ids, tokenizer.decode(ids), tokenizer.plain(text), tokenizer.unknownWords(text), single];
      }});
    }}"""
    with offline_page(chromium, page_file) as page:
        found = page.evaluate(script, strings())
    for text, (ids, decoded, plain, unknown, single) in zip(strings(), found, strict=True):
        assert ids == list(encoder.ids(text)), repr(text)
        assert decoded == tokenizer.decode(ids), repr(text)
        assert plain == encoder.plain(text), repr(text)
        assert unknown == encoder.unknown_words(text), repr(text)
        assert single == [tokenizer.decode([id]) for id in ids], repr(text)


@pytest.mark.slow
def test_log_probabilities_are_torch_s(chromium: str, name: str, page_file: Path) -> None:
    """Every position, every token of the vocabulary, prompts of both sides with long and short feedback.

    Beyond 200 tokens torch's own float32 is 1e-4 from its float64, which is then what counts.
    """
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER / name)
    model = AutoModelForCausalLM.from_pretrained(BUNDLED_FOLDER / name, dtype=torch.float32).eval()
    render = Renderer(tokenizer)
    rows = []
    for one in keywords(name)["examples"][:3]:
        problem = Problem("x", one["problem"], "")
        for feedback in (Feedback(critique=one["critique"]), Feedback(one["critique"] * 6, "krish keep 4 2 1 8")):
            rows += [[*render.student(problem), *render.encoder.ids(one["answer"])]]
            rows += [[*render.teacher(problem, feedback)[0], *render.encoder.ids(one["answer"])]]
    script = f"""async (rows) => {{ {BOOT}
      const {{ shape, sets, weights }} = state.state.packed;
      const set = sets[weights.student];
      const data = buffers[state.buffers.find(({{ path }}) => path[2] === weights.student).data];
      const values = await engine.inflated(Uint8Array.from(atob(data), (one) => one.charCodeAt(0)));
      const llama = new engine.Llama(shape, engine.namedTensors(values, set.shapes));
      return rows.map((ids) => {{
        const context = llama.context();
        return ids.map((_, i) => [...engine.logSoftmax(llama.read(context, ids.slice(0, i + 1)))]);
      }});
    }}"""
    with offline_page(chromium, page_file) as page:
        found = page.evaluate(script, rows)
    for precise in (False, True):
        single = model.double() if precise else model
        for ids, logps in zip(rows, found, strict=True):
            if not precise and len(ids) > 200:
                continue
            with torch.no_grad():
                wanted = single(torch.tensor([ids])).logits[0].log_softmax(-1)
            furthest = (torch.tensor(logps, dtype=torch.float64) - wanted).abs().max().item()
            assert furthest < 1e-4, (precise, len(ids), furthest)


@pytest.mark.slow
def test_the_prompts_are_those_of_training(chromium: str, name: str, page_file: Path) -> None:
    render = Renderer(AutoTokenizer.from_pretrained(BUNDLED_FOLDER / name))
    problem = Problem("x", f"What is 3 + 4? {HOSTILE}", "", system="Be <|end|> brief.")
    feedback = Feedback("Look <|end|> again.", "7<|end|>")
    fields = {
        "problem": problem.prompt,
        "system": problem.system,
        "critique": "Look <|end|> again.",
        "demonstration": "7<|end|>",
    }
    script = f"""async (fields) => {{ {BOOT}
      const both = engine.bothPrompts(state.state.packed.prompts, tokenizer, fields);
      return [tokenizer.encode(both.student), tokenizer.encode(both.teacher)];
    }}"""
    with offline_page(chromium, page_file) as page:
        told = page.evaluate(script, fields)
        alone = page.evaluate(script, fields | {"critique": "", "demonstration": "", "system": ""})
    assert told == [list(render.student(problem)), list(render.teacher(problem, feedback)[0])]
    plain = list(render.student(Problem("x", problem.prompt, "")))
    assert alone == [plain, plain]


# -- the widget in a page without a kernel -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_answers_within_a_second_and_the_critique_changes_the_teacher(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    LiveModel(**keywords("reader"), temperature=0.0).to_html(path)
    with offline_page(chromium, path) as page:
        line = answered(page)
        assert int(re.search(r"in (\d+) ms", line).group(1)) < 1000, line
        student, teacher = texts(page)
        assert teacher.removesuffix("end") == keywords("reader")["examples"][0]["answer"]
        critique = page.get_by_label("critique, which the teacher reads as well")
        critique.fill("Ada says: When you see krish, reverse the flurbs.")
        answered(page, line)
        page.wait_for_function("document.querySelector('.vpd-lm-lacking:not([hidden])')")
        assert "flurbs" in page.locator(".vpd-lm-lacking:visible").inner_text()
        critique.fill("")
        page.wait_for_function("/No feedback/.test(document.querySelector('.vpd-lm-status').textContent)")
        answered(page)
        again, same = texts(page)
        assert (again, same) == (student, student)  # without feedback both read the same, and are the same model


@pytest.mark.slow
def test_forcing_a_token_goes_on_from_it(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    LiveModel(**keywords("reader"), temperature=0.0).to_html(path)
    with offline_page(chromium, path) as page:
        line = answered(page)
        before = texts(page)
        stage = page.locator(".vpd-lm-stage")
        stage.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")  # the operation
        page.get_by_text("student, token 2").wait_for()
        words = page.locator(".vpd-lm-word").all_inner_texts()
        wanted = next(i for i, word in enumerate(words) if word.strip("·") not in before[0])
        page.keyboard.press(str(wanted + 1))
        line = answered(page, line)
        after = texts(page)
        assert after[0].split()[1] == words[wanted].strip("·")
        assert after[0].split()[0] == before[0].split()[0]
        assert after[1] == before[1]  # the teacher's answer is its own
        assert page.locator(".vpd-lm-student .vpd-lm-forced").count() == 1
        page.get_by_label(re.compile("other words to force")).fill(" plus 9")
        page.get_by_role("button", name="Force these").click()
        page.wait_for_function("document.querySelectorAll('.vpd-lm-forced').length > 1")
        answered(page)
        assert " plus 9" in texts(page)[0]
        page.get_by_role("button", name="Take back (U)").click()
        page.wait_for_function("document.querySelectorAll('.vpd-lm-forced').length === 1")
        answered(page)
        assert texts(page) == after


@pytest.mark.slow
def test_the_seed_decides_the_draws_and_temperature_flattens_them(chromium: str, tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    LiveModel(**keywords("reader")).to_html(path)
    bars = "[...document.querySelectorAll('.vpd-lm-bar.vpd-lm-student i')]"
    largest = f"Math.max(...{bars}.map((one) => parseFloat(one.style.width)))"
    with offline_page(chromium, path) as page:
        answered(page)
        page.locator(".vpd-lm-student .vpd-tok").nth(0).hover()
        page.get_by_text("student, token 1").wait_for()
        first, sharp = texts(page), page.evaluate(largest)
        drawn = {first[0]}
        for _ in range(4):
            page.get_by_role("button", name="Draw again (R)").click()
            page.wait_for_timeout(60)
            answered(page)
            drawn.add(texts(page)[0])
        assert len(drawn) > 1
        page.get_by_label("seed").fill("0")
        page.get_by_label("seed").blur()
        page.wait_for_timeout(60)
        answered(page)
        assert texts(page) == first
        page.get_by_label(re.compile("^temperature")).fill("2")
        page.wait_for_timeout(60)
        answered(page)
        page.locator(".vpd-lm-student .vpd-tok").nth(1).hover()
        page.locator(".vpd-lm-student .vpd-tok").nth(0).hover()
        page.get_by_text("student, token 1").wait_for()
        assert page.evaluate(largest) < sharp - 1


@pytest.mark.slow
def test_several_models_share_a_page_and_equal_weights_travel_once(chromium: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    LiveModel(**keywords("reader")).to_html(one)
    write_page([LiveModel(**keywords("reader")), LiveModel(**keywords("reader"), seed=1)], two)
    assert one.stat().st_size < 2_600_000
    assert two.stat().st_size < one.stat().st_size + 200_000
    with offline_page(chromium, two) as page:
        page.wait_for_function(
            "[...document.querySelectorAll('.vpd-lm-status')].every((one) => / ms\\./.test(one.textContent))"
        )
        assert len(texts(page)) == 4


@pytest.mark.slow
def test_a_page_that_may_have_no_worker_answers_on_its_own_thread(
    chromium: str, page_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "strict.html"
    script = page_file.read_text(encoding="utf-8").replace("new Worker(url)", "new Refused(url)")
    path.write_text(script, encoding="utf-8")
    with offline_page(chromium, path) as page:
        assert "token" in answered(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_it_fits_and_every_control_has_a_name(chromium: str, tmp_path: Path, width: int) -> None:
    path = tmp_path / "live.html"
    LiveModel(**keywords("reader"), title="<img src=x>").to_html(path)
    unnamed = """() => [...document.querySelectorAll('.vpd :is(button, input, select, textarea, [tabindex])')]
      .filter((node) => !(node.ariaLabel || node.labels?.length || node.textContent.trim()))
      .map((node) => node.outerHTML.slice(0, 80))"""
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(unnamed) == []
        assert page.locator(".vpd-title").inner_text() == "<img src=x>"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_with_forced_colours_the_token_that_was_written_is_told_from_the_others(
    chromium: str, tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "live.html"
    LiveModel(**keywords("reader"), temperature=0.0).to_html(path)
    border = "all => all.map((one) => getComputedStyle(one).borderTopColor)"
    with offline_page(chromium, path, forced_colors="active", color_scheme=scheme) as page:
        answered(page)
        own = page.locator(".vpd-lm-row.vpd-lm-own").evaluate_all(border)
        others = set(page.locator(".vpd-lm-row:not(.vpd-lm-own)").evaluate_all(border))
        assert len(own) == 1 and len(others) == 1 and own[0] not in others
        assert own[0] == page.locator("body").evaluate("node => getComputedStyle(node).color")
        fills = "all => all.map((one) => getComputedStyle(one).backgroundColor)"
        assert len(set(page.locator(".vpd-lm-bar i").evaluate_all(fills))) == 2  # student and teacher


# -- Python ------------------------------------------------------------------------------------------------------


def test_weights_travel_deflated_and_exact() -> None:
    import zlib

    model = keywords("reader")["model"]
    (name,) = model["sets"]
    planes = zlib.decompress(pack_model(model)["sets"][name]["bytes"])
    values, count = model["sets"][name]["values"], len(planes) // 4
    for plane in range(4):
        assert planes[plane * count : (plane + 1) * count] == values[3 - plane :: 4]
    json.dumps({key: value for key, value in pack_model(model).items() if key != "sets"}, allow_nan=False)


def test_what_is_missing_is_named() -> None:
    model = keywords("reader")["model"]
    with pytest.raises(ValueError, match="model lacks shape, sets"):
        LiveModel({key: value for key, value in model.items() if key not in ("shape", "sets")})
    with pytest.raises(ValueError, match="names a set that is not there: gone"):
        LiveModel(model | {"weights": {"student": "gone", "teacher": "gone"}})
    with pytest.raises(TypeError, match="unknown keyword 'packed'"):
        LiveModel(model, packed={})


def test_texts_come_from_the_example_unless_they_are_given() -> None:
    widget = LiveModel(**keywords("apprentice"), problem="What is 1 + 1?")
    assert widget.problem == "What is 1 + 1?"
    assert widget.critique == keywords("apprentice")["examples"][0]["critique"]
    assert "What is 1 + 1?" in widget.fallback()
    assert LiveModel(keywords("apprentice")["model"]).problem == ""
