"""Science: reading items and answers, errors that name the line, the real files if available."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import DATA

from vpdlab.errors import UserError
from vpdlab.tasks.science import SYSTEM, Science, read_choices, read_letter
from vpdlab.types import Problem, Rollout

CHOICES = {"A": "0.8", "B": "1.4", "C": "1.72", "D": "-0.16"}
LISTED, HELD = "the choices A, B, C, D.", "holds something else."
PROMPT = "Which score?\n\nA: 0.8\nB: 1.4\nC: 1.72\nD: -0.16\nPlease reason step by step."
# domain: rows in the files (train, test), overlapping problems
OURS = {"biology": (7, 3, 0), "chemistry": (7, 3, 0), "material": (8, 3, 1), "physics": (9, 3, 0)}
COUNTS = {"biology": (450, 50, 0), "chemistry": (1890, 210, 0), "material": (841, 94, 1), "physics": (720, 80, 0)}


def item(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"idx": number, "prompt": f"Item {number}. {PROMPT}", "answer": "B", **fields}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rollout(problem: Problem, text: str, finished: bool = True) -> Rollout:
    return Rollout(problem, 0, 0, (), (), (), text, finished)


@pytest.fixture
def task(tmp_path: Path) -> Science:
    write(tmp_path / "train.json", [item(1), item(2)])
    write(tmp_path / "test.json", [item(3)])
    return Science(str(tmp_path))


@pytest.mark.parametrize("style", ["{}: {}", "{}. {}", "{}) {}", "({}) {}", "  {}: {}"])
def test_choices_are_read_in_every_style(style: str) -> None:
    prompt = "Which?\n" + "\n".join(style.format(*choice) for choice in CHOICES.items()) + "\n\nThink first."
    assert read_choices(prompt) == CHOICES


def test_two_choices_and_texts_of_several_lines() -> None:
    assert read_choices("Which?\nA: one\n  and more\nB: two\nPlease reason.") == {"A": "one\n  and more", "B": "two"}


def test_molecules_before_and_among_the_choices_are_not_choices() -> None:
    prompt = "Reactants:\nA.CCO\nB.[Pd]\nC.CCO.Cl\nWhich product?\n\nA: CCO\nB: C=O\nC: N.O\nD: O\nPlease reason."
    assert read_choices(prompt) == {"A": "CCO", "B": "C=O", "C": "N.O", "D": "O"}


def test_a_list_in_the_question_or_a_lone_label_does_not_count() -> None:
    assert read_choices("A: only one") == {}
    prompt = "Given\nA: iron\nB: zinc\nC: lead\nwhich is heavier?\nA: the first\nB: the last"
    assert read_choices(prompt) == {"A": "the first", "B": "the last"}


@pytest.mark.parametrize(
    "block",
    ["B", " b\n", "(B)", "(b)", "B.", "B)", "B:", "B: 1.4", "(B) 1.4", "B. 1.4.", "B:\n1.4", "B: 1.4 kcal per mol"],
)
def test_a_letter_is_read_with_its_usual_ornaments(block: str) -> None:
    assert read_letter(block, CHOICES) == "B"


def test_a_long_block_is_read_in_no_time() -> None:
    for block in ("A. x" + " " * 100_000 + "y", " " * 100_000, "A" + " " * 100_000 + "B", "A: x\n" * 20_000):
        assert read_letter(block, CHOICES) is None


@pytest.mark.parametrize(
    "block", ["", "BC", "A, B", "A or B", "A. or B", "B: 0.8", "A: 0.8\nB: 1.4", "1.4", "option B"]
)
def test_no_letter_is_read_where_none_or_two_are_given(block: str) -> None:
    assert read_letter(block, CHOICES) is None


@pytest.mark.parametrize(
    ("text", "finished", "reward", "notes", "answer"),
    [
        ("<reasoning>.</reasoning><answer>\nB\n</answer>", True, 1.0, "The answer is right.", "B"),
        ("<answer>B</answer>", False, 1.0, "The answer is right.", "B"),
        ("<answer>c</answer>", True, 0.0, 'The answer chose option C, "1.72", which is not right.', "C"),
        ("<answer>E</answer>", True, 0.0, "The answer gives the letter E, which is not among " + LISTED, "E"),
        ("B", True, 0.0, "The response ended without an answer: there is no <answer>...</answer> block.", None),
        ("B, since", False, 0.0, "The response was cut at the length limit before an answer was given.", None),
        (
            "<answer>both</answer>",
            True,
            0.0,
            "The answer block must hold one letter and nothing else, but " + HELD,
            None,
        ),
    ],
)
def test_verdicts(task: Science, text: str, finished: bool, reward: float, notes: str, answer: str | None) -> None:
    outcome = task.verify(rollout(task.load("train")[0], text, finished))
    assert (outcome.reward, outcome.notes, outcome.answer) == (reward, notes, answer)


def test_some_options_are_quoted_in_part_or_not_at_all() -> None:
    problem = Problem("p", "x", "A", data={"choices": {"A": "short", "B": "M" * 500}})
    outcome = Science.verify(Science.__new__(Science), rollout(problem, "<answer>B</answer>"))
    assert len(str(outcome.notes)) < 250
    # text that is also that of the right choice is not called wrong
    problem = Problem("p", "x", "A", data={"choices": {"A": "2 m", "B": "2 m", "C": "3 m"}})
    outcome = Science.verify(Science.__new__(Science), rollout(problem, "<answer>B</answer>"))
    assert outcome.notes == "The answer chose option B, which is not right."


@given(st.text(alphabet="ABCDEabcd()<>answer/.: \n14", max_size=40), st.sampled_from("ABCD"), st.booleans())
@settings(max_examples=200, deadline=None)
def test_notes_never_tell_the_right_letter(text: str, right: str, finished: bool) -> None:
    problem = Problem("p", PROMPT, right, data={"choices": CHOICES})
    outcome = Science.verify(Science.__new__(Science), rollout(problem, f"<answer>{text}</answer>", finished))
    assert outcome.reward in (0.0, 1.0)
    assert outcome.notes
    told = str(outcome.notes).replace("the choices A, B, C, D", "").removeprefix("The answer")
    if not outcome.success:
        assert not re.search(rf"\b{right}\b", told)
        assert CHOICES[right] not in told


def test_ids_are_stable_and_unique(tmp_path: Path) -> None:
    rows = [item(5), item(5, prompt="Second. " + PROMPT), item(1, idx="x7")]
    rows += [{"prompt": "Third. " + PROMPT, "answer": "A"}]
    write(tmp_path / "train.json", rows)
    write(tmp_path / "test.json", [item(9)])
    ids = [p.id for p in Science(str(tmp_path)).load("train")]
    assert [re.sub("-[0-9a-f]{12}$", "+", one) for one in ids] == ["train-5+", "train-5+", "train-x7", "train-line4"]
    assert len(set(ids)) == 4
    assert [p.id for p in Science(str(tmp_path)).load("train")] == ids


def test_the_system_turn_is_the_files_or_ours(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item(1, system="\nOnly a letter.\n"), item(2)])
    write(tmp_path / "test.json", [item(3)])
    problems = Science(str(tmp_path)).load("train")
    assert [p.system for p in problems] == ["Only a letter.", SYSTEM]
    assert "<answer>" in SYSTEM


def test_options_are_written_under_a_prompt_that_lacks_them(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item(1, prompt="Which metal?", options=["iron", "gold"])])
    write(tmp_path / "test.json", [item(3)])
    problem = Science(str(tmp_path)).load("train")[0]
    assert problem.prompt == "Which metal?\n\nA: iron\nB: gold"
    assert problem.data["choices"] == {"A": "iron", "B": "gold"}


def test_a_prompt_without_readable_choices_takes_any_letter_and_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item(1, prompt="Look at the picture.", answer="F")])
    write(tmp_path / "test.json", [item(3)])
    task = Science(str(tmp_path))
    assert "1 without choices in the prompt" in task.summary
    problem = task.load("train")[0]
    assert task.verify(rollout(problem, "<answer>F</answer>")).success
    assert task.verify(rollout(problem, "<answer>G</answer>")).notes == "The answer chose option G, which is not right."


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(item(answer="E")), "field 'answer' is 'E', but the choices are A, B, C, D"),
        (json.dumps(item(answer=None)), "field 'answer' is missing, but the choices are A, B, C, D"),
        (json.dumps(item(answer=2)), "field 'answer' is 2, but the choices are A, B, C, D"),
        (json.dumps(item(prompt="  ")), "field 'prompt' is '  ', but it must be the question's text"),
        (json.dumps({"answer": "A"}), "field 'prompt' is missing, but it must be the question's text"),
        (json.dumps(item(kind="code")), "field 'kind' is 'code', but only 'mcq' is known"),
        (json.dumps(item(system=3)), "field 'system' is 3, but it must be text"),
        (json.dumps(item(idx=[1])), r"field 'idx' is \[1\], but it must be a whole number or a name"),
        (json.dumps(item(options=["one"])), r"field 'options' is \['one'\], but it must be a list of 4 texts"),
        ("{'prompt': 1}", "not one JSON object .* at column 2"),
        ("[1, 2]", "expected an object with prompt and answer, found"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    good = json.dumps(item(1))
    (tmp_path / "train.json").write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.json line 3: " + said) as caught:
        Science(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match=r"train\.json line 1: not UTF-8"):
        Science(str(tmp_path))


def test_one_file_is_split_by_words_whatever_its_order(tmp_path: Path) -> None:
    rows = [item(n) for n in range(40)]
    one = Science(str(write(tmp_path / "one.jsonl", rows)), heldout=0.25)
    other = Science(str(write(tmp_path / "other.jsonl", rows[::-1])), heldout=0.25)
    reseeded = Science(str(tmp_path / "one.jsonl"), heldout=0.25, split_seed=1)
    held = [{p.id for p in task.load("test")} for task in (one, other, reseeded)]
    assert len(held[0]) == 10
    assert held[0] == held[1] != held[2]
    assert not held[0] & {p.id for p in one.load("train")}
    assert "held out by text, seed 0" in one.summary


def test_a_training_file_alone_is_split_and_a_test_file_alone_is_only_tested(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [item(n) for n in range(10)])
    assert len(Science(str(tmp_path)).load("test")) == 1
    (tmp_path / "train.json").rename(tmp_path / "test.json")
    task = Science(str(tmp_path))
    assert len(task.load("test")) == 10
    with pytest.raises(UserError, match="no train problems"):
        task.load("train")


def test_parquet_rows_are_read_and_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(pa.Table.from_pylist([item(1), item(2)]), tmp_path / "train.parquet")
    parquet.write_table(pa.Table.from_pylist([item(3), item(4, answer="Z")]), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet row 2: field 'answer' is 'Z'"):
        Science(str(tmp_path))
    parquet.write_table(pa.Table.from_pylist([item(3)]), tmp_path / "test.parquet")
    assert [p.id for p in Science(str(tmp_path)).load("train")] == ["train-1", "train-2"]
    (tmp_path / "test.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot read"):
        Science(str(tmp_path))


def test_a_saved_dataset_and_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    made = datasets.DatasetDict({"train": datasets.Dataset.from_list([item(1), item(2)])})
    made.save_to_disk(str(tmp_path / "whole"))
    assert "1 train, 1 test" in Science(str(tmp_path / "whole")).summary
    made["validation"] = datasets.Dataset.from_list([item(3)])
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    task = Science("someone/questions")
    assert [p.id for p in task.load("test")] == ["test-3"]


def test_a_hub_name_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(name: str) -> None:
        raise ConnectionError(f"Couldn't reach {name}\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match="cannot load data set 'someone/nothing': Couldn't reach") as caught:
        Science("someone/nothing")
    assert "\n" not in str(caught.value)


def test_splits_and_paths_that_lead_nowhere(task: Science, tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="no split 'dev': choose train or test"):
        task.load("dev")
    with pytest.raises(UserError, match="needs data"):
        Science()
    with pytest.raises(UserError, match="no file or folder"):
        Science(str(tmp_path / "missing"))
    with pytest.raises(UserError, match="cannot read .*notes.txt"):
        Science(str(write(tmp_path / "notes.txt", [])))
    (tmp_path / "chemistry").mkdir()
    write(tmp_path / "chemistry" / "train.json", [item(1)])
    with pytest.raises(UserError, match="in the folders chemistry"):
        Science(str(tmp_path))
    write(tmp_path / "train.json", [item(1)])
    write(tmp_path / "train.jsonl", [item(1)])
    with pytest.raises(UserError, match="more than one train file"):
        Science(str(tmp_path))
    with pytest.raises(UserError, match="1 problem"):
        Science(str(tmp_path / "train.json"))
    with pytest.raises(UserError, match="heldout"):
        Science(str(tmp_path / "train.json"), heldout=1.0)


def check_items(folder: Path, counts: tuple[int, int, int]) -> None:
    """Every item of files in SciKnowEval's schema is read correctly."""
    train, test, overlap = counts
    task = Science(str(folder))
    assert len(task.load("train")) == train - overlap
    assert len(task.load("test")) == test
    assert ("dropped 1 from train that are also in test" in task.summary) == bool(overlap)
    assert "does not list" not in task.summary
    problems = [*task.load("train"), *task.load("test")]
    assert len({p.id for p in problems}) == len(problems)
    for problem in problems:
        choices = problem.data["choices"]
        assert "".join(choices) in ("AB", "ABC", "ABCD")
        assert all(choices.values())
        assert problem.prompt.removesuffix("Please reason step by step.").rstrip().endswith(choices[max(choices)])
        assert task.verify(rollout(problem, f"<answer>\n{problem.answer}\n</answer>")).reward == 1
        wrong = next(letter for letter in choices if letter != problem.answer)
        assert task.verify(rollout(problem, f"<answer>({wrong}) {choices[wrong]}</answer>")).answer == wrong


