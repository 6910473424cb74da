"""A SandboxFusion server as the wall: `POST /run_code` (https://bytedance.github.io/SandboxFusion).

The judge stays here: the server gets code and inputs, and sends back what was printed. Its own limits on memory and
processes hold, not ours. A program may be what makes the server fail (output that it cannot encode, a pipe that it
drained), so every failure is one that the program can be blamed for, if another program runs well (`judge`).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vpdlab.errors import UserError
from vpdlab.sandbox.inside import to_hex
from vpdlab.sandbox.limits import MIB, Limits, Report, SandboxError, words_of
from vpdlab.sandbox.wall import driver, job_bytes

LARGEST = 64 * MIB  # bytes of a reply, on top of the output that is asked for
ESCAPED = 6  # bytes of JSON for one byte of output, at most
PATIENCE = 30.0  # seconds that a server may take on top of the program's own time
RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
PLACE = re.compile(r'^  File ".*", line ([0-9]+)', re.MULTILINE)


@dataclass(frozen=True)
class Remote:
    """The server at `url`; whatever stands in its path is kept in front of `/run_code`."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not parts.hostname or parts.username or parts.query or not _port(self.url):
            raise UserError(f"the sandbox address is {self.url!r}, but must be like http://HOST:PORT")

    @property
    def name(self) -> str:
        """The address, as results are stamped with it."""
        return self.url.rstrip("/")

    def execute(self, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int = 1) -> Report:
        """Run one job there. Raises SandboxError for a server that does not answer as it should."""
        seconds = limits.seconds * max(calls, 1)
        asked: dict[str, Any] = {"language": "python", "run_timeout": seconds, "compile_timeout": seconds}
        above = f"{job['setup']}\n" if job["setup"] else ""
        if job["mode"] == "program":
            asked |= {"code": above + job["code"], "stdin": stdin.decode("utf-8", "replace")}
        else:
            asked["code"] = _serving(job)
        largest = LARGEST + ESCAPED * limits.output + int(job.get("room", 0))
        reply = self._post(json.dumps(asked).encode(), seconds + PATIENCE, largest)
        return _report(reply, above.count("\n") if job["mode"] == "program" else None, limits)

    def _post(self, body: bytes, patience: float, largest: int) -> dict[str, Any]:
        """The reply. One clock for all of it: a reply that drips is cut off; a redirect is no answer."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=patience)
        late, plugs = threading.Event(), []

        def hang_up() -> None:
            late.set()
            for plug in plugs:  # kept here: the connection forgets its socket as soon as the reply begins
                with contextlib.suppress(OSError):  # closed in this very moment
                    plug.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(patience, hang_up)
        timer.start()
        try:
            connection.connect()
            plugs.append(connection.sock)
            connection.request("POST", f"{parts.path.rstrip('/')}/run_code", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read(largest + 1)
            if reply.status != 200 or len(text) > largest:
                raise _failed(f"sandbox {self.name} answered with status {reply.status}, {len(text)} bytes")
            found = json.loads(text)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            why = f"no answer within {patience:g} seconds" if late.is_set() else (str(error) or type(error).__name__)
            raise _failed(f"sandbox {self.name}: {why}") from error
        finally:
            timer.cancel()
            connection.close()
        if not isinstance(found, dict):
            raise _failed(f"sandbox {self.name} sent no JSON object")
        return found


def _port(url: str) -> bool:
    """Whether the port of an address, if it names one, is a number that a port can have."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _failed(words: str) -> SandboxError:
    return SandboxError(words, "lost")


def _line(text: object) -> str:
    """The server's words as a part of one line."""
    return " ".join(str(text)[:300].split())


def _serving(job: Mapping[str, Any]) -> str:
    """One program with the job in it; its answers are what it prints."""
    data = base64.b64encode(job_bytes({**job, "limits": {}})).decode()
    return f'{driver()}\nimport base64\nserve(marshal.loads(base64.b64decode("{data}")), os.dup(1))\n'


def _report(reply: dict[str, Any], above: int | None, limits: Limits) -> Report:
    """The reply as a report. Raises SandboxError for one that says that the server failed, or has another shape.

    Args:
        above: lines that stand before a program's own; None for calls of a function.
    """
    result = reply.get("run_result")
    if reply.get("status") == "SandboxError" or not isinstance(result, dict) or result.get("status") == "Error":
        raise _failed(f"the sandbox server failed: {_line(reply.get('message') or 'no run_result')}")
    texts = [result.get(name) or "" for name in ("stdout", "stderr")]
    code, seconds = result.get("return_code"), result.get("execution_time") or 0.0
    late = result.get("status") == "TimeLimitExceeded"
    if not all(isinstance(text, str) for text in texts) or not isinstance(seconds, int | float) or seconds > 2**40:
        raise _failed("the sandbox server sent a run_result of another shape")
    if not late and not isinstance(code, int):
        raise _failed("the sandbox server sent no return_code")
    out, err = (text.encode("utf-8", "surrogatepass") for text in texts)
    report = Report(end="timeout" if late else "exit", code=int(code or 0), seconds=float(seconds))
    report.cut = max(len(out), len(err)) > limits.output
    if above is not None:
        report.stdout, report.stderr = out[: limits.output], err[: limits.output]
        report.lines = _raised(texts[1], above) if report.code else []
    else:
        lines = [words_of(line) for line in texts[0].split("\n") if line]
        if lines[:1] != [["r"]] and not late:
            raise _failed(f"the sandbox server ran nothing: {_line(texts[1][-300:]) or 'no output'}")
        report.lines = lines[1:]
    return report


def _raised(stderr: str, above: int) -> list[list[str]]:
    """What a traceback says, as the line of the channel that the program would have sent behind our own wall."""
    last = (stderr.rstrip().splitlines() or [""])[-1]
    found = RAISED.match(last)
    if found is None:
        return []
    line = max(int((PLACE.findall(stderr) or ["0"])[-1][-6:]) - above, 0)
    return [["e", "-1", to_hex(found[1]), str(line), to_hex(found[2] or "")]]
