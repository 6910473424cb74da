"""Shared code of the speed benchmarks: workload, timing, tables, machine.

The workload is generated, so that it is the same everywhere: problems and feedback of a given number of words, and
alternating outcomes. Nothing is judged: a speed benchmark only needs both outcomes in each group and feedback for every
rollout.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vpdlab.model.shapes import SHAPES, qwen3

if TYPE_CHECKING:
    from vpdlab.run import Run
    from vpdlab.types import Outcome, Problem, Rollout

TEXT = """the model of a gas in this box is that its parts move on lines and meet each other at times so the heat of one
side comes to be that of both and no work can be had from it again"""
VERDICTS = ("right", "too low", "too high")


class Drill:
    """Problems of random words with random feedback that differs for each rollout; or sums of two numbers, with
    feedback in the apprentice's vocabulary. Every second rollout of a group is a success.

    Args:
        problem_words, note_words: length of each problem and of each feedback.
        sums: sums instead of random words.
    """

    name = "drill"

    def __init__(self, problem_words: int = 60, note_words: int = 40, sums: bool = False, count: int = 64) -> None:
        from vpdlab.types import Problem

        self.summary = "sums" if sums else f"problems of {problem_words} words, feedback of {note_words} words"
        self.sums, self.note_words = sums, note_words
        rng = random.Random(f"{problem_words} {note_words} {sums}")
        self._problems = [
            Problem(
                f"drill-{i}",
                f"What is {rng.randint(10, 99)} + {rng.randint(10, 99)}?"
                if sums
                else text(rng, problem_words) + " What was that about? Answer with one short sentence.",
                answer="",
            )
            for i in range(count)
        ]

    def load(self, split: str) -> Sequence[Problem]:
        return self._problems

    def note(self, problem: Problem, index: int) -> str:
        """The feedback on a rollout of a problem, independent of what was sampled."""
        rng = random.Random(f"{problem.id} {index}")
        if not self.sums:
            return text(rng, self.note_words)
        return " ".join(
            f"The {digit} digit {rng.randint(0, 9)} is {rng.choice(VERDICTS)}." for digit in ("tens", "ones")
        )

    def verify(self, rollout: Rollout) -> Outcome:
        from vpdlab.types import Outcome

        return Outcome(float(rollout.index % 2), self.note(rollout.problem, rollout.index))


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(TEXT.split()) for _ in range(words)).capitalize() + "."


# -- the command line ------------------------------------------------------------------------------------------
def options(doc: str | None, **more: dict[str, Any]) -> argparse.ArgumentParser:
    """A parser with the common options; `more` maps further ones to their argparse arguments."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds instead of minutes")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: one per physical core")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    for name, arguments in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **arguments)
    return parser


def pin(given: argparse.Namespace) -> None:
    """Set the number of threads, and disable network access and progress bars. Call it before transformers loads."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    given.threads = given.threads or cores()
    import torch

    torch.set_num_threads(given.threads)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def machine(given: argparse.Namespace, dtype: str = "float32") -> str:
    """One line that describes the machine, its load and the code."""
    import torch

    from vpdlab.run.environment import revision

    device = torch.cuda.get_device_name() if given.device.startswith("cuda") else processor()
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    commit, _, changes = (revision() or "").partition("+")
    code = f", vpdlab {commit[:8] or 'installed'}{' with changes' if changes else ''}"
    return f"{device}, {cores()} cores, {given.threads} threads, torch {torch.__version__}, {dtype}{load}{code}"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


# -- the clock -------------------------------------------------------------------------------------------------
def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


class Seconds(NamedTuple):
    """Wall seconds and CPU seconds (all threads), which other load on the machine affects less."""

    clock: float
    processor: float


def timed(job: Callable[[], Any], device: str = "cpu") -> Seconds:
    """Seconds of a job, including the work that it queued on a GPU."""
    synchronise(device)
    clock, processor = time.perf_counter(), time.process_time()
    job()
    synchronise(device)
    return Seconds(time.perf_counter() - clock, time.process_time() - processor)


def alternate(jobs: dict[Any, Callable[[], Seconds]], rounds: int, warm: int = 1) -> dict[Any, list[Seconds]]:
    """The results of the jobs, which alternate so that a slow moment of the machine affects them all; the first `warm`
    rounds are discarded."""
    results: dict[Any, list[Seconds]] = {name: [] for name in jobs}
    for turn in range(warm + rounds):
        for name, job in jobs.items():
            value = job()
            if turn >= warm:
                results[name].append(value)
    return results


# -- the table -------------------------------------------------------------------------------------------------
def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, with minimum and maximum in parentheses."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratios(mine: Sequence[float], other: Sequence[float]) -> list[float]:
    """Ratios round by round, in which a slow round cancels out."""
    return [a / b for a, b in zip(mine, other, strict=True)]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of an aligned Markdown table."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return [shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]]


def show(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("\n".join(table(heads, rows)), flush=True)


def goal(given: argparse.Namespace, words: str, measured: float, wanted: float, at: str = "most") -> None:
    """Print a line that `python benchmarks` collects: the goal ("at most" or "at least") and the result. A quick run
    prints none."""
    if not given.quick:
        met = measured <= wanted if at == "most" else measured >= wanted
        print(f"goal: {words} | at {at} {wanted:g} | {measured:.2f} | {'yes' if met else 'NO'}", flush=True)


# -- runs ------------------------------------------------------------------------------------------------------
def open_run(task: Any = None, **fields: Any) -> Run:
    """A run without a folder and without evaluations."""
    from vpdlab import RunConfig
    from vpdlab.run import Run

    return Run.open(RunConfig.make(**{"eval_every": -1, "record_tokens": 0, **fields}), record=False, task=task)


def never_ends(run: Run) -> None:
    """Make all responses of this run as long as allowed: no token ends one."""
    import torch

    run.sampler._ends = torch.empty(0, dtype=torch.long, device=run.policy.device)


# -- models of a given shape -----------------------------------------------------------------------------------
def model_folder(name: str, scratch: Path, device: str = "cpu") -> str:
    """Folder of a named model, or of random weights of one of `SHAPES`, which are written to `scratch`.

    A shape gets the apprentice's tokenizer, so that nothing is downloaded; it uses a small part of the vocabulary.
    """
    from vpdlab import zoo

    if name not in SHAPES:
        return zoo.resolve(name)
    folder = scratch / name
    if folder.is_dir():
        return str(folder)
    import torch
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(zoo.APPRENTICE, padding_side="left")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM._from_config(qwen3(name, **ends), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def body_parameters(model: Any) -> int:
    """Parameters without the embeddings and the head."""
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in tables)


def matrix_limit(device: str, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of a large matrix product: the practical limit of this device."""
    import torch

    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    size = 8192 if device.startswith("cuda") else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timed(lambda: left @ right, device)
    times: list[float] = []
    while sum(times) < seconds:
        times.append(timed(lambda: left @ right, device).clock)
    return 2.0 * size**3 / min(times)  # the fastest, since this is a limit
