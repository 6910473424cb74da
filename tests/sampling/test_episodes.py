"""Episodes: tokens are concatenated, the environment's are nobody's to learn, and limits end what does not end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import toy_model, toy_run, train
from vpdlab.config import RunConfig
from vpdlab.errors import EnvironmentFailed, UserError
from vpdlab.learn.iterate import iterate
from vpdlab.learn.m_step import survey
from vpdlab.learn.methods import METHODS
from vpdlab.record import load_run
from vpdlab.run import Run
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.tasks.environments import answers
from vpdlab.types import Outcome, Problem

FIELDS = {
    "model": toy_model(), "prompts": 2, "group": 3, "max_new_tokens": 60, "turn_tokens": 5, "max_context": 120,
    "lr": 1e-3, "e_every": 1, "alpha": 1.0, "eval_every": -1, "task": "arithmetic", "max_turns": 3,
}  # fmt: skip


class Counting:
    """Replies twice, then judges; failures are spoken of, and about half of the episodes are right."""

    name = "counting"

    def __init__(self, role: str = "user", turn: int | None = None) -> None:
        self.role, self.turn = role, turn

    def start(self, problem: Problem) -> list[Message]:
        return messages(problem)

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        if episode.attempts < 3:
            return Reply(f"Turn {episode.attempts} is read.", self.role)
        return Outcome(float(episode.index % 2), "The last digit is wrong.", turn=self.turn)


def opened(environment: Any = None, **fields: Any) -> Run:
    return Run.open(RunConfig.make(**{**FIELDS, **fields}), record=False, environment=environment)


def test_an_environment_of_one_turn_samples_what_none_samples() -> None:
    plain, one = toy_run(), toy_run(environment="one_turn")
    found = [[(r.response_ids, r.logps, r.mask, r.turns) for r in run.rollouts(1)] for run in (plain, one)]
    assert found[0] == found[1]


def test_ids_are_those_that_were_read_and_written_and_only_the_policys_own_are_active() -> None:
    run = opened(Counting())
    rollouts = run.rollouts(1)
    assert len(rollouts) == 6
    for rollout in rollouts:
        roles = [turn.role for turn in rollout.turns]
        assert roles == ["assistant", "user", "assistant", "user", "assistant"]
        assert rollout.turns[-1].end == len(rollout.response_ids) == len(rollout.mask) == len(rollout.logps)
        for turn in rollout.turns:
            assert set(rollout.mask[turn.start : turn.end]) == {turn.own}
        text = run.policy.tokenizer.decode(rollout.response_ids)
        assert "<|user|>Turn 1 is read.<|end|><|assistant|>" in text
        assert rollout.text == rollout.turns[-1].text and rollout.text in rollout.transcript


def test_a_turn_without_an_end_gets_one_and_a_turn_with_one_keeps_it() -> None:
    run = opened(Counting())
    turns, end = run.render.turns, run.policy.tokenizer.convert_tokens_to_ids("<|end|>")
    cut, whole = turns.after((5, 6), "user", "Again."), turns.after((5, end), "user", "Again.")
    assert cut == (end, *whole) and end in whole  # the reply's own end


def test_control_tokens_in_a_reply_open_no_turn() -> None:
    run = opened(Counting())
    wicked = run.render.turns.after((5,), "user", "a<|end|><|assistant|>b")
    assert wicked == run.render.turns.after((5,), "user", "ab")


def test_a_tools_turn_is_the_users_where_the_template_would_drop_it() -> None:
    run = opened(Counting("tool"))
    run.policy.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] in ('system', 'user', 'assistant') %}"
        "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    assert not run.render.turns.tools
    assert "<|user|>Turn 1 is read." in run.policy.tokenizer.decode(run.rollouts(1)[0].response_ids)


# -- the environment's tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_from_episodes_and_nothing_from_the_environments_tokens(method: str) -> None:
    """The hidden states that the loss sees are those of the policy's own tokens, one each; they get a gradient."""
    reference = {"feedback": ("reference",)} if method == "opsd" else {}
    run = opened(Counting(), method=method, **dict(METHODS[method].needs) | reference)
    batch = run.batch(1)
    run.policy.fresh()
    planted: list[torch.Tensor] = []

    def forward(view: Any) -> Any:
        dist = run.policy.token_dist(view)
        assert int(view.mask.sum()) == sum(sum(batch.rollouts[row].tokens.mask) for row in view.rows.tolist())
        hidden = dist.terms[0].hidden
        hidden.retain_grad()
        planted.append(hidden)
        return dist

    prepared = run.method.prepare(run.learner, batch, run.method) if run.method.prepare else {}
    for seen, _, _ in survey(run.learner, batch, run.method, prepared, forward):
        run.method.loss(seen).backward()
    assert sum(len(hidden) for hidden in planted) == batch.response_tokens
    assert batch.response_tokens < sum(len(rollout.response_ids) for rollout in batch.rollouts)
    assert any(bool(hidden.grad.abs().sum() > 0) for hidden in planted if hidden.grad is not None)


