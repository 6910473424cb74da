"""Task options: NAME=VALUE is parsed by the declared type, or rejected in one line that names it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
import pytest

from vpdlab.errors import UserError
from vpdlab.tasks import make_task, names
from vpdlab.tasks.common.options import converted, typed, typed_options
from vpdlab.tasks.own import Own
from vpdlab.tasks.reasoning import Reasoning


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


TAKEN = [
    *((bool, text, True) for text in ("true", "True", "TRUE", "yes", "on", "1", True, np.True_)),
    *((bool, text, False) for text in ("false", "False", "no", "Off", "0", False)),
    *((int, text, 30) for text in ("30", " 30 ", "+30", "030", 30, np.int64(30))),
    (int, "-3", -3),
    *((float, text, 0.5) for text in ("0.5", ".5", "5e-1", 0.5, np.float32(0.5))),
    (float, "1", 1.0),
    (float, 1, 1.0),
    *((str, text, text) for text in ("007", "true", "None", "1e5", "", "[1]", " a ")),
    (str, Path("a/b"), "a/b"),
    (str | None, "none", None),
    (Optional[int], "null", None),  # noqa: UP045
    (Optional[int], "3", 3),  # noqa: UP045
    (int | str, "3", 3),
    (int | str, "three", "three"),
    (float | None, None, None),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], "2", 2),
    (list[str], "a,b", ["a", "b"]),
    (list[str], '["a", "b"]', ["a", "b"]),
    (list[int], "1,2", [1, 2]),
    (list[float], "[0.5, 1]", [0.5, 1.0]),
    (tuple[str, ...], "+,-", ("+", "-")),
    (tuple[str], "x,y,z", ("x", "y", "z")),
    (tuple[int, float], "1,0.5", (1, 0.5)),
    (tuple, "+,-", ("+", "-")),
    (list[str], ("a",), ["a"]),
    (list[Colour], "red,BLUE", [Colour.RED, Colour.BLUE]),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (Colour, Colour.RED, Colour.RED),
    (datetime.date, "2025-02-01", datetime.date(2025, 2, 1)),
    (datetime.time, "12:30", datetime.time(12, 30)),
    (Any, "3", 3),
    (Any, "three", "three"),
    (str | Callable[[], None], print, print),
]
REFUSED = [
    *((bool, value, "true or false") for value in ("maybe", "2", "", 1, 0, None, "none", "tru")),
    *((int, value, "a whole number") for value in (
        "true", "half", "1.5", "1e3", "", "1_000", "٣", True, 1.5, 1.0, None, "null", "0x10", "9" * 5000, "1,000",
    )),
    *((float, value, "a number") for value in (
        "half", "true", "nan", "inf", "1e999", "", True, None, float("nan"), "٣",
    )),
    (float, "0,2", "a number, for instance 0.2"),
    *((str, value, "text") for value in (5, None, True, ["a"], b"a")),
    (Literal["a", "b"], "c", "one of a, b"),
    (Literal[1, 2], True, "one of 1, 2"),
    (int | None, "two", "none or a whole number"),
    (list[int], "1,two", "a list of which each item is a whole number"),
    (list[int], 5, "a list, with commas"),
    (list[str], "[1", "a list"),
    (tuple[int, float], "1", "a list of 2 items"),
    (dict[str, int], "a", "a JSON object"),
    (Colour, "green", "one of red, blue"),
    (datetime.date, "May", "a date such as 2025-02-01"),
    (datetime.time, 5, "a time such as 12:30"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "meant"), TAKEN)
def test_what_is_taken(hint: Any, value: Any, meant: Any) -> None:
    found = converted(value, hint)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(("hint", "value", "wanted"), REFUSED)
def test_what_is_refused(hint: Any, value: Any, wanted: str) -> None:
    with pytest.raises(UserError) as found:
        typed("task x", {"option": value}, {"option": hint})
    assert str(found.value).startswith("task x: option is ")
    assert f"must be {wanted}" in str(found.value)
    assert "\n" not in str(found.value) and len(str(found.value)) < 200


def test_positional_arguments_and_defaults_are_kept() -> None:
    class Thing:
        name = "thing"

        @typed_options
        def __init__(self, size: int = 3, *, name: str = "x", **more: Any) -> None:
            self.given = size, name, more

    assert Thing("4").given == (4, "x", {})  # type: ignore[arg-type]
    assert Thing(name="007", other="5").given == (3, "007", {"other": "5"})
    with pytest.raises(TypeError, match="too many positional"):
        Thing(1, 2)  # type: ignore[misc]
    with pytest.raises(UserError, match="task thing: size is True, but must be a whole number"):
        Thing(True)


@pytest.mark.parametrize("name", names())
def test_every_task_reads_its_options_by_type(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=f"task {name} has no option 'nonsense'|family chain_sum has no option 'nonsense'"
    ):
        make_task(name, nonsense="1")
    for option in ("size", "heldout", "split_seed", "seed", "keep", "workers"):
        with pytest.raises(UserError, match=rf"{option}"):
            make_task(name, **{option: "some"})


def test_values_from_python_are_held_to_the_same_types(tmp_path: Path) -> None:
    data = tmp_path / "p.jsonl"
    data.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(UserError, match="task own: heldout is 'half', but must be a number"):
        Own(str(data), lambda response, problem: 1.0, heldout="half")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="task own: verify is 5, but must be a function or text"):
        Own(str(data), 5)  # type: ignore[arg-type]
    assert len(Own(data, lambda response, problem: 1.0, heldout="0.5").load("test")) == 1  # type: ignore[arg-type]


def test_a_familys_options_are_read_by_its_own_types() -> None:
    plain = Reasoning("chain_sum", size=4, heldout=2, allow_negation=False)
    for word in ("False", "false", "no", "0"):
        again = make_task("reasoning", family="chain_sum", size="4", heldout="2", allow_negation=word)
        assert [p.prompt for p in again.load("train")] == [p.prompt for p in plain.load("train")]
    made = make_task(
        "reasoning", family="basic_arithmetic", size="3", heldout="2", operators="+,-", format_style="natural"
    )
    assert len(made.load("train")) == 3
    times = make_task("reasoning", family="time_intervals", size="2", heldout="1", task_types="time", max_time="12:30")
    assert len(times.load("train")) == 2
    for family, options, said in (
        (
            "chain_sum",
            {"allow_negation": "maybe"},
            "family chain_sum: allow_negation is 'maybe', but must be true or false",
        ),
        ("chain_sum", {"min_terms": "2.5"}, "family chain_sum: min_terms is '2.5'"),
        ("basic_arithmetic", {"format_style": "odd"}, "format_style is 'odd', but must be one of simple, natural"),
    ):
        with pytest.raises(UserError, match=said):
            make_task("reasoning", family=family, size="2", heldout="1", **options)
