"""YAML files of settings, studies and templates: nothing that somebody wrote is dropped without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from vpdlab import RunConfig
from vpdlab.compare.studies import read_study
from vpdlab.config.yaml_files import read_yaml
from vpdlab.errors import UserError
from vpdlab.prompts.templates import Templates

TWICE: dict[str, tuple[Callable[[str], object], str]] = {
    "a setting": (RunConfig.make, "steps: 1\nseed: 2\nsteps: 3\n"),
    "a setting in quotes": (RunConfig.make, "steps: 1\nseed: 2\n'steps': 3\n"),
    "a condition of a study": (
        read_study, "title: t\nseeds: [0]\nconditions:\n  a: {preset: words}\n  a: {preset: words-two}\n",
    ),
    "a field of a condition": (
        read_study, "title: t\nseeds: [0]\nconditions:\n  a:\n    preset: words\n    preset: words-two\n",
    ),
    "a template": (Templates.read, "student: '{problem}'\nstudent: '{problem}!'\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", TWICE)
def test_a_name_that_stands_twice_is_refused_with_both_lines(what: str, tmp_path: Path) -> None:
    read, text = TWICE[what]
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml line \d: '\w+' stands in line \d already") as found:
        read(str(file))
    assert "\n" not in str(found.value)


def test_what_a_merge_brings_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: &usual {x: 1, y: 2}\nb:\n  <<: *usual\n  y: 3\n", encoding="utf-8")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_names_are_text_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("on: on\nno: 1\n10: 2\n2025-01-01: 3\n~: 4\n010: 5\n", encoding="utf-8")
    assert read_yaml(file) == {"on": True, "no": 1, "10": 2, "2025-01-01": 3, "~": 4, "010": 5}


@pytest.mark.parametrize("number", ["010", "+017", "-0_7", "1:30", "1:30.5", "190:20:30"])
def test_numbers_in_base_8_and_60_are_refused_with_their_line(number: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"steps: 1\nseed: {number}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"mine\.yaml line 2: YAML reads {re.escape(number)} .* base (8|60)"):
        read_yaml(file)


def test_other_numbers_and_quoted_text_are_what_they_seem(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: [0, 10, 1_000, -0.5, .5, 089, 0x1F]\nb: '010'\nc: '1:30'\n", encoding="utf-8")
    assert read_yaml(file) == {"a": [0, 10, 1000, -0.5, 0.5, "089", 31], "b": "010", "c": "1:30"}


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "mine.yaml")
