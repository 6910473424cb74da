"""Environments: retry, python, lookup; and calls of tools, well formed or not."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from vpdlab.errors import UserError
from vpdlab.tasks import make_task
from vpdlab.tasks.common.episodes import ANOTHER, Episode, Reply, messages, opened
from vpdlab.tasks.common.tools import read_calls
from vpdlab.tasks.environments import Opened, make_environment, names
from vpdlab.types import ASSISTANT, Outcome, Problem, Turn

walled = pytest.mark.skipif(shutil.which("bwrap") is None, reason="missing: bubblewrap")


def said(environment: Any, problem: Problem, *texts: str) -> list[Any]:
    """The environment's answers to a scripted policy, in one episode."""
    episode, found = Episode(problem), []
    for text in texts:
        episode.turns.append(Turn(ASSISTANT, text, 0, 1))
        answer = environment.step(episode, text)
        found.append(answer)
        if isinstance(answer, Reply):
            episode.turns.append(Turn(answer.role, answer.text, 1, 2))
    return found


@pytest.fixture(scope="module")
def sums() -> Any:
    return make_task("arithmetic")


@pytest.fixture(scope="module")
def words() -> Any:
    return make_task("lexicon", names="4")


def test_every_file_is_an_environment() -> None:
    assert {"lookup", "one_turn", "python", "retry"} <= set(names())


# -- retry ------------------------------------------------------------------------------------------------------


def test_retry_goes_on_until_a_right_answer(words: Any) -> None:
    retry, problem = make_environment("retry", words), words.load("train")[0]
    wrong, right = said(retry, problem, "no digits here", problem.answer)
    assert isinstance(wrong, Reply) and wrong.role == "user" and "Now solve the problem correctly." in wrong.text
    assert isinstance(right, Outcome) and right.success


def test_retry_restates_the_problem_and_says_which_attempt_the_words_are_about(words: Any) -> None:
    retry = make_environment("retry", words, restate="true", about="last")
    problem = words.load("train")[0]
    first, second = said(retry, problem, "nothing", "nothing")
    assert problem.prompt in first.text and first.text != second.text  # another attempt, other words
    episode = Episode(problem, turns=[Turn(ASSISTANT, "nothing", 0, 1)] * 2)
    retry.step(episode, "nothing")
    assert retry.end(episode, "limit").turn == 2


def test_each_attempt_is_a_rollout_of_its_own_to_the_task() -> None:
    episode = Episode(Problem("p", "?", "!"), 3, [Turn(ASSISTANT, "a", 0, 1), Turn("user", "b", 1, 2)])
    assert episode.attempt("a").index == 3
    episode.turns.append(Turn(ASSISTANT, "c", 2, 3))
    assert episode.attempt("c").index == 3 + ANOTHER


# -- the turns that open an episode -----------------------------------------------------------------------------


def test_an_opened_problem_reads_as_the_environment_opens_it() -> None:
    problem = Problem("p", "2 + 2?", "4", system="Be brief.")
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "1 + 1?"},
             {"role": "assistant", "content": "2"}, {"role": "user", "content": "2 + 2?"}]  # fmt: skip
    found = opened(problem, turns)
    assert (found.system, found.prompt) == ("S", "2 + 2?")
    assert found.history == (("user", "1 + 1?"), ("assistant", "2"))
    assert opened(problem, messages(problem)) == problem
    for bad, why in (([], "must end"), (turns[:3], "must end"), ([turns[1], turns[0], turns[3]], "must be the first")):
        with pytest.raises(ValueError, match=why):
            opened(problem, bad)


# -- lookup -----------------------------------------------------------------------------------------------------


def test_a_word_can_be_asked_for_at_a_price_and_a_right_answer_stays_right(words: Any) -> None:
    lookup, problem = make_environment("lookup", words, price="0.25"), words.load("train")[0]
    word = problem.data["names"][0]
    meaning, unknown, right = said(lookup, problem, f"{word}?", "blorp", problem.answer)
    assert word in meaning.text and "no word blorp" in unknown.text
    assert right == Outcome(0.5, right.notes, right.answer, True) and right.success
    assert said(lookup, problem, problem.answer)[0].reward == 1.0
    assert not said(lookup, problem, f"{word}", "0 0 0 0 0")[1].success


def test_lookup_needs_words_and_a_price(sums: Any, words: Any) -> None:
    with pytest.raises(UserError, match="lookup needs task lexicon"):
        make_environment("lookup", sums)
    with pytest.raises(UserError, match="price is 2"):
        make_environment("lookup", words, price="2")


# -- calls ------------------------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "python",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string"}, "n": {"type": "integer"}},
                "required": ["code"],
            },
        },
    }
]


def called(body: Any, end: str = "</tool_call>") -> str:
    return f"I look.\n<tool_call>\n{body if isinstance(body, str) else json.dumps(body)}\n{end}"