@pytest.mark.parametrize("domain", sorted(OURS))
def test_items_of_our_own_are_all_read_right(domain: str) -> None:
    check_items(DATA / "science" / domain, OURS[domain])


@pytest.mark.parametrize("domain", sorted(COUNTS))
def test_real_items_are_all_read_right(domain: str) -> None:
    root = os.environ.get("VPDLAB_SCIKNOWEVAL")
    if not root:  # optional: the tests include items of the same schema
        pytest.skip("extra: set VPDLAB_SCIKNOWEVAL to a folder with the SciKnowEval files")
    check_items(Path(root) / domain, COUNTS[domain])


def test_our_items_have_the_odd_things_of_the_real_ones() -> None:
    rows = [json.loads(line) for file in DATA.glob("science/*/*.json") for line in file.read_text().splitlines()]
    assert all(
        list(row)
        == ["idx", "kind", "dataset", "answer", "elo", "prompt", "description", "tests", "embedding", "system"]
        for row in rows
    )
    prompts = [row["prompt"] for row in rows]
    assert len(set(prompts)) == len(prompts) - 1  # one is in both splits
    assert {len(read_choices(prompt)) for prompt in prompts} == {2, 3, 4}
    assert any("A.CCO\nB.[Pd]" in prompt for prompt in prompts)
    assert any("\nA: from here\nB: to there\n" in prompt for prompt in prompts)
    assert any("\n" in text for prompt in prompts for text in read_choices(prompt).values())
    assert any(len(set(found := list(read_choices(prompt).values()))) < len(found) for prompt in prompts)


