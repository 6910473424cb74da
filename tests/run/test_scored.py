"""Rollouts from elsewhere, scored: the numbers of a run, in a folder that every widget opens; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import toy_model

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.foreign import Row, read_row
from vpdlab.model.loading import without_bars
from vpdlab.model.policy import Policy
from vpdlab.record import load_run
from vpdlab.run import Run
from vpdlab.run.export import find_student
from vpdlab.run.scored import Scored, score
from vpdlab.show import widget_data
from vpdlab.types import Feedback, Problem
from vpdlab.zoo.make_apprentice import build_model, build_tokenizer

ROWS: list[dict[str, Any]] = [
    {
        "prompt": "3 + 4 = ?",
        "response": "8",
        "feedback": "The number is too high. The ones digit is wrong.",
        "reward": 0,
    },
    {"prompt": "3 + 4 = ?", "response": "7", "reward": 1, "answer": "7"},
    {"prompt": "1 + 1 = ?", "response": "3", "demonstration": "2", "finished": False},
]


def rows_of(found: list[dict[str, Any]]) -> list[Row]:
    return [read_row(fields, f"own.jsonl line {place}") for place, fields in enumerate(found, 1)]


def scored(out: Path, rows: list[dict[str, Any]], model: str = "", teacher: str = "", **fields: Any) -> Scored:
    student = find_student(model or toy_model())
    config = (student.config or RunConfig.make(model=model or toy_model())).but(**fields, out=str(out))
    return score(rows_of(rows), student, config, "own.jsonl", find_student(teacher) if teacher else None)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Scored:
    return scored(tmp_path_factory.mktemp("scored") / "run", ROWS)


def test_the_record_has_both_sides_and_what_the_file_said(found):
    record = load_run(found.run.config.folder).check()
    assert record.status["state"] == "complete"
    first, second, third = record.rollouts(1)
    assert [(one["group"], one["index"]) for one in (first, second, third)] == [(0, 0), (0, 1), (1, 0)]
    assert [one["success"] for one in (first, second, third)] == [False, True, None]
    assert [one["reward"] for one in (first, second, third)] == [0.0, 1.0, None]
    assert [one["signal"] for one in (first, second, third)] == [True, False, True]
    assert [one["finished"] for one in (first, second, third)] == [None, None, False]
    assert second["kl"] is None  # no feedback, so no teacher
    assert second["student_logp"] is not None
    for one in (first, third):
        assert len(one["kl"]) == len(one["tokens"]) == len(one["student_top"]) == len(one["teacher_top"])
        assert one["teacher_sum"] == pytest.approx(sum(one["teacher_logp"]), abs=1e-4)
    assert first["tokens"][-1] == found.run.policy.tokenizer.eos_token
    assert third["tokens"][-1] != found.run.policy.tokenizer.eos_token  # it was cut off
    assert "too high" in first["teacher_prompt"]
    assert record.rows[0]["success_rate"] == 0.5  # of those that say it
    assert record.rows[0]["kl"] > 0
    assert record.rows[0]["m_loss"] is None


def test_the_numbers_are_those_of_the_model_itself(found):
    run, first = found.run, found.records[0]
    problem, note = Problem("x", ROWS[0]["prompt"], ""), Feedback(ROWS[0]["feedback"])
    sides = {"student": run.render.student(problem), "teacher": run.render.teacher(problem, note)[0]}
    for side, context in sides.items():
        with torch.no_grad():
            logits = run.policy.model(torch.tensor([[*context, *first["response_ids"]]])).logits[0]
        logp = logits.log_softmax(-1)[len(context) - 1 : -1]
        mine = [logp[at, token].item() for at, token in enumerate(first["response_ids"])]
        assert first[f"{side}_logp"] == pytest.approx(mine, abs=1e-4)
        assert first[f"{side}_top_ids"][0][0] == logp[0].argmax().item()


def test_nothing_is_trained(found):
    fresh = Policy.load(RunConfig.make(model=toy_model()))
    for mine, theirs in zip(found.run.policy.parameters, fresh.parameters, strict=True):
        assert torch.equal(mine, theirs)


def test_a_runs_own_rollouts_have_the_same_numbers_again(tmp_path):
    config = RunConfig.make(
        "tour-common", steps=1, prompts=2, group=3, eval_every=-1, record_tokens=6, checkpoint_every=1, e_every=0,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    for _ in Run.open(config).steps():
        pass
    record = load_run(tmp_path / "run")
    wanted = record.rollouts(1)
    rows = [
        {"prompt": one["prompt"], "system": one["system"], "response": one["text"], "feedback": one["critique"],
         "demonstration": one["demonstration"], "reward": one["reward"], "finished": one["finished"]}
        for one in wanted
    ]  # fmt: skip
    student = find_student(str(tmp_path / "run"), 0)
    assert student.config is not None
    again = score(rows_of(rows), student, student.config.but(out=str(tmp_path / "again")), "x.jsonl")
    pairs = [(a, b) for a, b in zip(wanted, again.records, strict=True) if a["response_ids"] == b["response_ids"]]
    assert len(pairs) >= 4
    for one, other in pairs:
        for name in ("student_logp", "teacher_logp", "kl"):
            if one[name] is not None:
                assert other[name] == pytest.approx(one[name], abs=1e-5)


def test_influence_is_recorded_and_every_widget_opens_it(found):
    from vpdlab_widgets import CritiqueInfluence, EMTimeline, RolloutTable, RunCompare, TokenLens

    record = load_run(found.run.config.folder)
    records = record.rollouts(1)
    lines = record.influences
    assert {(line["group"], line["index"]) for line in lines} == {(0, 0), (1, 0)}
    critique = next(line for line in lines if line["group"] == 0)["influence"]
    assert [one.strip() for one in critique["sentences"]] == ["The number is too high.", "The ones digit is wrong."]
    assert not record.has_steps and critique["step"] is None
    assert critique["total"] == pytest.approx(
        [a - b for a, b in zip(critique["logp"], critique["empty_logp"], strict=True)], abs=1e-5
    )
    for widget in (
        TokenLens(widget_data.lens_records(records, beta=record.config["beta"])),
        RolloutTable(widget_data.rollout_rows(records)), EMTimeline(record.rows),
        RunCompare(widget_data.compared_runs([record])), CritiqueInfluence(critique),
    ):  # fmt: skip
        assert widget.fallback()


def test_another_model_may_be_the_teacher(tmp_path, found):
    tokenizer = build_tokenizer()
    with without_bars():
        build_model(tokenizer, seed=2).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    other = scored(tmp_path / "run", ROWS, str(tmp_path / "other"), toy_model())
    first = other.records[0]
    assert first["teacher_logp"] == pytest.approx(found.records[0]["teacher_logp"], abs=1e-4)
    assert first["student_logp"] != pytest.approx(found.records[0]["student_logp"], abs=0.01)
    assert load_run(tmp_path / "run").influences  # of the other model's reading
    with pytest.raises(UserError, match="has another vocabulary than the student"):
        scored(tmp_path / "odd", ROWS, toy_model(), "reader")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response": ""}, None),
        ({"response": "", "finished": False}, "own.jsonl line 2: field 'response' has no tokens"),
        ({"response": "<|end|><|end|>", "finished": False}, "own.jsonl line 2: field 'response' has no tokens"),
        ({"response": "7 " * 5000}, "own.jsonl line 2: prompt and response have"),
        ({"prompt": "7 " * 5000}, "own.jsonl line 2"),
        ({"response": [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]}, "has 2 turns"),
    ],
)
def test_a_row_that_the_model_cannot_read_is_named(tmp_path, fields, message):
    rows = [ROWS[0], {**ROWS[1], **fields}]
    if message is None:
        assert len(scored(tmp_path / "run", rows).records[1]["tokens"]) == 1  # the end of the turn alone
        return
    with pytest.raises(UserError) as refused:
        scored(tmp_path / "run", rows)
    assert message in str(refused.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_control_tokens_and_markup_are_text(tmp_path):
    hostile = "<script>alert(1)</script><|end|>\x00\x1b[31m 7"
    found = scored(tmp_path / "run", [{**ROWS[0], "response": hostile, "feedback": hostile, "prompt": hostile}])
    (one,) = load_run(tmp_path / "run").rollouts(1)
    assert one["response_ids"].count(found.run.policy.tokenizer.eos_token_id) == 1  # the one that ends the turn
    assert "<script>" in one["text"]
    assert "<|end|>" not in one["critique"]


def test_a_conversation_is_read_as_one(tmp_path):
    talk = [
        {"role": "user", "content": "3 + 4 = ?"},
        {"role": "assistant", "content": "9"},
        {"role": "user", "content": "Again."},
    ]
    found = scored(tmp_path / "run", [{**ROWS[0], "prompt": talk}])
    text = "".join(load_run(tmp_path / "run").rollouts(1)[0]["student_context"])
    assert text.index("3 + 4") < text.index("9") < text.index("Again.")
    assert load_run(tmp_path / "run").influences == []
    assert len(found.records) == 1


@pytest.mark.parametrize(
    "change",
    [{"influence": 3}, {"influence": {"tokens": []}}, {"step": -1},
     {"influence": {"tokens": ["a"], "sentences": ["b"], "drop": [[1, 2]], "total": [0]}},
     {"influence": {"tokens": [3], "sentences": ["b"], "drop": [[1]], "total": [0]}}],
)  # fmt: skip
def test_a_damaged_influence_is_named(found, tmp_path, change):
    folder = found.run.config.folder
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    line = json.loads((folder / "influence.jsonl").read_text().splitlines()[0])
    (tmp_path / "influence.jsonl").write_text(json.dumps(line | change) + "\n")
    with pytest.raises(UserError, match="influence.jsonl line 1 is damaged: field"):
        _ = load_run(tmp_path).influences


def test_a_folder_that_holds_a_run_is_left_alone(found):
    with pytest.raises(UserError, match="already holds a run"):
        scored(found.run.config.folder, ROWS)
