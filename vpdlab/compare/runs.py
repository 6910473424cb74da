"""Several methods and seeds on the same problems, with the same rollout seeds and the same budget.

Each run has its own process and run folder, and the comparison is computed from these folders alone. So it can be
interrupted and continued, extended by a method or seed, and recomputed from existing folders.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import typing
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vpdlab.config import BUDGET, FREE, HINTS, RunConfig, known_fields, read_options
from vpdlab.errors import RunFailed, UserError
from vpdlab.record import RunRecord, lacks, load_run, refuse_taken
from vpdlab.show.summary import training_seconds
from vpdlab.tasks.common.options import typed


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    preset: str
    label: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def name(self) -> str:
        return f"{self.preset} {self.label} seed {self.seed}"


# -- the plan ------------------------------------------------------------------------------------------------------


def plan(bases: Mapping[str, RunConfig], labels: Sequence[str], seeds: Sequence[int], out: Path) -> list[Cell]:
    """The runs of a comparison, ordered by seed, so that an interrupted comparison has complete seeds.

    Args:
        bases: preset name -> the settings that all methods share.
        labels: methods, optionally with their own settings: "vpd", "vpd:e_every=1,beta=0.2".
        seeds: of each method.
        out: folder of the comparison.

    Raises:
        UserError: a method or setting is unknown, or a setting does not fit the method.
    """
    from vpdlab.learn.checks import check
    from vpdlab.learn.methods import get_method

    cells = []
    for seed in seeds:
        for preset, base in bases.items():
            if base.eval_every < 0:
                raise UserError(f"preset {preset} never evaluates: set eval_every to 0 or above")
            for label in labels:
                name, _, own = label.partition(":")
                method = get_method(name)
                folder = out / _file_name(preset) / f"{_file_name(label)}-s{seed}"
                settings = _settings(own)
                refuse_planned(f"method {label!r}", settings)
                fields = {**method.needs, **settings, "method": name, "seed": seed, "out": str(folder)}
                config = dataclasses.replace(base, **fields)
                check(method, config)
                cells.append(Cell(preset, label, seed, config))
    return apart(cells)


OF_THE_PLAN = ("method", "seed", "out")
"""Settings that a comparison or a study sets for each run."""


def refuse_planned(where: str, fields: Iterable[str]) -> None:
    """Raises UserError for a setting in `OF_THE_PLAN`, which would be dropped."""
    for name in fields:
        if name in OF_THE_PLAN:
            raise UserError(f"{where} sets {name}, which is set for each run: leave it out")


def apart(cells: list[Cell]) -> list[Cell]:
    """The same runs. Raises UserError for two of one folder, where one would be taken for the other."""
    there: dict[Path, Cell] = {}
    for cell in cells:
        if (other := there.setdefault(cell.folder, cell)) is not cell:
            raise UserError(f"{other.name!r} and {cell.name!r} would have the same folder {cell.folder}: rename one")
    return cells


def _file_name(label: str) -> str:
    """A label as part of a run's name; a long one is cut and made unique by its checksum."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
    return name if len(name) <= 50 else f"{name[:40]}-{zlib.crc32(label.encode()):08x}"


def _settings(text: str) -> dict[str, Any]:
    """`e_every=1,feedback=verifier+sibling` as fields of RunConfig; + separates the items of a list."""
    parts = text.split(",") if text else []
    for part in parts:
        if "=" not in part:
            raise UserError(f"{part!r} is not a setting of a method: write METHOD:FIELD=VALUE, as in vpd:e_every=1")
    fields = known_fields(read_options(parts))
    lists = {name for name in fields if typing.get_origin(HINTS[name]) is tuple}
    return typed("compare", {name: v.split("+") if name in lists else v for name, v in fields.items()}, HINTS)


def state(cell: Cell) -> str:
    """`done` (complete, with exactly these settings) or `open` (not started, or interrupted).

    Raises:
        UserError: the folder contains a run with other settings, one that is running, or a part of one.
    """
    if cell.folder.exists() and not cell.folder.is_dir():
        raise UserError(f"{cell.folder} is no folder: move it away, or choose another folder with --out")
    if not (cell.folder / "config.json").exists():
        refuse_taken(cell.folder)
        return "open"
    record = load_run(cell.folder)
    ours = cell.config.to_dict()
    theirs = RunConfig().to_dict() | record.config  # a setting added since that run had its default
    other = sorted(name for name in ours if theirs[name] != ours[name] and name not in FREE - BUDGET)
    if other:
        name = other[0]
        raise UserError(
            f"{cell.folder} contains a run with {name} {theirs[name]!r}, but the comparison has {ours[name]!r}: choose"
            " another folder with --out, or remove this one"
        )
    status = record.status
    pid = status.get("pid")
    if status["state"] == "running" and pid != os.getpid() and _alive(pid):
        raise UserError(f"{cell.folder} is being written by process {pid}: wait for it or stop it")
    refuse_part(record)
    return "done" if status["state"] == "complete" else "open"


