"""Prompts in pieces add up to the prompts of training."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from vpdlab.errors import UserError
from vpdlab.prompts import Renderer, Templates
from vpdlab.prompts.pieces import filled, prompt_pieces
from vpdlab.types import Feedback, Problem
from vpdlab.zoo import APPRENTICE

OWN = Templates(
    student="{{Q}} {problem}", teacher="{feedback}{{}}{problem}{solution}!", solution="\n{text}?", feedback="<{text}>"
)


def renderer(templates: Templates = OWN, chat: str = "") -> Renderer:
    tokenizer: Any = AutoTokenizer.from_pretrained(APPRENTICE)
    if chat:
        tokenizer.chat_template = chat
    return Renderer(tokenizer, templates)


@pytest.mark.parametrize("templates", [Templates(), OWN])
@pytest.mark.parametrize("system", ["", "Be brief."])
@pytest.mark.parametrize("feedback", [Feedback("No."), Feedback("No.", "7"), Feedback(None, "7")])
def test_pieces_add_up(templates: Templates, system: str, feedback: Feedback) -> None:
    render, problem = renderer(templates), Problem("x", "What is {problem}?", "7", system)
    pieces = prompt_pieces(render)
    fields = {
        "problem": problem.prompt, "system": system, "feedback": feedback.critique or "",
        "solution": feedback.demonstration or "",
    }  # fmt: skip
    wanted = {"student": render.student_text(problem), "teacher": render.teacher_text(problem, feedback)}
    for side, turn in wanted.items():
        assert filled(pieces, side, fields) == render.chat_text(problem, turn)


def test_a_template_that_changes_a_turn_has_no_pieces() -> None:
    shouting = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(UserError, match="changes the student's turn"):
        prompt_pieces(renderer(chat=shouting))
