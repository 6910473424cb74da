"""Run records in the form that the widgets take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import toy_model
from vpdlab_widgets import RolloutTable, TokenLens

from vpdlab.config import RunConfig
from vpdlab.record import load_run
from vpdlab.run import Run
from vpdlab.show.summary import rollout_table
from vpdlab.show.widget_data import eval_points, lens_records, most_divided, rollout_rows


def test_points_are_accuracies_with_their_intervals() -> None:
    evaluation = {"step": 0, "accuracy": 0.25, "accuracy_low": 0.15, "accuracy_high": 0.35}
    assert eval_points([evaluation]) == [{"step": 0, "accuracy": 0.25, "low": 0.15, "high": 0.35}]
    assert eval_points([]) == []


def test_the_lens_takes_the_beta_that_each_step_used() -> None:
    records = [{"step": 1, "response_ids": None}, {"step": 3, "response_ids": None}, {"step": 9, "response_ids": None}]
    assert [item["beta"] for item in lens_records(records, beta={1: 0.1, 3: 0.4})] == [0.1, 0.4, None]
    assert [item["beta"] for item in lens_records(records, beta=0.2)] == [0.2, 0.2, 0.2]


def test_a_run_knows_the_betas_of_its_steps(tmp_path: Path) -> None:
    from toy import toy_run

    run = toy_run(record=True, out=str(tmp_path / "run"), beta=0.1, kl_target=1e-9, eval_every=-1, steps=3)
    list(run.steps())
    record = load_run(tmp_path / "run")
    betas = record.betas
    assert betas[1] == 0.1 == record.config["beta"]
    assert betas[3] > betas[1]
    (item, *_) = lens_records(record.rollouts(3), beta=betas)
    assert item["beta"] == betas[3]
    row = next(row for row in record.rollouts(3) if row["implicit_reward"] is not None)
    assert row["implicit_reward"] == pytest.approx(betas[3] * (row["teacher_sum"] - row["student_sum"]))


def test_the_rollout_where_student_and_teacher_differ_most() -> None:
    assert most_divided([{"kl": [0.1, 0.2]}, {"kl": None}, {"kl": [None, 0.3]}, {"kl": [None]}]) == 2
    assert most_divided([{"kl": None}, {}]) is None


# -- episodes --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The recorded rollouts of an iteration with a verifier that speaks of the last attempt."""
    out = tmp_path_factory.mktemp("episodes") / "run"
    config = RunConfig.make(
        model=toy_model(), task="arithmetic", environment="retry", environment_args=("about=last",), prompts=1, group=2,
        max_new_tokens=120, turn_tokens=5, max_turns=3, max_context=200, steps=1, eval_every=-1, record_tokens=1,
        out=str(out),
    )  # fmt: skip
    list(Run.open(config).steps())
    return load_run(out).rollouts(1)


def test_the_turns_and_the_mask_of_an_episode_reach_the_widgets(episodes: list[dict[str, Any]]) -> None:
    lenses, rows = lens_records(episodes), rollout_rows(episodes)
    for record, lens, row in zip(episodes, lenses, rows, strict=True):
        assert lens["turn_roles"] == row["turn_roles"] == ["assistant", "user"] * 2 + ["assistant"]
        assert lens["turn_texts"] == row["turn_texts"] and len(lens["turn_texts"]) == len(lens["turn_ends"])
        assert lens["mask"] == record["mask"] and not all(lens["mask"])
        assert lens["feedback_turn"] == row["feedback_turn"] == 3 == row["turns"]
        assert row["length"] == sum(record["mask"]) < len(record["response_ids"])
    assert [lens["tokens"] is not None for lens in lenses].count(True) == 1
    known = [value for value in episodes[0]["kl"] if value is not None]
    assert len(known) == rows[0]["length"] and rows[0]["kl"] == pytest.approx(sum(known) / len(known))
    TokenLens(lenses)
    RolloutTable(rows)


def test_among_episodes_a_single_answer_has_one_turn_and_elsewhere_none(episodes: list[dict[str, Any]]) -> None:
    single: dict[str, Any] = episodes[0] | dict.fromkeys(
        ("turn_roles", "turn_texts", "turn_ends", "mask", "feedback_turn")
    )
    assert [row["turns"] for row in rollout_rows([single, episodes[1]])] == [1, 3]
    (alone,) = rollout_rows([single])
    assert alone["turns"] is None and alone["length"] == len(single["response_ids"])


def test_the_text_of_an_episode_is_its_turns(episodes: list[dict[str, Any]]) -> None:
    (shown, *_) = rollout_table(episodes)
    assert shown["response"].startswith(f"[assistant]\n{episodes[0]['turn_texts'][0]}\n\n[user]\n")
    assert shown["response"].endswith(f"[assistant]\n{episodes[0]['text']}")
    (single,) = rollout_table([episodes[0] | {"turn_roles": None, "turn_texts": None}])
    assert single["response"] == episodes[0]["text"]
