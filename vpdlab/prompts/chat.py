"""A model's chat template: the variables it takes, what it keeps of a turn, and one text per problem.

A chat template is a program by the model's authors. Some drop the system turn, some read the clock, some open no turn
for the answer, and a misspelt variable is silently ignored. So each template is rendered with marks and checked before
a run.
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
"""Names that vpdlab or transformers sets itself."""
CLOCK = datetime.datetime(2025, 1, 1)
"""The time given to a template that reads the clock, so that one seed gives one prompt."""
_USER, _ANSWER = "usermark 2", "answermark 3"
_GENERATION = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")


class ChatRefused(ValueError):
    """A chat template failed on some turns; the message is its own."""


@dataclass(frozen=True)
class Chat:
    """Renders turns with a tokenizer's chat template.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        variables: further variables of the template.
        tools: schemas of functions that the template describes to the model, where it can (`describes_tools`).
    """

    tokenizer: Any
    variables: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]] = ()

    def __call__(self, turns: Sequence[Mapping[str, Any]], open_answer: bool = True) -> str:
        """The text of these turns. Raises ChatRefused where the template fails on them."""
        return self._text(turns, open_answer, self.describes_tools)

    def _text(self, turns: Sequence[Mapping[str, Any]], open_answer: bool, tools: bool) -> str:
        from jinja2 import TemplateError

        clock: dict[str, Any] = {"strftime_now": CLOCK.strftime} if self.reads_clock else {}
        if tools:
            clock["tools"] = list(self.tools)
        try:
            return self.tokenizer.apply_chat_template(
                list(turns), tokenize=False, add_generation_prompt=open_answer, **clock, **self.variables
            )
        except (TemplateError, MemoryError, *FAULTS) as error:  # a template is a program: it may fail in any way
            raise ChatRefused(first_line(error)) from error

    @cached_property
    def source(self) -> str:
        """The template in use, where a tokenizer has several."""
        try:
            return self.tokenizer.get_chat_template()
        except ValueError as error:  # several templates, none of them named default
            raise UserError(f"the model has several chat templates and no default: {first_line(error)}") from error

    @cached_property
    def names(self) -> frozenset[str]:
        """Variables that the template looks up."""
        from jinja2 import TemplateSyntaxError, meta
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
        try:  # without the tag that only transformers knows; it names no variable
            parsed = environment.parse(_GENERATION.sub("", self.source))
        except TemplateSyntaxError as error:
            raise UserError(
                f"the model's chat template cannot be read: line {error.lineno}: {error.message}"
            ) from error
        return frozenset(meta.find_undeclared_variables(parsed))

    @cached_property
    def describes_tools(self) -> bool:
        """Whether there are tools, the template describes them, and writes a call as JSON between <tool_call> tags that
        the tokenizer does not drop; elsewhere calls are fenced blocks (`tasks.common.tools`)."""
        if not self.tools or "tools" not in self.names:
            return False
        name = self.tools[0]["function"]["name"]
        call = {"type": "function", "function": {"name": name, "arguments": {"mark": _ANSWER}}}
        turns = [_turn("user", _USER), {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            described, called = self._text(turns[:1], True, True), self._text(turns, False, True)
        except ChatRefused:
            return False
        ids = self.tokenizer(called, add_special_tokens=False).input_ids
        read = self.tokenizer.decode(ids, skip_special_tokens=True)
        found = re.search(r"<tool_call>\s*(\{.*\})\s*</tool_call>", read.partition(_USER)[2], re.DOTALL)
        return name in described and found is not None and all(part in found[1] for part in (name, _ANSWER, '"name"'))

    @property
    def reads_clock(self) -> bool:
        return "strftime_now" in self.names

    @cached_property
    def unopened(self) -> str:
        """The opening of an answer that a conversation has and the end of a prompt lacks; "" where nothing is missing.

        Nothing is missing where a template opens the answer's turn in another way, or needs no opening.
        """
        prompt = [_turn("user", _USER)]
        opened, closed = self._rendered(prompt), self._rendered(prompt, open_answer=False)
        if opened is None or opened != closed:
            return ""
        before = [self._before(_ANSWER, [*prompt, _turn(role, _ANSWER)], opened) for role in ("assistant", "user")]
        return before[0] if before[0].strip() and before[0] != before[1] else ""

    def _before(self, mark: str, turns: Sequence[Mapping[str, str]], start: str) -> str:
        text = self._rendered(turns, open_answer=False) or ""
        return text[len(start) : text.find(mark)] if text.startswith(start) and mark in text else ""

    def _rendered(self, turns: Sequence[Mapping[str, str]], open_answer: bool = True) -> str | None:
        """The text of these turns; None where the template refuses them."""
        try:
            return self(turns, open_answer)
        except ChatRefused:
            return None

    def check(self) -> list[str]:
        """Check the template before it is used.

        Returns:
            Oddities that do not stop a run, a line each.

        Raises:
            UserError: `variables` has a name that the template does not take, or the template drops the user's turn,
                fails, or gives a different text each time.
        """
        self._check_names()
        try:
            texts = [self([_turn("user", _USER)]) for _ in range(3)]
        except ChatRefused as error:
            raise UserError(f"the model's chat template fails on a plain user turn: {error}") from error
        if len(set(texts)) > 1:
            raise UserError(
                "the model's chat template gives a different text each time: one seed would give several prompts"
            )
        if _USER not in texts[0]:
            raise UserError("the model's chat template drops the user's turn: the student would not read the problem")
        lines = []
        if self.reads_clock:
            lines.append(
                f"the chat template reads the clock: it gets {CLOCK:%d %B %Y}, so that a seed gives one prompt"
            )
        if self.unopened:
            lines.append(
                "the chat template ignores add_generation_prompt: it opens no assistant turn"
                f" ({self.unopened.strip()!r}) for the answer, so the model may continue the user's turn"
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
