"""Prompts: what the student reads, and what the teacher reads of the same problem with feedback.

The teacher's prompt is one user turn: the problem, a correct solution if there is one, the feedback on an
earlier attempt if there is any, and the instruction to solve the original problem. The failed attempt itself is
not shown, since it would pull the teacher toward it. Every piece is a template that a user can replace.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from vpdlab.chat import Chat, ChatRefused
from vpdlab.errors import FAULTS, UserError, in_one_line, is_text
from vpdlab.paths import user_path
from vpdlab.types import Feedback, Problem, Rollout, View


@dataclass(frozen=True)
class Templates:
    """The editable texts. Braces name what is filled in; `{{` and `}}` stand for braces."""

    student: str = "{problem}"
    """The student's user turn: {problem}."""
    teacher: str = "{problem}{solution}{feedback}\n\nNow solve the problem correctly."
    """The teacher's user turn: {problem}, and the two sections, each empty where it has nothing to say."""
    solution: str = "\n\nA correct solution:\n{text}"
    """Section with a sibling's correct response: {text}."""
    feedback: str = "\n\nFeedback on an earlier attempt:\n{text}"
    """Section with the critique: {text}."""
    critic: str = (
        "{problem}\n\nA student's attempt:\n{attempt}\n\nThe attempt is wrong. The correct final answer is: {answer}"
        "\n\nIn two or three short sentences, tell the student what is wrong with the attempt and which"
        " misunderstanding led to it, so that the next attempt can avoid it. Do not state the correct answer."
    )
    """What a critic reads: {problem}, {attempt} and the final {answer}, nothing of its solution."""

    def __post_init__(self) -> None:
        for name, needs in FIELDS.items():
            text = getattr(self, name)
            try:
                parsed = [part for part in string.Formatter().parse(text) if part[1] is not None]
            except ValueError as error:
                raise UserError(f"template {name!r}: {error} (write {{{{ and }}}} for plain braces)") from error
            for _, field, spec, conversion in parsed:
                if spec or conversion:
                    written = f"{{{field}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
                    raise UserError(
                        f"template {name!r} has {written}: text is filled in as it is, so write {{{field}}} without a"
                        " conversion or format"
                    )
            if not is_text(text):
                raise UserError(f"template {name!r} holds half a character (a lone surrogate): write it again")
            found = {str(field) for _, field, _, _ in parsed}
            if found != needs:
                raise UserError(
                    f"template {name!r} fills in {_braces(found)}, but must fill in {_braces(needs)}"
                    " (write {{ and }} for plain braces)"
                )

    @classmethod
    def read(cls, path: str) -> Templates:
        """The templates with those of a YAML file in place of some. Raises UserError for a file that does not fit."""
        import yaml

        try:
            texts = yaml.safe_load(user_path("templates", path).read_text(encoding="utf-8-sig")) or {}
        except (OSError, yaml.YAMLError, *FAULTS) as error:
            raise UserError(f"templates {path}: {in_one_line(error)}") from error
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


def _braces(names: set[str]) -> str:
    return " ".join(f"{{{name}}}" for name in sorted(names)) or "nothing"


MARK = "feedbackmark " * 40
"""Stands for feedback where a chat template is looked at."""


def _stands(part: str, text: str) -> bool:
    """Whether a part stands in a text, white space around it aside: many templates trim a turn."""
    return part.strip() in text


def _around(user: str, text: str) -> str:
    """A rendered prompt without the user's turn."""
    return text.replace(user.strip(), "", 1)


def _as_in(part: str, text: str) -> str:
    """A part as it stands in a text: trimmed where the text has it trimmed."""
    return part if part in text else part.strip()


