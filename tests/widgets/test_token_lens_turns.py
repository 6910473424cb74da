"""Episodes in TokenLens and RolloutTable: who speaks, what is masked, what is folded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page, status
from test_rollout_table import record as row_record
from test_token_lens import HOSTILE, page_of, record, unpacked
from vpdlab_widgets import RolloutTable, TokenLens
from vpdlab_widgets.token_lens import pack_record

from vpdlab.show.widget_data import rollout_rows

TURNS = [("assistant", ["one", " two"]), ("tool", ["<|t|>", "42", "\n"]), ("assistant", [" three", " four", " five"])]


def episode(turns: Any = TURNS, **fields: Any) -> dict[str, Any]:
    """A record of several turns; the numbers at the environment's tokens are large, and must not count."""
    tokens, mask, ends = [], [], []
    for role, words in turns:
        tokens += words
        mask += [role == "assistant"] * len(words)
        ends.append(len(tokens))
    kl = [0.1 * (i + 1) if own else 99.0 for i, own in enumerate(mask)]
    return record(
        tokens, kl=kl, mask=mask, turn_ends=ends, turn_roles=[role for role, _ in turns],
        turn_texts=["".join(words).replace("<|t|>", "") for _, words in turns], feedback_turn=2, weights={},
        **fields,
    )  # fmt: skip


def classes(page: Any) -> list[str]:
    return page.locator(".vpd-tl-stage .vpd-tok").evaluate_all("all => all.map((one) => one.className)")


# -- Python ----------------------------------------------------------------------------------------------------------


def test_the_mask_travels_as_bytes_and_the_turns_as_plain_values() -> None:
    packed = pack_record(episode())
    assert unpacked(packed["mask"], "i") == [1, 1, 0, 0, 0, 1, 1, 1]
    assert packed["meta"]["turn_roles"] == ["assistant", "tool", "assistant"]
    assert packed["meta"]["turn_ends"] == [2, 5, 8] and "mask" not in packed["meta"]
    assert "mask" not in pack_record(record())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": [True]}, "record.mask: 1 values for 8 tokens"),
        ({"turn_ends": [2, 5, 7]}, r"record.turn_ends: \[2, 5, 7\] do not divide 8 tokens"),
        ({"turn_ends": [5, 2, 8]}, "do not divide"),
        ({"turn_texts": ["one two"]}, "record.turn_roles: 3 roles, 1 texts and 3 ends of turns"),
        ({"feedback_turn": 3}, "record.feedback_turn: 3, but the policy has 2 turns"),
    ],
)
def test_turns_that_are_not_those_of_the_tokens_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_record(episode() | fields)


def test_the_fallback_names_the_speakers_and_colours_own_tokens_alone() -> None:
    text = TokenLens(episode()).fallback()
    assert re.findall(r"<b>\[(\w+)\]</b>", text) == ["assistant", "tool", "assistant"]
    assert text.count("opacity: 0.6") == 3
    assert "rgba(230,97,1,0.74)" in text  # the largest of the policy's own
    assert "<b>" not in TokenLens(record()).fallback()
    assert "<b>[tool]</b>" in TokenLens(episode() | {"tokens": None}).fallback()
    hostile = TokenLens(episode([(HOSTILE, ["x"]), ("assistant", ["y"])], title="") | {"feedback_turn": 1}).fallback()
    assert "<script" not in hostile


def test_long_turns_are_cut_for_the_browser_only() -> None:
    rows = rollout_rows([row_record(0, turn_roles=["assistant"], turn_texts=["x" * 100_000])])
    assert len(RolloutTable(rows).rows[0]["turn_texts"][0]) == 4001
    assert len(rows[0]["turn_texts"][0]) == 100_000


# -- TokenLens in the browser ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_turn_has_a_head_and_the_feedbacks_turn_is_marked(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, episode())) as page:
        heads = page.locator(".vpd-tl-speaker").all_inner_texts()
        assert heads == ["policy, turn 1", "environment, as tool", "policy, turn 2"]
        marked = page.locator(".vpd-tl-turn:has(.vpd-about) .vpd-tl-speaker").all_inner_texts()
        assert marked == ["policy, turn 2"]
        assert "feedback on turn 2, read by the teacher only" in page.locator(".vpd-tl-about").inner_text()
        assert "2 turns" in page.locator(".vpd-head").inner_text()
    with offline_page(chromium, page_of(tmp_path, record())) as page:
        assert page.locator(".vpd-tl-turn, .vpd-about, .vpd-tl-masked, .vpd-tl-gap").count() == 0


