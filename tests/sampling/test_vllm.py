"""The vLLM sampler: first without an engine (seeds, weight transfer, rejected settings), then vLLM itself."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from places import ROOT
from safetensors.torch import load_file
from toy import equal, toy_run, train, weights

from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.model.adapters import plain_weights
from vpdlab.model.loading import without_bars
from vpdlab.model.policy import Policy
from vpdlab.model.teacher import Copy
from vpdlab.run import Run
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.sampling.engines.vllm import BOUND, VLLMSampler, check, checked, content, open_sampler, seed
from vpdlab.sampling.vllm_engine.server import ServerEngine, checked_url
from vpdlab.types import View
from vpdlab.zoo.make_apprentice import build_tokenizer

CONTEXTS = [list(b"a short one"), list(b"a context that is a good deal longer"), list(b"mid length here")]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="missing: vllm (make vllm)")


def streams(n: int) -> list[tuple[int, ...]]:
    return [(7, i) for i in range(n)]


def scored(policy: Policy, contexts: Sequence[Sequence[int]], done: Sequence[Completion]) -> list[torch.Tensor]:
    """Log-probabilities of the completions under the policy, one row each."""
    found = []
    for context, one in zip(contexts, done, strict=True):
        (batch,) = next(iter(policy.minibatches([View(tuple(context), one.ids)])))
        with torch.no_grad():
            found.append(policy.token_logp(batch))
    return found


def gaps(policy: Policy, contexts: Sequence[Sequence[int]], done: Sequence[Completion]) -> torch.Tensor:
    """Sampler's minus scorer's log-probability of each token."""
    ours = torch.cat(scored(policy, contexts, done))
    return torch.tensor([value for one in done for value in one.logps]) - ours


class Perfect:
    """An engine that samples the policy itself and records its calls; `off` is added to its log-probabilities."""

    def __init__(self, policy: Policy) -> None:
        self.held: Any = None
        self.off, self.calls, self.loaded = 0.0, [], []
        self._sampler = HFSampler(policy)

    def complete(self, contexts: Any, seeds: Any, sampling: Any, ends: Any) -> list[Completion]:
        self.calls.append("complete")
        done = self._sampler.generate(contexts, [(number,) for number in seeds], sampling)
        return [replace(one, logps=tuple(value + self.off for value in one.logps)) for one in done]

    def load(self, path: Path) -> None:
        self.calls.append("load")
        self.loaded.append(load_file(path))

    def load_adapter(self, folder: Path) -> None:
        self.calls.append("load_adapter")
        self.loaded.append(load_file(folder / "adapter_model.safetensors"))

    def wake(self) -> None:
        self.calls.append("wake")

    def sleep(self) -> None:
        self.calls.append("sleep")


def with_perfect_engine(**fields: Any) -> tuple[Run, Perfect]:
    run = toy_run(**fields)
    engine = Perfect(run.learner.policy)
    run.sampler = VLLMSampler(run.learner.policy, engine, "float32", merged=fields.get("vllm_lora") != "adapter")
    return run, engine


# -- without vLLM ------------------------------------------------------------------------------------------------------


def test_without_vllm_one_line_says_so_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(Policy, "load", lambda config: pytest.fail("a model was loaded"))
    with pytest.raises(UserError) as told:
        Run.open(RunConfig.make(sampler="vllm"), record=False)
    assert "\n" not in str(told.value)
    assert "vllm" in str(told.value)
    if sys.platform == "linux":
        assert "pip install 'vpdlab[vllm]'" in str(told.value) and "make vllm" in str(told.value)


def test_a_temperature_that_vllm_would_raise_is_refused() -> None:
    with pytest.raises(UserError, match="temperature is 0.001, but vLLM samples at 0.01 or above"):
        check(RunConfig.make(sampler="vllm", vllm_url="http://localhost:1", temperature=0.001))
    check(RunConfig.make(sampler="vllm", vllm_url="http://localhost:1", eval_temperature=0.0))


def test_several_processes_need_a_server_and_whole_weights(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> None:
    run = toy_run()
    monkeypatch.setattr("vpdlab.processes.count", lambda: 2)
    with pytest.raises(UserError, match="several processes need a vLLM server beside them: name it with vllm_url"):
        check(replace(run.config, sampler="vllm"))
    served = replace(run.config, sampler="vllm", vllm_url=fake.url)
    with pytest.raises(UserError, match="sampler vllm needs whole weights"):
        check(replace(served, shard=True))
    assert open_sampler(served, run.learner.policy, 100).central


def test_a_gpu_that_is_not_the_first_is_told_how_to_be() -> None:
    policy = SimpleNamespace(device=torch.device("cuda:2"), model=toy_run().learner.policy.model, longest=512)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=2 and device cuda"):
        open_sampler(RunConfig.make(sampler="vllm"), policy, 100)  # type: ignore[arg-type]


def test_a_seed_is_a_function_of_its_stream() -> None:
    seeds = [seed(stream) for stream in streams(1000)]
    assert seeds == [seed(stream) for stream in streams(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= number < 2**63 for number in seeds) and max(seeds) > 2**60


def test_a_few_rows_are_scored_again() -> None:
    assert checked([50] * 9) == [0, 1, 2, 3]
    assert checked([300, 300, 300]) == [0]
    assert checked([5000, 10]) == [0]


def test_weights_are_sent_where_they_changed_whatever_changed_them() -> None:
    run, engine = with_perfect_engine()
    run.rollouts(1)
    assert engine.calls == ["wake", "load", "complete", "sleep"]
    run.rollouts(2)
    run.evaluate(0)
    assert engine.calls.count("load") == 1
    train(run, 1)  # samples, then updates
    assert engine.calls.count("load") == 1
    run.rollouts(2)
    assert engine.calls.count("load") == 2
    assert engine.loaded[-1].keys() == engine.loaded[0].keys() and not equal(*engine.loaded)
    for name, value in engine.loaded[-1].items():
        assert torch.equal(value, run.learner.policy.model.state_dict()[name])
    assert "lm_head.weight" not in engine.loaded[-1]  # tied: written once


def test_a_copy_of_weights_is_sampled_as_that_copy() -> None:
    run, engine = with_perfect_engine(teacher="ema")
    train(run, 2)
    copy = Copy(run.learner.policy)
    copy.follow(0.0)
    before = content(run.learner.policy)
    with torch.no_grad():
        copy.values[0].add_(0.01)
        with copy.lent():
            assert content(run.learner.policy) != before
            run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=4))
    assert content(run.learner.policy) == before
    assert any(torch.equal(engine.loaded[-1][name], copy.values[0]) for name in engine.loaded[-1])
    run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=4))
    live = run.learner.policy.model.state_dict()
    assert all(torch.equal(value, live[name]) for name, value in engine.loaded[-1].items())


def test_each_adapter_is_sent_as_what_it_is() -> None:
    run, engine = with_perfect_engine(lora_rank=4, teacher="adapter", vllm_lora="adapter")
    train(run, 2)
    policy = run.learner.policy
    run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=4))
    with policy.as_teacher():
        run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=4))
    student, teacher = engine.loaded[-2:]
    assert not equal(student, teacher) and student.keys() == teacher.keys()
    live = policy.model.state_dict()
    for role, sent in (("student", student), ("teacher", teacher)):
        for name, value in sent.items():
            mine = name.removeprefix("base_model.model.").replace("_A.weight", f"_A.{role}.weight")
            assert torch.equal(value, live[mine.replace("_B.weight", f"_B.{role}.weight")])


def test_merged_weights_are_what_the_model_computes_and_leave_it_as_it_is() -> None:
    run = toy_run(lora_rank=4)
    train(run, 2)
    policy = run.learner.policy
    before = weights(run)
    plain = plain_weights(policy.model)
    assert equal(before, weights(run))
    other = toy_run()
    assert plain.keys() == other.learner.policy.model.state_dict().keys()
    ids = torch.tensor([CONTEXTS[1]])
    with torch.no_grad():
        first = other.learner.policy.model(input_ids=ids).logits
        other.learner.policy.model.load_state_dict(plain)
        merged, live = other.learner.policy.model(input_ids=ids).logits, policy.model(input_ids=ids).logits
    torch.testing.assert_close(merged, live, rtol=1e-4, atol=1e-4)
    assert (first - live).abs().max() > 1e-2


def test_tokens_that_the_policy_would_not_sample_so_end_the_run() -> None:
    run, engine = with_perfect_engine()
    run.rollouts(1)
    engine.off = 2 * BOUND["float32"]
    with pytest.raises(RunFailed, match="off by 0.002 nats per token .* does not have the policy's weights") as told:
        run.rollouts(1)
    assert "\n" not in str(told.value)
    engine.off = math.nan
    with pytest.raises(RunFailed):
        run.rollouts(1)
    assert engine.calls[-3:] == ["wake", "complete", "sleep"]


def test_log_probabilities_within_a_nucleus_are_not_passed_off_as_others() -> None:
    run, engine = with_perfect_engine()
    cut = Sampling(0.6, 0.9, 5)
    engine.off = -math.log(0.95)  # as if the nucleus had a mass of 0.95
    done = run.sampler.generate(CONTEXTS, streams(3), cut)
    assert all(math.isnan(value) for one in done for value in one.logps)
    for engine.off in (-math.log(0.8), -0.01):  # more than a nucleus of 0.9 explains; less than nothing
        with pytest.raises(RunFailed):
            run.sampler.generate(CONTEXTS, streams(3), cut)


def test_the_engine_sleeps_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run, engine = with_perfect_engine()
    monkeypatch.setattr(engine, "complete", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.rollouts(1)
    assert engine.calls[-1] == "sleep"


def test_weights_of_an_interrupted_transfer_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run, engine = with_perfect_engine()
    run.rollouts(1)
    with torch.no_grad():
        run.learner.policy.parameters[0].add_(0.01)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "load", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.rollouts(1)
    with torch.no_grad():
        run.learner.policy.parameters[0].sub_(0.01)
    run.rollouts(1)
    assert engine.calls.count("load") == 2


def test_nothing_is_left_where_weights_lay(tmp_path: Path) -> None:
    run, seen = toy_run(), []
    left, fresh = tmp_path / "vpdlab-weights-a", tmp_path / "vpdlab-weights-b"
    for folder in (left, fresh):
        folder.mkdir()
    os.utime(left, (0, 0))  # as left by a killed run; the other may belong to another run
    engine = Perfect(run.learner.policy)
    engine.load = lambda path: seen.append(path)  # type: ignore[method-assign]
    sampler = VLLMSampler(run.learner.policy, engine, "float32", str(tmp_path))
    sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=2))
    assert seen[0].parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == [fresh]


class FakeLLM:
    """vLLM's LLM on a GPU: remembers what it is told, answers with token 1."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.said = settings, []
        self.llm_engine = SimpleNamespace(
            add_lora=lambda request: self.said.append(f"add {request.number}"),
            remove_lora=lambda number: self.said.append(f"remove {number}"),
        )

    def generate(self, prompts: Any, params: Any, use_tqdm: bool, lora_request: Any) -> list[Any]:
        self.said.append(f"generate {lora_request.number if lora_request else 'plain'}")
        end = SimpleNamespace(token_ids=[1], logprobs=[{1: SimpleNamespace(logprob=-0.5)}], finish_reason="stop")
        return [SimpleNamespace(outputs=[end]) for _ in prompts]

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **how: self.said.append(" ".join([name, *map(str, args), *map(str, how.values())]))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that pretends to have a GPU."""
    from vpdlab.sampling.vllm_engine.local import LocalEngine

    def request(name: str, number: int, path: str) -> Any:
        return SimpleNamespace(number=number, lora_int_id=number)

    platform = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace))
    monkeypatch.setitem(sys.modules, "vllm.platforms", SimpleNamespace(current_platform=platform))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=request))
    monkeypatch.setattr(LocalEngine, "running", None)


def test_on_a_gpu_it_sleeps_between_phases(gpu: None, tmp_path: Path) -> None:
    """The order of calls to vLLM. Their effect can only be tested on a GPU."""
    from vpdlab.sampling.vllm_engine.local import LocalEngine, Spec

    engine = LocalEngine.of(Spec("somewhere", "bfloat16", 300, 8, 0.3))
    llm = engine._llm
    assert llm.settings["enable_sleep_mode"] and llm.settings["gpu_memory_utilization"] == 0.3
    assert "enforce_eager" not in llm.settings and "enable_lora" not in llm.settings
    engine.wake()
    engine.load(tmp_path / "w")
    assert engine.complete([[5]], [7], Sampling(), [1]) == [Completion((1,), (-0.5,), True)]
    engine.sleep()
    load = f"collective_rpc vpdlab_load ('{tmp_path / 'w'}',)"
    assert llm.said == ["sleep 1", "wake_up", load, "reset_prefix_cache", "generate plain", "sleep 1"]
    assert LocalEngine.of(engine.spec) is engine


def test_on_a_gpu_each_version_of_an_adapter_has_a_number_of_its_own(gpu: None, tmp_path: Path) -> None:
    from vpdlab.sampling.vllm_engine.local import LocalEngine, Spec

    engine = LocalEngine.of(Spec("somewhere", "bfloat16", 300, 8, 0.3, rank=8, targets=("q_proj",)))
    settings = engine._llm.settings
    assert (settings["enable_lora"], settings["max_lora_rank"], settings["lora_target_modules"]) == (
        True,
        8,
        ["q_proj"],
    )
    for _ in range(2):
        engine.load_adapter(tmp_path)
        engine.complete([[5]], [7], Sampling(), [1])
    assert engine._llm.said[1:] == ["add 1", "generate 1", "remove 1", "add 2", "generate 2"]


# -- a server's protocol -----------------------------------------------------------------------------------------------


class FakeServer:
    """Replies like vLLM's server, with the tokens that `reply` returns for a request."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.longest, self.status, self.forgets = 4096, 200, True
        self.reply: Callable[[dict[str, Any]], Any] = lambda body: {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, content: Any, status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                if status == 307:
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.answer({"data": [{"id": "tiny", "max_model_len": fake.longest}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append((self.path, body))
                if fake.status != 200:
                    self.answer({"error": "no such thing"}, fake.status)
                elif self.path == "/collective_rpc":
                    fake.weights = load_file(body["args"][0])
                    self.answer({"results": [None]})
                elif self.path == "/reset_prefix_cache":
                    self.answer({"success": fake.forgets})
                else:
                    self.answer(fake.reply(body))

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def choice(ids: Sequence[int], logps: Sequence[float], reason: str = "length") -> dict[str, Any]:
    return {"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": logps}, "finish_reason": reason}]}


def test_a_server_is_sent_token_ids_seeds_and_the_path_of_the_weights(fake: FakeServer, tmp_path: Path) -> None:
    run = toy_run(sampler="vllm", vllm_url=f"{fake.url}/v1/", vllm_folder=str(tmp_path))
    policy, sampling = run.learner.policy, Sampling(max_new_tokens=4)
    truth = HFSampler(policy).generate(CONTEXTS, streams(3), sampling)
    known = {seed(stream): one for stream, one in zip(streams(3), truth, strict=True)}

    def reply(body: dict[str, Any]) -> Any:
        one = known[body["seed"]]
        return choice(one.ids, one.logps, "stop" if one.finished else "length")

    fake.reply = reply
    assert run.sampler.generate(CONTEXTS, streams(3), sampling) == truth
    assert [path for path, _ in fake.asked[:2]] == ["/collective_rpc", "/reset_prefix_cache"]
    assert fake.asked[0][1]["method"] == "vpdlab_load"
    assert torch.equal(fake.weights["model.norm.weight"], policy.model.state_dict()["model.norm.weight"])
    bodies = {body["seed"]: body for path, body in fake.asked if path == "/v1/completions"}
    assert [bodies[seed(stream)]["prompt"] for stream in streams(3)] == CONTEXTS
    for body in bodies.values():
        assert body["model"] == "tiny" and body["return_token_ids"] and body["ignore_eos"]
        assert body["stop_token_ids"] == [policy.tokenizer.eos_token_id]
        assert (body["temperature"], body["top_p"], body["max_tokens"], body["logprobs"]) == (1.0, 1.0, 4, 0)
    run.sampler.generate(CONTEXTS, streams(3), sampling)
    assert [path for path, _ in fake.asked].count("/collective_rpc") == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, "is not a vLLM completion"),
        (choice([1, 2], [-1.0]), "2 tokens, 1 log-probabilities"),
        (choice([], []), "0 tokens"),
        (choice([1], [None]), "is not a vLLM completion"),  # type: ignore[list-item]
    ],
)
def test_an_answer_of_another_shape_is_one_line(fake: FakeServer, answer: Any, words: str) -> None:
    fake.reply = lambda body: answer
    with pytest.raises(RunFailed, match=words) as told:
        ServerEngine(fake.url, 100, 4).complete([[1, 2]], [3], Sampling(), [1])
    assert "\n" not in str(told.value)


