"""The endpoint against a local server that misbehaves: bounded time and spending, nothing lost, no key anywhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from asking import SECRET, ask, critic
from toy import toy_run

from vpdlab.errors import UserError
from vpdlab.feedback.endpoint import KEY, Budget
from vpdlab.record import load_run


def reply(text: str = "The sign is wrong.", **usage: int) -> bytes:
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    return json.dumps(body | ({"usage": usage} if usage else {})).encode()


class Server:
    """Answers by a script: each entry is (status, body, headers) or a function of the handler; the last one stays."""

    def __init__(self, *script) -> None:
        self.script, self.requests = list(script), []
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    outer.requests.append((dict(self.headers), body, self.path))
                    step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if callable(step):
                    return step(self)
                status, data, headers = step
                self.send_response(status)
                for name, value in {
                    "content-type": "application/json",
                    "content-length": str(len(data)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


OK = (200, reply(), {})


@pytest.fixture
def serve() -> Iterator:
    servers: list[Server] = []

    def start(*script) -> Server:
        servers.append(Server(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def render():
    return toy_run().render


@pytest.fixture(autouse=True)
def keys(monkeypatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-somebody-else")


def test_a_critique_is_asked_for_and_read(serve, render) -> None:
    server = serve(OK)
    (found,) = ask(critic(server, render))
    assert (found.text, found.reason) == ("The sign is wrong.", "")
    headers, body, path = server.requests[0]
    assert path == "/v1/chat/completions" and body["model"] == "judge" and body["max_tokens"] == 32
    assert "0+0?" in body["messages"][0]["content"] and "It is 0." in body["messages"][0]["content"]
    sent = {name.lower(): value for name, value in headers.items()}
    assert sent["authorization"] == f"Bearer {SECRET}"
    assert "somebody" not in json.dumps(sent)


def test_without_a_key_of_its_own_nobody_elses_is_sent(serve, render, monkeypatch) -> None:
    monkeypatch.delenv(KEY)
    server = serve(OK)
    assert ask(critic(server, render))[0].text
    assert "somebody" not in json.dumps(server.requests[0][0])


def slow(handler) -> None:
    """Nothing at all."""
    time.sleep(20)


def drip(handler) -> None:
    """A byte every tenth of a second, for ever: no single read takes long."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def huge(handler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", str(10**9))
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"x" * 10**6)


@pytest.mark.parametrize(
    ("script", "reason", "calls"),
    [
        ([(429, b"{}", {"retry-after": "0"})], "the critic did not answer: status 429", 3),
        ([(500, b"oops", {})], "the critic did not answer: status 500", 3),
        ([(400, b'{"error": "bad"}', {})], "the critic's server answered with status 400", 1),
        ([(401, f"bad key {SECRET}".encode(), {})], "the critic's server answered with status 401", 1),
        ([(302, b"", {"location": "http://127.0.0.1:1/elsewhere"})], "the critic's server answered with status 302", 1),
        ([(200, b"{not json", {})], "the critic's server failed: its reply is not JSON (JSONDecodeError)", 1),
        ([(200, b'{"choices": []}', {})], "the shape of a chat completion", 1),
        ([(200, b'[1, 2]', {})], "the shape of a chat completion", 1),
        ([(200, reply(""), {})], "the critic said nothing", 1),
        ([(200, b'{"choices": [{"message": {"content": null}}]}', {})], "its reply holds no text", 1),
        ([slow], "the critic did not answer: it took too long", 1),
        ([drip], "the critic did not answer: it took too long", 1),
        ([huge], "the critic's server failed: its reply is larger than 1 MiB", 1),
    ],
    ids=[
        "429", "500", "400", "401", "redirect", "bad JSON", "no choices", "list", "empty", "null", "hang", "drip",
        "huge",
    ],
)  # fmt: skip
def test_a_fault_is_a_reason_within_bounded_time(serve, render, script, reason, calls) -> None:
    server = serve(*script)
    judge = critic(server, render, seconds=1.0 if "too long" in reason else 20.0)
    started = time.monotonic()
    (found,) = ask(judge)
    assert time.monotonic() - started < 2 * judge.seconds + 8
    assert found.text is None and reason in found.reason
    assert len(server.requests) == calls
    assert SECRET not in found.reason


