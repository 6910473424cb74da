"""Critique influence: against a second computation, and by what its numbers must satisfy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import toy_model, toy_run

from vpdlab.errors import UserError
from vpdlab.model.traits import closed_vocabulary
from vpdlab.prompts import Renderer
from vpdlab.study.influence import critique_influence, rescorer, sentences, shuffled, swapped

CRITIQUE = "The tens digit 4 is too high. The ones digit 7 is right. The answer is wrong."


@pytest.fixture(scope="module")
def run() -> Any:
    """A run of the toy model whose teacher computes with the live weights."""
    return toy_run(teacher="shared", max_context=200)


@pytest.fixture(scope="module")
def record(run: Any) -> dict[str, Any]:
    """A rollout as the record keeps it."""
    ids = tuple(run.learner.policy.tokenizer("What is 3 + 4?").input_ids)
    return {
        "step": 1, "problem_id": "a", "group": 0, "index": 0, "system": "", "prompt": "What is 3 + 4?", "answer": "7",
        "text": "The answer is 8.", "success": False, "critique": CRITIQUE, "demonstration": None,
        "prompt_ids": list(ids),
        "response_ids": run.learner.policy.tokenizer("The answer is 8.", add_special_tokens=False).input_ids,
    }  # fmt: skip


def influence(run: Any, record: dict[str, Any], **options: Any) -> dict[str, Any]:
    return critique_influence(run.learner.policy, run.learner.teacher, run.render, record, **options)


# -- sentences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        CRITIQUE, "E.g. this fails.  Dr. Smith said no!\n\n- item one\n- item two: 3.5 is wrong", "no stop",
        "a.\n\n\nb.  ", "  \n leading. ", "x = 1\nNameError: name 'x' is not defined.", "one. " * 9000,
        "\x1b[31m.\u202e! ?",
    ],
)  # fmt: skip
def test_sentences_joined_are_the_text(text: str) -> None:
    parts = sentences(text, most=12)
    assert "".join(parts).strip() == text.strip()
    assert 1 <= len(parts) <= 12
    assert all(part.strip() for part in parts)


def test_nothing_has_no_sentences() -> None:
    assert sentences("") == sentences(" \n ") == []


def test_a_shuffle_changes_the_order_and_nothing_else() -> None:
    parts = sentences(CRITIQUE)
    text = shuffled(parts, 0)
    assert text != CRITIQUE
    assert sorted(text.split()) == sorted(CRITIQUE.split())
    assert shuffled(["the tens digit"], 0) != "the tens digit"
    assert shuffled(["same"], 0) == "same"


def test_a_swap_comes_from_another_problem() -> None:
    others = [{"problem_id": p, "critique": c} for p, c in (("a", "x"), ("b", None), ("b", "own"), ("c", "y"))]
    assert swapped({"problem_id": "a", "critique": "own"}, others) == "y"
    assert swapped({"problem_id": "a", "critique": "own"}, others[:2]) is None


# -- the numbers -------------------------------------------------------------------------------------------------


def by_hand(run: Any, record: dict[str, Any], critique: str, solution: str = "") -> torch.Tensor:
    """[R, V] log q from a plain forward pass over a prompt written out by hand."""
    policy = run.learner.policy
    feedback = f"\n\nFeedback on an earlier attempt:\n{critique}" if critique else ""
    solution = f"\n\nA correct solution:\n{solution}" if solution else ""
    turn = f"{record['prompt']}{solution}{feedback}\n\nNow solve the problem correctly."
    prompt = f"<|user|>{turn}<|end|><|assistant|>"
    ids = [*policy.tokenizer(prompt, add_special_tokens=False).input_ids, *record["response_ids"]]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([ids])).logits[0].double()
    return (logits / policy.config.temperature).log_softmax(-1)[-len(record["response_ids"]) - 1 : -1]


def test_every_number_against_plain_forward_passes(run: Any, record: dict[str, Any]) -> None:
    """Each variant alone and unpadded, through the model's own head: another path to all that is reported."""
    found = influence(run, record, others={"own words": "Try again."})
    whole, rest = by_hand(run, record, CRITIQUE), torch.arange(len(record["response_ids"]))
    tokens = torch.tensor(record["response_ids"])

    def expect(critique: str, delta: list[float], kl: list[float]) -> None:
        variant = by_hand(run, record, critique)
        torch.testing.assert_close(torch.tensor(delta).double(), (whole - variant)[rest, tokens], atol=2e-5, rtol=1e-4)
        expected = (whole.exp() * (whole - variant)).sum(-1)
        torch.testing.assert_close(torch.tensor(kl).double(), expected, atol=2e-6, rtol=1e-3)

    expect("", found["total"], found["total_kl"])
    dropped = [
        "The ones digit 7 is right. The answer is wrong.",
        "The tens digit 4 is too high. The answer is wrong.",
        "The tens digit 4 is too high. The ones digit 7 is right.",
    ]
    for critique, delta, kl in zip(dropped, found["drop"], found["drop_kl"], strict=True):
        expect(critique, delta, kl)
    for variant in found["variants"]:
        expect(variant["text"], variant["delta"], variant["kl"])
    assert [variant["name"] for variant in found["variants"]] == ["shuffled", "own words"]
    torch.testing.assert_close(torch.tensor(found["logp"]).double(), whole[rest, tokens], atol=2e-5, rtol=1e-4)


