"""Policies that cost nothing. A reward below theirs is worth nothing, so they stand in every table."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from agent_srl.rewards.similarity import bare_call
from agent_srl.types import StepExample
from env_server.schema import Action

Reward = Callable[[Action, Action], float]
_TARGETS = 200
"""Training steps on which candidate constants are compared."""


def best_constant(train: list[StepExample], reward: Reward, seed: int) -> Action:
    """The training action that, answered everywhere, earns most on (a fixed draw of) the training steps."""
    actions = {bare_call(e.expert): e.expert for e in train}
    calls = [bare_call(e.expert) for e in train]
    counts = Counter(random.Random(seed).sample(calls, min(_TARGETS, len(calls))))

    def worth(call: str) -> float:
        return sum(n * reward(actions[call], actions[target]) for target, n in counts.items())

    return actions[max(sorted(actions), key=worth)]


def baseline_actions(
    train: list[StepExample], heldout: list[StepExample], reward: Reward, seed: int
) -> dict[str, list[Action | None]]:
    """What each baseline answers on the held-out steps: the best constant, the last action again, a random expert
    action."""
    rng, constant = random.Random(seed), best_constant(train, reward, seed)
    return {
        f"constant: {bare_call(constant)[:40]!r}": [constant] * len(heldout),
        "repeat the last action": [e.previous for e in heldout],
        "random expert action": [rng.choice(train).expert for _ in heldout],
    }
