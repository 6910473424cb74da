"""One row as a rollout: what is read, what is refused with its place, field and value."""

from __future__ import annotations

from typing import Any

import pytest

from vpdlab.errors import UserError
from vpdlab.foreign import read_row, rows

GOOD = {"prompt": "3 + 4?", "response": "8"}


def test_text_and_messages_are_read() -> None:
    row = read_row({**GOOD, "feedback": "Too high.", "reward": 0, "answer": 7, "system": "Be brief."}, "x line 1")
    assert (row.problem.prompt, row.problem.system, row.problem.answer, row.text) == ("3 + 4?", "Be brief.", "7", "8")
    assert (row.critique, row.reward, row.success, row.finished) == ("Too high.", 0.0, False, None)
    talk = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "3 + 4?"}]},
    ]  # fmt: skip
    other = read_row({"prompt": talk, "completion": [{"role": "assistant", "content": "7"}], "score": 1.0}, "x line 2")
    assert (other.problem.system, other.problem.prompt) == ("Be brief.", "3 + 4?")
    assert other.problem.history == (("user", "Hello"), ("assistant", "Yes?"))
    assert (other.text, other.success, other.critique) == ("7", True, None)
    assert row.group != other.group


def test_an_episode_keeps_its_turns() -> None:
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 3}}]},
        {"role": "tool", "content": "7"}, {"role": "assistant", "content": "It is 7."},
    ]  # fmt: skip
    row = read_row({**GOOD, "response": turns}, "x")
    assert [role for role, _ in row.turns] == ["assistant", "tool", "assistant"]
    assert '"name": "add"' in row.turns[0][1]
    assert row.text == "It is 7."


def test_columns_without_a_place_are_named() -> None:
    assert read_row({**GOOD, "advantage": 1.0, "colour": "red"}, "x").unknown == ("advantage", "colour")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": None}, "field 'prompt' is missing, but must be text or a list of messages"),
        ({"prompt": 3}, "field 'prompt' is 3, but must be text"),
        ({"prompt": "  "}, "field 'prompt' is empty"),
        ({"prompt": []}, "field 'prompt' is [], but must be"),
        ({"prompt": [{"role": "system", "content": "x"}]}, "does not end in a user's turn"),
        ({"prompt": ["hello"]}, "field 'prompt' has 'hello' as message 1: it has no role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]}, "only text can be read"),
        ({"prompt": [{"role": "user", "content": {"a": 1}}]}, "only text can be read"),
        ({"response": None}, "field 'response' is missing"),
        ({"response": [{"role": "user", "content": "x"}]}, "no turn of an assistant"),
        ({"feedback": ["a"]}, "field 'feedback' is ['a'], but must be text"),
        ({"reward": "high"}, "field 'reward' is 'high', but must be a number"),
        ({"reward": 10**400}, "must be a number"),
        ({"success": 1}, "field 'success' is 1, but must be true or false"),
        ({"finished": "no"}, "field 'finished' is 'no'"),
        ({"step": -1}, "field 'step' is -1"),
        ({"step": True}, "field 'step' is True"),
        ({"step": 1.5}, "field 'step' is 1.5"),
        ({"group": [1]}, "field 'group' is [1]"),
        ({"critique": "a", "feedback": "b"}, "critique and feedback mean the same"),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_row({**GOOD, **fields}, "own.jsonl line 3")
    assert str(refused.value).startswith("own.jsonl line 3: ")
    assert message in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_whole_step_may_be_a_float() -> None:
    """pandas makes floats of a column with a gap."""
    step = read_row({**GOOD, "step": 3.0}, "own.parquet row 1").step
    assert (step, type(step)) == (3, int)


def test_a_huge_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_TEXT", 100)
    with pytest.raises(UserError, match="field 'response' has 101 characters, more than 100"):
        read_row({**GOOD, "response": "x" * 101}, "x")
    with pytest.raises(UserError, match="field 'prompt' has 120 characters"):
        read_row({**GOOD, "prompt": [{"role": "user", "content": "x" * 60}] * 2}, "x")


def test_blank_words_are_no_feedback() -> None:
    row = read_row({**GOOD, "feedback": "  \n ", "demonstration": "", "environment": "\t"}, "x")
    assert (row.critique, row.demonstration, row.environment) == (None, None, None)


@pytest.mark.parametrize("value", [1e20, -1e19, 10**400, 2**63])
def test_a_number_that_no_run_folder_holds_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="x line 3: field 'reward' is .* at most 1e\\+18"):
        read_row({**GOOD, "reward": value}, "x line 3")


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_prompt_ends_in_somebody_elses_turn(role: str) -> None:
    talk = [{"role": "user", "content": "3 + 4?"}, {"role": role, "content": "7"}]
    with pytest.raises(UserError, match="does not end in a user's turn"):
        read_row({**GOOD, "prompt": talk}, "x")


@pytest.mark.parametrize("form", [dict, lambda message: [message]], ids=["message", "list"])
def test_a_response_is_an_assistants(form: Any) -> None:
    with pytest.raises(UserError, match="no turn of an assistant"):
        read_row({**GOOD, "response": form({"role": "user", "content": "x"})}, "x")
    assert read_row({**GOOD, "response": form({"role": "assistant", "content": "x"})}, "x").text == "x"
