"""CritiqueInfluence: what its Python side sends, where it lets the model work, and how it is in a real browser."""

from __future__ import annotations

import asyncio
import json
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page, status
from vpdlab_widgets import CritiqueInfluence
from vpdlab_widgets.critique_influence import pack_influence

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(1)>javascript:alert(1)\x1b[31m\u202e"


def record(tokens: int = 4, **fields: Any) -> dict[str, Any]:
    """Two sentences; the second lowers the token "4"."""
    drop = [[0.1] * tokens, [0.0, -0.8, *[0.2] * (tokens - 2)]]
    total = [0.5] * tokens
    return {
        "step": 1, "problem_id": "a", "group": 0, "index": 0, "prompt": "What is 3 + 4?", "text": "4", "success": False,
        "tokens": ["The", " 4", ".", "<|end|>", *["x"] * (tokens - 4)], "part": "critique",
        "critique": "Look again. The digit 4 is too high.", "sentences": ["Look again. ", "The digit 4 is too high."],
        "student_logp": [-1.0] * tokens, "logp": [-0.5] * tokens, "empty_logp": [-1.0] * tokens, "total": total,
        "total_kl": [0.3] * tokens, "drop": drop, "drop_kl": [[0.01] * tokens, [0.2] * tokens],
        "gap": [t - a - b for t, a, b in zip(total, *drop, strict=True)], "shapley": [[0.2] * tokens, [0.3] * tokens],
        "shapley_reason": "", "cut": [], "prompts": 5, "seconds": 0.1,
        "variants": [{"name": "shuffled", "text": "The digit 4.", "delta": [0.05] * tokens, "kl": [0.1] * tokens}],
    } | fields  # fmt: skip


def ask(widget: CritiqueInfluence, text: str) -> None:
    """The message of the button."""
    message = {"method": "custom", "content": {"kind": "rescore", "text": text}}
    widget._handle_msg({"content": {"data": message}, "buffers": []})


# -- Python ------------------------------------------------------------------------------------------------------


def test_matrices_travel_as_bytes() -> None:
    packed = pack_influence(record())
    assert array("f", packed["matrices"]["drop"]).tolist()[5] == pytest.approx(-0.8)
    assert packed["tokens"]["text"] == b"The 4.<|end|>"
    assert "shapley" not in pack_influence(record(shapley=None))["matrices"]
    json.dumps(packed["meta"], allow_nan=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"total": [0.1]}, r"record.total: 1 numbers for 4 tokens"),
        ({"drop": [[0.0] * 4]}, r"record.drop: 1 rows for 2 sentences"),
        ({"drop_kl": [[0.0] * 4, [0.0]]}, r"record.drop_kl\[1\]: 1 numbers for 4 tokens"),
        ({"variants": [{"name": "x", "text": "", "delta": [], "kl": []}]}, r"record.variants\[0\].delta: 0 numbers"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CritiqueInfluence(record(**fields))


def test_unknown_keywords_and_the_wire_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"unknown keyword 'busy' \(known: baseline, measure, own, record, selected, title, token\)"
    ):
        CritiqueInfluence(record(), busy="working")


def test_own_words_are_scored_and_shown() -> None:
    asked: list[str] = []

    def rescore(text: str) -> dict[str, Any]:
        asked.append(text)
        return record(critique=text)

    widget = CritiqueInfluence(record(), rescore)
    ask(widget, "Try again.")
    assert asked == ["Try again."]
    assert widget.own
    assert widget.own_record is not None
    assert widget.edited["meta"]["critique"] == "Try again."
    assert widget.busy == ""
    widget.show(record(step=2))  # another rollout: words and scoring were about the one before
    assert not widget.own
    assert not widget.live
    assert widget.edited == {}
    widget.show(record(step=3), rescore)
    assert widget.live


def test_a_failure_is_said_and_leaves_it_usable() -> None:
    def rescore(text: str) -> dict[str, Any]:
        raise ValueError("no critique")

    widget = CritiqueInfluence(record(), rescore)
    ask(widget, " ")
    assert widget.trouble == "ValueError: no critique"
    assert (widget.busy, widget.own) == ("", False)


