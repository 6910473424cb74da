"""What a value may be: its type, its range, and the settings that exclude each other."""

from __future__ import annotations

import re
import reprlib
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vpdlab.errors import UserError, is_text

if TYPE_CHECKING:
    from vpdlab.config.config import RunConfig

TRACKERS = ("tensorboard", "trackio", "wandb")


def typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type, without guessing: 1 may stand for 1.0, nothing else is converted.

    Raises:
        UserError: naming the field, the value and what it must be.
    """
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{name} is {_short(value)}: choose one of {', '.join(typing.get_args(hint))}")
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, Sequence) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise UserError(f"{name} is {_short(value)}, but must be a list of words")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    # YAML reads 1e-4 as a word: it wants a point in it.
    hint_yaml = " (in YAML write 1.0e-4, with a point)" if hint is float and isinstance(value, str) else ""
    raise UserError(f"{name} is {_short(value)}, but must be of type {hint.__name__}{hint_yaml}")


def _short(value: Any) -> str:
    """A value for a message: its repr, limited to a few items and characters."""
    return reprlib.repr(value)


def check(config: RunConfig, ranges: dict[str, tuple[float, float]]) -> None:
    """Raises UserError for a number out of its range, text that is none, or settings that contradict each other."""
    check_ranges(vars(config), ranges)
    for name, value in vars(config).items():
        for text in [value] if isinstance(value, str) else value if isinstance(value, tuple) else []:
            _check_text(name, text)
    for name in ("task_args", "method_args", "chat_args", "environment_args"):
        for arg in getattr(config, name):
            if not re.fullmatch(r"[A-Za-z_]\w*=.*", arg):
                raise UserError(f"{name} has {arg!r}: write NAME=VALUE, for instance digits=3")
    _check_combinations(config)


def check_ranges(fields: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises UserError for a number out of its range."""
    for name, value in fields.items():
        if name in ranges and not ranges[name][0] <= value <= ranges[name][1]:
            low, high = ranges[name]
            raise UserError(f"{name} is {value}, but must be between {low:g} and {high:g}")


def _check_text(name: str, text: str) -> None:
    if "\0" in text:
        raise UserError(f"{name} is {text!r}, which holds a NUL character")
    if not is_text(text):
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise UserError(f"{name} is {shown!r}, which is not UTF-8: rename the file, or write it again")


def _check_combinations(c: RunConfig) -> None:
    if not c.feedback:
        raise UserError("feedback is empty: name at least one source, for instance verifier")
    if c.tracker and c.tracker not in TRACKERS:
        raise UserError(f"tracker is {c.tracker!r}: choose one of {', '.join(TRACKERS)}, or leave it empty")
    if (noise := c.noise_drop + c.noise_shuffle + c.noise_truncate + c.noise_contradict) > 1 + 1e-9:
        raise UserError(f"the noise shares add up to {noise:g}, but must not exceed 1")
    if c.kl_target and c.beta_min > c.beta_max:
        raise UserError(f"beta_min is {c.beta_min:g}: it must not be above beta_max, which is {c.beta_max:g}")
    reader = "kl_target" if c.kl_target else f"sdar_gate {c.sdar_gate}" if c.method == "sdar" else ""
    if not c.record_telemetry and reader not in ("", "sdar_gate difference"):
        raise UserError(f"{reader} reads what record_telemetry measures: leave it on")
    if c.critic_learns and c.critic != "live":
        raise UserError(f"critic_learns needs critic live: critic {c.critic} does not change")
    if c.shard and (c.lora_rank or c.teacher == "adapter"):
        raise UserError("shard is for training all weights: an adapter is small, so leave shard out")
    average = "teacher ema" if c.teacher == "ema" else "kl_coef" if c.kl_coef and 0 < c.ref_rate < 1 else ""
    if c.precision == "bfloat16" and average:
        raise UserError(
            f"{average} needs float32 weights (a small rate rounds to nothing in bfloat16): set precision to"
            " bfloat16-mixed"
        )
