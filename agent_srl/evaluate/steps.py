"""Held-out steps: what a policy earns and how often it agrees with the expert, and the table that compares policies."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from agent_srl.errors import DataError, EngineError
from agent_srl.evaluate.agreement import agreement
from agent_srl.evaluate.perplexity import perplexity
from agent_srl.evaluate.stats import Estimate, bootstrap, paired
from agent_srl.memory import release_memory
from agent_srl.rewards.kinds import Weights, score
from agent_srl.rewards.similarity import bare_call
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.metrics import first_words, mean
from agent_srl.types import Group, StepExample
from env_server.schema import Action

if TYPE_CHECKING:
    from agent_srl.policy import Policy

_CHUNK = 16


@dataclass(frozen=True)
class Scores:
    """One policy on the held-out steps, in their order; per step one entry per scored sample."""

    rewards: list[list[float]]
    valid: list[list[bool]]
    exact: list[list[bool]]
    """Whether the action is the expert's (`evaluate.agreement` states the rules)."""
    tool: list[list[bool]]
    file: list[list[bool]]
    """Empty where the expert's action names no file."""
    first_words: dict[str, float]

    def per_step(self) -> list[float]:
        return [sum(r) / len(r) for r in self.rewards]

    def similarity(self) -> float | None:
        """Mean reward of the valid samples."""
        pairs = zip((r for row in self.rewards for r in row), (v for row in self.valid for v in row), strict=True)
        return mean([r for r, valid in pairs if valid])

    def shares(self) -> dict[str, float | None]:
        """Of all samples; files of those where the expert names one."""
        return {
            "format_valid": _share(self.valid),
            "exact_match": _share(self.exact),
            "tool_accuracy": _share(self.tool),
            "file_accuracy": _share(self.file),
        }


@dataclass(frozen=True)
class Evaluation:
    """A policy on the held-out steps: sampled, greedy, and how likely it finds the expert's actions."""

    sampled: Scores
    greedy: Scores | None = None
    perplexity: float | None = None


def choose(examples: list[StepExample], count: int, seed: int) -> list[StepExample]:
    """A fixed draw, spread over trajectories by chance, in the original order."""
    if len(examples) <= count:
        return examples
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), count))]


def set_aside(examples: list[StepExample], count: int, seed: int) -> tuple[list[StepExample], list[StepExample]]:
    """At most `count` steps to choose a checkpoint by, and all steps of the other trajectories, to compare policies on.

    Raises:
        DataError: the steps come from fewer than two trajectories.
    """
    names = sorted({e.instance_id for e in examples})
    if len(names) < 2:
        raise DataError("train.eval_every needs two held-out trajectories or more: raise data.heldout_fraction")
    random.Random(seed).shuffle(names)
    chosen = {names[0]}
    for name in names[1:-1]:
        if sum(e.instance_id in chosen for e in examples) >= count:
            break
        chosen.add(name)
    aside = [e for e in examples if e.instance_id in chosen]
    return choose(aside, count, seed), [e for e in examples if e.instance_id not in chosen]


async def validate(policy: Policy, examples: list[StepExample], row_tokens: int) -> dict[str, float | None]:
    """The metrics by which a checkpoint is chosen, from greedy replies: no sampling noise. `reward` is their mean."""
    scores = (await score_policy(policy.sampler, examples, {"greedy": (1, policy.sampling(0.0, 0))}))["greedy"]
    likely = perplexity(policy.model, examples, row_tokens)
    return {"reward": mean(scores.per_step()), **scores.shares(), "perplexity": likely}


async def score_policy(
    sampler: StepSampler,
    examples: list[StepExample],
    wanted: dict[str, tuple[int, Sampling]],
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Scores]:
    """Scores on `examples` for each `wanted` name (samples per step, sampling).

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
        release_memory()
        if on_progress:
            on_progress(len(part))
    return {name: _scores(found) for name, found in groups.items()}


def score_actions(actions: list[Action | None], examples: list[StepExample], reward: str | Weights) -> Scores:
    """The same for a policy that costs nothing: one action per step, None where it has none."""
    pairs = list(zip(actions, examples, strict=True))
    rewards = [score(reward, action, e.expert).value if action is not None else 0.0 for action, e in pairs]
    return _agreeing([[a] for a in actions], [[r] for r in rewards], examples)


def _scores(groups: list[Group]) -> Scores:
    samples = [[s for s in g.samples if s.reward is not None] for g in groups]
    if not all(samples):
        raise EngineError("generation failed on a held-out step: start again with the same --out to go on")
    rewards = [[float(s.reward) for s in row if s.reward is not None] for row in samples]
    return _agreeing([[s.action for s in row] for row in samples], rewards, [g.example for g in groups])


def _agreeing(actions: list[list[Action | None]], rewards: list[list[float]], examples: list[StepExample]) -> Scores:
    found = [[agreement(a, e.expert) for a in row] for row, e in zip(actions, examples, strict=True)]
    return Scores(
        rewards=rewards,
        valid=[[a is not None for a in row] for row in actions],
        exact=[[a.exact for a in row] for row in found],
        tool=[[a.tool for a in row] for row in found],
        file=[[a.file for a in row if a.file is not None] for row in found],
        first_words=first_words([bare_call(a) for row in actions for a in row if a is not None]),
    )


def _share(flags: list[list[bool]]) -> float | None:
    return mean([float(flag) for row in flags for flag in row])


@dataclass(frozen=True)
class Row:
    """One line of the table. Shares and similarity are those of the samples, not of the greedy replies."""

    policy: str
    sampled: Estimate
    greedy: Estimate | None = None
    format_valid: float | None = None
    similarity: float | None = None
    exact_match: float | None = None
    tool_accuracy: float | None = None
    file_accuracy: float | None = None
    perplexity: float | None = None
    first_words: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        return asdict(self)


def policy_row(name: str, examples: list[StepExample], found: Evaluation, draws: int) -> Row:
    """Means, with intervals by bootstrap over trajectories."""
    clusters, greedy = [e.instance_id for e in examples], found.greedy
    return Row(
        policy=name,
        sampled=bootstrap(found.sampled.per_step(), clusters, draws=draws),
        greedy=bootstrap(greedy.per_step(), clusters, draws=draws) if greedy else None,
        similarity=found.sampled.similarity(),
        perplexity=found.perplexity,
        first_words=found.sampled.first_words,
        **found.sampled.shares(),
    )


def baseline_row(name: str, examples: list[StepExample], scores: Scores, draws: int) -> Row:
    """A policy that costs nothing: no replies, so no format and no words."""
    row = policy_row(name, examples, Evaluation(scores), draws)
    return replace(row, format_valid=None, similarity=None, first_words=None)


def difference_row(name: str, examples: list[StepExample], after: Evaluation, before: Evaluation, draws: int) -> Row:
    """Paired difference, bootstrap over trajectories."""
    clusters, greedy = [e.instance_id for e in examples], None
    if after.greedy and before.greedy:
        greedy = paired(after.greedy.per_step(), before.greedy.per_step(), clusters, draws=draws)
    return Row(name, paired(after.sampled.per_step(), before.sampled.per_step(), clusters, draws=draws), greedy)
