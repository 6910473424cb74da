"""The commands for rollouts from elsewhere: score, import."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vpdlab.cli.options import as_options, note_unread, of_groups, parse_preset, parsed, parser, path, without_trust
from vpdlab.config import HINTS, RunConfig
from vpdlab.errors import UserError, notice
from vpdlab.foreign import FORMATS, Row, Sources, find_sources, missing
from vpdlab.foreign.rows import FIELDS
from vpdlab.net import printable
from vpdlab.run.trust import TRUST, given, refuse_unasked

if TYPE_CHECKING:
    from vpdlab.run.export import Student

MOST_SHOWN = 5  # rows of a kind that are named


def _options(name: str, text: str) -> argparse.ArgumentParser:
    found = parser(name, text)
    found.add_argument("file", type=path, metavar="FILE", help=".jsonl, .json or .parquet, or a trainer's folder")
    reading_options(found)
    found.add_argument("--out", type=path, help="the run folder to write")
    return found


def reading_options(found: argparse.ArgumentParser) -> None:
    """The options that say how a file of rollouts is read (`read_file`)."""
    found.add_argument("--from", dest="layout", default="", metavar="LAYOUT",
                       help=f"{', '.join(FORMATS)}; default: found out by the columns")  # fmt: skip
    found.add_argument("--feedback", default="", metavar="COLUMN", help="the column that holds the feedback")
    found.add_argument("--skip-bad", action="store_true",
                       help="leave out rows that cannot be read, or are too long, instead of stopping")  # fmt: skip


def _scoring_options() -> argparse.ArgumentParser:
    columns = "; ".join(f"{name}: {text}" for name, text in FIELDS.items())
    own = _options(
        "score",
        "Leaves a run folder of one step that every widget opens: both distributions per token, KL, top lists, the"
        f" influence of each sentence. Nothing is trained. Columns: {columns}. Other options: those of `vpdlab train`"
        " that have a meaning here (--device, --temperature, --record-top, ...; others are named and have no effect);"
        f" {TRUST} obeys the settings of a run that M names.",
    )
    own.add_argument(
        "--model", required=True, help="a run's folder, its final/, RUN@STEP for a checkpoint, or any model"
    )
    own.add_argument("--teacher", default="", help="another model that reads the feedback; default: the same one")
    own.add_argument("--influence", type=int, default=8, metavar="N",
                     help="rollouts whose critique is analysed sentence by sentence; default: 8")  # fmt: skip
    return own


def score(args: Sequence[str]) -> int:
    """student and teacher on rollouts of your own, token by token: vpdlab score FILE --model M [--teacher M2]"""
    own = _scoring_options()
    chosen, rest = parsed(own, args)
    if chosen.influence < 0:
        raise UserError(f"--influence is {chosen.influence}, but must be 0 or more")
    rows = read_file(chosen)

    from vpdlab.run.scored import score as scored
    from vpdlab.show.summary import scored_lines

    student, teacher = _student(chosen.model), _student(chosen.teacher) if chosen.teacher else None
    config = _scoring_config(chosen, rest, student, teacher)
    found = scored(rows, student, config, str(chosen.file), teacher, chosen.influence, chosen.skip_bad)
    _note_some([f"left out: {line}" for line in found.left_out], "left out: {} more rows that the model cannot read")
    _note_some(found.cut, "{} more rows whose feedback was cut")
    print("\n".join(scored_lines(found.records)))
    _say_missing(missing(found.rows, tokens=True))
    print(f"the run folder: {config.folder}")
    return 0


def _scoring_config(
    chosen: argparse.Namespace, rest: Sequence[str], student: Student, teacher: Student | None
) -> RunConfig:
    """The settings to score with. Raises UserError for those that do not fit, or that a named run asks for unasked."""
    from vpdlab.run.export import alone

    words, trusted = without_trust(as_options(rest))
    config, preset = parse_preset("vpdlab score", words, base=student.config)
    if preset and student.config is not None:
        raise UserError("a run has its own settings: leave --preset out")
    note_unread("score", words, _read_by_scoring())
    for one in (student, teacher) if not trusted else ():
        if one is not None and one.config is not None:
            refuse_unasked(alone(one, one.config), one.place, given(words, HINTS))
    out = chosen.out or Path("runs") / f"scored-{_plain(chosen.file.stem)}"
    return config.but(out=str(out), **({} if student.config else {"model": chosen.model}))


def take_in(args: Sequence[str]) -> int:
    """what TRL, verl or prime-rl left behind as a run folder: vpdlab import FILE|DIR [--from trl|verl|prime-rl]"""
    own = _options(
        "import",
        "Rollouts, rewards and feedback as far as they were recorded, and what is missing. Needs no model; `vpdlab"
        " score` adds what a model says of each token.",
    )
    chosen, rest = parsed(own, args)
    if rest:
        raise UserError(f"unknown option {rest[0]!r}; see vpdlab import --help")
    sources = find_sources(chosen.file, chosen.layout)
    rows = _rows(sources, chosen)

    from vpdlab.run.imported import record_rows
    from vpdlab.show.summary import span

    out = chosen.out or Path("runs") / f"{sources.format.name}-{_plain(chosen.file.resolve().stem)}"
    record_rows(rows, out, sources.format.name, str(chosen.file))
    steps = sorted({row.step for row in rows if row.step is not None})
    where = f" of {span(steps)}" if steps else ""
    print(f"{len(rows)} rollouts{where}, {sources.format.summary}, from {len(sources.files)} file(s)")
    _say_missing(missing(rows, tokens=False))
    print(f"the run folder: {out}")
    return 0


def read_file(chosen: argparse.Namespace) -> list[Row]:
    """The rows of `chosen.file`, one file, read as the options say, with a note of what was left out of them."""
    sources = find_sources(chosen.file, chosen.layout)
    if len(sources.files) > 1:
        names = f"{sources.files[0][1].name} to {sources.files[-1][1].name}"
        raise UserError(f"{chosen.file} holds {len(sources.files)} steps ({names}): score one of the files")
    return _rows(sources, chosen)


def _rows(sources: Sources, chosen: argparse.Namespace) -> list[Row]:
    """The rows, with a note of what was left out of them."""
    from vpdlab.run.imported import take

    if sources.left_out:
        read = len(sources.files)
        whole = read + sources.left_out
        notice(f"left out: {sources.left_out} of {whole} files, those of the last steps: at most {read} are read")
    rows, bad = take(sources.rows(chosen.feedback), chosen.feedback, chosen.skip_bad)
    _note_some([f"left out: {line}" for line in bad], "left out: {} more rows that cannot be read")
    if unknown := list(dict.fromkeys(name for row in rows for name in row.unknown)):
        notice(printable(f"not kept: {', '.join(unknown)[:300]}"))
    return rows


def _note_some(lines: Sequence[str], more: str) -> None:
    """Notes of the first rows that something is said of; `more` counts the others."""
    for line in lines[:MOST_SHOWN]:
        notice(printable(line))
    if len(lines) > MOST_SHOWN:
        notice(more.format(len(lines) - MOST_SHOWN))


def _read_by_scoring() -> set[str]:
    """Settings that scoring reads, those that the record's formulas are filled in with among them."""
    from vpdlab.show.widget_data import LOSS_SETTINGS

    prompts = {"preset", "model", "templates", "chat_args", "max_context", "max_new_tokens", "temperature", "beta"}
    measured = (set(LOSS_SETTINGS) | {"record_top", "record_telemetry"}) - {"method", "steps"}
    return prompts | measured | (of_groups("engine") - {"checkpointing", "shard"})


def _say_missing(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"missing: {line}")


def _student(place: str) -> Student:
    from vpdlab.run.export import find_student

    name, at, step = place.rpartition("@")
    return find_student(name, int(step)) if at and re.fullmatch(r"[0-9]{1,9}", step) else find_student(place)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:48] or "file"
