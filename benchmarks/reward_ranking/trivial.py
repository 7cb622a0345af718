"""What each reward pays policies that need no model, on held-out real steps.

Best constant: over all distinct actions of the training runs, by successive halving on training steps. Every constant
is scored on the first `ROUNDS` targets; the better ones go on to more. No constant is left out; how far the winner
stood above the cut, in standard errors of the difference, is reported with it. Also reported: the best of the last
round on the held-out steps themselves, which no honest search can beat by much.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field

from agent_srl.evaluate.stats import Estimate, bootstrap
from agent_srl.rewards.similarity import bare_call
from benchmarks.reward_ranking.corpus import Item
from benchmarks.reward_ranking.forms import take_apart
from benchmarks.reward_ranking.harmless import rewrites
from benchmarks.reward_ranking.scorers import Scorer
from env_server.schema import Action

STEPS = 300
ROUNDS = ((60, 1000), (200, 100), (400, 20))
"""(targets, constants kept)."""
SHORT = 100
"""Characters of a one-line command that counts as short: the targets of the published 0.39 and 0.48 for the ratio."""


@dataclass(frozen=True)
class Constant:
    """The best constant and how sure its search is."""

    action: Action
    searched: int
    margin_se: float
    """How far above the first cut the winner's own mean was, in standard errors of the difference."""
    finalists: list[Action] = field(default_factory=list)


@dataclass(frozen=True)
class Payoffs:
    """Mean reward on the held-out steps."""

    constant: Estimate
    constant_oracle: float
    repeat_last: Estimate
    random_expert: Estimate
    harmless_change: Estimate
    harmless_by_change: dict[str, float]
    short: dict[str, float]
    """Of the same constant and of repeating, where the expert's action is short."""
    searched: Constant


def heldout_steps(items: list[Item], seed: int) -> list[Item]:
    """A fixed draw of the steps that have a step before them."""
    able = [item for item in items if item.previous is not None]
    return random.Random(f"{seed}:heldout").sample(able, min(STEPS, len(able)))


def payoffs(scorer: Scorer, train: list[Item], steps: list[Item], seed: int) -> Payoffs:
    """One reward, all trivial policies."""
    best = best_constant(scorer, train, seed)
    rng = random.Random(f"{seed}:random")
    runs = [step.run for step in steps]
    drawn = [scorer(rng.choice(train).action, step.action) for step in steps]
    constant = [scorer(best.action, step.action) for step in steps]
    last = [scorer(step.previous, step.action) for step in steps if step.previous is not None]
    short = [i for i, step in enumerate(steps) if is_short(step)]
    oracle = max(statistics.fmean(scorer(c, step.action) for step in steps) for c in best.finalists)
    by_change, harmless, harmless_runs = _harmless(scorer, steps)
    return Payoffs(
        constant=bootstrap(constant, runs),
        constant_oracle=oracle,
        repeat_last=bootstrap(last, runs),
        random_expert=bootstrap(drawn, runs),
        harmless_change=bootstrap(harmless, harmless_runs),
        harmless_by_change=by_change,
        short={
            "n": len(short),
            "constant": statistics.fmean(constant[i] for i in short),
            "repeat_last": statistics.fmean(last[i] for i in short),
        },
        searched=best,
    )


def is_short(step: Item) -> bool:
    text = bare_call(step.action)
    return "\n" not in text and len(text) <= SHORT


def best_constant(scorer: Scorer, train: list[Item], seed: int) -> Constant:
    """Successive halving over every distinct training action."""
    distinct = {bare_call(item.action): item.action for item in train}
    targets = [item.action for item in random.Random(f"{seed}:targets").sample(train, min(ROUNDS[-1][0], len(train)))]
    standing = [distinct[key] for key in sorted(distinct)]
    scores: list[list[float]] = [[] for _ in standing]
    first_cut: list[float] = []
    for count, keep in ROUNDS:
        for row, constant in zip(scores, standing, strict=True):
            row += [scorer(constant, target) for target in targets[len(row) : count]]
        order = sorted(range(len(standing)), key=lambda i: -statistics.fmean(scores[i]))[:keep]
        first_cut = first_cut or scores[order[-1]][: ROUNDS[0][0]]
        standing, scores = [standing[i] for i in order], [scores[i] for i in order]
    return Constant(standing[0], len(distinct), _margin(scores[0], first_cut), standing)


def _margin(winner: list[float], cut: list[float]) -> float:
    gaps = [a - b for a, b in zip(winner, cut, strict=False)]
    spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
    return statistics.fmean(gaps) / (spread / len(gaps) ** 0.5) if spread else float(gaps[0] > 0)


def _harmless(scorer: Scorer, steps: list[Item]) -> tuple[dict[str, float], list[float], list[str]]:
    """Mean by change; mean over its changes of each step that has any; the runs of those steps."""
    by_change: dict[str, list[float]] = {}
    means, runs = [], []
    for step in steps:
        values = {name: scorer(a, step.action) for name, a in rewrites(take_apart(step.action)).items()}
        for name, value in values.items():
            by_change.setdefault(name, []).append(value)
        if values:
            means.append(statistics.fmean(values.values()))
            runs.append(step.run)
    return {name: statistics.fmean(v) for name, v in sorted(by_change.items())}, means, runs
