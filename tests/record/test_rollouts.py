"""rollouts/: merged or not, and killed at any instant, every iteration is read once."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vpdlab.errors import UserError
from vpdlab.record import METRICS, SCHEMA, Recorder, load_run, rollouts

CONFIG = {"method": "vpd", "steps": 3}


@pytest.fixture(autouse=True)
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MERGED", 4)


def rollout(step: int, index: int, **values: Any) -> dict[str, Any]:
    plain = {"group": 0, "prompt": "3 + 4?", "response_ids": [7], "logps": [-0.1], "text": f"{step}.{index}"}
    return {"step": step, "index": index, "reward": step / 2, "prompt_ids": [1, 2]} | plain | values


def write(recorder: Recorder, first: int, last: int, count: int = 2) -> None:
    for step in range(first, last + 1):
        recorder.metrics(dict.fromkeys(METRICS) | {"step": step, "warnings": []})
        recorder.rollouts(step, [rollout(step, index) for index in range(count)], wait=True)


def recorded(folder: Path, last: int) -> Path:
    recorder = Recorder(folder, CONFIG, {})
    write(recorder, 1, last)
    recorder.close("complete")
    return folder


def resumed(folder: Path, step: int) -> Recorder:
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    return Recorder(folder, CONFIG, {}, {"step": step, "metrics.jsonl": len(b"".join(lines[:step])), "eval.jsonl": 0})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "rollouts").iterdir())


def seen(folder: Path) -> list[tuple[int, str]]:
    """Each rollout as every way of reading gives it."""
    run = load_run(folder)
    found = [(record["step"], record["text"]) for record in run.rollouts()]
    assert run.columns(["step", "text"]).to_pylist() == [{"step": step, "text": text} for step, text in found]
    assert [(record["step"], record["text"]) for step in run.steps for record in run.rollouts(step)] == found
    return found


def whole(last: int) -> list[tuple[int, str]]:
    return [(step, f"{step}.{index}") for step in range(1, last + 1) for index in range(2)]


def plain_pandas(folder: Path) -> list[tuple[int, str]]:
    frames = [pd.read_parquet(path) for path in (folder / "rollouts").glob("*.parquet")]
    return sorted(pair for frame in frames for pair in zip(frame["step"], frame["text"], strict=True))


# -- merging -----------------------------------------------------------------------------------------------------


def test_finished_iterations_are_merged_and_read_like_any_other(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 10)
    assert names(folder) == [
        "step-000009.parquet", "step-000010.parquet", "steps-000001-000004.parquet", "steps-000005-000008.parquet",
    ]  # fmt: skip
    assert seen(folder) == whole(10)
    assert plain_pandas(folder) == whole(10)
    assert load_run(folder).steps == list(range(1, 11))
    assert pd.read_parquet(folder / "rollouts").shape[0] == 20  # as one data set, too
    with pytest.raises(UserError, match="has no rollouts of step 11: it has 10 steps from 1 to 10"):
        load_run(folder).rollouts(11)


def test_columns_of_some_iterations_whatever_the_files(tmp_path: Path) -> None:
    run = load_run(recorded(tmp_path / "run", 9))
    assert run.columns(["step", "index", "leaked"], [3, 9]).to_pylist() == [
        {"step": step, "index": index, "leaked": None} for step in (3, 9) for index in (0, 1)
    ]
    with pytest.raises(UserError, match="no rollouts of step 12"):
        run.columns(["step"], [12])


def test_a_merged_record_holds_what_the_single_files_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = recorded(tmp_path / "merged", 9)
    monkeypatch.setattr(rollouts, "MERGED", 100)
    single = recorded(tmp_path / "single", 9)
    assert len(names(single)) == 9
    assert load_run(merged).rollouts() == load_run(single).rollouts()


def test_an_iteration_that_is_written_twice_is_merged_as_it_was_last(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", CONFIG, {})
    for step in range(1, 8):
        recorder.rollouts(step, [rollout(step, 0, critique=None)], wait=True)  # a critic is asked after this
        recorder.rollouts(step, [rollout(step, 0, critique="said")])
    recorder.close("complete")
    assert "steps-000001-000004.parquet" in names(recorder.folder)
    assert [record["critique"] for record in load_run(recorder.folder).rollouts()] == ["said"] * 7


def test_a_gap_in_the_iterations_is_never_inside_a_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", CONFIG, {})
    for step in [1, 2, 3, *range(10, 16)]:
        recorder.rollouts(step, [rollout(step, 0)])
    recorder.close("complete")
    assert load_run(recorder.folder).steps == [1, 2, 3, *range(10, 16)]
    assert [name for name in names(recorder.folder) if name.startswith("steps")] == ["steps-000010-000013.parquet"]


def test_a_file_that_cannot_be_read_is_left_as_it_is_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(tmp_path / "run", CONFIG, {})
    write(recorder, 1, 3)
    bad = recorder.folder / "rollouts" / "step-000002.parquet"
    bad.write_bytes(b"PAR1")
    write(recorder, 4, 11)
    recorder.close("complete")
    said = capsys.readouterr().err
    assert "step-000002.parquet cannot be read" in said and "steps 1 to 4 are not merged" in said
    assert said.count("\n") == 1
    assert bad.read_bytes() == b"PAR1"
    assert load_run(recorder.folder).steps == list(range(1, 12))
    assert "steps-000005-000008.parquet" in names(recorder.folder)


def test_a_column_of_somebody_elses_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(tmp_path / "run", CONFIG, {})
    write(recorder, 1, 3)
    path = recorder.folder / "rollouts" / "step-000001.parquet"
    pq.write_table(pq.read_table(path).append_column("mine", pa.array([1, 2])), path)
    write(recorder, 4, 6)
    recorder.close("complete")
    assert "has a column 'mine'" in capsys.readouterr().err
    assert pq.read_table(path)["mine"].to_pylist() == [1, 2]


# -- killed at any instant -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """What no code of ours catches."""


def killed_at(count: int, monkeypatch: pytest.MonkeyPatch, job: Callable[[], object]) -> bool:
    """Do a job whose process dies before its `count`-th change of the disk; False where it has fewer."""
    left = [count]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return real(*args, **options)

        return change

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace", "rename"):
            patch.setattr(Path, name, deadly(getattr(Path, name)))
        patch.setattr(os, "fsync", deadly(os.fsync))
        try:
            job()
        except Killed:
            return True
    return False


def test_a_kill_while_merging_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MERGED", 100)
    start = recorded(tmp_path / "start", 6)
    count = 1
    while True:
        folder = Path(shutil.copytree(start, tmp_path / f"run-{count}"))
        dead = killed_at(count, monkeypatch, lambda place=folder / "rollouts": rollouts.merge(place, 1, 4))
        assert seen(folder) == whole(6), count
        assert load_run(folder).steps == [1, 2, 3, 4, 5, 6]
        resumed(folder, 6).close("complete")
        assert seen(folder) == plain_pandas(folder) == whole(6), count
        assert not [name for name in names(folder) if name.startswith(".")]
        if not dead:
            break
        count += 1
    assert count > 6  # every one of the four files and the move


def test_rows_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    rollouts.extend(folder, 3, [rollout(3, 0)])
    rollouts.extend(folder, 3, [rollout(3, 1), rollout(3, 2)])
    ((_, table),) = rollouts.read(folder, [3], ["text"])
    assert table["text"].to_pylist() == ["3.0", "3.1", "3.2"]
    (path,) = folder.iterdir()
    pq.write_table(pq.read_table(path).append_column("own", pa.array([1, 2, 3])), path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"step-000003.parquet cannot be read: it has a column 'own'"):
        rollouts.extend(folder, 3, [rollout(3, 3)])
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", [5, 6, 7, 8, 9])
def test_a_kill_while_the_record_is_cut_is_made_good_by_the_next_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    start = recorded(tmp_path / "start", 10)
    count = 1
    while True:
        folder = Path(shutil.copytree(start, tmp_path / f"run-{count}"))
        dead = killed_at(count, monkeypatch, lambda place=folder / "rollouts": rollouts.cut(place, step))
        assert seen(folder)[: 2 * step] == whole(step), count
        resumed(folder, step).close("complete")
        assert seen(folder) == plain_pandas(folder) == whole(step), count
        if not dead:
            break
        count += 1
    assert count > 1


def test_a_record_is_read_while_it_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", CONFIG, {})
    done, looks = threading.Event(), 0

    def train() -> None:
        write(recorder, 1, 60)
        done.set()

    writer = threading.Thread(target=train)
    writer.start()
    last = 0
    try:
        while not done.is_set():
            run = load_run(recorder.folder)
            steps = run.columns(["step"])["step"].to_pylist()
            assert steps == [step for step, _ in whole(steps[-1] if steps else 0)]
            assert len(steps) >= last
            last, looks = len(steps), looks + 1
            if steps:
                assert len(run.rollouts(steps[len(steps) // 2])) == 2
    finally:
        writer.join()
    recorder.close("complete")
    assert looks > 5
    assert seen(recorder.folder) == whole(60)


# -- resumed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(11))
def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path, step: int) -> None:
    folder = recorded(tmp_path / "run", 10)
    recorder = resumed(folder, step)
    assert seen(folder) == plain_pandas(folder) == whole(step)
    write(recorder, step + 1, 21)
    recorder.close("complete")
    assert seen(folder) == plain_pandas(folder) == whole(21)
    assert len(names(folder)) < 12  # merged again


def test_the_files_of_an_older_version_are_merged_as_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "MERGED", 100)
    folder = recorded(tmp_path / "run", 18)
    monkeypatch.setattr(rollouts, "MERGED", 4)
    recorder = resumed(folder, 18)
    write(recorder, 19, 24)
    recorder.close("complete")
    assert len([name for name in names(folder) if name.startswith("steps")]) == 5
    assert seen(folder) == whole(24)


def test_a_damaged_file_that_must_be_cut_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path / "run", 10)
    (folder / "rollouts" / "steps-000005-000008.parquet").write_bytes(b"PAR1")
    resumed(folder, 6).close("stopped")
    assert "steps-000005-000008.parquet.damaged" in capsys.readouterr().err
    assert names(folder) == ["steps-000001-000004.parquet", "steps-000005-000008.parquet.damaged"]
    assert load_run(folder).steps == [1, 2, 3, 4]


# -- files of somebody else's --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["steps-000011-999999999.parquet", "steps-000011-000011.parquet", "steps-000012-000011.parquet",
             "step-0000011.parquet", "step-11.parquet", "steps-11-12.parquet", "step-٠٠٠٠١١.parquet"],
)  # fmt: skip
def test_odd_names_hold_no_iterations(tmp_path: Path, name: str) -> None:
    folder = recorded(tmp_path / "run", 10)
    shutil.copy(folder / "rollouts" / "step-000010.parquet", folder / "rollouts" / name)
    assert load_run(folder).steps == list(range(1, 11))
    assert seen(folder) == whole(10)


def test_a_merged_file_must_hold_the_iterations_of_its_name(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 5)
    path = folder / "rollouts" / "steps-000001-000004.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path)
    with pytest.raises(UserError, match=r"steps-000001-000004.parquet cannot be read: it has 1 row groups for 4 it"):
        load_run(folder).rollouts(2)
    pq.write_table(table.take([4, 5, 2, 3, 0, 1, 6, 7]), path, row_group_size=2)
    with pytest.raises(UserError, match="it has rollouts of step 3"):
        load_run(folder).rollouts(1)
    assert len(load_run(folder).rollouts(2)) == 2
    pq.write_table(table.append_column("x", pa.array(range(8))).drop_columns(["reward"]), path, row_group_size=2)
    assert load_run(folder).rollouts(2)[0]["reward"] is None
    assert load_run(folder).columns(["reward"])["reward"].to_pylist() == [None] * 8 + [2.5, 2.5]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"\xfe" * 5000])
def test_a_damaged_merged_file_is_named(tmp_path: Path, data: bytes) -> None:
    folder = recorded(tmp_path / "run", 5)
    (folder / "rollouts" / "steps-000001-000004.parquet").write_bytes(data)
    for read in (lambda run: run.rollouts(2), lambda run: run.rollouts(), lambda run: run.columns(["reward"])):
        with pytest.raises(UserError, match=r"steps-000001-000004.parquet cannot be read"):
            read(load_run(folder))
    assert len(load_run(folder).rollouts(5)) == 2


def test_a_listed_file_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 2)
    (folder / "rollouts" / "step-000003.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"step-000003.parquet cannot be read: No such file"):
        load_run(folder).columns(["reward"])


# -- columns and schema --------------------------------------------------------------------------------------------


def test_columns_of_a_run_without_rollouts_and_columns_that_are_none(tmp_path: Path) -> None:
    run = load_run(recorded(tmp_path / "run", 0))
    assert run.columns(["step", "tokens"]).to_pylist() == []
    assert list(run.columns(["step", "tokens"]).to_pandas().columns) == ["step", "tokens"]
    with pytest.raises(UserError, match="rollouts have no column 'rewards': choose from step, "):
        run.columns(["rewards"])


def test_a_record_states_its_schema_and_a_newer_one_is_refused(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", 2)
    path = folder / "environment.json"
    assert json.loads(path.read_text())["schema"] == SCHEMA
    resumed(folder, 1).close("stopped")
    assert json.loads(path.read_text())["schema"] == SCHEMA
    path.write_text(json.dumps({"schema": SCHEMA + 1}))
    before = {place: place.read_bytes() for place in folder.rglob("*") if place.is_file()}
    for use in (load_run, lambda place: resumed(place, 1)):
        newer = rf"newer vpdlab \(schema {SCHEMA + 1}, .* up to {SCHEMA}\): upgrade"
        with pytest.raises(UserError, match=newer) as told:
            use(folder)
        assert "\n" not in str(told.value)
    assert {place: place.read_bytes() for place in folder.rglob("*") if place.is_file()} == before


@pytest.mark.parametrize("schema", ["2", -1, 1.5, None, True, [2]])
def test_a_schema_that_is_no_number_is_told_by_who_reads_the_environment(tmp_path: Path, schema: Any) -> None:
    folder = recorded(tmp_path / "run", 1)
    (folder / "environment.json").write_text(json.dumps({"schema": schema}))
    with pytest.raises(UserError, match=r"environment.json cannot be read: field 'schema' is"):
        load_run(folder).check()
