"""Multiple-choice science questions: SciKnowEval files, or any data set with the same fields.

One item is one object (a line of JSON, a row of parquet, a row of a `datasets` data set):

* required: ``prompt`` (the question with its choices, one a line), ``answer`` (the letter of the right choice);
* optional: ``system`` (the required form of the answer), ``idx`` (id of the item in its split), ``options``
  (the texts of the choices; appended to the prompt if it does not list them), ``kind`` (only ``"mcq"``),
  ``dataset`` and ``description`` (kept or ignored, never shown to the student).

Source of the format: the SciKnowEval files in the release of SDPO (arXiv 2601.20802).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks import read_answer
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.reading import read_splits, shown
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, split_of
from vpdlab.types import Outcome, Problem, Rollout

SYSTEM = """Given a question and its options, select the right one. Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>

In the answer give only the letter of the right option, and nothing else."""
LETTER_FIRST = "Answer with the letter of the right option, then stop."
FIELDS = ("prompt", "answer", "idx", "system", "kind", "dataset", "options")
QUOTED = 160  # characters of an option that feedback quotes: some options are whole protein sequences

# A choice starts a line: "A: text", "A. text", "A) text", "(A) text". A dot needs white space after it, because
# chemistry writes "C.CCO" for two molecules.
LABEL = re.compile(r"^[ \t]*(?:(\()([A-Z])\)|([A-Z])([:)]|\.(?=\s|$)))[ \t]*", re.MULTILINE)
# Prompts may end with an instruction that is not part of the last choice's text.
AFTER_CHOICES = re.compile(r"\n\s*(?:\n|(?:please|answer|think|let's|reason)\b)", re.IGNORECASE)
LETTER = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])(?:[.:)]|$))(.*)", re.DOTALL)

# A response that starts with its letter: "B", "B: 56 pC", "The answer is (B)."; not an article ("A charge ...").
OPENING = re.compile(
    r"\s*(?:the )?(?:right |correct )?(?:(?:answer|option)(?: is)?:?\s*)?\(?([A-Z])\)?(?=[.:,)]|\s*(?:\n|$))",
    re.IGNORECASE,
)


def read_choices(prompt: str) -> dict[str, str]:
    """Letter → text of the choices that `prompt` lists at its end; empty if it lists none.

    Choices have consecutive letters from A, all in the same style. The last list of this form counts, so that lines of
    the question that only look like choices are ignored.
    """
    labels = [(m[2] or m[3], m[1] or m[4], m) for m in LABEL.finditer(prompt)]
    for start in reversed([i for i, (letter, _, _) in enumerate(labels) if letter == "A"]):
        style, matches = labels[start][1], []
        for letter, mark, match in labels[start:]:
            if mark == style and letter == ascii_uppercase[len(matches) % 26]:
                matches.append(match)
        if len(matches) > 1:
            ends = [match.start() for match in matches[1:]] + [len(prompt)]
            texts = [prompt[match.end() : end] for match, end in zip(matches, ends, strict=True)]
            texts[-1] = AFTER_CHOICES.split(texts[-1], maxsplit=1)[0]
            return {letter: text.strip() for letter, text in zip(ascii_uppercase, texts, strict=False)}
    return {}


def read_letter(block: str, choices: Mapping[str, str]) -> str | None:
    """The letter in an answer block ("b", "(B)", "B.", "B: its text"), or None.

    Text after the letter must be that of its choice; a block that names two choices is ambiguous and gives None.
    """
    match = LETTER.fullmatch(block.strip())
    if match is None:
        return None
    letter, words = (match[1] or match[2]).upper(), _folded(match[3])
    text = _folded(choices.get(letter, words))
    same = f"{words} ".startswith(f"{text} ") or f"{text} ".startswith(f"{words} ")
    return letter if not words or (same and len(read_choices(block)) < 2) else None


class Science:
    """Multiple-choice questions, judged by the letter in the last `<answer>` block.

    Args:
        data: a folder with train and test files (.json or .jsonl lines, .parquet), a single file, a folder that
            `datasets` wrote, or, if the path does not exist, a name for `datasets.load_dataset`.
        split_seed: random seed of the held-out items if the data has no test split.
        heldout: share of items to hold out in that case, in (0, 1).
        form: "tags" reads the last `<answer>` block, as the data's own system turn requests; "letter" requests and
            reads the letter at the start of the response, for small models that cannot produce tags reliably.

    Raises:
        UserError: for missing or unreadable data; the message names file, line, field and value of an invalid item.
    """

    name = "science"
    form = "tags"

    @typed_options
    def __init__(self, data: str = "", split_seed: int = 0, heldout: float = 0.1, form: str = "tags") -> None:
        if not data:
            raise UserError("task science needs data: a folder with train.json and test.json, a file, or a hub name")
        if not 0 < heldout < 1:
            raise UserError(f"task science: heldout is {heldout!r}, but must lie between 0 and 1")
        if form not in ("tags", "letter"):
            raise UserError(f"task science: form is {form!r}, but must be tags or letter")
        self.form = form
        splits = read_splits(f"task {self.name}", data, FIELDS)
        pieces = {
            split: _problems(split if "test" in splits else "item", origin, rows)
            for split, (origin, rows) in splits.items()
        }
        if form == "letter":
            pieces = {split: [_letter_first(problem) for problem in problems] for split, problems in pieces.items()}
        train, test, dropped = drop_duplicates(pieces.get("train", []), pieces.get("test", []))
        if "test" not in pieces:
            train, test = hold_out(self.name, train, heldout, split_seed)
        self._problems: dict[str, list[Problem]] = {"train": train, "test": test}
        unread = sum(not problem.data["choices"] for problem in train + test)
        parts = [f"science: {len(train)} train, {len(test)} test problems from {data}"]
        parts += [f"held out by text, seed {split_seed}"] if "test" not in pieces else []
        parts += [dropped] if dropped else []
        parts += [f"{unread} without choices in the prompt"] if unread else []
        self.summary: str = "; ".join(parts)

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
        return split_of(self.name, self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """Reward 1 for the right letter, else 0; the notes never name the right letter."""
        choices: Mapping[str, str] = rollout.problem.data.get("choices", {})
        letter, why_none = _opening_letter(rollout) if self.form == "letter" else _block_letter(rollout, choices)
        if letter is None:
            return Outcome(0.0, why_none)
        if choices and letter not in choices:
            note = f"The answer gives the letter {letter}, which is not among the choices {', '.join(choices)}."
            return Outcome(0.0, note, letter)
        if letter == rollout.problem.answer:
            return Outcome(1.0, "The answer is right.", letter)
        text = choices.get(letter, "")
        # Some data sets list the same text under two letters; calling the right text wrong would be false feedback.
        quote = f' "{_shortened(text)}",' if text and text != choices.get(rollout.problem.answer) else ""
        return Outcome(0.0, f"The answer chose option {letter},{quote} which is not right.", letter)


def _block_letter(rollout: Rollout, choices: Mapping[str, str]) -> tuple[str | None, str]:
    """The letter in the answer block, or None and the reason."""
    block, why_none = read_answer(rollout)
    if not block:
        return None, why_none
    letter = read_letter(block, choices)
    why = "" if letter else "The answer block must hold one letter and nothing else, but holds something else."
    return letter, why


def _opening_letter(rollout: Rollout) -> tuple[str | None, str]:
    """The letter at the start of the response, or None and the reason."""
    match = OPENING.match(rollout.text)
    return (match[1].upper(), "") if match else (None, "The response does not begin with the letter of an option.")


def _letter_first(problem: Problem) -> Problem:
    """The problem with a request for the letter alone; an instruction after the choices ("reason step by step") is
    removed."""
    last = list(problem.data["choices"].values())[-1:]
    end = problem.prompt.rfind(last[0]) + len(last[0]) if last else len(problem.prompt)
    return replace(problem, prompt=problem.prompt[:end], system=LETTER_FIRST)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"


def _problems(split: str, origin: str, rows: Iterable[tuple[str, Any]]) -> list[Problem]:
    """Rows as (where, fields) → problems."""
    problems = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{origin} {where}: expected an object with prompt and answer, found {shown(row)}")
        problem = _problem(row, f"{origin} {where}")
        idx = row.get("idx")
        name = f"{split}-{where.replace(' ', '')}" if idx is None else f"{split}-{idx}"
        problems.append(Problem(name, problem.prompt, problem.answer, problem.system, problem.data))
    return problems


def _problem(row: dict[str, Any], where: str) -> Problem:
    def bad(field: str, why: str) -> UserError:
        value = f"is {shown(row[field])}" if row.get(field) is not None else "is missing"
        return UserError(f"{where}: field {field!r} {value}, but {why}")

    prompt, answer, system = row.get("prompt"), row.get("answer"), row.get("system")
    if not isinstance(prompt, str) or not prompt.strip():
        raise bad("prompt", "it must be the question's text")
    if row.get("kind") not in (None, "mcq"):
        raise bad("kind", "only 'mcq' is known")
    if system is not None and not isinstance(system, str):
        raise bad("system", "it must be text")
    idx = row.get("idx")
    if idx is not None and (isinstance(idx, bool) or not isinstance(idx, int | str) or not str(idx).strip()):
        raise bad("idx", "it must be a whole number or a name")
    choices, options = read_choices(prompt), row.get("options")
    if options is not None:
        texts = [str(text).strip() for text in options] if isinstance(options, list) else []
        if not 2 <= len(texts) <= 26 or (choices and len(texts) != len(choices)):
            raise bad("options", f"it must be a list of {len(choices) or '2 to 26'} texts")
        if not choices:
            choices = dict(zip(ascii_uppercase, texts, strict=False))
            prompt = prompt.rstrip() + "\n\n" + "\n".join(f"{letter}: {text}" for letter, text in choices.items())
    if not isinstance(answer, str) or answer.strip() not in (choices or tuple(ascii_uppercase)):
        raise bad("answer", f"the choices are {', '.join(choices)}" if choices else "it must be a letter from A to Z")
    data = {"choices": choices, "dataset": row.get("dataset")}
    return Problem("", prompt, answer.strip(), SYSTEM if not system else system.strip(), data)
