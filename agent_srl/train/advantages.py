"""Advantages of a group, and which groups carry a signal. Pure functions; a masked sample (reward None) counts
nowhere."""

from __future__ import annotations

import statistics

from agent_srl.types import Group


def population_std(rewards: list[float]) -> float:
    """Standard deviation with divisor G, as the filter of arXiv 2510.25992, section 4.2 has it; 0 for no rewards."""
    return statistics.pstdev(rewards) if rewards else 0.0  # exact: equal rewards differ by nothing, not by 1e-18


def scored(group: Group) -> list[float]:
    """Rewards of the samples that were scored."""
    return [s.reward for s in group.samples if s.reward is not None]


def has_signal(group: Group, min_std: float) -> bool:
    """Whether the group's rewards differ enough to learn from. The format penalty counts as a reward."""
    return population_std(scored(group)) > min_std


def advantages(group: Group, scale: str = "group") -> list[float | None]:
    """(r - mean) / std per sample (section 4.2, equation 1); None where masked. All zero where nothing differs.

    `scale` `none` leaves the division out, so that groups which differ little count little (arXiv 2503.20783).
    """
    rewards = scored(group)
    std = population_std(rewards)
    mean = sum(rewards) / len(rewards) if rewards else 0.0
    divisor = std if scale == "group" else 1.0
    return [None if s.reward is None else (s.reward - mean) / divisor if std > 0 else 0.0 for s in group.samples]
