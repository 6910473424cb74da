"""Mathematics with a boxed answer, compared by math-verify: rows in the style of GSM8K, MATH and DAPO.

* GSM8K (arXiv 2110.14168): ``question``, ``answer`` whose last line is ``#### 72``;
* MATH (arXiv 2103.03874): ``problem``, ``solution`` with a ``\\boxed{}``, optionally ``answer``;
* DAPO (arXiv 2503.14476): ``prompt`` (text, or a list of chat messages), ``reward_model.ground_truth`` or ``answer``.

math-verify compares mathematics, in a separate process (`math_worker`). What it would misread (times, dates, units,
lists, words) is compared by the rules of `math_forms`. An expected answer that is a list means all of its items.
"""

from __future__ import annotations

import contextlib
import json
import numbers
import re
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vpdlab.errors import RunFailed, UserError
from vpdlab.tasks.common.math_forms import same
from vpdlab.tasks.common.math_notation import numbers_in_latex, tidy, unreadable, words_of
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.reading import read_splits, shown
from vpdlab.tasks.common.splits import drop_duplicates, hold_out, split_of
from vpdlab.types import Outcome, Problem, Rollout

SYSTEM = "Think step by step, then put only the final answer into \\boxed{}."
FIELDS = (
    "question",
    "problem",
    "prompt",
    "answer",
    "solution",
    "reward_model",
    "level",
    "subject",
    "type",
    "unique_id",
)
LONGEST = 500  # characters of a final answer
STARTUP, PATIENCE = 60.0, 5.0  # seconds for the start of the worker process, and for one comparison
# DAPO's own instruction asks for a line "Answer: ..."; it is removed, since ours asks for a box.
DAPO = re.compile(
    r"\ASolve the following math problem step by step\..*?\n\n|\n+Remember to put your answer on its own line.*\Z", re.S
)


class Math:
    """Problems with one final answer.

    Args:
        data: a file or folder of rows, or a name for `datasets.load_dataset`.
        heldout: share of the items to hold out if the data has only one split, in (0, 1).
        split_seed: random seed of the held-out items.

    Raises:
        UserError: for unreadable data; the message names file, line and field of an invalid item.
    """

    name = "math"

    @typed_options
    def __init__(self, data: str = "", heldout: float = 0.1, split_seed: int = 0) -> None:
        if not data:
            raise UserError("task math needs data: a file, a folder with train and test files, or a hub name")
        if not 0 < heldout < 1:
            raise UserError(f"task math: heldout is {heldout!r}, but must lie between 0 and 1")
        pieces = {
            split: _problems(split, origin, rows)
            for split, (origin, rows) in read_splits("task math", data, FIELDS).items()
        }
        train, test, dropped = drop_duplicates(pieces.get("train", []), pieces.get("test", []))
        if "train" not in pieces or "test" not in pieces:  # one split, whatever its name
            train, test = hold_out("math", train or test, heldout, split_seed)
        self._problems = {"train": train, "test": test}
        self._judge = Judge()
        self.summary: str = f"math: {len(train)} train, {len(test)} test problems from {data}" + (
            f"; {dropped}" if dropped else ""
        )

    def load(self, split: str) -> Sequence[Problem]:
        """The problems of ``"train"`` or ``"test"``. Raises UserError for another name or an empty split."""
        return split_of("math", self._problems, split, self.summary)

    def verify(self, rollout: Rollout) -> Outcome:
        """Reward 1 for an equal answer, else 0; the notes never give the right one.

        Raises:
            RunFailed: if the worker process cannot be started.
        """
        answer, why_none = read_boxed(rollout)
        answer = answer.rstrip(". ")  # a full stop belongs to the sentence
        if not answer:
            return Outcome(0.0, why_none)
        if len(answer) > LONGEST:
            return Outcome(0.0, "The box holds more than a final answer.")
        quoted = " ".join(answer.split())[:80]
        try:
            right, read = self._compared(rollout.problem.answer, answer)
        except TimeoutError:
            return Outcome(
                0.0, f'The answer "{quoted}" could not be worked out in time: it is not in its simplest form.'
            )
        if read is None:
            return Outcome(0.0, f'The answer "{quoted}" cannot be read as mathematics.')
        if right:
            return Outcome(1.0, "The answer is right.", read)
        return Outcome(0.0, f'The answer "{quoted}" is not right.', read)

    def _compared(self, gold: str, answer: str) -> tuple[bool, str | None]:
        """(whether they are equal, the answer in a normal form or None). Raises TimeoutError."""

        @cache
        def compare(one: str, two: str) -> dict[str, Any]:
            result = self._judge.compare(one, two)
            if result is None:
                raise TimeoutError
            return result

        right = same(gold, answer, lambda one, two: compare(one, two)["right"])
        plain = numbers_in_latex(tidy(answer))
        read = compare(numbers_in_latex(tidy(gold)), plain)["read"]
        return right, read or (words_of(plain) if right else None)


