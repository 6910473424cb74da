"""HTTP to a server that is not trusted. One exchange is one connection, bounded in seconds and in bytes.

Nothing that the server does can go past those bounds: the clock covers name lookup, connecting, TLS, sending, 1xx
replies, headers and body, and every byte counts, of an error's body too. No redirect is followed, no cookie is kept, no
proxy is used, and no compressed reply is decoded, so a small reply cannot become a large one.
"""

from __future__ import annotations

import functools
import http.client
import io
import json
import math
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vpdlab.errors import UserError

HEADERS = 1 << 16  # bytes for headers and 1xx replies, on top of the body's limit
_PIECE = 1 << 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class NoReply(Exception):
    """Why there is no reply, in words that quote nothing the server sent."""


class Late(NoReply):
    """The time was over."""


class Unreachable(NoReply):
    """No connection, or one that was lost before the reply was whole."""


class BadReply(NoReply):
    """What came is not HTTP, is encoded, or is too large."""


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
        method: of HTTP.
        url: one that `checked_url` has seen, with the route behind it.
        seconds: wall clock for everything together.
        largest: bytes of the body that are accepted.
        body: what is sent.
        headers: further ones.

    Raises:
        NoReply: for everything that can go wrong.
    """
    parts = urlsplit(url)
    bounds = _Bounds(time.monotonic() + seconds, 2 * largest + HEADERS)  # chunks have a size line each
    connection = _Connection(parts, bounds)
    try:
        asked = {"Accept": "application/json", "Accept-Encoding": "identity", "Connection": "close", **(headers or {})}
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, asked)
        return _read(connection.getresponse(), largest)
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
        raise BadReply(f"what it sent is not HTTP ({type(error).__name__})") from None
    finally:
        connection.hang_up()


def _read(response: http.client.HTTPResponse, largest: int) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise BadReply("its reply is compressed, though it was asked for a plain one")
    data = response.read(largest + 1)
    if len(data) > largest:
        raise BadReply(f"its reply is larger than {_size(largest)}")
    if response.length:  # what Content-Length promised and did not come
        raise Unreachable("its reply ended early")
    return Reply(response.status, headers, data)


@dataclass
class _Bounds:
    """What one exchange may still take."""

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
            raise BadReply("its reply is larger than it may be")


class _Connection(http.client.HTTPConnection):
    """http.client on a socket that keeps the bounds."""

    def __init__(self, parts: SplitResult, bounds: _Bounds) -> None:
        self._tls = parts.scheme == "https"
        host = parts.hostname or ""
        super().__init__(host, parts.port or (443 if self._tls else 80))
        self.default_port = 443 if self._tls else 80  # what the Host header leaves out
        self._bounds = bounds
        self._plain: socket.socket | None = None

    def connect(self) -> None:
        self._plain = _connected(self.host, self.port, self._bounds)
        self._plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            self._plain.settimeout(self._bounds.left())  # Python holds a whole handshake to it, not each read
            self._plain = _trust().wrap_socket(self._plain, server_hostname=self.host)
        self.sock: Any = _Wire(self._plain, self._bounds)

    def hang_up(self) -> None:
        """Close the connection, whatever has been read of the reply."""
        self.close()
        if self._plain is not None:
            self._plain.close()


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _connected(host: str, port: int, bounds: _Bounds) -> socket.socket:
    """A socket to the first address of a host that answers; the time that is left is shared among them."""
    places, why = _addresses(host, port, bounds), OSError("no address")
    for number, (family, kind, protocol, _, address) in enumerate(places):
        seconds = bounds.left() / (len(places) - number)
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
    """The lookup in a thread of its own: the system's resolver knows no deadline."""
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
    """A socket as http.client uses one; every single read and write waits no longer than what is left of the time."""

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
        """Left to the exchange: http.client closes the socket while the reply is still read from it."""

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


# -- what is sent, and what came back ----------------------------------------------------------------------------


def checked_url(url: str, name: str, key: str = "") -> str:
    """The address without a slash at its end.

    Args:
        url: of a server, with or without a path.
        name: of the setting, for the message.
        key: the environment variable that a key belongs in.

    Raises:
        UserError: where it is no http address, or holds a password; the message never shows that.
    """
    shown = repr(url[:200]) if not re.search(r"[@?#]", url) else "not shown here, since it may hold a password"
    if not re.fullmatch(r"[!-\[\]-~]*", url):
        raise UserError(f"{name} is {shown}: an address holds no spaces, backslashes or other than ASCII characters")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:  # brackets, port, labels of the host's name
        raise UserError(f"{name} is {shown}: no address; look at its host and port (1 to 65535)") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{name} is {shown}: it must begin with http:// or https://, and name a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        where = f": put the key in the variable {key}" if key else ""
        raise UserError(f"{name} must hold no key or password{where}; and nothing behind ? or #")
    if port == 0:
        raise UserError(f"{name} is {shown}: the port must be 1 to 65535")
    return url.rstrip("/")


def checked_key(key: str, name: str) -> str:
    """A key as it may stand in a header. Raises UserError for one that cannot; the message never shows it."""
    if place := re.search(r"[^!-~]", key):
        raise UserError(
            f"{name} cannot be a key: its character {place.start() + 1} of {len(key)} is a space, a line end or no"
            " ASCII; set it again without"
        )
    return key


def read_json(data: bytes) -> Any:
    """Exactly one JSON document, with finite numbers. Raises BadReply for anything else."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise BadReply("its reply is nested too deep") from None
    except ValueError as error:  # no UTF-8, no JSON, an integer of thousands of digits
        raise BadReply(f"its reply is no JSON ({type(error).__name__})") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number without an end")
    return number


def _whole(text: str) -> int:
    if len(text) > 100:  # reading one takes the square of its length, where Python's own limit is off
        raise ValueError("a number without an end")
    return int(text)


def printable(text: str, limit: int = 300) -> str:
    """What a server said, for a message: one line, nothing that steers a terminal, not endless."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text[: 4 * limit].split()))[:limit]


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
