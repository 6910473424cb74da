"""Responses followed up after a run has ended: the numbers that a run itself records, and a folder that stays whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy import OneReply, Parity, equal, toy_model, weights

from vpdlab import manifest
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.files import staged_file
from vpdlab.foreign import read_row
from vpdlab.record import load_run, rollouts
from vpdlab.run import Run
from vpdlab.run.following_up import Point, follow_up

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "e_every": 2, "steps": 5,
    "record_tokens": 2, "alpha": 1.0, "eval_every": -1, "eval_samples": 1, "follow": 3, "checkpoint_every": 2,
    "checkpoint_keep": 9,
}  # fmt: skip
SAVED = [0, 2, 4, 5]
OWN = {"prompt": "Another question?", "response": "odd", "feedback": "Think again.", "success": False}


def opened(out: Path, **fields: Any) -> Run:
    return Run.open(RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(out)), task=Parity())


def trained(run: Run) -> Run:
    for _ in run.steps():
        pass
    return run


def again(folder: Path, *given: Any, **fields: Any) -> list[Point]:
    return follow_up(folder, given, parts={"task": Parity()}, **fields)


def counts(folder: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for record in load_run(folder).followed():
        found[record["step"]] = found.get(record["step"], 0) + 1
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock and those of followed/."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "followed")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != "lock"}


def alike(one: Any, other: Any) -> bool:
    """Equal, numbers up to rounding: other responses beside them in a minibatch change the padding."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=1e-5)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(*pair) for pair in zip(one, other, strict=True))
    return one == other


def different(mine: list[dict[str, Any]], theirs: list[dict[str, Any]], exact: bool = False) -> list[str]:
    """The columns in which two lists of records differ."""
    assert [(one["step"], one["group"]) for one in mine] == [(one["step"], one["group"]) for one in theirs]
    same = (lambda one, other: one == other) if exact else alike
    return [name for one, other in zip(mine, theirs, strict=True) for name in one if not same(one[name], other[name])]


@pytest.mark.parametrize("method", ["vpd", "sdpo"])
@pytest.mark.parametrize(
    "fields",
    [
        {"teacher": "shared"},
        {"teacher": "ema", "teacher_rate": 0.5},
        {"teacher": "adapter", "adapter_rank": 4},
        {"teacher": "adapter", "adapter_rank": 4, "lora_rank": 4},
        {"teacher": "trust-region", "kl_target": 0.1},
    ],
    ids=["shared", "ema", "adapter", "two adapters", "trust-region"],
)
def test_the_numbers_are_those_that_the_run_recorded(tmp_path, method, fields):
    trained(opened(tmp_path / "run", method=method, **fields))
    wanted = load_run(tmp_path / "run").followed()
    shutil.rmtree(tmp_path / "run/followed")
    pinned = [record for record in wanted if record["step"] == 0]
    assert [point.step for point in again(tmp_path / "run", *pinned)] == SAVED
    assert different(load_run(tmp_path / "run").followed(), wanted, exact=True) == []
    trains = ["student"] if method == "sdpo" and "lora_rank" in fields else ["student", "teacher"]
    for side in trains:  # else every checkpoint would do
        assert len({tuple(one[f"{side}_logp"]) for one in wanted if one["signal"] and one["group"] == 0}) > 2


def test_the_numbers_of_a_joint_method_whose_beta_changed(tmp_path):
    run = opened(tmp_path / "run", method="joint")
    for row in run.steps():
        if row["step"] == 3:
            run.control.change(beta=2.0)
    wanted = load_run(tmp_path / "run").followed()
    shutil.rmtree(tmp_path / "run/followed")
    again(tmp_path / "run")
    assert different(load_run(tmp_path / "run").followed(), wanted, exact=True) == []
    heard = [one for one in wanted if one["signal"]]
    betas = {one["step"]: one["implicit_reward"] / (one["teacher_sum"] - one["student_sum"]) for one in heard}
    assert betas[5] == pytest.approx(2.0)
    assert betas[2] == pytest.approx(run.begun.beta)


