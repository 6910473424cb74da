"""From a warning to its rollouts, a query through a whole record, and the three widgets that show both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from vpdlab_widgets import RolloutTable
from vpdlab_widgets import query as queries

from vpdlab.errors import UserError
from vpdlab.record import METRICS, Recorder, RunRecord, load_run, rollouts
from vpdlab.record.diagnose import DIAGNOSES, diagnose
from vpdlab.show import slices
from vpdlab.show.causes import RULES, alarms, cause, rollouts_at
from vpdlab.show.exploring import Explorer, place_of

CASES = json.loads((ROOT / "widgets/tests/queries.json").read_text(encoding="utf-8"))


def rollout(step: int, index: int, **values: Any) -> dict[str, Any]:
    plain = {
        "step": step, "group": index // 2, "index": index % 2, "problem_id": f"p{index // 2}", "prompt": "3 + 4?",
        "prompt_ids": [1, 2], "response_ids": [7] * 6, "logps": [-0.1] * 6, "text": f"{step}.{index}",
        "success": False, "finished": True, "truncated": 0, "signal": True, "reward": 0.0,
    }  # fmt: skip
    return plain | values


def recorded(
    folder: Path, steps: int, warned: dict[int, list[str]], each: Any,
    followed: dict[int, list[dict[str, Any]]] | None = None, **metrics: Any,
) -> RunRecord:  # fmt: skip
    """A record of `steps` iterations with four rollouts each; `each(step, index)` gives their values."""
    recorder = Recorder(folder, {"method": "vpd", "steps": steps, "beta": 1.0}, {})
    for step in range(1, steps + 1):
        line = {name: values(step) if callable(values) else values for name, values in metrics.items()}
        recorder.metrics(dict.fromkeys(METRICS) | {"step": step, "warnings": warned.get(step, [])} | line)
        recorder.rollouts(step, [rollout(step, index, **each(step, index)) for index in range(4)], wait=True)
    for step, records in (followed or {}).items():
        recorder.followed(step, records)
    recorder.close("complete")
    return load_run(folder)


def test_every_diagnosis_has_a_cause() -> None:
    assert {*RULES, "reward-falls"} == set(DIAGNOSES)


def long(count: int) -> dict[str, Any]:
    return {"response_ids": [7] * count, "logps": [0.0] * count}


def measured(name: str, value: float) -> dict[str, Any]:
    return {"tokens": ["a"] * 6, name: [value] * 6}


BEHIND: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # values of a cause and of another
    "no-success": ({"success": False}, {"success": True}),
    "all-success": ({"success": True}, {"success": False}),
    "no-signal": ({"signal": False, "reason": "nobody was right"}, {"signal": True}),
    "length-collapse": (long(2), long(3)),
    "length-explosion": (long(18), long(17)),
    "entropy-collapse": (measured("student_entropy", 0.04), measured("student_entropy", 0.06)),
    "kl-explosion": (measured("kl", 0.6), measured("kl", 0.4)),
    "past-target": ({"success": True, "implicit_reward": 0.6}, {"success": False, "implicit_reward": 0.6}),
    "truncated-contexts": ({"truncated": 3}, {"truncated": 0}),
    "unfinished-responses": ({"finished": False}, {"finished": True}),
    "mismatch": (measured("student_logp", -0.4), measured("student_logp", -0.15)),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
def test_a_cause_is_what_the_diagnosis_measured(name: str, tmp_path: Path) -> None:
    """At the start responses have 6 tokens, an entropy of 0.5 and a KL of 0.1; the odd ones of the last are causes."""
    guilty, innocent = BEHIND[name]

    def each(step: int, index: int) -> dict[str, Any]:
        return guilty if step == 12 and index % 2 else innocent

    run = recorded(tmp_path / "run", 12, {12: [f"{name}: said"]}, each, length=6, entropy=0.5, kl=0.1)
    found = cause(run, f"{name}: said", 12)
    assert found.places == ((12, 1), (12, 3)) and found.why
    assert [record["text"] for record in rollouts_at(run, found.places)] == ["12.1", "12.3"]


def test_the_window_is_the_diagnosis_own(tmp_path: Path) -> None:
    """A KL that rose in the middle of ten iterations is told of for as long as the window holds it."""
    rows = [
        dict.fromkeys(METRICS) | {"step": n, "kl": 0.1 if n < 6 else 3.0, "success_rate": 0.5} for n in range(1, 11)
    ]
    rows = [row | {"skipped": 0, "truncated": 0, "signal_share": 1.0, "reward": 0.5} for row in rows]
    assert [one.partition(":")[0] for one in diagnose(rows)] == ["kl-explosion"]
    high = {"tokens": ["a"] * 6, "kl": [3.0] * 6}
    run = recorded(
        tmp_path / "run", 10, {10: diagnose(rows)}, lambda step, index: high if step > 5 else {},
        kl=lambda step: 0.1 if step < 6 else 3.0,
    )  # fmt: skip
    assert {step for step, _ in cause(run, "kl-explosion", 10).places} == {6, 7, 8, 9, 10}


def test_a_reward_that_falls_points_to_what_was_unlearned(tmp_path: Path) -> None:
    def each(step: int, index: int) -> dict[str, Any]:
        return {"success": step <= 10 and index < 2}

    run = recorded(tmp_path / "run", 20, {20: ["reward-falls: said"]}, each)
    found = cause(run, "reward-falls", 20)
    assert set(found.places) == {(step, index) for step in range(11, 21) for index in (0, 1)}


def test_an_iteration_without_the_warning_says_which_it_has(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", 3, {2: ["no-signal: said"]}, lambda *_: {})
    with pytest.raises(UserError, match="iteration 2 has no warning 'mismatch': it has no-signal"):
        cause(run, "mismatch", 2)
    for step in (1, 9):
        with pytest.raises(UserError, match=f"iteration {step} has no warning 'no-signal': it has none"):
            cause(run, "no-signal", step)


def test_a_warning_of_another_version_has_all_its_rollouts(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", 2, {2: ["new-one: said"]}, lambda *_: {})
    assert cause(run, "new-one", 2).places == tuple((2, index) for index in range(4))


def test_the_latest_warning_of_each_kind_has_its_rollouts_named(tmp_path: Path) -> None:
    warned = {1: ["no-signal: x"], 3: ["no-signal: x", "unfinished-responses: y"]}
    run = recorded(
        tmp_path / "run", 3, warned, lambda step, index: {"signal": index != 2, "finished": index < 2},
    )  # fmt: skip
    assert [(one["text"], one["alarms"], one["rollout"]) for one in alarms(run)] == [
        ("3.2", ["no-signal", "unfinished-responses"], 2), ("3.3", ["unfinished-responses"], 3),
    ]  # fmt: skip
    assert len(alarms(run, most=1)) == 1


# -- queries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "wanted"), CASES["cases"])
def test_queries_are_those_of_the_browser(query: str, wanted: list[int]) -> None:
    terms, text = queries.parse(query)
    assert [i for i, row in enumerate(CASES["rows"]) if queries.matches(row, terms, text)] == wanted
    assert [CASES["rows"].index(row) for row in RolloutTable(CASES["rows"], query=query).passing()] == wanted


def test_a_query_goes_through_all_iterations_merged_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MERGED", 4)
    run = recorded(tmp_path / "run", 10, {}, lambda step, index: {"success": index == step % 4})
    assert len(list((run.folder / "rollouts").iterdir())) < 10
    found = slices.find(run, "outcome=right step>4")
    assert found.places == tuple((step, step % 4) for step in range(5, 11)) and str(found) == "6 of 40 rollouts"
    assert [one["text"] for one in slices.records(run, found)] == [f"{step}.{step % 4}" for step in range(5, 11)]
    assert len(slices.records(run, found, most=3)) == 3
    assert slices.find(run, "10.2", steps=[10]).places == ((10, 2),)
    assert run.columns(["step"], [3, 9]).to_pylist() == [{"step": 3}] * 4 + [{"step": 9}] * 4


@pytest.mark.parametrize("outcome", ["all", "right", "wrong", "no signal"])
def test_outcomes(outcome: str, tmp_path: Path) -> None:
    values = [{"success": True}, {"success": False}, {"success": False, "signal": False}, {"success": None}]
    run = recorded(tmp_path / "run", 1, {}, lambda step, index: values[index])
    wanted = {"all": {0, 1, 2, 3}, "right": {0}, "wrong": {1, 2}, "no signal": {2}}
    assert {place for _, place in slices.find(run, "", outcome).places} == wanted[outcome]


# -- the widgets together ----------------------------------------------------------------------------------------


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    def each(step: int, index: int) -> dict[str, Any]:
        return {"success": index == 0, "finished": index != 3, "tokens": ["a"] * 6, "kl": [step / 10] * 6}

    return Explorer(recorded(tmp_path / "run", 12, {5: ["unfinished-responses: said"]}, each))


def test_a_click_fills_table_and_lens(explorer: Explorer) -> None:
    explorer.timeline.selected = 3
    assert [row["text"] for row in explorer.table.rows] == ["3.0", "3.1", "3.2", "3.3"]
    assert explorer.table.selected == explorer.lens.index == 1  # the first wrong one
    explorer.timeline.window = [2, 9]
    assert [row["step"] for row in explorer.table.rows][::4] == [2, 4, 6, 8]


def test_a_warning_fills_them_with_its_causes(explorer: Explorer) -> None:
    explorer.timeline.set_state({"alarm": {"step": 5, "name": "unfinished-responses"}, "selected": 5})
    assert [row["text"] for row in explorer.table.rows] == ["5.3"] == [one["text"] for one in explorer.table.passing()]
    assert "max_new_tokens" in explorer.table.title and len(explorer.lens.records) == 1
    explorer.timeline.set_state({"alarm": None, "selected": 6})  # a click elsewhere
    assert [row["text"] for row in explorer.table.passing()] == ["6.0", "6.1", "6.2", "6.3"]
    explorer.timeline.alarm = {"step": 5, "name": "unfinished-responses"}
    explorer.timeline.alarm = None  # Escape
    assert [row["step"] for row in explorer.table.passing()] == [6] * 4


def test_all_iterations_are_searched_and_left_again(explorer: Explorer) -> None:
    explorer.show([2])
    explorer.table.everywhere = True
    assert explorer.table.found == "48 of 48 rollouts of 12 iterations"
    explorer.table.query = "kl>1 outcome=right"
    assert [row["text"] for row in explorer.table.rows] == ["11.0", "12.0"]
    assert [one["text"] for one in explorer.lens.records] == ["11.0", "12.0"]
    explorer.table.everywhere = False
    assert [one["step"] for one in explorer.lens.records] == [2] * 4 == [row["step"] for row in explorer.table.rows]


def test_every_selection_has_an_address(explorer: Explorer) -> None:
    explorer.open("step=7&rollout=2&token=4")
    assert (explorer.table.row or {})["text"] == "7.2" and explorer.lens.selected == 4
    assert explorer.address.endswith("run#step=7&rollout=2&token=4")
    explorer.open(explorer.address)
    assert (explorer.timeline.selected, explorer.table.selected, explorer.lens.selected) == (7, 2, 4)


def test_followed_responses_go_with_the_timeline_and_have_addresses(explorer: Explorer, tmp_path: Path) -> None:
    assert explorer.history.records == []
    scored = {step: [rollout(step, index, tokens=["a"] * 6) for index in (0, 2)] for step in (0, 4, 12)}
    other = Explorer(recorded(tmp_path / "other", 12, {}, lambda *_: {}, followed=scored))
    assert [one["step"] for one in other.history.records] == [0, 0, 4, 4, 12, 12]
    other.timeline.selected = 5
    assert (other.history.index, other.table.rows[0]["step"]) == (2, 5)
    other.open(f"{tmp_path / 'other'}#followed=0&step=12&token=3")
    assert (other.history.index, other.history.selected) == (4, 3)
    for place, words in {
        "followed=9&step=4": "no followed response 9", "followed=0&step=5": "at iteration 5",
        "followed=0&step=4&token=6": "6 tokens", "followed=0&step=4&rollout=1": "write #step",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=words):
            other.open(place)


def test_damaged_followed_responses_are_left_out_with_a_line(tmp_path: Path, capsys: Any) -> None:
    scored = {0: [rollout(0, 0, tokens=["a"] * 6)]}
    run = recorded(tmp_path / "run", 3, {}, lambda *_: {}, followed=scored)
    (run.folder / "followed/step-000000.parquet").write_bytes(b"PAR1" + bytes(40))
    explorer = Explorer(run)
    explorer.show([2])
    assert explorer.history.records == [] and len(explorer.table.rows) == 4
    assert "step-000000.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("values", [
    {"mask": [True] * 5 + [None]}, {"mask": [True]}, {"turn_roles": ["assistant"], "turn_texts": ["x"]},
    {"turn_roles": ["assistant"], "turn_texts": ["x"], "turn_ends": [999]},
    {"turn_roles": ["assistant", "user"], "turn_texts": ["x", "y"], "turn_ends": [6, -4]},
    {"turn_roles": ["assistant"], "turn_texts": [None], "turn_ends": [6]},
])  # fmt: skip
def test_turns_that_do_not_fit_are_a_fault_of_the_file(values: dict[str, Any], tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", 1, {}, lambda *_: values)
    with pytest.raises(UserError, match=r"step-000001.parquet step 1 row 1 is damaged: column"):
        run.rollouts(1)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("run", "write #step=12"), ("#step=-1", "write #step=12"), ("#step=1&x=2", "write #step=12"),
        ("#step=99", "no rollouts of iteration 99"), ("#step=1&rollout=4", "has 4 rollouts"),
        ("#step=1&rollout=0&token=6", "numbers of 6 tokens"), ("#step=²", "write #step=12"),
    ],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_one_line(explorer: Explorer, address: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        explorer.open(address)


@pytest.mark.parametrize("address", [None, 7, b"step=1", ["step=1"], {"step": 1}])
def test_what_is_no_text_is_no_address(explorer: Explorer, address: Any) -> None:
    with pytest.raises(UserError, match="is no address of a rollout: write #step=12") as refused:
        explorer.open(address)
    assert str(refused.value).startswith(repr(address))


def test_an_address_by_hand() -> None:
    assert place_of("a#b#step=1&rollout=0") == {"step": 1, "rollout": 0}


def test_the_table_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="everywhere needs a search"):
        RolloutTable([], everywhere=True)
