"""Files that somebody else wrote: every bad row is named, every bad file refused, all that is unpacked is bounded."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vpdlab.errors import UserError
from vpdlab.foreign import read_rows, reading

GOOD = b'{"prompt": "a", "response": "b"}\n'


def found(path: Path) -> list[Any]:
    return [row for _, row in read_rows(path)]


def written(folder: Path, data: bytes, name: str = "x.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "a"', "line 2: not one JSON object"),
        (b"[1, 2]", "line 2: expected an object of fields, found list"),
        (b'{"a": "\xff\xfe"}', "line 2: not UTF-8 text"),
        (b'{"a": "\\ud83d"}', "line 2: field 'a' contains the lone surrogate"),
        (b'{"a": 1, "a": 2}', "line 2: field 'a' appears twice"),
        (b'{"a": ' + b"[" * 100_000, "line 2: nested too deeply"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "line 2: nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 2"),
    ],
)
def test_a_bad_line_is_an_error_with_its_place_and_the_next_is_read(tmp_path, line, message):
    first, bad, last = found(written(tmp_path, GOOD + line + b"\n" + GOOD))
    assert first == last == {"prompt": "a", "response": "b"}
    assert isinstance(bad, UserError)
    assert message in str(bad)
    assert "\n" not in str(bad)
    assert len(str(bad)) < 500


def test_numbers_that_are_none_are_gaps(tmp_path):
    assert found(written(tmp_path, b'{"a": NaN, "b": [-Infinity, 1.5], "c": {"d": 1e999}}\n')) == [
        {"a": None, "b": [None, 1.5], "c": {"d": None}}
    ]


def test_an_array_and_a_file_with_a_mark_are_read(tmp_path):
    assert found(written(tmp_path, b"\xef\xbb\xbf" + GOOD)) == [{"prompt": "a", "response": "b"}]
    assert found(written(tmp_path, b'[{"a": 1},\n {"a": 2}]', "x.json")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"\xff\xfea", "x.jsonl", "byte order mark of UTF-16"),
        (b"PAR1 this is no parquet PAR1", "x.parquet", "cannot be read"),
        (b"", "x.parquet", "cannot be read"),
        (b"cos\nsystem\n(S'touch ran'\ntR.", "x.pkl", "rollouts come in .json, .jsonl, .parquet files"),
        (b'[{"a": 1}, {"a"', "x.json", "not a JSON array"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, data, name, message):
    with pytest.raises(UserError, match=message):
        found(written(tmp_path, data, name))


def test_a_truncated_parquet_file_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["a" * 1000] * 50}), path)
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - 4, 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="cannot be read"):
            found(path)
    path.write_bytes(whole[:40] + b"\0" * 60 + whole[100:])
    with pytest.raises(UserError, match="cannot be read"):
        found(path)


def test_text_in_parquet_that_is_not_utf8_is_a_bad_row(tmp_path):
    bad = pa.array([b"a", b"\xff\xfe"], pa.binary()).view(pa.string())
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": bad}), path)
    first, second = found(path)
    assert first == {"prompt": "a"}
    assert isinstance(second, UserError)
    assert "row 2: field 'prompt' cannot be read" in str(second)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": pa.array(["a" * 100_000] * 100).dictionary_encode()}), path, compression="zstd")
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match="unpacks to more than 1048576 bytes"):
        found(path)
    long = written(tmp_path, b'{"a": "' + b"b" * (1 << 20) + b'"}\n')
    with pytest.raises(UserError, match="has 1048586 bytes, more than"):
        found(long)


def test_a_line_and_a_number_of_rows_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_LINE", 1000)
    with pytest.raises(UserError, match="line 2 has more than 1000 bytes"):
        found(written(tmp_path, GOOD + b'{"a": "' + b"b" * 2000))
    monkeypatch.setattr(reading, "MOST_ROWS", 3)
    with pytest.raises(UserError, match="has more than 3 rows"):
        found(written(tmp_path, GOOD * 4))
    pq.write_table(pa.table({"prompt": ["a"] * 4}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has 4 rows, more than 3"):
        found(tmp_path / "x.parquet")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jsonl")
    caught: list[str] = []

    def read() -> None:
        try:
            found(tmp_path / "x.jsonl")
        except UserError as error:
            caught.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert caught
    assert "it is no ordinary file" in caught[0]
