"""A model's chat template: which variables it knows, what it keeps of a turn, and one text for one problem.

A chat template is a program of the model's makers. Some leave a system turn out, some read the clock, some open no turn
for the answer, and a misspelt variable vanishes without a word. So each is rendered with marks before a run, and looked
at.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vpdlab.errors import FAULTS, UserError, first_line

OURS = frozenset({
    "messages", "add_generation_prompt", "tools", "documents", "tokenize", "continue_final_message", "chat_template",
    "conversation", "return_dict", "return_tensors", "padding", "truncation", "max_length", "tokenizer_kwargs",
    "return_assistant_tokens_mask", "raise_exception", "strftime_now",
})  # fmt: skip
"""Names that are set by vpdlab or by transformers itself."""
CLOCK = datetime.datetime(2025, 1, 1)
"""What a template that reads the clock is told, so that one seed gives one prompt."""
_USER, _ANSWER = "usermark 2", "answermark 3"
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


class ChatRefused(ValueError):
    """A chat template that fails on some turns, in its own words."""


@dataclass(frozen=True)
class Chat:
    """Renders turns as a tokenizer's chat template has them.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        variables: further variables of the template.
    """

    tokenizer: Any
    variables: Mapping[str, Any]

    def __call__(self, turns: Sequence[Mapping[str, str]], open_answer: bool = True) -> str:
        """The text of these turns. Raises ChatRefused where the template fails on them."""
        from jinja2 import TemplateError

        clock = {"strftime_now": CLOCK.strftime} if self.reads_clock else {}
        try:
            return self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=open_answer, **clock, **self.variables
            )
        except (
            TemplateError,
            MemoryError,
            *FAULTS,
        ) as error:  # some take no system turn; and a program may fail in any way
            raise ChatRefused(first_line(error)) from error

    @cached_property
    def source(self) -> str:
        """The template that is used where a tokenizer has several."""
        try:
            return self.tokenizer.get_chat_template()
        except ValueError as error:  # several templates, and none by the name of default
            raise UserError(f"the model's chat template cannot be chosen: {first_line(error)}") from error

    @cached_property
    def names(self) -> frozenset[str]:
        """Variables that the template looks up."""
        from jinja2 import TemplateSyntaxError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
        try:  # transformers has a tag of its own, which says nothing about variables
            parsed = environment.parse(_GENERATION.sub("", self.source))
        except TemplateSyntaxError as error:
            raise UserError(
                f"the model's chat template cannot be read: line {error.lineno}: {error.message}"
            ) from error
        return frozenset(meta.find_undeclared_variables(parsed))

    @property
    def reads_clock(self) -> bool:
        return "strftime_now" in self.names

    @cached_property
    def unopened(self) -> str:
        """What stands before an answer in a conversation, but not at the end of a prompt; "" where all is well.

        A template that opens a turn for the answer in its own way, or needs to open none, is well.
        """
        prompt = [_turn("user", _USER)]
        opened, closed = self._tried(prompt), self._tried(prompt, open_answer=False)
        if opened is None or opened != closed:
            return ""
        before = [self._before(_ANSWER, [*prompt, _turn(role, _ANSWER)], opened) for role in ("assistant", "user")]
        return before[0] if before[0].strip() and before[0] != before[1] else ""

    def _before(self, mark: str, turns: Sequence[Mapping[str, str]], start: str) -> str:
        text = self._tried(turns, open_answer=False) or ""
        return text[len(start) : text.find(mark)] if text.startswith(start) and mark in text else ""

    def _tried(self, turns: Sequence[Mapping[str, str]], open_answer: bool = True) -> str | None:
        """The text of these turns; None where the template refuses them."""
        try:
            return self(turns, open_answer)
        except ChatRefused:
            return None

    def check(self) -> list[str]:
        """Look at the template before it is used.

        Returns:
            What is odd about it and does not stop a run, a line each.

        Raises:
            UserError: for a variable that it does not know, and a template that loses the user's turn, fails, or gives
                another text each time.
        """
        self._check_names()
        try:
            texts = [self([_turn("user", _USER)]) for _ in range(3)]
        except ChatRefused as error:
            raise UserError(f"the model's chat template fails on a plain user turn: {error}") from error
        if len(set(texts)) > 1:
            raise UserError(
                "the model's chat template gives another text each time: one seed would give several prompts"
            )
        if _USER not in texts[0]:
            raise UserError(
                "the model's chat template leaves the user's turn out: the student would not read the problem"
            )
        lines = []
        if self.reads_clock:
            lines.append(
                f"the chat template reads the clock: it is told {CLOCK:%d %B %Y}, so that a seed gives one prompt"
            )
        if self.unopened:
            lines.append(
                f"the chat template ignores add_generation_prompt: no assistant turn ({self.unopened.strip()!r}) is"
                " opened for the answer, so the model may go on with the user's"
            )
        return lines

    def _check_names(self) -> None:
        known = self.names - OURS - set(self.tokenizer.special_tokens_map)
        for name in self.variables:
            if name in OURS:
                raise UserError(f"chat_args: {name} is set by vpdlab itself")
            if name not in known:
                raise UserError(
                    f"chat_args: the model's chat template has no variable {name!r}; it takes"
                    f" {', '.join(sorted(known)) or 'none'}"
                )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