def test_a_server_without_our_extension_says_what_it_needs(fake: FakeServer, tmp_path: Path) -> None:
    engine, fake.status = ServerEngine(fake.url, 100, 4), 404
    with pytest.raises(RunFailed, match="status 404.*VLLM_SERVER_DEV_MODE=1, --worker-extension-cls vpdlab"):
        engine.load(tmp_path / "shelf" / "weights.safetensors")


def test_a_server_that_cannot_forget_ends_the_run(fake: FakeServer, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    engine, fake.forgets = ServerEngine(fake.url, 100, 4), False
    with pytest.raises(RunFailed, match="failed to clear its prefix cache"):
        engine.load(tmp_path / "weights.safetensors")


def test_what_is_sent_to_one_server_goes_to_no_other(fake: FakeServer) -> None:
    engine, fake.status = ServerEngine(fake.url, 100, 4), 307
    with pytest.raises(RunFailed, match="status 307"):
        engine.complete([[1, 2]], [3], Sampling(), [1])


def test_a_server_that_does_not_fit_is_told_at_the_start(fake: FakeServer) -> None:
    fake.longest = 64
    with pytest.raises(UserError, match="takes 64 tokens, but this run may need 100: .*--max-model-len 100"):
        ServerEngine(fake.url, 100, 4)
    with pytest.raises(UserError, match="no vLLM server answers there"):
        ServerEngine("http://127.0.0.1:9", 100, 4)
    for url in ("localhost:8000", "ftp://x", "http://name:word@x", "http://x?key=1"):
        with pytest.raises(UserError, match="vllm_url"):
            checked_url(url)


# -- vLLM itself -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of random weights whose attention heads have a size that vLLM's CPU build knows: the apprentice's do
    not. Wide at the start, so that its distributions are far from even."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder, tokenizer = tmp_path_factory.mktemp("tiny"), build_tokenizer()
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.15,
    )  # fmt: skip
    with without_bars():
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def vllm_run(tiny: str, **fields: Any) -> Run:
    return toy_run(**{"model": tiny, "sampler": "vllm", "max_context": 200, "max_new_tokens": 24, **fields})


