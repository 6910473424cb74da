"""The run folder: what happened, written as it happens, readable without torch and without the model.

runs/NAME/
  config.json        every setting
  environment.json   versions, revision, device, seeds, the task's own summary
  metrics.jsonl      one line an iteration
  eval.jsonl         one line an evaluation
  rollouts/          step-000012.parquet: every rollout of iteration 12
  checkpoints/       step-000040: all that the run goes on from (checkpoint.py)
  final/             the student as an ordinary Hugging Face folder
  status.json        how the run stands or ended: running, complete, stopped, failed
  lock               held while a process trains
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vpdlab.errors import RunFailed, UserError
from vpdlab.manifest import fsync

METRICS = (
    "step", "reward", "success_rate", "length", "unfinished", "entropy", "kl", "kl_teacher", "margin", "delta", "beta",
    "e_loss", "m_loss", "signal_share", "n_success", "n_failure", "teacher_drift", "truncated", "skipped", "lr",
    "grad_norm", "e_updates", "mismatch_max", "mismatch_mean", "mismatch_kl", "seconds_rollout", "seconds_feedback",
    "seconds_e", "seconds_m", "tokens_rollout", "tokens_e", "tokens_m", "peak_memory_mib", "critiques", "leaked",
    "critic_loss", "notes", "warnings",
)  # fmt: skip
"""Keys of a line of metrics.jsonl. A number that does not exist at a step is null, never 0.

Units: kl (student || teacher), kl_teacher (the other way), entropy, teacher_drift in nats a token; margin, delta in
units of reward; length in tokens. margin, both KLs and entropy are those of the M-step's pass, so after an E-step of
the same iteration and before the M-step's update; beta is the one that this iteration used. tokens_e counts the padded
tokens of passes with gradient, tokens_m those of the views that the method reads, tokens_rollout those sampled.
mismatch_*, in nats: between the sampler's log-probabilities of the sampled tokens and the scorer's at the same weights
(`learner.Mismatch`); where an E-step moves the student first, that of a few rows before it did.
"""

# Columns of rollouts/*.parquet. Those of TOKEN_COLUMNS are null for rollouts outside the recorded subset.
COLUMNS = {
    "step": "int64", "problem_id": "string", "group": "int64", "index": "int64", "system": "string",
    "prompt": "string", "answer": "string", "text": "string", "parsed": "string", "reward": "float64",
    "success": "bool", "finished": "bool", "environment": "string", "critique": "string", "demonstration": "string",
    "leaked": "bool", "noise": "string",
    "source": "string", "reason": "string", "signal": "bool", "teacher_prompt": "string", "truncated": "int64",
    "student_sum": "float64", "teacher_sum": "float64", "implicit_reward": "float64",
    "prompt_ids": "list<int64>", "teacher_ids": "list<int64>", "response_ids": "list<int64>", "logps": "list<float64>",
}  # fmt: skip
TOKEN_COLUMNS = {
    "tokens": "list<string>", "student_logp": "list<float64>", "teacher_logp": "list<float64>",
    "kl": "list<float64>", "divergence": "list<float64>", "student_entropy": "list<float64>",
    "teacher_entropy": "list<float64>", "student_top": "list<list<string>>", "student_top_ids": "list<list<int64>>",
    "student_top_logp": "list<list<float64>>", "teacher_top": "list<list<string>>",
    "teacher_top_ids": "list<list<int64>>", "teacher_top_logp": "list<list<float64>>",
    "student_context": "list<string>", "teacher_context": "list<string>",
}  # fmt: skip


LINES = ("metrics.jsonl", "eval.jsonl")


def _write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Replace a small file in one move, so that a reader never sees half of it."""
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if durable:
        fsync(staged)
    staged.replace(path)


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a number becomes null, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


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
        if marks is None:
            prepare(self.folder)
        with writing(self.folder):
            (self.folder / "rollouts").mkdir(exist_ok=True)
            if marks is not None:
                environment = self._go_on(marks, environment)
            _write_json(self.folder / "environment.json", plain(environment))
            _write_json(self.folder / "config.json", plain(config), durable=True)
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
        path = self.folder / "rollouts" / f"step-{step:06d}.parquet"
        self._pending.append(self._writer.submit(_write_parquet, path, list(records)))
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
        with writing(self.folder / "status.json"):
            _write_json(self.folder / "status.json", status)

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
        for path in (self.folder / "rollouts").iterdir():
            number = re.fullmatch(r"step-(\d+)\.parquet", path.name)
            if path.name.endswith(".new") or (number and int(number[1]) > self._step):
                path.unlink()
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

    schema = pa.schema([(name, _arrow(kind)) for name, kind in (COLUMNS | TOKEN_COLUMNS).items()])
    staged = path.with_name(f".{path.name}.new")
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records], schema=schema), staged)
    fsync(staged)
    staged.replace(path)


