"""Memory and time of the M-step's loss, forward and backward, against the same loss from all logits at once.

    python benchmarks/memory.py
    python benchmarks/memory.py --vocabularies 151936 --tokens 2048
    python benchmarks/memory.py --device cuda --dtype bfloat16

The input is the hidden states [T, H] of student and teacher and the head [V, H], the output the mean reverse KL on the
student's top 20 and the tail, with the gradients of hidden states and head. `all` is the plain way, as in TRL 1.16's
loss: the logits of both, a log-sum-exp of each, top-k, tail. The others are `comparison.compare_tokens` (which also
computes the KLs and entropies of the record), at several values of `logit_mib`. Each is measured in a separate process:
peak is the maximum memory beyond the hidden states and the head, including the gradients. Loss and gradients are
compared with those of `all`: the largest difference as a share of the largest entry. "beyond gradients" excludes the
gradients of head and hidden states, which are always needed: at V = 152k that of the head alone takes 594 MiB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

TOP_K = 20
WIDTHS = {49_152: 576, 151_936: 1024}  # of SmolLM2-135M and Qwen3-0.6B
ALL = "all"
USUAL_MIB, SMALL_MIB = "256", "128"
SMALL_AT = 2048  # the only length with the small chunk, which is about memory
ARRAYS = 4  # [T, V] arrays of the plain way at its peak, to check beforehand whether it fits


# -- one measurement, in a separate process --------------------------------------------------------------------
def plain_loss(student: Any, teacher: Any, head: Any) -> Any:
    """The mean reverse KL on the student's top-k and the tail, from all logits (after TRL's loss_utils.py)."""
    import torch
    import torch.nn.functional as F

    def logits(hidden: Any) -> Any:
        return F.linear(hidden, head).float() / 1.0  # divided by the temperature, as in TRL

    with torch.no_grad():
        t = logits(teacher)
    s = logits(student)
    top, ids = s.topk(TOP_K, dim=-1)
    s_top = top - s.logsumexp(-1, keepdim=True)
    t_top = t.gather(-1, ids) - t.logsumexp(-1, keepdim=True)
    s_all, t_all = (torch.cat([x, torch.log(-torch.expm1(left(x)))], dim=-1) for x in (s_top, t_top))
    return (s_all.exp() * (s_all - t_all)).sum(-1).mean()


def left(kept: Any) -> Any:
    return kept.logsumexp(-1, keepdim=True).clamp(max=-1e-7)


def our_loss(student: Any, teacher: Any, head: Any, mib: int) -> Any:
    import torch

    from vpdlab.model import compiling
    from vpdlab.model.comparison import Support, compare_tokens
    from vpdlab.model.distributions import Term, TokenDist

    tokens = torch.zeros(len(student), dtype=torch.long, device=student.device)
    # As a run does: compiled on a GPU, and on a CPU for a large vocabulary.
    fuse = (student.is_cuda or len(head) >= compiling.LARGE) and not compiling.obstacle(student.device.type)
    pairs = ((student, head), (teacher, head.detach()))
    sides = [TokenDist((Term(hidden, weight),), fuse=fuse) for hidden, weight in pairs]
    return compare_tokens(*sides, tokens, Support("topk", TOP_K, "bucket"), alpha=1.0, mib=mib).divergence.mean()


def tensors(job: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Hidden states of student and teacher, and a head; student and head take gradients."""
    import torch

    generator = torch.Generator().manual_seed(0)
    dtype, device = getattr(torch, job["dtype"]), job["device"]
    v, h, t = job["V"], job["H"], job["T"]
    student, teacher, head = (
        torch.randn(shape, generator=generator).mul_(scale).to(device, dtype)
        for shape, scale in zip(((t, h), (t, h), (v, h)), (1.0, 1.0, 3 * h**-0.5), strict=True)
    )
    # Close to each other, as a student and the same model with feedback are.
    teacher = teacher.mul_(0.2).add_(student)
    return student.requires_grad_(), teacher, head.requires_grad_()


