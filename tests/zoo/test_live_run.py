"""The live model of a recorded run: which weights, which words, and where there is none; its report in a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from offline_browser import offline_page

from vpdlab import Run, RunConfig, load_run
from vpdlab.cli.headless import report
from vpdlab.errors import UserError
from vpdlab.zoo import live
from vpdlab.zoo.live_run import of_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations with a checkpoint of the last one."""
    folder = tmp_path_factory.mktemp("runs") / "live"
    fields = {"steps": 2, "prompts": 4, "group": 2, "eval_every": -1, "checkpoint_every": 2}
    for _ in Run.open(RunConfig.make("words", **fields, out=str(folder))).steps():
        pass
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "live"))


def settings(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")


def test_student_and_teacher_are_the_run_s_own(folder: Path) -> None:
    found = of_run(load_run(folder))
    model = found["model"]
    assert model["weights"]["student"] != model["weights"]["teacher"]
    assert model["notes"] == ["student after iteration 2", "teacher (ema): its own weights"]
    final = live.live_model(folder / "final")
    assert model["weights"]["student"] == final["weights"]["student"]
    assert (found["temperature"], found["length"]) == (1.0, 12)
    assert len(found["examples"]) == 4
    assert all(one["critique"] for one in found["examples"])


def test_without_final_the_newest_checkpoint_serves(folder: Path) -> None:
    wanted = of_run(load_run(folder))["model"]["weights"]
    shutil.rmtree(folder / "final")
    assert of_run(load_run(folder))["model"]["weights"] == wanted


def test_without_a_checkpoint_the_teacher_has_the_student_s_weights(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    model = of_run(load_run(folder))["model"]
    assert model["weights"]["student"] == model["weights"]["teacher"]
    assert "did not save those of its own (ema)" in model["notes"][1]


def test_a_run_that_left_nothing_says_so(folder: Path) -> None:
    for name in ("final", "checkpoints"):
        shutil.rmtree(folder / name)
    with pytest.raises(UserError, match="has left no model"):
        of_run(load_run(folder))


def test_templates_outside_of_the_folder_are_not_guessed(folder: Path) -> None:
    settings(folder, templates="mine.yaml")
    with pytest.raises(UserError, match=r"prompts come from 'mine\.yaml', which is not in its folder"):
        of_run(load_run(folder))


def test_a_changed_checkpoint_is_refused(folder: Path) -> None:
    with (folder / "checkpoints" / "step-000002" / "teacher-copy.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="has changed since it was saved"):
        of_run(load_run(folder))


@pytest.mark.slow
def test_a_report_is_alive_and_at_most_eight_megabytes(chromium: str, folder: Path, tmp_path: Path) -> None:
    page_file = report(folder, tmp_path / "report.html")
    assert page_file.stat().st_size < 8_000_000
    with offline_page(chromium, page_file) as page:
        page.wait_for_function("/ ms\\./.test(document.querySelector('.vpd-lm-status')?.textContent)")
        page.wait_for_function("document.querySelectorAll('.vpd-plot .main-svg').length > 0")
        assert "teacher (ema): its own weights" in page.locator(".vpd-lm .vpd-head").inner_text()