@pytest.fixture(scope="module")
def run(tiny: str) -> Run:
    return vllm_run(tiny)


@needs_vllm
@pytest.mark.slow
def test_its_log_probabilities_are_the_scorers(run: Run) -> None:
    contexts = CONTEXTS * 20
    done = run.sampler.generate(contexts, streams(60), Sampling(max_new_tokens=24))
    gap = gaps(run.learner.policy, contexts, done)
    assert len(gap) > 800 and len({one.ids for one in done}) == 60
    assert gap.abs().max() < 1e-3
    assert run.sampler.exact is False


@needs_vllm
@pytest.mark.slow
def test_they_are_those_of_the_tempered_distribution(tiny: str) -> None:
    run = vllm_run(tiny, temperature=0.7)
    done = run.sampler.generate(CONTEXTS, streams(3), Sampling(0.7, 1.0, 24))
    assert gaps(run.learner.policy, CONTEXTS, done).abs().max() < 1e-3


@needs_vllm
@pytest.mark.slow
def test_a_rollout_does_not_depend_on_its_neighbours(run: Run) -> None:
    sampling = Sampling(max_new_tokens=16)
    together = run.sampler.generate(CONTEXTS, streams(3), sampling)
    alone = [run.sampler.generate([c], [s], sampling)[0] for c, s in zip(CONTEXTS, streams(3), strict=True)]
    crowd = run.sampler.generate(CONTEXTS + [CONTEXTS[0]] * 60, [*streams(3), *((8, i) for i in range(60))], sampling)
    assert [c.ids for c in together] == [c.ids for c in alone] == [c.ids for c in crowd[:3]]


