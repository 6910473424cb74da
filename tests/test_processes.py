"""Several processes do what one does: the same batch, loss, gradient, record; they fail and stop together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from places import TESTS
from toy import toy_model

from vpdlab import cli, processes
from vpdlab.config import RunConfig
from vpdlab.errors import UserError
from vpdlab.record import METRICS, load_run
from vpdlab.run.resume import FREE

ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS.parent / "widgets"), str(TESTS)])}
# Evaluated without drawing: AdamW turns the rounding of another order of sums into 2e-4 of a weight, and a number near
# a token's edge then draws another token.
RUN = {
    "prompts": 2, "group": 3, "max_new_tokens": 6, "max_context": 120, "lr": 1e-3, "e_every": 1, "steps": 3,
    "eval_problems": 3, "eval_samples": 2, "eval_temperature": 0.0, "record_tokens": 5, "alpha": 1.0, "eval_every": 2,
}  # fmt: skip
# What the share-out changes by itself: the padding of minibatches, and what a machine measures.
OWN = {name for name in METRICS if name.startswith(("seconds", "peak", "tokens_e", "tokens_m"))}


@dataclass
class Done:
    """How a job ended: exit statuses, seconds, what each process has left, and its words."""

    codes: list[int]
    seconds: float
    left: list[Any]
    words: list[str]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Done]]:
    """Runs a job of ranks.py."""
    with subprocess.Popen(
        [sys.executable, str(TESTS / "ranks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def ask(name: str, count: int, ends: bool = True, **args: Any) -> Done:
            out = tmp_path_factory.mktemp(name)
            print(json.dumps({"name": name, "count": count, "out": str(out), **args}), file=server.stdin, flush=True)
            answer = json.loads(server.stdout.readline())
            words = [(out / f"{rank}.err").read_text() for rank in range(count)]
            assert not ends or answer["codes"] == [0] * count, "\n".join(words)
            files = [out / f"{rank}.pt" for rank in range(count)]
            left = [torch.load(file, weights_only=False) if file.exists() else None for file in files]
            return Done(answer["codes"], answer["seconds"], left, words)

        yield ask
        server.stdin.close()


def close(a: list[torch.Tensor | None], b: list[torch.Tensor | None], most: float) -> None:
    """Two gradients: equal up to rounding, as whole vectors; `most` is relative to their length."""
    assert [x is None for x in a] == [y is None for y in b]
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    apart = sum(float((x - y).square().sum()) for x, y in pairs) ** 0.5
    size = sum(float(x.square().sum()) for x, _ in pairs) ** 0.5
    assert size > 0
    assert apart <= most * size


def alike(a: Any, b: Any) -> bool:
    """Equal; numbers up to rounding."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-3, abs=1e-5)
    return a == b


def same_rows(a: list[dict[str, Any]], b: list[dict[str, Any]], own: set[str]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        assert {name: (x[name], y[name]) for name in x.keys() - own if not alike(x[name], y[name])} == {}


# -- sharing out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "parts", "sizes"),
    [
        ([1] * 6, 2, [3, 3]), ([1] * 5, 2, [3, 2]), ([1], 2, [1, 0]), ([], 3, [0, 0, 0]), ([1, 1], 4, [1, 0, 1, 0]),
        ([3, 1, 1, 1], 2, [1, 3]), ([1, 1, 1, 3], 2, [3, 1]), ([100, 1, 1], 2, [1, 2]),
    ],
)  # fmt: skip
def test_shares_are_balanced_runs_that_leave_nothing_out(weights, parts, sizes):
    found = processes.shares(weights, parts)
    assert [index for share in found for index in share] == list(range(len(weights)))
    assert [len(share) for share in found] == sizes


def test_one_process_sends_nothing():
    tensor = torch.ones(2)
    assert processes.count() == 1 and processes.main()
    assert processes.add(tensor) is tensor
    assert processes.added(1.5, 2) == (1.5, 2)
    assert processes.gather("x") == ["x"]
    assert processes.spread(lambda items: [2 * item for item in items], [1, 2]) == [2, 4]
    with pytest.raises(KeyError):
        processes.by_main(lambda: {}["absent"])


