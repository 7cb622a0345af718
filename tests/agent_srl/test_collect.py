"""Risks: groups paid for and lost, groups trained long after they were sampled, a resume that samples otherwise, a
short batch that is trained against its setting."""

from __future__ import annotations

import io

import pytest
import torch

from agent_srl.config import TrainConfig
from agent_srl.rollout.engine import Sampling
from agent_srl.train.collect import Collector
from agent_srl.train.processes import Processes
from agent_srl.train.sampling import take
from agent_srl.types import Completion, Group, Sample, StepExample
from env_server.schema import Action

BASH = Action(name="bash", arguments={"command": "ls"})


class Scripted:
    """Groups that carry a signal where `useful` says so of the step's number; remembers who was asked for what."""

    def __init__(self, useful) -> None:
        self.useful = useful
        self.rounds: list[list[int]] = []

    async def groups(self, examples, n, sampling, places):
        self.rounds.append([e.step for e in examples])
        return [self._group(e, n, sampling.seed + i) for e, i in zip(examples, places, strict=True)]

    def _group(self, example, n, seed):
        high = 1.0 if self.useful(example.step) else 0.0
        samples = [
            Sample(Completion((seed % 97, i), (-0.1, -1 / 3), True), "t", "", BASH, high * (i % 2), {"a": 1 / 3})
            for i in range(n)
        ]
        return Group(example, tuple(samples))


EXAMPLES = [
    StepExample(f"t{i // 6}#{i}", "r", f"t{i // 6}", i, (1, 2), BASH, (2,), (-100,) * 2, None) for i in range(24)
]


def collector(useful, processes=None, **settings) -> Collector:
    config = TrainConfig.model_validate({"groups": 4, "samples": 2, "max_new_tokens": 8, **settings})
    return Collector(Scripted(useful), EXAMPLES, config, 0, processes or Processes())


def steps(groups) -> list[int]:
    return [g.example.step for g in groups]


async def test_a_refill_follows_the_share_that_was_kept_and_its_surplus_waits():
    made = collector(lambda step: step % 2 == 0, refill_rounds=9)
    carried: list[int] = []
    for step in range(8):
        made.sampler.rounds.clear()
        batch = await made.batch(step, step)
        asked = [s for r in made.sampler.rounds for s in r]
        assert len(batch.groups) == 4 and steps(batch.sampled) == asked
        assert made.sampler.rounds[0] and len(made.sampler.rounds[0]) == 4 - len(carried)
        assert all(len(r) <= 4 for r in made.sampler.rounds)
        kept = carried + [s for s in asked if s % 2 == 0]
        assert steps(batch.groups) == kept[:4]
        carried = kept[4:]
        assert [EXAMPLES[h.place].step for h in made.waiting] == carried
        assert batch.counts["waiting"] == len(carried)


@pytest.mark.parametrize(("kept", "missing", "expected"), [(3, 1, 2), (2, 2, 4), (1, 3, 4), (0, 4, 4), (4, 1, 1)])
def test_a_refill_is_never_less_than_what_is_missing_nor_more_than_a_batch(kept, missing, expected):
    assert collector(bool)._wanted(missing, 4, kept) == expected


async def test_waiting_groups_are_dropped_when_they_are_stale():
    made = collector(lambda step: True, steps_per_trajectory=3, max_staleness=1)
    first = await made.batch(0, 0)
    assert len(first.sampled) == 6 and first.counts["waiting"] == 2
    again = await made.batch(1, 2)
    assert again.counts["stale"] == 2 and again.counts["carried"] == 0
    fresh = await made.batch(2, 3)
    assert fresh.counts["stale"] == 0 and fresh.counts["carried"] == 2
    on_policy = collector(lambda step: True, steps_per_trajectory=3, max_staleness=0)
    await on_policy.batch(0, 0)
    assert (await on_policy.batch(1, 1)).counts["stale"] == 2


async def test_chunks_stay_whole_and_on_one_trunk():
    made = collector(lambda step: True, steps_per_trajectory=2, max_staleness=9)
    for step in range(5):
        batch = await made.batch(step, step)
        for pair in zip(batch.groups[::2], batch.groups[1::2], strict=True):
            assert len({g.example.instance_id for g in pair}) == 1
        assert batch.trajectories == [int(g.example.instance_id[1:]) for g in batch.groups]


async def test_all_steps_of_a_trajectory_are_as_many_as_a_batch_holds_and_none_is_lost():
    made, trained, sampled = collector(lambda step: True, steps_per_trajectory=0), 0, 0
    for step in range(12):
        batch = await made.batch(step, step)
        trained, sampled = trained + len(batch.groups), sampled + len(batch.sampled)
        assert batch.counts["stale"] == 0
    assert trained == 48 and sampled == trained + len(made.waiting)
    whole = collector(lambda step: True, steps_per_trajectory=0, groups=6)
    for step in range(8):
        [trajectory] = set((await whole.batch(step, step)).trajectories)
        assert trajectory in range(4) and not whole.waiting


async def test_a_short_batch_is_trained_or_waits_without_growing_stale():
    made = collector(lambda step: step < 2, refill_rounds=0)
    trained = [len((await made.batch(step, step)).groups) for step in range(6)]
    assert sum(trained) == 2 and max(trained) < 4
    waits = collector(lambda step: step < 4, refill_rounds=0, partial_batch="skip")
    batches = [await waits.batch(step, 0) for step in range(20)]
    assert {len(b.groups) for b in batches} == {0, 4}
    assert sorted(steps(next(b.groups for b in batches if b.groups))) == [0, 1, 2, 3]
    assert all(b.counts["stale"] == 0 for b in batches)


async def test_a_resume_from_a_checkpoint_goes_on_with_the_same_batches():
    def useful(step):
        return step % 3 > 0

    whole = collector(useful, steps_per_trajectory=2)
    for step in range(9):
        resumed = collector(useful, steps_per_trajectory=2)
        file = io.BytesIO()
        torch.save(whole.state(), file)
        file.seek(0)
        resumed.load_state(torch.load(file, weights_only=True))
        assert resumed.waiting == whole.waiting
        expected = await whole.batch(step, step)
        assert await resumed.batch(step, step) == expected


async def test_processes_share_a_round_by_trajectory_and_seeds_do_not_depend_on_it():
    whole = collector(lambda step: True, groups=12, steps_per_trajectory=2)
    expected = {g.example.step: g.samples for g in (await whole.batch(0, 0)).sampled}
    shares = []
    for rank in range(2):
        made = collector(lambda step: True, Processes(rank, 2), groups=12, steps_per_trajectory=2)
        places = [i for chunk in take(made.runs, 2, made.seed, 0, 12)[0] for i in chunk]
        mine = made._share(places)
        groups = await made.sampler.groups([EXAMPLES[places[i]] for i in mine], 2, Sampling(1.0, 8, 0), mine)
        assert all(expected[g.example.step] == g.samples for g in groups)
        shares.append({g.example.step for g in groups})
    assert shares[0] | shares[1] == expected.keys() and not shares[0] & shares[1] and all(shares)
    instances = [{EXAMPLES[s].instance_id for s in share} for share in shares]
    assert not instances[0] & instances[1]