@needs_vllm
@pytest.mark.slow
def test_tokens_are_drawn_as_often_as_they_are_likely(run: Run) -> None:
    policy, count = run.learner.policy, 4000
    done = run.sampler.generate([CONTEXTS[0]] * count, streams(count), Sampling(max_new_tokens=1))
    with torch.no_grad():
        p = policy.model(input_ids=torch.tensor([CONTEXTS[0]])).logits[0, -1].softmax(-1).double()
    drawn = torch.bincount(torch.tensor([one.ids[0] for one in done]), minlength=len(p)).double()
    likely = p * count >= 5
    expected = torch.cat([p[likely], p[~likely].sum()[None]]) * count
    found = torch.cat([drawn[likely], drawn[~likely].sum()[None]])
    chi2, freedom = ((found - expected) ** 2 / expected).sum().item(), len(expected) - 1
    assert freedom > 10
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations


@needs_vllm
@pytest.mark.slow
def test_greedy_is_ours(run: Run) -> None:
    sampling = Sampling(temperature=0, max_new_tokens=12)
    theirs = run.sampler.generate(CONTEXTS, streams(3), sampling)
    ours = HFSampler(run.learner.policy).generate(CONTEXTS, streams(3), sampling)
    assert [one.ids for one in theirs] == [one.ids for one in ours]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(mine.logps), torch.tensor(other.logps), rtol=1e-4, atol=1e-4)


