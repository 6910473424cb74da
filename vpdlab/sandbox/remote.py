"""A SandboxFusion server as the wall: `POST /run_code` (https://bytedance.github.io/SandboxFusion).

Judging stays local: the server gets code and inputs, and sends back the output. Its own limits on memory and processes
apply, not ours. A program can make the server fail (output that it cannot encode, a pipe that it drained), so any
failure is attributed to the program if a harmless program runs (`judge`).
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

LARGEST = 64 * MIB  # bytes of a reply, beyond the requested output
ESCAPED = 6  # maximum bytes of JSON for one byte of output
PATIENCE = 30.0  # seconds that a server may take beyond the program's own time
RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")
PLACE = re.compile(r'^  File ".*", line ([0-9]+)', re.MULTILINE)


@dataclass(frozen=True)
class Remote:
    """The server at `url`; a path in the URL is kept before `/run_code`."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if not parts.hostname or parts.username or parts.query or not _port(self.url):
            raise UserError(f"the sandbox address is {self.url!r}, but must be like http://HOST:PORT")

    @property
    def name(self) -> str:
        """The address, which results record."""
        return self.url.rstrip("/")

    def execute(self, job: Mapping[str, Any], stdin: bytes, limits: Limits, calls: int = 1) -> Report:
        """Run one job on the server. Raises SandboxError if it does not answer properly."""
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
        """POST the body and return the reply. One timeout covers all of it, so a slow drip is cut off; a redirect is an
        error."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=patience)
        late, plugs = threading.Event(), []

        def hang_up() -> None:
            late.set()
            for plug in plugs:  # the connection drops its socket once the reply begins
                with contextlib.suppress(OSError):  # closed at this moment
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
            data = json.loads(text)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            why = f"no answer within {patience:g} seconds" if late.is_set() else (str(error) or type(error).__name__)
            raise _failed(f"sandbox {self.name}: {why}") from error
        finally:
            timer.cancel()
            connection.close()
        if not isinstance(data, dict):
            raise _failed(f"sandbox {self.name} did not send a JSON object")
        return data


def _port(url: str) -> bool:
    """Whether the port of an address, if any, is valid."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def _failed(message: str) -> SandboxError:
    return SandboxError(message, "lost")


def _line(text: object) -> str:
    """Text of the server, folded and cut to fit into one line."""
    return " ".join(str(text)[:300].split())


def _serving(job: Mapping[str, Any]) -> str:
    """A program that includes the job; it prints its answers."""
    data = base64.b64encode(job_bytes({**job, "limits": {}})).decode()
    return f'{driver()}\nimport base64\nserve(marshal.loads(base64.b64decode("{data}")), os.dup(1))\n'


def _report(reply: dict[str, Any], above: int | None, limits: Limits) -> Report:
    """The reply as a report. Raises SandboxError if the server failed or the reply has an unexpected form.

    Args:
        above: lines before the program's own; None for calls of a function.
    """
    result = reply.get("run_result")
    if reply.get("status") == "SandboxError" or not isinstance(result, dict) or result.get("status") == "Error":
        raise _failed(f"the sandbox server failed: {_line(reply.get('message') or 'no run_result')}")
    texts = [result.get(name) or "" for name in ("stdout", "stderr")]
    code, seconds = result.get("return_code"), result.get("execution_time") or 0.0
    late = result.get("status") == "TimeLimitExceeded"
    if not all(isinstance(text, str) for text in texts) or not isinstance(seconds, int | float) or seconds > 2**40:
        raise _failed("the sandbox server sent a run_result of unexpected form")
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
    """A traceback as the channel line that the program would have sent behind our own wall."""
    last = (stderr.rstrip().splitlines() or [""])[-1]
    found = RAISED.match(last)
    if found is None:
        return []
    line = max(int((PLACE.findall(stderr) or ["0"])[-1][-6:]) - above, 0)
    return [["e", "-1", to_hex(found[1]), str(line), to_hex(found[2] or "")]]
