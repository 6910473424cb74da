"""The run folder: what was written can be read back, and what could not be written is told."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from vpdlab.errors import RunFailed, UserError
from vpdlab.record import COLUMNS, METRICS, SCHEMA, TOKEN_COLUMNS, Recorder, load_run
from vpdlab.record import writer as record

CONFIG = {"method": "vpd", "steps": 3}


def row(step: int, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(METRICS) | {"step": step, "warnings": []} | values


def rollout(step: int, index: int = 0, **values: Any) -> dict[str, Any]:
    plain = {"group": 0, "prompt": "3 + 4?", "response_ids": [7], "logps": [-0.1]}
    return {"step": step, "index": index, "text": "7", "reward": 1.0, "prompt_ids": [1, 2]} | plain | values


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "run", CONFIG, {"python": "3"})


# -- the folder ------------------------------------------------------------------------------------------------


def test_a_run_is_read_back_as_it_was_written(recorder: Recorder) -> None:
    recorder.evaluation({"step": 0, "accuracy": 0.25})
    for step in (1, 2):
        recorder.metrics(row(step, reward=step / 2, notes="é"))
        recorder.rollouts(step, [rollout(step), rollout(step, 1)])
    recorder.close("complete")
    run = load_run(recorder.folder)
    assert run.config == CONFIG
    assert run.environment == {"python": "3", "schema": SCHEMA}
    assert [line["reward"] for line in run.rows] == [0.5, 1.0]
    assert list(run.metrics.columns) == list(METRICS)
    assert run.metrics["reward"].tolist() == [0.5, 1.0]
    assert run.metrics["notes"].tolist() == ["é", "é"]
    assert run.evals["accuracy"].tolist() == [0.25]
    assert run.steps == [1, 2]
    assert [(r["step"], r["index"]) for r in run.rollouts()] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [r["index"] for r in run.rollouts(2)] == [0, 1]


def test_probes_of_an_evaluation_are_columns_and_checked(recorder: Recorder) -> None:
    recorder.evaluation({"step": 0, "accuracy": 0.25})  # recorded before there were probes
    recorder.evaluation({"step": 1, "accuracy": 0.5, "probes": {"belief/Ada": 0.75, "belief/Bob": None}})
    recorder.close("complete")
    evals = load_run(recorder.folder).evals
    assert list(evals.columns) == ["step", "accuracy", "probes/belief/Ada", "probes/belief/Bob"]
    assert evals["probes/belief/Ada"].tolist()[1] == 0.75
    assert evals.to_csv(index=False).splitlines()[2] == "1,0.5,0.75,"


@pytest.mark.parametrize("probes", ["x", None, ["belief"], {"belief": "high"}, {"belief": True}, {"a\x1b[2J": 0.5}])
def test_damaged_probes_are_told(recorder: Recorder, probes: Any) -> None:
    recorder.close("complete")
    (recorder.folder / "eval.jsonl").write_text(json.dumps({"step": 0, "probes": probes}) + "\n")
    with pytest.raises(UserError, match=r"eval.jsonl line 1 is damaged: field 'probes' is "):
        load_run(recorder.folder).eval_rows  # noqa: B018


def test_a_run_that_wrote_nothing_yet_reads_as_empty(recorder: Recorder) -> None:
    run = load_run(recorder.folder)
    assert (run.rows, run.eval_rows, run.steps, run.rollouts()) == ([], [], [], [])
    assert run.metrics.empty
    assert list(run.metrics.columns) == list(METRICS)
    with pytest.raises(UserError, match="has no rollouts of step 4: it has none"):
        run.rollouts(4)


def test_a_folder_that_holds_a_run_is_refused_and_not_touched(recorder: Recorder) -> None:
    recorder.metrics(row(1))
    recorder.close("complete")
    before = {path: path.read_bytes() for path in recorder.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run \(complete at step 1\): choose another folder"):
        Recorder(recorder.folder, {"method": "sdpo"}, {})
    assert {path: path.read_bytes() for path in recorder.folder.rglob("*") if path.is_file()} == before


def test_a_run_without_a_readable_status_is_refused_too(recorder: Recorder) -> None:
    (recorder.folder / "status.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="its status.json cannot be read"):
        Recorder(recorder.folder, CONFIG, {})


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write to .*file/run: Not a directory") as found:
        Recorder(tmp_path / "file" / "run", CONFIG, {})
    assert "\n" not in str(found.value)


def test_an_existing_empty_folder_may_be_used(tmp_path: Path) -> None:
    Recorder(tmp_path, CONFIG, {}).close("complete")
    assert load_run(tmp_path).status["state"] == "complete"


def test_a_folder_without_a_run_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run: there is no config.json in it"):
        load_run(tmp_path)


def test_nothing_staged_is_left_behind(recorder: Recorder) -> None:
    recorder.rollouts(1, [rollout(1)])
    recorder.close("complete")
    assert [path.name for path in recorder.folder.rglob(".*")] == []


# -- status ----------------------------------------------------------------------------------------------------


def test_status_goes_from_running_to_how_it_ended(recorder: Recorder) -> None:
    run = load_run(recorder.folder)
    first = run.status
    assert (first["state"], first["step"], first["reason"]) == ("running", 0, "")
    recorder.metrics(row(7))
    assert (run.status["state"], run.status["step"]) == ("running", 7)
    recorder.close("stopped", "interrupted")
    last = run.status
    assert (last["state"], last["step"], last["reason"]) == ("stopped", 7, "interrupted")
    assert last["started"] == first["started"]
    assert last["updated"] >= first["updated"]


def test_close_waits_for_what_is_still_being_written(recorder: Recorder) -> None:
    for step in range(1, 6):
        recorder.rollouts(step, [rollout(step)])
    recorder.close("complete")
    assert load_run(recorder.folder).steps == [1, 2, 3, 4, 5]


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(part: Any, records: list) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.rollouts, "write", write)


@pytest.mark.usefixtures("full_disk")
def test_rollouts_that_could_not_be_written_stop_the_run(recorder: Recorder) -> None:
    recorder.rollouts(1, [rollout(1)])
    recorder._pending[0].exception(timeout=10)
    with pytest.raises(RunFailed, match="cannot write rollouts in .*run: No space left on device"):
        recorder.rollouts(2, [rollout(2)])


@pytest.mark.usefixtures("full_disk")
def test_a_run_whose_last_rollouts_are_lost_is_not_complete(recorder: Recorder) -> None:
    recorder.rollouts(1, [rollout(1)])
    with pytest.raises(RunFailed, match="No space left on device"):
        recorder.close("complete")
    status = load_run(recorder.folder).status
    assert status["state"] == "failed"
    assert "No space left on device" in status["reason"]


@pytest.mark.usefixtures("full_disk")
def test_why_a_run_failed_is_not_covered_by_what_failed_after_it(recorder: Recorder) -> None:
    recorder.rollouts(1, [rollout(1)])
    with pytest.raises(RunFailed):
        recorder.close("failed", "the loss was not finite")
    assert load_run(recorder.folder).status["reason"] == "the loss was not finite"


def test_a_line_of_metrics_that_cannot_be_written_stops_the_run(recorder: Recorder) -> None:
    (recorder.folder / "metrics.jsonl").mkdir()
    with pytest.raises(RunFailed, match="cannot write .*metrics.jsonl: Is a directory"):
        recorder.metrics(row(1))


# -- metrics ---------------------------------------------------------------------------------------------------


def test_a_line_needs_exactly_the_named_keys(recorder: Recorder) -> None:
    missing = row(1)
    del missing["kl"]
    for wrong, name in ((missing, "kl"), (row(1, surprise=1), "surprise")):
        with pytest.raises(ValueError, match=f"metrics with wrong keys: \\['{name}'\\]"):
            recorder.metrics(wrong)
    assert load_run(recorder.folder).rows == []


def test_numbers_that_are_none_become_null(recorder: Recorder) -> None:
    recorder.metrics(row(1, kl=math.nan, margin=-math.inf, warnings=[math.inf, {"deep": (math.nan, 1.5)}]))
    line = (recorder.folder / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in line
    assert "Infinity" not in line
    found = json.loads(line)
    assert (found["kl"], found["margin"], found["warnings"]) == (None, None, [None, {"deep": [None, 1.5]}])
    assert load_run(recorder.folder).metrics["kl"].isna().all()


@pytest.mark.parametrize("rest", [b'{"step": 3, "rew', '{"notes": "é'.encode()[:-1]])
def test_a_half_written_last_line_never_happened(recorder: Recorder, rest: bytes) -> None:
    for step in (1, 2):
        recorder.metrics(row(step))
    with (recorder.folder / "metrics.jsonl").open("ab") as file:
        file.write(rest)
    assert [line["step"] for line in load_run(recorder.folder).rows] == [1, 2]


@pytest.mark.parametrize("damage", [b'{"step": \n', b"\xff\xfe\n", b"\n"])
def test_a_damaged_line_is_named_by_its_number(recorder: Recorder, damage: bytes) -> None:
    recorder.metrics(row(1))
    with (recorder.folder / "metrics.jsonl").open("ab") as file:
        file.write(damage)
    recorder.metrics(row(3))
    with pytest.raises(UserError, match="metrics.jsonl line 2 is damaged"):
        load_run(recorder.folder).rows  # noqa: B018


# -- rollouts --------------------------------------------------------------------------------------------------

EXAMPLE = {
    "int64": 3, "float64": -0.5, "string": "süß\n", "bool": True, "list<int64>": [1, 2], "list<float64>": [-0.5, 0.0],
    "list<bool>": [True, False],
    "list<string>": ["a", ""], "list<list<string>>": [["a"], ["b", "c"]], "list<list<int64>>": [[1], [2, 3]],
    "list<list<float64>>": [[-1.0], [-2.5, 0.0]],
}  # fmt: skip


def test_every_column_comes_back_as_it_was(recorder: Recorder) -> None:
    full = {name: EXAMPLE[kind] for name, kind in (COLUMNS | TOKEN_COLUMNS).items()}
    bare = {name: EXAMPLE[kind] for name, kind in COLUMNS.items()}
    recorder.rollouts(3, [full, bare])
    recorder.close("complete")
    found = load_run(recorder.folder).rollouts(3)
    assert found[0] == full
    assert found[1] == bare | dict.fromkeys(TOKEN_COLUMNS)  # outside the recorded subset: null, not empty


def test_a_list_of_records_may_change_once_it_is_handed_over(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over, write = threading.Event(), record.rollouts.write

    def write_later(part: Any, records: list) -> None:
        handed_over.wait(10)
        write(part, records)

    monkeypatch.setattr(record.rollouts, "write", write_later)
    records = [rollout(1)]
    recorder.rollouts(1, records)
    records.clear()
    handed_over.set()
    recorder.close("complete")
    assert len(load_run(recorder.folder).rollouts(1)) == 1


def test_an_iteration_that_is_not_there_is_refused_with_those_that_are(recorder: Recorder) -> None:
    for step in (2, 11):
        recorder.rollouts(step, [rollout(step)])
    recorder.close("complete")
    with pytest.raises(UserError, match="has no rollouts of step 5: it has 2 steps from 2 to 11"):
        load_run(recorder.folder).rollouts(5)


# -- without torch ---------------------------------------------------------------------------------------------

READ = """
import sys
sys.modules["torch"] = None  # any import of it fails from here on
from vpdlab.record import load_run
from vpdlab.show import summary
run = load_run(sys.argv[1])
assert run.metrics["reward"].tolist() == [0.5]
assert summary.rollout_table(run.rollouts(1))[0]["response"] == "7"
print(run.status["state"])
"""


def test_a_run_is_read_without_torch(recorder: Recorder) -> None:
    recorder.metrics(row(1, reward=0.5))
    recorder.rollouts(1, [rollout(1)])
    recorder.close("complete")
    done = subprocess.run([sys.executable, "-c", READ, recorder.folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "complete\n"), done.stderr


def test_the_package_opens_a_run_without_torch(recorder: Recorder) -> None:
    recorder.close("complete")
    program = READ.split("assert")[0].replace("from vpdlab.record import", "from vpdlab import")
    done = subprocess.run([sys.executable, "-c", program, recorder.folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_looked_through_while_it_is_being_written(tmp_path: Path) -> None:
    from vpdlab.record import refuse_links

    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for name in ("a", "b", "c"):
                (tmp_path / f".{name}.new").write_text("x")
                (tmp_path / f".{name}.new").replace(tmp_path / name)
                (tmp_path / f".{name}.folder").mkdir()
                (tmp_path / f".{name}.folder").rmdir()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            refuse_links(tmp_path)
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("path", [None, 3, b"runs/x", ["runs/x"], "\ud800"])
def test_what_is_no_path_is_one_line(path):
    with pytest.raises(UserError, match=r"^the run is ") as refused:
        load_run(path)
    assert "\n" not in str(refused.value)
