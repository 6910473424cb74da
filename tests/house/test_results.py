"""Numbers that texts quote from the study `words` are those of docs/results-words.json, which its runs made."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from vpdlab.compare import studies

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
assert SPEC is not None and SPEC.loader is not None
make_results = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_results)
NUMBERS: dict[str, Any] = json.loads(make_results.NUMBERS.read_text(encoding="utf-8"))
GRPO = "grpo:lr=3e-4"
FEWER = {
    ("groups of 4", GRPO): 3,
    ("groups of 16", GRPO): 3,
    ("true words", "pi-distill:beta=0.1,lr=3e-4"): 0,
}
"""Runs of the study that the page shows over fewer seeds."""


def final(condition: str, method: str, reader: str = "bundled") -> list[float]:
    return make_results.found(NUMBERS, reader, condition, method)["final"]


def whole(values: list[float]) -> str:
    """As a notebook writes it: 81 % [75, 87]."""
    mean, low, high = (round(value) for value in values)
    return f"{mean} % [{low}, {high}]"


def prose(name: str) -> str:
    """The text of a notebook, its lines joined."""
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    texts = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return " ".join(" ".join(texts).split())


def test_the_tables_of_the_page_are_those_of_the_runs() -> None:
    assert make_results.main(["--check"]) == 0, "run: python docs/make_results.py"
    other = copy.deepcopy(NUMBERS)
    other["bundled"]["runs"][0]["final"][0] += 1
    assert make_results.page(other) != make_results.page(NUMBERS)
    names = set(re.findall(r"<!-- words: (\w+) -->", make_results.PAGE.read_text(encoding="utf-8")))
    assert names == set(make_results.TABLES)


def test_every_run_of_the_study_is_in_it_over_its_seeds() -> None:
    study = studies.read_study("words")
    for condition in study.conditions:
        assert condition.name in make_results.WORLDS
        for method in condition.methods:
            run = make_results.found(NUMBERS, "bundled", condition.name, method)
            count = FEWER.get((condition.name, method), len(study.seeds))
            assert (run is None) == (count == 0), (condition.name, method)
            if run is None:
                continue
            assert tuple(run["seeds"]) == study.seeds[:count] and len(run["each"]) == count, (condition.name, method)
            assert sum(run["each"]) / len(run["each"]) == pytest.approx(run["final"][0], abs=0.11)
    assert {row["claim"] for row in NUMBERS["bundled"]["claims"]} == {claim.claim for claim in study.claims}


def test_the_readme_quotes_them() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].split(":")[0].strip(): row for row in text.splitlines() if row.startswith("| ")}
    told = {
        "VPD": [final("true words", "vpd"), final("liar 50 %", "vpd")],
        "SDPO": [final("true words", "sdpo"), final("liar 50 %", "sdpo"), final("opposite", "sdpo")],
        "GRPO": [final("true words", GRPO)],
    }
    for name, values in told.items():
        assert re.findall(r"([\d.]+) %", rows[name]) == [f"{value[0]:.1f}" for value in values]
    belief = make_results.found(NUMBERS, "bundled", "liar 50 %", "vpd")["belief"]
    ends = {voice: f"{sum(at['100']) / len(at['100']):.2f}" for voice, at in belief.items()}
    assert f"in the honest voice ends at {ends['Ada']} and in the liar at {ends['Bob']}" in " ".join(text.split())
    second = [f"{final(world, m, 'second')[0]:.0f}" for world in ("liar 50 %", "true words") for m in ("vpd", "sdpo")]
    assert "VPD and SDPO end at {} and {} % under the liar and at {} and {} %".format(*second) in " ".join(text.split())


def test_the_notebooks_quote_them() -> None:
    words = [whole(final("true words", method)) for method in (GRPO, "vpd", "sdpo")]
    fails = prose("70_where_it_fails")
    assert "at {}, {} and {} (".format(*words) in fails
    liars = [whole(final(f"liar {share} %", method)) for share in (50, 70) for method in ("vpd", "sdpo")]
    assert f"GRPO ends at {words[0]} whatever the critics say" in fails
    assert "at 50 % lies VPD ends at {} and SDPO at {}, at 70 % at {} and {} (".format(*liars) in fails
    every, fifth = (whole(final("liar 50 %", method)) for method in ("vpd", "vpd:e_every=5"))
    assert f"in every iteration ends at {every}, in every fifth at {fifth} (" in prose("40_co_evolution")


def test_the_sums_that_a_notebook_quotes_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(vpd|sdpo|grpo)` \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \| \d+ \|", page, re.MULTILINE)
    found = {name: whole([float(value) for value in values]) for name, *values in rows}
    sums = "GRPO ends at {grpo} on these sums, VPD at {vpd} and SDPO at {sdpo}".format(**found)
    assert sums in prose("70_where_it_fails")