WELL = [
    called({"name": "python", "arguments": {"code": "print(1)"}}),
    called({"name": "python", "arguments": {"code": "print(1)", "n": 3}}),
    called({"name": "python", "parameters": {"code": "print(1)"}}),
    called({"name": "python", "arguments": json.dumps({"code": "print(1)"})}),
]
MALFORMED = {
    "not valid JSON": called("{'name': 'python'}"),
    "never closed": called({"name": "python", "arguments": {"code": "1"}}, ""),
    '"name" and "arguments"': called([1]),
    "There is no function": called({"name": "bash", "arguments": {"code": "ls"}}),
    "needs the argument 'code'": called({"name": "python", "arguments": {}}),
    "has no argument": called({"name": "python", "arguments": {"code": "1", "x": 1}}),
    "must be of type string": called({"name": "python", "arguments": {"code": 1}}),
    "must be of type integer": called({"name": "python", "arguments": {"code": "1", "n": True}}),
    "must be a JSON object": called({"name": "python", "arguments": [1]}),
    "are text, not a JSON object": called({"name": "python", "arguments": "print(1)"}),
}


@pytest.mark.parametrize("text", WELL)
def test_well_formed_calls_are_read(text: str) -> None:
    (call,) = read_calls(text, TOOLS, native=True)
    assert (call.name, call.arguments["code"], call.wrong) == ("python", "print(1)", "")


@pytest.mark.parametrize("wrong", MALFORMED)
def test_a_malformed_call_is_told_what_is_wrong(wrong: str) -> None:
    (call,) = read_calls(MALFORMED[wrong], TOOLS, native=True)
    assert wrong in call.wrong


def test_several_calls_are_read_in_order_up_to_a_limit() -> None:
    calls = read_calls("".join(WELL[:2] * 5), TOOLS, native=True)
    assert len(calls) == 9 and "2 more calls" in calls[-1].wrong


def test_fenced_calls_have_the_tools_label() -> None:
    text = "First\n```python\nprint(1)\n```\nand\n```text\nno call\n```\n```python\n\n```\n"
    first, second = read_calls(text, TOOLS, native=False)
    assert first.arguments == {"code": "print(1)\n"} or first.arguments == {"code": "print(1)"}
    assert not first.wrong and "empty" in second.wrong
    assert "never closed" in read_calls("```python\nprint(1)", TOOLS, native=False)[0].wrong
    assert read_calls("The answer is 4.", TOOLS, native=False) == []


# -- python -----------------------------------------------------------------------------------------------------


@walled
def test_programs_run_behind_the_wall_and_the_answer_is_the_tasks(sums: Any) -> None:
    python, problem = make_environment("python", sums, seconds="2"), sums.load("train")[0]
    printed, loud, raised, silent, answer = said(
        python, problem, "```python\nprint(6 * 7)\n```", "```python\nprint('x' * 9999)\n```",
        "```python\n1 / 0\n```", "```python\nx = 1\n```", f"<answer>{problem.answer}</answer>",
    )  # fmt: skip
    assert (printed.role, printed.text) == ("tool", "42")
    assert len(loud.text) <= 2000 and "characters left out" in loud.text
    assert "ZeroDivisionError" in raised.text and "printed nothing" in silent.text
    assert isinstance(answer, Outcome)


@walled
def test_a_program_that_does_not_end_is_stopped_and_the_machine_is_out_of_reach(sums: Any) -> None:
    python, problem = make_environment("python", sums, seconds="1"), sums.load("train")[0]
    slow, net = said(
        python, problem, "```python\nprint('began', flush=True)\nwhile True: pass\n```",
        "```python\nimport socket\nsocket.create_connection(('1.1.1.1', 53), 1)\n```",
    )  # fmt: skip
    assert "began" in slow.text and "stopped after 1 seconds" in slow.text
    assert "Error" in net.text


@walled
@pytest.mark.parametrize("text", WELL)
def test_every_well_formed_native_call_is_answered(sums: Any, text: str) -> None:
    python, problem = make_environment("python", sums), sums.load("train")[0]
    python.native_tools = True
    (answer,) = said(python, problem, text.replace(', "n": 3', ""))
    assert answer == Reply("1", "tool")


@walled
def test_every_malformed_native_call_gets_a_reply(sums: Any) -> None:
    python, problem = make_environment("python", sums), sums.load("train")[0]
    python.native_tools = True
    for answer in said(python, problem, *MALFORMED.values()):
        assert isinstance(answer, Reply) and answer.text.startswith("Error: ")


@walled
def test_blocks_that_are_answers_are_no_calls(sums: Any) -> None:
    class Code:
        name = "code"

    with pytest.raises(UserError, match="label=run"):
        make_environment("python", Code())
    assert make_environment("python", Code(), label="run").tools[0]["function"]["name"] == "run"


@pytest.mark.parametrize("judge", [None, {"wall": "bubblewrap"}])
def test_the_wall_of_a_tool_is_recorded_and_else_that_of_the_task(judge: Any) -> None:
    class Judge:
        name, environment = "judge", judge

    class Tool:
        name = "tool"

    assert Opened(Judge(), Tool()).environment == judge
    Tool.wall = {"wall": "unsafe"}
    assert Opened(Judge(), Tool()).environment == {"wall": "unsafe"}
