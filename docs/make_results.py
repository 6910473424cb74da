"""Generates the tables of docs/results.md about the world of words from the run folders of the study `words`.

python docs/make_results.py runs/study-words runs/study-reader2   # rewrite docs/results-words.json and the page
python docs/make_results.py                                       # rewrite the page from docs/results-words.json
python docs/make_results.py --check                               # exit status 1 if the page is out of date

The second folder holds the same study with another reader (`--model reader2`). A table stands between two comments,
`<!-- words: NAME -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vpdlab.compare import Cell, claims, state, studies
from vpdlab.compare.standings import finals, spread
from vpdlab.record import load_run

HERE = Path(__file__).parent
PAGE, NUMBERS = HERE / "results.md", HERE / "results-words.json"
READERS = ("bundled", "second")
TABLE = re.compile(r"(<!-- words: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
GRPO = "grpo:lr=3e-4"
WORLDS = {
    "true words": "tell the truth",
    "liar 30 %": "30 % lies",
    "liar 50 %": "half of the critiques by Bob, who always tells the same lie about a word",
    "liar 70 %": "70 % lies",
    "slang 70 %": "70 % slang that the reader was never taught",
    "two words": "two words, a guess is right once in 256 (6,400 rollouts)",
    "opposite": "say the opposite",
    "shuffled": "critiques of other problems",
    "groups of 4": "the truth, 32 groups of 4",
    "groups of 16": "the truth, 8 groups of 16",
}
"""Condition of the study -> its name in a table."""
FULL = 5  # seeds; a claim that was judged on fewer says so
HALFWAY = 60  # an evaluation while the words are still being learned

Numbers = dict[str, Any]


# -- from run folders --------------------------------------------------------------------------------------------------


def measured(out: Path) -> Numbers:
    """What the complete runs in a study's folder show: final accuracies, beliefs and the study's claims."""
    study = studies.read_study("words")
    model = load_run(next(out.glob("*/*/config.json")).parent).config["model"]
    cells = [c for c in study.cells(out, {"model": model}) if c.folder.is_dir() and state(c) == "done"]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.preset, cell.label), []).append(cell)
    runs = [{"condition": world, "method": label} | _run(group) for (world, label), group in groups.items()]
    return {"runs": runs, "claims": claims.verdicts(study.claims, cells)}


def _run(cells: list[Cell]) -> Numbers:
    records = [load_run(cell.folder) for cell in cells]
    end = spread("final", 100 * finals(cells))
    belief: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for row in record.eval_rows:
            for name, value in (row.get("probes") or {}).items():
                if name.startswith("belief/") and value is not None:
                    belief.setdefault(name.removeprefix("belief/"), {}).setdefault(str(row["step"]), []).append(value)
    return {
        "seeds": [cell.seed for cell in cells],
        "final": _rounded([end["final"], end["final_low"], end["final_high"]], 1),
        "each": _rounded(end["final_seeds"], 1),
        "belief": {
            voice: {step: _rounded(values, 3) for step, values in at.items()} for voice, at in sorted(belief.items())
        },
    }


def _rounded(values: list[float], digits: int) -> list[float]:
    return [round(float(value), digits) for value in values]


# -- tables ------------------------------------------------------------------------------------------------------------


def found(numbers: Numbers, reader: str, condition: str, method: str) -> Numbers | None:
    """One method under one condition; None where it was not run."""
    runs = (run for run in numbers[reader]["runs"] if (run["condition"], run["method"]) == (condition, method))
    return next(runs, None)


def in_words(values: list[float]) -> str:
    """A mean and its interval."""
    mean, low, high = values
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def main_table(numbers: Numbers) -> list[str]:
    """vpd, sdpo and grpo, with both readers."""
    lines = ["| reader | critics | `vpd` | `sdpo` | `grpo` (lr 3e-4) |", "|---|---|---|---|---|"]
    for reader in READERS:
        for world in ("true words", "liar 50 %", "opposite", "shuffled"):
            cells = []
            for method in ("vpd", "sdpo", GRPO):
                run = found(numbers, reader, world, method)
                cells.append(in_words(run["final"]) if run else "")
            cells[2] = cells[2] or "(hears nothing)"
            lines.append(f"| {reader} | {WORLDS[world]} | {' | '.join(cells)} |")
    return lines


def method_table(numbers: Numbers) -> list[str]:
    """Every method under every condition, the bundled reader first; the best of a condition comes first."""
    lines = ["| critics | method | mean [95 % interval] | each seed |", "|---|---|---|---|"]
    for reader in READERS:
        runs = numbers[reader]["runs"]
        for world, name in WORLDS.items():
            mine = sorted((run for run in runs if run["condition"] == world), key=lambda run: -run["final"][0])
            for place, run in enumerate(mine):
                critics = (name if reader == "bundled" else f"*second reader:* {name}") if place == 0 else ""
                each = ", ".join(f"{value:.1f}" for value in run["each"])
                lines.append(f"| {critics} | `{run['method']}` | {in_words(run['final'])} | {each} |")
    return lines


def belief_table(numbers: Numbers) -> list[str]:
    """The teacher's belief in the honest voice and in the liar, half of the critiques being lies."""
    lines = [
        "| belief of the teacher in | Ada | Bob | Ada of each seed | Bob of each seed |",
        "|---|---|---|---|---|",
    ]
    rows = [("vpd", "0"), ("vpd", str(HALFWAY)), ("vpd", "100"), ("sdpo", "100"), ("vpd:e_every=5", "100"),
            ("distil", "100"), ("joint", "100")]  # fmt: skip
    for reader in READERS:
        for method, step in rows:
            run = found(numbers, reader, "liar 50 %", method)
            if run is None:
                continue
            name = "at the start" if step == "0" else f"after {step} iterations of `{method}`"
            values = [run["belief"][voice][step] for voice in ("Ada", "Bob")]
            means = " | ".join(f"{sum(each) / len(each):.2f}" for each in values)
            each = " | ".join(", ".join(f"{value:.2f}" for value in seeds) for seeds in values)
            lines.append(f"| {'second reader: ' if reader == 'second' else ''}{name} | {means} | {each} |")
    return lines


