"""Every fault of a critic's server: a reason in bounded time and memory, and a budget that never rises."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asking import SECRET, ask, critic
from hostile_server import (
    ALL,
    MIB,
    OK,
    HostileServer,
    bomb,
    chunk,
    chunked,
    completion,
    drip,
    hang,
    http,
    raw,
    request,
    usage,
)
from places import ROOT
from toy import toy_run

from vpdlab.errors import UserError
from vpdlab.feedback.endpoint import KEY, Budget
from vpdlab.net import client

SECONDS = 1.0
SLACK = 8.0  # a busy machine may let a thread wait for seconds; what is not bounded lasts longer
PLENTY = 60.0  # where something other than the clock is to end the exchange, on a busy machine too


@pytest.fixture(scope="module")
def render():
    return toy_run().render


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


@pytest.fixture
def serve() -> Iterator[Callable[..., HostileServer]]:
    servers: list[HostileServer] = []

    def start(script, early: bool = False) -> HostileServer:
        servers.append(HostileServer(script, early))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("name", ALL)
def test_a_fault_is_a_reason_in_bounded_time_and_memory(name, serve, render, tmp_path, capfd) -> None:
    server = serve(ALL[name])
    budget = Budget(20, 10**6)
    judge = critic(server, render, seconds=SECONDS, budget=budget, cache=tmp_path)
    tracemalloc.start()
    started = time.monotonic()
    (found,) = ask(judge)
    took, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.text is None and 0 < len(found.reason) < 200, found
    assert found.reason.isprintable() and SECRET not in found.reason
    assert took < SECONDS + SLACK
    assert peak < 64 * MIB
    assert budget.tokens < 10**6 and 0 < len(server.requests) <= 20 - budget.calls <= 3
    assert not list(tmp_path.rglob("*.json"))  # nothing is kept that was not accepted
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", ["a TLS handshake that never begins", "one that drips", "a server that takes nothing"])
def test_the_clock_covers_the_time_before_the_reply(name, serve, render) -> None:
    script = drip(b"\x16\x03\x03\x40\x00" + b"\x02") if "drips" in name else hang
    server = serve(script, early=True)
    url = f"https://127.0.0.1:{server.port}/v1" if "TLS" in name or "drips" in name else server.url
    judge = critic(url, render, seconds=SECONDS, budget=Budget(20, 10**9))
    if "takes" in name:
        judge.render = type("Long", (), {"critic_text": lambda *a: "x" * (64 * MIB)})()
    started = time.monotonic()
    (found,) = ask(judge)
    assert found.text is None and "the critic did not answer: " in found.reason
    assert time.monotonic() - started < SECONDS + SLACK


def test_the_clock_covers_connecting(render) -> None:
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = full.getsockname()
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:  # the queue is full: the next one gets no answer
        one.setblocking(False)
        one.connect_ex(address)
    started = time.monotonic()
    (found,) = ask(critic(f"http://127.0.0.1:{address[1]}/v1", render, seconds=SECONDS))
    assert found.text is None and time.monotonic() - started < SECONDS + SLACK
    for one in [*waiting, full]:
        one.close()


def test_the_clock_covers_the_name(render, monkeypatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: over.wait(30))
    started = time.monotonic()
    (found,) = ask(critic("http://slow.example/v1", render, seconds=SECONDS))
    over.set()
    assert found.reason == "the critic did not answer: it took too long"
    assert time.monotonic() - started < SECONDS + SLACK


def test_a_host_that_does_not_exist_is_a_reason(render, monkeypatch) -> None:
    def look(*args, **named):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look)
    (found,) = ask(critic("http://nowhere.example/v1", render, seconds=PLENTY))
    assert found.reason == "the critic did not answer: no such host"


ACCEPTED = {
    "usage null": usage("null"),
    "usage of nothing": usage("{}"),
    "usage half there": usage('{"prompt_tokens": null, "completion_tokens": 3}'),
    "usage more than asked": usage('{"prompt_tokens": 100000000, "completion_tokens": 3}'),
    "a length of white space": http(b" " * 1000 + completion() + b"\n" * 1000),
    "a byte order mark": http(b"\xef\xbb\xbf" + completion()),
    "chunks": chunked(*(chunk(bytes([byte])) for byte in completion()), b"0\r\n\r\n"),
    "no length": f"{OK}\r\n".encode() + completion(),
    "1xx first": b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + http(completion()),
    "identity": http(completion(), "Content-Encoding: identity"),
    "more after the body": http(completion()) + http(b"{}") * 3,
    "a finish_reason of another kind": http(completion().replace(b'"message"', b'"finish_reason": [1], "message"')),
    "names twice": http(completion().replace(b"{", b'{"choices": 7, ', 1)),
    "a cookie": http(completion(), f"Set-Cookie: a={SECRET}; Path=/"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_odd_and_can_be_read_is_read(name, serve, render) -> None:
    server, budget = serve(raw(ACCEPTED[name])), Budget(20, 10**6)
    judge = critic(server, render, seconds=PLENTY, budget=budget)
    assert ask(judge)[0].text == "The sign is wrong."
    assert budget.tokens < 10**6
    assert ask(judge)[0].text == "The sign is wrong."
    assert all(b"cookie" not in asked.lower() for asked in server.requests)


def test_words_of_all_scripts_are_kept(serve, render) -> None:
    said = "Vorzeichen falsch: −7 ≠ 7\n\t✗ علامة \N{RIGHT-TO-LEFT MARK} 符号 👩‍🔬"
    assert ask(critic(serve(raw(http(completion(said)))), render))[0].text == said


@pytest.mark.parametrize("layers", [100, 2_000, 37_000])
def test_control_tokens_within_control_tokens_are_taken_out_in_bounded_time(layers, serve, render) -> None:
    said = "Wrong." + "<|e" * layers + "<|end|>" + "nd|>" * layers
    started = time.monotonic()
    (found,) = ask(critic(serve(raw(http(completion(said)))), render, seconds=PLENTY))
    assert found.text is not None and found.text.startswith("Wrong.") and "<|end|>" not in found.text
    assert time.monotonic() - started < SECONDS + SLACK


@pytest.mark.parametrize("held", ["{", "7", '"\\ud800"', '"a\\u0000b"', "[" * 10_000, '"' + "x" * 300_000 + '"', ""])
def test_a_cached_reply_that_cannot_be_used_is_asked_for_again(held, serve, render, tmp_path) -> None:
    server = serve(raw(http(completion())))
    ask(critic(server, render, cache=tmp_path))
    (place,) = tmp_path.rglob("*.json")
    place.write_text(held)
    assert ask(critic(server, render, cache=tmp_path))[0].text == "The sign is wrong."
    assert len(server.requests) == 2
    assert json.loads(place.read_text()) == "The sign is wrong."
    assert ask(critic(server, render, cache=tmp_path))[0].text and len(server.requests) == 2


def test_a_cache_that_cannot_be_written_or_read_costs_no_critique(serve, render, tmp_path, capsys) -> None:
    server = serve(raw(http(completion())))
    (tmp_path / "file").write_text("a file, no folder")
    for place in (tmp_path / "file", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        found = ask(critic(server, render, cache=place), 3)
        assert [critique.text for critique in found] == ["The sign is wrong."] * 3
        assert capsys.readouterr().err.count("cannot be written") == 1
    ask(critic(server, render, cache=tmp_path / "cache"))
    (place,) = (tmp_path / "cache").rglob("*.json")
    place.unlink()
    place.mkdir()
    assert ask(critic(server, render, cache=tmp_path / "cache"))[0].text == "The sign is wrong."


@pytest.mark.parametrize(
    "url",
    [
        "http://host:99999/v1", "http://host:0/v1", "http://host:-1", "http://host:abc", "http://[::1/v1",
        "http://[nonsense]/v1", "http://::1/v1", "http://ex ample/v1", "http://host/v1\n", "\thttp://host", "http://",
        "http:///v1", "ftp://host", "host", "", "http://a..b", "http://" + "a" * 64 + ".org", "http://h\u00f6st",
        "http://\udcff", "http://host\\v1", "http://host/v1?a=b", "http://host/v1#a", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_one_line(url, render) -> None:
    with pytest.raises(UserError, match="critic_url") as told:
        critic(url, render)
    assert str(told.value).encode("utf-8", "replace").decode().isprintable()


@pytest.mark.parametrize("url", ["http://me:hidden@[::1/v1", "http://me:hidden@host", "http://host:x?key=hidden"])
def test_a_password_in_an_address_is_never_shown(url, render) -> None:
    with pytest.raises(UserError, match="critic_url") as told:
        critic(url, render)
    assert "hidden" not in str(told.value)


@pytest.mark.parametrize(
    "key", ["hidden\n", "hidden\r\nX-A: b", "hid den", "h\u00efdden", "\udcffhidden", "hidden\x7f"]
)
def test_a_key_that_no_header_can_hold_is_one_line_without_it(key, render, monkeypatch) -> None:
    monkeypatch.setenv(KEY, key)
    with pytest.raises(UserError, match=KEY) as told:
        critic("http://host/v1", render)
    assert "idden" not in str(told.value) and str(told.value).isprintable()


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A key and a certificate for localhost that it has signed itself."""
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run([*command, *names, "-keyout", both, "-out", f"{both}.crt"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("missing: openssl (apt-get install openssl)")
    both.write_bytes(both.read_bytes() + Path(f"{both}.crt").read_bytes())
    return both


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_is_checked(trusted, certificate, serve, render, monkeypatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def script(one: socket.socket) -> None:
        with context.wrap_socket(one, server_side=True) as safe:
            request(safe)  # all of it: closing on unread bytes resets the connection
            safe.sendall(http(completion()))

    if trusted:
        monkeypatch.setattr(client, "_trust", lambda: ssl.create_default_context(cafile=str(certificate)))
    url = f"https://localhost:{serve(script, early=True).port}/v1"
    (found,) = ask(critic(url, render, seconds=PLENTY))
    assert found.text == ("The sign is wrong." if trusted else None)
    assert trusted or "self" in found.reason  # self-signed, in OpenSSL's words


def test_the_bomb_takes_no_memory_of_the_process(tmp_path) -> None:
    """In a process of its own, whose largest size the system tells: as large with the bomb as without it."""
    (tmp_path / "bomb").write_bytes(http(bomb(), "Content-Encoding: gzip, gzip", status="400 Bad Request"))
    code = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from hostile_server import HostileServer, raw\n"
        "from vpdlab import net\n"
        f"server = HostileServer(raw(Path({str(tmp_path / 'bomb')!r}).read_bytes()))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: net.exchange('POST', server.url, seconds=5, largest=1 << 20, body=b'{}')\n"
        "except net.BadReply: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 * 1024  # KiB