def test_tokens_of_the_environment_are_read_but_are_not_the_policys(run: Any, record: dict[str, Any]) -> None:
    """An episode: the numbers are those of the whole response, at the policy's own tokens."""
    whole = influence(run, record)
    mask = [i not in (1, 2) for i in range(len(record["response_ids"]))]
    found = influence(run, {**record, "mask": mask})
    own = torch.tensor([i for i, mine in enumerate(mask) if mine])
    assert found["tokens"] == [whole["tokens"][i] for i in own]
    for name in ("logp", "total", "total_kl", "gap", "student_logp", "drop", "drop_kl", "shapley"):
        expected = torch.tensor(whole[name])[..., own]
        torch.testing.assert_close(torch.tensor(found[name]), expected, atol=1e-6, rtol=1e-5)
    for one, other in zip(found["variants"], whole["variants"], strict=True):
        torch.testing.assert_close(torch.tensor(one["delta"]), torch.tensor(other["delta"])[own], atol=1e-6, rtol=1e-5)


def test_shapley_values_add_up_and_leave_one_out_has_its_gap(run: Any, record: dict[str, Any]) -> None:
    found = influence(run, record)
    total = torch.tensor(found["total"])
    torch.testing.assert_close(torch.tensor(found["shapley"]).sum(0), total, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.tensor(found["drop"]).sum(0) + torch.tensor(found["gap"]), total)
    assert found["prompts"] == 2**3 + 1


def test_shapley_values_by_the_orders_of_three_sentences(run: Any, record: dict[str, Any]) -> None:
    from itertools import permutations

    parts = sentences(CRITIQUE)
    tokens = torch.tensor(record["response_ids"])

    def value(kept: set[int]) -> torch.Tensor:
        text = "".join(part for i, part in enumerate(parts) if i in kept).strip()
        return by_hand(run, record, text)[torch.arange(len(tokens)), tokens]

    expected = torch.zeros(3, len(tokens), dtype=torch.float64)
    for order in permutations(range(3)):
        for place, i in enumerate(order):
            expected[i] += (value(set(order[: place + 1])) - value(set(order[:place]))) / 6
    found = torch.tensor(influence(run, record)["shapley"]).double()
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-3)


def test_one_sentence_is_the_whole_effect(run: Any, record: dict[str, Any]) -> None:
    found = influence(run, {**record, "critique": "The tens digit 4 is too high."})
    assert found["drop"] == [found["total"]] == found["shapley"]
    assert found["gap"] == [0.0] * len(record["response_ids"])


def test_more_sentences_than_the_limit_have_no_shapley_values(run: Any, record: dict[str, Any]) -> None:
    found = influence(run, record, shapley=2)
    assert found["shapley"] is None
    assert found["shapley_reason"] == "3 sentences: exact values only for at most 2"
    assert found["prompts"] == 3 + 2 + 1
    exact = influence(run, record)
    torch.testing.assert_close(torch.tensor(found["drop"]), torch.tensor(exact["drop"]), atol=1e-5, rtol=1e-4)


