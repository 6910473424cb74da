"""Every fault of a vLLM server: one line in bounded time, at the start and later."""

from __future__ import annotations

import time

import pytest
from hostile_server import ALL, HostileServer, http, raw

from vpdlab.errors import RunFailed, UserError
from vpdlab.sampling import Sampling
from vpdlab.sampling.vllm_engine import server
from vpdlab.sampling.vllm_engine.server import ServerEngine

MODELS = b'{"data": [{"id": "tiny", "max_model_len": 4096}]}'


@pytest.fixture(autouse=True)
def short(monkeypatch) -> None:
    monkeypatch.setattr(server, "START", 0.3)
    monkeypatch.setattr(server, "SECONDS", 0.3)
    monkeypatch.setattr(server, "LARGEST", 1 << 20)


def line(error: BaseException) -> str:
    text = str(error)
    assert len(text) < 500 and text.isprintable()
    return text


@pytest.mark.parametrize("name", ALL)
def test_a_fault_is_one_line(name) -> None:
    hostile = HostileServer(ALL[name])
    started = time.monotonic()
    with pytest.raises(UserError, match="no vLLM server answers there") as told:
        ServerEngine(hostile.url, 100, 4)
    line(told.value)
    engine = ServerEngine.__new__(ServerEngine)
    engine._url, engine._rows, engine._model = hostile.url.removesuffix("/v1"), 4, "tiny"
    with pytest.raises(RunFailed) as told:
        engine.complete([[1, 2]], [3], Sampling(max_new_tokens=4), [1])
    line(told.value)
    assert time.monotonic() - started < 10
    hostile.close()


@pytest.mark.parametrize(
    "models",
    [
        b'{"data": [{"id": 7, "max_model_len": 4096}]}', b'{"data": [{"id": "tiny", "max_model_len": "4096"}]}',
        b'{"data": [{"id": "tiny", "max_model_len": null}]}', b'{"data": [{"id": "tiny", "max_model_len": true}]}',
        b'{"data": [{"id": "tiny", "max_model_len": 1e3}]}', b'{"data": {}}', b'{"data": []}', b"[]",
    ],
)  # fmt: skip
def test_a_list_of_models_of_another_shape_is_one_line(models) -> None:
    hostile = HostileServer(raw(http(models)))
    with pytest.raises(UserError, match="unexpected form") as told:
        ServerEngine(hostile.url, 100, 4)
    line(told.value)
    hostile.close()


@pytest.mark.parametrize(
    ("ids", "logps"),
    [
        ("[1.5]", "[-1.0]"), ('["1"]', "[-1.0]"), ("[true]", "[-1.0]"), ("[-1]", "[-1.0]"), ("[99999999999]", "[-1.0]"),
        ("[1]", '["-1.0"]'), ("[1]", "[1.0]"), ("[1]", "[true]"), ("[1]", "[NaN]"), ("[1]", "[-1e400]"),
        ("[1, 2, 3, 4, 5]", "[-1, -1, -1, -1, -1]"), ('"1"', '"1"'), ("{}", "{}"), ("null", "null"), ("[[1]]", "[[1]]"),
    ],
)  # fmt: skip
def test_tokens_that_are_none_are_never_trained_on(ids, logps) -> None:
    reply = (
        f'{{"choices": [{{"token_ids": {ids}, "logprobs": {{"token_logprobs": {logps}}}, "finish_reason": "stop"}}]}}'
    )
    hostile = HostileServer(
        lambda one: one.sendall(http(MODELS if hostile.requests[-1][:3] == b"GET" else reply.encode()))
    )
    engine = ServerEngine(hostile.url, 100, 4)
    with pytest.raises(RunFailed) as told:
        engine.complete([[1, 2]], [3], Sampling(max_new_tokens=4), [1])
    line(told.value)
    hostile.close()


@pytest.mark.parametrize("url", ["http://host:99999", "http://[::1", "http://ex ample", "http://a..b", "", "host:8000"])
def test_an_address_that_is_none_is_one_line(url) -> None:
    with pytest.raises(UserError, match="vllm_url") as told:
        ServerEngine(url, 100, 4)
    line(told.value)


@pytest.mark.parametrize("reply", [b"[]", b"7", b"null", b'{"success": 1}', b'{"success": "true"}', b"{"])
def test_a_cache_that_was_not_forgotten_ends_the_run(reply, tmp_path) -> None:
    def script(one) -> None:
        route = hostile.requests[-1].split(b" ")[1]
        one.sendall(http({b"/v1/models": MODELS, b"/collective_rpc": b"{}"}.get(route, reply)))

    hostile = HostileServer(script)
    with pytest.raises(RunFailed) as told:
        ServerEngine(hostile.url, 100, 4).load(tmp_path / "weights.safetensors")
    line(told.value)
    hostile.close()
