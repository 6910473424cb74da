"""A run on a thread of its own: the strip and the timeline follow it, and what ends it is not lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from toy import Parity, toy_model

from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import load_run
from vpdlab.run import Run

SMALL = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "steps": 4, "record_tokens": 2,
    "eval_problems": 2, "eval_samples": 1, "alpha": 1.0, "follow": 0,
}  # fmt: skip


def opened(out: Path, task: Any = None, **fields: Any) -> Run:
    return Run.open(RunConfig.make(**{"model": toy_model(), **SMALL, **fields}, out=str(out)), task=task or Parity())


def until(true: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_strip_and_timeline_follow_the_run(tmp_path):
    played = opened(tmp_path / "run").play(paused=True)
    until(lambda: played.run.control.waiting)
    played.strip._handle_custom_msg({"kind": "step", "count": 2}, [])
    until(lambda: played.run.control.waiting and len(played.run.rows) == 2)
    assert not played.wait(0.01)
    played.strip._handle_custom_msg({"kind": "change", "name": "lr", "value": 5e-4}, [])
    until(lambda: played.strip.shown["pending"] == {"lr": 5e-4})
    played.strip._handle_custom_msg({"kind": "go_on"}, [])
    assert played.wait(60)
    assert played.strip.shown["state"] == played.timeline.state == "complete"
    assert [row["step"] for row in played.timeline.rows] == [1, 2, 3, 4]
    assert [point["step"] for point in played.timeline.evals] == [0, 4]
    assert played.timeline.changes == [{"step": 2, "text": "lr 0.001 → 0.0005"}]
    assert [row["lr"] for row in played.run.rows] == [1e-3, 1e-3, 5e-4, 5e-4]
    with pytest.raises(UserError, match="has started already"):
        played.start()


def test_a_branch_shows_its_history_and_its_fork(tmp_path):
    assert opened(tmp_path / "x", checkpoint_every=2).play().wait(60)
    played = Run.branch(f"{tmp_path / 'x'}@2", out=str(tmp_path / "y"), parts={"task": Parity()}, beta=1.0).play()
    assert played.wait(60)
    assert [row["step"] for row in played.timeline.rows] == [1, 2, 3, 4]
    assert played.timeline.changes == [
        {"step": 2, "text": "beta 0.1 → 1"}, {"step": 2, "text": "branched from x"}
    ]  # fmt: skip


def test_followed_responses_are_shown_as_they_are_scored(tmp_path):
    played = opened(tmp_path / "run", follow=2, follow_every=2, checkpoint_every=3).play(paused=True)
    run = played.run
    until(lambda: run.control.waiting and len(played.history.records) == 2)
    run.follow(id=Parity().load("test")[0].id, response="odd", feedback="Look again.")
    until(lambda: len(played.history.records) == 3)  # at once, while it is paused
    assert [one["step"] for one in played.history.records] == [0, 0, 0]
    run.control.go_on()
    assert played.wait(60)
    assert [one["step"] for one in played.history.packed] == [step for step in (0, 2, 3, 4) for _ in range(3)]
    assert {one["response"] for one in played.history.packed} == {0, 1, 2}
    again = Run.open(run.config.but(resume=True, steps=5), task=Parity()).play()
    assert again.wait(60)
    assert sorted({one["step"] for one in again.history.packed}) == [0, 2, 3, 4, 5]


class Broken(Parity):
    """Its second batch cannot be judged."""

    judged = 0

    def verify(self, rollout: Any) -> Any:
        self.judged += 1
        if self.judged > 9:
            raise UserError("the judge has gone home")
        return super().verify(rollout)


def test_what_ends_the_run_is_shown_and_raised(tmp_path):
    played = opened(tmp_path / "run", task=Broken(), eval_every=-1).play()
    with pytest.raises(UserError, match="the judge has gone home"):
        played.wait(60)
    assert (played.strip.shown["state"], played.timeline.state) == ("failed", "failed")
    assert "the judge has gone home" in played.strip.shown["reason"]


def test_an_interrupt_is_shown_as_it_is_recorded(tmp_path):
    class Interrupted(Parity):
        def verify(self, rollout: Any) -> Any:
            raise KeyboardInterrupt

    played = opened(tmp_path / "run", task=Interrupted(), eval_every=-1).play()
    with pytest.raises(KeyboardInterrupt):
        played.wait(60)
    status = load_run(tmp_path / "run").status
    assert (status["state"], status["reason"]) == ("stopped", "interrupted")
    assert (played.strip.shown["state"], played.strip.shown["reason"]) == ("stopped", "interrupted")
    assert (played.timeline.state, played.timeline.reason) == ("stopped", "interrupted")


def test_the_strip_says_why_a_request_is_refused(tmp_path):
    played = opened(tmp_path / "run", eval_every=-1, steps=1).play()
    assert played.wait(60)
    for content in ({"kind": "pause"}, {"kind": "step", "count": 1}, {"kind": "change", "name": "lr", "value": 5e-4}):
        played.strip.trouble = ""
        played.strip._handle_custom_msg(content, [])
        assert "the run has ended (complete)" in played.strip.trouble
