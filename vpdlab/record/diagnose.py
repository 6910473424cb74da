"""Diagnoses: warnings that name what goes wrong in a run, computed from its metrics alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
WINDOW = 5  # iterations averaged at each end of a trend
COLLAPSED = 3  # iterations after which a collapse is named: a whole window would hide one that has just begun


def mean_of(rows: Rows, key: str) -> float | None:
    """Mean of a metric over the lines that have it; None for none."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else None


def _ends(rows: Rows, key: str, latest: int = WINDOW) -> tuple[float, float] | None:
    """Means of the first WINDOW and of the `latest` iterations; None before there are two windows."""
    if len(rows) < 2 * WINDOW:
        return None
    first, last = mean_of(rows[:WINDOW], key), mean_of(rows[-latest:], key)
    return None if first is None or last is None else (first, last)


def _no_success(rows: Rows) -> str | None:
    if len(rows) >= 3 and all(row["success_rate"] == 0 for row in rows[-3:]):
        return "no rollout succeeded in 3 iterations: the E-step has no positive class, and there is no sibling to show"
    return None


def _all_success(rows: Rows) -> str | None:
    if len(rows) >= 3 and all(row["success_rate"] == 1 for row in rows[-3:]):
        return "every rollout succeeded in 3 iterations: these problems have nothing more to teach"
    return None


def _no_signal(rows: Rows) -> str | None:
    if rows[-1]["signal_share"] == 0 and rows[-1]["m_loss"] is None:
        return "no rollout had feedback: this iteration updated nothing"
    return None


def _length_collapse(rows: Rows) -> str | None:
    ends = _ends(rows, "length")
    if ends and ends[1] < ends[0] / 3:
        return f"responses shrank from {ends[0]:.0f} to {ends[1]:.0f} tokens"
    return None


def _length_explosion(rows: Rows) -> str | None:
    ends = _ends(rows, "length")
    if ends and ends[1] > 3 * ends[0]:
        return f"responses grew from {ends[0]:.0f} to {ends[1]:.0f} tokens"
    return None


def _entropy_collapse(rows: Rows) -> str | None:
    ends = _ends(rows, "entropy", latest=COLLAPSED)
    if ends and ends[1] < 0.1 * ends[0] and ends[1] < 0.02:
        return f"the student's entropy fell from {ends[0]:.3f} to {ends[1]:.4f} nats: it has almost stopped exploring"
    return None


def _kl_explosion(rows: Rows) -> str | None:
    ends = _ends(rows, "kl")
    if ends and ends[1] > 5 * ends[0] and ends[1] > 0.5:
        return f"KL(student||teacher) rose from {ends[0]:.2f} to {ends[1]:.2f} nats per token: the teacher is diverging"
    return None


def _past_target(rows: Rows) -> str | None:
    margin = mean_of(rows[-WINDOW:], "margin") if len(rows) >= WINDOW else None
    if margin is not None and margin > 1:
        return (
            f"the margin is {margin:.1f}: above 1 the teacher separates right from wrong by more than the E-step's"
            " optimum (notebooks/em_exact): train it less"
        )
    return None


def _truncated_contexts(rows: Rows) -> str | None:
    if rows[-1]["truncated"]:
        return f"{rows[-1]['truncated']} teacher prompts were truncated to max_context: part of the feedback is lost"
    return None


def _unfinished_responses(rows: Rows) -> str | None:
    if (rows[-1].get("unfinished") or 0) > 0.5:
        return f"{rows[-1]['unfinished']:.0%} of the responses were truncated at max_new_tokens"
    return None


def _mismatch(rows: Rows) -> str | None:
    gap = rows[-1].get("mismatch_mean")
    if gap is not None and gap > 0.1:
        return (
            f"sampler and trainer policies differ by {gap:.2f} nats per token at the same weights (bfloat16 alone gives"
            " about 0.04): set is_clip, or sample in a higher precision"
        )
    return None


def _not_finite(rows: Rows) -> str | None:
    if rows[-1]["skipped"]:
        return "a loss or gradient was not finite: that update was skipped and changed no weight"
    return None


DIAGNOSES: dict[str, Callable[[Rows], str | None]] = {
    "no-success": _no_success,
    "all-success": _all_success,
    "no-signal": _no_signal,
    "length-collapse": _length_collapse,
    "length-explosion": _length_explosion,
    "entropy-collapse": _entropy_collapse,
    "kl-explosion": _kl_explosion,
    "past-target": _past_target,
    "reward-falls": lambda rows: Diagnosis().reward_falls(rows),
    "truncated-contexts": _truncated_contexts,
    "unfinished-responses": _unfinished_responses,
    "mismatch": _mismatch,
    "not-finite": _not_finite,
}


class Diagnosis:
    """Diagnoses for a run in progress, at a cost per iteration that does not grow with the run."""

    def __init__(self) -> None:
        self._best: dict[int, float] = {}  # best mean reward of two windows, by their end modulo WINDOW
        self._seen = 0

    def __call__(self, rows: Rows) -> list[str]:
        """What is wrong at the last of the run's lines of metrics so far; `rows` only ever grows."""
        checks = DIAGNOSES | {"reward-falls": self.reward_falls}
        found = ((name, check(rows)) for name, check in checks.items()) if rows else ()
        return [f"{name}: {text}" for name, text in found if text]

    def reward_falls(self, rows: Rows) -> str | None:
        """Compare the last two windows with the best two that lie a multiple of WINDOW before them."""
        mean = 0.0
        for end in range(max(self._seen + 1, 2 * WINDOW), len(rows) + 1):
            mean = mean_of(rows[end - 2 * WINDOW : end], "reward") or 0.0
            self._best[end % WINDOW] = max(mean, self._best.get(end % WINDOW, mean))
        self._seen = len(rows)
        if len(rows) < 4 * WINDOW:
            return None
        best = self._best[len(rows) % WINDOW]
        if best - mean > 0.15:
            return f"the reward fell from {best:.2f} to {mean:.2f}: use an earlier checkpoint or a lower lr"
        return None


def diagnose(rows: Rows) -> list[str]:
    """Warnings for the last of these rows of metrics, each as "name: explanation"."""
    return Diagnosis()(rows)