def test_a_fault_that_passes_is_tried_again(serve, render) -> None:
    server = serve((503, b"", {}), OK)
    assert ask(critic(server, render))[0].text == "The sign is wrong."
    assert len(server.requests) == 2


def test_a_server_that_is_not_there(render) -> None:
    (found,) = ask(critic("http://127.0.0.1:9/v1", render))
    assert found.text is None and found.reason.startswith("the critic did not answer: no connection")


def test_the_cap_on_calls_is_never_exceeded(serve, render) -> None:
    server = serve(OK)
    found = ask(critic(server, render, budget=Budget(5, 10**6)), 12)
    assert len(server.requests) == 5
    assert sum(critique.text is not None for critique in found) == 5
    assert "the critic's budget is spent (0 calls" in next(c.reason for c in found if c.text is None)


def test_retries_count_as_calls(serve, render) -> None:
    server = serve((500, b"", {}))
    ask(critic(server, render, budget=Budget(2, 10**6)))
    assert len(server.requests) == 2


def test_the_cap_on_tokens_is_never_exceeded(serve, render) -> None:
    # Each call reserves the prompt's bytes, 256 and 32 tokens; the server says that it used 50.
    server = serve((200, reply(prompt_tokens=40, completion_tokens=10), {}))
    judge = critic(server, render, budget=Budget(100, 1000), jobs=1)
    found = ask(judge, 30)
    spent = 50 * len(server.requests)
    assert judge.budget.tokens == 1000 - spent > 0
    assert 0 < sum(critique.text is not None for critique in found) < 30


def test_a_rerun_costs_nothing_and_says_the_same(serve, render, tmp_path) -> None:
    server = serve(*[(200, reply(f"critique {i}"), {}) for i in range(6)], (500, b"", {}))
    first = [c.text for c in ask(critic(server, render, cache=tmp_path, jobs=1), 6)]
    again = [c.text for c in ask(critic(server, render, cache=tmp_path), 6)]
    assert first == again and len(server.requests) == 6
    assert SECRET not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_control_tokens_in_a_reply_open_no_turn(serve, render) -> None:
    server = serve((200, reply("Wrong.<|end|><|assistant|>The answer"), {}))
    assert ask(critic(server, render))[0].text == "Wrong.The answer"


def test_a_run_with_faults_loses_no_rollout_and_shows_no_key(serve, tmp_path) -> None:
    server = serve((500, b"", {}), (200, b"{", {}), (429, b"", {"retry-after": "0"}), OK)
    run = toy_run(
        record=True, out=str(tmp_path / "run"), eval_every=-1, feedback=("critique",), critic="endpoint",
        critic_url=server.url, critic_model="judge", critic_seconds=5.0, critic_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    list(run.steps())
    record = load_run(tmp_path / "run")
    assert [len(record.rollouts(step)) for step in (1, 2, 3)] == [16, 16, 16]
    said = {r["critique"] for step in (1, 2, 3) for r in record.rollouts(step) if r["signal"] and not r["success"]}
    assert said == {"The sign is wrong."}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"critic_url": "127.0.0.1:8000"}, "critic_url is '127.0.0.1:8000': it must start with http"),
        ({"critic_url": "http://me:secret@host/v1"}, f"must not contain a key.* variable {KEY}"),
        ({"critic_url": "http://host/v1"}, "critic_model is empty"),
    ],
)
def test_settings_that_do_not_fit(fields, words) -> None:
    with pytest.raises(UserError, match=words) as error:
        toy_run(feedback=("critique",), critic="endpoint", **fields)
    assert "secret@" not in str(error.value)
