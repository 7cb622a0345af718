"""Intervals: a percentile bootstrap over clusters (steps of one trajectory are not independent), and Wilson for
shares."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: list[float], clusters: list[str], *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Mean of `values`; the interval resamples whole clusters. Raises ValueError on no value."""
    if not values:
        raise ValueError("no values to average")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster][0] += value
        sums[cluster][1] += 1
    totals, rng, means = list(sums.values()), random.Random(seed), []
    for _ in range(draws):
        drawn = rng.choices(totals, k=len(totals))
        means.append(sum(s for s, _ in drawn) / sum(n for _, n in drawn))
    means.sort()
    return Estimate(sum(values) / len(values), means[int(0.025 * draws)], means[math.ceil(0.975 * draws) - 1])


def paired(
    after: list[float], before: list[float], clusters: list[str], *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Mean difference on the same items, with the interval of the difference."""
    differences = [a - b for a, b in zip(after, before, strict=True)]
    return bootstrap(differences, clusters, draws=draws, seed=seed)


def wilson(successes: int, trials: int) -> Estimate:
    """A share with its Wilson interval, which means something at 0 and at 1 too."""
    z, p = 1.959964, successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
    return Estimate(p, max(0.0, centre - half), min(1.0, centre + half))
