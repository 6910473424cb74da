"""RunControl: what it asks of a run, what it refuses, and how its strip works in a browser."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page
from vpdlab_widgets import EMTimeline, RunControl, write_page

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\u202e"
SHOWN = {
    "folder": "runs/first", "state": "paused", "reason": "", "step": 12, "total": 60,
    "settings": [
        {"name": "noise_drop", "value": 0.0, "begun": 0.0, "range": [0, 1], "whole": False, "text": "A share."},
        {"name": "lr", "value": 5e-4, "begun": 1e-3, "range": [0, 1000], "whole": False, "text": "The rate."},
        {"name": "e_every", "value": 5, "begun": 5, "range": [0, 1e9], "whole": True, "text": "F."},
    ],
    "pending": {"e_every": 2}, "changes": [{"step": 3, "setting": "lr", "was": 1e-3, "now": 5e-4, "time": 1.0}],
    "saved": [0, 10],
}  # fmt: skip


class Run:
    """Stands for `run.control`."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.tell: Any = None

    def watch(self, listener: Any) -> None:
        self.tell = listener
        listener(SHOWN)

    def step(self, count: int = 1) -> None:
        if not isinstance(count, int):
            raise ValueError(f"count is {count!r}")
        self.asked.append(("step", count))

    def change(self, **fields: Any) -> None:
        if "bad" in fields:
            raise ValueError("bad cannot be changed")
        self.asked.append(fields)

    def pause(self) -> None:
        self.asked.append("pause")


def say(widget: RunControl, **content: Any) -> None:
    """What the browser sends."""
    widget._handle_custom_msg(content, [])


def test_the_strip_asks_and_shows_what_the_run_says() -> None:
    run = Run()
    widget = RunControl(run, title="first")
    assert widget.shown["step"] == 12
    say(widget, kind="pause")
    say(widget, kind="step", count=10)
    say(widget, kind="change", name="lr", value=0.1)
    assert run.asked == ["pause", ("step", 10), {"lr": 0.1}]
    assert widget.selected == "lr"
    run.tell({**SHOWN, "state": "running"})
    assert widget.shown["state"] == "running"


def test_what_a_browser_cannot_ask_is_ignored_or_named() -> None:
    run = Run()
    widget = RunControl(run)
    say(widget, kind="watch")
    say(widget, kind="__class__")
    widget._handle_custom_msg("stop", [])
    assert run.asked == []
    say(widget, kind="change", name="bad", value=1)
    assert widget.trouble == "bad cannot be changed"
    say(widget, kind="step", count="many")
    assert widget.trouble == "count is 'many'"
    say(widget, kind="step", count=1.5)  # not cut to 1
    assert widget.trouble == "count is 1.5"
    say(widget, kind="pause")
    assert widget.trouble == ""


def test_fast_iterations_are_sent_at_a_bounded_rate_and_the_end_always_is(monkeypatch: pytest.MonkeyPatch) -> None:
    run, sent = Run(), []
    widget = RunControl(run)
    widget.observe(lambda change: sent.append(change["new"]["step"]), "shown")
    for step in range(13, 61):
        run.tell({**SHOWN, "step": step})
    run.tell({**SHOWN, "step": 60, "state": "complete"})
    assert len(sent) < 10
    assert sent[-1] == 60


def test_messages_from_other_threads_reach_the_run() -> None:
    run = Run()
    widget = RunControl(run)
    threads = [threading.Thread(target=say, args=(widget,), kwargs={"kind": "step"}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.asked == [("step", 1)] * 8


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match=r"unknown keyword 'live' \(known: control, selected, shown, title\)"):
        RunControl(live=True)
    assert "paused, iteration 12 of 60" in RunControl(shown=SHOWN, title="first").fallback()


def page_of(tmp_path: Path, **shown: Any) -> Path:
    path = tmp_path / "strip.html"
    changes = [{"step": 3, "text": f"lr 0.001 → 0.0005 {HOSTILE}"}, {"step": 3, "text": "beta 0.1 → 1"}]
    rows = [{"step": step, "kl": 1 / step} for step in range(1, 9)]
    write_page([RunControl(shown={**SHOWN, **shown}, title=HOSTILE), EMTimeline(rows, changes=changes)], path)
    return path


def test_a_page_shows_the_state_and_offers_no_buttons(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, folder=HOSTILE)) as page:
        assert page.locator(".vpd-rx-tools").is_hidden()
        assert page.locator(".vpd-rx .vpd-badge").inner_text() == "paused"
        names = page.locator(".vpd-rx-name").all_inner_texts()
        assert names == ["lr", "e_every", "noise_drop"]
        assert page.get_by_label("lr", exact=True).get_attribute("readonly") is not None
        assert page.locator(".vpd-rx-changes").inner_text() == "after 3: lr 0.001 → 0.0005"
        assert page.locator(".vpd-rx-status").inner_text() == "from the next iteration on: e_every 2"
        assert "<img" in page.locator(".vpd-rx .vpd-title").inner_text()
        assert page.locator("img").count() == 0


