"""The command for responses that are followed through a run that has ended."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab.cli.bringing import read_file, reading_options
from vpdlab.cli.options import as_options, parse_preset, parsed, parser, path, without_trust
from vpdlab.config import HINTS, RunConfig
from vpdlab.errors import UserError, shown
from vpdlab.record import FOLLOWED, RunRecord, load_run
from vpdlab.run.trust import TRUST, given, refuse_unasked

if TYPE_CHECKING:
    from vpdlab.run.following_up import Point


def _options() -> argparse.ArgumentParser:
    own = parser(
        "follow",
        "Responses are scored token by token by the student and the teacher of every saved checkpoint, as a run that"
        " goes on scores those that it follows. FILE, right after RUN: responses of your own, as `vpdlab score` reads"
        " them. Without FILE and --rollout: those that the run follows already, where they were not scored; if it"
        " follows none, `follow` responses drawn from the checkpoint of step 0. Only followed/ in the run's folder"
        " changes. Other options: those of `vpdlab train` that affect no results (--device, --threads, --record-top,"
        f" ...); {TRUST} obeys the settings of somebody else's run.",
    )
    own.usage = "vpdlab follow RUN [FILE] [--rollout STEP/PLACE]... [options of train]"
    own.add_argument("run", type=path, metavar="RUN", help="a run's folder")
    own.add_argument("--rollout", action="append", default=[], metavar="STEP/PLACE",
                     help="a recorded rollout of the run: iteration, and place among its rollouts, from 0")  # fmt: skip
    reading_options(own)
    return own


def follow(args: Sequence[str]) -> int:
    """a run that has ended: responses scored at its checkpoints: vpdlab follow RUN [FILE] [--rollout STEP/PLACE]..."""
    chosen, rest = parsed(_options(), args)
    # An optional positional before options of another parser would take their values: FILE is what comes first.
    chosen.file = path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    record = load_run(chosen.run)
    words, trusted = without_trust(as_options(rest))
    config = _config(record, words)
    pinned = [_rollout(record, place) for place in chosen.rollout]
    rows = read_file(chosen) if chosen.file is not None else []

    from vpdlab.run.following_up import follow_up

    def check(config: RunConfig) -> None:
        if not trusted:
            refuse_unasked(config, str(chosen.run), given(words, HINTS))

    fields = {name: getattr(config, name) for name in given(words, HINTS)}
    points = follow_up(chosen.run, [*pinned, *rows], check=check, told=_tell, **fields)
    print("\n".join(_conclusion(chosen.run, points)))
    return 0


def _config(record: RunRecord, words: Sequence[str]) -> RunConfig:
    """The run's settings with those that the words change."""
    try:
        config, preset = parse_preset("vpdlab follow", words, base=record.settings())
    except UserError as error:
        if re.match("Unrecognized options: [^-]", str(error)):
            raise UserError(f"{error}; there is one FILE, right after RUN: vpdlab follow RUN FILE ...") from error
        raise
    if preset:
        raise UserError("a run has its own settings: leave --preset out")
    return config


def _rollout(record: RunRecord, place: str) -> Mapping[str, Any]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", place)
    if match is None:
        raise UserError(f"--rollout is {shown(place)}: write STEP/PLACE, for instance 12/3")
    step, number = map(int, match.groups())
    rollouts = record.rollouts(step)
    if number >= len(rollouts):
        raise UserError(f"--rollout is {place}, but step {step} has {len(rollouts)} rollouts, counted from 0")
    return rollouts[number]


def _tell(point: Point) -> None:
    from vpdlab.show.summary import scored_lines

    print(f"step {point.step}: {'; '.join(scored_lines(point.new))}", flush=True)


def _conclusion(folder: Path, points: Sequence[Point]) -> list[str]:
    if not points:
        return ["every response is scored at every checkpoint already: nothing to do"]
    where = f"steps {points[0].step} to {points[-1].step}" if len(points) > 1 else f"step {points[0].step}"
    return [
        f"{points[-1].count} responses, scored at {len(points)} checkpoints ({where}), in {folder / FOLLOWED}",
        f"to see them: vpdlab report {folder}, or LensHistory in a notebook",
    ]