def test_a_pinned_rollout_has_the_numbers_of_one_that_was_pinned_before(tmp_path):
    early, late = tmp_path / "early", tmp_path / "late"
    run = opened(early)
    run.follow(**OWN)
    trained(run)
    trained(opened(late))
    before = {path: path.read_bytes() for path in (late / "followed").iterdir()}
    points = again(late, read_row(OWN, "own.jsonl line 1"))
    assert [(point.step, len(point.new), point.count) for point in points] == [(step, 1, 4) for step in SAVED]
    assert different(load_run(late).followed(), load_run(early).followed()) == []
    assert all(path.read_bytes() != content for path, content in before.items())
    assert again(late, OWN) == []  # it is followed already


def test_rows_that_are_there_stay_and_nothing_else_changes(tmp_path):
    trained(opened(tmp_path / "run", follow_every=1))
    record = load_run(tmp_path / "run")
    before, rows, third = contents(tmp_path / "run"), record.followed(), record.rollouts(3)[4]
    assert again(tmp_path / "run") == []  # all of it is scored
    again(tmp_path / "run", third, OWN)
    assert contents(tmp_path / "run") == before
    assert counts(tmp_path / "run") == {0: 5, 1: 3, 2: 5, 3: 3, 4: 5, 5: 5}
    after = record.followed()
    assert [one for one in after if one["group"] < 3] == rows
    pinned = [one for one in after if one["group"] == 3]
    assert [one["step"] for one in pinned] == SAVED
    for name in ("problem_id", "text", "prompt_ids", "response_ids", "logps", "critique", "reward", "finished"):
        assert {json.dumps(one[name]) for one in pinned} == {json.dumps(third[name])}


def test_what_was_pinned_late_is_scored_at_the_earlier_checkpoints(tmp_path):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 4:
            run.follow(**OWN)
    assert counts(tmp_path / "run") == {0: 3, 2: 3, 4: 4, 5: 4}
    assert [point.step for point in again(tmp_path / "run")] == [0, 2]
    assert counts(tmp_path / "run") == {0: 4, 2: 4, 4: 4, 5: 4}
    (own,) = {tuple(one["response_ids"]) for one in load_run(tmp_path / "run").followed() if one["group"] == 3}
    assert own


def test_a_run_that_followed_nothing_draws_what_it_would_have_drawn(tmp_path):
    trained(opened(tmp_path / "with"))
    trained(opened(tmp_path / "without", follow=0))
    with pytest.raises(UserError, match="follow is 0"):
        again(tmp_path / "without")
    again(tmp_path / "without", follow=3)
    assert different(*(load_run(tmp_path / name).followed() for name in ("without", "with")), exact=True) == []
    shutil.rmtree(tmp_path / "without/followed")
    shutil.rmtree(tmp_path / "without/checkpoints/step-000000")
    with pytest.raises(UserError, match=r"the checkpoint of step 0.*is gone.*checkpoints: 2, 4, 5"):
        again(tmp_path / "without", follow=3)
    again(tmp_path / "without", OWN)
    assert counts(tmp_path / "without") == {2: 1, 4: 1, 5: 1}


@pytest.mark.parametrize("method", ["vpd", "grpo"])
def test_a_resumed_run_goes_on_following_and_ends_in_the_same_weights(tmp_path, method):
    fields = {"method": method, "checkpoint_every": 2, "steps": 4, "follow": 2}
    runs = []
    for name in ("plain", "followed"):
        trained(opened(tmp_path / name, **fields))
        if name == "followed":
            again(tmp_path / name, load_run(tmp_path / name).rollouts(2)[1], OWN)
        runs.append(trained(opened(tmp_path / name, **fields | {"steps": 7, "resume": True})))
    assert equal(*map(weights, runs))
    assert counts(tmp_path / "followed") == {0: 4, 2: 4, 4: 4, 6: 4, 7: 4}
    rows = [load_run(tmp_path / name).rows for name in ("plain", "followed")]
    assert [row["kl"] for row in rows[0]] == [row["kl"] for row in rows[1]]
    numbers: dict[int, set[Any]] = {}
    for one in load_run(tmp_path / "followed").followed():
        numbers.setdefault(one["group"], set()).add((one["text"], tuple(one["prompt_ids"]), one["critique"]))
    assert sorted(numbers) == [0, 1, 2, 3]
    assert all(len(texts) == 1 for texts in numbers.values())