class Closed:
    """A rescorer of a model that knows the words of the record's critique only."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> dict[str, Any]:
        return record(critique=text)

    def unknown_words(self, text: str) -> list[str]:
        self.asked.append(text)
        if text == "broken":
            raise ValueError("no tokenizer")
        return [word for word in text.split() if word not in record()["critique"].split()]


def type_words(widget: CritiqueInfluence, text: str) -> None:
    """The message of a person who types."""
    message = {"method": "custom", "content": {"kind": "words", "text": text}}
    widget._handle_msg({"content": {"data": message}, "buffers": []})


def test_a_closed_vocabulary_is_looked_up_while_typing() -> None:
    rescore = Closed()
    widget = CritiqueInfluence(record(), rescore)
    assert widget.closed
    type_words(widget, "The flurb is grue")
    assert (widget.unknown, widget.busy, widget.own) == (["flurb", "grue"], "", False)
    widget.busy = "working"  # scoring does not stop the typing
    type_words(widget, "The flurb")
    assert widget.unknown == ["flurb"]
    widget.busy = ""
    type_words(widget, "broken")
    assert widget.trouble == "ValueError: no tokenizer"
    type_words(widget, "x" * 30_000)
    assert len(rescore.asked[-1]) == 20_000
    widget.show(record(step=2), lambda text: record())  # a model with an open vocabulary
    assert (widget.closed, widget.unknown) == (False, [])
    type_words(widget, "The flurb")
    assert widget.unknown == []
    assert len(rescore.asked) == 4


def test_words_are_looked_up_on_the_loop_that_runs_cells() -> None:
    threads: list[str] = []

    async def notebook() -> list[str]:
        rescore = Closed()
        look_up = rescore.unknown_words
        rescore.unknown_words = lambda text: threads.append(threading.current_thread().name) or look_up(text)  # type: ignore[method-assign]
        widget = CritiqueInfluence(record(), rescore)
        other = threading.Thread(target=type_words, args=(widget, "The flurb"), name="messages")
        other.start()
        other.join()
        assert widget.unknown == []  # the cell has not ended
        await asyncio.sleep(0.01)
        return widget.unknown

    assert asyncio.run(notebook()) == ["flurb"]
    assert threads == [threading.current_thread().name]


def test_without_a_model_a_message_does_nothing() -> None:
    widget = CritiqueInfluence(record())
    ask(widget, "x")
    assert not widget.live
    assert widget.edited == {}


def test_the_model_is_touched_only_on_the_loop_that_runs_cells() -> None:
    """A message on another thread, while a cell trains, waits until that cell has ended."""
    events: list[str] = []

    async def notebook() -> None:
        def rescore(text: str) -> dict[str, Any]:
            events.append(f"scored on {threading.current_thread().name}")
            return record()

        widget = CritiqueInfluence(record(), rescore)
        stranger = threading.Thread(target=ask, args=(widget, "Try again."))
        stranger.start()  # the cell runs on while the message comes in
        stranger.join()
        events.append(f"training, {widget.busy}")
        ask(widget, "twice")  # one at a time
        await asyncio.sleep(0.05)  # the cell has ended
        events.append(f"idle{widget.busy}")

    asyncio.run(notebook())
    assert events == ["training, queued", f"scored on {threading.current_thread().name}", "idle"]


def test_another_thread_without_a_loop_is_refused() -> None:
    widget = CritiqueInfluence(record(), lambda text: record())
    stranger = threading.Thread(target=ask, args=(widget, "x"))
    stranger.start()
    stranger.join()
    assert "thread" in widget.trouble
    assert not widget.own


def test_fallback_is_a_table_of_sentences() -> None:
    text = CritiqueInfluence(record(sentences=["a", HOSTILE])).fallback()
    assert "<script" not in text
    assert not set("\x1b\u202e") & set(text)
    assert "−0.4" in text


# -- in the browser ----------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, found: dict[str, Any], **options: Any) -> Path:
    path = tmp_path / "influence.html"
    CritiqueInfluence(found, **options).to_html(path)
    return path


@pytest.mark.slow
def test_keys_choose_sentence_and_token(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record())) as page:
        page.evaluate("window.heard = []; document.addEventListener('keydown', (event) => heard.push(event.key))")
        assert status(page) == "2 sentences, 4 tokens, 5 prompts scored."
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        assert status(page) == "sentence 2: −0.4 nats over the response"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert status(page) == "sentence 2 on token 2 “·4”: −0.8 nats"
        token = page.locator(".vpd-ci-response .vpd-tok").nth(1)
        assert "vpd-down8" in token.get_attribute("class")
        sums = page.locator(".vpd-ci-sum.vpd-num").all_inner_texts()
        assert sums == ["+0.1", "−0.8", "+0.5", "+1.2", "+0.45", "–", "0"]
        page.keyboard.press("Enter")
        page.keyboard.press("m")
        page.wait_for_function("document.querySelector('[role=status]').textContent.includes('+0.3')")
        page.keyboard.press("m")
        page.wait_for_function("document.querySelector('[role=status]').textContent.includes(': 0.2 nats')")
        assert page.locator(".vpd-ci-sum.vpd-num").nth(3).inner_text() == "–"  # no gap under KL
        for _ in range(2):
            page.keyboard.press("Escape")
        assert status(page).startswith("2 sentences")
        assert page.evaluate("heard") == ["Tab"]
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body")


@pytest.mark.slow
def test_the_baseline_is_chosen_and_named_on_each_row(chromium: str, tmp_path: Path) -> None:
    """Whole texts on one scale: log q under each, minus log q under the baseline."""
    others = [
        {"name": "shuffled", "text": "The digit 4.", "delta": [0.05] * 4, "kl": [0.1] * 4},
        {"name": "another problem's critique", "text": "Wrong.", "delta": [0.75] * 4, "kl": [0.1] * 4},
    ]
    found = record(variants=others, student_logp=[-1.25] * 4)
    with offline_page(chromium, page_of(tmp_path, found)) as page:
        pressed = page.locator(".vpd-ci-controls .vpd-option[aria-pressed=true]")
        assert pressed.all_inner_texts() == ["leave-one-out", "no critique"]
        assert page.locator(".vpd-ci-against").all_inner_texts() == [
            *["against the critique without it"] * 2, "against no critique", "against no critique",
            *["against no critique"] * 2, "the baseline", "against no critique",
        ]  # fmt: skip
        sums = page.locator(".vpd-ci-sum.vpd-num")
        assert sums.all_inner_texts()[2:] == ["+2", sums.nth(3).inner_text(), "+1.8", "−1", "–", "−1"]
        page.locator(".vpd-option", has_text="plain prompt").click()
        page.wait_for_function("document.querySelector('.vpd-ci-table').textContent.includes('against plain prompt')")
        assert sums.all_inner_texts()[2] == "+3" and sums.all_inner_texts()[4:] == ["+2.8", "0", "+1", "–"]
        assert page.locator(".vpd-ci-against").all_inner_texts()[-1] == "the baseline"
        page.locator(".vpd-ci-stage").focus()
        page.keyboard.press("b")
        page.keyboard.press("b")
        name = "against another problem's critique"
        page.wait_for_function(f'document.querySelector(".vpd-ci-table").textContent.includes("{name}")')
        assert sums.all_inner_texts()[2] == "+3"  # the whole against the other problem's: its own effect
        page.keyboard.press("m")
        page.keyboard.press("m")
        page.wait_for_function(
            "document.querySelector('.vpd-ci-table').textContent.includes('against the whole critique')"
        )
    widget = CritiqueInfluence(found, baseline="another problem's critique")
    assert "another problem" in widget.fallback()
    with pytest.raises(ValueError, match="baseline 'x' is not one of none, plain, shuffled"):
        CritiqueInfluence(found, baseline="x")


@pytest.mark.slow
def test_pointer_pins_a_cell_and_lets_it_go(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record())) as page:
        strip = page.locator(".vpd-ci-strip").nth(1).bounding_box()
        at = (strip["x"] + strip["width"] * 0.37, strip["y"] + 10)
        page.mouse.click(*at)
        page.mouse.move(2, 2)
        assert status(page) == "sentence 2 on token 2 “·4”: −0.8 nats"
        page.mouse.click(*at)
        page.mouse.move(2, 2)
        assert status(page).startswith("2 sentences")
        page.locator(".vpd-ci-said", has_text="Look again").click()
        page.mouse.move(2, 2)
        assert status(page) == "sentence 1: +0.4 nats over the response"


@pytest.mark.slow
def test_an_offline_page_offers_no_button(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(), rescore=lambda text: record())) as page:
        assert page.locator(".vpd-ci-editor").is_hidden()


LIVE = """async () => {
  const { modules, data: buffers, models } = JSON.parse(document.getElementById('vpd-widgets').textContent);
  const { default: widget } = await import(URL.createObjectURL(new Blob([modules[0]], { type: 'text/javascript' })));
  const entry = Object.values(models)[0];
  const state = structuredClone(entry.state);
  for (const { path, data } of entry.buffers) {
    const parent = path.slice(0, -1).reduce((node, key) => node[key], state);
    parent[path.at(-1)] = new DataView(Uint8Array.from(atob(buffers[data]), (c) => c.charCodeAt(0)).buffer);
  }
  const listeners = {};
  window.sent = [];
  window.model = {
    get: (key) => state[key], set: (key, value) => { state[key] = value; listeners[`change:${key}`]?.(); },
    on: (name, call) => { listeners[name] = call; }, off() {}, save_changes() {}, send: (message) => sent.push(message),
  };
  document.querySelector('main').replaceChildren();
  widget.render({ model, el: document.querySelector('main') });
}"""


@pytest.mark.slow
def test_editing_asks_python_and_shows_what_it_answers(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(), rescore=lambda text: record())) as page:
        page.evaluate(LIVE)
        page.locator(".vpd-ci-stage").focus()
        page.keyboard.press("e")
        assert page.locator("textarea").input_value() == "Look again. The digit 4 is too high."
        page.keyboard.press("Control+a")
        page.keyboard.type("b: try again.")
        page.keyboard.press("Control+Enter")
        assert page.evaluate("sent") == [{"kind": "rescore", "text": "b: try again."}]
        assert page.locator(".vpd-ci-editor button").is_disabled()
        assert "running cell" in page.locator(".vpd-ci-editor").inner_text()
        page.evaluate("() => { model.set('busy', 'working'); }")
        assert "Scoring" in page.locator(".vpd-ci-editor").inner_text()
        page.evaluate("""() => {
          const packed = structuredClone(model.get('packed'));
          packed.meta.sentences = ['b: ', 'try again.'];
          model.set('edited', packed); model.set('own', true); model.set('busy', '');
        }""")
        page.wait_for_function("document.querySelector('.vpd-ci-own')")
        assert "try again." in page.locator(".vpd-ci-table").inner_text()
        assert page.locator("textarea").input_value() == "b: try again."
        assert page.locator(".vpd-ci-editor button").is_enabled()
        page.keyboard.press("Escape")
        page.keyboard.press("v")
        page.wait_for_function("!document.querySelector('.vpd-ci-own')")
        page.evaluate("() => { model.set('trouble', 'UserError: no words'); }")
        assert "UserError: no words" in page.locator(".vpd-ci-editor").inner_text()


@pytest.mark.slow
def test_the_box_names_words_that_the_model_does_not_know(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(), rescore=Closed())) as page:
        assert page.locator(".vpd-ci-lacking").is_hidden()  # an offline page has no box
        page.evaluate(LIVE)
        line = page.locator(".vpd-ci-lacking")
        page.wait_for_function("sent.length === 1")  # the recorded critique is looked up at once
        assert page.evaluate("sent") == [{"kind": "words", "text": "Look again. The digit 4 is too high."}]
        assert line.is_hidden()
        page.locator(".vpd-ci-stage").focus()
        page.keyboard.press("e")
        page.keyboard.press("Control+a")
        page.keyboard.type("flurb <b>grue")
        page.wait_for_function("sent.at(-1).text === 'flurb <b>grue'")
        assert page.evaluate("sent.length") < 8  # not one message for each key
        page.evaluate("() => { model.set('unknown', ['flurb', 'grue']); }")
        assert line.inner_text() == "not in this model's vocabulary: flurb, grue"
        page.keyboard.press("Control+a")
        page.keyboard.type("grue")
        assert line.inner_text() == "not in this model's vocabulary: grue"  # before Python answers
        page.wait_for_function("sent.at(-1).text === 'grue'")
        page.evaluate("() => { model.set('unknown', []); }")
        assert line.is_hidden()


@pytest.mark.slow
def test_an_open_vocabulary_is_not_looked_up(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(), rescore=lambda text: record())) as page:
        page.evaluate(LIVE)
        page.locator(".vpd-ci-stage").focus()
        page.keyboard.press("e")
        page.keyboard.type("flurb")
        page.wait_for_timeout(400)
        assert page.evaluate("sent") == []
        assert page.locator(".vpd-ci-lacking").is_hidden()


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_many_tokens_and_hostile_text_fit(chromium: str, tmp_path: Path, width: int) -> None:
    tokens = 2000
    hostile = record(tokens, critique=HOSTILE, sentences=[HOSTILE, "x" * 5000], prompt=HOSTILE)
    hostile["tokens"] = [HOSTILE, *[" word"] * (tokens - 1)]
    path = page_of(tmp_path, hostile, title=HOSTILE)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script, .vpd a").count() == 0
        assert not set("\x1b\u202e") & set(page.locator(".vpd").inner_text())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator(".vpd-ci-stage").focus()
        page.keyboard.press("End")
        assert "at token" in page.locator(".vpd-ci-table").inner_text()
