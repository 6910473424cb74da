"""A server that sends what it likes, byte by byte: each connection is one call of a function with the socket."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from asking import SECRET

OK = "HTTP/1.1 200 OK\r\n"
MIB = 1 << 20
Script = Callable[[socket.socket], None]


class HostileServer:
    """Reads each request whole, then hands the script the socket; `early` scripts get it before anything is read."""

    def __init__(self, script: Script, early: bool = False) -> None:
        self.requests: list[bytes] = []
        self._script, self._early, self._over = script, early, threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        self._over.set()
        self._listening.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                one, _ = self._listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._one, args=(one,), daemon=True).start()

    def _one(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):  # the client hangs up, as it should
            self.requests.append(b"" if self._early else request(one))
            self._script(one)


def request(one: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = one.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += one.recv(65536)
    return head + b"\r\n\r\n" + body


def drip(data: bytes, pause: float = 0.05, times: int = 2000) -> Script:
    """The same bytes again and again, with pauses: no single read waits long."""

    def script(one: socket.socket) -> None:
        for _ in range(times):
            one.sendall(data)
            time.sleep(pause)

    return script


def after(start: bytes, then: Script) -> Script:
    def script(one: socket.socket) -> None:
        one.sendall(start)
        then(one)

    return script


def flood(data: bytes, total: int) -> Script:
    """As much as the client takes, up to `total` bytes."""
    piece = data * max(1, 65536 // len(data))

    def script(one: socket.socket) -> None:
        for _ in range(total // len(piece)):
            one.sendall(piece)

    return script


def raw(data: bytes) -> Script:
    return lambda one: one.sendall(data)


def hang(one: socket.socket) -> None:
    time.sleep(60)


def reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def completion(text: Any = "The sign is wrong.", **further: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], **further}).encode()


# -- every fault: time, size, shape ----------------------------------------------------------------------------------


def zeros(encode, size: int = 64 * MIB) -> bytes:
    return encode(b"0" * size)


def bomb() -> bytes:
    """2.6 KB that twice decoded are 4 GiB in full; here 256 MiB, enough to be seen."""
    return gzip.compress(gzip.compress(b"\0" * (256 * MIB), 9), 9)


def chunked(*pieces: bytes) -> bytes:
    return f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode() + b"".join(pieces)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def usage(text: str) -> bytes:
    return http(completion()[:-1] + f', "usage": {text}}}'.encode())


def content(text: str) -> bytes:
    """A completion whose content is written as this JSON."""
    return http(b'{"choices": [{"message": {"content": ' + text.encode() + b"}}]}")


DRIPS = {
    "nothing at all": hang,
    "a status that drips": drip(b"H"),
    "headers that drip": after(OK.encode(), drip(b"X-A: b\r\n")),
    "one header that drips": after(OK.encode() + b"X-A: ", drip(b"b")),
    "1xx for ever": drip(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "1xx with headers that drip": after(b"HTTP/1.1 100 Continue\r\n", drip(b"X-A: b\r\n")),
    "a body that drips": after(http(b"", length=100_000), drip(b" ")),
    "a body that stalls": after(http(b'{"choices"', length=1000), hang),
    "chunks that drip": after(chunked(), drip(chunk(b" "))),
    "a chunk's size that drips": after(chunked(), drip(b"0")),
    "trailers that drip": after(chunked(chunk(completion()), b"0\r\n"), drip(b"X-A: b\r\n")),
    "an error's body that drips": after(http(b"", status="400 Bad Request", length=100_000), drip(b" ")),
    "an error's body that stalls": after(http(b"", status="500 Oh", length=100_000), hang),
    "a body without an end that drips": after(f"{OK}\r\n".encode(), drip(b" ")),
}

FLOODS = {
    "50 MB": flood(b"x", 50 * MIB),
    "a body of 50 MB": after(http(b"", length=50 * MIB), flood(b"x", 50 * MIB)),
    "a body of 50 MB with no length": after(f"{OK}\r\n".encode(), flood(b" ", 50 * MIB)),
    "an error's body of 50 MB": after(http(b"", status="500 Oh", length=50 * MIB), flood(b"x", 50 * MIB)),
    "chunks of a byte": after(chunked(), flood(chunk(b" "), 50 * MIB)),
    "a chunk of 50 MB": after(chunked(b"3200000\r\n"), flood(b" ", 50 * MIB)),
    "a chunk with an extension without an end": after(chunked(b"1;a="), flood(b"x", 50 * MIB)),
    "trailers without an end": after(chunked(chunk(completion()), b"0\r\n"), flood(b"X-A: b\r\n", 50 * MIB)),
    "a header of 50 MB": after(OK.encode() + b"X-A: ", flood(b"x", 50 * MIB)),
    "headers without an end": after(OK.encode(), flood(b"X-A: b\r\n", 50 * MIB)),
    "headers folded without an end": after(OK.encode() + b"X-A: b\r\n", flood(b" b\r\n", 50 * MIB)),
    "long headers": after(OK.encode(), flood(b"X-A: " + b"b" * 60_000 + b"\r\n", 50 * MIB)),
    "cookies": after(OK.encode(), flood(b"Set-Cookie: a=b\r\n", 50 * MIB)),
    "a storm of 1xx": flood(b"HTTP/1.1 100 Continue\r\n\r\n", 50 * MIB),
    "1xx with a body of headers": flood(b"HTTP/1.1 100 C\r\n" + b"X-A: b\r\n" * 50 + b"\r\n", 50 * MIB),
}

FAULTS = {
    "closed at once": lambda one: None,
    "reset": reset,
    "a truncated body": raw(http(completion()[:-20], length=len(completion()))),
    "a length that is too long": raw(http(completion(), length=10**6)),
    "a length that is too short": raw(http(completion(), length=20)),
    "a length that is none": raw(f"{OK}Content-Length: many\r\n\r\n".encode() + completion()[:-3]),
    "a negative length": raw(f"{OK}Content-Length: -5\r\n\r\n".encode() + completion()[:-3]),
    "a length of 10**30": raw(f"{OK}Content-Length: {10**30}\r\n\r\n".encode() + completion()),
    "no HTTP": raw(b"\x00\x01\x02 nonsense\r\n\r\n"),
    "HTTP 9": raw(b"HTTP/9.9 200 OK\r\n\r\n"),
    "a status of letters": raw(b"HTTP/1.1 abc OK\r\n\r\n"),
    "a status of 999999": raw(b"HTTP/1.1 999999 OK\r\n\r\n"),
    "a TLS alert": raw(b"\x15\x03\x01\x00\x02\x02\x28"),
    "chunked garbage": raw(chunked(b"zz\r\nnonsense")),
    "a chunk that is cut": raw(chunked(b"ffff\r\n{}")),
    "a negative chunk": raw(chunked(b"-5\r\n{}\r\n")),
    "a chunk of -1": raw(chunked(b"-1\r\n{}\r\n0\r\n\r\n")),
    "a chunk of 2**64": raw(chunked(b"f" * 17 + b"\r\n{}\r\n")),
    "another transfer coding": raw(f"{OK}Transfer-Encoding: gzip\r\n\r\n".encode() + gzip.compress(completion())),
    "204": raw(http(b"", status="204 No Content")),
    "206": raw(http(completion(), status="206 Partial Content")),
    "101": raw(http(b"", status="101 Switching Protocols")),
    "a redirect": raw(http(b"", "Location: http://127.0.0.1:1/x", status="301 Moved")),
    "a redirect of a POST": raw(http(b"", "Location: http://127.0.0.1:1/x", status="308 Permanent Redirect")),
    "an HTML page": raw(http(b"<html><body>Sign in</body></html>", "Content-Type: text/html")),
    "an empty body": raw(http(b"")),
    "two JSON documents": raw(http(completion() + completion())),
    "no UTF-8": raw(http(completion().replace(b"sign", b"\xff\xfe"))),
    "UTF-16": raw(http(completion().decode().encode("utf-16"))),
    "bytes of half a character": raw(http(completion().replace(b"sign", b"\xed\xa0\x80"))),
    "bad gzip": raw(http(b"no gzip at all", "Content-Encoding: gzip")),
    "gzip": raw(http(gzip.compress(completion()), "Content-Encoding: gzip")),
    "a gzip bomb": raw(http(zeros(gzip.compress), "Content-Encoding: gzip")),
    "a deflate bomb": raw(http(zeros(zlib.compress), "Content-Encoding: deflate")),
    "br": raw(http(b"\x1b\xff\xff\x03" * 100, "Content-Encoding: br")),
    "zstd": raw(http(b"\x28\xb5\x2f\xfd" * 100, "Content-Encoding: zstd")),
    "a bomb in an error's body": raw(http(bomb(), "Content-Encoding: gzip, gzip", status="400 Bad Request")),
    "a bomb in a passing error's body": raw(http(bomb(), "Content-Encoding: gzip, gzip", status="503 Later")),
    "codings a thousand deep": raw(http(b"x", "Content-Encoding: " + "gzip, " * 1000 + "gzip")),
    "a list": raw(http(b"[1, 2]")), "a string": raw(http(b'"choices"')), "null": raw(http(b"null")),
    "deep JSON": raw(http(b"[" * 200_000)),
    "deep JSON that is whole": raw(http(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)),
    "an integer of 500,000 digits": raw(usage('{"prompt_tokens": ' + "9" * 500_000 + ', "completion_tokens": 1}')),
    "an integer of 4,000 digits": raw(usage('{"prompt_tokens": ' + "9" * 4_000 + ', "completion_tokens": 1}')),
    "300,000 objects": raw(http(b'{"choices": [' + b"{}," * 300_000 + b"{}]}")),
    "300,000 names": raw(http(b"{" + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}")),
    "usage 1e400": raw(usage('{"prompt_tokens": 1e400, "completion_tokens": 1}')),
    "usage NaN": raw(usage('{"prompt_tokens": NaN, "completion_tokens": 1}')),
    "usage -Infinity": raw(usage('{"prompt_tokens": -Infinity, "completion_tokens": 1}')),
    "usage negative": raw(usage('{"prompt_tokens": -1000000, "completion_tokens": 1}')),
    "usage half negative": raw(usage('{"prompt_tokens": 100, "completion_tokens": -90}')),
    "usage 1e300": raw(usage('{"prompt_tokens": 1e300, "completion_tokens": 1}')),
    "usage 2**63": raw(usage('{"prompt_tokens": 9223372036854775808, "completion_tokens": 1}')),
    "usage text": raw(usage('{"prompt_tokens": "5", "completion_tokens": 1}')),
    "usage true": raw(usage('{"prompt_tokens": true, "completion_tokens": false}')),
    "usage 1.5": raw(usage('{"prompt_tokens": 1.5, "completion_tokens": 1}')),
    "usage a list": raw(usage("[1, 2]")), "usage a number": raw(usage("7")), "usage a word": raw(usage('"none"')),
    "no choices": raw(http(b'{"choices": []}')), "choices null": raw(http(b'{"choices": null}')),
    "choices a word": raw(http(b'{"choices": "message"}')), "choice null": raw(http(b'{"choices": [null]}')),
    "message null": raw(http(b'{"choices": [{"message": null}]}')),
    "message a word": raw(http(b'{"choices": [{"message": "content"}]}')),
    "content null": raw(content("null")), "content a number": raw(content("7")), "content true": raw(content("true")),
    "content in parts": raw(content('[{"type": "text", "text": "The sign is wrong."}]')),
    "content an object": raw(content('{"text": "The sign is wrong."}')),
    "content empty": raw(content('""')), "content white": raw(content(r'" \n\t "')),
    "content only thoughts": raw(content('"<think>hm</think>"')),
    "a lone surrogate": raw(content(r'"half \ud800 of one"')), "another": raw(content(r'"\udfff"')),
    "surrogates the wrong way round": raw(content(r'"\ude00\ud83d"')),
    "NUL": raw(content(r'"a\u0000b"')), "ESC": raw(content(r'"\u001b[2J"')), "DEL": raw(content(r'"a\u007fb"')),
    "C1": raw(content(r'"a\u009bb"')), "BEL": raw(content(r'"\u0007"')),
    "a right-to-left override": raw(content(r'"a\u202eb"')), "an isolate": raw(content(r'"a\u2066b"')),
    "a raw NUL": raw(content('"a\x00b"')), "a raw line end": raw(content('"a\nb"')),
    "a text of 900,000 characters": raw(content(json.dumps("long " * 180_000))),
    "open thoughts without an end": raw(content(json.dumps("<think>" * 35_000))),
    "the key": raw(content(json.dumps(f"You sent {SECRET}."))),
    "a retry that is never": raw(http(b"", "Retry-After: 1e999", status="429 Slow")),
    "a retry that is no number": raw(http(b"", "Retry-After: nan", status="429 Slow")),
}  # fmt: skip

ALL = {**DRIPS, **FLOODS, **FAULTS}
