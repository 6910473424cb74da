"""Probes: a task questions the policy at an evaluation, and nothing that its code does harms the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import Parity, equal, toy_run, train, weights

from vpdlab import UserError, load_run
from vpdlab.run import Run
from vpdlab.run.evaluate import evaluate
from vpdlab.run.probing import PolicyReader
from vpdlab.tasks.common.probes import Question, Reader, checked
from vpdlab.tasks.lexicon import Lexicon
from vpdlab.types import Feedback, Problem

PROBLEM = Problem("a", "What is 3 + 4?", "7")
HINT = Feedback("The number has too many digits.", source="verifier")


class Probing(Parity):
    """Its probes are what it is given: a value, or a function of the reader."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.readers: list[Reader] = []

    def probes(self, reader: Reader) -> Any:
        self.readers.append(reader)
        return self.found(reader) if callable(self.found) else self.found


def by_hand(run: Run, context: tuple[int, ...], text: str) -> list[float]:
    """Log-probabilities of a text's tokens after a context under the live weights, one token at a time."""
    model, temperature = run.learner.policy.model, run.config.temperature
    ids, found = list(context), []
    for token in run.render.encoder.ids(text):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1] / temperature
        found.append(float(logits.log_softmax(-1)[token]))
        ids.append(token)
    return found


# -- the reader --------------------------------------------------------------------------------------------------------


def test_a_response_is_scored_under_either_prompt_as_by_hand() -> None:
    run = toy_run(temperature=0.7)
    questions = [Question(PROBLEM, "The sum is 7"), Question(PROBLEM, "It is 12", HINT)]
    contexts = [run.render.student(PROBLEM), run.render.teacher(PROBLEM, HINT)[0]]
    wanted = [sum(by_hand(run, c, q.response)) for c, q in zip(contexts, questions, strict=True)]
    for by in ("teacher", "student"):  # the same weights before any training
        assert PolicyReader(run, 0, ()).logp(questions, by) == pytest.approx(wanted, abs=1e-4)


def test_only_the_tokens_that_overlap_a_span_count() -> None:
    run = toy_run()
    text, context = "The sum is 7", run.render.teacher(PROBLEM, HINT)[0]
    logps, (ids, offsets) = by_hand(run, context, text), run.render.encoder.located(text)
    spans = ((4, 7), (11, 12))
    wanted = sum(logp for logp, (start, end) in zip(logps, offsets, strict=True) if (start < 7 and end > 4) or end > 11)
    assert len(ids) > 2
    assert PolicyReader(run, 0, ()).logp([Question(PROBLEM, text, HINT, spans)]) == pytest.approx([wanted], abs=1e-4)


