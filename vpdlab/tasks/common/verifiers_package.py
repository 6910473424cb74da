"""Environments of the package `verifiers` (versions 0.1.3 to 0.1.5), driven from outside: their rows, their replies,
their rubric's reward.

The package's own loop asks a server for each turn. Here the run samples, so the loop's other half is called directly,
in the order in which the package's `MultiTurnEnv.rollout` calls it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from vpdlab.errors import EnvironmentFailed, UserError, first_line, in_one_line, shown
from vpdlab.tasks.common.tools import Call
from vpdlab.types import Outcome

INSTALL = "pip install 'vpdlab[verifiers]'"


def load(name: str, arguments: Mapping[str, Any]) -> Any:
    """The environment of that name.

    Raises:
        UserError: where the package or the environment is missing, or its `load_environment` fails.
    """
    try:
        from verifiers import load_environment  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(f"task verifiers needs the package verifiers: {INSTALL} ({first_line(error)})") from error
    try:
        found = load_environment(name, **arguments)
    except Exception as error:
        raise UserError(f"task verifiers: environment {shown(name)} cannot be loaded: {in_one_line(error)}") from error
    if getattr(found, "message_type", "chat") != "chat":
        raise UserError(f"task verifiers: environment {shown(name)} is for completions, not for chats")
    return found


def rows(environment: Any, split: str) -> list[dict[str, Any]]:
    """The rows of "train" or "test" (the package's evaluation set); none where it has none."""
    get = environment.get_dataset if split == "train" else environment.get_eval_dataset
    held = environment.dataset if split == "train" else environment.eval_dataset
    return [dict(row) for row in get()] if held is not None else []


def fresh_state(row: Mapping[str, Any]) -> dict[str, Any]:
    """The state with which the package begins a rollout."""
    return {
        "id": 0, "prompt": list(row["prompt"]), "completion": [], "answer": row.get("answer", ""),
        "task": row.get("task", "default"), "info": row.get("info") or {}, "responses": [], "turn": 0,
        "timing": {"generation_ms": 0.0, "scoring_ms": 0.0, "total_ms": 0.0},
    }  # fmt: skip


class Conversation:
    """One rollout of such an environment.

    Args:
        environment: of the package.
        row: of its data set.
        seconds: limit of each of its answers.
    """

    def __init__(self, environment: Any, row: Mapping[str, Any], seconds: float) -> None:
        self._environment, self._row, self._seconds = environment, row, seconds
        self._state = self._wait(environment.setup_state(fresh_state(row)))
        self._messages: list[Any] = list(row["prompt"])
        self._completion: list[Any] = []

    def add(self, text: str, calls: Sequence[Call]) -> None:
        """Append a turn of the policy."""
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [_as_openai(number, call) for number, call in enumerate(calls)]
        said = SimpleNamespace(content=text, tool_calls=message.get("tool_calls"))
        self._state["responses"].append(SimpleNamespace(id="", choices=[SimpleNamespace(message=said)]))
        self._state["turn"] += 1
        self._append([message])

    def completed(self) -> bool:
        """Whether the environment ends the rollout here."""
        return bool(self._wait(self._environment.is_completed(self._messages, self._state)))

    def reply(self) -> list[dict[str, Any]]:
        """The environment's next messages."""
        messages, self._state = self._wait(self._environment.env_response(self._messages, self._state))
        self._append(messages)
        return [dict(message) for message in messages]

    def reward(self) -> float:
        """The rubric's weighted sum."""
        state, row = self._state, self._row
        self._state["completion"] = self._completion
        scored = self._environment.rubric.score_rollout(
            row["prompt"], self._completion, state["answer"], state, state["task"], state["info"]
        )
        return float(self._wait(scored).reward)

    def _append(self, messages: Sequence[Any]) -> None:
        self._messages += messages
        self._completion += messages

    def _wait(self, value: Any) -> Any:
        return waited(value, self._seconds)


def judged(reward: float, success: float, notes: str | None) -> Outcome:
    """The rubric's reward as an outcome: held within 0 and 1, right from `success` on."""
    return Outcome(min(1.0, max(0.0, reward)), notes, right=reward >= success)


def waited(value: Any, seconds: float) -> Any:
    """The value, or what an awaitable gives. It runs in a thread of its own, since a notebook has a loop already.

    Raises:
        EnvironmentFailed: where it takes longer.
    """
    if not inspect.isawaitable(value):
        return value
    done: list[Any] = []
    thread = threading.Thread(target=_run, args=(lambda: _limited(value, seconds), done), daemon=True)
    thread.start()
    thread.join(seconds + 1.0)
    if not done or isinstance(done[0], TimeoutError):
        raise EnvironmentFailed(f"an environment of the package verifiers took longer than {seconds:g} seconds")
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0].result


async def _limited(value: Awaitable[Any], seconds: float) -> Any:
    return SimpleNamespace(result=await asyncio.wait_for(value, seconds))


def _run(start: Callable[[], Any], done: list[Any]) -> None:
    try:
        done.append(asyncio.run(start()))
    except BaseException as error:  # noqa: BLE001 (handed to the thread that waits)
        done.append(error)


def _as_openai(number: int, call: Call) -> Any:
    """A call as the package reads it from a server's answer."""
    function = SimpleNamespace(name=call.name, arguments=json.dumps(dict(call.arguments)))
    return SimpleNamespace(id=f"call_{number}", type="function", function=function)
