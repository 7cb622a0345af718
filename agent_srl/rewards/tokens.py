"""Similarity on lexical tokens: the paper's matching blocks (arXiv 2510.25992, section 4.2) of words and signs.

A word is one element, so `test_views` and `test_models` share nothing where characters share half. Space between tokens
is free; what a line is indented by is a token in `code_tokens` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from agent_srl.rewards.blocks import MAX_WORK, matches

MAX_TOKENS = 1000
"""Tokens of either side that are matched; matching is quadratic."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_QUOTES = str.maketrans("\"'", "''")
_MAX_CODE_CHARS = 20_000


def tokenise(text: str) -> list[str]:
    """Words and single signs, in order."""
    return _TOKEN.findall(text)


def code_tokens(text: str, *, indented: bool) -> list[str]:
    """Tokens of code, the two quote signs being one; with `indented`, every line of text begins with its depth."""
    lines = text[:_MAX_CODE_CHARS].expandtabs(4).translate(_QUOTES).splitlines()
    found: list[str] = []
    for line in lines:
        tokens = _TOKEN.findall(line)
        if tokens and indented:
            found.append(f"\n{len(line) - len(line.lstrip())}")
        found += tokens
    return found


def token_ratio(left: str, right: str) -> float:
    """2M/T over the first `MAX_TOKENS` tokens, in [0, 1]. Not symmetric, as `similarity.ratio` is not."""
    return matched(tokenise(left)[:MAX_TOKENS], tokenise(right)[:MAX_TOKENS])


def matched(left: Sequence[str], right: Sequence[str]) -> float:
    """2M/T over matching blocks of elements; 1 for two empty sequences."""
    if left == right:
        return 1.0
    return 2.0 * matches(left, right, MAX_WORK // 10) / (len(left) + len(right))


def overlap(left: Sequence[str], right: Sequence[str]) -> tuple[float, float]:
    """Matched elements over the longer and over the shorter side, each in [0, 1]; symmetric.

    Equal ends count as matched at once. What remains is matched in blocks up to `MAX_TOKENS` elements, and counted
    without its order beyond, so that no length costs more than a few milliseconds.
    """
    if not left or not right:
        return (float(left == right),) * 2
    left, right = sorted((list(left), list(right)), key=lambda side: (len(side), side))
    head = common(left, right)
    tail = common(left[head:][::-1], right[head:][::-1])
    a, b = left[head : len(left) - tail], right[head : len(right) - tail]
    blocks = matches(a[:MAX_TOKENS], b[:MAX_TOKENS], MAX_WORK // 20)
    rest = (Counter(a[MAX_TOKENS:]) & Counter(b[MAX_TOKENS:])).total()
    same = head + tail + blocks + rest
    return same / len(right), same / len(left)


def dice(left: Sequence[str], right: Sequence[str]) -> float:
    """2M/T of `overlap`: in [0, 1], symmetric, 1 for equals."""
    if not left and not right:
        return 1.0
    long, _ = overlap(left, right)
    longest = max(len(left), len(right))
    return 2 * long * longest / (len(left) + len(right))


def common(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
