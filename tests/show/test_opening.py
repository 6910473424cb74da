"""The head of a report: a run, rollouts that were scored, and rollouts that were imported, each said as what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from other_trainers import trl
from toy import Parity, toy_model

from vpdlab import cli
from vpdlab.config import RunConfig
from vpdlab.record import RunRecord, kind_of, load_run
from vpdlab.run import Run
from vpdlab.show import opening, summary, widget_data

ROW = {"prompt": "3 + 4 = ?", "response": "8", "feedback": "The number is too high.", "step": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a task of the user's own, a file that was scored, the same file and a trainer's folder imported."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "own.jsonl").write_text(json.dumps(ROW) + "\n")
    trl(folder / "trl")
    config = RunConfig.make(
        model=toy_model(), steps=1, prompts=1, group=2, max_new_tokens=6, max_context=120, eval_every=-1,
        out=str(folder / "trained"),
    )  # fmt: skip
    list(Run.open(config, task=Parity()).steps())
    own = str(folder / "own.jsonl")
    assert cli.main(["score", own, "--model", "apprentice", "--alpha", "0.3", "--out", str(folder / "scored")]) == 0
    assert cli.main(["import", own, "--out", str(folder / "plain")]) == 0
    assert cli.main(["import", str(folder / "trl"), "--out", str(folder / "from-trl")]) == 0
    return folder


def record(place: Path, name: str) -> RunRecord:
    return load_run(place / name).check()


@pytest.mark.parametrize(
    ("name", "kind", "headline", "what", "state"),
    [
        ("trained", "trained", "No held-out evaluation before and after", "vpd on parity: 12 problems, with /",
         "complete after 1 of 1 iterations"),
        ("scored", "scored", "Rollouts from elsewhere, scored token by token: nothing was trained",
         "1 rollout of own.jsonl, scored: nothing was trained; the student: apprentice", "scored"),
        ("plain", "imported", "Rollouts from elsewhere, as far as they were recorded",
         "rollouts of own.jsonl, imported", "imported, step 0"),
        ("from-trl", "imported", "Rollouts from elsewhere, as far as they were recorded",
         "rollouts of trl (trl), imported", "imported, steps 10 to 20"),
    ],
)  # fmt: skip
def test_each_kind_of_record_is_said_as_what_it_is(place, name, kind, headline, what, state) -> None:
    run = record(place, name)
    assert kind_of(run.config) == kind
    assert opening.headline(run) == headline
    first, second, _ = opening.lines(run)
    assert first.startswith(what) and second.startswith(f"{state}, 20") and second.endswith(" UTC")
    assert opening.state(run) == state
    shown = json.dumps([opening.lines(run), summary.changed_settings(run.config), opening.machine(run.environment)])
    assert "handed-in" not in shown
    assert [one["method"] for one in widget_data.compared_runs([run])] == [
        {"trained": "vpd", "scored": "scoring", "plain": "plain", "from-trl": "trl"}[name]
    ]


def test_only_settings_that_somebody_chose_are_listed(place) -> None:
    told = {name: [(one["setting"], one["this run"]) for one in summary.changed_settings(record(place, name).config)]
            for name in ("trained", "scored", "plain")}  # fmt: skip
    assert ("task", "parity (passed from Python)") in told["trained"]
    assert told["scored"] == [("alpha", "0.3")]
    assert told["plain"] == []
    assert opening.no_settings(record(place, "plain")) == "those of whoever sampled these rollouts were not recorded"
    assert opening.no_settings(record(place, "trained")) == "all settings are the defaults"


def test_what_was_not_recorded_is_not_a_zero(place) -> None:
    assert opening.machine(record(place, "plain").environment) == {"model": "not recorded", "device": "not recorded"}
    assert "parameters" in opening.machine(record(place, "scored").environment)["model"]
    assert opening.no_warnings(record(place, "trained")) == "none in 1 iteration"
    assert "not watched" in opening.no_warnings(record(place, "scored"))


def test_an_end_that_was_none_is_said(place) -> None:
    for name, said in (("scored", "scoring failed: full"), ("plain", "the import failed: full"),
                       ("trained", "failed after 1 of 1 iterations: full")):  # fmt: skip
        path = place / name / "status.json"
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {"state": "failed", "reason": "full"}))
        assert opening.state(record(place, name)) == said
        path.write_text(before)


def test_the_teacher_of_scored_rollouts_is_named(place, tmp_path) -> None:
    words = ["--model", toy_model(), "--teacher", toy_model(), "--influence", "0", "--out", str(tmp_path / "run")]
    assert cli.main(["score", str(place / "own.jsonl"), *words]) == 0
    assert opening.lines(load_run(tmp_path / "run"))[0].startswith(
        f"1 rollout of own.jsonl, scored beside the teacher {toy_model()}: nothing was trained"
    )