def test_minibatches_change_nothing(run: Any, record: dict[str, Any]) -> None:
    one, many = (
        critique_influence(r.learner.policy, r.learner.teacher, r.render, record)
        for r in (toy_run(teacher="shared", max_context=200, minibatch_tokens=t) for t in (200, 100_000))
    )
    for name in ("drop", "drop_kl", "shapley"):
        torch.testing.assert_close(torch.tensor(one[name]), torch.tensor(many[name]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("teacher", ["ema", "trust-region", "adapter"])
def test_every_kind_of_teacher_is_scored_and_nothing_moves(teacher: str, record: dict[str, Any]) -> None:
    run = toy_run(teacher=teacher, max_context=200)
    before = {name: value.clone() for name, value in run.learner.policy.model.state_dict().items()}
    found = influence(run, record)
    assert sum(map(abs, found["total"])) > 0
    after = run.learner.policy.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_demonstration_can_be_taken_apart_and_the_critique_stays(run: Any, record: dict[str, Any]) -> None:
    both = {**record, "demonstration": "The answer is 7. It is right."}
    found = influence(run, both, part="demonstration")
    assert found["sentences"] == ["The answer is 7. ", "It is right."]
    assert found["part"] == "demonstration"
    tokens = torch.tensor(record["response_ids"])
    for values, solution in ((found["logp"], "The answer is 7. It is right."), (found["empty_logp"], "")):
        expected = by_hand(run, record, CRITIQUE, solution)[torch.arange(len(tokens)), tokens]
        torch.testing.assert_close(torch.tensor(values).double(), expected, atol=2e-5, rtol=1e-4)
    assert influence(run, {**both, "critique": None})["part"] == "demonstration"


def test_truncated_prompts_are_named(run: Any, record: dict[str, Any]) -> None:
    tight = Renderer(run.render.tokenizer, run.render.templates, 45)
    found = critique_influence(run.learner.policy, run.learner.teacher, tight, record)
    assert "the whole critique" in found["cut"]
    assert "no critique" not in found["cut"]


def test_what_is_missing_is_named(run: Any, record: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no critique to analyse"):
        influence(run, {**record, "critique": " "}, part="critique")
    with pytest.raises(UserError, match="no response"):
        influence(run, {**record, "response_ids": []})


def test_the_result_is_plain_data(run: Any, record: dict[str, Any]) -> None:
    found = influence(run, record)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "".join(found["tokens"]) == "The answer is 8."


def test_own_words_are_scored_against_the_recorded_ones(run: Any, record: dict[str, Any]) -> None:
    rescore = rescorer(run.learner.policy, run.learner.teacher, run.render, record)
    found = rescore("The answer is wrong. Try again.")
    assert found["sentences"] == ["The answer is wrong. ", "Try again."]
    assert found["variants"][-1]["name"] == "the recorded critique"
    assert found["variants"][-1]["text"] == CRITIQUE
    with pytest.raises(UserError, match="no critique"):
        rescore("  ")


def test_only_a_closed_vocabulary_names_unknown_words(record: dict[str, Any], tmp_path: Path) -> None:
    """As config.json says it: the bundled models with an open vocabulary say nothing."""
    config = json.loads((Path(toy_model()) / "config.json").read_text())
    folder = shutil.copytree(toy_model(), tmp_path / "closed")
    (folder / "config.json").write_text(json.dumps(config | {"closed_vocabulary": True}))
    for model, closed in ((toy_model(), False), (str(folder), True)):
        run = toy_run(model=model, max_context=200)
        run.policy.save(tmp_path / f"saved-{closed}")
        assert closed_vocabulary(run.policy.model) is closed
        assert (
            json.loads((tmp_path / f"saved-{closed}" / "config.json").read_text()).get("closed_vocabulary") is True
        ) is closed
        rescore = rescorer(run.policy, run.learner.teacher, run.render, record)
        assert (rescore.unknown_words is not None) is closed
    assert rescore.unknown_words is not None
    text = "The answer is flurb."
    assert rescore.unknown_words(text) == run.render.encoder.unknown_words(text)
    assert "flurb" in rescore.unknown_words(text)
