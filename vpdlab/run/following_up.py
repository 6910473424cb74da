"""Responses that a run follows after it has ended: scored at its saved checkpoints, by the student and teacher there.

follow_up("runs/x", [load_run("runs/x").rollouts(12)[3]])

The numbers are those that the run itself records (`following`). They are added to followed/, next to the rows that are
there; nothing else in the folder changes, so the run can be resumed as before, and then goes on following the
responses. final/ is left out: it holds no teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vpdlab import processes
from vpdlab.config import FREE, RunConfig, known_fields
from vpdlab.errors import UserError, notice
from vpdlab.feedback.sources import CRITIQUE
from vpdlab.foreign import Row
from vpdlab.net import printable
from vpdlab.paths import user_path
from vpdlab.record import FOLLOWED, RunRecord, changed, load_run, rollouts, writing
from vpdlab.record.changes import parse
from vpdlab.run.checkpoint import Checkpoints, Saved
from vpdlab.run.keeper import Keeper
from vpdlab.run.lock import locked
from vpdlab.run.resume import first_and_last, other_settings
from vpdlab.run.run import Run

Given = Mapping[str, Any] | Row
NAME_THEM = "name responses with a FILE or --rollout STEP/PLACE"


@dataclass(frozen=True)
class Point:
    """A checkpoint at which responses were scored.

    Attributes:
        step: its iteration.
        new: the records that were added.
        count: how many responses are scored there now.
    """

    step: int
    new: Sequence[Mapping[str, Any]]
    count: int


def follow_up(
    place: str | Path, given: Sequence[Given] = (), parts: Mapping[str, Any] | None = None,
    check: Callable[[RunConfig], None] | None = None, told: Callable[[Point], None] | None = None, **fields: Any,
) -> list[Point]:  # fmt: skip
    """Score responses at every usable checkpoint of a recorded run, where they have not been scored yet.

    Args:
        place: the run's folder. No process may be training it.
        given: responses to follow beside those that the run follows already: recorded rollouts, rows of a file, or the
            fields of a row, as `Following.pin` takes them. Where there are neither, `follow` responses are drawn from
            the checkpoint of step 0, the same that the run would have drawn.
        parts: parts of your own by name, as `Run.open` takes them: those that the run had.
        check: called with the settings that are about to be obeyed, before anything is opened; it may raise.
        told: called with each point, once it is on disk.
        fields: settings of execution that differ from the run's, such as device or record_top.

    Returns:
        The checkpoints at which something was scored, oldest first.

    Raises:
        UserError: there is no run, no checkpoint that can be used, or nothing to follow; a response cannot be read; a
            setting would change results.
        RunFailed: a file cannot be written; those written before are whole.
    """
    if processes.count() > 1:
        raise UserError("followed responses are scored by one process: call it without a launcher")
    record = load_run(user_path("the run", str(place)))
    config = _settings(record, fields)
    with locked(record.folder):
        past = _read(record)
        draws = not given and not past.known
        _tell_unused(fields, draws)
        past.refuse_too_little(config, draws)
        if not given and past.complete:
            return []
        config = _scoring(config, record.folder, draws)
        if check is not None:
            check(config)
        own = {name: part for name, part in (parts or {}).items() if name != "sampler"}
        return _Scorer(past, Run.open(config, record=False, **own), draws, told).scored(given)


def _tell_unused(fields: Mapping[str, Any], draws: bool) -> None:
    for name in sorted(fields.keys() & {"follow_every", *(() if draws else ("follow", "follow_file"))}):
        notice(f"{name} has no effect on a run that has ended{'' if draws else ' and follows responses already'}")


def _settings(record: RunRecord, fields: Mapping[str, Any]) -> RunConfig:
    own = record.settings()
    config = own.but(**known_fields(fields))
    if "out" in fields:
        raise UserError(
            f"out is {config.out!r}, but followed responses belong to the run in {record.folder}: leave it out"
        )
    for name in fields:
        if name not in FREE and (value := getattr(config, name)) != getattr(own, name):
            raise UserError(f"{name} is {value}, but the run's is {getattr(own, name)}: leave it out")
    return config


def _scoring(config: RunConfig, folder: Path, draws: bool) -> RunConfig:
    """The run's settings without what scoring does not need, above all what asks others; drawing needs the critic."""
    fields: dict[str, Any] = {"out": str(folder), "sampler": "transformers", "tracker": "", "shard": False}
    if not draws:
        sources = tuple(name for name in config.feedback if name != CRITIQUE) or ("verifier",)
        fields |= {"feedback": sources, "critic": "live", "critic_learns": False, "critic_cache": "", "follow_file": ""}
    return config.but(**fields).asked_for(())


def _read(record: RunRecord) -> _Past:
    try:
        numbers = record.followed_numbers()
        return _Past(record, first_and_last(record, numbers), numbers)
    except UserError as error:
        raise UserError(f"{error}; remove that file to have its responses scored again") from error


