"""The editable texts of all prompts."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass

from vpdlab.config.yaml_files import read_yaml
from vpdlab.errors import UserError, is_text
from vpdlab.paths import user_path


@dataclass(frozen=True)
class Templates:
    """The editable texts. Names in braces are filled in; `{{` and `}}` are literal braces."""

    student: str = "{problem}"
    """The student's user turn: {problem}."""
    teacher: str = "{problem}{solution}{feedback}\n\nNow solve the problem correctly."
    """The teacher's user turn: {problem} and the two sections, each empty where there is no such text."""
    solution: str = "\n\nA correct solution:\n{text}"
    """Section with a sibling's correct response: {text}."""
    feedback: str = "\n\nFeedback on an earlier attempt:\n{text}"
    """Section with the critique: {text}."""
    critic: str = (
        "{problem}\n\nA student's attempt:\n{attempt}\n\nThe attempt is wrong. The correct final answer is: {answer}"
        "\n\nIn two or three short sentences, tell the student what is wrong with the attempt and which"
        " misunderstanding led to it, so that the next attempt can avoid it. Do not state the correct answer."
    )
    """What a critic reads: {problem}, {attempt} and the final {answer}, but not how it is derived."""

    def __post_init__(self) -> None:
        for name, fields in FIELDS.items():
            _check(name, getattr(self, name), fields)

    @classmethod
    def read(cls, path: str) -> Templates:
        """The templates, with those in a YAML file replacing the defaults. Raises UserError for an invalid file."""
        place = user_path("templates", path)
        try:
            texts = read_yaml(place) or {}
        except UserError as error:
            raise UserError(f"templates: {error}") from error
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise UserError(f"templates {path}: expected lines of NAME: TEXT")
        for name in texts:
            if name not in FIELDS:
                raise UserError(f"templates {path}: unknown template {name!r}: choose from {', '.join(FIELDS)}")
        return dataclasses.replace(cls(), **texts)


FIELDS = {
    "student": {"problem"},
    "teacher": {"problem", "solution", "feedback"},
    "solution": {"text"},
    "feedback": {"text"},
    "critic": {"problem", "attempt", "answer"},
}
"""Template -> the fields that it must contain, and no others."""


def _check(name: str, text: str, fields: set[str]) -> None:
    try:
        parsed = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise UserError(f"template {name!r}: {error} (write {{{{ and }}}} for literal braces)") from error
    for _, field, spec, conversion in parsed:
        if spec or conversion:
            written = f"{{{field}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
            raise UserError(
                f"template {name!r} has {written}: text is inserted unchanged, so write {{{field}}} without a"
                " conversion or format"
            )
    if not is_text(text):
        raise UserError(f"template {name!r} contains half a character (a lone surrogate): write it again")
    found = {str(field) for _, field, _, _ in parsed}
    if found != fields:
        raise UserError(
            f"template {name!r} fills in {_braces(found)}, but must fill in {_braces(fields)}"
            " (write {{ and }} for literal braces)"
        )


def _braces(names: set[str]) -> str:
    return " ".join(f"{{{name}}}" for name in sorted(names)) or "nothing"
