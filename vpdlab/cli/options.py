"""From command-line arguments to a RunConfig."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import inspect
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from vpdlab.config import GROUPS, HINTS, RunConfig, presets, read_preset, settings
from vpdlab.errors import UserError, notice
from vpdlab.files import unwritable
from vpdlab.paths import user_path
from vpdlab.run.trust import TRUST, given, refuse_unasked

SETTINGS = ("preset", *HINTS)
"""Names of the options that `vpdlab train` takes for settings."""
OF_A_RUN = frozenset({
    "steps", "out", "checkpoint_every", "checkpoint_keep", "resume", "resume_anyway", "tracker", "eval_every",
    "record_tokens", "record_top", "max_skipped",
})  # fmt: skip
"""Settings that only a recorded run reads, not a single batch or search."""


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command's own options; errors are raised instead of printed with a usage message."""
    return argparse.ArgumentParser(
        prog=f"vpdlab {name}", description=description, allow_abbrev=False, exit_on_error=False
    )


def path(text: str) -> Path:
    """A path with ~ expanded anywhere a user may write it: a shell expands it only at the beginning of a word."""
    return user_path("the path", text)


def parsed(parser: argparse.ArgumentParser, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the remaining arguments. Raises a one-line UserError for invalid ones."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            return parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see {parser.prog} --help") from error
    except SystemExit as error:
        if error.code:
            raise UserError(f"{words.getvalue().strip().splitlines()[-1]}; see {parser.prog} --help") from None
        raise


def parse_run(program: str, args: Sequence[str]) -> tuple[RunConfig, str]:
    """`parse_preset`; if a run is resumed without a preset, on top of the run's own settings."""
    args, trusted = without_trust(args)
    config, preset = parse_preset(program, args)
    if not config.resumes or preset:
        return config, preset
    folder = config.folder
    recorded = recorded_config(folder)
    config, preset = parse_preset(program, args, base=recorded or RunConfig())
    config = config.but(out=str(folder))  # the run is where it was found, whatever its record says
    if recorded is not None and not trusted:
        refuse_unasked(config, str(config.folder), given(args, HINTS))
    return config, preset