def test_the_main_process_alone_asks_a_central_sampler(job):
    (one,) = job("update", 1, fields={}).left
    two = job("update", 2, fields={}, central=True).left
    assert [found["asked"] for found in two] == [[16], []]
    assert two[0]["batches"] == two[1]["batches"] == one["batches"]
    assert [sum(found["asked"]) for found in job("update", 2, fields={}).left] == [8, 8]


def test_what_processes_hand_each_other(job):
    found = job("meet", 3, lines="(processes.rank(), processes.count(), processes.main())").left
    assert found == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert job("meet", 3, lines="processes.spread(lambda part: [10 * x for x in part], [1, 2])").left == [[10, 20]] * 3
    assert job("meet", 2, lines="processes.by_main(lambda: os.getpid())").left[0] > 0
    assert job("meet", 2, lines="processes.added(0.5, processes.rank())").left == [(1.0, 1.0)] * 2
    assert job("meet", 2, lines="processes.anywhere(processes.rank() == 1)").left == [True] * 2
    parted = job("meet", 2, lines="processes.agree('the numbers', lambda: processes.rank())", ends=False)
    assert parted.codes == [1, 1] and all("ranks diverged: the numbers" in words for words in parted.words)


def test_gradients_that_one_process_lacks_are_zeros_there(job):
    lines = (
        "[(p := [torch.nn.Parameter(torch.ones(n)) for n in (3, 2, 2)]), "
        "setattr(p[processes.rank()], 'grad', torch.ones_like(p[processes.rank()])), "
        "processes.add_gradients(p), [None if q.grad is None else q.grad.tolist() for q in p]][-1]"
    )
    assert job("meet", 2, lines=lines).left == [[[1.0] * 3, [1.0] * 2, None]] * 2


# -- the update --------------------------------------------------------------------------------------------------------

CASES = {
    "vpd shared": {"method": "vpd", "minibatch_tokens": 300},
    "vpd ema": {"method": "vpd", "teacher": "ema", "teacher_rate": 0.5, "e_minibatch": 1, "e_epochs": 2},
    "vpd trust-region, fixed anchor": {"method": "vpd", "teacher": "trust-region", "anchor": "fixed"},
    "vpd adapter": {"method": "vpd", "teacher": "adapter", "lora_rank": 2, "e_objective": "kto"},
    "vpd on its own responses": {"method": "vpd", "teacher": "ema", "e_sample": "teacher", "e_objective": "pg"},
    "grpo": {"method": "grpo", "minibatch_tokens": 100},
    "grpo near its average": {"method": "grpo", "kl_coef": 0.5, "ref_rate": 0.3},
    "pi-distill": {"method": "pi-distill", "minibatch_tokens": 300},
    "hybrid": {"method": "reshape", "e_objective": "awr"},
    "distil": {"method": "distil", "distil_baseline": True, "minibatch_tokens": 300},
    "critic learns": {"method": "sdpo", "feedback": ["critique"], "critic_learns": True},
    "fewer rows than processes": {"method": "grpo", "prompts": 1, "group": 2},
    "one row": {"method": "rft", "prompts": 1, "group": 1, "seed": 5},
}
SHARDED = (
    "vpd shared", "vpd ema", "vpd trust-region, fixed anchor", "vpd on its own responses", "grpo near its average",
    "distil", "pi-distill", "fewer rows than processes", "one row",
)  # fmt: skip
QUICK = ("vpd shared", "grpo", "one row")


