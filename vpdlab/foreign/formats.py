"""What other trainers leave behind, as rows that `rows.read_row` takes; and what they do not record.

TRL 1.16 (`log_completions`): OUTPUT/completions/completions_00010.parquet with step, prompt, completion (text or
messages), a column for each reward function, columns of `log_extra`, and advantage (`GRPOTrainer.log`).
verl (`trainer.rollout_data_dir`, `trainer.validation_data_dir`): DIR/10.jsonl with input, output, gts, score, step, and
what the reward function returned beside its score (`RayPPOTrainer._dump_generations`, as of 2026). `input` is the
rendered prompt, decoded without special tokens.
prime-rl: OUTPUT/rollouts/step_10/train_rollouts.jsonl; a line is the `RolloutOutput` of verifiers (prompt, completion,
reward, example_id, is_truncated), or in newer versions its trace: `nodes`, each with parent, sampled and message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError, shown
from vpdlab.foreign.reading import read_rows
from vpdlab.foreign.rows import LARGEST, Row
from vpdlab.paths import user_path

MOST_FILES = 10_000  # that are read, those of the first steps
PLAIN = "plain"  # the layout of one's own files
Fields = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """A layout.

    Attributes:
        name, summary: for people.
        marks: names of columns that tell the layout; one set of them is enough.
        files: where its files lie below a folder, as a pattern for `Path.glob`; the number in a path is the step.
        step: finds that number.
        convert: from a row's fields to those of `rows.FIELDS`.
    """

    name: str
    summary: str
    marks: tuple[frozenset[str], ...]
    files: tuple[str, ...]
    step: re.Pattern[str]
    convert: Callable[[Fields], Fields]


@dataclass(frozen=True)
class Sources:
    """The files to read.

    Attributes:
        format: their layout.
        files: (step, path): the step that the path names, or None; in order.
        left_out: number of further files, of later steps, that are not read.
    """

    format: Format
    files: tuple[tuple[int | None, Path], ...]
    left_out: int = 0

    def rows(self, also: str = "") -> Iterable[tuple[str, Fields | UserError]]:
        """(place, fields as `rows.FIELDS` names them) of each row, or why it cannot be read.

        Args:
            also: a column of the file to keep, whatever the layout makes of it.
        """
        for step, path in self.files:
            for where, row in read_rows(path):
                yield where, row if isinstance(row, UserError) else self._converted(row, step, where, also)

    def _converted(self, row: Fields, step: int | None, where: str, also: str) -> Fields | UserError:
        try:
            fields = ({also: row[also]} if also in row else {}) | self.format.convert(row)
        except UserError as error:
            return UserError(f"{where}: {error}")
        return fields if fields.get("step") is not None or step is None else fields | {"step": step}


def find_sources(place: Path, name: str = "") -> Sources:
    """The files at a path, and their layout.

    Args:
        place: a file, or a folder that a trainer wrote.
        name: of the layout; "" finds it out.

    Raises:
        UserError: there is nothing to read, or no layout fits.
    """
    if name and name not in FORMATS:
        raise UserError(f"from is {name!r}: choose one of {', '.join(FORMATS)}")
    place = user_path("the file", place)
    if place.is_file():
        kind = FORMATS[name] if name else _detected(place)
        match = kind.step.search(place.absolute().as_posix())
        return Sources(kind, ((int(match[1]) if match else None, place),))
    if not place.is_dir():
        raise UserError(f"there is no file or folder {place}")
    for kind in [FORMATS[name]] if name else FORMATS.values():
        if found := _below(place, kind):
            if not name and kind is not (sure := _detected(found[0][1])):
                kind = sure
            return Sources(kind, tuple(found[:MOST_FILES]), max(0, len(found) - MOST_FILES))
    looked = "; ".join(f"{kind.name}: {' or '.join(kind.files)}" for kind in FORMATS.values() if kind.files)
    raise UserError(f"{place} holds no rollouts of {name or 'a layout that is known'} ({looked})")


def _below(place: Path, kind: Format) -> list[tuple[int, Path]]:
    """The files of a layout in a folder, by step. Raises UserError where two are of one step."""
    found: dict[Path, int] = {}
    for pattern in kind.files:
        for path in place.glob(pattern):
            match = kind.step.search(path.absolute().as_posix())
            if match and path.is_file():
                found[path] = int(match[1])
    ordered = sorted((step, path) for path, step in found.items())
    for (step, path), (after, other) in pairwise(ordered):
        if step == after:
            raise UserError(f"{path} and {other} are both of step {step}: keep one of them, or read one file at a time")
    return ordered


def _detected(path: Path) -> Format:
    """The layout of a file by the columns of its first row that can be read."""
    wrong = None
    for _, row in read_rows(path):
        if isinstance(row, UserError):
            wrong = wrong or row
            continue
        for kind in reversed(FORMATS.values()):
            if any(marks <= row.keys() for marks in kind.marks):
                return kind
        columns = ", ".join(map(str, row))[:200]
        raise UserError(f"{path} has the columns {columns}: name its layout with --from {'|'.join(FORMATS)}")
    raise wrong or UserError(f"{path} holds no rows")


def missing(rows: Sequence[Row], tokens: bool) -> list[str]:
    """What the rows do not say, in lines.

    Args:
        tokens: whether a model has scored them since.
    """
    lacks = []
    if not any(row.critique or row.demonstration for row in rows):
        lacks.append("feedback: without it there is no teacher to compare with (--feedback names a column)")
    elif count := sum(not (row.critique or row.demonstration) for row in rows):
        lacks.append(f"feedback of {count} of {len(rows)} rollouts")
    if not tokens:
        lacks.append("tokens and log-probabilities: vpdlab score computes them with a model")
    if count := sum(row.reward is None for row in rows):
        lacks.append("rewards" if count == len(rows) else f"the reward of {count} of {len(rows)} rollouts")
    if not any(row.problem.answer for row in rows):
        lacks.append("reference answers")
    if all(row.finished is None for row in rows):
        lacks.append("whether a response was cut off")
    return lacks


# -- the layouts ---------------------------------------------------------------------------------------------------


def _plain(row: Fields) -> Fields:
    return row


def _trl(row: Fields) -> Fields:
    """Numbers between completion and advantage are rewards; TRL's weights for them are not recorded."""
    between = list(row)[list(row).index("completion") + 1 :] if "completion" in row else []
    names = [name for name in between if name != "advantage" and _is_number(row[name])]
    return {
        "prompt": row.get("prompt"),
        "response": row.get("completion"),
        "step": row.get("step"),
        "reward": _total({name: row[name] for name in names}),
        **_texts(row, ("feedback", "critique", "answer")),
    }


