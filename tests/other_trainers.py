"""Files as other trainers write them: the columns of TRL 1.16's `GRPOTrainer.log`, verl's `_dump_generations`, and
prime-rl's `save_rollouts` with `RolloutOutput`s and with traces of verifiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def trl(folder: Path) -> None:
    """Two steps with completions of a conversation, two reward functions and a column of `log_extra`."""
    import pandas as pd

    (folder / "completions").mkdir(parents=True)
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4?"}]
    for step in (10, 20):
        table = {
            "step": [step, step],
            "prompt": [prompt, prompt],
            "completion": [[{"role": "assistant", "content": text}] for text in ("7", "8")],
            "right": [1.0, float("nan")],
            "short": [0.5, 0.5],
            "feedback": [None, "Too high."],
            "advantage": [1.0, -1.0],
        }
        pd.DataFrame(table).to_parquet(folder / "completions" / f"completions_{step:05d}.parquet")


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def verl(folder: Path) -> None:
    """Two steps; the reward function returned acc and pred."""
    for step in (1, 2):
        rows = [
            {"input": "user\n3 + 4?\nassistant\n", "output": text, "gts": "7", "score": score, "step": step,
             "acc": score > 0, "pred": text}
            for text, score in (("7", 1.0), ("8", -1.0))
        ]  # fmt: skip
        _lines(folder / f"{step}.jsonl", rows)


def prime_rl(folder: Path) -> None:
    """One step of `RolloutOutput`s."""
    rows = [
        {"example_id": 5, "task": "add", "prompt": [{"role": "user", "content": "3 + 4?"}],
         "completion": [{"role": "assistant", "content": text}], "reward": reward, "answer": "7", "timing": {},
         "is_completed": True, "is_truncated": not reward, "metrics": {"right": reward}, "info": {},
         "error": None if reward else {"error": "timeout"}}
        for text, reward in (("7", 1.0), ("8", 0.0))
    ]  # fmt: skip
    _lines(folder / "rollouts" / "step_3" / "train_rollouts.jsonl", rows)


def prime_rl_traces(folder: Path) -> None:
    """One step of traces: the first has a retried message and a tool, the second an error."""

    def node(parent: int | None, sampled: bool, role: str, text: str) -> dict[str, Any]:
        return {"parent": parent, "sampled": sampled, "message": {"role": role, "content": text}}

    begin = [node(None, False, "system", "sys"), node(0, False, "user", "3 + 4?")]
    nodes = [*begin, node(1, True, "assistant", "lost"), node(1, True, "assistant", "add(3, 4)"),
             node(3, False, "tool", "7"), node(4, True, "assistant", "7")]  # fmt: skip
    rows = [
        {"id": "a", "nodes": nodes, "errors": None, "rewards": {"right": 1.0, "short": 0.5}, "task": {}, "info": {}},
        {"id": "b", "nodes": [*begin, node(1, True, "assistant", "8")], "errors": ["timeout"],
         "rewards": {"right": 0.0}, "stop_condition": "error", "task": {}, "info": {}},
    ]  # fmt: skip
    _lines(folder / "rollouts" / "step_4" / "train_rollouts.jsonl", rows)