@needs_vllm
@pytest.mark.slow
def test_a_nucleus_is_cut(run: Run) -> None:
    done = run.sampler.generate([CONTEXTS[0]] * 300, streams(300), Sampling(0.6, 0.5, 1))
    with torch.no_grad():
        logits = run.learner.policy.model(input_ids=torch.tensor([CONTEXTS[0]])).logits[0, -1]
    p, order = (logits / 0.6).softmax(-1).sort(descending=True)
    nucleus = set(order[p.cumsum(-1) - p < 0.5].tolist())
    assert {one.ids[0] for one in done} <= nucleus and len(nucleus) > 2
    assert all(math.isnan(one.logps[0]) for one in done)


@needs_vllm
@pytest.mark.slow
def test_end_tokens_end_a_row_and_stay_in_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = set(range(40))  # a tenth of the vocabulary
    monkeypatch.setattr(run.sampler, "_ends", sorted(ends))
    done = run.sampler.generate([CONTEXTS[0]] * 40, streams(40), Sampling(max_new_tokens=24))
    assert len({len(one.ids) for one in done}) > 3
    for one in done:
        assert one.finished == (one.ids[-1] in ends)
        assert not set(one.ids[:-1]) & ends
        assert one.finished or len(one.ids) == 24
    assert {one.finished for one in done} == {True, False}