@pytest.mark.slow
def test_masked_tokens_have_no_colour_and_no_part_in_the_scale(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, episode())) as page:
        found = classes(page)
        assert ["vpd-tl-masked" in name for name in found] == [False] * 2 + [True] * 3 + [False] * 3
        assert not any("vpd-up" in name for name in found[2:5])
        assert "vpd-up8" in found[7]  # 99 nats in the environment's tokens would make it pale
        assert "0.8 nats" in page.locator(".vpd-heatkey").inner_text()
        assert page.locator(".vpd-tl-gap").count() == 1
        assert not any("99" in text for text in page.locator(".vpd-tl-chip, .vpd-tl-number").all_text_contents())


@pytest.mark.slow
def test_keys_pass_over_the_environments_tokens(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, episode())) as page:
        assert status(page).startswith("8 tokens, 5 of them the policy's own.")
        page.keyboard.press("Tab")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert "token 2 of 8 “·two” · policy, turn 1 · KL 0.2 nats" in status(page)
        page.keyboard.press("ArrowRight")
        assert "token 6 of 8 “·three” · policy, turn 2" in status(page)
        page.keyboard.press("ArrowLeft")
        assert "token 2 of 8" in status(page)
        page.keyboard.press("ArrowDown")
        assert "policy, turn 2" in status(page)
        page.keyboard.press("End")
        assert "token 8 of 8" in status(page)
        page.keyboard.press("T")
        assert "token 1 of 8" in status(page)
        page.keyboard.press("t")
        assert "token 6 of 8" in status(page)
        page.keyboard.press("t")
        assert "token 6 of 8" in status(page)  # there is no further turn


@pytest.mark.slow
def test_a_tools_output_is_folded_and_opens(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, [episode(), episode(index=2)])) as page:
        reply, fold = page.locator(".vpd-tl-reply .vpd-tl-turn-body"), page.locator(".vpd-tl-fold")
        assert reply.is_hidden() and page.locator(".vpd-tl-fold-text").inner_text() == "42"
        assert fold.get_attribute("aria-expanded") == "false"
        fold.click()
        assert reply.is_visible() and fold.get_attribute("aria-expanded") == "true"
        assert page.locator(".vpd-tl-stage").evaluate("node => node === document.activeElement")
        page.locator(".vpd-tl-reply .vpd-tok", has_text="42").hover()
        assert status(page) == "token 4 of 8 “42” · environment, as tool · masked: no part in loss, credit or scales"
        assert "Not the policy's token" in page.locator(".vpd-tl-card").inner_text()
        assert page.locator(".vpd-tl-card .vpd-tl-row").count() == 0
        page.keyboard.press("]")
        page.wait_for_function("document.querySelector('.vpd-tl-where').textContent.endsWith('rollout 3')")
        assert reply.is_hidden()
        page.keyboard.press("[")
        page.wait_for_function("document.querySelector('.vpd-tl-where').textContent.endsWith('rollout 2')")
        assert reply.is_visible()  # as the reader left it
        page.keyboard.press("o")
        assert reply.is_hidden()
        page.keyboard.press("o")
        assert reply.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("words", "hidden"), [(10, False), (81, True)])
def test_a_reply_as_user_is_folded_where_it_is_long(chromium: str, tmp_path: Path, words: int, hidden: bool) -> None:
    turns = [("assistant", ["one"]), ("user", [" a"] * words), ("assistant", ["two", " three"])]
    with offline_page(chromium, page_of(tmp_path, episode(turns))) as page:
        assert page.locator(".vpd-tl-reply .vpd-tl-turn-body").is_hidden() is hidden


@pytest.mark.slow
def test_a_pinned_token_of_the_environment_is_in_sight(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, episode(), selected=3)) as page:
        assert page.locator(".vpd-tl-reply .vpd-tl-pinned").first.is_visible()
        assert "pinned · environment, as tool" in status(page)


