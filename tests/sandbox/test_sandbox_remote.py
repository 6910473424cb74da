"""A SandboxFusion server as the wall, against a local one: requests, and all ways in which it can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vpdlab.errors import UserError
from vpdlab.sandbox import Limits, SandboxError, describe, judge_function, judge_stdin, remote, run


def honest(asked: dict[str, Any]) -> dict[str, Any]:
    """Runs the code as SandboxFusion does, and replies in its format."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", asked["code"]], input=asked.get("stdin") or "", capture_output=True, text=True,
            timeout=asked["run_timeout"], check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else ""
        result = {"status": "TimeLimitExceeded", "execution_time": asked["run_timeout"], "stdout": out, "stderr": ""}
        return {
            "status": "Failed",
            "message": "",
            "compile_result": None,
            "run_result": {**result, "return_code": None},
        }
    result = {"status": "Finished", "execution_time": 0.1, "return_code": done.returncode}
    result |= {"stdout": done.stdout, "stderr": done.stderr}
    status = "Failed" if done.returncode else "Success"
    return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": {}}


@contextmanager
def server(answer: Any = honest, status: int = 200, drip: bool = False) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address, what it was asked)."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body})
            text = json.dumps(answer(body)).encode() if callable(answer) else answer
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            try:
                for place in range(0, len(text), 1 if drip else len(text)):
                    self.wfile.write(text[place : place + (1 if drip else len(text))])
                    time.sleep(0.2 if drip else 0)
            except OSError:
                assert drip  # the client closed the connection

        def log_message(self, *_: Any) -> None:
            pass

    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=here.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{here.server_port}", asked
    finally:
        here.shutdown()
        here.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _no_second_try(monkeypatch):
    monkeypatch.setattr("vpdlab.sandbox.judge.WAITS", (0.01, 0.01))


def test_programs_and_functions_run_there():
    with server() as (url, asked):
        done = run("print(input() * 2)", "ab\n", sandbox=url)
        assert (done.status, done.stdout, done.wall) == ("ok", "abab\n", url)
        assert asked[0]["path"] == "/run_code"
        assert asked[0]["language"] == "python"
        assert asked[0]["run_timeout"] == 5.0
        cases = [(([3, 1],), [1, 3]), (((1, 2),), [1, 2])]
        verdict = judge_function("def f(x):\n    print('noise')\n    return sorted(x)", "f", cases, sandbox=url)
        assert verdict.passed and verdict.wall == url
        assert "[1, 3]" not in json.dumps(asked)
        bad = judge_function("def f(x): return x", "f", cases, sandbox=url)
        assert bad.feedback == "Test 1 of 2 failed: f([3, 1]) returned [3, 1], but [1, 3] was expected."
        assert describe(url) == {"wall": url, "holds": "what that server holds"}


def test_what_goes_wrong_there_comes_in_the_same_words():
    with server() as (url, _):
        error = judge_stdin("x = 1\nint('a')", [("", "1")], sandbox=url)
        here = judge_stdin("x = 1\nint('a')", [("", "1")], sandbox="unsafe")
        assert error.feedback == here.feedback
        assert "ValueError: invalid literal for int() with base 10: 'a' (line 2: `int('a')`)." in error.feedback
        late = judge_stdin("while True: pass", [("", "1")], Limits(seconds=0.5), sandbox=url)
        assert "did not end within 0.5 seconds" in late.feedback
        late = judge_function(
            "def f(x):\n    while x: pass", "f", [((0,), None), ((1,), 1)], Limits(seconds=0.5), sandbox=url
        )
        assert "did not end within 0.5 seconds" in late.feedback
        assert "IndexError" in judge_function("def f(x): return x[9]", "f", [(([],), 1)], sandbox=url).feedback
        assert run("import sys; sys.exit(3)", sandbox=url).status == "error"
        assert run("print('x' * 10**7)", sandbox=url).cut


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ({"status": "SandboxError", "message": "no room"}, 200, "the sandbox server failed: no room"),
        ({"status": "Success"}, 200, "no run_result"),
        ({"status": "Failed", "run_result": {"status": "Error"}}, 200, "the sandbox server failed"),
        ({"status": "Success", "run_result": {"status": "Finished", "return_code": "0"}}, 200, "no return_code"),
        ({"run_result": {"status": "Finished", "return_code": 0, "stdout": 3}}, 200, "of unexpected form"),
        ([1], 200, "not send a JSON object"),
        (b"<html>", 200, "Expecting value"),
        (b"", 200, "Expecting value"),
        ({}, 500, "answered with status 500"),
        ({}, 302, "answered with status 302"),
    ],
)  # fmt: skip
def test_a_server_that_fails_is_no_verdict(answer, status, words):
    reply = answer if isinstance(answer, bytes) else lambda _: answer
    with server(reply, status) as (url, asked), pytest.raises(SandboxError, match=words):
        run("print(1)", sandbox=url)
    assert [each["code"][-30:] for each in asked].count("print(1)") == 3  # retried, never elsewhere
    assert len(asked) == 5  # a harmless program was tried in between and failed too


def test_a_reply_that_drips_is_cut_off(monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    start = time.monotonic()
    with server(drip=True) as (url, _), pytest.raises(SandboxError, match="no answer within 1 seconds"):
        run("print(1)", limits=Limits(seconds=0.5), sandbox=url)
    assert time.monotonic() - start < 20


def test_a_server_that_runs_nothing_or_is_not_there():
    empty = {
        "status": "Success",
        "run_result": {"status": "Finished", "return_code": 0, "stdout": "hello", "stderr": ""},
    }
    with server(lambda _: empty) as (url, _), pytest.raises(SandboxError, match="ran nothing"):
        judge_function("def f(x): return x", "f", [((1,), 1)], sandbox=url)
    with pytest.raises(SandboxError, match="127.0.0.1"):
        run("print(1)", sandbox="http://127.0.0.1:9")
    for bad in ("http://", "http://name:secret@host", "http://host:port"):
        with pytest.raises(UserError):
            run("print(1)", sandbox=bad)