def test_the_numbers_of_a_branch(tmp_path):
    trained(opened(tmp_path / "run"))
    place = f"{tmp_path / 'run'}@2"
    trained(Run.branch(place, out=str(tmp_path / "branch"), parts={"task": Parity()}, beta=2.0, teacher_rate=0.3))
    wanted = [one for one in load_run(tmp_path / "branch").followed() if one["step"] > 2]
    shutil.rmtree(tmp_path / "branch/followed")
    again(tmp_path / "branch", *[one for one in wanted if one["step"] == 4])
    mine = load_run(tmp_path / "branch").followed()
    assert counts(tmp_path / "branch") == {2: 3, 4: 3, 5: 3}
    assert different([one for one in mine if one["step"] > 2], wanted, exact=True) == []


def test_episodes_keep_their_turns_and_masks(tmp_path):
    fields = {"max_new_tokens": 40, "max_turns": 2, "turn_tokens": 5, "steps": 2, "checkpoint_every": 1}
    parts: dict[str, Any] = {"task": Parity(), "environment": OneReply()}
    config = RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(tmp_path / "run"))
    trained(Run.open(config, **parts))
    wanted = load_run(tmp_path / "run").followed()
    rollout = load_run(tmp_path / "run").rollouts(2)[3]
    shutil.rmtree(tmp_path / "run/followed")
    follow_up(tmp_path / "run", parts=parts)
    assert different(load_run(tmp_path / "run").followed(), wanted, exact=True) == []
    follow_up(tmp_path / "run", [rollout], parts=parts)
    pinned = load_run(tmp_path / "run").followed(1)[-1]
    assert False in pinned["mask"]
    for name in ("mask", "turn_roles", "turn_texts", "turn_ends", "feedback_turn"):
        assert pinned[name] == rollout[name]


def test_a_conversation_is_scored_once_whatever_the_record_holds_of_it(tmp_path, capsys):
    trained(opened(tmp_path / "run", steps=2))
    turns = [("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?")]
    row = {"prompt": [{"role": role, "content": text} for role, text in turns], "response": "4", "feedback": "Yes."}
    again(tmp_path / "run", row)
    shutil.rmtree(tmp_path / "run/checkpoints/step-000000")
    (tmp_path / "run/followed/step-000002.parquet").unlink()
    assert [(point.step, point.count) for point in again(tmp_path / "run", row)] == [(2, 4)]
    assert [one["group"] for one in load_run(tmp_path / "run").followed(2)] == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("not followed any more") == 1  # the record has its last turn alone