def cases(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def alone(job: Callable[..., Done]) -> Callable[[str], dict[str, Any]]:
    """What one process does, case by case."""
    known: dict[str, Any] = {}

    def find(case: str) -> dict[str, Any]:
        if case not in known:
            known[case] = job("update", 1, fields=CASES[case], steps=2).left[0]
        return known[case]

    return find


def compared(one: dict[str, Any], many: Done) -> None:
    for found in many.left:
        assert found["batches"] == one["batches"]
        same_rows(found["rows"], one["rows"], OWN)
    assert len(many.left[0]["gradients"]) == len(one["gradients"])
    for number, (a, b) in enumerate(zip(many.left[0]["gradients"], one["gradients"], strict=True)):
        # Adam's first step has the size of the rate wherever a gradient is not 0: it enlarges rounding a hundredfold.
        close(a, b, most=1e-3 if number else 1e-5)


@pytest.mark.parametrize("case", cases(CASES))
def test_two_processes_find_the_batch_loss_and_gradient_of_one(job, alone, case):
    one = alone(case)
    many = job("update", 2, fields=CASES[case], steps=2)
    compared(one, many)
    first, second = (found["weights"] for found in many.left)
    assert all(torch.equal(first[name], second[name]) for name in first)  # bit for bit: the processes never part


@pytest.mark.parametrize("case", cases(SHARDED))
def test_sharded_weights_give_the_same_loss_and_gradient(job, alone, case):
    many = job("update", 2, fields={**CASES[case], "shard": True}, steps=2)
    compared(alone(case), many)


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_in_all(job):
    many = job("update", 2, fields={"method": "grpo"}, steps=2, poisoned=1)
    assert [[row["skipped"] for row in found["rows"]] for found in many.left] == [[1, 0]] * 2


# -- whole runs --------------------------------------------------------------------------------------------------------


def fields_of(out: Path, **fields: Any) -> dict[str, Any]:
    return {"model": toy_model(), **RUN, **fields, "out": str(out)}


def same_record(a: Path, b: Path) -> None:
    one, many = load_run(a), load_run(b)
    assert {**one.config, "out": "", "shard": False} == {**many.config, "out": "", "shard": False}
    same_rows(one.rows, many.rows, OWN)
    same_rows(one.eval_rows, many.eval_rows, {"seconds"})
    for step in range(1, RUN["steps"] + 1):
        same_rows(one.rollouts(step), many.rollouts(step), set())


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(run / "final").state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_leave_the_record_of_one(job, tmp_path, shard):
    job("train", 1, fields=fields_of(tmp_path / "one"))
    done = job("train", 2, fields=fields_of(tmp_path / "two", shard=shard))
    same_record(tmp_path / "one", tmp_path / "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    record = load_run(tmp_path / "two")
    assert record.status["state"] == "complete" and record.environment["processes"] == 2
    assert len(record.rows) == 3  # each line once
    assert all(found["rows"][-1]["success_rate"] == record.rows[-1]["success_rate"] for found in done.left)
    one, two = (final_weights(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_probes_share_out_their_questions_and_agree(job, tmp_path, shard):
    job("train", 1, fields=fields_of(tmp_path / "one"), task="Asks")
    done = job("train", 2, fields=fields_of(tmp_path / "two", shard=shard), task="Asks")
    one, two = ([row["probes"] for row in load_run(tmp_path / name).eval_rows] for name in ("one", "two"))
    assert [len(row) for row in one] == [11] * 3
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-3)
    assert all([row["probes"] for row in found["evals"]] == two for found in done.left)  # rank 0's in each process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "shards", "teacher"),
    [
        (2, 1, (False, False), "ema"), (1, 2, (False, False), "ema"), (2, 1, (True, False), "ema"),
        (1, 2, (False, True), "ema"), (2, 2, (False, True), "snapshot"), (2, 2, (True, True), "shared"),
    ],
)  # fmt: skip
def test_a_checkpoint_serves_any_number_of_processes(job, tmp_path, before, after, shards, teacher):
    fields = {"checkpoint_every": 2, "teacher": teacher, "e_lr": 1e-3}
    job("train", 1, fields=fields_of(tmp_path / "one", **fields))
    job("train", before, fields=fields_of(tmp_path / "two", **fields, steps=2, shard=shards[0]))
    job("train", after, fields=fields_of(tmp_path / "two", **fields, resume=True, shard=shards[1]))
    same_record(tmp_path / "one", tmp_path / "two")
    one, two = (final_weights(tmp_path / name) for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=2e-4) for name in one)
    resumed = load_run(tmp_path / "two").environment["resumed"]
    assert [entry["environment"]["processes"] for entry in resumed] == [after]


# -- endings -----------------------------------------------------------------------------------------------------------


def test_an_error_in_one_process_ends_all(job, tmp_path):
    done = job("train", 2, fields=fields_of(tmp_path / "run", eval_every=-1), task="Breaks", ends=False)
    assert done.codes == [1, 1] and done.seconds < 30
    assert "ValueError: the judge is gone" in done.words[1]
    assert "RunFailed: process 1 of 2: ValueError: the judge is gone" in done.words[0]
    status = load_run(tmp_path / "run").status
    assert status["state"] == "failed" and "process 1 of 2" in status["reason"]


def test_a_process_that_dies_ends_the_others(job, tmp_path):
    done = job("train", 2, fields=fields_of(tmp_path / "run"), kill=(1, 1), ends=False)
    assert done.codes == [1, -9] and done.seconds < 30
    assert "RunFailed: lost the other processes" in done.words[0]
    assert load_run(tmp_path / "run").status["state"] == "failed"


@pytest.mark.parametrize("rank", [0, 1])
def test_an_interrupt_of_one_process_stops_all_behind_the_same_step(job, tmp_path, rank):
    done = job("train", 2, fields=fields_of(tmp_path / "run", steps=50, eval_every=0), interrupt=(rank, 2))
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "stopped" and len(record.rows) == 2
    assert [len(found["rows"]) for found in done.left] == [2, 2]
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


def test_a_taken_folder_is_refused_by_all(job, tmp_path):
    job("train", 1, fields=fields_of(tmp_path / "run", steps=1))
    done = job("train", 2, fields=fields_of(tmp_path / "run", steps=1), ends=False)
    assert done.codes == [1, 1]
    assert all("already holds a run" in words for words in done.words)


# -- settings and the command ------------------------------------------------------------------------------------------


def test_settings_that_do_not_go_together():
    for fields in ({"lora_rank": 4}, {"teacher": "adapter"}):
        with pytest.raises(UserError, match="shard is for training all weights"):
            RunConfig(shard=True, **fields)
    assert "shard" in FREE


def test_shard_needs_several_processes(tmp_path, capsys):
    assert cli.main(["train", "--shard", "--out", str(tmp_path / "run")]) == 2
    assert "shard needs several processes" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_device_that_several_processes_cannot_have(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "--device", "cuda:1", "--out", str(tmp_path / "run")]) == 2
    assert "2 processes need one each" in capsys.readouterr().err


