"""One setting: a dataclass field whose metadata says its range and what changing it means.

Everything that needs a list of settings reads this metadata: option groups of `--help`, range checks, the resume check,
the budget of a comparison and the table in docs/settings.md. A setting is declared, and documented, in one place.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

LARGE = 10**9


def setting(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    changes_results: bool = True,
    budget: bool = False,
    live: bool = False,
) -> Any:
    """A dataclass field with its range, for numbers, and its meaning for other runs.

    Args:
        default: value where nothing is said.
        low, high: bounds of a number, inclusive; `high` defaults to 1e9.
        changes_results: False where a resumed run may change it: how long, how fast, what is written.
        budget: part of what a comparison holds equal between its runs, although a resumed run may change it.
        live: may be changed between two iterations of a run (`run.control.change`).
    """
    bounds = None if low is None else (low, LARGE if high is None else high)
    metadata = {"range": bounds, "changes_results": changes_results, "budget": budget, "live": live}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SettingInfo:
    """What is known of one setting without a config.

    Attributes:
        name, group, default: the field, its group's name, its default.
        type: as the annotation says it, without Literal: "int", "a | b | c", "list of words".
        range: (lowest, highest) of a number, else None.
        changes_results, budget, live: as in `setting`.
        text: the docstring under the field, on one line.
    """

    name: str
    group: str
    type: str
    default: Any
    range: tuple[float, float] | None
    changes_results: bool
    budget: bool
    live: bool
    text: str


def describe(groups: dict[str, type]) -> Iterator[SettingInfo]:
    """Every setting of the given groups (name -> dataclass), in order of declaration."""
    for group, kind in groups.items():
        hints, texts = typing.get_type_hints(kind), _docstrings(kind)
        for field in dataclasses.fields(kind):
            yield SettingInfo(
                field.name, group, _type_name(hints[field.name]), field.default, field.metadata["range"],
                field.metadata["changes_results"], field.metadata["budget"], field.metadata["live"],
                texts.get(field.name, ""),
            )  # fmt: skip


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " | ".join(typing.get_args(hint))
    return "list of words" if typing.get_origin(hint) is tuple else hint.__name__


@functools.cache  # a command line is parsed twice on resume, and reading the source takes 20 ms
def _docstrings(kind: type) -> dict[str, str]:
    """Each field's docstring, the string literal right below it."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for node, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(node.target, ast.Name)
            texts[node.target.id] = " ".join(str(below.value.value).split())
    return texts
