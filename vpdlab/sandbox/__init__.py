"""Run model-written Python in a sandbox and judge it from outside.

    run(code, stdin)                            what a program printed, and how it ended
    judge_function(code, "f", [(args, value)])  whether a function returns the expected values
    judge_stdin(code, [(stdin, stdout)])        whether a program prints the expected output
    judge_many([job, ...])                      several jobs in parallel

The wall (`wall`: bubblewrap, system-call filter, limits) isolates the program from the machine, the network and other
programs. Before the first candidate runs, a program that attempts forbidden operations tests it; `describe()` returns
the results. The judge (`judge`) never gives a program the expected values. A failure of the sandbox itself is a
`SandboxError`, never a verdict, and a candidate cannot cause one. Without a wall nothing runs.

backends: a backend by its name. wall: bubblewrap; remote: a SandboxFusion server; seccomp: the system-call filter;
probe: the test of the wall. process: supervises a program; memory: its memory use; limits: its limits and its report;
inside: the program around the candidate's code. cases: tests as cases; scope and constants: which asserts can be one.
judge: verdicts; answers, values and outputs: what a candidate sent back, compared; showing and wording: values and
feedback as text; pool: several candidates in parallel.

The sandbox does not protect from flaws in the kernel. A program can use its processes and its memory until its time
is up, and can read the system's /usr (`wall` lists the limits).
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