def test_the_timeline_marks_a_change_between_two_iterations(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path)) as page:
        lines = page.locator("[data-change='3']")
        assert lines.count() == page.locator("svg[data-panel]").count()
        stage = page.locator(".vpd-emt-stage")
        stage.focus()
        for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        said = page.locator(".vpd-emt-changed").inner_text()
        assert said.startswith("changed before it: lr 0.001 → 0.0005 <img")
        assert said.endswith("beta 0.1 → 1")
        page.keyboard.press("ArrowRight")
        assert page.locator(".vpd-emt-changed").count() == 0


LIVE = """async (shown) => {
  const { modules, models } = JSON.parse(document.getElementById('vpd-widgets').textContent);
  const entry = Object.values(models).find(({ state }) => state.shown);
  const url = URL.createObjectURL(new Blob([modules[entry.esm]], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  const state = { shown, trouble: '', live: true, title: 'first' };
  const listeners = {};
  window.sent = [];
  window.model = {
    get: (key) => state[key], set: (key, value) => { state[key] = value; listeners[`change:${key}`]?.(); },
    on: (name, call) => { listeners[name] = call; }, off: (name) => { delete listeners[name]; },
    save_changes() {}, send: (message) => window.sent.push(message),
  };
  const el = document.createElement('div');
  document.body.replaceChildren(el);
  await widget.render({ model: window.model, el });
}"""


@pytest.mark.parametrize("width", [1280, 900, 819])
def test_keys_and_fields_ask(chromium: str, tmp_path: Path, width: int) -> None:
    with offline_page(chromium, page_of(tmp_path), viewport={"width": width, "height": 900}) as page:
        page.evaluate(LIVE, json.loads(json.dumps(SHOWN)))
        tools = page.locator(".vpd-rx-tools")
        tools.focus()
        for key in (" ", "s", "C", "q"):
            page.keyboard.press(key)
        assert page.evaluate("sent.map(({ kind }) => kind)") == ["go_on", "step", "save"]
        page.wait_for_selector(".vpd-rx-armed")  # stopping takes a second press
        page.keyboard.press("q")
        page.keyboard.press("e")
        assert page.evaluate("document.activeElement.ariaLabel") == "lr"
        page.keyboard.press("Control+A")
        page.keyboard.type("0.25")
        page.evaluate("model.set('shown', { ...model.get('shown'), step: 13 })")  # a redraw keeps what is being typed
        page.wait_for_function("document.querySelector('.vpd-rx .vpd-num').textContent.includes('13')")
        page.keyboard.press("Enter")
        assert page.evaluate("sent.slice(3)") == [{"kind": "stop"}, {"kind": "change", "name": "lr", "value": 0.25}]
        page.keyboard.press("Control+A")
        page.keyboard.type("much")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vpd-rx-wrong")
        page.wait_for_function("document.querySelector('[role=status]').innerText === 'lr is much: not a number'")
        page.keyboard.press("Escape")
        page.wait_for_function("document.querySelector('.vpd-rx-wrong') === null")
        assert page.evaluate("document.activeElement.role") == "toolbar"
        page.wait_for_function("document.querySelector('[aria-label=lr]').value === '0.0005'")
        overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not page.evaluate(overflow)
        page.evaluate("model.set('shown', { ...model.get('shown'), state: 'complete' })")
        tools.wait_for(state="hidden")