@dataclass
class _Past:
    """What a run has left.

    Attributes:
        known: the records of followed responses, of each when it was first scored, of all when they were last.
        numbers: which of them were scored after which iteration.
    """

    record: RunRecord
    known: Sequence[Mapping[str, Any]]
    numbers: Mapping[int, set[int]]

    @cached_property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.record.folder / "checkpoints")

    @cached_property
    def steps(self) -> list[int]:
        """Iterations with a checkpoint, oldest first."""
        return self.checkpoints.steps()[::-1]

    def at(self, step: int) -> list[dict[str, Any]]:
        return self.record.followed(step) if step in self.numbers else []

    @property
    def complete(self) -> bool:
        """Whether all that was ever followed is scored at every checkpoint."""
        ever = set[int]().union(*self.numbers.values())
        return bool(ever) and all(ever <= self.numbers.get(step, set()) for step in self.steps)

    def refuse_too_little(self, config: RunConfig, draws: bool) -> None:
        """Raises UserError where there is no checkpoint, or nothing to follow and nothing to draw it from."""
        folder = self.record.folder
        if not self.steps:
            raise UserError(
                f"{folder} has no checkpoint at which responses could be scored: checkpoint_every N saves one every N"
                " iterations, and checkpoint_keep says how many of them are kept"
            )
        if draws and not config.follow and not config.follow_file:
            raise UserError(
                f"{folder} follows no responses, and follow is 0: {NAME_THEM}, or add --follow N to draw some"
            )
        if draws and self.steps[0] != 0:
            raise UserError(
                f"{folder} follows no responses, and the checkpoint of step 0, from which they are drawn, is gone:"
                f" {NAME_THEM} (checkpoints: {', '.join(map(str, self.steps))}; checkpoint_keep keeps more)"
            )


@dataclass
class _Scorer:
    """Scores responses at one checkpoint after the other; `draws` them at the first, that of step 0."""

    past: _Past
    run: Run
    draws: bool
    told: Callable[[Point], None] | None
    _said: set[str] = field(default_factory=set)

    @cached_property
    def keeper(self) -> Keeper:
        return self.run.keeper()

    def scored(self, given: Sequence[Given]) -> list[Point]:
        self._choose(given)
        following, found, unusable = self.run.following, list[Point](), list[str]()
        for step in self.past.steps:
            following.step, following.records = step, self.past.at(step)
            drawing = self.draws and not found
            if not drawing and not following.unscored(step):
                continue
            if fault := self._restored(step):
                if drawing:
                    raise UserError(f"{fault}, and responses are drawn from that checkpoint: {NAME_THEM}")
                unusable.append(fault)
                continue
            if drawing:
                self._draw()
            found.append(self._point(step))
        if unusable and not found:
            raise UserError(f"no response was scored, since {'; '.join(dict.fromkeys(unusable))}")
        for line in dict.fromkeys(unusable):
            notice(printable(f"{line}; it is left out"))
        return found

    def _choose(self, given: Sequence[Given]) -> None:
        following = self.run.following
        following.restore(self.past.known)
        for one in given:
            following.pin(one)
        if not following.responses and not self.draws:
            raise UserError(f"{self.past.record.folder}: its model can read none of the responses that it follows")

    def _draw(self) -> None:
        self.run.following.draw()
        if self.run.config.follow_file:
            self.run.following.read_file()
        if not self.run.following.responses:
            raise UserError(f"follow_file {self.run.config.follow_file} holds no responses: {NAME_THEM}")

    def _restored(self, step: int) -> str:
        """Put student and teacher back to a checkpoint; why that cannot be done, "" where it was."""
        found = self.past.checkpoints.read(step)
        if not isinstance(found, Saved):
            return f"{self.past.checkpoints.place(step)} cannot be used: {found}"
        try:
            begun = self._begun(found)
            for line in self.keeper.check(found):
                if line not in self._said:
                    self._said.add(line)
                    notice(printable(line))
            self.run.take(changed(begun, parse(found.state.get("changes", ()))))
            self.keeper.restore(found, moments=False)
        except UserError as error:
            return str(error)
        return ""

    def _begun(self, saved: Saved) -> RunConfig:
        """The settings that the run began with. Raises UserError where a checkpoint was saved with other ones."""
        then = RunConfig().to_dict() | saved.state["config"]
        if other := other_settings(then, self.past.record.settings().to_dict()):
            raise UserError(f"{saved.path} was saved with other settings: {', '.join(other)}")
        return self.run.begun

    def _point(self, step: int) -> Point:
        """Score what was not scored at the checkpoint that is restored, and write it."""
        following, folder = self.run.following, self.past.record.folder / FOLLOWED
        before = len(following.records)
        following.score(step, None)
        new = following.records[before:]
        with writing(folder):
            rollouts.extend(folder, step, new)
        point = Point(step, new, len(following.records))
        if self.told is not None:
            self.told(point)
        return point
