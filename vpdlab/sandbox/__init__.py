"""Running model-written Python, and judging it from outside.

    run(code, stdin)                            what a program printed, and how it ended
    judge_function(code, "f", [(args, value)])  whether a function returns what it should
    judge_stdin(code, [(stdin, stdout)])        whether a program prints what it should
    judge_many([job, ...])                      several at a time

Two parts. The wall (`wall`: bubblewrap, system-call filter, limits) keeps the program away from the machine, the
network and other programs; it is tried with a program that attempts what must fail before the first candidate runs,
and `describe()` says what it held. The judge (`judge`) never lets the program near the expected values. A failure of
the sandbox itself is a `SandboxError`, never a verdict, and nothing that a candidate can cause; where there is no wall,
nothing runs.

What it is not: a protection from flaws of the kernel itself. Behind the wall a program can still use its processes and
its memory until its time is over, and can read the system's /usr (`wall` lists what is bounded, and how far).
"""

from vpdlab.sandbox.backends import Backend, backend, describe
from vpdlab.sandbox.cases import Case, Inside, read_tests
from vpdlab.sandbox.judge import Execution, Result, Verdict, judge_function, judge_stdin, run
from vpdlab.sandbox.limits import Limits, SandboxError
from vpdlab.sandbox.pool import judge_many
from vpdlab.sandbox.values import Rules

__all__ = [
    "run", "judge_function", "judge_stdin", "judge_many", "read_tests", "backend", "describe",
    "Backend", "Case", "Execution", "Inside", "Limits", "Result", "Rules", "SandboxError", "Verdict",
]  # fmt: skip
