"""HTTP to a server that is not trusted. One exchange is one connection, bounded in seconds and in bytes.

The server cannot exceed these bounds: the time limit covers name lookup, connecting, TLS, sending, 1xx replies, headers
and body, and every byte counts, including an error's body. It follows no redirects, keeps no cookies, uses no proxies,
and refuses compressed replies, so that a small reply cannot become a large one.
"""

from __future__ import annotations

import functools
import http.client
import io
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

HEADERS = 1 << 16  # bytes for headers and 1xx replies, on top of the body's limit
_PIECE = 1 << 16


class NoReply(Exception):
    """Why there is no reply; the message quotes nothing that the server sent."""


class Late(NoReply):
    """The time limit was reached."""


class Unreachable(NoReply):
    """No connection, or one that was lost before the reply was complete."""


class BadReply(NoReply):
    """The reply is not HTTP, is encoded, or is too large."""


@dataclass(frozen=True)
class Reply:
    """A status with its headers (names in lower case) and its body, as sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def exchange(
    method: str,
    url: str,
    *,
    seconds: float,
    largest: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request and read its whole reply, whatever the status.

    Args:
        method: the HTTP method.
        url: one that `checked_url` has accepted, followed by the route.
        seconds: limit on the wall-clock time of the whole exchange.
        largest: limit on the body of the reply in bytes.
        body: of the request.
        headers: further headers of the request.

    Raises:
        NoReply: for anything that goes wrong.
    """
    parts = urlsplit(url)
    bounds = _Bounds(time.monotonic() + seconds, 2 * largest + HEADERS)  # chunks have a size line each
    connection = _Connection(parts, bounds)
    sent = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
    try:
        with _faults_as_no_reply():
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, sent)
            return _read(connection.getresponse(), largest)
    finally:
        connection.hang_up()


@contextmanager
def _faults_as_no_reply() -> Iterator[None]:
    """Within the block, whatever sockets, TLS and http.client raise becomes a NoReply."""
    try:
        yield
    except NoReply:
        raise
    except TimeoutError:
        raise Late("it took too long") from None
    except ssl.SSLError as error:
        raise Unreachable(f"no TLS connection ({getattr(error, 'verify_message', '') or error.reason})") from None
    except http.client.IncompleteRead:
        raise Unreachable("its reply ended early") from None
    except http.client.RemoteDisconnected:
        raise Unreachable("the connection was closed without a reply") from None
    except OSError as error:
        raise Unreachable(f"no connection ({error.strerror or type(error).__name__})") from None
    except (http.client.HTTPException, ValueError) as error:
        raise BadReply(f"its reply is not HTTP ({type(error).__name__})") from None


def _read(response: http.client.HTTPResponse, largest: int) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise BadReply("its reply is compressed, although an uncompressed one was requested")
    data = response.read(largest + 1)
    if len(data) > largest:
        raise BadReply(f"its reply is larger than {_size(largest)}")
    if response.length:  # bytes that Content-Length announced and that never came
        raise Unreachable("its reply ended early")
    return Reply(response.status, headers, data)


@dataclass
class _Bounds:
    """The time and bytes that remain of one exchange."""

    end: float
    room: int

    def left(self) -> float:
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise Late("it took too long")
        return seconds

    def take(self, count: int) -> None:
        self.room -= count
        if self.room < 0:
            raise BadReply("its reply is too large")


class _Connection(http.client.HTTPConnection):
    """http.client over a socket that enforces the bounds."""

    def __init__(self, parts: SplitResult, bounds: _Bounds) -> None:
        self._tls = parts.scheme == "https"
        host = parts.hostname or ""
        super().__init__(host, parts.port or (443 if self._tls else 80))
        self.default_port = 443 if self._tls else 80  # the Host header omits this port
        self._bounds = bounds
        self._plain: socket.socket | None = None

    def connect(self) -> None:
        self._plain = _connected(self.host, self.port, self._bounds)
        self._plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            self._plain.settimeout(self._bounds.left())  # Python applies it to the whole handshake, not to each read
            self._plain = _trust().wrap_socket(self._plain, server_hostname=self.host)
        self.sock: Any = _Wire(self._plain, self._bounds)

    def hang_up(self) -> None:
        """Close the connection, however much of the reply has been read."""
        self.close()
        if self._plain is not None:
            self._plain.close()


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _connected(host: str, port: int, bounds: _Bounds) -> socket.socket:
    """A socket to the first address of a host that answers; the remaining time is divided among the addresses."""
    candidates, why = _addresses(host, port, bounds), OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(candidates):
        seconds = bounds.left() / (len(candidates) - number)
        plain = socket.socket(family, kind, protocol)
        plain.settimeout(seconds)
        try:
            plain.connect(address)
        except OSError as error:
            plain.close()
            why = error
        else:
            return plain
    raise why


def _addresses(host: str, port: int, bounds: _Bounds) -> list[Any]:
    """Look the host up in a separate thread, since the system's resolver has no timeout."""
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=look, daemon=True, name="vpdlab-lookup").start()
    try:
        answer = found.get(timeout=bounds.left())
    except queue.Empty:
        raise Late("it took too long") from None
    if isinstance(answer, Exception):
        raise Unreachable("no such host") from None
    return answer


@dataclass
class _Wire:
    """The socket interface that http.client needs; no read or write waits longer than the remaining time."""

    plain: socket.socket
    bounds: _Bounds

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            self.plain.settimeout(self.bounds.left())
            view = view[self.plain.send(view[:_PIECE]) :]

    def makefile(self, mode: str = "rb") -> io.BufferedReader:
        return io.BufferedReader(_Source(self), _PIECE)

    def close(self) -> None:
        """Do nothing: http.client calls it while the reply is still being read; `hang_up` closes the socket."""

    def read_into(self, buffer: Any) -> int:
        self.plain.settimeout(self.bounds.left())
        count = self.plain.recv_into(buffer)
        self.bounds.take(count)
        return count


class _Source(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.read_into(buffer)


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