class Checked(NamedTuple):
    """What a pass over the student's prompts has shown.

    Attributes:
        lengths: of each prompt, in tokens.
        lines: what is lost of them, a line a kind.
        digest: sha256 of all their token ids.
    """

    lengths: tuple[int, ...]
    lines: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Renderer:
    """Turns problems and feedback into token ids, through the model's own chat template.

    Attributes:
        tokenizer: a Hugging Face tokenizer with a chat template.
        templates: the texts.
        max_context: longest context in tokens; of either view.
        chat_args: further variables of the chat template (for instance enable_thinking=False).
    """

    tokenizer: Any
    templates: Templates = Templates()
    max_context: int = 2048
    chat_args: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def chat(self) -> Chat:
        """The model's chat template."""
        return Chat(self.tokenizer, self.chat_args)

    def check(self, problems: Sequence[Problem]) -> Checked:
        """Render the student's prompt of each problem once, and look at what of it is lost.

        Raises:
            UserError: for a prompt that is longer than `max_context`, and for a chat template that cannot be used
                (`Chat.check`).
        """
        lines, lost, lengths, digest = self.chat.check(), {}, [], hashlib.sha256()
        for problem in problems:
            text = self._steady(problem, self._user(problem))
            ids = self._ids(problem, text)
            lengths.append(len(ids))
            digest.update(json.dumps(ids).encode())
            for kind in self._losses(problem, text, ids):
                lost.setdefault(kind, []).append(problem.id)
        for kind, names in lost.items():
            where = f"{len(names)} problems, the first {names[0]}" if len(names) > 1 else f"problem {names[0]}"
            lines.append(f"{where}: {kind}")
        return Checked(tuple(lengths), tuple(lines), digest.hexdigest())

    def _steady(self, problem: Problem, user: str) -> str:
        """`_chat_text`, rendered twice. Raises UserError where the template gives another text each time."""
        text = self._chat_text(problem, user)
        if self._chat_text(problem, user) != text:
            raise UserError(f"the model's chat template gives problem {problem.id} another text each time")
        return text

    def _losses(self, problem: Problem, text: str, ids: Sequence[int]) -> Iterator[str]:
        if found := self._control.findall(f"{problem.system}\n{problem.prompt}"):
            yield f"the tokenizer's control tokens ({', '.join(sorted(set(found)))}) are left out of what is read"
        system, user = self._plain(problem.system), self._user(problem)
        if not _stands(system, _around(user, text)):
            yield "the chat template leaves the system turn out, or changes it"
        filled = self._teacher_text(problem, "", MARK)
        if not _stands(user, text):
            yield "the chat template changes the user's turn"
        elif not _stands(filled, self._steady(problem, filled)):
            yield "the chat template changes the teacher's turn, which is longer than the student's"
        if "".join(self.tokenizer.decode(ids).split()) != "".join(text.split()):
            yield "the tokenizer cannot write back what it reads (unknown or changed characters)"

    def read(self, problem: Problem) -> tuple[str, str]:
        """(system turn, problem) as they stand in what the model reads: for the record."""
        key = (problem.system, problem.prompt)
        if key not in self._seen:
            text, user = self._chat_text(problem, self._user(problem)), self._user(problem)
            system, prompt = self._plain(problem.system), self._plain(problem.prompt)
            around = _around(user, text)
            self._seen[key] = _as_in(system, around) if _stands(system, around) else "", _as_in(prompt, text)
        return self._seen[key]

    def as_data(self, text: str | None) -> str | None:
        """Feedback as it stands in a prompt, without the tokenizer's control tokens; None stays None."""
        return text if text is None else self._plain(text)

    @cached_property
    def _seen(self) -> dict[tuple[str, str], tuple[str, str]]:
        return {}

    def student(self, problem: Problem) -> tuple[int, ...]:
        """Token ids of the plain prompt. Raises UserError where it is longer than `max_context`."""
        return self._ids(problem, self._chat_text(problem, self._user(problem)))

    def _user(self, problem: Problem) -> str:
        """The student's user turn."""
        return self.templates.student.format(problem=self._plain(problem.prompt))

    def _ids(self, problem: Problem, text: str) -> tuple[int, ...]:
        ids = tuple(self.tokenizer(text, add_special_tokens=False).input_ids)
        if len(ids) > self.max_context:
            raise UserError(
                f"the prompt of problem {problem.id} has {len(ids)} tokens, but max_context is {self.max_context}:"
                " raise max_context or leave the problem out"
            )
        return ids

    def teacher_text(self, problem: Problem, feedback: Feedback) -> str:
        """The teacher's user turn as text, nothing cut."""
        return self._teacher_text(problem, self._plain(feedback.demonstration), self._plain(feedback.critique))

    def teacher(self, problem: Problem, feedback: Feedback) -> tuple[tuple[int, ...], int]:
        """Token ids of the feedback prompt, and how many tokens of its inserted text were cut to fit.

        What is cut is the end of the longer of demonstration and critique, never the problem, never the
        instruction, never the response that will follow.

        Raises:
            UserError: where the prompt does not even fit with both cut to nothing.
        """
        parts = [self._plain(feedback.demonstration), self._plain(feedback.critique)]
        ids = self._encode(problem, self._teacher_text(problem, *parts))
        if len(ids) <= self.max_context:
            return ids, 0
        whole = sum(self._count(part) for part in parts)
        while len(ids) > self.max_context:
            lengths = [self._count(part) for part in parts]
            longest = 0 if lengths[0] >= lengths[1] else 1
            if lengths[longest] == 0:
                raise UserError(
                    f"the teacher's prompt of problem {problem.id} has {len(ids)} tokens without any feedback, but"
                    f" max_context is {self.max_context}: raise max_context"
                )
            keep = max(0, lengths[longest] - (len(ids) - self.max_context))
            parts[longest] = self._head(parts[longest], keep)
            ids = self._encode(problem, self._teacher_text(problem, *parts))
        return ids, whole - sum(self._count(part) for part in parts)

    def critic_text(self, problem: Problem, attempt: str) -> str:
        """The critic's user turn as text, nothing cut."""
        return self.templates.critic.format(
            problem=self._plain(problem.prompt), attempt=self._plain(attempt), answer=self._plain(problem.answer)
        )

    def critic(self, problem: Problem, attempt: str) -> tuple[int, ...]:
        """Token ids of the critic's prompt; an attempt that is too long loses its end.

        Raises:
            UserError: where the prompt does not even fit without the attempt.
        """
        ids = self._encode(problem, self.critic_text(problem, attempt))
        while len(ids) > self.max_context:
            length = self._count(attempt)
            if length == 0:
                raise UserError(
                    f"the critic's prompt of problem {problem.id} has {len(ids)} tokens without any attempt, but"
                    f" max_context is {self.max_context}: raise max_context"
                )
            attempt = self._head(attempt, max(0, length - (len(ids) - self.max_context)))
            ids = self._encode(problem, self.critic_text(problem, attempt))
        return ids

    def clean(self, text: str) -> str:
        """A model's words as data: without the tokenizer's control tokens, and without white space around them."""
        return self._plain(text).strip()

    def _teacher_text(self, problem: Problem, demonstration: str, critique: str) -> str:
        texts = self.templates
        return texts.teacher.format(
            problem=self._plain(problem.prompt),
            solution=texts.solution.format(text=demonstration) if demonstration else "",
            feedback=texts.feedback.format(text=critique) if critique else "",
        )

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _head(self, text: str, tokens: int) -> str:
        """The start of `text` with at most so many of its tokens; shorter than `text` where it has more."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        if tokens >= len(offsets):
            return text
        # Cut where the first token that goes begins: the tokens of one character all begin with it. What is left ends
        # in no white space, which some tokenizers count as part of a token that begins after it.
        return text[: offsets[tokens][0]].rstrip()

    @cached_property
    def _tokens(self) -> frozenset[str]:
        """The tokenizer's control tokens: the named ones (eos and the like), and those it only marks as special."""
        added = (str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return frozenset({*self.tokenizer.all_special_tokens, *added} - {""})

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Any control token; nothing at all where the tokenizer has none."""
        return re.compile("|".join(map(re.escape, sorted(self._tokens, key=len, reverse=True))) or r"(?!)")

    def _plain(self, text: str | None) -> str:
        """Text as data: the tokenizer's control tokens are taken out, so that words cannot open a new turn."""
        text = text or ""
        if self._control.search(text) is None:
            return text
        # Character by character: where a token is taken out, what stands around it may come together as another one.
        kept, lengths = [], sorted({len(token) for token in self._tokens})
        for character in text:
            kept.append(character)
            for length in lengths:
                if "".join(kept[-length:]) in self._tokens:
                    del kept[-length:]
                    break
        return "".join(kept)

    def _encode(self, problem: Problem, user: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(self._chat_text(problem, user), add_special_tokens=False).input_ids)

    def _chat_text(self, problem: Problem, user: str) -> str:
        """The student's or teacher's prompt as the chat template has it."""
        turns = [{"role": "system", "content": self._plain(problem.system)}] if problem.system else []
        try:
            return self.chat([*turns, {"role": "user", "content": user}])
        except ChatRefused as error:
            raise UserError(f"the model's chat template refuses problem {problem.id}: {error}") from error


def views(rollouts: Sequence[Rollout], notes: Sequence[Feedback], render: Renderer) -> tuple[list[View], list[View]]:
    """Both views of each rollout: (student's, teacher's), the response ids shared.

    Without feedback there is nothing to show the teacher: its view is the student's.
    """
    student, teacher = [], []
    for rollout, note in zip(rollouts, notes, strict=True):
        plain = View(rollout.prompt_ids, rollout.response_ids, group=rollout.group)
        student.append(plain)
        if note.signal:
            context, cut = render.teacher(rollout.problem, note)
            teacher.append(View(context, rollout.response_ids, cut, rollout.group))
        else:
            teacher.append(plain)
    return student, teacher
