"""A run folder whose files are damaged, or made by somebody else: each command ends in one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import toy_model

from vpdlab import Run, RunConfig, load_run, manifest
from vpdlab.cli import main
from vpdlab.errors import UserError
from vpdlab.show import plots, summary, widget_data

SMALL = {
    "prompts": 2, "group": 2, "max_new_tokens": 4, "max_context": 120, "steps": 2, "eval_problems": 2,
    "eval_samples": 1, "checkpoint_every": 1, "device": "cpu", "eval_teacher": False, "record_tokens": 2,
    "task": "arithmetic", "task_args": ("size=12",),  # each command reads all problems
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run with everything in it."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    list(Run.open(RunConfig.make(model=toy_model(), out=str(folder), **SMALL)).steps())
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 20] = b"\xfe" * 20
    path.write_bytes(data)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


KINDS: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbled": garble,
    "null": lambda path: path.write_text("null\n"),
    "a list": lambda path: path.write_text("[]\n"),
    "an empty object": lambda path: path.write_text("{}\n"),
    "numbers too large": lambda path: path.write_text('{"step": 1' + "0" * 400 + ', "state": 1e999}\n'),
    "more digits than Python reads": lambda path: path.write_text('{"step": 1' + "0" * 5000 + "}\n"),
    "nested too deep": lambda path: path.write_text("[" * 100_000 + "\n"),
    "another encoding": lambda path: path.write_bytes('{"task": "ü"}\n'.encode("utf-16")),
    "a folder": a_folder,
}
FILES = [
    "config.json", "environment.json", "status.json", "metrics.jsonl", "eval.jsonl", "rollouts/step-000002.parquet",
    "checkpoints/step-000002/manifest.json", "checkpoints/step-000002/state.json",
    "checkpoints/step-000002/student.safetensors", "final/manifest.json", "final/config.json",
    "final/model.safetensors", "final/tokenizer.json",
]  # fmt: skip


def shown(folder: Path) -> None:
    """Everything that the report and the notebooks read."""
    record = load_run(folder).check()
    for step in record.steps:
        widget_data.lens_records(record.rollouts(step), beta=record.betas)
        summary.rollout_table(record.rollouts(step))
    assert summary.conclusion(record.eval_rows)
    widget_data.eval_points(record.eval_rows)
    summary.warning_spans(record.rows)
    summary.changed_settings(record.config)
    plots.training_figure(record.rows, record.eval_rows)
    assert record.metrics is not None
    assert record.evals is not None


def told(folder: Path, name: str) -> bool:
    """Whether a run cannot be shown; then one line names the file."""
    try:
        shown(folder)
    except UserError as error:
        said = str(error)
    else:
        return False
    assert "\n" not in said
    assert name in said
    return True


COMMANDS = {
    "eval": ["eval", "RUN", "--eval_samples=1"],
    "eval a checkpoint": ["eval", "RUN", "--checkpoint=2", "--eval_samples=1"],
    "eval final": ["eval", "RUN/final", "--eval_samples=1"],
    "export": ["export", "RUN", "OUT"],
    "resume": ["train", "--resume", "--out=RUN", "--steps=3"],
    "begin": ["train", "--out=RUN"],
}
READ_BY = {"config.json": ["eval", "resume", "begin"], "status.json": ["eval", "export", "resume"],
           "environment.json": ["resume"], "metrics.jsonl": ["resume"], "eval.jsonl": ["resume"],
           "checkpoints": ["eval a checkpoint", "resume"], "final": ["eval final", "export"]}  # fmt: skip


def named(folder: Path, name: str, what: str, capsys) -> None:
    """Try a command on a copy: it works, or ends in one line of ours that names the file or its folder."""
    copy = folder.with_name(f"copy-{what.replace(' ', '-')}")
    shutil.copytree(folder, copy)
    words = [word.replace("RUN", str(copy)).replace("OUT", str(copy.with_name("out"))) for word in COMMANDS[what]]
    status = main(words)
    out, err = capsys.readouterr()
    assert status in (0, 1, 2), (what, status)
    lines = [line for line in err.splitlines() if line.startswith("vpdlab: ") and "note: " not in line]
    assert len(lines) == (status != 0), (what, err)
    if status != 0 and what != "begin":
        assert name in err + out or "holds no run" in err, (what, name, err, out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", [name for name in FILES if not name.startswith(("checkpoints", "final"))])
def test_a_damaged_file_of_the_record_is_named(file, kind, run, capsys):
    KINDS[kind](run / file)
    told(run, Path(file).name)
    for what in READ_BY.get(file, ()):
        named(run, Path(file).name, what, capsys)


@pytest.mark.parametrize("kind", ["missing", "empty", "half", "garbled", "null", "nested too deep", "a folder"])
@pytest.mark.parametrize("file", [name for name in FILES if name.startswith(("checkpoints", "final"))])
def test_a_damaged_file_of_weights_is_named_or_done_without(file, kind, run, capsys):
    KINDS[kind](run / file)
    place = file.split("/")[0]
    for what in READ_BY[place]:
        named(run, Path(file).parent.name, what, capsys)


WRONG: list[Any] = [None, "x", -1, 1.5, True, [], ["x"], {}, {"x": 1}, 10**30]


@pytest.mark.parametrize("file", ["config.json", "environment.json", "status.json", "metrics.jsonl", "eval.jsonl"])
def test_a_field_of_another_type_is_told_or_borne(file, run):
    path = run / file
    lines = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
    first = json.loads(lines[0])
    count = 0
    for field in first:
        for value in WRONG:
            text = json.dumps(first | {field: value})
            path.write_text("\n".join([text, *lines[1:]]) + "\n")
            count += told(run, path.name)
        path.write_text("\n".join([json.dumps({k: v for k, v in first.items() if k != field}), *lines[1:]]) + "\n")
        told(run, path.name)
    assert count > len(first)


def test_a_rollout_of_another_shape_is_told_or_borne(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "rollouts" / "step-000002.parquet"
    table = pq.read_table(path)
    for name in table.column_names:
        others = [table.drop_columns([name])]
        for value in (None, "x", [], 1, [None]):
            others.append(table.drop_columns([name]).append_column(name, pa.array([value] * len(table))))
        kept = table.column(name).type
        for values in ([None] * len(table), [[]] * len(table) if pa.types.is_list(kept) else None):
            if values is not None:
                others.append(table.drop_columns([name]).append_column(name, pa.array(values, type=kept)))
        for other in others:
            pq.write_table(other, path)
            told(run, path.name)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_checkpoint_with_right_sums_and_wrong_contents_is_told(value, whole, tmp_path, capsys):
    """Whoever makes a checkpoint makes its sums, too."""
    state = json.loads((whole / "checkpoints" / "step-000002" / "state.json").read_text())
    for field in state:
        run = Path(shutil.copytree(whole, tmp_path / f"run-{field}"))
        shutil.rmtree(run / "checkpoints" / "step-000001")
        place = run / "checkpoints" / "step-000002"
        (place / "state.json").write_text(json.dumps(state | {field: value}))
        manifest.write(place)
        status = main(["train", "--resume", f"--out={run}", "--steps=3"])
        err = capsys.readouterr().err
        if status != 0:
            assert status == 2, (field, err)
            assert "step-000002" in err or field in ("inputs", "environment"), (field, err)
        shutil.rmtree(run)


def test_tensors_with_right_sums_that_do_not_fit_are_told(whole, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    for name in ("student", "optimizer", "random"):
        for change in ("names", "shapes", "types", "nothing"):
            run = Path(shutil.copytree(whole, tmp_path / f"{name}-{change}"))
            shutil.rmtree(run / "checkpoints" / "step-000001")
            place = run / "checkpoints" / "step-000002"
            tensors = load_file(place / f"{name}.safetensors")
            changed = {
                "names": lambda t: {f"x{key}": value for key, value in t.items()},
                "shapes": lambda t: {key: value.reshape(-1)[:1].clone() for key, value in t.items()},
                "types": lambda t: {key: value.bool() for key, value in t.items()},
                "nothing": lambda t: {},
            }[change](tensors)
            save_file(changed, place / f"{name}.safetensors")
            manifest.write(place)
            status = main(["train", "--resume", f"--out={run}", "--steps=3"])
            err = capsys.readouterr().err
            assert status in (0, 2), (name, change, err)
            assert status == 0 or "step-000002" in err, (name, change, err)
            shutil.rmtree(run)


NAN = float("nan")
NEVER = {
    "a weight": ("student", lambda t: next(iter(t.values())).view(-1).__setitem__(0, NAN)),
    "a mean": ("optimizer", lambda t: t["0.exp_avg"].view(-1).__setitem__(0, NAN)),
    "a square below 0": ("optimizer", lambda t: t["0.exp_avg_sq"].view(-1).__setitem__(0, -1.0)),
    "a step below 0": ("optimizer", lambda t: t["0.step"].fill_(-2.0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", NEVER)
def test_numbers_that_training_never_makes_are_told_before_they_are_used(kind, whole, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    group, change = NEVER[kind]
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-000001")
    place = run / "checkpoints" / "step-000002"
    tensors = load_file(place / f"{group}.safetensors")
    change(tensors)
    save_file(tensors, place / f"{group}.safetensors")
    manifest.write(place)
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 2
    assert "step-000002 cannot be used" in capsys.readouterr().err
    if group == "student":
        assert main(["eval", str(run), "--checkpoint=2"]) == 2
        assert main(["export", str(run), str(tmp_path / "out"), "--checkpoint=2"]) == 2


@pytest.mark.parametrize("place", [2**30, -(2**30), 625, 1.5, None])
def test_a_random_state_that_points_outside_itself_is_told(place, whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints" / "step-000001")
    at = run / "checkpoints" / "step-000002"
    state = json.loads((at / "state.json").read_text())
    state["random"]["numpy"][2] = place
    (at / "state.json").write_text(json.dumps(state))
    manifest.write(at)
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 2
    assert "random state" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [".step-000003.new", ".step-junk", "step-0000009", "step-٣٣٣٣٣٣", "rejected-step-000002"]
)
def test_odd_names_among_checkpoints_stop_nothing(name, run):
    (run / "checkpoints" / name).write_text("")
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 0


def test_half_a_character_in_a_record_is_written_again_as_it_was(run):
    found = json.loads((run / "environment.json").read_text()) | {"revision": "\ud83d"}
    (run / "environment.json").write_text(json.dumps(found))
    assert main(["train", "--resume", f"--out={run}", "--steps=3"]) == 0
    assert load_run(run).environment["revision"] == "\ud83d"


def test_a_parquet_file_that_unpacks_without_end_is_told(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = run / "rollouts" / "step-000002.parquet"
    pq.write_table(pa.table({"step": pa.array([2] * 300_000)}), path)
    with pytest.raises(UserError, match=r"step-000002\.parquet cannot be read: it holds 300000 rows"):
        load_run(run).rollouts(2)
