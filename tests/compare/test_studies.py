"""Study files: what they say, what is wrong with them, and what their runs say of the claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from vpdlab import cli, compare
from vpdlab.compare import claims, studies
from vpdlab.compare.studies import Claim
from vpdlab.errors import UserError
from vpdlab.record import METRICS, Recorder

FILE = """
title: A study
seeds: [3, 4]
methods: [vpd, "sdpo:lr=1e-3"]
conditions:
  plain: {preset: tour-common, task_args: ["seed={seed}", "digits=3"]}
  noisy: {preset: tour-common, settings: {noise_shuffle: 0.5, steps: 2}, methods: [grpo]}
claims:
  - {claim: better, better: [plain, vpd], worse: [plain, "sdpo:lr=1e-3"], by: 20}
  - {claim: low, run: [noisy, grpo], below: 15}
  - {claim: trust, run: [plain, vpd], trusts: [Ada, Bob], by: 30}
"""


def written(tmp_path: Path, text: str = FILE) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def leave(cell: compare.Cell, final: list[float], probes: dict[str, float] | None = None) -> None:
    """A run folder as the cell's run would leave it, with these accuracies and beliefs at the end."""
    recorder = Recorder(cell.folder, cell.config.to_dict(), {})
    for step in (0, 1):
        shown = {"by_problem": final, "probes": probes or {}}
        recorder.evaluation({"step": step, "accuracy": sum(final) / len(final)} | shown)
    row = dict.fromkeys(METRICS) | {"step": 1, "length": 4.0}
    recorder.metrics(row | {f"seconds_{p}": 1.0 for p in ("rollout", "feedback", "e", "m")})
    recorder.close("complete")


def test_conditions_build_on_presets_and_the_seed_reaches_the_task(tmp_path) -> None:
    study = studies.read_study(written(tmp_path))
    cells = study.cells(tmp_path / "out", {"steps": 7})
    assert [(c.preset, c.label, c.seed) for c in cells] == [
        ("plain", "vpd", 3), ("plain", "sdpo:lr=1e-3", 3), ("noisy", "grpo", 3),
        ("plain", "vpd", 4), ("plain", "sdpo:lr=1e-3", 4), ("noisy", "grpo", 4),
    ]  # fmt: skip
    assert cells[0].config.task_args == ("digits=3", "seed=3")  # the preset says digits=2
    assert cells[3].config.task_args == ("digits=3", "seed=4")
    assert cells[2].config.noise_shuffle == 0.5
    assert {c.config.steps for c in cells} == {7}
    assert len({c.folder for c in cells}) == 6


def test_a_part_of_a_study(tmp_path) -> None:
    study = studies.read_study(written(tmp_path))
    part = study.chosen(["plain"], ["vpd"], [9])
    assert [(c.preset, c.label, c.seed) for c in part.cells(tmp_path)] == [("plain", "vpd", 9)]
    with pytest.raises(UserError, match="no condition 'loud': choose from plain, noisy"):
        study.chosen(["loud"], [], [])
    with pytest.raises(UserError, match="seeds is 5 5"):
        study.chosen([], [], [5, 5])
    with pytest.raises(UserError, match="no condition runs 'rft'"):
        study.chosen([], ["rft"], [])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: A study\n", "", "has no 'title'"),
        ("seeds: [3, 4]", "seeds: 3", "seeds is 3, but must be a list of whole numbers"),
        ("seeds: [3, 4]", "seeds: []", "seeds is empty: name one or more"),
        ("seeds: [3, 4]", "seeds: [3, 3]", "seeds is 3 3: name one or more, each once"),
        ('methods: [vpd, "sdpo:lr=1e-3"]', "methods: [vpd, vpd]", "methods is vpd vpd: name one or more, each once"),
        ("seeds: [3, 4]", "seeds: [true]", "must be a list of whole numbers"),
        ("methods: [vpd", "method: [vpd", "has 'method', but may have title, seeds"),
        ("preset: tour-common, task_args", "presets: x, task_args", "conditions: plain has 'presets'"),
        ("digits=3", "digits", "task_args: 'digits' is no NAME=VALUE"),
        ("settings: {noise_shuffle: 0.5, steps: 2}", "settings: {noise_shufle: 1}", "noise_shufle"),
        ("[plain, vpd], worse", "[plain, rft], worse", "claim 1: better is .*no such condition and method"),
        ("below: 15", "below: low", "claim 2: below is 'low', but must be a number"),
        ("below: 15", "below: .nan", "claim 2: below is nan, but must be a number of points"),
        ("by: 20", "by: 200", "claim 1: by is 200, but must be a number of points"),
        ("[Ada, Bob]", "[Ada, Ada]", "claim 3 compares 'Ada' with itself"),
        ("noise_shuffle: 0.5, steps: 2", "method: vpd", "conditions: noisy sets method, which is set for each run"),
        ("noise_shuffle: 0.5, steps: 2", "seed: 1", "conditions: noisy sets seed"),
        ("noise_shuffle: 0.5, steps: 2", "noise_shuffle: x", "condition noisy: noise_shuffle is 'x'"),
        (
            "  noisy:",
            "  plain!: {preset: tour-common, methods: [grpo]}\n  plain?: {preset: tour-common, methods: [grpo]}"
            "\n  noisy:",
            "'plain! grpo seed 3' and 'plain. grpo seed 3' would have the same folder",
        ),
        (", by: 20}", ", below: 3}", "name better and worse, or run and below"),
        ("[Ada, Bob]", "[Ada]", "claim 3: trusts is .*, but must be a list of two voices"),
        ("conditions:\n", "conditions: 3\nx:\n", "has 'x'|expected lines"),
    ],
)
def test_each_fault_of_a_file_is_one_line_that_names_it(tmp_path, old: str, new: str, words: str) -> None:
    assert old in FILE
    with pytest.raises(UserError, match=words) as raised:
        studies.read_study(written(tmp_path, FILE.replace(old, new))).cells(tmp_path)
    assert "\n" not in str(raised.value)