def refuse_part(record: RunRecord) -> None:
    """Raises UserError for a complete run whose record lacks lines, for instance a copy that was cut off."""
    if missing := lacks(record):
        raise UserError(f"{record.folder}: {missing[0]}: copy it again, or remove it and run the comparison again")


def _alive(pid: Any) -> bool:
    import psutil

    return isinstance(pid, int) and 0 < pid < 2**31 and psutil.pid_exists(pid)


# -- the runs ------------------------------------------------------------------------------------------------------


def default_jobs(cells: Sequence[Cell]) -> int:
    """Number of concurrent runs: as many as fit the CPU cores if every run's thread count is set, else one."""
    threads = max(cell.config.threads for cell in cells)
    pinned = all(cell.config.threads for cell in cells) and all(cell.config.device in ("auto", "cpu") for cell in cells)
    import torch

    return max(1, (os.cpu_count() or 1) // threads) if pinned and not torch.cuda.is_available() else 1


def run_all(cells: Sequence[Cell], jobs: int, say: Callable[[str], None] = print) -> None:
    """Run what is not done yet, `jobs` at a time. Interrupted runs start over.

    Args:
        cells: the runs of the comparison.
        jobs: number of concurrent runs.
        say: receives a line of text after each run.

    Raises:
        RunFailed: at the end, if some runs failed; it names their logs.
        KeyboardInterrupt: on an interrupt; runs in progress finish their iteration first.
    """
    states = [state(cell) for cell in cells]  # check all before the first starts
    todo = [cell for cell, found in zip(cells, states, strict=True) if found == "open"]
    if len(todo) < len(cells):
        say(f"{len(cells) - len(todo)} of {len(cells)} runs are already done")
    failed: list[Cell] = []
    for number, (cell, code) in enumerate(_processes(todo, jobs), start=1):
        result = "failed" if code else _outcome(load_run(cell.folder))
        say(f"{number + len(cells) - len(todo)}/{len(cells)}  {cell.name}: {result}")
        failed += [cell] if code else []
    if failed:
        raise RunFailed(f"{len(failed)} runs failed; see {', '.join(str(_log(cell)) for cell in failed)}")


def _processes(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, int]]:
    """Each cell and the exit status of its run, in the order in which they end."""
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    made = [Worker(jobs) for _ in range(min(jobs, len(cells)))]
    for worker in made:
        workers.put(worker)

    def run(cell: Cell) -> int:
        worker = workers.get()
        try:
            return _run(cell, worker)
        finally:
            workers.put(worker)

    # The pool ends first, and waits for its runs: then no worker is in use.
    with contextlib.ExitStack() as ends, ThreadPoolExecutor(jobs) as pool:
        for worker in made:
            ends.callback(worker.close)
        futures = {pool.submit(run, cell): cell for cell in cells}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:  # on an interrupt the terminal signals the processes too, and they finish their iteration
            pool.shutdown(wait=False, cancel_futures=True)


class Worker:
    """A process that trains one run after another (`vpdlab.cli.worker`); it starts with the first.

    Args:
        jobs: how many of them there are, which share the cores.
    """

    def __init__(self, jobs: int) -> None:
        self.env = dict(os.environ)
        if jobs > 1:
            self.env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        self.process: subprocess.Popen[str] | None = None

    def train(self, settings: Path, log: Path, last: bool) -> int:
        """Exit status of the run with these settings.

        Args:
            last: end the process with this run.
        """
        if self.process is None:
            command = [sys.executable, "-m", "vpdlab.cli.worker"]
            # What the process says between runs, its last words before the first log among them, goes nowhere else.
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.env
            )
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([str(settings), str(log)]) + "\n")
            process.stdin.flush()
        except BrokenPipeError:  # it died between two runs
            answer = ""
        else:
            answer = process.stdout.readline()
        if last or not answer:
            self.close()
        return int(answer) if answer else process.returncode or 1

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()


def _run(cell: Cell, worker: Worker) -> int:
    if (cell.folder / "config.json").exists():  # interrupted; `state` has checked that it is ours and not running
        shutil.rmtree(cell.folder)
    settings = _log(cell).with_suffix(".yaml")
    settings.parent.mkdir(parents=True, exist_ok=True)
    # JSON is YAML: the exact settings of this run, also usable as `vpdlab train --preset FILE`.
    settings.write_text(json.dumps(cell.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    # An engine or a GPU holds memory that only the end of its process returns.
    alone = cell.config.sampler != "transformers" or cell.config.device not in ("auto", "cpu")
    return worker.train(settings, _log(cell), last=alone)


def _log(cell: Cell) -> Path:
    return cell.folder.with_name(f"{cell.folder.name}.log")


def _outcome(record: RunRecord) -> str:
    first, last = record.eval_rows[0], record.eval_rows[-1]
    return f"{100 * first['accuracy']:.1f} % -> {100 * last['accuracy']:.1f} % in {training_seconds(record.rows):.0f} s"