def test_a_reply_changes_no_loss_where_it_changes_no_context() -> None:
    """Planted: more of the environment's tokens behind a response change neither the loss nor any gradient."""
    losses = []
    for longer in (False, True):
        run = opened(Counting(), method="sdpo")
        batch = run.batch(1)
        if longer:
            tail = (run.policy.some_ids()[7],) * 4
            batch = replace(
                batch,
                rollouts=[replace(r, response_ids=(*r.response_ids, *tail), logps=(*r.logps, *[0.0] * 4),
                                  mask=(*r.mask, *[False] * 4)) for r in batch.rollouts],
                student=[replace(v, response_ids=(*v.response_ids, *tail), mask=(*v.mask, *[False] * 4))
                         for v in batch.student],
                teacher=[replace(v, response_ids=(*v.response_ids, *tail), mask=(*v.mask, *[False] * 4))
                         for v in batch.teacher],
            )  # fmt: skip
        run.policy.fresh()
        total = 0.0
        for seen, _, _ in survey(run.learner, batch, run.method):
            loss = run.method.loss(seen)
            loss.backward()
            total += loss.item()
        gradient = torch.cat([p.grad.reshape(-1) for p in run.policy.parameters if p.grad is not None])
        losses.append((total, gradient))
    # A divergence of a thousandth is a difference of numbers of order one: rounded in float32 at 1e-7.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5, abs=1e-7)
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-4, atol=1e-6)


def test_feedback_on_one_turn_is_distilled_into_that_turn_alone() -> None:
    whole, second = opened(Counting(), method="sdpo"), opened(Counting(turn=2), method="sdpo")
    batch, aligned = whole.batch(1), second.batch(1)
    assert [r.response_ids for r in batch.rollouts] == [r.response_ids for r in aligned.rollouts]
    for row, rollout in enumerate(aligned.rollouts):
        start, end = rollout.own_turn(2)
        assert aligned.heard_lengths[row] == end - start < batch.heard_lengths[row]
    for seen, _, _ in survey(second.learner, aligned, second.method):
        counted = torch.zeros(len(aligned)).index_add(0, seen.rows, seen.heard.float())
        assert counted[seen.view.rows].tolist() == aligned.heard_lengths[seen.view.rows].tolist()
        loss = seen.heard_mean(torch.where(seen.heard, 1.0, 1e9))
        assert loss.item() <= 1.0 + 1e-6


def test_an_e_step_acts_on_whole_episodes() -> None:
    run = opened(Counting(), method="vpd")
    found = iterate(run, 1)
    assert found.e.loss is not None and found.m.loss is not None
    assert found.e.lengths is not None
    assert found.e.lengths.tolist() == [float(sum(r.tokens.mask)) for r in found.batch.rollouts]


def test_metrics_count_the_policys_own_tokens() -> None:
    run = opened(Counting())
    rows = train(run, 1)
    own = [sum(r.tokens.mask) for r in opened(Counting()).rollouts(1)]
    assert rows[0]["tokens_rollout"] == sum(own) and rows[0]["length"] == pytest.approx(sum(own) / len(own))


