"""Rollouts of other trainers as a run folder: nothing is made up, and what reads runs reads it."""

from __future__ import annotations

import pytest
from other_trainers import prime_rl_traces, trl, verl
from vpdlab_widgets import EMTimeline, RolloutTable, RunCompare, TokenLens

from vpdlab.errors import UserError
from vpdlab.foreign import find_sources
from vpdlab.record import RunRecord, load_run
from vpdlab.run.imported import record_rows, take
from vpdlab.show import opening, summary, widget_data


def imported(place, out, **options) -> RunRecord:
    sources = find_sources(place)
    rows, _ = take(sources.rows(), **options)
    record_rows(rows, out, sources.format.name, str(place))
    return load_run(out)


def test_steps_rewards_and_feedback_are_kept(tmp_path):
    trl(tmp_path / "out")
    record = imported(tmp_path / "out", tmp_path / "run").check()
    assert record.status["state"] == "complete"
    assert record.steps == [10, 20]
    assert [row["reward"] for row in record.rows] == [1.0, 1.0]
    assert [row["kl"] for row in record.rows] == [None, None]
    right, wrong = record.rollouts(20)
    assert (right["text"], right["reward"], right["success"], right["signal"]) == ("7", 1.5, True, False)
    assert (wrong["critique"], wrong["source"], wrong["group"], wrong["index"]) == ("Too high.", "file", 0, 1)
    assert wrong["finished"] is None
    assert wrong["student_logp"] is None
    assert (record.config["task"], record.environment["task"]) == ("handed-in:trl", "rollouts of trl (out), imported")


def test_another_column_may_be_the_feedback(tmp_path):
    verl(tmp_path / "dumps")
    record = imported(tmp_path / "dumps", tmp_path / "run", feedback="answer")
    assert [one["critique"] for one in record.rollouts(1)] == ["7", "7"]
    with pytest.raises(UserError, match="1.jsonl|there is no column 'hint'"):
        imported(tmp_path / "dumps", tmp_path / "other", feedback="hint")


def test_an_episode_is_shown_turn_by_turn(tmp_path):
    prime_rl_traces(tmp_path / "out")
    first, _ = imported(tmp_path / "out", tmp_path / "run").rollouts(4)
    assert first["turn_roles"] == ["assistant", "tool", "assistant"]
    assert first["turn_texts"] == ["add(3, 4)", "7", "7"]


@pytest.mark.parametrize("make", [trl, verl, prime_rl_traces])
def test_what_shows_runs_shows_it(tmp_path, make):
    make(tmp_path / "out")
    record = imported(tmp_path / "out", tmp_path / "run")
    records = record.rollouts()
    for widget in (
        RolloutTable(widget_data.rollout_rows(records)), TokenLens(widget_data.lens_records(records)),
        EMTimeline(record.rows), RunCompare(widget_data.compared_runs([record])),
    ):  # fmt: skip
        assert widget.fallback()


def test_rollouts_without_a_step_are_given_none(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "reward": 1}\n' * 2)
    record = imported(path, tmp_path / "run").check()
    assert not record.has_steps and record.steps == [1]
    assert opening.state(record) == "imported" and summary.title_of(record, [1]) == "rollouts"
    records = record.rollouts(1)
    for given in (widget_data.rollout_rows(records), widget_data.lens_records(records)):
        assert [one["has_step"] for one in given] == [False, False]
    path.write_text('{"prompt": "a", "response": "b", "step": 1}\n')
    record = imported(path, tmp_path / "placed")
    assert record.has_steps and opening.state(record) == "imported, step 1"
    assert summary.title_of(record, [1]) == "iteration 1" and "has_step" not in record.rollouts(1)[0]


def test_bad_rows_stop_it_or_are_left_out(tmp_path):
    path = tmp_path / "own.jsonl"
    good = '{"prompt": "a", "response": "b", "reward": 1}\n'
    path.write_text(good + '{"prompt": 3, "response": "b"}\n' + "{not json\n" + good)
    with pytest.raises(UserError, match=r"own.jsonl line 2: field 'prompt' is 3"):
        take(find_sources(path).rows())
    rows, bad = take(find_sources(path).rows(), skip_bad=True)
    assert len(rows) == 2
    assert [line.partition(": ")[0].rpartition("/")[2] for line in bad] == ["own.jsonl line 2", "own.jsonl line 3"]
    path.write_text("{not json\n")
    with pytest.raises(UserError, match=r"own.jsonl line 1"):
        take(find_sources(path, "plain").rows(), skip_bad=True)


@pytest.mark.parametrize("lines", [['"step": 3', '"id": "x"'], ['"id": "x"', '"step": 3']])
def test_rows_of_which_only_some_have_a_step_are_refused(tmp_path, lines):
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f'{{"prompt": "p", "response": "r", {line}}}\n' for line in lines))
    with pytest.raises(UserError, match=r"line \d: field 'step' is missing, but .* line \d has step 3"):
        imported(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_left_alone(tmp_path):
    verl(tmp_path / "dumps")
    record = imported(tmp_path / "dumps", tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        imported(tmp_path / "dumps", tmp_path / "run")
    assert len(record.rollouts()) == 4
