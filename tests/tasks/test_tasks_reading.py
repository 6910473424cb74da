"""Files of items in the wild: read completely, or rejected in one line with file, line and field."""

from __future__ import annotations

import datetime
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from vpdlab.errors import UserError
from vpdlab.tasks.common.reading import read_splits, user_path
from vpdlab.tasks.own import Own

ROWS = [{"prompt": f"q{n}", "answer": str(n)} for n in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(file: Path, data: bytes | str, fields: list[str] | None = None) -> list[Any]:
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    _, rows = read_splits("task t", str(file), fields)["train"]
    return list(rows)


@pytest.mark.parametrize(
    "data",
    [
        LINES, LINES.rstrip("\n"), "\n\n" + LINES.replace("\n", "\n\n"), LINES.replace("\n", "\r\n"),
        LINES.replace("\n", "\r"), "\ufeff" + LINES, "\ufeff\n" + LINES, LINES.replace("{", "  {"),
        json.dumps(ROWS), json.dumps(ROWS, indent=1), "\ufeff \n" + json.dumps(ROWS, indent=1).replace("\n", "\r\n"),
    ],
    ids=range(11),
)  # fmt: skip
def test_lines_and_arrays_are_read_whole(tmp_path: Path, data: str) -> None:
    assert [row for _, row in read(tmp_path / "p.json", data)] == ROWS
    assert [row for _, row in read(tmp_path / "p.JSONL", data)] == ROWS


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    assert [where for where, _ in read(tmp_path / "a.json", "\n" + LINES)] == ["line 2", "line 3", "line 4", "line 5"]
    assert [where for where, _ in read(tmp_path / "b.json", '[{"a": [1]},\n\n {"a": "],["}, {}]\n')] == [
        "line 1, item 1", "line 3, item 2", "line 3, item 3",
    ]  # fmt: skip
    assert [row for _, row in read(tmp_path / "c.jsonl", "[1]\n[2]\n")] == [[1], [2]]
    assert read(tmp_path / "d.jsonl", "[]") == read(tmp_path / "e.jsonl", "") == []


def test_text_of_every_kind_is_kept_as_it_is(tmp_path: Path) -> None:
    text = 'é \u2028 \x85 \ufeff 😀 \\ " \t \x00 \u0301'
    for data in (json.dumps({"prompt": text}), json.dumps({"prompt": text}, ensure_ascii=False)):
        assert read(tmp_path / "p.jsonl", data + "\n") == [("line 1", {"prompt": text})]
    assert read(tmp_path / "p.jsonl", '{"prompt": "\\ud83d\\ude00"}') == [("line 1", {"prompt": "😀"})]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (LINES.encode("utf-16"), "p.jsonl line 1: not UTF-8 text (the file starts with the byte order mark of UTF-16)"),
        (LINES.encode("utf-32"), "p.jsonl line 1: not UTF-8 text (the file starts with the byte order mark of UTF-32)"),
        (LINES.encode("utf-16-le"), "p.jsonl line 1: not one JSON object"),
        (b'{"prompt": "\xe9"}\n', "p.jsonl line 1: not UTF-8 text"),
        (b'[{"a": 1},\n {"prompt": "\xe9"}]', "p.jsonl line 2: not UTF-8 text"),
        ('{"prompt": "bad \\ud83d half"}', "p.jsonl line 1: field 'prompt' contains the lone surrogate"),
        ('{"prompt": "a", "x": {"y": ["\\udc00"]}}', "p.jsonl line 1: field 'x' contains the lone surrogate"),
        ('{"\\udc00": 1}', "p.jsonl line 1: field '\\udc00' contains the lone"),
        ('[{"a": 1},\n{"a": "\\ud800"}]', "p.jsonl line 2, item 2: field 'a' contains the lone"),
        ('{"a": NaN}', "p.jsonl line 1: field 'a' contains nan, which is not"),
        ('{"a": [1, -Infinity]}', "p.jsonl line 1: field 'a' contains -inf"),
        ('{"a": 1e999}', "p.jsonl line 1: field 'a' contains inf"),
        ('{"a": ' + "9" * 5000 + "}", "p.jsonl line 1: Exceeds the limit (4300 digits)"),
        ("[" * 100_000, "p.jsonl line 1: nested too deeply"),
        ('{"a": ' * 100_000, "p.jsonl line 1: nested too deeply"),
        ('{"a": 1}\n{"prompt": 1, "b": 2, "prompt": 3}', "p.jsonl line 2: field 'prompt' appears twice"),
        ('{"x": {"a": 1, "a": 2}}', "p.jsonl line 1: field 'a' appears twice"),
        ('[{"a": 1},\n {"a": 2},]', "p.jsonl line 2: not a JSON array"),
        ('[{"a": 1}\n', "p.jsonl line 2: not a JSON array"),
        ("{'a': 1}", "p.jsonl line 1: not one JSON object"),
        ('{"a": 1} {"a": 2}', "p.jsonl line 1: not one JSON object (Extra data"),
        ('{\n "a": 1\n}', "p.jsonl line 1: not one JSON object"),
        ("prompt,answer\nq,1\n", "p.jsonl line 1: not one JSON object"),
        (b"\x1f\x8b\x08\x00", "p.jsonl line 1: not UTF-8 text"),
    ],
    ids=range(24),
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path: Path, data: bytes | str, said: str) -> None:
    with pytest.raises(UserError) as found:
        read(tmp_path / "p.jsonl", data)
    assert said in str(found.value)
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_only_fields_that_are_read_are_looked_at(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "p.jsonl", '{"a": 1, "b": "\\ud83d", "c": NaN}', ["a"])
    assert found[1]["a"] == 1