class Judge:
    """The worker process for comparisons: started on first use, and restarted after a comparison that timed out."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def compare(self, gold: str, answer: str) -> dict[str, Any] | None:
        """The result of `math_worker.compare`; None if it exceeded its time or memory.

        Raises:
            RunFailed: if the process cannot be started.
        """
        with self._lock:
            process = self._process or self._start()
            return self._ask(process, gold, answer, self.patience)

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: without the script's folder on sys.path, its modules cannot shadow installed ones.
        words = [sys.executable, "-P", str(Path(__file__).parent / "common" / "math_worker.py")]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._process = process
        weakref.finalize(self, _end, process)
        if self._ask(process, "\\frac{1}{2}", "0.5", STARTUP) != {"right": True, "read": "1/2", "gold": True}:
            raise RunFailed(
                "math-verify does not answer: try `python -m vpdlab.tasks.common.math_worker`, or install it again"
            )
        return process

    def _ask(self, process: subprocess.Popen[bytes], gold: str, answer: str, patience: float) -> dict[str, Any] | None:
        assert process.stdin is not None and process.stdout is not None
        line, end = b"", time.monotonic() + patience
        try:
            process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
            with selectors.DefaultSelector() as ready:
                ready.register(process.stdout, selectors.EVENT_READ)
                while not line.endswith(b"\n") and ready.select(max(0.0, end - time.monotonic())):
                    piece = process.stdout.read(65536)
                    if not piece:
                        break
                    line += piece
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return json.loads(line)
        self._process = None
        _end(process)
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def read_boxed(rollout: Rollout) -> tuple[str, str]:
    """The content of the last ``\\boxed{}``, and the reason why there is none; one of the two is empty."""
    content = boxed(rollout.text)
    if content and content.strip(". "):
        return content, ""
    if content is not None:
        return "", "The box \\boxed{} is empty."
    if not rollout.finished:
        return "", "The response was cut at the length limit before an answer was given."
    if "\\boxed" in rollout.text:
        return "", "A box was opened with \\boxed{ but never closed, so no answer was read."
    return "", "The response ended without an answer: there is no \\boxed{}."


def boxed(text: str) -> str | None:
    """The content of the last closed ``\\boxed{...}``, with balanced braces; None if there is none."""
    starts = {match.end() for match in re.finditer(r"\\f?boxed\s{0,9}\{", text)}
    opened: list[int] = []  # positions after the braces that are still open
    last: tuple[int, int] | None = None
    for brace in re.finditer(r"(?<!\\)(?:\\\\)*([{}])", text):
        end = brace.end()
        if brace[1] == "{":
            opened.append(end)
        elif opened and (start := opened.pop()) in starts and (last is None or start > last[0]):
            last = start, end - 1
    return text[last[0] : last[1]].strip() if last else None


def _problems(split: str, origin: str, rows: Iterable[tuple[str, Any]]) -> list[Problem]:
    problems = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{origin} {where}: expected an object with a problem and its answer, found {shown(row)}")
        prompt = next((row[name] for name in ("question", "problem", "prompt") if row.get(name)), None)
        if isinstance(prompt, list):  # chat messages: use the last user turn
            turns = [turn.get("content") for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user"]
            prompt = turns[-1] if turns else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(
                f"{origin} {where}: no problem: expected text in question, problem or prompt, found {shown(row)}"
            )
        gold = _gold(row, f"{origin} {where}")
        if not gold:
            raise UserError(
                f"{origin} {where}: no final answer (#### 72, \\boxed{{}}, answer or reward_model.ground_truth)"
            )
        about = {name: row[name] for name in ("level", "subject", "type") if isinstance(row.get(name), str | int)}
        name = row.get("unique_id")
        problem_id = name if isinstance(name, str) and name else f"{split}-{where.replace(' ', '')}"
        problems.append(Problem(problem_id, DAPO.sub("", prompt).strip(), gold, SYSTEM, about))
    return problems


def _gold(row: Mapping[str, Any], where: str) -> str:
    """The final answer of a row, without derivation, box and thousands separators; "" if there is none."""
    model, solution = row.get("reward_model"), row.get("solution")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    bare = solution if isinstance(solution, str) and len(solution) <= 100 and "\n" not in solution else None
    derived = boxed(solution) if isinstance(solution, str) else None
    for name, value in (
        ("reward_model.ground_truth", truth), ("answer", row.get("answer")), ("solution", derived), ("solution", bare)
    ):  # fmt: skip
        text = _final(value, f"{where}: field {name!r}")
        if text and (why := unreadable(text)):
            raise UserError(f"{where}: field {name!r} is {shown(value)}, which {why}")
        if text:
            return text
    return ""


def _final(value: Any, what: str) -> str:
    if isinstance(value, str) and value.lstrip().startswith('["'):  # some data sets store a list as text
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, list):
        items = [_final(one, what) for one in value]
        if not all(items):
            raise UserError(f"{what} is {shown(value)}, but each item must be text or a number")
        return ", ".join(items)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | numbers.Real)):
        raise UserError(f"{what} is {shown(value)}, but must be text, a number, or a list of these")
    text = "" if value is None else str(value)
    text = text.rpartition("####")[2] if "####" in text else (boxed(text) or text)
    text = text.strip().strip("$").strip()
    return text.replace(",", "") if re.fullmatch(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?", text) else text