def _verl(row: Fields) -> Fields:
    right = row.get("acc")
    return {
        "prompt": row.get("input"),
        "response": row.get("output"),
        "reward": row.get("score"),
        "answer": _as_text(row.get("gts")),
        "parsed": _as_text(row.get("pred")),
        "success": right >= 1 if isinstance(right, int | float) else None,
        "step": row.get("step"),
        **_texts(row, ("feedback", "critique")),
    }


def _prime_rl(row: Fields) -> Fields:
    if "nodes" in row:
        return _trace(row)
    return {
        "prompt": row.get("prompt"),
        "response": row.get("completion"),
        "reward": row.get("reward"),
        "answer": _as_text(row.get("answer")),
        "group": row.get("example_id"),
        "finished": not row["is_truncated"] if isinstance(row.get("is_truncated"), bool) else None,
        "environment": _as_text(row.get("error")),
        **_texts(row, ("feedback", "critique")),
    }


def _trace(row: Fields) -> Fields:
    """The last conversation of a trace: from its last sampled message back to the root."""
    nodes = row["nodes"]
    whole = isinstance(nodes, list) and all(isinstance(node, Mapping) for node in nodes)
    sampled = [place for place, node in enumerate(nodes) if node.get("sampled") is True] if whole else []
    if not sampled:
        raise UserError(f"field 'nodes' is {shown(nodes)}, but must be messages of which one was sampled")
    path: list[int] = []
    place: Any = sampled[-1]
    while place is not None:
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(nodes) or place in path:
            raise UserError(f"field 'nodes' has the parent {shown(place)}, which is no earlier message")
        path.append(place)
        place = nodes[place].get("parent")
    path.reverse()
    first = next(at for at, place in enumerate(path) if nodes[place].get("sampled") is True)
    messages = [nodes[place].get("message") for place in path]
    rewards = row.get("rewards")
    known = (
        {name: value for name, value in rewards.items() if _is_number(value)} if isinstance(rewards, Mapping) else {}
    )
    return {
        "prompt": messages[:first],
        "response": messages[first:],
        "reward": row["reward"] if _is_number(row.get("reward")) else _total(known),
        "environment": _as_text(row.get("errors")),
    }


def _texts(row: Fields, names: Sequence[str]) -> Fields:
    """Columns that some reward functions and `log_extra` add."""
    found = {"feedback" if name == "critique" else name: row[name] for name in names if isinstance(row.get(name), str)}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _total(rewards: Mapping[str, Any]) -> float | None:
    """The sum of several rewards; None without any."""
    for name, value in rewards.items():
        if not abs(value) <= LARGEST:
            raise UserError(f"field {name!r} is {shown(value)}, but must be a number of at most {LARGEST:g}")
    return sum(rewards.values()) if rewards else None


def _as_text(value: Any) -> str | None:
    if value is None or value == [] or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False, default=str)


FORMATS: dict[str, Format] = {
    PLAIN: Format(
        PLAIN, "prompt, response, feedback",
        (frozenset({"prompt", "response"}), frozenset({"prompt", "completion"})), (), re.compile(r"(?!)"), _plain,
    ),
    "trl": Format(
        "trl", "completions of TRL", (frozenset({"prompt", "completion", "step", "advantage"}),),
        ("completions_*.parquet", "completions/completions_*.parquet"), re.compile(r"completions_(\d{1,9})\.parquet$"),
        _trl,
    ),
    "verl": Format(
        "verl", "generations of verl", (frozenset({"input", "output", "score"}),), ("[0-9]*.jsonl",),
        re.compile(r"/(\d{1,9})\.jsonl$"), _verl,
    ),
    "prime-rl": Format(
        "prime-rl", "rollouts of prime-rl",
        (frozenset({"nodes"}), frozenset({"prompt", "completion", "reward", "example_id"})),
        ("step_*/train_rollouts.jsonl", "rollouts/step_*/train_rollouts.jsonl"),
        re.compile(r"step_(\d{1,9})/train_rollouts\.jsonl$"), _prime_rl,
    ),
}  # fmt: skip
"""By name. Of several whose marks a file has, the last is its layout: a trainer's columns say more than plain ones."""
