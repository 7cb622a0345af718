"""Which steps come next, and which process works on them. Pure functions: a cursor and a seed say everything.

The data are an endless series of epochs. In each, the steps of a trajectory are shuffled and cut into chunks, and the
chunks of all trajectories are shuffled: steps of one chunk are sampled and trained together, on one trunk.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from agent_srl.types import StepExample


def trajectories(examples: Sequence[StepExample]) -> list[list[int]]:
    """Places of the examples of each trajectory. They stand together, steps counting up; two runs of one task are
    two trajectories."""
    found: list[list[int]] = []
    before: StepExample | None = None
    for place, example in enumerate(examples):
        if before is None or example.instance_id != before.instance_id or example.step <= before.step:
            found.append([])
        found[-1].append(place)
        before = example
    return found


def chunks_per_epoch(runs: Sequence[Sequence[int]], size: int) -> int:
    """How many chunks an epoch has, whatever its shuffle; `size` 0 takes whole trajectories."""
    return sum(-(-len(run) // (size or len(run))) for run in runs)


def chunks(runs: Sequence[Sequence[int]], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The chunks of one epoch in their order, each with its steps in the order of the trajectory.

    With `size` 1 it is `random.Random(f"{seed}/{epoch}").sample(places, n)`: the order from before there were chunks.
    """
    cut: list[list[int]] = []
    for number, run in enumerate(runs):
        shuffled = random.Random(f"{seed}/{epoch}/{number}").sample(run, len(run))
        step = size or len(run)
        cut += [sorted(shuffled[i : i + step]) for i in range(0, len(run), step)]
    cut.sort()
    return random.Random(f"{seed}/{epoch}").sample(cut, len(cut))


def take(runs: Sequence[Sequence[int]], size: int, seed: int, cursor: int, wanted: int) -> tuple[list[list[int]], int]:
    """Whole chunks from chunk `cursor` of the series on until they hold `wanted` steps, and the cursor after them."""
    taken: list[list[int]] = []
    per_epoch, missing, epoch, shuffled = chunks_per_epoch(runs, size), wanted, -1, list[list[int]]()
    while missing > 0:
        if cursor // per_epoch != epoch:
            epoch = cursor // per_epoch
            shuffled = chunks(runs, size, seed, epoch)
        taken.append(shuffled[cursor % per_epoch])
        cursor, missing = cursor + 1, missing - len(taken[-1])
    return taken, cursor


def order(n: int, seed: int, start: int, count: int) -> list[int]:
    """Places `start` to `start + count` of the series over range(n), one at a time."""
    taken, _ = take([[i] for i in range(n)], 1, seed, start, count)
    return [place for chunk in taken for place in chunk]


def deal(costs: Mapping[int, int], processes: int) -> dict[int, int]:
    """The process of each key: the dearest first, each to the process with the least so far. A process may get none."""
    load = [0] * processes
    owner: dict[int, int] = {}
    for key in sorted(costs, key=lambda k: (-costs[k], k)):
        owner[key] = min(range(processes), key=lambda p: (load[p], p))
        load[owner[key]] += costs[key]
    return owner
