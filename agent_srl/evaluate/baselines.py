"""Policies that cost nothing. A reward below theirs is worth nothing, so they stand in every table."""

from __future__ import annotations

import random
from collections import Counter

from agent_srl.rewards.similarity import bare_call, ratio
from agent_srl.types import StepExample

_TARGETS = 200
"""Training steps on which candidate constants are compared."""


def best_constant(train: list[StepExample], seed: int) -> str:
    """The training action that, answered everywhere, earns most on (a fixed draw of) the training steps."""
    calls = [bare_call(e.expert) for e in train]
    targets = random.Random(seed).sample(calls, min(_TARGETS, len(calls)))
    counts = Counter(targets)

    def worth(candidate: str) -> float:
        return sum(n * ratio(candidate, target) for target, n in counts.items())

    return max(sorted(set(calls)), key=worth)


def baseline_rewards(train: list[StepExample], heldout: list[StepExample], seed: int) -> dict[str, list[float]]:
    """Reward on every held-out step of: the best constant, repeating the last action, a random expert action."""
    rng, constant = random.Random(seed), best_constant(train, seed)
    experts = [bare_call(e.expert) for e in heldout]
    pool = [bare_call(e.expert) for e in train]
    last = [bare_call(e.previous) if e.previous else "" for e in heldout]
    return {
        f"constant: {constant[:40]!r}": [ratio(constant, e) for e in experts],
        "repeat the last action": [ratio(p, e) for p, e in zip(last, experts, strict=True)],
        "random expert action": [ratio(rng.choice(pool), e) for e in experts],
    }