def test_a_launcher_that_starts_one_process_in_place_of_several_is_told(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # what `accelerate launch --cpu --num_processes 2` sets
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert processes.join("cpu") == torch.device("cpu")
    assert "use --multi_gpu instead" in capsys.readouterr().err


def test_other_commands_are_for_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("eval", "compare", "notebook", "export"):
        assert cli.main([command]) == 2
        assert f"vpdlab {command} is for one process" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["--version"]) == 0
    assert cli.main(["train", "--no-such-option", "1"]) == 2
    assert capsys.readouterr() == ("", "")  # what all of them find is told by the main one


LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "--standalone"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_one_run(tmp_path, launcher):
    options = [word for name, value in fields_of(tmp_path / "run").items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "vpdlab", "train", *options]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("iteration 3/3") == 1 and done.stdout.count("the student:") == 1
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "complete" and record.environment["processes"] == 2 and len(record.rows) == 3
    again = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode != 0 and again.stdout == ""
    assert again.stderr.count("already holds a run") == 1


@pytest.mark.slow
def test_an_interrupt_of_the_launcher_is_a_gentle_stop(tmp_path):
    fields = fields_of(tmp_path / "run", steps=10_000, eval_every=-1)
    options = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", *LAUNCHERS["torchrun"], "-m", "vpdlab", "train", *options]
    with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        lines, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 100
        while not (lines.exists() and lines.read_text()) and time.monotonic() < end:
            time.sleep(0.1)
        launcher.send_signal(signal.SIGINT)
        _, words = launcher.communicate(timeout=60)
    record = load_run(tmp_path / "run")
    assert record.status["state"] == "stopped" and 1 <= len(record.rows) < 10_000
    assert words.count("stopping after this step") == 1
    assert (tmp_path / "run" / "checkpoints" / f"step-{len(record.rows):06d}").is_dir()
