"""Checks on what is sent to a server and on what it sends back."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import urlsplit

from vpdlab.errors import UserError
from vpdlab.net.client import BadReply

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def checked_url(url: str, name: str, key: str = "") -> str:
    """A server's URL without its trailing slash.

    Args:
        url: of a server, with or without a path.
        name: of the setting, for the message.
        key: the environment variable that a key belongs in.

    Raises:
        UserError: it is no http URL, or contains a password, which the message never shows.
    """
    shown = repr(url[:200]) if not re.search(r"[@?#]", url) else "not shown here, since it may contain a password"
    if not re.fullmatch(r"[!-\[\]-~]*", url):
        raise UserError(f"{name} is {shown}: a URL is ASCII without spaces or backslashes")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:  # brackets, port, labels of the host name
        raise UserError(f"{name} is {shown}: not a valid URL; check its host and port (1 to 65535)") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{name} is {shown}: it must start with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        where = f": put the key in the environment variable {key}" if key else ""
        raise UserError(f"{name} must not contain a key, a password, or anything after ? or #{where}")
    if port == 0:
        raise UserError(f"{name} is {shown}: the port must be 1 to 65535")
    return url.rstrip("/")


def checked_key(key: str, name: str) -> str:
    """A key that is valid in a header. Raises UserError for any other; the message never shows it."""
    if place := re.search(r"[^!-~]", key):
        raise UserError(
            f"{name} is not a valid key: character {place.start() + 1} of {len(key)} is a space, a line break or not"
            " ASCII; set it again without"
        )
    return key


def read_json(data: bytes) -> Any:
    """Parse exactly one JSON document with finite numbers. Raises BadReply for anything else."""
    try:
        return json.loads(data.decode("utf-8-sig"), parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise BadReply("its reply is nested too deeply") from None
    except ValueError as error:  # not UTF-8, not JSON, or an integer of thousands of digits
        raise BadReply(f"its reply is not JSON ({type(error).__name__})") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 100:  # parsing time is quadratic in the length, where Python's own limit is off
        raise ValueError("an integer of too many digits")
    return int(text)


def printable(text: str, limit: int = 300) -> str:
    """A server's text for use in a message: one line, no control characters, bounded length."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text[: 4 * limit].split()))[:limit]