def claim_table(numbers: Numbers) -> list[str]:
    """The study's claims, judged on each reader."""
    lines = ["| claim | here | points | second reader | points |", "|---|---|---|---|---|"]
    other = {row["claim"]: row for row in numbers["second"]["claims"]}
    for row in numbers["bundled"]["claims"]:
        cells = [row["claim"]]
        for one in (row, other.get(row["claim"])):
            cells += _judged(one) if one else ["not run", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _judged(claim: Numbers) -> list[str]:
    seeds = claim["seeds"]
    few = "" if seeds >= FULL else f" ({seeds} seed{'s' * (seeds > 1)})"
    return [claim["verdict"], in_words([claim["value"], claim["low"], claim["high"]]) + few]


TABLES: Mapping[str, Callable[[Numbers], list[str]]] = {
    "main": main_table, "methods": method_table, "belief": belief_table, "claims": claim_table,
}  # fmt: skip


def page(numbers: Numbers) -> str:
    """The page with its tables made again."""
    text = PAGE.read_text(encoding="utf-8")
    return TABLE.sub(lambda at: "\n".join([at[1].rstrip(), *TABLES[at[2]](numbers), at[3]]), text)


def main(arguments: list[str]) -> int:
    """Measure, write or check; returns the exit status."""
    if len(arguments) == 2:
        numbers = {name: measured(Path(folder)) for name, folder in zip(READERS, arguments, strict=True)}
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    numbers = json.loads(NUMBERS.read_text(encoding="utf-8"))
    if arguments == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != page(numbers))
    PAGE.write_text(page(numbers), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
