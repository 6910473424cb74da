"""Write a run folder during the run: whole lines and whole files, so that a kill loses nothing recorded."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpdlab import manifest
from vpdlab.errors import RunFailed, UserError, notice
from vpdlab.files import fsync
from vpdlab.record import rollouts
from vpdlab.record.changes import EVENTS, Change
from vpdlab.record.folder import prepare, write_json, write_lines, writing
from vpdlab.record.reader import RunRecord, load_run, refuse_newer
from vpdlab.record.schema import FOLLOWED, LINES, METRICS, ROLLOUTS, SCHEMA, plain


class Recorder:
    """Writes a run folder. Metrics and status are written when a call returns; rollouts follow on another thread.

    Args:
        marks: to resume a run: its step, and the size in bytes of each file of lines at that step. Everything recorded
            later is removed, since it will happen again. `environment` is then appended to the original one.

    Attributes:
        started: when the run began, in seconds since 1970.
        closed: whether the run has ended; nothing can be recorded any more.
        followers: called with "metrics" or "eval" and the line, after it is written.

    Raises:
        UserError: if the folder cannot be written, already holds a run, or was recorded by a newer version. Nothing in
            it is changed.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        marks: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.started, self._step, self.closed = time.time(), 0, False
        self._final: int | None = None
        self._final_manifest: str | None = None
        self._single: deque[int] = deque()  # the latest iterations, consecutive, whose files are not merged
        if marks is None:
            prepare(self.folder)
        else:
            refuse_newer(self.folder)
        with writing(self.folder):
            for name in (ROLLOUTS, FOLLOWED):
                (self.folder / name).mkdir(exist_ok=True)
            if marks is not None:
                environment = self._go_on(marks, environment)
            write_json(self.folder / "environment.json", plain(environment) | {"schema": SCHEMA})
            write_json(self.folder / "config.json", plain(config), durable=True)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="record")
        self._pending: list[Future[None]] = []
        self.followers: list[Callable[[str, Mapping[str, Any]], None]] = []
        self.status("running")

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Append one iteration. Raises ValueError for a key that `METRICS` does not name, or one that is missing."""
        if set(row) != set(METRICS):
            raise ValueError(f"metrics with wrong keys: {sorted(set(row) ^ set(METRICS))}")
        self._append("metrics.jsonl", row)
        self._step = row["step"]
        self.status("running")

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Append one evaluation."""
        self._append("eval.jsonl", row)

    def change(self, change: Change) -> None:
        """Append a setting that was changed; it is on disk before the next iteration."""
        self._write_line(self.folder / EVENTS, _line(change.to_dict()))
        with writing(self.folder / EVENTS):
            fsync(self.folder / EVENTS)

    def rollouts(self, step: int, records: Sequence[Mapping[str, Any]], wait: bool = False) -> None:
        """Write the rollouts of an iteration in the background, replacing an earlier version of them.

        Raises:
            RunFailed: if an earlier write failed; with `wait`, also if this one does.
        """
        self._settle(wait=False)
        self._pending.append(self._writer.submit(self._write_rollouts, step, list(records)))
        if wait:
            self._settle(wait=True)

    def followed(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write what followed responses scored after an iteration, in the background.

        Raises:
            RunFailed: if an earlier write failed.
        """
        self._settle(wait=False)
        part = rollouts.Part(self.folder / FOLLOWED, step, step)
        self._pending.append(self._writer.submit(rollouts.write, part, list(records)))

    def status(self, state: str, reason: str = "") -> None:
        """Record the run's state: running, complete, stopped or failed."""
        status = {
            "state": state,
            "reason": reason,
            "step": self._step,
            "final": self._final,  # the iteration after which final/ was saved
            "final_manifest": self._final_manifest,  # checksum of its manifest: another run's final/ has another one
            "started": self.started,
            "updated": time.time(),
            "pid": os.getpid(),
        }
        write_json(self.folder / "status.json", status)

    @contextmanager
    def final(self) -> Iterator[Path]:
        """Yield the folder to save the student in."""
        with writing(self.folder / "final"):
            yield self.folder / "final"
        self._final, self._final_manifest = self._step, manifest.checksum(self.folder / "final" / manifest.NAME)
        self.status("running")  # at once: a process that is killed before it says more has a final/ that fits

    def flush(self) -> dict[str, int]:
        """Sync everything recorded so far to disk; returns the current `marks` (see the class)."""
        self._settle(wait=True)
        marks = {"step": self._step}
        with writing(self.folder):
            for name in LINES:
                path = self.folder / name
                marks[name] = path.stat().st_size if path.exists() else 0
                if path.exists():
                    fsync(path)
            for name in (ROLLOUTS, FOLLOWED):
                fsync(self.folder / name)
            fsync(self.folder)
        return marks

    def close(self, state: str, reason: str = "") -> None:
        """Wait for pending writes, then record how the run ended; a write that fails makes it failed."""
        try:
            self._settle(wait=True)
        except Exception as error:
            state, reason = "failed", reason if state == "failed" else str(error)
            raise
        finally:
            self._writer.shutdown()
            self.closed = True
            self._last_word(state, reason)

    def _last_word(self, state: str, reason: str) -> None:
        try:
            self.status(state, reason)
        except RunFailed as error:
            if state != "failed":
                raise
            print(f"{error} (the run failed: {reason})", file=sys.stderr)  # the first failure is the one to raise

    def _go_on(self, marks: Mapping[str, int], environment: Mapping[str, Any]) -> dict[str, Any]:
        """Cut the record at its marks; returns the environment to write."""
        self._step = marks["step"]
        for name in LINES:
            if (self.folder / name).exists():
                os.truncate(self.folder / name, marks[name])
        if (self.folder / EVENTS).exists():
            kept = RunRecord(self.folder).own_changes(self._step)
            write_lines(self.folder / EVENTS, [change.to_dict() for change in kept])
        for name in (ROLLOUTS, FOLLOWED):
            rollouts.cut(self.folder / name, self._step)
        self._single.extend(rollouts.single(self.folder / ROLLOUTS))
        try:
            before = load_run(self.folder)
            first, status = before.environment, before.status
        except UserError:
            return dict(environment)  # the original record is lost, but a checkpoint is enough
        self.started, self._final = status.get("started", self.started), status.get("final")
        self._final_manifest = status.get("final_manifest")
        return {**first, "resumed": [*first.get("resumed", []), {"step": self._step, "environment": environment}]}

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        # A single write of a whole line: after a kill there is all of it, or a last line that readers ignore.
        path = self.folder / name
        self._write_line(path, _line(row))
        for follower in list(self.followers):
            follower(path.stem, row)

    def _write_line(self, path: Path, line: bytes) -> None:
        if self.closed:
            raise UserError(f"{self.folder}: its run has ended, so nothing more is recorded in {path.name}")
        with writing(path):
            before = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(line)
            except OSError:
                if path.is_file():
                    os.truncate(path, before)  # a full disk may take half a line
                raise

    def _write_rollouts(self, step: int, records: list[Mapping[str, Any]]) -> None:
        """Write an iteration, then merge earlier ones, now final, if there are enough. Runs on the writer's thread."""
        folder = self.folder / ROLLOUTS
        rollouts.write(rollouts.Part(folder, step, step), records)
        if self._single and step > self._single[-1] + 1:
            self._single.clear()
        if not self._single or step > self._single[-1]:
            self._single.append(step)
        if len(self._single) > rollouts.MERGED:
            done = [self._single.popleft() for _ in range(rollouts.MERGED)]
            try:
                rollouts.merge(folder, done[0], done[-1])
            except UserError as error:
                notice(f"{error}; the rollouts of steps {done[0]} to {done[-1]} are not merged")

    def _settle(self, wait: bool) -> None:
        finished = [future for future in self._pending if wait or future.done()]
        self._pending = [future for future in self._pending if future not in finished]
        for future in finished:
            try:
                future.result()
            except OSError as error:
                raise RunFailed(f"cannot write rollouts in {self.folder}: {error.strerror or error}") from error


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