def child(job: dict[str, Any]) -> dict[str, float]:
    """Seconds, peak in MiB, and the largest differences from the results of `all` in the job's file."""
    import torch

    torch.set_num_threads(job["threads"])
    device = job["device"]
    student, teacher, head = tensors(job)
    few = student.detach()[:8].clone().requires_grad_()
    our_loss(few, teacher[:8], head, 256).backward()  # warm-up of libraries and threads
    if device != "cpu" and job["way"] != ALL:  # on a CPU the peak of the process would be this one's
        our_loss(student, teacher, head, int(job["way"])).backward()
        student.grad = None
    head.grad = None
    values: list[Any] = []

    def step() -> None:
        plain = job["way"] == ALL
        values.append(
            plain_loss(student, teacher, head) if plain else our_loss(student, teacher, head, int(job["way"]))
        )
        values[0].backward()

    before = held(device)
    forget_peak(device)
    seconds = common.timed(step, device)
    numbers = {"seconds": seconds.clock, "processor": seconds.processor, "peak": peak(device) - before}
    result = {"loss": values[0].detach(), "hidden": student.grad, "head": head.grad[:: max(1, job["V"] // 4096)]}
    if job["way"] == ALL:
        torch.save(result, job["file"])
    elif Path(job["file"]).exists():
        expected = torch.load(job["file"], weights_only=True, map_location=device)
        for name, value in result.items():
            numbers[name] = ((value - expected[name]).abs().max() / expected[name].abs().max()).item()
    return numbers


def held(device: str) -> float:
    """MiB in use now."""
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated() / 2**20
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def forget_peak(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> float:
    """Peak MiB in use. VmHWM is this process's own; ru_maxrss would start at the parent's."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


# -- the table -------------------------------------------------------------------------------------------------
def ask(job: dict[str, Any]) -> dict[str, float] | None:
    """The child's numbers; None if it ran out of memory."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        if done.returncode == -9 or "out of memory" in done.stderr.lower() or "can't allocate" in done.stderr:
            return None
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def fits(v: int, h: int, t: int, device: str) -> bool:
    import psutil

    if device != "cpu":
        return True  # the child reports it
    return ARRAYS * 4 * v * t + 4 * 4 * v * h < 0.8 * psutil.virtual_memory().available


def gradients(given: argparse.Namespace, v: int, h: int, t: int) -> float:
    """MiB of the gradients of head and student's hidden states."""
    return (v + t) * h * (4 if given.dtype == "float32" else 2) / 2**20


def lines(given: argparse.Namespace, v: int, t: int, scratch: Path) -> list[list[str]]:
    """The table rows of one size: the plain way, and ours with one or two chunk sizes."""
    h = WIDTHS.get(v, 1024)
    job = {"V": v, "H": h, "T": t, "device": given.device, "dtype": given.dtype, "threads": given.threads}
    job["file"] = str(scratch / f"{v}-{t}.pt")
    measured: dict[str, list[dict[str, float]]] = {
        way: [] for way in (ALL, USUAL_MIB, *([SMALL_MIB] if t == SMALL_AT else []))
    }
    for _ in range(given.repeat):
        for way, runs in measured.items():
            numbers = ask({**job, "way": way}) if way != ALL or fits(v, h, t, given.device) else None
            runs.extend([numbers] if numbers else [])
    Path(job["file"]).unlink(missing_ok=True)
    rows = []
    for way, mine in measured.items():
        name = "all logits" if way == ALL else f"logit_mib {way}"
        if not mine:
            rows.append([f"{v}", f"{t}", name, "does not fit here", *[""] * 6])
            continue
        compared = [""] * 5
        if measured[ALL] and way != ALL:
            compared = against(given, mine, measured[ALL], (v, h, t), name)
        peaks, seconds = ([one[key] for one in mine] for key in ("peak", "seconds"))
        rows.append([f"{v}", f"{t}", name, common.spread(peaks, 0), common.spread(seconds), *compared])
    return rows


def against(
    given: argparse.Namespace, mine: list[dict[str, float]], plain: list[dict[str, float]], size: tuple[int, int, int],
    name: str,
) -> list[str]:  # fmt: skip
    """Ours against the plain way: ratios of peak, peak beyond gradients, time and CPU time; the largest difference."""
    v, _, t = size
    kept = gradients(given, *size)
    share, slower, spent = (
        common.ratios([a[key] for a in mine], [b[key] for b in plain]) for key in ("peak", "seconds", "processor")
    )
    beyond = common.ratios([a["peak"] - kept for a in mine], [b["peak"] - kept for b in plain])
    off = max(mine[0][key] for key in ("loss", "hidden", "head"))
    if off > given.tolerance:
        raise SystemExit(f"V {v}, T {t}, {name}: loss or gradient differ by {off:.1e} from the plain way's")
    if (v, t) == (151_936, 2048):
        common.goal(given, f"peak of the M-step's loss, V 152k, T 2048, {name}", min(share), 1 / 8)
        common.goal(given, f"the same beyond the gradients, {name}", min(beyond), 1 / 8)
    ratios = [common.spread(share, 3), common.spread(beyond, 3), common.spread(slower)]
    return [*ratios, f"{statistics.median(spent):.2f}", f"{off:.0e}"]


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(json.loads(sys.argv[2]))))
        return
    parser = common.options(
        __doc__,
        vocabularies=dict(nargs="+", type=int, default=list(WIDTHS)),
        tokens=dict(nargs="+", type=int, default=[512, 1024, 2048, 4096]),
        repeat=dict(type=int, default=1, help="number of measurements"),
        dtype=dict(default="float32", choices=["float32", "bfloat16"], help="of hidden states and head"),
    )
    given = parser.parse_args()
    if given.quick:
        given.vocabularies, given.tokens = [4096], [256]
    given.tolerance = 1e-3 if given.dtype == "float32" else 5e-2
    common.pin(given)
    print(common.machine(given, given.dtype) + "\n", flush=True)
    started, rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        for v in given.vocabularies:
            for t in given.tokens:
                rows += lines(given, v, t, Path(scratch))
    heads = [
        "V",
        "T",
        "",
        "peak MiB",
        "seconds",
        "peak of all",
        "beyond gradients",
        "time of all",
        "CPU s of all",
        "off by",
    ]
    print()
    common.show(heads, rows)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
