"""Risks: a step seen twice or never, another order than published runs had, a resume that skips, a group on two
processes."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent_srl.train.sampling import chunks, chunks_per_epoch, deal, order, take, trajectories
from agent_srl.types import StepExample
from env_server.schema import Action

lengths = st.lists(st.integers(1, 7), min_size=1, max_size=6)


def runs_of(lengths: list[int]) -> list[list[int]]:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return [list(range(start, start + n)) for start, n in zip(starts, lengths, strict=True)]


def example(instance: str, step: int) -> StepExample:
    return StepExample(f"{instance}#{step}", "r", instance, step, (1,), Action(name="bash"), (2,), (-100,), None)


def test_two_runs_of_one_task_are_two_trajectories():
    steps = [("a", 0), ("a", 1), ("a", 3), ("a", 0), ("a", 2), ("b", 3), ("b", 4)]
    assert trajectories([example(*s) for s in steps]) == [[0, 1, 2], [3, 4], [5, 6]]


@given(lengths, st.integers(0, 8), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_holds_each_step_once_in_chunks_of_one_trajectory(lengths, size, seed, epoch):
    runs = runs_of(lengths)
    found = chunks(runs, size, seed, epoch)
    assert len(found) == chunks_per_epoch(runs, size)
    assert Counter(i for chunk in found for i in chunk) == Counter(range(sum(lengths)))
    for chunk in found:
        [run] = [r for r in runs if chunk[0] in r]
        assert set(chunk) <= set(run) and chunk == sorted(chunk)
        assert len(chunk) <= (size or len(run))
    if size == 0:
        assert sorted(found) == runs


@given(lengths, st.integers(0, 5), st.integers(0, 3), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_resume_at_any_cursor_goes_on_with_the_same_series(lengths, size, seed, wanted):
    runs, cursor, parts = runs_of(lengths), 0, []
    for count in wanted:
        taken, after = take(runs, size, seed, cursor, count)
        assert sum(map(len, taken)) >= count > sum(map(len, taken[:-1]))
        assert after == cursor + len(taken)
        parts, cursor = parts + taken, after
    epochs = [c for e in range(1 + cursor // chunks_per_epoch(runs, size)) for c in chunks(runs, size, seed, e)]
    assert parts == epochs[:cursor]


def before_there_were_chunks(n: int, seed: int, start: int, count: int) -> list[int]:
    picked: list[int] = []
    for place in range(start, start + count):
        epoch, i = divmod(place, n)
        if i == 0 or not picked:
            shuffled = random.Random(f"{seed}/{epoch}").sample(range(n), n)
        picked.append(shuffled[i])
    return picked


@given(lengths, st.integers(0, 5), st.integers(0, 40), st.integers(1, 9))
def test_chunks_of_one_step_are_the_order_of_published_runs(lengths, seed, start, count):
    n = sum(lengths)
    taken, _ = take(runs_of(lengths), 1, seed, start, count)
    assert [i for [i] in taken] == before_there_were_chunks(n, seed, start, count) == order(n, seed, start, count)


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 100), max_size=12), st.integers(1, 5))
def test_every_key_has_one_process_and_none_is_overloaded(costs, processes):
    owner = deal(costs, processes)
    assert owner.keys() == costs.keys() and set(owner.values()) <= set(range(processes))
    load = [sum(c for k, c in costs.items() if owner[k] == p) for p in range(processes)]
    assert max(load) - min(load) <= max(costs.values(), default=0)
    assert owner == deal(dict(reversed(costs.items())), processes)
