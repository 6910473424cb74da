"""Critics: who is asked, what counts as giving the answer away, and a judge that learns."""

from __future__ import annotations

import pytest
import torch
from toy import equal, toy_run, train, weights

from vpdlab.errors import UserError
from vpdlab.feedback import Context
from vpdlab.feedback.critics import LONGEST, CriticSource, Critique, as_data, gives_away
from vpdlab.learn.critic_update import reinforce_critic
from vpdlab.learn.results import MStep
from vpdlab.record import METRICS, load_run
from vpdlab.types import Outcome, Problem, Rollout, View

CRITIQUE = {"feedback": ("critique",), "critic_max_tokens": 7}
CHOICE = Problem("c", "?", "B", data={"choices": {"A": "argon", "B": "neon gas", "C": "He"}})


def rollout(index: int, reward: float = 0.0, problem: Problem = CHOICE, group: int = 0) -> Rollout:
    return Rollout(problem, group, index, (1,), (2,), (-0.1,), f"answer {index}", True, Outcome(reward))


class Scripted:
    """A critic that says what it was told to say."""

    def __init__(self, *said: str | None) -> None:
        self.said, self.asked = said, []

    def __call__(self, rollouts, context) -> list[Critique]:
        self.asked.append([(r.group, r.index) for r in rollouts])
        words = [self.said[i % len(self.said)] for i in range(len(rollouts))]
        return [Critique(text, "" if text else "the critic did not answer") for text in words]


@pytest.mark.parametrize(
    ("text", "leaked"),
    [
        ("Look at (B) again.", True),
        ("The right option B was overlooked.", True),
        ("The answer is B.", True),
        ("Clearly B is correct here.", True),
        ("It should have been Neon  Gas.", True),
        ("The attempt confuses groups. A noble element was wanted.", False),
        ("Boron is no noble gas.", False),
        ("Option A is not noble.", False),
    ],
)
def test_a_letter_is_given_away_by_its_name_or_its_words(text, leaked) -> None:
    assert gives_away(text, CHOICE) is leaked


@pytest.mark.parametrize(
    ("answer", "text", "leaked"),
    [
        ("83", "The sum is 83, not 73.", True),
        ("83", "It was 83.", True),
        ("83", "The number 183 is too high, 83.5 too.", False),
        ("x + 1", "Simplify to X  + 1 first.", True),
        ("return a", "You never return anything.", False),
        ("", "Anything.", False),
    ],
)
def test_any_other_answer_is_given_away_by_standing_there(answer, text, leaked) -> None:
    assert gives_away(text, Problem("p", "?", answer)) is leaked


def test_failures_are_criticised_and_successes_shown_a_sibling() -> None:
    critic = Scripted("Wrong family.")
    source = CriticSource(critic)
    group = [rollout(0), rollout(1, 1.0), rollout(2), rollout(3, 1.0)]
    notes = source(group, Context(group))
    assert critic.asked == [[(0, 0), (0, 2)]]
    assert [note.source for note in notes] == ["critique", "sibling", "critique", "sibling"]
    assert notes[0].critique == "Wrong family." and notes[1].demonstration == "answer 3"
    (alone,) = source([group[1]], Context(group[:2]))
    assert not alone.signal and alone.reason == "the only success of its group"


def test_a_critic_that_fails_is_a_reason_and_a_leak_can_be_dropped() -> None:
    group = [rollout(0), rollout(1)]
    silent, leaky = CriticSource(Scripted(None, "It is option B."), drop_leaks=True)(group, Context(group))
    assert (silent.signal, silent.reason) == (False, "the critic did not answer")
    assert (leaky.signal, leaky.leaked, leaky.reason) == (False, True, "the critique gave the answer away")
    _, kept = CriticSource(Scripted(None, "It is option B."))(group, Context(group))
    assert kept.leaked is True and kept.signal


def test_a_critics_words_are_data() -> None:
    render = toy_run(**CRITIQUE).render
    assert as_data("<think>The answer is 8.</think> Too<|end|> low.<|assistant|>", render) == "Too low."
    long = as_data("word " * 2000, render)
    assert len(long) <= LONGEST and long.endswith("…")


@pytest.mark.parametrize("critic", ["live", "frozen"])
def test_the_policy_criticises_itself_and_the_record_has_its_words(critic, tmp_path) -> None:
    run = toy_run(record=True, out=str(tmp_path / "run"), critic=critic, eval_every=-1, **CRITIQUE)
    list(run.steps())
    record = load_run(tmp_path / "run")
    for row in record.rows:
        assert set(row) == set(METRICS)
        assert row["critiques"] > 0 and row["leaked"] is not None and row["critic_loss"] is None
    rollouts = record.rollouts(1)
    failed = [r for r in rollouts if not r["success"]]
    assert failed and all(r["source"] == "critique" and r["leaked"] is not None for r in failed if r["signal"])
    assert all(r["critique"] in r["teacher_prompt"] for r in failed if r["signal"])
    assert all(r["critique"] is None for r in rollouts if r["success"])


