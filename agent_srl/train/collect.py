"""Collect a batch of groups that carry a signal: sample, score, filter, refill, keep the surplus for the next one.

It owns the data cursor and the surplus, which are in the checkpoint. No training forward is made for a group that is
dropped. With several processes each samples whole trajectories of a round; then all know all groups.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from agent_srl.config import TrainConfig
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.advantages import has_signal
from agent_srl.train.processes import Processes
from agent_srl.train.sampling import deal, take, trajectories
from agent_srl.types import Group, Sample, StepExample


@dataclass(frozen=True)
class Held:
    """The samples of one example, and when they were drawn."""

    place: int
    """Of the example."""
    samples: tuple[Sample, ...]
    born: int
    """Updates that the policy had behind it."""


_HELD = TypeAdapter(list[Held])


@dataclass(frozen=True)
class Batch:
    """What one step trains on, and what was sampled for it."""

    groups: list[Group]
    trajectories: list[int]
    """Of each group: those with the same number share a trunk."""
    sampled: list[Group]
    counts: dict[str, int]
    """For the metrics: groups `carried` into this batch and `waiting` for the next, `stale` ones dropped, `rounds`."""


class Collector:
    """Walks over the data. Same seed, steps and updates, same batches, however many processes there are."""

    def __init__(
        self,
        sampler: StepSampler,
        examples: list[StepExample],
        config: TrainConfig,
        seed: int,
        processes: Processes,
    ) -> None:
        self.sampler, self.examples, self.config, self.seed = sampler, examples, config, seed
        self.processes = processes
        self.runs = trajectories(examples)
        self.trajectory = {place: number for number, run in enumerate(self.runs) for place in run}
        self.cursor = 0
        self.waiting: list[Held] = []

    async def batch(self, step: int, updates: int) -> Batch:
        """Up to `groups` groups with a signal: those that wait first, then fresh ones, refilled `refill_rounds` times.

        A short batch is trained or, with `partial_batch: skip`, waits for the next step.
        """
        kept = [h for h in self.waiting if updates - h.born <= self.config.max_staleness]
        stale, carried, rounds = len(self.waiting) - len(kept), len(kept), 0
        sampled: list[Held] = []
        while (missing := self.config.groups - len(kept)) > 0 and rounds <= self.config.refill_rounds:
            wanted = self._wanted(missing, len(sampled), len(kept) - carried)
            found = await self._round(wanted, (self.seed * 1_000_003 + step) * 101 + rounds, updates)
            sampled += found
            kept += [h for h in found if has_signal(self._group(h), self.config.min_std)]
            rounds += 1
        short = len(kept) < self.config.groups
        size = 0 if short and self.config.partial_batch == "skip" else self.config.groups
        self.waiting = kept[size:]
        return Batch(
            groups=[self._group(h) for h in kept[:size]],
            trajectories=[self.trajectory[h.place] for h in kept[:size]],
            sampled=[self._group(h) for h in sampled],
            counts={"carried": min(carried, size), "waiting": len(self.waiting), "stale": stale, "rounds": rounds},
        )

    def state(self) -> dict[str, Any]:
        """For the checkpoint: plain values alone."""
        return {"cursor": self.cursor, "waiting": _HELD.dump_python(self.waiting)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.cursor, self.waiting = state["cursor"], _HELD.validate_python(state["waiting"])

    def _wanted(self, missing: int, sampled: int, kept: int) -> int:
        """Groups to sample: as many as are missing at first, then as many more as were dropped of those so far."""
        if not sampled:
            return missing
        rate = kept / sampled
        return min(self.config.groups, math.ceil(missing / rate)) if rate else self.config.groups

    async def _round(self, wanted: int, seed: int, updates: int) -> list[Held]:
        """Sample whole chunks that hold at least `wanted` steps. A step's seed is that of its place in the round."""
        config = self.config
        taken, self.cursor = take(self.runs, config.chunk, self.seed, self.cursor, wanted)
        places = [place for chunk in taken for place in chunk]
        mine = self._share(places)
        sampling = Sampling(config.temperature, config.max_new_tokens, seed)
        with self.processes.agreed():
            chosen = [self.examples[places[i]] for i in mine]
            groups = await self.sampler.groups(chosen, config.samples, sampling, mine)
        parts = self.processes.gather([(i, g.samples) for i, g in zip(mine, groups, strict=True)])
        samples = dict(pair for part in parts for pair in part)
        return [Held(place, samples[i], updates) for i, place in enumerate(places)]

    def _share(self, places: list[int]) -> list[int]:
        """Of the round's places, by number, those that this process samples: whole trajectories."""
        trunk: dict[int, int] = defaultdict(int)
        new: dict[int, int] = defaultdict(int)
        for place in places:
            key = self.trajectory[place]
            trunk[key] = max(trunk[key], len(self.examples[place].prompt_P))
            new[key] += self.config.samples * self.config.max_new_tokens
        owner = deal({key: trunk[key] + new[key] for key in trunk}, self.processes.count)
        return [i for i, place in enumerate(places) if owner[self.trajectory[place]] == self.processes.rank]

    def _group(self, held: Held) -> Group:
        return Group(self.examples[held.place], held.samples)
