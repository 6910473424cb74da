"""What a run folder should hold and does not: files cut off or left behind when it was copied."""

from __future__ import annotations

from vpdlab.record.reader import RunRecord
from vpdlab.record.schema import kind_of


def lacks(run: RunRecord) -> list[str]:
    """What the lines of a complete run lack, each with the file; empty for a run that is not complete, whose last lines
    may be on their way.

    Raises:
        UserError: for a file that cannot be read.
    """
    status = run.status
    if status["state"] != "complete" or kind_of(run.config) != "trained":
        return []
    ends = [("metrics.jsonl", run.rows)]
    if run.config.get("eval_every", 0) >= 0:
        ends.append(("eval.jsonl", run.eval_rows))
    found = []
    for name, rows in ends:
        if not rows or rows[-1]["step"] != status["step"]:
            end = f"ends at step {rows[-1]['step']}" if rows else "is missing or empty"
            found.append(f"{name} {end}, but the run is complete after step {status['step']}")
    return found


def lost_rollouts(run: RunRecord) -> list[int]:
    """Iterations in metrics.jsonl whose rollouts are not there. Raises UserError for a file that cannot be read."""
    there = set(run.steps)
    return [row["step"] for row in run.rows if row["step"] not in there] if kind_of(run.config) == "trained" else []
