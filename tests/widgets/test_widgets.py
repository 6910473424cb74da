"""The Python side of the widgets, without a kernel, and their JavaScript functions in node."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vpdlab_widgets.em_timeline as em_timeline
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from places import ROOT
from traitlets import TraitError
from vpdlab_widgets import EMTimeline, LabWidget, RolloutTable, RunCompare, TokenLens
from vpdlab_widgets.base import _STEERING, FALLBACK_LIMIT, plain
from vpdlab_widgets.embed import script_json, script_source, widget_script

SCRIPT_TESTS = ROOT / "widgets" / "tests"


def row(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "success_rate": step / 100, "kl": 0.5, "e_loss": None, **values}


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(em_timeline, "time", clock)
    return clock


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What goes to the browser: ("rows", message) and ("state", names)."""
    messages: list[tuple[str, Any]] = []
    monkeypatch.setattr(EMTimeline, "send", lambda self, content, buffers=None: messages.append(("rows", content)))
    monkeypatch.setattr(EMTimeline, "send_state", lambda self, key=None: messages.append(("state", key)))
    return messages


def browser_says(widget: LabWidget, **state: Any) -> None:
    """The message that the browser sends after a click."""
    data = {"method": "update", "state": state, "buffer_paths": []}
    widget._handle_msg({"content": {"data": data}, "buffers": []})


def test_unknown_keyword_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"EMTimeline: unknown keyword 'kl_traget' \(known: .*kl_target.*rows"):
        EMTimeline(rows=[], kl_traget=0.1)


def test_private_state_is_no_keyword() -> None:
    with pytest.raises(TypeError, match="unknown keyword '_esm'"):
        EMTimeline(_esm="alert(1)")


def test_missing_values_become_null_never_zero() -> None:
    widget = EMTimeline(
        [row(1, kl=math.nan, margin=math.inf, delta=None, reward=np.float32(0.5), n_success=np.int64(3))]
    )
    assert widget.rows == [row(1, kl=None, margin=None, delta=None, reward=0.5, n_success=3)]
    assert type(widget.rows[0]["n_success"]) is int
    json.dumps(widget.rows, allow_nan=False)


def test_integers_that_a_data_frame_made_floats() -> None:
    assert EMTimeline([row(1) | {"step": 3.0}]).rows[0]["step"] == 3


@pytest.mark.parametrize("step", [None, "3", 2.5, True, math.nan])
def test_a_row_needs_an_integer_step(step: Any) -> None:
    with pytest.raises(ValueError, match=r"rows\[1\]: `step` must be an integer"):
        EMTimeline([row(1), {"step": step}])
    widget = EMTimeline([row(1)])
    with pytest.raises(ValueError, match=r"rows\[1\]"):
        widget.append({"step": step})
    assert len(widget.rows) == 1


def test_what_is_no_data_is_named_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"rows\[0\]\.notes\.e: object is not plain data"):
        EMTimeline([row(1, notes={"e": object()})])


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(TraitError, match="state"):
        EMTimeline(state="done")


def test_the_callers_list_stays_his() -> None:
    rows = [row(1)]
    widget = EMTimeline(rows)
    widget.append(row(2))
    assert len(rows) == 1
    assert len(widget.rows) == 2