@needs_vllm
@pytest.mark.slow
def test_after_an_update_it_samples_the_new_weights(tiny: str) -> None:
    run = vllm_run(tiny, lr=1e-2)
    policy = run.learner.policy
    old = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    train(run, 3)
    new = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    assert gaps(policy, CONTEXTS, new).abs().max() < 1e-3
    assert gaps(policy, CONTEXTS, old).abs().max() > 0.1
    with torch.no_grad():  # a copy, like a teacher or a frozen critic
        copy = Copy(policy)
        copy.values[0].mul_(1.1)
        with copy.lent():
            lent = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
            assert gaps(policy, CONTEXTS, lent).abs().max() < 1e-3
    assert gaps(policy, CONTEXTS, lent).abs().max() > 1e-2
    again = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    assert [one.ids for one in again] == [one.ids for one in new]


@needs_vllm
@pytest.mark.slow
def test_a_head_that_stays_old_is_found(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reintroduces the bug of vLLM's CPU build that `vllm_engine.worker` works around."""
    from vpdlab.sampling.vllm_engine import worker

    run = vllm_run(tiny, lr=1e-2)
    run.rollouts(1)
    train(run, 2)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "repack", lambda model: None)
        with pytest.raises(RunFailed, match="does not have the policy's weights"):
            run.rollouts(2)
    run.sampler.engine.held = None
    run.rollouts(2)


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["ema", "trust-region", "adapter"])
def test_each_teacher_is_sampled_as_itself(tiny: str, teacher: str) -> None:
    run = vllm_run(tiny, teacher=teacher, e_every=1, lr=1e-2)
    train(run, 2)
    policy = run.learner.policy
    with run.learner.teacher.playing():
        done = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
        assert gaps(policy, CONTEXTS, done).abs().max() < 1e-3
    if teacher != "trust-region":  # its live half is the student
        assert gaps(policy, CONTEXTS, done).abs().max() > 1e-3