def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.jsonl").write_text(LINES)
    assert list(read_splits("task t", "~/p.jsonl", None)["train"][1])
    for name, said in (
        ("~/none.jsonl", "there is no file or folder ~/none.jsonl"),
        ("~nobody-here/p.jsonl", "data is '~nobody-here/p.jsonl': "),
        ("q\udcff.jsonl", "data is 'q\\udcff.jsonl', a name that is not UTF-8"),
        ("x" * 5000 + ".jsonl", "File name too long"),
        ("a\0b.jsonl", "task t"),
        (str(tmp_path / "p.csv"), "there is no file"),
    ):
        with pytest.raises(UserError) as found:
            read_splits("task t", name, None)
        assert said in str(found.value)
        str(found.value).encode()
    assert user_path("x", "~/y") == tmp_path / "y"


@pytest.mark.parametrize("name", ["validation.jsonl", "valid.json", "val.jsonl", "dev.jsonl"])
def test_held_out_problems_by_another_name_are_not_dropped(tmp_path: Path, name: str) -> None:
    """`datasets` takes a split named validation for the test as well."""
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / name).write_text('{"prompt": "v"}\n')
    found = read_splits("task t", str(tmp_path), None)
    assert found["test"][0] == str(tmp_path / name)
    (tmp_path / "test.jsonl").write_text('{"prompt": "t"}\n')
    assert read_splits("task t", str(tmp_path), None)["test"][0] == str(tmp_path / "test.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(LINES)
    (tmp_path / "p.jsonl").chmod(0)
    with pytest.raises(UserError, match="task t cannot read .*: Permission denied"):
        list(read_splits("task t", str(tmp_path / "p.jsonl"), None)["train"][1])


def test_odd_columns_of_tables(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    file = tmp_path / "p.parquet"
    table = {
        "prompt": pa.array(["a", "b"]).dictionary_encode(), "money": pa.array([Decimal("1.50"), Decimal("2.00")]),
        "day": pa.array([datetime.date(2025, 2, 1)] * 2), "at": pa.array([datetime.datetime(2025, 2, 1, 12)] * 2),
        "list": pa.array([[1, 2], None]),
        "deep": pa.array([{"x": [Decimal("3")]}, None]), "big": pa.array([2**63 - 1, 0]),
    }  # fmt: skip
    parquet.write_table(pa.table(table), file)
    (_, first), (_, second) = read_splits("task t", str(file), None)["train"][1]
    assert first == {
        "prompt": "a", "money": "1.50", "day": "2025-02-01", "at": "2025-02-01T12:00:00", "list": [1, 2],
        "deep": {"x": [3]}, "big": 2**63 - 1,
    }  # fmt: skip
    json.dumps([first, second])
    parquet.write_table(pa.table({"prompt": pa.array(["a", "b"]), "score": pa.array([1.0, float("nan")])}), file)
    with pytest.raises(UserError, match="row 2: field 'score' contains nan"):
        list(read_splits("task t", str(file), None)["train"][1])
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), file)
    with pytest.raises(UserError, match=r"cannot read .*p\.parquet: .*prompt"):
        list(read_splits("task t", str(file), None)["train"][1])
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    parquet.write_table(pa.table({"prompt": broken}), file)
    with pytest.raises(UserError, match="row 1: field 'prompt' cannot be read"):
        list(read_splits("task t", str(file), None)["train"][1])


def test_ids_of_two_files_in_one_are_told_apart(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "id": f"no{n % 20}"} for n in range(40)] + [{"prompt": "q0", "id": "no0"}]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.jsonl").write_text('{"prompt": "other", "id": "no0"}\n')
    task = Own(str(tmp_path), lambda response, problem: 1.0)
    ids = [problem.id for split in ("train", "test") for problem in task.load(split)]
    assert len(ids) == len(set(ids)) == 41
    assert "dropped 1 duplicate" in task.summary


def test_a_problem_with_two_answers_is_told(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "answer": "5", "id": "other"}, {**ROWS[1], "hint": "Think."}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = Own(str(tmp_path / "p.jsonl"), lambda response, problem: 1.0).summary
    assert "dropped 2 duplicate(s); 2 of them had a different answer from the one kept (e.g. other)" in summary