@pytest.mark.slow
def test_an_episode_without_numbers_shows_its_turns(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, episode() | {"tokens": None})) as page:
        assert page.locator(".vpd-tl-speaker").count() == 3
        bodies = page.locator(".vpd-tl-turn-body").evaluate_all("all => all.map((one) => one.textContent)")
        assert bodies == ["one two", "42\n", " three four five"]
        page.locator(".vpd-tl-fold").click()
        assert page.locator(".vpd-tl-reply .vpd-tl-turn-body").is_visible()


@pytest.mark.slow
def test_a_mask_without_turns_is_shown_in_the_text(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, page_of(tmp_path, record(mask=[False, True, True]))) as page:
        assert ["vpd-tl-masked" in name for name in classes(page)] == [True, False, False]
        page.locator(".vpd-tl-stage").focus()
        page.keyboard.press("ArrowRight")
        assert "token 2 of 3" in status(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 900, 1280])
def test_hostile_turns_are_text_and_the_page_never_scrolls_sideways(chromium: str, tmp_path: Path, width: int) -> None:
    turns = [("assistant", [HOSTILE]), (HOSTILE, [HOSTILE, "x" * 5000]), ("assistant", ["word"] * 90)]
    with offline_page(chromium, page_of(tmp_path, episode(turns)), viewport={"width": width, "height": 900}) as page:
        assert page.locator(".vpd img, .vpd script, .vpd a").count() == 0
        for _ in range(2):
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.locator(".vpd-tl-stage").focus()
            page.keyboard.press("o")


# -- RolloutTable in the browser -------------------------------------------------------------------------------------


def table_of(tmp_path: Path, **options: Any) -> Path:
    shown = {"turn_roles": ["assistant", "user", "assistant"], "turn_texts": ["first", HOSTILE, "last"]}
    records = [
        row_record(0, text="last", feedback_turn=1, mask=[True], **shown),
        row_record(1),
        row_record(2, turn_roles=["assistant"] + ["tool", "assistant"] * 4, turn_texts=["x"] * 8 + ["needle"]),
    ]
    path = tmp_path / "table.html"
    RolloutTable(rollout_rows(records), **options).to_html(path)
    return path


@pytest.mark.slow
def test_the_table_counts_turns_sorts_by_them_and_finds_their_words(chromium: str, tmp_path: Path) -> None:
    with offline_page(chromium, table_of(tmp_path)) as page:
        assert page.locator(".vpd-rt-cell.vpd-rt-turns").all_inner_texts() == ["2", "1", "5"]
        page.locator(".vpd-rt-sort-turns").click()
        page.wait_for_function("document.querySelector('.vpd-rt-sort-turns').ariaSort === 'descending'")
        assert page.locator(".vpd-rt-cell.vpd-rt-turns").all_inner_texts() == ["5", "2", "1"]
        page.locator(".vpd-rt-search").fill("needle")
        page.wait_for_function("document.querySelector('.vpd-rt-body').getAttribute('aria-rowcount') === '1'")
    single = tmp_path / "single.html"
    RolloutTable(rollout_rows([row_record(0), row_record(1)]), selected=0).to_html(single)
    with offline_page(chromium, single) as page:
        assert page.locator(".vpd-rt-sort-turns, .vpd-rt-talk").count() == 0
        assert "response" in page.locator(".vpd-rt-texts").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [900, 1280])
def test_the_details_of_an_episode_are_its_conversation(chromium: str, tmp_path: Path, width: int) -> None:
    path = table_of(tmp_path, selected=0)
    with offline_page(chromium, path, viewport={"width": width, "height": 900}) as page:
        turns = page.locator(".vpd-rt-turn")
        heads = turns.locator(".vpd-caps").all_inner_texts()
        assert [re.sub(r"\s+", " ", head) for head in heads] == [
            "policy, turn 1 the feedback is about this turn", "environment, as user", "policy, turn 2",
        ]  # fmt: skip
        texts = page.locator(".vpd-rt-turn-text").all_inner_texts()
        assert texts[0] == "first" and "<script>alert(1)</script>" in texts[1] and texts[2] == "last"
        assert not set("\x1b\u202e\u2066") & set(texts[1])
        assert "feedback on turn 1" in page.locator(".vpd-rt-texts").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cells = page.locator(".vpd-rt-body .vpd-rt-row").first.locator(".vpd-rt-cell")
        right = cells.evaluate_all("all => Math.max(...all.map((one) => one.getBoundingClientRect().right))")
        assert right <= page.locator(".vpd-rt-body").evaluate("node => node.getBoundingClientRect().right")
