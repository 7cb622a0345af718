"""Which planted edits to try next, and how many a task gets: the difficulty knob, and the caps per kind and function.

Left out: running anything (`factory`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import cycle

from env_server.tasks.mutate import Copies, Edit, is_change

LEVELS: dict[str, tuple[int, ...]] = {
    "easy": (1,),
    "medium": (1, 2, 1),
    "hard": (2, 3, 2),
    "mixed": (1, 2, 1, 1, 3, 1),
}
"""Difficulty -> edits per task, repeated."""
KIND_SHARE = 0.3
"""No kind makes up more of a package's tasks than this, if there are others."""
_LOOK = 4
"""Edits compared by the size of their function before one is drawn."""


class Chooser:
    """Draws edits of one package, kinds in turn, without repetition.

    Args:
        edits: all there are.
        sources: path -> content of the modules.
        copies: refuses functions that stand a second time somewhere.
        difficulty: a key of `LEVELS`.
        broad: functions that so many tests call that a bug in them rarely fails few.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        sources: Mapping[str, bytes],
        copies: Copies,
        rng: random.Random,
        difficulty: str,
        broad: Set[tuple[str, str]] = frozenset(),
    ) -> None:
        self._sources = sources
        self._copies = copies
        self._rng = rng
        self._difficulty = difficulty
        self._broad = broad
        self._pools: dict[str, list[Edit]] = {}
        for edit in rng.sample(list(edits), len(edits)):
            self._pools.setdefault(edit.kind, []).append(edit)
        kinds = sorted(self._pools)
        rng.shuffle(kinds)
        self._turn = cycle(kinds)
        self._functions = len({(edit.file, edit.function) for edit in edits})
        self._used: Counter[object] = Counter()
        self._cap_kind = self._cap_function = 1

    def plan(self, count: int) -> Iterator[int]:
        """Edits of each of the next tasks, without end; sets the caps for `count` tasks."""
        self._cap_kind += max(1, math.ceil(KIND_SHARE * count))
        self._cap_function += max(1, math.ceil(2 * count / max(self._functions, 1)))
        sizes = list(LEVELS[self._difficulty])
        self._rng.shuffle(sizes)
        return cycle(sizes)

    def draw(self) -> Edit | None:
        """The next edit worth running; None if there is none, however far the caps are raised."""
        while any(self._pools.values()):
            for _ in range(len(self._pools)):
                if edit := self._from_kind(next(self._turn)):
                    return edit
            self._cap_kind += 1
            self._cap_function += 1
            if self._cap_kind > 10_000:
                break
        return None

    def count(self, edits: Sequence[Edit]) -> None:
        """Charge a finished task to the caps."""
        self._used.update(edit.kind for edit in edits)
        self._used.update((edit.file, edit.function) for edit in edits)

    def _from_kind(self, kind: str) -> Edit | None:
        pool = self._pools[kind]
        if self._used[kind] >= self._cap_kind:
            return None
        while free := [edit for edit in pool if self._used[edit.file, edit.function] < self._cap_function]:
            edit = min(free[-_LOOK:], key=self._order)
            pool.remove(edit)
            if is_change(self._sources[edit.file], edit) and self._copies.unique(edit):
                return edit
        return None

    def _order(self, edit: Edit) -> tuple[bool, int]:
        """Broad functions last; then small ones first where it is to be easy, large ones where it is to be hard."""
        size = {"easy": 1, "hard": -1}.get(self._difficulty, 0) * edit.function_lines
        return (edit.file, edit.function) in self._broad, size
