"""Prompts: what the student reads, and what the teacher reads about the same problem with feedback.

The teacher's prompt is one user turn: the problem, a correct solution if there is one, the feedback on an earlier
attempt if there is any, and the instruction to solve the original problem. The failed attempt itself is not shown,
since it would pull the teacher toward it. Every piece is a template that a user can replace.

templates: the texts. encoding: text to token ids, control tokens removed. rendering: prompts and views. turns: an
environment's replies. pieces: prompts to be filled in without Python. checking: what a chat template or tokenizer loses
of a prompt.
"""

from vpdlab.prompts.checking import MARK, Checked
from vpdlab.prompts.rendering import Renderer, views
from vpdlab.prompts.templates import FIELDS, Templates

__all__ = ["Templates", "FIELDS", "Renderer", "views", "Checked", "MARK"]