def test_the_critic_reads_problem_attempt_and_answer() -> None:
    run = toy_run(**CRITIQUE)
    problem = run.task.load("train")[0]
    text = run.render.critic_text(problem, "My attempt<|end|>.")
    assert problem.prompt in text and "My attempt." in text and problem.answer in text
    long = run.render.critic(problem, "5 " * 400)
    assert len(long) <= run.render.max_context


def test_the_same_seed_says_the_same_and_a_frozen_critic_does_not_change() -> None:
    runs = [toy_run(critic="frozen", **CRITIQUE), toy_run(critic="frozen", **CRITIQUE)]
    train(runs[0], 2)
    found = []
    for run in runs:
        task = run.task
        rollouts = [
            Rollout(p, g, 0, run.render.student(p), (70,), (0.0,), "It is 9.", True, Outcome(0.0))
            for g, p in enumerate(task.load("train")[:3])
        ]
        found.append([one.critique for one in run.critic(rollouts, Context(rollouts, step=5))])
    assert found[0] == found[1]


def test_only_what_no_earlier_source_speaks_of_is_asked_about() -> None:
    run = toy_run(**(CRITIQUE | {"feedback": ("verifier", "critique"), "feedback_mode": "first"}))
    run.critic = CriticSource(Scripted("Wrong."))
    problem = run.task.load("train")[0]
    spoken = Rollout(problem, 0, 0, (1,), (2,), (0.0,), "x", True, Outcome(0.0, "Too low."))
    silent = Rollout(problem, 0, 1, (1,), (2,), (0.0,), "x", True, Outcome(0.0, None))
    notes = run.feedback([spoken, silent], step=1)
    assert run.critic.critic.asked == [[(0, 1)]]
    assert [note.source for note in notes] == ["verifier", "critique"]


def test_the_rollouts_are_on_disk_before_a_critic_is_asked(tmp_path) -> None:
    run = toy_run(record=True, out=str(tmp_path / "run"), eval_every=-1, steps=1, follow=0, **CRITIQUE)
    found = []

    class Looking(Scripted):
        def __call__(self, rollouts, context) -> list[Critique]:
            found.extend(load_run(tmp_path / "run").rollouts(context.step))
            return super().__call__(rollouts, context)

    run.critic = CriticSource(Looking("Wrong."))
    list(run.steps())
    assert len(found) == 16 and {r["reason"] for r in found} == {"the critic was not asked yet"}
    after = load_run(tmp_path / "run").rollouts(1)
    assert "Wrong." in {r["critique"] for r in after}


# -- a judge that learns -------------------------------------------------------------------------------------------


def test_a_judge_that_learns_reinforces_what_lowered_the_belief_in_failures() -> None:
    run = toy_run(critic_learns=True, lr=1e-2, **CRITIQUE)
    problems = run.task.load("train")[:4]
    failures = [
        Rollout(p, g, 0, run.render.student(p), (70, 71), (0.0, 0.0), "It is 9.", True, Outcome(0.0))
        for g, p in enumerate(problems)
    ]
    batch = run.pack(failures, run.critic(failures, Context(failures, step=1)))
    views = [View(one.sampled.context_ids, one.sampled.tokens.ids) for one in batch.feedback]
    policy = run.learner.policy
    before = policy.score(views)
    drop = torch.tensor([1.0, 0.0, 0.0, -1.0]) * batch.lengths
    loss = reinforce_critic(run.learner, batch, MStep(student_logp=drop, teacher_logp=torch.zeros(4)))
    change = policy.score(views) - before
    assert loss is not None and change[0] > 0.01 and change[3] < -0.01


def test_equal_critiques_teach_the_judge_nothing() -> None:
    run = toy_run(critic_learns=True, **CRITIQUE)
    start = weights(run)
    batch = run.pack([], [])
    assert reinforce_critic(run.learner, batch, MStep()) is None
    problem = run.task.load("train")[0]
    failures = [Rollout(problem, 0, i, (1,), (70,), (0.0,), "It is 9.", True, Outcome(0.0)) for i in range(3)]
    batch = run.pack(failures, run.critic(failures, Context(failures, step=1)))
    assert reinforce_critic(run.learner, batch, MStep(student_logp=torch.zeros(3), teacher_logp=torch.zeros(3))) == 0.0
    assert equal(weights(run), start)


def test_a_run_with_a_learning_judge_says_so() -> None:
    row = train(toy_run(critic_learns=True, **CRITIQUE), 1)[0]
    assert row["critic_loss"] is not None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_context": 60}, "the critic's prompt of problem .* tokens without any attempt, but max_context is 60"),
        ({"max_context": 500}, "max_context 500 [+] critic_max_tokens 20 exceeds the 512 positions"),
    ],
)
def test_a_critic_that_has_no_room_is_refused_before_the_first_step(fields, words) -> None:
    with pytest.raises(UserError, match=words):
        toy_run(**(CRITIQUE | {"critic_max_tokens": 20} | fields))


def test_a_judge_that_cannot_learn_is_refused() -> None:
    with pytest.raises(UserError, match="critic_learns needs critic live: critic frozen does not change"):
        toy_run(critic="frozen", critic_learns=True)
