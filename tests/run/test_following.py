"""Followed responses: which they are, where they are scored, that nothing is trained on them, and what survives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy import OneReply, Parity, equal, toy_model, weights

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.prompts import views
from vpdlab.record import load_run, rollouts
from vpdlab.run import Run, following

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "e_every": 2, "steps": 5,
    "record_tokens": 2, "alpha": 1.0, "eval_every": -1, "eval_samples": 1, "follow": 3,
}  # fmt: skip


def opened(out: Path, record: bool = True, **fields: Any) -> Run:
    config = RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(out))
    return Run.open(config, record=record, task=Parity())


def trained(run: Run) -> Run:
    for _ in run.steps():
        pass
    return run


def points(folder: Path) -> dict[int, int]:
    """How many responses were scored after which iteration."""
    found: dict[int, int] = {}
    for record in load_run(folder).followed():
        found[record["step"]] = found.get(record["step"], 0) + 1
    return found


def texts(folder: Path, step: int = 0) -> list[tuple[str, str]]:
    return [(record["problem_id"], record["text"]) for record in load_run(folder).followed(step)]


def logps(run: Run, record: dict[str, Any], side: str) -> list[float]:
    """What a side gives a recorded response now, computed beside the code under test."""
    ((rollout, note),) = [
        one for one in run.following.responses if one[0].response_ids == tuple(record["response_ids"])
    ]
    own, other = views([rollout], [note], run.render)
    reader = run.policy if side == "student" else run.learner.teacher
    with torch.no_grad():
        ((batch,),) = run.policy.minibatches(own if side == "student" else other)
        dist = reader.token_dist(batch)
        logp = dist.logp(torch.arange(len(rollout.response_ids)))
    return logp.gather(1, torch.tensor(rollout.response_ids)[:, None])[:, 0].tolist()


@pytest.mark.parametrize("method", ["vpd", "sdpo", "grpo"])
def test_nothing_is_trained_on_them(tmp_path, method):
    runs = [trained(opened(tmp_path / str(count), method=method, follow=count, follow_every=1)) for count in (0, 3)]
    assert equal(*(weights(run) for run in runs))
    assert points(tmp_path / "0") == {}
    assert points(tmp_path / "3") == dict.fromkeys(range(6), 3)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({}, [0, 5]),
        ({"eval_every": 0}, [0, 5]),
        ({"eval_every": 2}, [0, 2, 4, 5]),
        ({"checkpoint_every": 2}, [0, 2, 4, 5]),
        ({"follow_every": 3, "eval_every": 4}, [0, 3, 4, 5]),
        ({"follow": 0, "follow_every": 1}, []),
    ],
)
def test_they_are_scored_at_every_evaluation_and_checkpoint(tmp_path, fields, steps):
    trained(opened(tmp_path / "run", **fields))
    assert list(points(tmp_path / "run")) == steps


def test_the_numbers_are_those_of_student_and_teacher(tmp_path):
    run = opened(tmp_path / "run", teacher="ema", teacher_rate=0.5)
    run.following.draw()
    for step in (0, 5):
        if step:
            trained(run)
        else:
            run.following.score(0, None)
        records = run.following.records if step == 0 else load_run(tmp_path / "run").followed(step)
        spoken = [record for record in records if record["signal"]]
        assert spoken
        for record in spoken:
            for side in ("student", "teacher"):
                assert record[f"{side}_logp"] == pytest.approx(logps(run, record, side), abs=1e-5)
        if step == 0:
            run.following.step, run.following.records, run.following.responses = -1, [], []


def test_three_of_four_are_failures_with_feedback(tmp_path):
    trained(opened(tmp_path / "run", follow=8, steps=1))
    records = load_run(tmp_path / "run").followed(0)
    assert len({record["problem_id"] for record in records}) == len(records) == 8
    held_out = {problem.id for problem in Parity().load("test")}
    assert {record["problem_id"] for record in records} <= held_out
    wanted = [place % 4 == 3 for place in range(8)]
    assert sum(record["success"] == want for record, want in zip(records, wanted, strict=True)) >= 6
    assert all(record["advantage"] is None and record["token_weight"] is None for record in records)


def test_every_run_that_begins_alike_follows_the_same(tmp_path):
    first = trained(opened(tmp_path / "a", steps=1))
    trained(opened(tmp_path / "b", steps=1, seed=7, method="sdpo"))
    trained(opened(tmp_path / "c", steps=1, eval_seed=1))
    assert texts(tmp_path / "a") == texts(tmp_path / "b") != texts(tmp_path / "c")
    assert first.config.seed != 7


def test_a_rollout_is_pinned_while_the_run_goes_on(tmp_path):
    run = opened(tmp_path / "run", eval_every=0)
    for row in run.steps():
        if row["step"] == 2:
            assert run.recorder is not None
            run.recorder.flush()  # rollouts are written in the background
            rollout = load_run(tmp_path / "run").rollouts(2)[4]
            run.follow(rollout)
            run.follow(rollout)  # once is enough
    assert points(tmp_path / "run") == {0: 3, 2: 4, 5: 4}
    pinned = load_run(tmp_path / "run").followed(5)[3]
    for name in ("problem_id", "text", "prompt_ids", "response_ids", "logps", "critique", "reward", "finished"):
        assert pinned[name] == rollout[name]


def test_words_of_ones_own_are_followed(tmp_path):
    run = opened(tmp_path / "run", follow=0)
    problem = Parity().load("test")[0]
    run.follow(id=problem.id, response=problem.answer)
    run.follow(prompt="Another question?", response="odd", feedback="Think again.", success=False)
    trained(run)
    one, two = load_run(tmp_path / "run").followed(5)
    judged = sum(one["response_ids"]) % 2 == 0  # by the task, since nobody has said so
    assert (one["success"], one["signal"], one["teacher_logp"]) == (judged, False, None)
    assert (two["prompt"], two["critique"], two["success"]) == ("Another question?", "Think again.", False)
    assert two["student_logp"] == pytest.approx(logps(run, two, "student"), abs=1e-5)
    assert len(two["logps"]) == len(two["response_ids"])
    assert points(tmp_path / "run") == {0: 2, 5: 2}


def test_a_file_of_responses_is_followed(tmp_path):
    rows = [{"prompt": "2 + 2?", "response": "odd", "feedback": "No."}, {"prompt": "2 + 3?", "response": "odd"}]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained(opened(tmp_path / "run", follow=1, follow_file=str(file), steps=1))
    assert [record["prompt"] for record in load_run(tmp_path / "run").followed(1)][1:] == ["2 + 2?", "2 + 3?"]
    file.write_text(json.dumps({"prompt": "2 + 2?"}) + "\n")
    with pytest.raises(UserError, match=r"mine.jsonl line 1.*'response'"):
        trained(opened(tmp_path / "other", follow_file=str(file)))


def test_a_resumed_run_and_a_branch_follow_what_the_run_followed(tmp_path):
    fields: dict[str, Any] = {"checkpoint_every": 2, "checkpoint_keep": 9, "follow_every": 1}
    whole, half = (opened(tmp_path / name, **fields) for name in ("whole", "half"))
    for run in (whole, half):
        for row in run.steps():
            if row["step"] == 1:
                run.follow(id=Parity().load("test")[1].id, response="odd", feedback="Look at the last digit.")
            if row["step"] == 4 and run is half:
                break
    shutil.rmtree(tmp_path / "half/checkpoints/step-000004")  # as if it had been killed before
    trained(opened(tmp_path / "half", **fields, resume=True))
    trained(Run.branch(f"{tmp_path / 'whole'}@2", out=str(tmp_path / "branch"), parts={"task": Parity()}))
    wanted = load_run(tmp_path / "whole").followed()
    assert points(tmp_path / "whole") == {0: 3, 1: 4, 2: 4, 3: 4, 4: 4, 5: 4}
    for name in ("half", "branch"):
        assert load_run(tmp_path / name).followed() == wanted


def test_a_response_that_cannot_be_read_again_is_told_and_let_go(tmp_path, capsys):
    fields: dict[str, Any] = {"checkpoint_every": 2, "steps": 4}
    trained(opened(tmp_path / "run", **fields))
    file = tmp_path / "run/followed/step-000002.parquet"
    file.write_bytes(b"PAR1" + bytes(40))
    run = trained(opened(tmp_path / "run", **{**fields, "steps": 6}, resume=True))
    assert "not followed any more" in capsys.readouterr().err
    assert len(run.rows) == 6


def test_numbers_stay_where_a_response_is_let_go(tmp_path, capsys):
    fields: dict[str, Any] = {"checkpoint_every": 2, "steps": 4}
    trained(opened(tmp_path / "run", **fields))
    for file in (tmp_path / "run/followed").iterdir():
        records = [one | {"response_ids": [10**6] * len(one["logps"])} if one["group"] == 1 else one
                   for one in load_run(tmp_path / "run").followed(int(file.stem[5:]))]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(records, schema=rollouts.schema()), file)
    run = opened(tmp_path / "run", **{**fields, "steps": 6}, resume=True)
    assert capsys.readouterr().err.count("not followed any more") == 1
    run.follow(prompt="2?", response="odd")
    trained(run)
    assert [one["group"] for one in load_run(tmp_path / "run").followed(4)] == [0, 1, 2, 3]
    assert [one["group"] for one in load_run(tmp_path / "run").followed(6)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"id": "no such problem", "response": "odd"}, "has no problem 'no such problem'"),
        ({"prompt": "2?", "response": "odd", "feedbak": "No."}, "no field 'feedbak'"),
        ({"prompt": "2?", "response": "odd " * 400}, "more than the model's"),
        ({"prompt": "2? " * 400, "response": "odd"}, "max_context"),
        ({}, "a recorded rollout, or the fields"),
    ],
)
def test_what_cannot_be_followed_is_told(tmp_path, given, words):
    run = opened(tmp_path / "run")
    with pytest.raises(UserError, match=words):
        run.follow(**given)
    assert run.following.responses == []


def test_a_rollout_of_another_model_is_refused(tmp_path):
    run = trained(opened(tmp_path / "run", steps=1))
    record = load_run(tmp_path / "run").rollouts(1)[0]
    other = opened(tmp_path / "other")
    for change, words in (
        ({"prompt_ids": [1, 2, 3]}, "other tokens"),
        ({"response_ids": [10**6] * len(record["response_ids"])}, "not those of this run's model"),
    ):
        with pytest.raises(UserError, match=words):
            other.follow(record | change)
    with pytest.raises(UserError, match="has ended"):
        run.follow(record)
    with pytest.raises(UserError, match="writes no folder"):
        opened(tmp_path / "none", record=False).follow(record)


def test_there_is_a_most(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "MOST", 5)
    run = opened(tmp_path / "run", follow=3)
    for text in ("odd", "even"):
        run.follow(prompt="2?", response=text)
    with pytest.raises(UserError, match="5 responses, those to be drawn among them"):
        run.follow(prompt="2?", response="neither")
    trained(run)
    assert points(tmp_path / "run") == {0: 5, 5: 5}


def test_what_is_pinned_where_nothing_is_followed_is_scored_at_once_too(tmp_path):
    run = opened(tmp_path / "run", follow=0)
    for row in run.steps():
        if row["step"] == 2:
            run.follow(prompt="2?", response="odd")
    assert points(tmp_path / "run") == {2: 1, 5: 1}


def test_an_outcome_that_nobody_knows_is_not_made_up(tmp_path):
    run = opened(tmp_path / "run", follow=0, checkpoint_every=5)
    problem = Parity().load("test")[3]
    run.follow(prompt="Another one?", response="odd")
    run.follow(prompt=problem.prompt, response="odd")  # a problem of the run: the task judges it
    trained(run)
    unknown, known = load_run(tmp_path / "run").followed(5)
    assert (unknown["success"], unknown["reward"]) == (None, None)
    assert known["success"] == (sum(known["response_ids"]) % 2 == 0) and known["problem_id"] == problem.id
    again = opened(tmp_path / "run", follow=0, checkpoint_every=5, resume=True, steps=6)
    trained(again)
    assert load_run(tmp_path / "run").followed(6)[0]["success"] is None


def test_other_settings_of_following_are_minded_or_told(tmp_path, capsys):
    fields: dict[str, Any] = {"checkpoint_every": 2, "checkpoint_keep": 9, "steps": 4}
    trained(opened(tmp_path / "run", **fields))
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 2?", "response": "odd"}) + "\n")
    parts = {"task": Parity()}
    trained(Run.branch(f"{tmp_path / 'run'}@2", str(tmp_path / "b"), parts, follow=8, follow_file=str(file)))
    assert "follow 8 has no effect: the run goes on with the 3 responses" in capsys.readouterr().err
    assert points(tmp_path / "b") == {0: 3, 2: 4, 4: 4}
    trained(opened(tmp_path / "run", **fields | {"steps": 5, "follow_file": str(file)}, resume=True))
    assert points(tmp_path / "run")[5] == 4
    with pytest.raises(UserError, match="nothere.jsonl"):
        opened(tmp_path / "none", follow_file=str(tmp_path / "nothere.jsonl"))
    assert not (tmp_path / "none/config.json").exists()


@pytest.mark.parametrize("given", [3, [1], {"response_ids": [1, 2]}])
def test_what_is_no_response_is_one_line(tmp_path, given):
    with pytest.raises(UserError, match="is no response|was not recorded by vpdlab"):
        opened(tmp_path / "run").follow(given)


def test_episodes_are_followed_turn_by_turn(tmp_path):
    fields = {"max_new_tokens": 40, "max_turns": 2, "turn_tokens": 5, "steps": 2, "checkpoint_every": 1}
    config = RunConfig.make(
        **{"model": toy_model(), **SMALL, **fields, "task": "arithmetic"}, out=str(tmp_path / "run")
    )
    trained(Run.open(config, environment=OneReply()))
    records = load_run(tmp_path / "run").followed()
    assert {record["step"] for record in records} == {0, 1, 2}
    assert {tuple(record["turn_roles"]) for record in records} == {("assistant", "user", "assistant")}
    for record in records:
        assert [value is None for value in record["student_logp"]] == [not own for own in record["mask"]]
    resumed = Run.open(config.but(resume=True, steps=3), environment=OneReply())
    trained(resumed)
    again = load_run(tmp_path / "run").followed(3)
    assert [(r["response_ids"], r["mask"], r["turn_ends"]) for r in again] == [
        (r["response_ids"], r["mask"], r["turn_ends"]) for r in records[:3]
    ]


def test_a_critique_stays_the_one_of_the_beginning(tmp_path):
    trained(opened(tmp_path / "run", follow_every=1))
    by_response: dict[int, set[Any]] = {}
    for record in load_run(tmp_path / "run").followed():
        by_response.setdefault(record["group"], set()).add((record["critique"], tuple(record["teacher_ids"] or ())))
    assert all(len(seen) == 1 for seen in by_response.values())
