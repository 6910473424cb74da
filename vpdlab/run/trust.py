"""Recorded settings that a command does not obey unasked: those that run code, send something, or write elsewhere.

A run folder may come from somebody else, and its config.json is then theirs. `vpdlab eval`, `vpdlab follow` and
`vpdlab train --resume` start from it; what it would make them do beyond computing is asked for on the command line
again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vpdlab import zoo
from vpdlab.config import RunConfig
from vpdlab.errors import UserError

TRUST = "--trust"
WALL = "bubblewrap"


def refuse_unasked(config: RunConfig, place: str, asked: Iterable[str]) -> None:
    """Refuse what only a recorded config asks for.

    Args:
        config: what the command is about to do.
        place: where its settings were recorded.
        asked: fields that the user has given on the command line.

    Raises:
        UserError: naming the first setting, what it would do, and how to allow it.
    """
    named = set(asked)
    for field, value, effect in risks(config):
        if field not in named:
            raise UserError(
                f"the settings recorded in {place} have {field} {value}, which {effect}: if you want that, give"
                f" --{field} again, or add {TRUST} to obey all of its settings"
            )


def risks(config: RunConfig) -> Iterator[tuple[str, str, str]]:
    """(field, its value, what it does) of each setting that does more than compute."""
    for field in ("task_args", "environment_args"):
        for arg in getattr(config, field):
            name, _, value = arg.partition("=")
            if name == "verify":
                yield field, arg, "runs that code"
            if name == "sandbox" and value != WALL:
                yield field, arg, "runs model-written code outside this machine's sandbox"
    if zoo.HUB_NAME.fullmatch(config.model) and not Path(config.model).expanduser().is_dir():
        yield "model", config.model, "fetches that model from a hub"
    if config.data and not Path(config.data).expanduser().exists():
        yield "data", config.data, "fetches that data set from a hub"
    if config.critic_url and config.critic == "endpoint" and "critique" in config.feedback:
        yield "critic_url", config.critic_url, "sends problems, answers and the key in VPDLAB_CRITIC_KEY there"
    if config.sampler == "vllm" and config.vllm_url:
        yield "vllm_url", config.vllm_url, "sends prompts there and takes its samples"
    if config.sampler == "vllm" and config.vllm_folder:
        yield "vllm_folder", config.vllm_folder, "writes weights there"
    if config.critic_cache and config.critic == "endpoint" and "critique" in config.feedback:
        yield "critic_cache", config.critic_cache, "reads and writes files there"
    if config.tracker not in ("", "tensorboard"):
        yield "tracker", config.tracker, "sends the run's numbers out"
    if config.templates:
        yield "templates", config.templates, "reads that file"
    if config.follow_file:
        yield "follow_file", config.follow_file, "reads that file into the record"


def given(args: Sequence[str], fields: Iterable[str]) -> set[str]:
    """The fields that stand among a command's words as --NAME, --NAME=VALUE, --no-NAME or with hyphens."""
    names = {match[1].replace("-", "_") for word in args if (match := re.match(r"--(?:no-)?([A-Za-z][\w-]*)", word))}
    return names & set(fields)