@needs_vllm
@pytest.mark.slow
def test_the_process_is_left_as_it_was(run: Run) -> None:
    state = torch.get_rng_state()
    run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=4))
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


@needs_vllm
@pytest.mark.slow
def test_a_model_that_the_cpu_build_cannot_run_is_told_at_once() -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("vLLM for a GPU runs this model")
    with pytest.raises(UserError, match="attention heads of 32, .* dimensions, but those of .* have 24"):
        toy_run(model="apprentice", sampler="vllm")


def followed(run: Run) -> list[Completion]:
    """Samples after three updates, which must have reached the engine."""
    first = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    train(run, 3)
    done = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    assert gaps(run.learner.policy, CONTEXTS, done).abs().max() < 1e-3
    assert gaps(run.learner.policy, CONTEXTS, first).abs().max() > 1e-2
    return done


@needs_vllm
@pytest.mark.slow
def test_a_lora_student_is_merged(tiny: str) -> None:
    followed(vllm_run(tiny, lora_rank=4, lr=1e-2, vllm_lora="merge"))


@needs_vllm
@pytest.mark.slow
def test_rounding_to_bfloat16_is_within_its_bound_and_wrong_weights_are_not(tiny: str) -> None:
    run = vllm_run(tiny, vllm_dtype="bfloat16")
    contexts = CONTEXTS * 20
    done = run.sampler.generate(contexts, streams(60), Sampling(max_new_tokens=24))
    gap = gaps(run.learner.policy, contexts, done).abs()
    assert 1e-3 < gap.mean() < BOUND["bfloat16"] / 3
    with torch.no_grad():
        for parameter in run.learner.policy.parameters:
            parameter.mul_(1.5)
    run.sampler.engine.held = (True, content(run.learner.policy))  # as if they had been sent
    with pytest.raises(RunFailed):
        run.sampler.generate(contexts, streams(60), Sampling(max_new_tokens=24))
    run.sampler.engine.held = None


