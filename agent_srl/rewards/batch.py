"""Many pairs at once: in this process, or a large batch in a pool; in order, and never on an event loop's thread."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial

from agent_srl.rewards.kinds import Score, Weights, score
from env_server.schema import Action

POOL_FROM = 1024
"""Pairs from which a pool pays: its processes take about a second to start, once."""

Pair = tuple[Action, Action]


def score_batch(kind: str | Weights, pairs: Sequence[Pair], *, processes: int | None = None) -> list[Score]:
    """Scores of (candidate, expert) pairs, in their order.

    Args:
        kind: a kind, or weights of kinds.
        pairs: any number.
        processes: of the pool; None takes one per core, 1 scores here. Small batches are scored here whatever it says.

    Raises:
        KeyError: an unknown kind.
    """
    count = processes or os.cpu_count() or 1
    one = partial(_score, kind if isinstance(kind, str) else dict(kind))
    if count == 1 or len(pairs) < POOL_FROM:
        return [one(pair) for pair in pairs]
    try:
        return list(_pool(count).map(one, pairs, chunksize=max(16, len(pairs) // (8 * count))))
    except BrokenProcessPool:  # a worker was killed, or the main script cannot be imported by one
        _pool.cache_clear()
        return [one(pair) for pair in pairs]


async def score_batch_async(kind: str | Weights, pairs: Sequence[Pair], *, processes: int | None = None) -> list[Score]:
    """`score_batch` in a thread, so that generation goes on meanwhile."""
    return await asyncio.to_thread(score_batch, kind, pairs, processes=processes)


def _score(kind: str | Weights, pair: Pair) -> Score:
    return score(kind, *pair)


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Kept for the life of this process. Spawned, because a fork of a process with torch's threads may hang."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
