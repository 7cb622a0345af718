"""Held-out steps: rewards of a policy, sampled and greedy, and the table that compares policies on the same steps."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_srl.errors import EngineError
from agent_srl.evaluate.stats import Estimate, bootstrap, paired
from agent_srl.rewards.similarity import bare_call
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.steps import StepSampler
from agent_srl.run_folder import write_text
from agent_srl.train.metrics import first_words, mean
from agent_srl.types import Group, StepExample

_CHUNK = 16


@dataclass(frozen=True)
class Scores:
    """One policy on the held-out steps, in their order."""

    rewards: list[list[float]]
    """Per step, one reward per scored sample."""
    valid: list[list[bool]]
    first_words: dict[str, float]

    def per_step(self) -> list[float]:
        return [sum(r) / len(r) for r in self.rewards]

    def format_valid(self) -> float:
        flags = [v for row in self.valid for v in row]
        return sum(flags) / len(flags)

    def similarity(self) -> float | None:
        """Mean reward of the valid samples."""
        pairs = zip((r for row in self.rewards for r in row), (v for row in self.valid for v in row), strict=True)
        return mean([r for r, valid in pairs if valid])


def choose(examples: list[StepExample], count: int, seed: int) -> list[StepExample]:
    """A fixed draw, spread over trajectories by chance, in the original order."""
    if len(examples) <= count:
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


async def score_policy(
    sampler: StepSampler,
    examples: list[StepExample],
    wanted: dict[str, tuple[int, Sampling]],
    cache: Path,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Scores]:
    """Rewards on `examples` for each `wanted` name (samples per step, sampling), kept in `cache` for a run that
    goes on.

    All are sampled together, so a prompt is computed once.

    Raises:
        EngineError: a step could not be sampled, so policies could not be compared on the same steps.
    """
    groups: dict[str, list[Group]] = {name: [] for name in wanted}
    for start in range(0, len(examples), _CHUNK):
        part = examples[start : start + _CHUNK]
        calls = [sampler.groups(part, n, replace(s, seed=s.seed + start)) for n, s in wanted.values()]
        for name, found in zip(wanted, await asyncio.gather(*calls), strict=True):
            groups[name] += found
        if on_progress:
            on_progress(len(part))
    scores = {name: _scores(found) for name, found in groups.items()}
    ids = [e.example_id for e in examples]
    write_text(cache, json.dumps({"examples": ids, "scores": {name: vars(s) for name, s in scores.items()}}))
    return scores


def read_scores(cache: Path) -> dict[str, Scores]:
    """What `score_policy` kept."""
    return {name: Scores(**s) for name, s in json.loads(cache.read_text(encoding="utf-8"))["scores"].items()}


def _scores(groups: list[Group]) -> Scores:
    samples = [[s for s in g.samples if s.reward is not None] for g in groups]
    if not all(samples):
        raise EngineError("generation failed on a held-out step: start again with the same --out to go on")
    commands = [bare_call(s.action) for row in samples for s in row if s.action is not None]
    return Scores(
        rewards=[[float(s.reward) for s in row if s.reward is not None] for row in samples],
        valid=[[s.action is not None for s in row] for row in samples],
        first_words=first_words(commands),
    )


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    policy: str
    sampled: Estimate
    greedy: Estimate | None = None
    format_valid: float | None = None
    similarity: float | None = None
    first_words: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "sampled": vars(self.sampled),
            "greedy": vars(self.greedy) if self.greedy else None,
            "format_valid": self.format_valid,
            "similarity": self.similarity,
            "first_words": self.first_words,
        }


def policy_row(name: str, examples: list[StepExample], sampled: Scores, greedy: Scores | None, draws: int) -> Row:
    clusters = [e.instance_id for e in examples]
    return Row(
        policy=name,
        sampled=bootstrap(sampled.per_step(), clusters, draws=draws),
        greedy=bootstrap(greedy.per_step(), clusters, draws=draws) if greedy else None,
        format_valid=sampled.format_valid(),
        similarity=sampled.similarity(),
        first_words=sampled.first_words,
    )


def difference_row(
    name: str,
    examples: list[StepExample],
    after: tuple[Scores, Scores | None],
    before: tuple[Scores, Scores | None],
    draws: int,
) -> Row:
    """Paired difference, bootstrap over trajectories."""
    clusters = [e.instance_id for e in examples]
    greedy = None
    if after[1] and before[1]:
        greedy = paired(after[1].per_step(), before[1].per_step(), clusters, draws=draws)
    return Row(name, paired(after[0].per_step(), before[0].per_step(), clusters, draws=draws), greedy)
