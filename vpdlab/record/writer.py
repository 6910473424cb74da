"""Write a run folder as the run goes: whole lines, whole files, nothing lost to a kill."""

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

from vpdlab.errors import RunFailed, UserError, notice
from vpdlab.files import fsync, staged_file
from vpdlab.record import rollouts
from vpdlab.record.folder import prepare, write_json, writing
from vpdlab.record.reader import load_run, refuse_newer
from vpdlab.record.schema import LINES, METRICS, SCHEMA, plain


class Recorder:
    """Writes a run folder. Metrics and status are on disk when a call returns; rollouts follow on another thread.

    Args:
        marks: where a run goes on: its step, and the bytes that each file of lines had then. What was recorded after
            that is cut: it will happen again. `environment` is added to the one that the run began in.

    Attributes:
        started: when the run began, in seconds since 1970.
        followers: called with "metrics" or "eval" and the line, once it is written.

    Raises:
        UserError: where the folder cannot be written, or already holds a run (nothing of it is touched).
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        marks: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.started, self._step, self._final = time.time(), 0, None
        self._single: deque[int] = deque()  # the last consecutive iterations, each in a file of its own
        if marks is None:
            prepare(self.folder)
        else:
            refuse_newer(self.folder)
        with writing(self.folder):
            (self.folder / "rollouts").mkdir(exist_ok=True)
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

    def rollouts(self, step: int, records: Sequence[Mapping[str, Any]], wait: bool = False) -> None:
        """Write the rollouts of an iteration, behind the step, over what was written of it before.

        An earlier write that failed is raised here; with `wait`, this one too.
        """
        self._settle(wait=False)
        self._pending.append(self._writer.submit(self._write_rollouts, step, list(records)))
        if wait:
            self._settle(wait=True)

    def status(self, state: str, reason: str = "") -> None:
        """Say how the run stands: running, complete, stopped or failed. `final`: the iteration that final/ is of."""
        status = {
            "state": state,
            "reason": reason,
            "step": self._step,
            "final": self._final,
            "started": self.started,
            "updated": time.time(),
            "pid": os.getpid(),
        }
        write_json(self.folder / "status.json", status)

    @contextmanager
    def final(self) -> Iterator[Path]:
        """The folder that the student is to be saved in, within the block."""
        with writing(self.folder / "final"):
            yield self.folder / "final"
        self._final = self._step

    def flush(self) -> dict[str, int]:
        """Bring all that was recorded to the disk itself; returns the marks of this moment (see `marks` above)."""
        self._settle(wait=True)
        marks = {"step": self._step}
        with writing(self.folder):
            for name in LINES:
                path = self.folder / name
                marks[name] = path.stat().st_size if path.exists() else 0
                if path.exists():
                    fsync(path)
            fsync(self.folder / "rollouts")
            fsync(self.folder)
        return marks

    def close(self, state: str, reason: str = "") -> None:
        """Wait for what is still being written, then say how the run ended: failed, if that could not be written."""
        try:
            self._settle(wait=True)
        except Exception as error:
            state, reason = "failed", reason if state == "failed" else str(error)
            raise
        finally:
            self._writer.shutdown()
            self._last_word(state, reason)

    def _last_word(self, state: str, reason: str) -> None:
        try:
            self.status(state, reason)
        except RunFailed as error:
            if state != "failed":
                raise
            print(f"{error} (the run failed: {reason})", file=sys.stderr)  # that reason is the one to be raised

    def _go_on(self, marks: Mapping[str, int], environment: Mapping[str, Any]) -> dict[str, Any]:
        """Cut the record at its marks; returns the environment to be written."""
        self._step = marks["step"]
        for name in LINES:
            if (self.folder / name).exists():
                os.truncate(self.folder / name, marks[name])
        rollouts.cut(self.folder / "rollouts", self._step)
        self._single.extend(rollouts.single(self.folder / "rollouts"))
        try:
            before = load_run(self.folder)
            first, status = before.environment, before.status
        except UserError:
            return dict(environment)  # the record of its beginning is gone; its checkpoints are whole
        self.started, self._final = status.get("started", self.started), status.get("final")
        return {**first, "resumed": [*first.get("resumed", []), {"step": self._step, "environment": environment}]}

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        # One write of one whole line: a reader, or a run that is killed, sees all of it or a last line to ignore.
        line = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
        path = self.folder / name
        self._write_line(path, line)
        for follower in list(self.followers):
            follower(path.stem, row)

    def _write_line(self, path: Path, line: bytes) -> None:
        with writing(path):
            before = path.stat().st_size if path.exists() else 0
            try:
                with path.open("ab") as file:
                    file.write(line)
            except OSError:
                if path.is_file():
                    os.truncate(path, before)  # a disk that is full takes half a line
                raise

    def _write_rollouts(self, step: int, records: list[Mapping[str, Any]]) -> None:
        """On the writer's thread. What came before this iteration is finished, and is gathered where it is enough."""
        folder = self.folder / "rollouts"
        _write_parquet(rollouts.Part(folder, step, step).path, records)
        if self._single and step > self._single[-1] + 1:
            self._single.clear()
        if not self._single or step > self._single[-1]:
            self._single.append(step)
        if len(self._single) > rollouts.GATHERED:
            done = [self._single.popleft() for _ in range(rollouts.GATHERED)]
            try:
                rollouts.gather(folder, done[0], done[-1])
            except UserError as error:
                notice(f"{error}; rollouts of steps {done[0]} to {done[-1]} stay in files of their own")

    def _settle(self, wait: bool) -> None:
        finished = [future for future in self._pending if wait or future.done()]
        self._pending = [future for future in self._pending if future not in finished]
        for future in finished:
            try:
                future.result()
            except OSError as error:
                raise RunFailed(f"cannot write rollouts in {self.folder}: {error.strerror or error}") from error


def _write_parquet(path: Path, records: list[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([dict(record) for record in records], schema=rollouts.schema())
    with staged_file(path) as staged:
        pq.write_table(table, staged)