def fork_named(args: Sequence[str]) -> tuple[str, list[str]]:
    """What `--from` names among a command's arguments, "" for nothing, and the arguments without it."""
    own = argparse.ArgumentParser(prog="vpdlab train", add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--from", dest="place")
    found, rest = parsed(own, args)
    if found.place == "":
        raise UserError("--from is empty: write RUN@STEP, for instance runs/x@40, or RUN for its newest checkpoint")
    return found.place or "", rest


def parse_branch(program: str, place: str, args: Sequence[str]) -> tuple[Any, RunConfig]:
    """The fork that `place` names, and the settings of the branch: the original run's there, and the options on top.

    Returns:
        A `run.branch.Fork`, and the config, whose `out` is empty unless it was given.
    """
    from vpdlab.run.branch import find_fork

    words, trusted = without_trust(args)
    for option in given(words, {"preset", "resume"}):
        raise UserError(f"--from begins with the settings and a checkpoint of {place}: leave --{option} out")
    fork = find_fork(place)
    config, _ = parse_preset(program, words, base=fork.config.but(out=""))
    if not trusted:
        refuse_unasked(config, str(fork.record.folder), given(words, HINTS))
    return fork, config


def refuse_unwritable(place: Path, *endings: str) -> None:
    """Raises UserError, before anything is computed for it, where a file cannot be written, or its name has none of the
    endings of what would be written: a slip of the order of arguments must not cost a file of another kind."""
    if endings and place.suffix.lower() not in endings:
        raise UserError(f"cannot write {place}: its name must end in {' or '.join(endings)}")
    if why := unwritable(place):
        raise UserError(f"cannot write {place}: {why}")


def refuse_single(command: str, args: Sequence[str], names: Iterable[str]) -> None:
    """Raises UserError for a setting of a single run, where the command has an option for several of them."""
    for name in names:
        if given(args, [name]):
            raise UserError(f"{command} takes --{name}s, with one or several values, not --{name}")


def note_unread(command: str, args: Sequence[str], reads: Iterable[str]) -> None:
    """A note of the settings among a command's words that it does not read, if there are any.

    Args:
        reads: those that it reads, of `SETTINGS`.
    """
    named = given(args, SETTINGS) - set(reads)
    if idle := [name for name in SETTINGS if name in named]:
        notice(f"{command} does not read {', '.join(idle)}: {'it has' if len(idle) == 1 else 'they have'} no effect")


def of_groups(*groups: str) -> set[str]:
    """Names of the settings in some groups (`config.GROUPS`)."""
    return {field.name for group in groups for field in dataclasses.fields(GROUPS[group])}


def without_trust(args: Sequence[str]) -> tuple[list[str], bool]:
    """A command's arguments without `--trust`, and whether it was among them."""
    return [word for word in args if word != TRUST], TRUST in args


def recorded_config(folder: Path) -> RunConfig | None:
    """The settings of the run in a folder; None where there is none. Raises UserError where they cannot be read."""
    from vpdlab.record import LINES, load_run

    if (folder / "config.json").is_file():
        return load_run(folder).settings()
    if any((folder / name).exists() for name in (*LINES, "config.json")):
        raise UserError(
            f"{folder / 'config.json'} is missing: name the preset that the run started with, or start a new run"
        )
    return None


def parse_preset(program: str, args: Sequence[str], base: RunConfig | None = None) -> tuple[RunConfig, str]:
    """The RunConfig that the options say, on top of `--preset` or of `base`, and the preset's name.

    Raises:
        UserError: with one line, for options that do not fit.
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="")
    try:
        known, rest = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; the presets are {', '.join(presets())}, or a YAML file") from error
    base = base or RunConfig(**(read_preset(known.preset) if known.preset else {}))
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            text = (
                f"--preset NAME sets many at once: {', '.join(presets())}, or a YAML file. With --resume a run's own"
                f" settings apply; those that run code or send data must be given again, or add {TRUST}."
                " --from RUN@STEP (train) begins with a checkpoint of another run, and its settings: a branch."
            )
            options = tyro.cli(_grouped(base), prog=program, description=text, args=rest)
            return _by_group(options).asked_for(given(args, HINTS)), known.preset
    except SystemExit as error:
        if error.code:
            raise UserError(one_line(words.getvalue())) from None
        raise


def _grouped(base: RunConfig) -> Any:
    """The settings as one dataclass with a field per group, so that `--help` lists them by group."""
    import tyro

    texts, groups = {one.name: one.text for one in settings()}, []
    for name, kind in GROUPS.items():
        options = [
            (field.name, Annotated[HINTS[field.name], tyro.conf.arg(help=texts[field.name])], getattr(base, field.name))
            for field in dataclasses.fields(kind)
        ]  # help text on one line: it wraps at the terminal's width
        group = dataclasses.make_dataclass(kind.__name__, options, namespace={"__doc__": kind.__doc__}, frozen=True)
        words = tyro.conf.arg(help=inspect.cleandoc(kind.__doc__ or ""))  # else tyro parses this file for each group
        groups.append((name, Annotated[tyro.conf.OmitArgPrefixes[group], words], dataclasses.field(default=group())))
    return dataclasses.make_dataclass("Options", groups, frozen=True)


def _by_group(options: Any) -> RunConfig:
    """The config that grouped options say."""
    return RunConfig(**{name: value for group in GROUPS for name, value in vars(getattr(options, group)).items()})


def one_line(box: str) -> str:
    """A framed message as one line, with the nearest option where it is about an unknown one.

    Rules separate the parts of the message. In a frame the title is in the upper edge; where standard output cannot
    show frames, the title is a separate part.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    text = "\n".join("\0" if re.fullmatch(r"─ .* ─+|[─-]+", line) else line for line in lines)
    parts = [" ".join(part.split()) for part in text.split("\0") if part.strip()]
    said = parts[0 if "╭" in box else 1]
    odd = re.search(r"--([\w-]+)", said) if said.startswith("Unrecognized") else None
    known = [name.replace("_", "-") for name in HINTS]
    near = difflib.get_close_matches(odd[1].replace("_", "-"), known, n=1) if odd else []
    return f"{said}{f' (did you mean --{near[0]}?)' if near else ''}; see --help"


def as_options(args: Sequence[str]) -> list[str]:
    """`-p NAME VALUE`, papermill's form, as `--NAME VALUE`. Raises UserError for a name that is no setting."""
    options, rest = [], list(args)
    while rest:
        word = rest.pop(0)
        if word != "-p":
            options.append(word)
            continue
        if len(rest) < 2:
            raise UserError("-p takes a name and a value: -p steps 60")
        name, value = rest.pop(0), rest.pop(0)
        if name not in HINTS and name != "preset":
            raise UserError(f"there is no setting {name!r}; `vpdlab train --help` lists them")
        if HINTS.get(name) is bool and value.lower() in ("true", "false"):
            options.append(f"--{name}" if value.lower() == "true" else f"--no-{name}")
        else:
            options += [f"--{name}", value]
    return options
