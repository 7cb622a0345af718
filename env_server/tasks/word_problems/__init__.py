"""Word problems with worked solutions, made up from a seed.

Two families: situations of the classical types (`money`, `amounts`) and chains of events on one quantity
(`chains`).
Every number is exact and every calculation in a solution is written `expression = value`.

Left out: geometry beyond rectangles, probability, anything that needs algebraic symbols.
"""

from __future__ import annotations

import random

from env_server.tasks.word_problems.amounts import AMOUNTS
from env_server.tasks.word_problems.chains import chain
from env_server.tasks.word_problems.draft import Draft
from env_server.tasks.word_problems.money import MONEY

__all__ = ["Draft", "make"]

MIN_STEPS, MAX_STEPS = 3, 6


def make(rng: random.Random) -> Draft:
    """One problem of 3 to 6 steps with a positive answer: two of five are chains, the others situations."""
    while True:
        draft = chain(rng) if rng.random() < 0.4 else rng.choice(MONEY + AMOUNTS)(rng)
        if MIN_STEPS <= len(draft.steps) <= MAX_STEPS and draft.answer > 0:
            return draft
