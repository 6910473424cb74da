"""What stands between two turns of the policy: an environment's reply in the frame of the model's chat template.

A conversation is never rendered again: its token ids are those that the policy read and wrote, one after the other.
Only the piece after each of its turns comes from the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vpdlab.errors import UserError
from vpdlab.prompts.chat import Chat, ChatRefused
from vpdlab.prompts.encoding import Encoder

ASKED, ANSWERED, REPLIED = "askedmark 1", "answeredmark 2", "repliedmark 3"


class Turns:
    """Frames replies with a chat template.

    Args:
        chat: the template.
        encoder: the tokenizer's operations on text.
    """

    def __init__(self, chat: Chat, encoder: Encoder) -> None:
        self._chat, self._encoder = chat, encoder

    @cached_property
    def tools(self) -> bool:
        """Whether the template has turns of tools; otherwise they are shown as the user's."""
        return self._between("tool", REPLIED) is not None

    def after(self, ids: Sequence[int], role: str, text: str) -> tuple[int, ...]:
        """Token ids to append after a turn of the policy: its end where that is missing, the reply, and the opening of
        the next turn. Control tokens in the reply are removed.

        Args:
            ids: of the policy's turn.
            role: "user" or "tool".

        Raises:
            UserError: where the template takes no second turn of the user.
        """
        plain = self._encoder.plain(text)
        between = self._between(role if role != "tool" or self.tools else "user", plain)
        if between is None:
            raise UserError("the model's chat template refuses or drops a reply to its answer: it has no further turns")
        found = self._encoder.ids(between)
        return found[1:] if ids and found and found[0] == ids[-1] else found  # the policy ended its turn itself

    def _between(self, role: str, text: str) -> str | None:
        """What the template puts between an answer and the next one; None where it refuses or drops the reply."""
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED},
            {"role": role, "content": text},
        ]  # fmt: skip
        try:
            whole = self._chat(turns)
        except ChatRefused:
            return None
        _, answered, after = whole.partition(ANSWERED)
        return after if answered and text.strip() in after else None
