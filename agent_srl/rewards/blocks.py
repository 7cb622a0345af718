"""The paper's M: how many elements lie in matching blocks (the longest common run, then left and right of it).

cydifflib finds the blocks, exactly as CPython's difflib does with autojunk=False. Repetitive texts make that cubic:
four thousand brackets against as many other ones take 38 s. So the work is counted, and a pair that needs more than its
budget keeps what was matched by then. Of 50 pairs of the longest real actions, cut at 4,000 characters, the costliest
took a third of the default budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from cydifflib import SequenceMatcher

MAX_WORK = 40_000_000
"""Comparisons of two elements, at about 10 ns each."""


Block = tuple[int, int, int]
"""Where a run begins on the left and on the right, and its length."""


def matches(left: Sequence[str], right: Sequence[str], budget: int = MAX_WORK) -> int:
    """Elements in matching blocks; a lower bound of it where `budget` comparisons are not enough."""
    return sum(size for _, _, size in matching_blocks(left, right, budget))


def matching_blocks(left: Sequence[str], right: Sequence[str], budget: int = MAX_WORK) -> list[Block]:
    """The blocks in order. Those of a pair that is certain to be cheap come straight from cydifflib."""
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    runs = min(len(left), len(right))
    work: list[int] = []
    if len(left) * len(right) * runs > budget:
        counts = Counter(right)
        work = [0, *accumulate(counts[element] for element in left)]
    if not work or work[-1] * runs <= budget:
        return [(block.a, block.b, block.size) for block in matcher.get_matching_blocks()]
    found: list[Block] = []
    todo = [(0, len(left), 0, len(right))]
    while todo and budget > 0:
        alo, ahi, blo, bhi = todo.pop()
        budget -= work[ahi] - work[alo] + 100
        i, j, size = matcher.find_longest_match(alo, ahi, blo, bhi)
        if size:
            found.append((i, j, size))
            sides = ((alo, i, blo, j), (i + size, ahi, j + size, bhi))
            todo += [(a, b, c, d) for a, b, c, d in sides if a < b and c < d]
    return sorted(found)
