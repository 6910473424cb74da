"""Prints the table of docs/speed.md: the memory that models of one to eight billion parameters need.

python docs/make_memory.py
"""

from __future__ import annotations

from vpdlab.config import RunConfig
from vpdlab.model.memory import estimate, peak, read_model

GIB = 2**30
MODELS = ("qwen3-1.7b", "qwen3-4b", "qwen3-8b")
ROWS: tuple[tuple[str, dict], ...] = (
    ("float32, all weights", {}),
    ("bfloat16-mixed, all weights", {"precision": "bfloat16-mixed"}),
    ("the same, checkpointing", {"precision": "bfloat16-mixed", "checkpointing": "on"}),
    ("the same, teacher ema", {"precision": "bfloat16-mixed", "checkpointing": "on", "teacher": "ema"}),
    ("bfloat16, all weights", {"precision": "bfloat16"}),
    ("the same, checkpointing", {"precision": "bfloat16", "checkpointing": "on"}),
    ("bfloat16, LoRA of rank 16", {"precision": "bfloat16", "lora_rank": 16}),
    ("the same, checkpointing", {"precision": "bfloat16", "lora_rank": 16, "checkpointing": "on"}),
)


def table() -> str:
    """GiB at the peak; in brackets, of which weights, gradients, moments and copies."""
    lines = [f"| | {' | '.join(MODELS)} |", f"|---|{'---|' * len(MODELS)}"]
    for words, fields in ROWS:
        cells = []
        for name in MODELS:
            config = RunConfig(model=name, max_context=512, max_new_tokens=256, minibatch_tokens=8192, **fields)
            items = estimate(config, read_model(name), e_step=True)
            steady = sum(item.size for item in items if item.when == "always")
            cells.append(f"{peak(items) / GIB:.0f} ({steady / GIB:.0f})")
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
