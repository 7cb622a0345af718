"""Risks: one kind or one function makes up all tasks; drawing never ends; the difficulty knob does nothing."""

import random
from collections import Counter
from itertools import islice

import pytest

from env_server.tasks.choose import Chooser
from env_server.tasks.mutate import Copies, candidates

SOURCE = b"".join(
    b"def f%d(a, b, c=%d):\n" % (n, n)
    + b"    if not a:\n        return b\n" * (1 + n)
    + b"    return a < b and a - b > c, 'text%d'\n\n\n" % n
    for n in range(8)
)


@pytest.fixture
def chooser(tmp_path):
    def make(difficulty: str, seed: int = 0) -> Chooser:
        files = {"m.py": SOURCE}
        return Chooser(candidates("m.py", SOURCE), files, Copies(files, tmp_path), random.Random(seed), difficulty)

    return make


def test_kinds_take_turns_and_functions_are_capped(chooser):
    drawn = chooser("mixed")
    drawn.plan(12)
    kinds, functions = Counter(), Counter()
    for _ in range(12):
        edit = drawn.draw()
        drawn.count([edit])
        kinds[edit.kind] += 1
        functions[edit.function] += 1
    assert len(kinds) >= 6 and max(kinds.values()) <= 5
    assert len(functions) >= 4 and max(functions.values()) <= 4


def test_every_edit_is_drawn_once_and_then_none(chooser):
    drawn = chooser("mixed")
    drawn.plan(1)
    edits = []
    while edit := drawn.draw():
        drawn.count([edit])
        edits.append(edit)
    assert len(edits) == len(set(edits)) > 50
    assert {edit.function for edit in edits} == {f"f{n}" for n in range(8)}


def test_hard_means_larger_functions_and_more_edits(chooser):
    mean, sizes = {}, {}
    for level in ("easy", "hard"):
        drawn = chooser(level)
        sizes[level] = set(islice(drawn.plan(10), 6))
        mean[level] = sum(drawn.draw().function_lines for _ in range(30)) / 30
    assert mean["hard"] > mean["easy"] + 2
    assert sizes == {"easy": {1}, "hard": {2, 3}}


def test_the_seed_decides(chooser):
    first, second, other = chooser("mixed"), chooser("mixed"), chooser("mixed", seed=1)
    rows = [[c.draw() for _ in range(5)] for c in (first, second, other) if c.plan(5)]
    assert rows[0] == rows[1] != rows[2]
