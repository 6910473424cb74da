"""What the searches amount to: attempts to the first success, and discovery@k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vpdlab.study.discover.results import Found
from vpdlab.study.intervals import interval

DRAWS = 2000


def standings(found: Sequence[Found], limit: int, reference: str = "best-of-k") -> list[dict[str, Any]]:
    """One row per method: share solved, attempts, tokens and seconds to the end of a search.

    `attempts` is the mean, an unsolved search counting with the limit (so it is a lower bound where some are unsolved),
    and `median` the median (None where half or more are unsolved). `ratio` is the reference's mean over the method's:
    above 1, the method needs fewer. Intervals (95 %) draw whole searches, each problem and seed, with replacement.

    Args:
        limit: most attempts of a search.
        reference: the method that the others are compared with, where it is among them.
    """
    by_method = _by_method(found)
    base = by_method.get(reference, {})
    rows = []
    for name, mine in by_method.items():
        attempts = [_counted(one, limit) for one in mine.values()]
        low, high = interval(attempts)
        half = sorted(one.attempts or np.inf for one in mine.values())[(len(mine) - 1) // 2]
        row = {
            "method": name, "searches": len(mine), "solved": float(np.mean([one.attempts is not None for one in
            mine.values()])), "attempts": float(np.mean(attempts)), "attempts_low": low, "attempts_high": high,
            "median": int(half) if np.isfinite(half) else None,
            "tokens": float(np.mean([one.tokens for one in mine.values()])),
            "seconds": float(np.mean([one.seconds for one in mine.values()])),
        }  # fmt: skip
        rows.append(row | _ratio(base, mine, limit))
    return rows


def _ratio(base: Mapping[Any, Found], mine: Mapping[Any, Found], limit: int) -> dict[str, float | None]:
    """The reference's mean attempts over the method's, on the searches that both have made."""
    both = [key for key in mine if key in base]
    if not both:
        return {"ratio": None, "ratio_low": None, "ratio_high": None}
    pairs = np.array([[_counted(base[key], limit), _counted(mine[key], limit)] for key in both], dtype=float)
    rng = np.random.default_rng(0)
    means = [pairs[rng.integers(0, len(pairs), len(pairs))].mean(0) for _ in range(DRAWS)]
    low, high = np.quantile([one / other for one, other in means], [0.025, 0.975])
    one, other = pairs.mean(0)
    return {"ratio": float(one / other), "ratio_low": float(low), "ratio_high": float(high)}


def curves(found: Sequence[Found], limit: int) -> list[dict[str, Any]]:
    """discovery@k of each method: the share of searches that k attempts have solved, with its interval.

    k grows by doubling, as far as the limit.
    """
    at = [2**power for power in range(int(np.log2(limit)) + 1)]
    at += [limit] if at[-1] < limit else []
    lines = []
    for name, mine in _by_method(found).items():
        for k in at:
            solved = [float(_counted(one, limit + 1) <= k) for one in mine.values()]
            low, high = interval(solved)
            lines.append({"method": name, "k": k, "solved": float(np.mean(solved)), "low": low, "high": high})
    return lines


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The standings as a table."""
    lines = [
        "| method | searches | solved | attempts to the first success | median | fewer than best-of-k by | tokens |"
        " seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        bound = "" if row["solved"] == 1.0 else "at least "
        ratio = (
            "" if row["ratio"] is None else f"{row['ratio']:.1f} x [{row['ratio_low']:.1f}, {row['ratio_high']:.1f}]"
        )
        lines.append(
            f"| `{row['method']}` | {row['searches']} | {100 * row['solved']:.0f} % | {bound}{row['attempts']:.1f}"
            f" [{row['attempts_low']:.1f}, {row['attempts_high']:.1f}] | {row['median'] or 'unsolved'} | {ratio} |"
            f" {row['tokens']:.0f} | {row['seconds']:.2f} |"
        )
    return "\n".join(lines)


def _by_method(found: Sequence[Found]) -> dict[str, dict[tuple[str, int], Found]]:
    """The searches of each method, in order of their first."""
    names = dict.fromkeys(one.method for one in found)
    return {name: {(one.problem, one.seed): one for one in found if one.method == name} for name in names}


def _counted(one: Found, limit: int) -> int:
    return limit if one.attempts is None else one.attempts
