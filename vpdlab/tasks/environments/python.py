"""Python: a tool that runs programs in the sandbox. The policy calls it, reads the output, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from vpdlab.errors import UserError
from vpdlab.sandbox import Execution, Limits, backend, describe, judge_many
from vpdlab.sandbox import run as run_program
from vpdlab.tasks import Task, verify_all
from vpdlab.tasks.common.episodes import Episode, Message, Reply, messages
from vpdlab.tasks.common.options import typed_options
from vpdlab.tasks.common.tools import Call, read_calls
from vpdlab.types import Outcome, Problem

SYSTEM = """You may run Python before you answer. To run a program, write it in a block
```{label}
print(6 * 7)
```
and end your turn; its output is the next message. Each program starts afresh: print what you want to see. When you \
know the answer, give it without such a block."""
NATIVE = "Each program starts afresh: print what you want to see. When you know the answer, give it without a call."
SILENT = "(the program printed nothing)"
CUT = "\n... ({count} characters left out) ...\n"


class Python:
    """A Python tool in the sandbox; a turn without a call is the answer, which the task verifies.

    Calls have the format of the model's chat template where that describes tools, and are fenced blocks elsewhere. A
    malformed call is answered with what is wrong with it.

    Args:
        task: verifies the answer.
        seconds, memory: limits of each program (wall clock; MiB).
        shown: most characters of output that the policy reads of one program; the middle is left out.
        label: language of the fenced blocks that are run. A task whose answers are Python blocks needs another one.
        sandbox: "bubblewrap", the address of a SandboxFusion server, or "unsafe".
        workers: concurrent programs; 0: one per core.

    Raises:
        UserError: for limits out of range, a label that the task's own answers have, or if no wall is available.
    """

    name = "python"

    @typed_options
    def __init__(
        self, task: Task, seconds: float = 5.0, memory: int = 512, shown: int = 2000, label: str = "python",
        sandbox: str = "bubblewrap", workers: int = 0,
    ) -> None:  # fmt: skip
        if task.name == "code" and label == "python":
            raise UserError("environment python: the answers of task code are python blocks: add label=run")
        if shown < 80:
            raise UserError(f"environment python: shown is {shown}, but must be 80 or more")
        self.task, self.shown, self.label, self.workers = task, shown, label, workers
        self.limits, self.sandbox = Limits(seconds=seconds, memory=memory), backend(sandbox)
        self.wall = describe(sandbox)  # for the run's record
        self.native_tools = False

    @property
    def tools(self) -> list[dict]:
        """The schema of the tool."""
        code = {"type": "string", "description": "the program"}
        return [
            {
                "type": "function",
                "function": {
                    "name": self.label,
                    "description": "Run a Python program and read what it prints.",
                    "parameters": {"type": "object", "properties": {"code": code}, "required": ["code"]},
                },
            }
        ]

    def start(self, problem: Problem) -> list[Message]:
        """The problem, with instructions for the tool."""
        return messages(problem, NATIVE if self.native_tools else SYSTEM.format(label=self.label))

    def step(self, episode: Episode, text: str) -> Reply | Outcome:
        """What the programs of this turn printed; the outcome of a turn without any."""
        return self.step_many([episode], [text])[0]

    def step_many(self, episodes: Sequence[Episode], texts: Sequence[str]) -> list[Reply | Outcome]:
        """`step` of many episodes; their programs run in parallel."""
        calls = [read_calls(text, self.tools, self.native_tools) for text in texts]
        printed = iter(judge_many([partial(self._said, call) for each in calls for call in each], self.workers))
        said = ["\n\n".join(next(printed) for _ in each) for each in calls]
        done = [row for row, each in enumerate(calls) if not each]
        outcomes = verify_all(self.task, [episodes[row].attempt(texts[row]) for row in done])
        ends = {row: outcome.verified for row, outcome in zip(done, outcomes, strict=True)}
        return [ends.get(row) or Reply(text, "tool") for row, text in enumerate(said)]

    def end(self, episode: Episode, why: str) -> Outcome:
        """A failure: the limit came before the answer."""
        return Outcome(0.0, f"{why} No answer was given.")

    def _said(self, call: Call) -> str:
        """What the policy reads of one call."""
        if call.wrong:
            return f"Error: {call.wrong}"
        return self._output(run_program(call.arguments["code"], limits=self.limits, sandbox=self.sandbox))

    def _output(self, done: Execution) -> str:
        text = done.stdout.rstrip("\n")
        if done.status == "timeout":
            text += f"\nError: stopped after {self.limits.seconds:g} seconds."
        elif done.status == "memory":
            text += f"\nError: out of memory ({self.limits.memory} MiB)."
        elif done.status != "ok":
            text += f"\n{done.stderr.rstrip()}"
        return self._short(text.strip("\n")) or SILENT

    def _short(self, text: str) -> str:
        """The text, its middle left out where it is too long."""
        if len(text) <= self.shown:
            return text
        half = (self.shown - len(CUT) - 8) // 2
        return text[:half] + CUT.format(count=len(text) - 2 * half) + text[-half:]
