"""The examples of the documents run as they stand, and what they name is there."""

from __future__ import annotations

import re

import pytest
from places import ROOT

from vpdlab.config import HINTS
from vpdlab.learn.methods import METHODS

METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_page_of_methods_has_all_of_them_and_settings_that_exist() -> None:
    table = re.findall(r"^\| `(\w+)` \|", METHODS_PAGE.split("## The E-step")[0], flags=re.MULTILINE)
    assert table == list(METHODS)
    settings = set(re.findall(r"`([a-z]+_[a-z]+)`", METHODS_PAGE))
    assert settings - set(HINTS) == {"kl_teacher", "old_logp"}  # a key of metrics.jsonl; what a loss sees


@pytest.mark.slow
def test_the_method_of_your_own_learns(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", METHODS_PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2 and len([line for line in blocks[0].splitlines() if line.strip()]) <= 20
    space: dict = {}
    try:
        for block in blocks:
            exec(compile(block, "docs/methods.md", "exec"), space)
    finally:
        METHODS.pop("sure", None)
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:3]] == ["1", "2", "3"]
    assert all(float(line.split()[2]) > 0 for line in out[:3])
    assert out[3].startswith("tensor(")


TASKS_PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_page_of_tasks_names_settings_that_exist() -> None:
    from vpdlab.config import SOURCES

    named = set(re.findall(r"--(\w+)", TASKS_PAGE))
    assert named <= set(HINTS)
    table = TASKS_PAGE.split("## Where feedback comes from")[1].split("### Critics")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == set(SOURCES)


@pytest.mark.slow
def test_the_task_of_your_own_trains(tmp_path, monkeypatch, capsys) -> None:
    from vpdlab import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "prompts.jsonl").write_text(re.search(r"```json\n(.*?)```", TASKS_PAGE, re.DOTALL)[1])
    function, notebook = re.findall(r"^```python\n(.*?)^```$", TASKS_PAGE, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "plural.py").write_text(function)
    (command,) = re.findall(r"^vpdlab (train .*)$", TASKS_PAGE, flags=re.MULTILINE)
    small = ["--steps", "1", "--group", "2", "--max_new_tokens", "8", "--out", "runs/a", "--eval_every", "-1"]
    assert cli.main([*command.split(), *small]) == 0
    assert "own: 2 train, 1 test problems from prompts.jsonl" in capsys.readouterr().out
    exec(compile(notebook, "docs/tasks.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2", "3"]


def test_the_page_of_engines_names_settings_that_exist() -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    ours = "".join(re.findall(r"^(?!VLLM|  --).*$", page, flags=re.MULTILINE))  # not the server's own command
    named = set(re.findall(r"(?<!-)--(\w+)(?![\w-])", ours)) | set(re.findall(r"`(vllm_[a-z]+)`", page))
    assert named - {"preset"} <= set(HINTS)
    assert {name for name in HINTS if name.startswith("vllm_")} <= named
