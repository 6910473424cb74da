"""RunConfig: every field is documented, typed and bounded, and says what is wrong in one line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpdlab import config as module
from vpdlab.config import (
    HINTS,
    PRESETS,
    RANGES,
    RunConfig,
    known_fields,
    presets,
    read_options,
    read_preset,
    read_values,
    settings,
)
from vpdlab.errors import UserError

NUMBERS = [name for name, hint in HINTS.items() if hint in (int, float)]


def documented() -> dict[str, str]:
    """Each field with the docstring that stands right under it."""
    return {one.name: one.text for one in settings()}


def refused(**fields: Any) -> str:
    with pytest.raises(UserError) as found:
        RunConfig(**fields)
    assert "\n" not in str(found.value)
    return str(found.value)


# -- fields ----------------------------------------------------------------------------------------------------


def test_every_field_is_documented_where_it_is_declared() -> None:
    found = documented()
    assert [field.name for field in dataclasses.fields(RunConfig) if field.name not in found] == []
    assert [name for name, text in found.items() if len(text) < 15 or not text.endswith(".")] == []


def test_every_number_has_a_range_that_holds_its_default() -> None:
    assert sorted(RANGES) == sorted(NUMBERS)
    for name, (low, high) in RANGES.items():
        assert low <= getattr(RunConfig(), name) <= high


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(("name", "low", "high"), [(name, *bounds) for name, bounds in RANGES.items()])
def test_a_number_outside_its_range_is_refused(name: str, low: float, high: float) -> None:
    kind = HINTS[name]
    for value in (low - 1, high + 1) if kind is int else (low - 1e-3, high * 2, math.nan, math.inf):
        message = refused(**{name: kind(value)})
        assert message == f"{name} is {kind(value)}, but must be between {low:g} and {high:g}"
    for value in (low, high):
        assert getattr(RunConfig(**{name: kind(value)}), name) == value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": "10"}, "steps is '10', but must be of type int"),
        ({"steps": 10.0}, "steps is 10.0, but must be of type int"),
        ({"steps": True}, "steps is True, but must be of type int"),
        ({"steps": None}, "steps is None, but must be of type int"),
        ({"lr": "1e-4"}, "lr is '1e-4', but must be of type float"),
        ({"lr": True}, "lr is True, but must be of type float"),
        ({"eval_teacher": 1}, "eval_teacher is 1, but must be of type bool"),
        ({"model": 3}, "model is 3, but must be of type str"),
        ({"model": Path("x")}, "but must be of type str"),
        ({"tail": "cut"}, "tail is 'cut': choose one of bucket, renormalise"),
        ({"tail": ["bucket"]}, "tail is ['bucket']: choose one of bucket, renormalise"),
        ({"task_args": 3}, "task_args is 3, but must be a list of words"),
        ({"task_args": [3]}, "task_args is [3], but must be a list of words"),
        ({"task_args": {"digits": 3}}, "but must be a list of words"),
        ({"task_args": ["digits"]}, "task_args has 'digits': write NAME=VALUE, for instance digits=3"),
        ({"task_args": ["3=digits"]}, "task_args has '3=digits': write NAME=VALUE"),
        ({"feedback": []}, "feedback is empty"),
    ],
)
def test_a_value_of_another_type_is_refused_and_never_converted(fields: dict[str, Any], message: str) -> None:
    assert message in refused(**fields)


def test_a_whole_number_may_stand_for_a_float() -> None:
    value = RunConfig(temperature=1).temperature
    assert (value, type(value)) == (1.0, float)


def test_one_word_may_stand_for_a_list_of_one() -> None:
    assert RunConfig(feedback="sibling").feedback == ("sibling",)
    assert RunConfig(feedback=["sibling", "verifier"]).feedback == ("sibling", "verifier")


# -- where fields come from ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets())
def test_a_preset_makes_a_config(name: str) -> None:
    made = RunConfig.make(name)
    for field, value in read_preset(name).items():
        assert getattr(made, field) == (tuple(value) if isinstance(value, list) else value)
    assert RunConfig.make(name, steps=7).steps == 7


def test_the_bundled_presets_are_there() -> None:
    assert {"tour-common", "tour-rare", "science-paper"} <= set(presets())
    assert all((PRESETS / f"{name}.yaml").is_file() for name in presets())


def test_no_preset_is_the_defaults() -> None:
    assert RunConfig.make() == RunConfig()


def test_a_preset_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 3\ntask_args: [digits=1]\n", encoding="utf-8")
    assert RunConfig.make(str(file)) == RunConfig(steps=3, task_args=("digits=1",))
    file.write_text("", encoding="utf-8")
    assert RunConfig.make(str(file)) == RunConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps: [", "not a YAML file"),
        (b"\xff\xfe\xfa", "not a YAML file"),
        (b"- steps", "expected lines of FIELD: VALUE"),
        (b"stesp: 3", "there is no setting 'stesp': did you mean 'steps'?"),
        (b"3: 3", "there is no setting '3'"),
        (b"steps: many\n", "steps is 'many'"),
        (b"steps: 0\n", "steps is 0, but must be between"),
        (b"lr:\n", "lr is None"),
    ],
)
def test_a_file_that_is_no_preset_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as found:
        read_preset(str(file))
    assert str(found.value).startswith(f"{file}: ")
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_an_unknown_preset_is_told_the_known_ones() -> None:
    with pytest.raises(
        UserError,
        match="unknown preset 'tuor': choose one of code-paper, code-small, science-critique, science-paper",
    ):
        RunConfig.make("tuor")


def test_an_unknown_field_is_told_the_nearest_one() -> None:
    with pytest.raises(UserError, match="there is no setting 'temprature': did you mean 'temperature'?"):
        RunConfig.make(temprature=1.0)
    with pytest.raises(UserError, match="there is no setting 'zzz'; `vpdlab train --help` lists them"):
        known_fields({"zzz": 1})


def test_names_of_a_notebook_are_picked_and_the_others_left() -> None:
    names = {"preset": "tour-rare", "steps": 5, "seed": None, "np": np, "x": 3, "__name__": "__main__"}
    assert RunConfig.from_names(names) == RunConfig.make("tour-rare", steps=5)
    assert RunConfig.from_names({}) == RunConfig()
    assert RunConfig.from_names({"preset": ""}) == RunConfig()


def test_a_false_or_zero_of_a_notebook_counts() -> None:
    made = RunConfig.from_names({"eval_teacher": False, "e_every": 0})
    assert (made.eval_teacher, made.e_every) == (False, 0)


# -- what is made of them --------------------------------------------------------------------------------------


def test_a_config_survives_json() -> None:
    made = RunConfig.make("tour-rare", feedback=["verifier", "sibling"])
    plain = json.loads(json.dumps(made.to_dict()))
    assert list(plain) == [field.name for field in dataclasses.fields(RunConfig)]
    assert RunConfig(**plain) == made


def test_task_options_are_text_that_the_task_reads() -> None:
    args = ("digits=3", "operations=+-", "name=007", "deep=[1, 2]", "on=True", "same=a=b", "e=")
    assert RunConfig(task_args=args, data="x.json").task_options() == {
        "data": "x.json", "digits": "3", "operations": "+-", "name": "007", "deep": "[1, 2]", "on": "True",
        "same": "a=b", "e": "",
    }  # fmt: skip
    assert RunConfig().task_options() == {}
    with pytest.raises(UserError, match="digits is given twice: digits=3 and digits=4"):
        read_options(("digits=3", "digits=4"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("False", False), ("false", False), ("TRUE", True), ("None", None), ("null", None), ("3", 3), ("-0.5", -0.5),
        ("[1, 2]", [1, 2]), ("high", "high"), ("", ""), ("007", "007"), ("[" * 100_000, "[" * 100_000),
        ("9" * 5000, "9" * 5000), ("NaN", "NaN"),
    ],
)  # fmt: skip
def test_a_chat_templates_values_are_read_as_they_look(text: str, value: object) -> None:
    assert read_values((f"x={text}",)) == {"x": value}
    assert type(read_values((f"x={text}",))["x"]) is type(value)


@pytest.mark.parametrize(
    ("fields", "folder"),
    [
        ({}, "runs/vpd-arithmetic-apprentice-s0"),
        ({"method": "sdpo", "seed": 3, "model": "org/Some Model:1"}, "runs/sdpo-arithmetic-Some-Model-1-s3"),
        ({"model": "/"}, "runs/vpd-arithmetic-model-s0"),
        ({"out": "there/x.1_a-b"}, "there/x.1_a-b"),
        ({"out": "x" * 64}, "x" * 64),
    ],
)
def test_the_folder_is_named_after_the_run(fields: dict[str, Any], folder: str) -> None:
    assert RunConfig(**fields).folder == Path(folder)


def test_runs_that_differ_have_folders_that_differ() -> None:
    """Presets, and settings named beside them; what may change in a resumed run changes no name."""
    names = [
        RunConfig.make(preset, **fields).folder.name
        for preset in ("tour-common", "tour-rare")
        for fields in ({}, {"e_every": 1}, {"e_every": 2}, {"prompts": 3}, {"lr": 1e-3})
    ]
    assert len(set(names)) == len(names) == 10
    assert all(re.fullmatch(r"vpd-arithmetic-apprentice-s0(-[\w.-]+)?-[0-9a-f]{6}", name) for name in names)
    assert names[1].startswith("vpd-arithmetic-apprentice-s0-e_every-1-")
    free = RunConfig.make("tour-common", steps=7, eval_every=3, out="").folder
    assert free == RunConfig.make("tour-common").folder
    assert len(RunConfig.make("tour-common", task_args=tuple(f"o{i}=1" for i in range(40))).folder.name) <= 64


def test_a_run_of_the_old_name_is_found_where_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old = Path("runs/vpd-arithmetic-apprentice-s0")
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}")
    assert RunConfig.make("tour-common", resume=True).folder == old
    assert RunConfig.make("tour-common").folder != old


@pytest.mark.parametrize("out", [".hidden", "a/.b", "two words", "x" * 65, "a/b\n", "ü", "/"])
def test_a_name_that_no_run_can_have_is_refused(out: str) -> None:
    with pytest.raises(UserError, match="a run's name has 1 to 64 letters"):
        RunConfig(out=out).folder  # noqa: B018


def test_a_name_that_came_out_too_long_is_shown() -> None:
    with pytest.raises(UserError, match=f"vpd-arithmetic-{'m' * 60}-s0"):
        RunConfig(model="m" * 60).folder  # noqa: B018


def test_the_module_knows_no_torch() -> None:
    assert "torch" not in vars(module)
