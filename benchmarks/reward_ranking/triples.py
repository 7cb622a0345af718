"""Triples (expert action, better, worse) from real actions, in named categories.

Every category is a list of pairs (rule for the better half, rule for the worse half). For each category the steps of
all files are put in a seeded order that takes the files in turn, so that small files count; the pairs take turns
until `PER_CATEGORY` triples are found, at most `PER_RUN` from one run.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reward_ranking import better as b
from benchmarks.reward_ranking import harmless as h
from benchmarks.reward_ranking import worse as w
from benchmarks.reward_ranking.corpus import Corpus, Item
from benchmarks.reward_ranking.forms import Call, Tests, take_apart
from env_server.schema import Action

PER_CATEGORY = 45
PER_RUN = 4
BY_HAND = Path(__file__).parent / "by_hand.jsonl"

Better = Callable[[Call, random.Random], Action | None]
Worse = Callable[[Call, w.Context], Action | None]

CATEGORIES: dict[str, list[tuple[Better, Worse]]] = {
    "equivalent command": [
        (b.other_reader, w.wrong_file),
        (b.plain_search, w.wrong_pattern),
        (b.plain_search, w.wrong_file),
        (b.other_runner, w.wrong_file),
    ],
    "wrong file": [
        (b.wider_window, w.wrong_file),
        (b.search_with_context, w.wrong_file),
        (b.other_expression, w.wrong_file),
        (b.less_context, w.wrong_file),
    ],
    "wrong line": [
        (b.wider_window, w.wrong_lines),
        (b.other_expression, w.wrong_lines),
        (b.with_remark, w.wrong_lines),
    ],
    "right place, wrong change": [
        (b.less_context, w.wrong_change),
        (b.other_expression, w.wrong_change),
        (b.with_remark, w.wrong_change),
    ],
    "edit without effect": [(b.less_context, w.no_effect), (b.other_expression, w.no_effect)],
    "truncated edit": [(b.less_context, w.truncated), (b.with_remark, w.truncated)],
    "wrong tool": [(b.other_runner, w.wrong_tool), (b.less_context, w.wrong_tool), (b.with_remark, w.wrong_tool)],
    "reordered flags": [
        (b.plain(h.flag_order), w.wrong_pattern),
        (b.plain(h.flag_order), w.wrong_file),
        (b.plain(h.flag_order), w.inverted_search),
    ],
    "extra harmless pipe": [
        (b.harmless_pipe, w.wrong_file),
        (b.harmless_pipe, w.wrong_pattern),
        (b.harmless_pipe, w.wrong_lines),
    ],
    "destructive command": [(b.other_reader, w.destructive), (b.safe_look, w.destructive)],
    "whitespace only": [
        (b.plain(h.extra_spaces), w.wrong_file),
        (b.plain(h.extra_spaces), w.wrong_pattern),
        (b.blank_lines, w.wrong_token),
    ],
    "synonymous tool": [(b.other_tool, w.wrong_file), (b.other_tool, w.wrong_lines), (b.other_tool, w.wrong_token)],
    "prefix noise": [(b.other_prefix, w.after_the_same_prefix), (b.other_prefix, w.wrong_file)],
    "unrelated": [(b.same_file_elsewhere, w.unrelated), (b.less_context, w.unrelated)],
    "wrong pattern": [(b.plain(h.quotes), w.wrong_pattern), (b.search_with_context, w.wrong_pattern)],
    "wrong test": [(b.more_output, w.wrong_tests), (b.other_runner, w.wrong_tests)],
}


@dataclass(frozen=True)
class Triple:
    """An engineer gives `better` for `expert` rather than `worse`."""

    category: str
    rule: str
    """Names of the two functions."""
    run: str
    """Of the expert's action; the cluster of the bootstrap."""
    expert: Action
    better: Action
    worse: Action


def generate(corpus: Corpus, seed: int) -> list[Triple]:
    """All triples of all categories; the same for the same files and seed."""
    calls = [(item, take_apart(item.action)) for item in corpus.items]
    labels = _labels(calls)
    found: list[Triple] = []
    for category, pairs in CATEGORIES.items():
        order = _in_turn(calls, random.Random(f"{seed}:{category}"))
        streams = [_stream(category, pair, order, corpus, labels, seed) for pair in pairs]
        found += _draw(streams)
    return found


def by_hand(path: Path = BY_HAND) -> list[Triple]:
    """The committed triples, written by hand."""
    return [
        Triple(
            row["category"],
            "by hand",
            f"by hand {number}",
            *(Action(**row[key]) for key in ("expert", "better", "worse")),
        )
        for number, row in enumerate(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    ]


def _draw(streams: list[Iterator[Triple]]) -> list[Triple]:
    """From each stream in turn until there are enough."""
    found: list[Triple] = []
    per_run: Counter[str] = Counter()
    seen: set[str] = set()
    while streams and len(found) < PER_CATEGORY:
        stream = streams.pop(0)
        for triple in stream:
            key = f"{triple.expert!r} {triple.better!r} {triple.worse!r}"
            if per_run[triple.run] < PER_RUN and key not in seen:
                per_run[triple.run] += 1
                seen.add(key)
                found.append(triple)
                streams.append(stream)
                break
    return found


def _stream(
    category: str,
    pair: tuple[Better, Worse],
    order: list[tuple[Item, Call]],
    corpus: Corpus,
    labels: dict[str, list[str]],
    seed: int,
) -> Iterator[Triple]:
    for item, call in order:
        if call.form is None:
            continue
        rng = random.Random(f"{seed}:{category}:{item.id}")
        good = pair[0](call, rng)
        if good is None or good == call.action:
            continue
        known = labels.get(call.form.runner, []) if isinstance(call.form, Tests) else []
        context = w.Context(rng, corpus.runs[item.run], _foreign(item, corpus.items, rng), known)
        bad = pair[1](call, context)
        if bad is not None and bad not in (call.action, good):
            rule = f"{pair[0].__name__} / {pair[1].__name__}"
            yield Triple(category, rule, item.run, call.action, good, bad)


def _foreign(item: Item, items: list[Item], rng: random.Random) -> Action:
    """An action of a run on another repository."""
    repo = item.instance_id.partition("__")[0]
    while True:
        other = rng.choice(items)
        if other.instance_id.partition("__")[0] != repo:
            return other.action


def _in_turn(calls: list[tuple[Item, Call]], rng: random.Random) -> list[tuple[Item, Call]]:
    """Shuffled within each file, then one of each file at a time."""
    by_source: dict[str, list[tuple[Item, Call]]] = defaultdict(list)
    for pair in calls:
        by_source[pair[0].source].append(pair)
    for group in by_source.values():
        rng.shuffle(group)
    rank = [(n, source, pair) for source, group in sorted(by_source.items()) for n, pair in enumerate(group)]
    return [pair for _, _, pair in sorted(rank, key=lambda r: r[:2])]


def _labels(calls: list[tuple[Item, Call]]) -> dict[str, list[str]]:
    """What each test runner was given, in any run."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, call in calls:
        if isinstance(call.form, Tests):
            found[call.form.runner].add(call.form.targets[0])
    return {runner: sorted(targets) for runner, targets in found.items()}