def test_a_damaged_checkpoint_is_left_out(tmp_path, capsys):
    trained(opened(tmp_path / "run", follow=0))
    with (tmp_path / "run/checkpoints/step-000002/student.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert [point.step for point in again(tmp_path / "run", OWN)] == [0, 4, 5]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert "step-000002 cannot be used: student.safetensors" in line
    for step in SAVED:
        (tmp_path / f"run/checkpoints/step-{step:06d}/state.json").unlink()
    with pytest.raises(UserError, match=r"no response was scored, since .*step-000000 cannot be used.*step-000005"):
        again(tmp_path / "run", OWN | {"response": "even"})


def test_a_checkpoint_of_other_settings_is_left_out(tmp_path, capsys):
    trained(opened(tmp_path / "run", steps=2))
    trained(opened(tmp_path / "run", steps=4, temperature=0.5, resume_anyway=True))
    assert [point.step for point in again(tmp_path / "run", OWN)] == [4]
    assert "step-000002 was saved with other settings: temperature 1.0 (now 0.5)" in capsys.readouterr().err


def test_a_run_without_checkpoints_says_how_to_keep_them(tmp_path):
    trained(opened(tmp_path / "run", checkpoint_every=0, steps=1))
    with pytest.raises(UserError, match="checkpoint_every N saves one.*checkpoint_keep"):
        again(tmp_path / "run", OWN)


def test_a_kill_between_two_checkpoints_leaves_whole_files(tmp_path, monkeypatch):
    trained(opened(tmp_path / "run"))
    written = []

    def killed(path: Path, *rest: Any) -> Any:
        if path.parent.name == "followed":
            written.append(path.name)
            if len(written) == 3:
                path.with_name(f".{path.name}.new").write_bytes(b"half a file")
                raise KeyboardInterrupt
        return staged_file(path, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(rollouts, "staged_file", killed)
        with pytest.raises(KeyboardInterrupt):
            again(tmp_path / "run", OWN)
    assert counts(tmp_path / "run") == {0: 4, 2: 4, 4: 3, 5: 3}
    assert [point.step for point in again(tmp_path / "run")] == [4, 5]
    assert not list((tmp_path / "run/followed").glob(".*"))
    run = trained(opened(tmp_path / "run", steps=6, resume=True))
    assert len(run.following.responses) == 4


def test_a_run_that_is_being_trained_is_left_alone(tmp_path):
    run = opened(tmp_path / "run")
    for row in run.steps():
        if row["step"] == 3:
            with pytest.raises(UserError, match="is being written by process"):
                again(tmp_path / "run", OWN)
    assert counts(tmp_path / "run") == dict.fromkeys(SAVED, 3)


def test_nothing_is_written_through_a_link(tmp_path):
    trained(opened(tmp_path / "run"))
    (tmp_path / "victim").write_bytes(b"mine")
    file = tmp_path / "run/followed/step-000002.parquet"
    file.unlink()
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="is a link"):
        again(tmp_path / "run", OWN)
    assert (tmp_path / "victim").read_bytes() == b"mine"


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ended") / "run"
    trained(opened(folder, steps=2))
    return folder


@pytest.mark.parametrize(
    ("given", "fields", "words"),
    [
        ({"prompt": "2?"}, {}, "'response' is missing"),
        ({"prompt": "2?", "response": "odd " * 400}, {}, "more than the model's"),
        (OWN, {"temperature": 0.5}, r"temperature is 0.5, but the run's is 1.0"),
        (OWN, {"out": "elsewhere"}, "leave it out"),
        (OWN, {"colour": "red"}, "colour"),
        (OWN, {"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_scored_is_told_before_anything_is_written(ended, given, fields, words):
    before = {path: path.read_bytes() for path in (ended / "followed").iterdir()}
    with pytest.raises(UserError, match=words):
        again(ended, given, **fields)
    assert {path: path.read_bytes() for path in (ended / "followed").iterdir()} == before


def test_other_problems_than_the_runs_are_refused(ended):
    class Other(Parity):
        def load(self, split: str):
            return super().load(split)[:6]

    with pytest.raises(UserError, match="began with other problems and their data"):
        follow_up(ended, [OWN], parts={"task": Other()})
    with pytest.raises(UserError, match="passed from Python"):
        follow_up(ended, [OWN])


def test_a_damaged_file_of_followed_responses_is_named(ended, tmp_path):
    shutil.copytree(ended, tmp_path / "run")
    (tmp_path / "run/followed/step-000002.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(UserError, match=r"step-000002.parquet cannot be read.*remove that file"):
        again(tmp_path / "run", OWN)
    (tmp_path / "run/followed/step-000002.parquet").unlink()
    assert [point.step for point in again(tmp_path / "run")] == [2]
    assert load_run(tmp_path / "run").followed() == load_run(ended).followed()


def test_settings_of_execution_may_differ(ended, tmp_path):
    shutil.copytree(ended, tmp_path / "run")
    (point, *_) = again(tmp_path / "run", OWN, record_top=3, minibatch_tokens=64)
    assert {len(top) for top in point.new[0]["student_top"]} == {3}


def test_an_older_run_without_followed_responses(ended, tmp_path):
    shutil.copytree(ended, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/followed")
    for path in [tmp_path / "run/config.json", *(tmp_path / "run/checkpoints").glob("*/state.json")]:
        found = json.loads(path.read_text())
        for name in ("follow", "follow_file", "follow_every"):
            del found.get("config", found)[name]
        path.write_text(json.dumps(found))
        if path.name == "state.json":
            manifest.write(path.parent)
    again(tmp_path / "run")
    assert counts(tmp_path / "run") == {0: 4, 2: 4}