def test_appending_is_throttled_and_sends_only_what_is_new(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline([row(step) for step in range(1, 101)])
    sent.clear()
    for step in range(101, 151):  # 50 rows in one second
        widget.append(row(step))
        clock.now += 0.02
    assert [kind for kind, _ in sent] == ["rows"] * len(sent)
    assert 1 < len(sent) <= em_timeline.MAX_UPDATES_PER_SECOND
    received = list(range(1, 101))
    for _, message in sent:
        assert message["from"] == len(received)  # no gap, nothing twice
        received += [one["step"] for one in message["rows"]]
    assert received == [one["step"] for one in widget.rows][: len(received)]
    sent.clear()
    widget.flush()
    assert sent == [("state", ["rows", "evals"])]
    assert len(widget.rows) == 150


def test_the_full_state_is_renewed_as_the_run_doubles(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline()
    sent.clear()
    for step in range(1, 1001):
        widget.append(row(step))
        clock.now += 1.0
    full = [message for kind, message in sent if kind == "state"]
    assert len(full) == 10  # at 1, 2, 4 … 512 rows


def test_a_state_that_ends_the_run_flushes(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline([row(1), row(2)], state="running")
    widget.append(row(3))
    widget.append(row(4))
    sent.clear()
    widget.state = "complete"
    assert ("state", ["rows", "evals"]) in sent


def test_evaluations_arrive_with_the_next_update(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline([row(1), row(2)])
    sent.clear()
    widget.add_eval({"step": 2, "accuracy": 0.5, "low": np.float64(0.4), "high": 0.6})
    assert sent == [("state", "evals")]
    assert widget.evals == [{"step": 2, "accuracy": 0.5, "low": 0.4, "high": 0.6}]


def test_a_view_that_missed_rows_gets_all(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline([row(1), row(2)])
    sent.clear()
    message = {"method": "custom", "content": {"kind": "resync"}}
    widget._handle_msg({"content": {"data": message}, "buffers": []})
    assert sent == [("state", ["rows", "evals"])]


def test_a_late_display_starts_from_the_full_state(clock: Clock, sent: list[tuple[str, Any]]) -> None:
    widget = EMTimeline([row(step) for step in range(1, 9)])
    widget.append(row(9))
    widget.append(row(10))
    sent.clear()
    widget._repr_mimebundle_()
    assert sent == [("state", ["rows", "evals"])]


def test_selection_goes_both_ways() -> None:
    widget = EMTimeline([row(step) for step in range(1, 4)])
    chosen: list[Any] = []
    widget.observe(lambda change: chosen.append(change["new"]), "selected")
    browser_says(widget, selected=2)
    browser_says(widget, selected=None)
    widget.selected = 3
    assert chosen == [2, None, 3]


def test_a_window_is_a_range_of_steps() -> None:
    widget = EMTimeline([row(step) for step in range(1, 9)], window=[2, 5])
    browser_says(widget, window=[3, 3])
    assert widget.window == [3, 3]
    for wrong in ([5, 2], [1], [1, 2, 3]):
        with pytest.raises(ValueError, match="window must be \\[first, last\\]"):
            widget.window = wrong


def test_fallback_escapes_text_from_outside() -> None:
    attack = "<script>alert(1)</script>"
    widget = EMTimeline([row(1)], title=attack, state="failed", reason=attack)
    data, _ = widget._repr_mimebundle_()  # type: ignore[misc]
    assert "<script" not in data["text/html"]
    assert "&lt;script&gt;" in data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_fallback_of_a_long_run_is_short_and_ends_with_its_end() -> None:
    text = EMTimeline([row(step) for step in range(1, 5001)]).fallback()
    assert len(text) < 4000
    assert ">1</td>" in text
    assert ">5000</td>" in text
    assert text.count("<tr>") == 13


def test_fallback_over_the_limit_is_replaced_whole() -> None:
    class Wordy(EMTimeline):
        _esm = "export default {}"

        def fallback(self) -> str:
            return "<div>" + "x" * FALLBACK_LIMIT

    data, _ = Wordy()._repr_mimebundle_()  # type: ignore[misc]
    assert len(data["text/html"]) < 200
    assert "<div>" not in data["text/html"]


def test_page_is_whole_and_names_no_address(tmp_path: Path) -> None:
    widget = EMTimeline([row(1)], title="</script><script>alert(1)</script>")
    text = widget.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    assert re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']?(?!data:)[^"'>\s]+""", text) == []
    assert re.findall(r"""(?:url\(|@import|fetch\()\s*["']?https?:""", text) == []
    assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}  # a name space, no address
    assert text.count("<script") == text.count("</script>") == 2
    assert "default-src 'none'" in text


def test_page_holds_each_module_once() -> None:
    entry = {"state": {"_esm": "export default 1", "_css": "p{}", "rows": []}}
    text = widget_script({"a": entry, "b": entry})
    assert text.count("export default 1") == 1
    assert text.count("p{}") == 1


def test_script_json_survives_a_script_element() -> None:
    value = {"text": "</script><!-- & \u2028", "n": [1, None]}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_script_source_hides_what_html_reads() -> None:
    source = script_source("const a = '</script>' + '<!-- <SCRIPT' + (1<2)")
    assert "</script" not in source
    assert "<!--" not in source
    assert "<SCRIPT" not in source
    assert "(1<2)" in source


def test_plain_data() -> None:
    assert plain({"a": (np.float64(1.5), np.nan, [np.bool_(True)]), 3: "x"}) == {"a": [1.5, None, [True]], "3": "x"}


def test_a_notebooks_page_and_the_widgets_share_no_class_name() -> None:
    root = SCRIPT_TESTS.parents[1]
    names = [set(re.findall(r"\.(vpd-[\w-]+)", path.read_text(encoding="utf-8"))) for path in (
        root / "vpdlab" / "show" / "page" / "page.css", *(root / "widgets" / "vpdlab_widgets").glob("*.css")
    )]  # fmt: skip
    assert not names[0] & set().union(*names[1:]) - {"vpd-view"}


def test_python_and_browser_mark_the_same_characters(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("missing: node is missing")
    source = (SCRIPT_TESTS.parent / "vpdlab_widgets" / "shared.js").read_text(encoding="utf-8")
    script = """
    for (let code = 0; code < 0x20000; code++) if ((code < 0xd800 || code > 0xdfff) && code !== 9 && code !== 10) {
      if (visible(String.fromCodePoint(code)) !== String.fromCodePoint(code)) console.log(code);
    }"""
    (tmp_path / "all.mjs").write_text(source + script, encoding="utf-8")
    done = subprocess.run([node, tmp_path / "all.mjs"], capture_output=True, text=True, timeout=60, check=True)
    ours = [code for code in range(0x20000) if not 0xD800 <= code <= 0xDFFF and _STEERING.search(chr(code))]
    assert [int(line) for line in done.stdout.split()] == ours
    assert len(ours) > 60


def test_script_functions_in_node() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("missing: node is missing")
    tests = sorted(SCRIPT_TESTS.glob("*.test.mjs"))
    assert tests
    done = subprocess.run([node, "--test", *map(str, tests)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


HALF = "a\ud83d b"  # JSON may spell half a character; no message, file or tokenizer takes it


def test_half_a_character_reaches_no_message_and_no_file(tmp_path: Path) -> None:
    row = {"prompt": HALF, "text": HALF, "critique": HALF, "problem_id": HALF, HALF: 1, "success": False, "step": 1}
    run = {"name": HALF, "method": HALF, "seed": 0, "rows": [{"step": 1}]}
    widgets = [
        RolloutTable([row], title=HALF, query=HALF), EMTimeline([{"step": 1, "notes": {"e": HALF}}], reason=HALF),
        RunCompare([run], hidden=["x"]), TokenLens({"text": HALF, "prompt": HALF}, title=HALF),
    ]  # fmt: skip
    for widget in widgets:
        state = {name: value for name, value in widget.get_state().items() if name != "layout"}
        json.dumps(state, ensure_ascii=False, allow_nan=False, default=lambda data: "bytes").encode("utf-8")
        widget.to_html(tmp_path / "page.html")
        assert (tmp_path / "page.html").stat().st_size > 10_000
        json.dumps(widget._repr_mimebundle_()[0], ensure_ascii=False).encode("utf-8")


LIVE = """
from vpdlab_widgets import EMTimeline
live = EMTimeline(state="running", total=3)
live
"""


@pytest.mark.slow
def test_the_static_picture_of_a_live_run_is_that_of_its_end(tmp_path: Path) -> None:
    """What a reader without trust or JavaScript sees in the saved notebook."""
    ends = "for step in (1, 2, 3):\n    live.append({'step': step, 'kl': 0.5})\nlive.state = 'complete'"
    notebook = new_notebook(cells=[new_code_cell(LIVE), new_code_cell(ends)])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    (output,) = notebook.cells[0].outputs
    assert "3 iterations, complete" in output.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in output.data
    assert notebook.cells[1].outputs == []