def test_our_items_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("make_science", DATA / "make_science.py")
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    monkeypatch.setattr(maker, "PLACE", tmp_path)
    maker.main()
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.glob("*/*.json"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / file).read_text() == (DATA / "science" / file).read_text()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b.", "B"), ("(B) 2", "B"), ("B: 2\nbecause", "B"), ("The answer is B.", "B"),
        ("Correct answer: b", "B"), ("option (A)", "A"), ("B\n", "B"), ("A charge moves", None), ("Both", None),
        ("I think B", None), ("", None), ("<answer>B</answer>", None),
    ],
)  # fmt: skip
def test_the_letter_form_reads_the_letter_at_the_start(tmp_path, text, letter):
    row = {"prompt": "Which?\n\nA: 1\nB: 2\nPlease reason step by step.", "answer": "B", "system": "Use tags."}
    (tmp_path / "train.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"prompt": "What?\nA: 1\nB: 2"}) + "\n"
    )
    task = Science(data=str(tmp_path), form="letter")
    (problem,) = [p for p in [*task.load("train"), *task.load("test")] if p.prompt.startswith("Which")]
    assert problem.prompt == "Which?\n\nA: 1\nB: 2"
    assert "letter" in problem.system
    outcome = task.verify(Rollout(problem, 0, 0, (1,), (2,), (0.0,), text, True))
    assert outcome.answer == letter
    assert outcome.success == (letter == "B")
    if letter is None:
        assert outcome.notes == "The response does not begin with the letter of an option."
    with pytest.raises(UserError, match="form is 'word'"):
        Science(data=str(tmp_path), form="word")