def test_teacher_and_student_are_told_apart_once_they_differ() -> None:
    run = toy_run(teacher="frozen")
    asked, reader = [Question(PROBLEM, "7", HINT)], PolicyReader(run, 0, ())
    before = reader.logp(asked)
    train(run, 2)
    assert reader.logp(asked) == before
    assert abs(reader.logp(asked, "student")[0] - before[0]) > 1e-3


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(PROBLEM, ""), "no token of '' lies in"),
        (Question(PROBLEM, "7", spans=((5, 9),)), r"no token of '7' lies in \(\(5, 9\),\)"),
        (Question(PROBLEM, "7" * 4000), "tokens, more than the model's"),
    ],
)
def test_a_question_that_cannot_be_scored_is_refused(question: Question, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PolicyReader(toy_run(), 0, ()).logp([question])
    with pytest.raises(UserError, match="by is 'critic': choose teacher or student"):
        PolicyReader(toy_run(), 0, ()).logp([question], "critic")  # type: ignore[arg-type]


# -- what a task may return --------------------------------------------------------------------------------------------


def test_numbers_of_any_kind_become_plain_ones() -> None:
    found = {"a": torch.tensor(0.5), "b": 1, "c": None, "d": math.nan, "e": -math.inf}
    assert checked(found) == {"a": 0.5, "b": 1.0, "c": None, "d": None, "e": None}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([0.5], r"it returned \[0.5\]: return a dict of names and numbers"),
        ({"a": "much"}, "'a' is 'much', but must be a number or None"),
        ({"a": 1e300}, r"'a' is 1e\+300, but the record holds numbers up to"),
        ({1: 0.5}, "1 is no name"),
        ({"": 0.5}, "'' is no name"),
        ({"a\x1b[2J": 0.5}, "is no name: use printable text"),
        ({"a" * 61: 0.5}, "is no name: use printable text of at most 60 characters"),
        ({f"p{n}": 0.0 for n in range(201)}, "it returned 201 values, but at most 200"),
    ],
)
def test_nonsense_is_refused_in_one_line(found: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        checked(found)
    assert "\n" not in str(caught.value)


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_task_without_probes_has_none_in_its_line() -> None:
    assert "probes" not in evaluate(toy_run(), 0)


def test_probes_are_asked_at_each_evaluation_and_recorded(tmp_path: Path) -> None:
    task = Probing(lambda reader: {"step/now": reader.step, "teacher": sum(a.success for a in reader.answers)})
    run = toy_run(record=True, task=task, out=str(tmp_path / "run"), eval_every=2, steps=3)
    list(run.steps())
    record = load_run(tmp_path / "run").check()
    assert [row["probes"]["step/now"] for row in record.eval_rows] == [0.0, 2.0, 3.0]
    assert record.evals["probes/step/now"].tolist() == [0.0, 2.0, 3.0]
    for row, reader in zip(record.eval_rows, task.readers, strict=True):
        assert len(reader.answers) == row["teacher_problems"]
        assert row["probes"]["teacher"] == pytest.approx((row["teacher_accuracy"] or 0) * row["teacher_problems"])
        assert all(answer.feedback.signal for answer in reader.answers)
        assert [problem.id for problem in reader.problems] == row["problem_ids"]


def test_without_the_teacher_no_probe_is_asked() -> None:
    task = Probing({"a": 1.0})
    assert "probes" not in evaluate(toy_run(task=task, eval_teacher=False), 0)
    assert task.readers == []


def leaving(reader: Reader) -> Mapping[str, float]:
    raise SystemExit("enough")


def asking_too_much(reader: Reader) -> Mapping[str, float]:
    return {"a": reader.logp([Question(PROBLEM, "")])[0]}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda reader: 1 / 0, "ZeroDivisionError: division by zero"),
        (leaving, "SystemExit: enough"),
        (asking_too_much, "no token of '' lies in"),
        ("high", "it returned 'high'"),
    ],
)
def test_probes_that_fail_cost_one_line_and_nothing_else(
    found: Any, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = {"eval_every": 0, "steps": 2, "record": True}
    run = toy_run(task=Probing(found), out=str(tmp_path / "bad"), **fields)
    list(run.steps())
    lines = [line for line in capfd.readouterr().err.splitlines() if "probes" in line]
    assert [f"at step {step}: " in line and message in line for step, line in zip((0, 2), lines, strict=True)] == [
        True
    ] * 2
    assert "task parity: no probes" in lines[0]
    plain = toy_run(out=str(tmp_path / "plain"), **fields)
    list(plain.steps())
    assert equal(weights(run), weights(plain))
    record = load_run(tmp_path / "bad").check()
    assert record.status["state"] == "complete"
    assert [row["probes"] for row in record.eval_rows] == [{}, {}]
    timed = {"seconds", "probes"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in run.evals] == [
        {k: v for k, v in row.items() if k not in timed} for row in plain.evals
    ]


def test_probes_leave_the_process_and_the_draws_as_they_were() -> None:
    def careless(reader: Reader) -> Mapping[str, float]:
        torch.set_grad_enabled(False)
        return {"a": reader.logp([Question(PROBLEM, "7", HINT)])[0]}

    run, plain = toy_run(task=Probing(careless)), toy_run()
    assert evaluate(run, 0)["probes"]["a"] < 0
    evaluate(plain, 0)
    assert torch.is_grad_enabled()
    train(run, 2)
    train(plain, 2)
    assert equal(weights(run), weights(plain))


def test_a_resumed_run_keeps_the_probes_it_had(tmp_path: Path) -> None:
    task = Probing(lambda reader: {"now": reader.step})
    fields: dict[str, Any] = {
        "record": True, "out": str(tmp_path / "run"), "eval_every": 1, "checkpoint_every": 1, "steps": 3, "task": task,
    }  # fmt: skip
    for row in toy_run(**fields).steps():
        if row["step"] == 2:
            break
    run = toy_run(**fields, resume=True, resume_anyway=True)
    assert [row["probes"] for row in run.evals] == [{"now": 0.0}, {"now": 1.0}, {"now": 2.0}]
    list(run.steps())
    assert [row["probes"]["now"] for row in load_run(tmp_path / "run").eval_rows] == [0, 1, 2, 3]


# -- belief ------------------------------------------------------------------------------------------------------------


SMALL = {"size": 40, "heldout": 20}


def test_belief_is_the_probability_of_the_told_word_by_hand() -> None:
    task = Lexicon(**SMALL)
    run = toy_run(task=task, max_context=190, max_new_tokens=60, eval_problems=2, eval_samples=1)
    found = task.probes(PolicyReader(run, 0, ()))
    assert list(found) == ["belief/Ada", "belief/Bob", "teacher_accuracy/Ada", "teacher_accuracy/Bob"]
    probes = [probe for probe in task.belief_probes(16) if probe.voice == "Bob"]
    values = []
    for probe in probes:
        context = run.render.teacher(probe.problem, Feedback(probe.critique))[0]
        (word,) = probe.told
        given, rest = f"{probe.name}", f" {word}"
        logps = by_hand(run, context, given + rest)
        _, offsets = run.render.encoder.located(given + rest)
        values.append(
            math.exp(sum(logp for logp, (_, end) in zip(logps, offsets, strict=True) if end > len(given) + 1))
        )
    assert found["belief/Bob"] == pytest.approx(sum(values) / 16, rel=1e-3)
