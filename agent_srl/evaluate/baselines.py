"""Policies that cost nothing. A reward below theirs is worth nothing, so they stand in every table."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from agent_srl.rewards.kinds import Weights, score
from agent_srl.rewards.similarity import bare_call
from agent_srl.types import StepExample
from env_server.schema import Action

_TARGETS = 200
"""Training steps on which candidate constants are compared."""
_FIRST_TARGETS, _FINALISTS = 25, 100
"""All candidates meet the first targets; only the best of them meet the rest."""


def best_constant(train: list[StepExample], reward: str | Weights, seed: int) -> Action:
    """The training action that, answered everywhere, earns most on (a fixed draw of) the training steps."""
    experts = [e.expert for e in train]
    targets = random.Random(seed).sample(experts, min(_TARGETS, len(experts)))
    candidates = list({bare_call(action): action for action in sorted(experts, key=bare_call)}.values())
    finalists = _best(candidates, targets[:_FIRST_TARGETS], reward)[:_FINALISTS]
    return _best(finalists, targets, reward)[0]


def _best(candidates: list[Action], targets: Sequence[Action], reward: str | Weights) -> list[Action]:
    """The candidates, the one that earns most on the targets first."""
    counts = Counter(bare_call(target) for target in targets)
    distinct = {bare_call(target): target for target in targets}

    def worth(candidate: Action) -> float:
        return sum(n * score(reward, candidate, distinct[call]).value for call, n in counts.items())

    return sorted(candidates, key=worth, reverse=True)


def baseline_actions(
    train: list[StepExample], heldout: list[StepExample], reward: str | Weights, seed: int
) -> dict[str, list[Action | None]]:
    """What each baseline answers on the held-out steps: the best constant, the last action again, a random expert
    action."""
    rng, constant = random.Random(seed), best_constant(train, reward, seed)
    return {
        f"constant: {bare_call(constant)[:40]!r}": [constant] * len(heldout),
        "repeat the last action": [e.previous for e in heldout],
        "random expert action": [rng.choice(train).expert for _ in heldout],
    }
