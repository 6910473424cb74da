"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(values: Sequence[float], level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, problems drawn with replacement."""
    array = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    # one draw in memory at a time
    means = [array[rng.integers(0, len(array), len(array))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
