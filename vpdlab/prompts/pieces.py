"""Prompts in pieces: the fixed text of a prompt, and the places of problem and feedback in it.

Whoever has no Python (a page in a browser) fills these in, so that no template is written a second time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vpdlab.errors import UserError
from vpdlab.prompts.rendering import Renderer
from vpdlab.types import Feedback, Problem

Pieces = list[str | dict[str, str]]
"""Fixed texts, and {"field": name} or {"section": name} where something is filled in."""
_MARKS = {name: f"\ue000{name}\ue001" for name in ("system", "problem", "solution", "feedback", "text")}
_SECTIONS = ("solution", "feedback")
_PROBE = Problem("probe", "a problem", "", system="a system turn")


def prompt_pieces(render: Renderer) -> dict[str, Any]:
    """Both prompts of a renderer in pieces.

    Returns:
        `student` and `teacher`, each with `plain` and `system` (for a problem with a system turn): a list of fixed
        texts, of {"field": "problem" or "system"}, and of {"section": "solution" or "feedback"}. `sections`: the
        pieces of each section, around {"field": "text"}; a section without a text is left out.

    Raises:
        UserError: where the chat template changes a turn, so that its pieces do not add up to the prompt.
    """
    texts = render.templates
    turns = {
        "student": texts.student.format(problem=_MARKS["problem"]),
        "teacher": texts.teacher.format(**{name: _MARKS[name] for name in ("problem", *_SECTIONS)}),
    }
    systems = {"plain": "", "system": _MARKS["system"]}
    pieces: dict[str, Any] = {
        side: {kind: _cut(render.chat_text(Problem("", "", "", system), turn)) for kind, system in systems.items()}
        for side, turn in turns.items()
    }
    pieces["sections"] = {name: _cut(getattr(texts, name).format(text=_MARKS["text"])) for name in _SECTIONS}
    _check(render, pieces)
    return pieces


def filled(pieces: Mapping[str, Any], side: str, fields: Mapping[str, str]) -> str:
    """A prompt from its pieces.

    Args:
        pieces: of `prompt_pieces`.
        side: "student" or "teacher".
        fields: `problem`; `system`, `solution` and `feedback`, where there are any.
    """

    def part(piece: str | Mapping[str, str]) -> str:
        if isinstance(piece, str):
            return piece
        if "field" in piece:
            return fields[piece["field"]]
        text, section = fields.get(piece["section"], ""), pieces["sections"][piece["section"]]
        return "".join(one if isinstance(one, str) else text for one in section) if text else ""

    return "".join(map(part, pieces[side]["system" if fields.get("system") else "plain"]))


def _cut(text: str) -> Pieces:
    """A text with marks as its pieces."""
    names = {mark: name for name, mark in _MARKS.items()}
    parts = re.split("(" + "|".join(names) + ")", text)
    kinds = {name: "section" if name in _SECTIONS else "field" for name in _MARKS}
    return [{kinds[names[part]]: names[part]} if part in names else part for part in parts if part]


def _check(render: Renderer, pieces: Mapping[str, Any]) -> None:
    feedback = Feedback(critique="a critique", demonstration="a solution")
    for system in (_PROBE.system, ""):
        problem = Problem(_PROBE.id, _PROBE.prompt, "", system)
        fields = {"problem": problem.prompt, "system": system, "solution": "a solution", "feedback": "a critique"}
        wanted = {
            "student": render.chat_text(problem, render.student_text(problem)),
            "teacher": render.chat_text(problem, render.teacher_text(problem, feedback)),
        }
        for side, text in wanted.items():
            if filled(pieces, side, fields) != text:
                raise UserError(f"the model's chat template changes the {side}'s turn, so its prompt has no pieces")
