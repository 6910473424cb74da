"""What TRL, verl and prime-rl leave behind, in their own layouts, and what is missing in each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from other_trainers import prime_rl, prime_rl_traces, trl, verl

from vpdlab.errors import UserError
from vpdlab.foreign import find_sources, formats, missing, read_row
from vpdlab.foreign.rows import Row


def rows_of(place: Path, name: str = "") -> list[Row]:
    found = []
    for where, fields in find_sources(place, name).rows():
        assert not isinstance(fields, UserError), fields
        found.append(read_row(fields, where))
    return found


def test_trl(tmp_path):
    trl(tmp_path / "out")
    sources = find_sources(tmp_path / "out")
    assert (sources.format.name, [step for step, _ in sources.files]) == ("trl", [10, 20])
    rows = rows_of(tmp_path / "out")
    assert [row.step for row in rows] == [10, 10, 20, 20]
    assert [row.reward for row in rows] == [1.5, 0.5, 1.5, 0.5]  # two reward functions; NaN says nothing
    assert [(row.problem.system, row.problem.prompt, row.text) for row in rows[:2]] == [
        ("Be brief.", "3 + 4?", "7"), ("Be brief.", "3 + 4?", "8")
    ]  # fmt: skip
    assert [row.critique for row in rows[:2]] == [None, "Too high."]
    assert rows[0].group == rows[1].group
    assert missing(rows, tokens=False)[0] == "feedback of 2 of 4 rollouts"


def test_verl(tmp_path):
    verl(tmp_path / "rollouts")
    rows = rows_of(tmp_path / "rollouts")
    assert [(row.step, row.reward, row.success, row.parsed) for row in rows] == [
        (1, 1.0, True, "7"), (1, -1.0, False, "8"), (2, 1.0, True, "7"), (2, -1.0, False, "8")
    ]  # fmt: skip
    assert rows[0].problem.prompt == "user\n3 + 4?\nassistant\n"  # rendered, without special tokens
    assert rows[0].problem.answer == "7"
    lacks = missing(rows, tokens=False)
    assert lacks[0].startswith("feedback: without it there is no teacher")
    assert lacks[1].startswith("tokens and log-probabilities")
    assert "whether a response was cut off" in lacks


@pytest.mark.parametrize(("kind", "first", "second"), [
    (verl, "2.jsonl", "02.jsonl"),
    (trl, "completions/completions_00010.parquet", "completions_00010.parquet"),
    (prime_rl, "rollouts/step_3/train_rollouts.jsonl", "step_03/train_rollouts.jsonl"),
])  # fmt: skip
def test_two_files_of_one_step_are_not_read_as_one(kind, first, second, tmp_path):
    kind(tmp_path)
    (tmp_path / second).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(tmp_path / first, tmp_path / second)
    with pytest.raises(UserError, match="are both of step ") as found:
        rows_of(tmp_path)
    assert all(str(tmp_path / name) in str(found.value) for name in (first, second))


def test_prime_rl(tmp_path):
    prime_rl(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [(row.step, row.reward, row.finished, row.group) for row in rows] == [
        (3, 1.0, True, "5"),
        (3, 0.0, False, "5"),
    ]
    assert [row.problem.answer for row in rows] == ["7", "7"]
    assert rows[1].environment == '{"error": "timeout"}'


def test_prime_rl_traces(tmp_path):
    prime_rl_traces(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row.step for row in rows] == [4, 4]
    assert [turn for turn, _ in rows[0].turns] == ["assistant", "tool", "assistant"]
    assert rows[0].problem.history == ()
    assert (rows[0].problem.system, rows[0].problem.prompt, rows[0].text) == ("sys", "3 + 4?", "7")
    assert [row.reward for row in rows] == [1.5, 0.0]
    assert rows[1].environment == '["timeout"]'


@pytest.mark.parametrize(
    "nodes", ["x", [], [{"sampled": False}], [{"sampled": True, "parent": 0}], [{"sampled": True, "parent": 7}],
              [{"sampled": True, "parent": "0"}], [{"sampled": True, "parent": None, "message": 3}], [3]],
)  # fmt: skip
def test_a_trace_that_is_none_is_a_bad_row(tmp_path, nodes: Any):
    path = tmp_path / "train_rollouts.jsonl"
    path.write_text(json.dumps({"nodes": nodes, "rewards": {"a": 1.0}}) + "\n")
    ((where, fields),) = find_sources(path).rows()
    with pytest.raises(UserError, match="train_rollouts.jsonl line 1: field"):
        if isinstance(fields, UserError):
            raise fields
        read_row(fields, where)


def test_a_layout_is_named_or_found(tmp_path):
    trl(tmp_path / "a")
    assert find_sources(next((tmp_path / "a").rglob("*.parquet"))).format.name == "trl"
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"question": "x", "reply": "y"}\n')
    with pytest.raises(UserError, match=r"has the columns question, reply: name its layout with --from plain\|trl"):
        find_sources(odd)
    with pytest.raises(UserError, match="from is 'llama'"):
        find_sources(odd, "llama")
    with pytest.raises(UserError, match="there is no file or folder"):
        find_sources(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no rollouts.*completions_\*.parquet"):
        find_sources(tmp_path / "empty")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no rows"):
        find_sources(tmp_path / "none.jsonl")


def test_the_other_names_of_columns_are_found_out(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text(
        'nonsense\n{"prompt": "a", "completion": "b", "critique": "c", "score": 1}\n'
    )  # a bad row comes first
    sources = find_sources(path)
    assert sources.format.name == "plain"
    (where, fields) = list(sources.rows())[1]
    row = read_row(fields, where)
    assert (row.text, row.critique, row.reward) == ("b", "c", 1.0)


def test_a_file_is_found_from_its_own_folder(tmp_path, monkeypatch):
    verl(tmp_path / "dumps")
    monkeypatch.chdir(tmp_path / "dumps")
    for place in (Path(), Path(sorted(path.name for path in Path().glob("*.jsonl"))[0])):
        assert all(step is not None for step, _ in find_sources(place).files)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("trl", {"prompt": "a", "completion": "b", "r1": 10**400, "r2": 0.5, "step": 1, "advantage": 0}),
        ("prime-rl", {"nodes": [{"parent": None, "message": {"role": "user", "content": "a"}},
                                {"parent": 0, "sampled": True, "message": {"role": "assistant", "content": "b"}}],
                      "rewards": {"r1": 10**400, "r2": 0.5}}),
    ],
)  # fmt: skip
def test_a_reward_beyond_all_numbers_is_named(tmp_path, name, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    ((_, fields),) = find_sources(path, name).rows()
    assert isinstance(fields, UserError) and "line 1" in str(fields) and "'r1'" in str(fields)


def test_columns_of_one_name_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["prompt", "response", "response"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="two columns 'response'"):
        find_sources(tmp_path / "rows.parquet")


def test_files_beyond_the_limit_are_counted_and_the_last_ones_are_left_out(tmp_path, monkeypatch):
    for step in (7, 30, 4, 11, 100):
        (tmp_path / f"{step}.jsonl").write_text(json.dumps({"input": "a", "output": "b", "score": 1}) + "\n")
    assert find_sources(tmp_path).left_out == 0
    monkeypatch.setattr(formats, "MOST_FILES", 3)
    sources = find_sources(tmp_path)
    assert [step for step, _ in sources.files] == [4, 7, 11]
    assert sources.left_out == 2


@pytest.mark.parametrize("place", [None, 3, b"out"])
def test_what_is_no_path_is_named(place):
    with pytest.raises(UserError, match="the file is "):
        find_sources(place)
