"""Environments of the package `verifiers`: the same replies and rewards as in the package's own loop."""

from __future__ import annotations

import asyncio
import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest

from vpdlab.errors import EnvironmentFailed, UserError
from vpdlab.tasks import make_task
from vpdlab.tasks.common.episodes import Episode, Reply
from vpdlab.tasks.common.verifiers_package import judged, waited
from vpdlab.tasks.environments import make_environment
from vpdlab.types import ASSISTANT, Outcome, Rollout, Turn

try:
    import verifiers as package
except ImportError:
    package = None
extra = pytest.mark.skipif(package is None, reason="extra: the package verifiers")


def guessing() -> Any:
    """An example of the package's kind: guess a number; the reply says higher or lower; fewer turns, more reward."""
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    class Guess(package.MultiTurnEnv):
        async def is_completed(self, messages: Any, state: Any, **more: Any) -> bool:
            return state["answer"] in messages[-1]["content"] or await super().is_completed(messages, state, **more)

        async def env_response(self, messages: Any, state: Any, **more: Any) -> Any:
            low = int(messages[-1]["content"]) < int(state["answer"])
            return [{"role": "user", "content": "Higher." if low else "Lower."}], state

    def found(completion: Any, answer: str) -> float:
        return float(answer in completion[-1]["content"])

    def quick(completion: Any) -> float:
        return 1.0 / len(completion)

    system = {"role": "system", "content": "Guess."}
    rows = [(n, [system, {"role": "user", "content": "Guess my number."}]) for n in range(10, 30)]
    table = pa.Table.from_pylist([{"id": n, "prompt": prompt, "answer": str(n)} for n, prompt in rows])
    data = Dataset(InMemoryTable(table), fingerprint="guess")  # some versions of pyarrow and dill cannot make one up
    return Guess(dataset=data, rubric=package.Rubric(funcs=[found, quick], weights=[0.8, 0.2]),
                 max_turns=4)  # fmt: skip


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("guess_a_number")
    module.load_environment = guessing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "guess_a_number", module)
    return make_task("verifiers", environment="guess-a-number", heldout="4", success="0.8")


def own_loop(package_environment: Any, row: dict[str, Any], texts: list[str]) -> tuple[list[str], float]:
    """The package's loop with a scripted model: the environment's replies, and the reward."""
    script = iter(texts)

    async def answer(*args: Any, **more: Any) -> Any:
        from openai.types.chat import ChatCompletion

        message = {"role": "assistant", "content": next(script)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return ChatCompletion(id="x", choices=[choice], created=0, model="m", object="chat.completion")  # type: ignore

    package_environment.get_model_response = answer
    completion, state = asyncio.run(package_environment.rollout(None, "m", row["prompt"], row["answer"]))
    score = asyncio.run(package_environment.rubric.score_rollout(row["prompt"], completion, row["answer"], state))
    return [message["content"] for message in completion if message["role"] == "user"], score.reward


@extra
@pytest.mark.parametrize("texts", [["12"], ["20", "11", "12"], ["1", "2", "3", "4"]])
def test_replies_and_reward_are_those_of_the_packages_own_loop(task: Any, texts: list[str]) -> None:
    problem = task.load("train")[2]
    assert problem.answer == "12" and problem.system == "Guess."
    environment, episode, replies = make_environment("verifiers", task), Episode(problem), []
    answer: Any = None
    for text in texts:
        episode.turns.append(Turn(ASSISTANT, text, 0, 1))
        answer = environment.step(episode, text)
        if isinstance(answer, Reply):
            replies.append(answer.text)
    expected, reward = own_loop(guessing(), task.rows[problem.id], texts)
    assert replies == expected
    assert isinstance(answer, Outcome) and answer.reward == pytest.approx(reward)
    assert answer.success == (reward >= 0.8)


@extra
def test_one_turn_is_judged_by_the_rubric(task: Any) -> None:
    problem = task.load("test")[0]
    right = task.verify(Rollout(problem, 0, 0, (), (), (), problem.answer, True))
    assert right.reward == pytest.approx(1.0) and right.success
    assert len(task.load("test")) == 4 and len(task.load("train")) == 16


@extra
def test_an_environment_that_cannot_be_loaded_is_one_line(task: Any) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        make_task("verifiers", environment="no-such-environment")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(UserError, match=r"needs the package verifiers: pip install"):
        make_task("verifiers", environment="gsm8k")


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "environment is empty"), ({"environment": "x", "arguments": "{"}, "must be JSON"),
     ({"environment": "x", "arguments": "[1]"}, "JSON object")],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_task("verifiers", **options)


def test_a_slow_answer_is_an_error_and_a_loop_that_runs_is_no_hindrance() -> None:
    async def inside() -> Any:
        async def quick() -> int:
            return 3

        return waited(quick(), 5.0)

    assert asyncio.run(inside()) == 3
    with pytest.raises(EnvironmentFailed, match="longer than 0.05 seconds"):
        waited(asyncio.sleep(5), 0.05)
    assert waited(4, 1.0) == 4


def test_a_rubrics_reward_is_held_within_bounds_and_right_by_its_own_measure() -> None:
    assert judged(1.4, 1.2, None) == Outcome(1.0, None, right=True)
    assert judged(-0.5, 0.0, "x") == Outcome(0.0, "x", right=False)
    assert not judged(1.0, 1.5, None).success


def test_the_environment_needs_the_task() -> None:
    with pytest.raises(UserError, match="needs task verifiers"):
        make_environment("verifiers", SimpleNamespace(name="arithmetic"))
