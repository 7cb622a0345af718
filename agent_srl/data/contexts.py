"""What of the history a step's prompt shows. Pure functions on rounds and their sizes; the problem always stays.

- `full`: everything. Prompts of one trajectory are prefixes of each other.
- `window`: the last rounds (arXiv 2510.25992, appendix A: two).
- `budget`: as much as fits into a number of tokens; older observations go first, then the oldest rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Round:
    """A reply and what came back, as the model sees them."""

    reply: str
    observation: str
    placeholder: str
    """The line that stands for the observation where it is left out."""
    learnt: bool = False
    """Whether the reply may be learnt from: accepted by the harness, and shown whole."""

    def elided(self) -> Round:
        return replace(self, observation=self.placeholder)


@dataclass(frozen=True)
class Size:
    """Tokens of a round: its reply, its observation, and the placeholder instead."""

    reply: int
    observation: int
    placeholder: int


def window(rounds: Sequence[Round], count: int) -> list[Round]:
    """The last `count`."""
    return list(rounds[-count:])


def fit(rounds: Sequence[Round], sizes: Sequence[Size], room: int) -> list[Round]:
    """Rounds of at most `room` tokens, if the newest alone is not longer.

    Observations are elided from the oldest on until the rest fits; the newest is kept whole. An observation no longer
    than its placeholder stays. If that is not enough, the oldest rounds are dropped.
    """
    total = sum(s.reply + s.observation for s in sizes)
    shown, older = list(rounds), range(len(rounds) - 1)
    for i in older:
        saved = sizes[i].observation - sizes[i].placeholder
        if total > room and saved > 0:
            shown[i], total = shown[i].elided(), total - saved
    for i in older:
        if total <= room:
            return shown[i:]
        total -= sizes[i].reply + min(sizes[i].observation, sizes[i].placeholder)
    return shown[-1:]
