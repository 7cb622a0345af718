"""Pairwise accuracy: how often a reward pays `better` strictly more than `worse`. A tie is an error, and is counted
beside."""

from __future__ import annotations

from dataclasses import dataclass

from agent_srl.evaluate.stats import Estimate, bootstrap, wilson
from benchmarks.reward_ranking.scorers import SCORERS, Scorer
from benchmarks.reward_ranking.triples import Triple


@dataclass(frozen=True)
class Judged:
    """What one reward gave the two halves of a triple."""

    triple: Triple
    better: float
    worse: float

    @property
    def right(self) -> bool:
        return self.better > self.worse


def judge(triples: list[Triple], scorers: dict[str, Scorer] = SCORERS) -> dict[str, list[Judged]]:
    """Every reward on every triple."""
    return {
        name: [Judged(t, scorer(t.better, t.expert), scorer(t.worse, t.expert)) for t in triples]
        for name, scorer in scorers.items()
    }


def accuracy(judged: list[Judged]) -> Estimate:
    """Share of right pairs; the interval resamples whole runs."""
    return bootstrap([float(j.right) for j in judged], [j.triple.run for j in judged])


def ties(judged: list[Judged]) -> float:
    return sum(j.better == j.worse for j in judged) / len(judged)


def by_category(judged: list[Judged]) -> dict[str, Estimate]:
    """Share of right pairs with its Wilson interval."""
    names = list(dict.fromkeys(j.triple.category for j in judged))
    groups = {name: [j.right for j in judged if j.triple.category == name] for name in names}
    return {name: wilson(sum(rights), len(rights)) for name, rights in groups.items()}


def lost(judged: dict[str, list[Judged]], ours: str = "structured") -> list[tuple[str, str, float, float]]:
    """Categories in which another reward is more often right than ours: (category, reward, its share, ours)."""
    own = by_category(judged[ours])
    return [
        (category, name, share.mean, own[category].mean)
        for name, results in judged.items()
        if name != ours
        for category, share in by_category(results).items()
        if share.mean > own[category].mean
    ]
