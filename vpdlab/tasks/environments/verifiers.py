"""Verifiers: the turns of an environment of the package `verifiers`, which task verifiers has loaded."""

from __future__ import annotations

from typing import Any

from vpdlab.errors import UserError
from vpdlab.tasks import Task
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.tasks.common.tools import read_calls
from vpdlab.tasks.common.verifiers_package import Conversation, judged
from vpdlab.types import Outcome, Problem


class VerifiersEnvironment:
    """The replies and the reward of such an environment.

    Tools of the environment need a model whose chat template describes tools. A malformed call is answered with what is
    wrong with it; the environment does not see that turn's calls.

    Args:
        task: of kind verifiers.

    Raises:
        UserError: for another task.
    """

    name = "verifiers"

    def __init__(self, task: Task) -> None:
        if getattr(task, "package", None) is None:
            raise UserError(f"environment verifiers needs task verifiers, not {task.name}")
        self.task: Any = task
        self.native_tools = False

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The schemas of the environment's tools; none for most."""
        return list(getattr(self.task.package, "oai_tools", None) or [])

    def start(self, problem: Problem) -> list[Message]:
        """The prompt of the problem's row. Raises UserError where the model cannot call the environment's tools."""
        if self.tools and not self.native_tools:
            raise UserError(
                "this environment has tools, but the model's chat template describes none: choose another model"
            )
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """The environment's reply, or the rubric's reward where it ends the conversation."""
        talk = self._talk(episode)
        calls = read_calls(text, self.tools, native=True) if self.tools else []
        if wrong := [call.wrong for call in calls if call.wrong]:
            return Reply(f"Error: {' '.join(wrong)}", "tool")
        talk.add(text, calls)
        replies = [] if talk.completed() else talk.reply()
        if not replies:
            return judged(talk.reward(), self.task.success, None)
        role = "tool" if all(message["role"] == "tool" for message in replies) else "user"
        return Reply("\n\n".join(str(message["content"]) for message in replies), role)

    def end(self, episode: Episode, why: str) -> Outcome:
        """The rubric's reward of what there is."""
        return judged(self._talk(episode).reward(), self.task.success, why)

    def _talk(self, episode: Episode) -> Conversation:
        if "talk" not in episode.state:
            episode.state["talk"] = self.task.conversation(episode.problem)
        return episode.state["talk"]
