"""Equal to CPython's difflib, and how fast: on pairs of real actions, side by side in one run.

A pair is (an action a policy might have taken, the expert's): the first is another step of the same run in three of
five draws, else any real action with the same first word; equal texts are drawn again. Nothing is left out for
length: the draw has the tail of the data in natural proportion. The longest action of the data set that these files
are taken from has 18,544 characters; pairs of that length, joined from long real actions, are added. Times are of the
CPU, so that a busy machine does not change them; a batch's is wall time.
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from unittest.mock import patch

from agent_srl.rewards import similarity
from agent_srl.rewards.batch import score_batch
from agent_srl.rewards.blocks import matches
from agent_srl.rewards.similarity import bare_call
from benchmarks.reward_ranking.corpus import Corpus, Item
from benchmarks.reward_ranking.scorers import OURS, SCORERS
from env_server.schema import Action

PAIRS = 20_000
TAIL_CHARS, TAIL_PAIRS = 18_544, 3
BATCH = 4096


@dataclass(frozen=True)
class Pair:
    """What is compared in one call of a reward."""

    candidate: Action
    expert: Action
    texts: tuple[str, str]


class PairSource:
    """Draws pairs as a policy would meet them."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._rng = random.Random(f"{seed}:pairs")
        self._items = corpus.items
        self._texts = {item.id: bare_call(item.action) for item in corpus.items}
        self._by_run: dict[str, list[Item]] = defaultdict(list)
        self._by_word: dict[str, list[Item]] = defaultdict(list)
        for item in corpus.items:
            self._by_run[item.run].append(item)
            self._by_word[self._word(item)].append(item)

    def draw(self) -> Pair:
        """One pair of different texts, in natural proportion."""
        while True:
            expert = self._rng.choice(self._items)
            pool = self._by_run[expert.run] if self._rng.random() < 0.6 else self._by_word[self._word(expert)]
            pair = self._pair(self._rng.choice(pool), expert)
            if pair.texts[0] != pair.texts[1]:
                return pair

    def tail(self) -> list[Pair]:
        """Pairs as long as the longest action of the full data set: long real actions joined."""
        longest = sorted(self._items, key=lambda item: -len(self._texts[item.id]))
        texts = [
            "\n".join(self._texts[item.id] for item in longest[n : n + 8])[:TAIL_CHARS] for n in range(TAIL_PAIRS + 1)
        ]
        actions = [Action(name="bash", arguments={"command": text}) for text in texts]
        return [Pair(actions[n], actions[n + 1], (texts[n], texts[n + 1])) for n in range(TAIL_PAIRS)]

    def pairs(self, count: int = PAIRS) -> list[Pair]:
        """`count` drawn pairs and the tail."""
        return [*(self.draw() for _ in range(count)), *self.tail()]

    def _pair(self, candidate: Item, expert: Item) -> Pair:
        return Pair(candidate.action, expert.action, (self._texts[candidate.id], self._texts[expert.id]))

    def _word(self, item: Item) -> str:
        return f"{item.action.name} {(self._texts[item.id].split() or [''])[0]}"


def against_difflib(pairs: list[Pair]) -> dict[str, float | int]:
    """Share of exactly equal floats with every cap lifted, both CPU times over the same pairs, and what the caps
    change."""
    equal, capped, theirs, ours = 0, 0, 0.0, 0.0
    for pair in pairs:
        start = time.thread_time()
        expected = SequenceMatcher(None, *pair.texts, autojunk=False).ratio()
        middle = time.thread_time()
        with no_caps():
            before = time.thread_time()
            value = similarity.ratio(*pair.texts)
            ours += time.thread_time() - before
        theirs += middle - start
        equal += value == expected
        capped += similarity.ratio(*pair.texts) != expected
    return {
        "pairs": len(pairs),
        "ratio_equals_difflib": equal / len(pairs),
        "changed_by_caps": capped / len(pairs),
        "difflib_s": theirs,
        "ours_s": ours,
        "speedup_vs_difflib": theirs / ours,
        "longest_chars": max(len(text) for pair in pairs for text in pair.texts),
    }


@contextmanager
def no_caps() -> Iterator[None]:
    """The shipped `ratio` on whole texts, and with all the work it wants."""
    unbounded = partial(matches, budget=sys.maxsize)
    with patch.object(similarity, "MAX_CHARS", sys.maxsize), patch.object(similarity, "matches", unbounded):
        yield


def latencies(pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU per pair of each kind: median, 99th percentile and worst."""
    return {name: _latency(name, pairs) for name in OURS}


def batch_seconds(source: PairSource, kind: str = "structured") -> dict[str, float]:
    """Seconds for a batch, in natural proportion: in one process, then as shipped, with its pool started before.

    Each draws pairs of its own, so that neither finds what the other has cached.
    """
    batches = [[(pair.candidate, pair.expert) for pair in (source.draw() for _ in range(BATCH))] for _ in range(2)]
    alone = _timed(lambda: score_batch(kind, batches[0], processes=1))
    score_batch("tool_name", batches[1])
    return {"batch_4096_s": _timed(lambda: score_batch(kind, batches[1])), "batch_4096_one_process_s": alone}


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _latency(name: str, pairs: list[Pair]) -> dict[str, float]:
    scorer, times = SCORERS[name], []
    for pair in pairs:
        start = time.thread_time()
        scorer(pair.candidate, pair.expert)
        times.append(1000 * (time.thread_time() - start))
    times.sort()
    return {"p50_ms": times[len(times) // 2], "p99_ms": times[int(0.99 * len(times))], "max_ms": times[-1]}