def test_bundled_studies_can_be_planned(tmp_path) -> None:
    for name in studies.names():
        study = studies.read_study(name)
        cells = study.cells(tmp_path)
        assert len({cell.folder for cell in cells}) == len(cells) > 0
        assert {cell.seed for cell in cells} == set(study.seeds)
    with pytest.raises(UserError, match="unknown study 'nothing': choose one of"):
        studies.read_study("nothing")


def test_claims_by_hand(tmp_path) -> None:
    cells = studies.read_study(written(tmp_path)).cells(tmp_path / "out")
    finals = {"vpd": [0.9, 0.9], "sdpo:lr=1e-3": [0.4, 0.4], "grpo": [0.1, 0.1]}
    for cell in cells:
        leave(cell, finals[cell.label])
    vpd, sdpo, grpo = ("plain", "vpd"), ("plain", "sdpo:lr=1e-3"), ("noisy", "grpo")
    found = claims.verdicts(
        [
            Claim("wide", better=vpd, worse=sdpo, by=20),
            Claim("wider than it is", better=vpd, worse=sdpo, by=60),
            Claim("the other way", better=grpo, worse=vpd),
            Claim("under", run=grpo, below=15),
            Claim("not under", run=sdpo, below=15),
            Claim("of a run that is not here", run=("plain", "rft"), below=15),
        ],
        cells,
    )
    assert [row["verdict"] for row in found] == ["confirmed", "refuted", "refuted", "confirmed", "refuted"]
    assert found[0] == {
        "claim": "wide", "verdict": "confirmed", "value": pytest.approx(50), "low": pytest.approx(50),
        "high": pytest.approx(50), "seeds": 2,
    }  # fmt: skip
    assert "| wide | confirmed | 50.0 [50.0, 50.0] | 2 |" in claims.markdown(found)


def test_whom_a_teacher_trusts_by_hand(tmp_path) -> None:
    cells = studies.read_study(written(tmp_path)).cells(tmp_path / "out")
    for cell in cells:
        leave(cell, [0.5, 0.5], {"belief/Ada": 0.9, "belief/Bob": 0.5 + 0.2 * (cell.seed - 3)})
    run = ("plain", "vpd")
    found = claims.verdicts(
        [
            Claim("she more than he", run=run, trusts=("Ada", "Bob"), by=30),
            Claim("by a mile", run=run, trusts=("Ada", "Bob"), by=60),
            Claim("he more than she", run=run, trusts=("Bob", "Ada")),
        ],
        cells,
    )
    assert [row["verdict"] for row in found] == ["confirmed", "refuted", "refuted"]
    assert (found[0]["value"], found[0]["low"], found[0]["high"]) == pytest.approx((30, 20, 40))
    with pytest.raises(UserError, match="has no probe belief/Cleo"):
        claims.verdicts([Claim("?", run=run, trusts=("Ada", "Cleo"))], cells)


def test_a_difference_that_may_be_none_is_open(tmp_path) -> None:
    cells = studies.read_study(written(tmp_path)).cells(tmp_path / "out")
    for cell in cells:
        leave(cell, [0.5 + 0.3 * (cell.seed - 3.5), 0.4] if cell.label == "vpd" else [0.45, 0.4])
    (row,) = claims.verdicts([Claim("?", better=("plain", "vpd"), worse=("plain", "sdpo:lr=1e-3"))], cells)
    assert row["verdict"] == "open"
    assert row["low"] < 0 < row["high"]


def test_the_command_runs_what_is_missing_and_judges(tmp_path, monkeypatch, capsys) -> None:
    def fake(cell: compare.Cell, worker: object) -> int:
        leave(cell, [0.9, 0.8] if cell.label == "vpd" else [0.1, 0.0], {"belief/Ada": 0.9, "belief/Bob": 0.2})
        return 0

    monkeypatch.setattr(compare.runs, "_run", fake)
    out, file = str(tmp_path / "out"), written(tmp_path)
    assert cli.main(["study", file, "--out", out, "--dry-run"]) == 0
    assert "noisy grpo seed 4: open" in capsys.readouterr().out
    assert cli.main(["study", file, "--out", out, "--jobs", "1", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "| better | confirmed | 80.0" in said
    assert "### plain" in said
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "A study" in page and "confirmed" in page
    assert cli.main(["study", file, "--out", out, "--steps", "1"]) == 0
    assert "6 of 6 runs are already done" in capsys.readouterr().out
    assert cli.main(["study", file, "--conditions", "loud"]) == 2