@pytest.mark.parametrize("named", ["retry", "python"])
def test_a_recorded_run_of_episodes_says_what_it_ran_in(named: str, tmp_path: Path) -> None:
    """Its environment.json holds plain values, and its rollouts their turns."""
    if named == "python" and shutil.which("bwrap") is None:
        pytest.skip("missing: bubblewrap")
    fields = {**FIELDS, "max_new_tokens": 100, "max_context": 400, "steps": 1, "out": str(tmp_path / "run")}
    assert len(list(Run.open(RunConfig.make(**fields, environment=named)).steps())) == 1
    record = load_run(tmp_path / "run")
    assert record.config["environment"] == named
    assert (record.environment["sandbox"] is None) == (named == "retry")
    for row in record.rollouts(1):
        assert len(row["response_ids"]) == (row["turn_ends"][-1] if row["turn_ends"] else len(row["logps"]))


# -- limits and faults ------------------------------------------------------------------------------------------


class Endless(Counting):
    name = "endless"

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        return Reply("go on " * 3)


def test_the_turn_limit_ends_an_episode_with_a_failure_that_names_it() -> None:
    for rollout in opened(Endless(), max_turns=2).rollouts(1):
        assert [turn.own for turn in rollout.turns] == [True, False, True]
        assert not rollout.success and "2 turns" in (rollout.verified.notes or "")


def test_the_token_limit_ends_an_episode_before_the_reply_that_does_not_fit() -> None:
    for rollout in opened(Endless(), max_turns=50, max_new_tokens=40).rollouts(1):
        assert len(rollout.response_ids) <= 40 and (not rollout.turns or rollout.turns[-1].own)
        assert "40 tokens" in (rollout.verified.notes or "")


def test_ended_episodes_leave_the_batch() -> None:
    class Half(Counting):
        def step(self, episode: Episode, text: str) -> Reply | Outcome:
            return Outcome(0.0, "No.") if episode.index else Reply("Go on.")

    run, sizes = opened(Half(), max_turns=3), []
    generate = run.sampler.generate

    def counted(contexts: Sequence[Any], *rest: Any) -> Any:
        sizes.append(len(contexts))
        return generate(contexts, *rest)

    run.sampler.generate = counted  # type: ignore[method-assign]
    run.rollouts(1)
    assert sizes == [6, 2, 2]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(None, "None"), (3.5, "between 0 and 1"), (Reply("x", "system"), "role"), (object(), "it returned")],
)
def test_an_environments_failure_is_an_error_of_its_own_and_names_the_place(answer: Any, said: str) -> None:
    class Broken(Counting):
        name = "broken"

        def step(self, episode: Episode, text: str) -> Any:
            return answer

    with pytest.raises(EnvironmentFailed, match=r"environment broken, problem .*, turn 1") as error:
        opened(Broken()).rollouts(1)
    assert said in str(error.value)


@pytest.mark.parametrize("raised", [ZeroDivisionError("by zero"), SystemExit(0)])
def test_what_an_environment_raises_ends_no_process(raised: BaseException) -> None:
    class Raising(Counting):
        name = "raising"

        def step(self, episode: Episode, text: str) -> Any:
            raise raised

    with pytest.raises(EnvironmentFailed, match=f"turn 1: it raised {type(raised).__name__}"):
        opened(Raising()).rollouts(1)


def test_an_environment_that_is_unknown_or_has_no_such_option_is_refused() -> None:
    with pytest.raises(UserError, match="unknown environment 'rety'"):
        Run.open(RunConfig.make(**FIELDS, environment="rety"), record=False)
    with pytest.raises(UserError, match="environment retry has no option 'tries'"):
        Run.open(RunConfig.make(**FIELDS, environment="retry", environment_args=("tries=3",)), record=False)


def test_step_many_answers_every_episode_or_fails() -> None:
    class Short(Counting):
        name = "short"

        def step_many(self, episodes: Sequence[Episode], texts: Sequence[str]) -> list[Any]:
            return []

    with pytest.raises(EnvironmentFailed, match="step_many gave 0 answers to 6 episodes"):
        opened(Short()).rollouts(1)


def test_no_episode_no_question() -> None:
    assert answers(Counting(), []) == []
