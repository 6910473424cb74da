"""Discovery at test time: counted attempts, weights that are put back, and results that survive a kill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy import toy_model

from vpdlab.cli import main
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.study.discover import Found, Results, curves, discover, markdown, standings
from vpdlab.study.discover.results import read
from vpdlab.study.discover.search import Search

CONFIG = RunConfig.make("words-two", group=4, task_args=("names=4", "steps=2"))


def found(method: str, attempts: list[int | None]) -> list[Found]:
    return [Found(method, f"p{place}", 0, value, 10, 0.5) for place, value in enumerate(attempts)]


def test_attempts_are_counted_up_to_the_first_success_and_the_limit() -> None:
    for one in discover(CONFIG, ("best-of-k", "conversation", "sdpo"), problems=2, limit=10):
        assert one.attempts is None or 1 <= one.attempts <= 10
        assert one.tokens > 0 and one.seconds > 0


@pytest.mark.parametrize("task", ["arithmetic", "reasoning", "code"])
def test_other_tasks_are_searched_alike(task: str, tmp_path: Path) -> None:
    """With a tiny model: nothing is solved, every attempt is made, verified and learned from."""
    row = {
        "task_id": "t/0", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate(1) == 1\n    assert candidate(2) == 2\n",
    }  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    config = RunConfig.make(
        task=task, model=toy_model(), group=2, max_new_tokens=30, max_context=480, turn_tokens=4,
        task_args=(f"data={tmp_path}/rows.jsonl", "sandbox=unsafe", "keep=1") if task == "code" else (),
    )  # fmt: skip
    for one in discover(config, ("best-of-k", "conversation", "sdpo"), problems=1, limit=4):
        assert one.attempts is None and one.tokens > 0


@pytest.mark.parametrize("method", ["sdpo", "vpd", "grpo", "conversation"])
def test_a_search_is_the_same_again_and_leaves_the_weights_alone(method: str) -> None:
    search = Search.open(CONFIG, method, 12)
    before = [p.detach().clone() for p in search.parts.policy.parameters]
    problem = search.parts.task.load("train")[0]
    first, second = (search.first_success(problem) for _ in range(2))
    assert (first.attempts, first.tokens) == (second.attempts, second.tokens)
    assert all(torch.equal(a, b) for a, b in zip(before, search.parts.policy.parameters, strict=True))
    assert not search.parts.policy.optimizer.state


def test_learning_uses_the_attempts_of_best_of_k_until_it_has_learned() -> None:
    """The first batch comes from the same weights and streams, so a success in it is the same success."""
    config = CONFIG.but(group=64)
    one, other = (next(iter(discover(config, (name,), problems=1, limit=64))) for name in ("best-of-k", "sdpo"))
    assert (one.attempts, one.tokens) == (other.attempts, other.tokens)


def test_standings_by_hand() -> None:
    rows = standings([*found("best-of-k", [8, 4, None]), *found("sdpo", [2, 2, 6])], limit=16)
    best, sdpo = rows
    assert best["solved"] == pytest.approx(2 / 3) and best["attempts"] == pytest.approx(28 / 3)
    assert best["median"] == 8 and sdpo["median"] == 2
    assert sdpo["ratio"] == pytest.approx(2.8) and sdpo["ratio_low"] <= 2.8 <= sdpo["ratio_high"]
    assert "at least 9.3" in markdown(rows) and "2.8 x" in markdown(rows)


def test_curves_by_hand() -> None:
    lines = curves(found("sdpo", [1, 3, None]), limit=6)
    assert [(line["k"], round(line["solved"], 3)) for line in lines] == [(1, 0.333), (2, 0.333), (4, 0.667), (6, 0.667)]


def test_results_are_kept_and_a_cut_line_is_not(tmp_path: Path) -> None:
    results = Results(tmp_path, {"limit": 4})
    results.add(Found("sdpo", "p", 0, 3, 10, 0.1))
    with (tmp_path / "discover.jsonl").open("a") as file:
        file.write('{"method": "sdpo", "prob')
    again = Results(tmp_path, {"limit": 4})
    assert again.done == {("sdpo", "p", 0)}
    again.add(Found("sdpo", "q", 0, None, 10, 0.1))
    assert [one.problem for one in read(tmp_path / "discover.jsonl")] == ["p", "q"]


def test_results_of_other_settings_or_none_are_refused(tmp_path: Path) -> None:
    Results(tmp_path, {"limit": 4}).add(Found("sdpo", "p", 0, 3, 10, 0.1))
    with pytest.raises(UserError, match="limit 4, not 8"):
        Results(tmp_path, {"limit": 8})
    (tmp_path / "discover.jsonl").write_text('{"method": "x"}\n{"method": "y"}\n')
    with pytest.raises(UserError, match=r"discover.jsonl, line 1"):
        Results(tmp_path, {"limit": 4})


@pytest.mark.parametrize("wrong", [{"tokens": "a"}, {"seconds": None}, {"seed": True}, {"problem": 3}, {"attempts": 0}])
def test_a_line_that_no_search_wrote_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    line = {"method": "sdpo", "problem": "p", "seed": 0, "attempts": 1, "tokens": 9, "seconds": 0.1} | wrong
    (tmp_path / "discover.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match="discover.jsonl"):
        list(read(tmp_path / "discover.jsonl"))


def test_unknown_methods_and_counts_are_refused() -> None:
    with pytest.raises(UserError, match="methods has 'best'"):
        next(iter(discover(CONFIG, ("best",))))
    with pytest.raises(UserError, match="problems is 0"):
        next(iter(discover(CONFIG, ("sdpo",), problems=0)))
    with pytest.raises(UserError, match="limit is 0"):
        next(iter(discover(CONFIG, ("sdpo",), limit=0)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--problems", "9999"], "problems is 9999, but must be from 1 to"),
        (["--limit", "0"], "limit is 0"),
        (["--methods", "best"], "methods has 'best'"),
        (["--methods", "best-of-k", "sdpo", "--alpha", "0.5", "--support", "sampled"], "support sampled is reverse KL"),
        (["--model", "no/such/folder/here"], "no/such/folder/here"),
        (["--environment", "retry"], "discovery opens its own"),
    ],
)
def test_what_is_refused_leaves_no_results(tmp_path: Path, capsys: pytest.CaptureFixture, words, message) -> None:
    args = ["discover", "--preset", "words-two", "--methods", "best-of-k", "--problems", "1", "--limit", "4"]
    assert main([*args, "--out", str(tmp_path / "d"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("d/*"))
    assert main([*args, "--out", str(tmp_path / "d")]) == 0  # the same folder can be used once that is mended


def test_results_that_another_search_has_begun_meanwhile_are_refused(tmp_path: Path) -> None:
    one, other = Results(tmp_path, {"limit": 4}), Results(tmp_path, {"limit": 8})
    one.add(Found("sdpo", "p", 0, 3, 10, 0.1))
    with pytest.raises(UserError, match="limit 4, not 8"):
        other.add(Found("sdpo", "p", 0, 3, 10, 0.1))


def test_the_command_leaves_lines_a_table_and_a_page_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    args = ["discover", "--preset", "words-two", "--methods", "best-of-k", "sdpo", "--problems", "2", "--limit", "16",
            "--seed", "0", "--out", str(tmp_path / "d")]  # fmt: skip
    assert main(args) == 0
    rows = [json.loads(line) for line in (tmp_path / "d" / "discover.jsonl").read_text().splitlines()]
    assert [set(row) for row in rows] == [{"method", "problem", "seed", "attempts", "tokens", "seconds"}] * 4
    assert "| `sdpo` | 2 |" in capsys.readouterr().out
    assert "discovery" in (tmp_path / "d" / "discover.html").read_text() or (tmp_path / "d" / "discover.md").exists()
    assert main(args) == 0  # nothing is searched again
    assert (tmp_path / "d" / "discover.jsonl").read_text().count("\n") == 4
    assert main([*args, "--lr", "1e-4"]) == 2
    assert "choose another --out" in capsys.readouterr().err
