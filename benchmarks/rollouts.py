"""Throughput of the transformers sampler, of vLLM and of transformers' own `generate`, and the difference between a
sampler's log-probabilities and the policy's.

    python benchmarks/rollouts.py                     # smollm2-135m; a quarter of an hour on one core
    python benchmarks/rollouts.py --model apprentice --samplers ours generate
    python benchmarks/rollouts.py --problems 16 --group 8 --tokens 256 --threads 2

All samplers read the same prompts with the same seed, with GROUP rollouts for each problem. "fixed" lengths: no token
ends a response, so each has TOKENS tokens; "natural": responses end by themselves, after TOKENS at most, and only their
own tokens count. The samplers alternate, REPEAT times. The table has the median, minimum and maximum, and the median of
tokens per CPU second, which other load on the machine affects less. vLLM's time includes what its sampler does beside
sampling: comparing weights, and scoring some completions again. "new weights" is the time of a call that sends them
first, minus that of the same call without.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from vpdlab import RunConfig
from vpdlab.learn.results import Mismatch
from vpdlab.model.batch import TokenBatch
from vpdlab.model.traits import end_ids
from vpdlab.run import Run
from vpdlab.sampling import Completion, Sampling
from vpdlab.sampling.engines.transformers import HFSampler
from vpdlab.types import View

Job = Callable[[], list[Completion]]
NAMES = {"ours": "transformers sampler", "vllm": "vLLM", "generate": "transformers' generate"}


def open_run(given: argparse.Namespace, precision: str, sampler: str) -> Run:
    fields = {
        "model": given.model, "task": "arithmetic", "precision": precision, "sampler": sampler, "prompts": 1,
        "max_new_tokens": given.tokens, "max_context": given.context, "sampler_rows": given.problems * given.group,
        "feedback": ("verifier",), "eval_every": -1, "seed": 1,
    }  # fmt: skip
    return Run.open(RunConfig.make(**fields), record=False)


def generate(run: Run, contexts: Sequence[Sequence[int]], tokens: int, ends: Sequence[int]) -> list[Completion]:
    """transformers' own `generate`: left padding, and all rows run until the last one has ended."""
    width = max(map(len, contexts))
    ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in contexts])
    mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])
    torch.manual_seed(0)
    out = run.policy.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        eos_token_id=list(ends) or None, pad_token_id=0,
    )[:, width:].tolist()  # fmt: skip
    stops = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in out]
    return [Completion(tuple(row[:stop]), (), stop < len(row)) for row, stop in zip(out, stops, strict=True)]


def jobs(run: Run, given: argparse.Namespace, contexts: list[Any], ends: list[int]) -> dict[str, Job]:
    streams, sampling = [(1, row) for row in range(len(contexts))], Sampling(1.0, 1.0, given.tokens)
    ours = HFSampler(run.policy, len(contexts))
    ours._ends = torch.tensor(ends, dtype=torch.long)
    found: dict[str, Job] = {
        "ours": partial(ours.generate, contexts, streams, sampling),
        "generate": partial(generate, run, contexts, given.tokens, ends),
    }
    if "vllm" in given.samplers:
        sampler: Any = run.sampler
        sampler._ends = ends
        found["vllm"] = partial(sampler.generate, contexts, streams, sampling)
    return {name: found[name] for name in NAMES if name in given.samplers}


def timed(job: Job) -> tuple[float, float, list[Completion]]:
    """Wall seconds, CPU seconds and the result of a job."""
    start, busy = time.perf_counter(), time.process_time()
    done = job()
    return time.perf_counter() - start, time.process_time() - busy, done


def speeds(work: dict[str, Job], repeat: int) -> dict[str, list[tuple[float, float]]]:
    """Tokens per second and per CPU second of each round; every other round in reverse order."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for number in range(repeat):
        for name in list(work)[:: -1 if number % 2 else 1]:
            seconds, busy, done = timed(work[name])
            tokens = sum(len(one.ids) for one in done)
            found[name].append((tokens / seconds, tokens / busy))
    return found


def mismatch(run: Run, contexts: Sequence[Sequence[int]], done: Sequence[Completion]) -> str:
    """max, mean and k3 estimate of KL(sampler || policy), over all tokens."""
    views = [View(tuple(context), one.ids) for context, one in zip(contexts, done, strict=True)]
    found = Mismatch()

    def add(batch: TokenBatch, ours: torch.Tensor) -> None:
        found.add(ours, torch.tensor([value for row in batch.rows.tolist() for value in done[row].logps]))

    run.policy.score(views, add)
    return f"{found.worst:9.1e} {found.mean:9.1e} {found.kl:9.1e} {sum(len(one.ids) for one in done):8d}"


def measure(given: argparse.Namespace, precision: str) -> list[str]:
    """Print the speeds at one precision; returns the lines of log-probability differences."""
    run = open_run(given, precision, "vllm" if "vllm" in given.samplers else "transformers")
    problems = run.task.load("train")[: given.problems]
    contexts = [list(run.render.student(problem)) for problem in problems for _ in range(given.group)]
    work: dict[str, Job] = {}
    for lengths, ends in (("fixed", []), ("natural", sorted(end_ids(run.policy.model, run.policy.tokenizer)))):
        work = jobs(run, given, contexts, ends)
        for job in work.values():
            job()  # warm-up: compilation, weight transfer, caches
        for name, rates in speeds(work, given.repeat).items():
            wall, busy = zip(*rates, strict=True)
            numbers = f"{statistics.median(wall):8.1f} {min(wall):8.1f} {max(wall):8.1f}"
            own = statistics.median(busy)
            print(f"{NAMES[name]:<26} {precision:<10} {lengths:<9} {numbers} {own:12.1f}", flush=True)
    gaps = [
        f"{NAMES[name]:<26} {precision:<10} {mismatch(run, contexts, job())}"
        for name, job in work.items()
        if name != "generate"
    ]
    if "vllm" in work:
        print(f"{'new weights: seconds':<26} {precision:<10} {'':<9} {transfer(run, contexts):8.2f}", flush=True)
    return gaps


def transfer(run: Run, contexts: Sequence[Sequence[int]]) -> float:
    """Seconds that sending new weights to vLLM adds to a call."""
    sampler: Any = run.sampler
    short = partial(sampler.generate, contexts[:1], [(1, 0)], Sampling(1.0, 1.0, 1))
    without = statistics.median(timed(short)[0] for _ in range(5))
    sampler.engine.held = None
    return timed(short)[0] - without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--samplers", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=160)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if "vllm" in given.samplers and importlib.util.find_spec("vllm") is None:
        parser.error("vLLM is not installed (make vllm): leave it out with --samplers ours generate")
    print(f"{given.model}: {given.problems} problems x {given.group} rollouts of at most {given.tokens} tokens")
    print(f"{given.threads} thread(s) on {os.cpu_count()} cores, load before: {os.getloadavg()[0]:.2f}\n")
    columns = f"{'median':>8} {'lowest':>8} {'highest':>8} {'a CPU second':>12}"
    print(f"{'tokens per second':<26} {'precision':<10} {'lengths':<9} {columns}")
    gaps = [line for precision in ("float32", "bfloat16") for line in measure(given, precision)]
    print(f"\n{'nats, sampler to policy':<26} {'precision':<10} {'max':>9} {'mean':>9} {'k3 KL':>9} {'tokens':>8}")
    print("\n".join(gaps))


if __name__ == "__main__":
    main()
