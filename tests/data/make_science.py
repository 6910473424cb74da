"""Makes tests/data/science: a small set of multiple-choice questions of our own in the schema of the SciKnowEval files.

    python tests/data/make_science.py

What the real files have of odd things is here, too: two choices, formulas and molecules that look like choices, choices
of several lines, a long protein, one text under two letters, and a held-out question that also stands among the others.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

PLACE = Path(__file__).parent / "science"
ASK = "\nPlease reason step by step."
SYSTEM = """
You get a question and some options; choose the right one. Write it in this form:
<reasoning>
...
</reasoning>
<answer>
...
</answer>

Between the answer tags stands the letter of the option and nothing else.
"""
PARTS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}
MOLECULES = {
    "CCO": "C2H6O", "CC(=O)O": "C2H4O2", "NCC(=O)O": "C2H5NO2", "CC": "C2H6", "C1CC1": "C3H6", "OCCO": "C2H6O2",
    "c1ccccc1": "C6H6", "C1CCCCC1": "C6H12",
}  # fmt: skip


def row(number: int, question: str, choices: list[str], right: int) -> dict[str, object]:
    letters = "ABCD"[: len(choices)]
    listed = "\n".join(f"{letter}: {text}" for letter, text in zip(letters, choices, strict=True))
    return {
        "idx": number, "kind": "mcq", "dataset": "made-for-tests", "answer": letters[right], "elo": 1500,
        "prompt": f"{question}\n\n{listed}{ASK}", "description": f"{question} It is judged by its letter.",
        "tests": "-", "embedding": [], "system": SYSTEM,
    }  # fmt: skip


def weight(formula: str) -> float:
    """The molar mass of a formula such as C2H6O."""
    total, place = 0.0, 0
    while place < len(formula):
        end = place + 1
        while end < len(formula) and formula[end].isdigit():
            end += 1
        total += PARTS[formula[place]] * int(formula[place + 1 : end] or 1)
        place = end
    return total


def physics(rng: random.Random) -> list[dict[str, object]]:
    rows = []
    for number in range(10):
        mass, speed = rng.randint(2, 9), rng.randint(3, 9)  # slower, and two of the choices were equal
        energy = mass * speed**2 / 2
        values = [energy, energy * 2, mass * speed, energy + 1.5]
        order = rng.sample(range(4), 4)
        texts = [rf"$ {values[n]:g} \mathrm{{~kg}} \cdot \mathrm{{m}}^2 / \mathrm{{s}}^2 $" for n in order]
        ask = rf"Question {number}: a body of ${mass} \mathrm{{~kg}}$ moves at ${speed} \mathrm{{~m/s}}$. Its energy?"
        rows.append(row(number + 40, ask, texts, order.index(0)))
    rows.append(
        row(7, "Which holds for light in a vacuum: A. it waits, or B. it moves at $c$?", ["A. waits", "B. moves"], 1)
    )
    rows.append(
        row(
            8,
            "How long is the way\nA: from here\nB: to there\nif the ways of A and B add up?",
            ["2 m", "2 m", "3 m"],
            2,
        )
    )
    return rows


def chemistry(rng: random.Random) -> list[dict[str, object]]:
    rows = []
    masses = {smiles: f"{weight(formula):.3f}" for smiles, formula in MOLECULES.items()}
    for number, (smiles, mass) in enumerate(masses.items()):
        texts = [mass, *rng.sample([other for other in masses.values() if other != mass], 3)]
        order = rng.sample(range(4), 4)
        ask = f"What is the molar weight (g/mol) of the molecule with the SMILES '{smiles}'?"
        rows.append(row(number, ask, [texts[n] for n in order], order.index(0)))
    ask = "Reactants:\nA.CCO\nB.[Pd]\nC.CCO.Cl\nWhich of these is a mixture of two molecules?"
    rows.append(row(90, ask, ["CCO", "C=O", "N.O", "O"], 2))
    rows.append(row(91, "Which molecule is aromatic?", ["C1CCCCC1", "c1ccccc1", "CC(C)C", "C1CC1"], 1))
    return rows


def biology(rng: random.Random) -> list[dict[str, object]]:
    rows = []
    for number in range(8):
        protein = "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=120))
        place = rng.randrange(2, 118)
        mutants = [protein[:place] + letter + protein[place + 1 :] for letter in rng.sample("ACDEFGHIKLMNPQRSTVWY", 4)]
        right = rng.randrange(4)
        mutants[right] = protein
        rows.append(row(number + 1, f"Question {number}: which sequence is '{protein}'?", mutants, right))
    rows.append(row(60, "Does a virus have ribosomes of its own?", ["Yes", "No"], 1))
    rows.append(row(61, "Which is a base of DNA?", ["adenine\n(written A)", "uracil\n(written U)"], 0))
    return rows


def material(rng: random.Random) -> list[dict[str, object]]:
    rows = []
    for number in range(10):
        hardness = rng.sample(range(10, 99), 4)
        names = [f"Alloy {number}{letter}" for letter in "wxyz"]
        given = "\n".join(
            f"Composition {n + 1}: {name}, hardness: {h / 10}"
            for n, (name, h) in enumerate(zip(names, hardness, strict=True))
        )
        ask = f"Choose the hardest material from the data.\n\nGiven data:\n\n{given}"
        rows.append(row(number + 200, ask, names, hardness.index(max(hardness))))
    return rows


def main() -> None:
    """Write both files of each subject."""
    for make in (physics, chemistry, biology, material):
        rows = make(random.Random(make.__name__))
        test = rows[:3]
        train = rows[3:] + ([{**test[0], "idx": 999}] if make is material else [])
        for split, part in (("train", train), ("test", test)):
            file = PLACE / make.__name__ / f"{split}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(one) + "\n" for one in part), encoding="utf-8")


if __name__ == "__main__":
    main()