@needs_vllm
@pytest.mark.slow
def test_a_lora_student_is_loaded_as_an_adapter(tiny: str) -> None:
    run = vllm_run(tiny, lora_rank=4, lr=1e-2, vllm_lora="adapter", teacher="adapter", adapter_rank=8)
    policy, done = run.learner.policy, followed(run)
    with run.learner.teacher.playing():
        teacher = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
        assert gaps(policy, CONTEXTS, teacher).abs().max() < 1e-3
    assert gaps(policy, CONTEXTS, teacher).abs().max() > 1e-3
    again = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    assert [one.ids for one in again] == [one.ids for one in done]


@needs_vllm
@pytest.mark.slow
def test_an_engine_that_made_room_for_another_starts_again(tiny: str, run: Run) -> None:
    sampling = Sampling(max_new_tokens=8)
    first = run.sampler.generate(CONTEXTS, streams(3), sampling)
    other = vllm_run(tiny, vllm_dtype="bfloat16")
    assert run.sampler.engine is not other.sampler.engine
    other.sampler.generate(CONTEXTS, streams(3), sampling)
    assert run.sampler.generate(CONTEXTS, streams(3), sampling) == first
    assert vllm_run(tiny).sampler.engine is run.sampler.engine


@needs_vllm
@pytest.mark.slow
def test_a_run_from_the_command_line_goes_on_where_it_was(tiny: str, tmp_path: Path) -> None:
    def vpdlab(out: str, *more: str) -> str:
        command = [sys.executable, "-m", "vpdlab.cli", "train", "--preset", str(settings), "--out", str(tmp_path / out)]
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    settings = tmp_path / "settings.yaml"
    fields = {
        "model": tiny, "sampler": "vllm", "prompts": 3, "group": 4, "max_new_tokens": 12, "max_context": 180,
        "steps": 4, "eval_problems": 6, "eval_samples": 2, "checkpoint_every": 2, "threads": 1, "lr": 0.01,
        "method": "sdpo",
    }  # fmt: skip
    settings.write_text(json.dumps(fields), encoding="utf-8")
    vpdlab("whole")
    vpdlab("halves", "--steps", "2")
    assert "resuming from step 2" in vpdlab("halves", "--resume")
    ends = [load_file(tmp_path / out / "final" / "model.safetensors") for out in ("whole", "halves")]
    assert equal(*ends)
    assert not equal(ends[0], load_file(Path(tiny) / "model.safetensors"))
    rows = [json.loads(line) for line in (tmp_path / "halves" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["grad_norm"] for row in rows)


@pytest.fixture(scope="module")
def server(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real vLLM server with our extension; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"^(VLLM_SERVER_DEV_MODE=1 .*?)^```$", page, re.DOTALL | re.MULTILINE)
    words = shlex.split(said.replace("\\\n", " "))
    mode, _, *options = words  # as documented, with this model, this port and this build's settings
    ours = {"MODEL": tiny, "8000": str(port), "bfloat16": "float32", "2048": "300"}
    command = [sys.executable, *(ours.get(word, word) for word in options), "--enforce-eager"]
    env = os.environ | dict([mode.split("=")]) | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"
    }  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@needs_vllm
@pytest.mark.slow
def test_a_real_server_follows_the_updates(tiny: str, server: str) -> None:
    run = vllm_run(tiny, vllm_url=server, lora_rank=4, lr=1e-2)
    policy = run.learner.policy
    old = run.sampler.generate(CONTEXTS, streams(3), Sampling(max_new_tokens=24))
    assert gaps(policy, CONTEXTS, old).abs().max() < 1e-3
    train(run, 3)
    contexts = CONTEXTS * 10
    new = run.sampler.generate(contexts, streams(30), Sampling(max_new_tokens=24))
    assert gaps(policy, contexts, new).abs().max() < 1e-3
    assert gaps(policy, CONTEXTS, old).abs().max() > 1e-2
    alone = run.sampler.generate(contexts[2:3], streams(3)[2:], Sampling(max_new_tokens=24))
    assert alone[0].ids == new[2].ids
