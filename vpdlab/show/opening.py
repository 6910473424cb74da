"""What a record is, as the head of a report says it: a run, rollouts that were scored, or imported ones."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from vpdlab.errors import part_name
from vpdlab.record import RunRecord, kind_of, lacks, lost_rollouts
from vpdlab.show.summary import conclusion, span


def no_settings(run: RunRecord) -> str:
    """What stands in place of a table without rows of settings."""
    imported = kind_of(run.config) == "imported"
    return "those of whoever sampled these rollouts were not recorded" if imported else "all settings are the defaults"


def no_warnings(run: RunRecord) -> str:
    """What stands in place of a table without rows of warnings."""
    if kind_of(run.config) != "trained":
        return "rollouts from elsewhere are not watched for warnings"
    return f"none in {len(run.rows)} iteration{'' if len(run.rows) == 1 else 's'}"


def headline(run: RunRecord) -> str:
    """The result in a sentence: the evaluations of a run; of other records, what they hold."""
    said = {
        "trained": conclusion(run.eval_rows),
        "scored": "rollouts from elsewhere, scored token by token: nothing was trained",
        "imported": "rollouts from elsewhere, as far as they were recorded",
    }[kind_of(run.config)]
    return said[0].upper() + said[1:]


def state(run: RunRecord, when: str = "") -> str:
    """How far it came, and why not further: "complete after 60 of 60 iterations".

    Args:
        when: stands before the reason.
    """
    status, kind = run.status, kind_of(run.config)
    if kind == "trained":
        said = f"{status['state']} after {status['step']} of {run.config['steps']} iterations"
    elif status["state"] == "complete":
        said = f"{kind}, {span(run.steps)}" if run.has_steps and run.steps else kind
    else:
        said = f"{'scoring' if kind == 'scored' else 'the import'} {_ENDS.get(status['state'], status['state'])}"
    said = f"{said}, {when}" if when else said
    return f"{said}: {status['reason']}" if status["reason"] else said


def lines(run: RunRecord) -> list[str]:
    """What it is, how far it came and when, and how many rollouts were right."""
    config, where, kind = run.config, run.environment, kind_of(run.config)
    ended = datetime.datetime.fromtimestamp(run.status["updated"], datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = {
        "trained": f"{part_name(config['method'])} on {where['task']}, with {part_name(config['model'])}",
        "scored": f"{where['task']}; the student: {part_name(config['model'])}",
        "imported": str(where["task"]),
    }[kind]
    rates = [f"{rate:.0%}" for row in run.rows if (rate := row["success_rate"]) is not None]
    if len(rates) > 1:
        right = f"rollout success rate {rates[0]} in the first iteration, {rates[-1]} in the last"
    else:
        right = f"rollout success rate {rates[0]}" if rates else "rewards were not recorded"
    return [what, state(run, ended), right, *missing(run)]


def missing(run: RunRecord) -> list[str]:
    """What the record should hold and does not, for instance where a copy was cut off; empty for a whole one."""
    lost, rows = lost_rollouts(run), len(run.rows)
    steps = f"step{'s' * (len(lost) > 1)} {', '.join(map(str, lost[:5]))}{', …' if len(lost) > 5 else ''}"
    said = [f"rollouts/ has none of {len(lost)} of {rows} iterations ({steps})"] if lost else []
    return [f"the record is not whole: {line}" for line in [*lacks(run), *said]]


def machine(where: Mapping[str, Any]) -> dict[str, str]:
    """The model and the device of an environment.json, in words."""
    model = where["model"]
    if not model["parameters"]:
        return {"model": "not recorded", "device": "not recorded"}
    return {
        "model": f"{model['class']}, {model['parameters']:,} parameters, {model['trainable']:,} of them trainable",
        "device": f"{where['device']} ({where['device_name']}), threads: {where['threads']}",
    }


_ENDS = {"stopped": "was stopped", "failed": "failed", "running": "is going on"}