def _arrow(kind: str) -> Any:
    import pyarrow as pa

    if inner := re.fullmatch(r"list<(.+)>", kind):
        return pa.list_(_arrow(inner[1]))
    return {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}[kind]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, an error of the disk (full, gone, read-only) is a RunFailed that names the file."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror or error}") from error
    except SafetensorError as error:  # the disk's errors come in this shape too
        raise RunFailed(f"cannot write {path}: {error}") from error


def prepare(folder: Path) -> None:
    """Make the folder of a run that is to begin. Raises UserError where that cannot be, or it holds a run."""
    refuse_taken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


def mark_stopped(folder: Path) -> None:
    """Correct the status of a run whose process is gone without a word: it is not running any more."""
    status = load_run(folder).status
    if status["state"] == "running":
        _write_json(folder / "status.json", status | {"state": "stopped", "reason": "its process was ended"})


def refuse_taken(folder: Path) -> None:
    """Raises UserError where a folder already holds a run."""
    if (folder / "config.json").exists():
        raise UserError(
            f"{folder} already holds a run ({state_of(folder)}): choose another folder with out, remove this one, or go"
            " on from its last checkpoint with resume"
        )
    left = [folder / name for name in LINES if (folder / name).exists()]
    left += sorted((folder / "rollouts").glob("step-*"))
    left += [path for path in (folder / "checkpoints").glob("step-*") if path.name != "step-000000"]
    if left:
        raise UserError(
            f"{folder} holds {left[0].relative_to(folder)} of an earlier run, but no config.json: choose another folder"
            " with out, or remove this one"
        )


def state_of(folder: Path) -> str:
    """How the run in a folder stands, in a few words."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return "its status.json cannot be read"
    return f"{status['state']} at step {status['step']}"


@dataclass(frozen=True)
class RunRecord:
    """A recorded run, read lazily. `metrics` and `evals` are pandas DataFrames, `rollouts` gives plain dicts."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

    @property
    def status(self) -> dict[str, Any]:
        """state, reason, step, started, updated, pid; read anew each time."""
        return self._json("status.json")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl as plain dicts."""
        return self.lines("metrics.jsonl")

    @property
    def eval_rows(self) -> list[dict[str, Any]]:
        """The lines of eval.jsonl as plain dicts."""
        return self.lines("eval.jsonl")

    @property
    def metrics(self) -> Any:
        """A DataFrame with a row an iteration."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=list(METRICS))

    @property
    def evals(self) -> Any:
        """A DataFrame with a row an evaluation."""
        import pandas as pd

        return pd.DataFrame(self.eval_rows)

    @property
    def steps(self) -> list[int]:
        """The iterations whose rollouts are on disk."""
        return sorted(
            int(path.stem.removeprefix("step-")) for path in (self.folder / "rollouts").glob("step-*.parquet")
        )

    def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
        """The rollouts of one iteration, or of all, as plain dicts.

        Raises:
            UserError: for an iteration that is not recorded.
        """
        import pyarrow.parquet as pq

        wanted = self.steps if step is None else [step]
        records = []
        for number in wanted:
            path = self.folder / "rollouts" / f"step-{number:06d}.parquet"
            if not path.exists():
                raise UserError(f"{self.folder} has no rollouts of step {number}: it has {_ranges(self.steps)}")
            records += pq.read_table(path).to_pylist()
        return records

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"{self.folder / name} cannot be read: {error}") from error

    def lines(self, name: str, size: int | None = None) -> list[dict[str, Any]]:
        """The lines of a file, or of its first `size` bytes, as plain dicts. Raises UserError for a damaged one."""
        path = self.folder / name
        if not path.exists():
            return []
        # A last line without its newline was being written when the run was killed: it never happened.
        # As bytes: it may end within a character.
        whole = path.read_bytes()[:size].split(b"\n")[:-1]
        rows = []
        for number, line in enumerate(whole, start=1):
            try:
                rows.append(json.loads(line.decode("utf-8")))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise UserError(f"{path} line {number} is damaged: {error}") from error
        return rows


def _ranges(steps: Sequence[int]) -> str:
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}" if steps else "none"


def load_run(path: str | Path) -> RunRecord:
    """Open a run folder. Needs neither torch nor the model. Raises UserError where there is no run."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no run: there is no config.json in it")
    return RunRecord(folder)
