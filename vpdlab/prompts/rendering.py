"""Problems and feedback to token ids: the student's, the teacher's and the critic's prompts, and both views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from vpdlab.errors import UserError
from vpdlab.prompts import checking
from vpdlab.prompts.chat import Chat, ChatRefused
from vpdlab.prompts.encoding import Encoder
from vpdlab.prompts.templates import Templates
from vpdlab.prompts.turns import Turns
from vpdlab.types import Feedback, Problem, Rollout, View


@dataclass(frozen=True)
class Renderer:
    """Turns problems and feedback into token ids, through the model's own chat template.

    Attributes:
        tokenizer: a Hugging Face tokenizer with a chat template.
        templates: the texts.
        max_context: longest context in tokens, of either view.
        chat_args: further variables of the chat template (for instance enable_thinking=False).
        tools: schemas of functions that the policy may call; the chat template describes them where it can.
    """

    tokenizer: Any
    templates: Templates = dataclasses.field(default_factory=Templates)
    max_context: int = 2048
    chat_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def chat(self) -> Chat:
        """The model's chat template."""
        return Chat(self.tokenizer, self.chat_args, self.tools)

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer's operations on text."""
        return Encoder(self.tokenizer)

    @cached_property
    def turns(self) -> Turns:
        """The frame of an environment's replies."""
        return Turns(self.chat, self.encoder)

    def check(self, problems: Sequence[Problem]) -> checking.Checked:
        """Render the student's prompt of each problem once, and report what of it is lost.

        Raises:
            UserError: a prompt is longer than `max_context`, or the chat template cannot be used (`Chat.check`).
        """
        return checking.check(self, problems)

    # -- for the record --------------------------------------------------------------------------------------------

    def read(self, problem: Problem) -> tuple[str, str]:
        """(system turn, problem) as the model reads them."""
        key = (problem.system, problem.prompt)
        if key not in self._read:
            user = self.student_text(problem)
            text = self.chat_text(problem, user)
            system, rest = self.encoder.plain(problem.system), checking.without_user(user, text)
            self._read[key] = (
                checking.as_in(rest, system) if checking.contains(rest, system) else "",
                checking.as_in(text, self.encoder.plain(problem.prompt)),
            )
        return self._read[key]

    @cached_property
    def _read(self) -> dict[tuple[str, str], tuple[str, str]]:
        return {}

    def as_data(self, text: str | None) -> str | None:
        """Feedback as a prompt contains it, without the tokenizer's control tokens; None stays None."""
        return text if text is None else self.encoder.plain(text)

    def clean(self, text: str) -> str:
        """A model's output as data: without the tokenizer's control tokens and surrounding white space."""
        return self.encoder.plain(text).strip()

    # -- the user turns as text, nothing cut -----------------------------------------------------------------------

    def student_text(self, problem: Problem) -> str:
        """The student's user turn."""
        return self.templates.student.format(problem=self.encoder.plain(problem.prompt))

    def teacher_text(self, problem: Problem, feedback: Feedback) -> str:
        """The teacher's user turn."""
        return self._teacher_text(problem, *self._texts(feedback))

    def _texts(self, feedback: Feedback) -> tuple[str, str]:
        return self.encoder.plain(feedback.demonstration), self.encoder.plain(feedback.critique)

    def _teacher_text(self, problem: Problem, demonstration: str, critique: str) -> str:
        texts = self.templates
        return texts.teacher.format(
            problem=self.encoder.plain(problem.prompt),
            solution=texts.solution.format(text=demonstration) if demonstration else "",
            feedback=texts.feedback.format(text=critique) if critique else "",
        )

    def critic_text(self, problem: Problem, attempt: str) -> str:
        """The critic's user turn."""
        prompt, attempt, answer = map(self.encoder.plain, (problem.prompt, attempt, problem.answer))
        return self.templates.critic.format(problem=prompt, attempt=attempt, answer=answer)

    def chat_text(self, problem: Problem, user: str) -> str:
        """A prompt with this user turn as the chat template renders it. Raises UserError where it refuses."""
        before = [*([("system", problem.system)] if problem.system else []), *problem.history]
        turns = [{"role": role, "content": self.encoder.plain(text)} for role, text in before]
        try:
            return self.chat([*turns, {"role": "user", "content": user}])
        except ChatRefused as error:
            raise UserError(f"the model's chat template refuses problem {problem.id}: {error}") from error

    # -- token ids -------------------------------------------------------------------------------------------------

    def student(self, problem: Problem) -> tuple[int, ...]:
        """Token ids of the plain prompt. Raises UserError where it is longer than `max_context`."""
        return self.student_ids(problem, self.chat_text(problem, self.student_text(problem)))

    def student_ids(self, problem: Problem, text: str) -> tuple[int, ...]:
        """Token ids of the rendered plain prompt `text`. Raises UserError where it is longer than `max_context`."""
        ids = self.encoder.ids(text)
        if len(ids) > self.max_context:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(ids)} tokens, but max_context is {self.max_context}:"
                " raise max_context or leave the problem out"
            )
        return ids

    def teacher(self, problem: Problem, feedback: Feedback) -> tuple[tuple[int, ...], int]:
        """Token ids of the feedback prompt, and how many tokens of its inserted text were cut to fit `max_context`.

        The end of the longer of demonstration and critique is cut; never the problem, the instruction or the response
        that will follow.

        Raises:
            UserError: the prompt does not fit even with both cut to nothing.
        """
        texts = self._texts(feedback)
        fill = partial(self._teacher_text, problem)
        ids, kept = self._fitted(problem, texts, fill, reader="teacher", inserted="feedback")
        return ids, sum(map(self.encoder.count, texts)) - sum(map(self.encoder.count, kept)) if kept != texts else 0

    def critic(self, problem: Problem, attempt: str) -> tuple[int, ...]:
        """Token ids of the critic's prompt; the end of an attempt that is too long is cut.

        Raises:
            UserError: the prompt does not fit even without the attempt.
        """
        fill = partial(self.critic_text, problem)
        return self._fitted(problem, (attempt,), fill, reader="critic", inserted="attempt")[0]

    def _fitted(
        self, problem: Problem, parts: tuple[str, ...], fill: Callable[..., str], *, reader: str, inserted: str
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Token ids of a prompt whose parts are cut, the longest first, until it fits; and what is left of the parts.

        Args:
            parts: texts to insert; their ends may be cut.
            fill: from the parts to the user turn.
            reader, inserted: of the prompt, for the message.
        """
        left = list(parts)
        ids = self.encoder.ids(self.chat_text(problem, fill(*left)))
        while len(ids) > self.max_context:
            lengths = [self.encoder.count(part) for part in left]
            longest = lengths.index(max(lengths))
            if lengths[longest] == 0:
                raise UserError(
                    f"the {reader}'s prompt of problem {problem.id} has {len(ids)} tokens without any {inserted}, but"
                    f" max_context is {self.max_context}: raise max_context"
                )
            room = max(0, lengths[longest] - (len(ids) - self.max_context))
            left[longest] = self.encoder.head(left[longest], room)
            ids = self.encoder.ids(self.chat_text(problem, fill(*left)))
        return ids, tuple(left)


def views(rollouts: Sequence[Rollout], feedback: Sequence[Feedback], render: Renderer) -> tuple[list[View], list[View]]:
    """Both views of each rollout: (student's, teacher's), with the same response ids.

    A rollout without feedback has the student's view on both sides.
    """
    student, teacher = [], []
    for rollout, note in zip(rollouts, feedback, strict=True):
        plain = View(rollout.prompt_ids, rollout.response_ids, group=rollout.group, mask=rollout.mask)
        student.append(plain)
        if note.signal:
            context, cut = render.teacher(rollout.problem, note)
            teacher.append(View(context, rollout.response_ids, cut, rollout.group, rollout.mask))
        else:
            teacher.append(plain)
    return student, teacher
