"""What a chat template or tokenizer loses of a prompt: found before a run, by rendering every prompt once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vpdlab.errors import UserError
from vpdlab.types import Feedback, Problem

if TYPE_CHECKING:
    from vpdlab.prompts.rendering import Renderer

MARK = "feedbackmark " * 40
"""Stands in for feedback when a chat template is checked."""


class Checked(NamedTuple):
    """Result of checking the student's prompts.

    Attributes:
        lengths: number of tokens of each prompt.
        lines: what is lost of the prompts, one line per kind of loss.
        digest: sha256 of all their token ids.
    """

    lengths: tuple[int, ...]
    lines: tuple[str, ...]
    digest: str


def check(render: Renderer, problems: Sequence[Problem]) -> Checked:
    """`Renderer.check`."""
    lines, lost, lengths, digest = render.chat.check(), {}, [], hashlib.sha256()
    for problem in problems:
        text = _steady(render, problem, render.student_text(problem))
        ids = render.student_ids(problem, text)
        lengths.append(len(ids))
        digest.update(json.dumps(ids).encode())
        for kind in _losses(render, problem, text, ids):
            lost.setdefault(kind, []).append(problem.id)
    for kind, names in lost.items():
        where = f"{len(names)} problems, the first {names[0]}" if len(names) > 1 else f"problem {names[0]}"
        lines.append(f"{where}: {kind}")
    return Checked(tuple(lengths), tuple(lines), digest.hexdigest())


def _steady(render: Renderer, problem: Problem, user: str) -> str:
    """The rendered prompt. Raises UserError if rendering it twice gives two texts."""
    text = render.chat_text(problem, user)
    if render.chat_text(problem, user) != text:
        raise UserError(f"the model's chat template gives problem {problem.id} a different text each time")
    return text


def _losses(render: Renderer, problem: Problem, text: str, ids: Sequence[int]) -> Iterator[str]:
    """Each kind of loss in the rendered student prompt `text` with token ids `ids`."""
    if found := render.encoder.control_tokens(f"{problem.system}\n{problem.prompt}"):
        yield f"the tokenizer's control tokens ({', '.join(found)}) are removed from the prompt"
    system, user = render.encoder.plain(problem.system), render.student_text(problem)
    if not contains(without_user(user, text), system):
        yield "the chat template drops or changes the system turn"
    marked = render.teacher_text(problem, Feedback(critique=MARK))
    if not contains(text, user):
        yield "the chat template changes the user's turn"
    elif not contains(_steady(render, problem, marked), marked):
        yield "the chat template changes the teacher's turn, which is longer than the student's"
    if "".join(render.tokenizer.decode(ids).split()) != "".join(text.split()):
        yield "the tokenizer does not decode to the text it encoded (unknown or changed characters)"


def contains(text: str, part: str) -> bool:
    """Whether a text contains a part, ignoring white space around it: many templates trim a turn."""
    return part.strip() in text


def as_in(text: str, part: str) -> str:
    """A part as the text contains it: trimmed where the text has it trimmed."""
    return part if part in text else part.strip()


def without_user(user: str, text: str) -> str:
    """A rendered prompt without the user's turn."""
    return text.replace(user.strip(), "", 1)
