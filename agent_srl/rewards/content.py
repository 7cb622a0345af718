"""What an action says beside where: search patterns, code, arguments, names. Short texts are compared in sub-words."""

from __future__ import annotations

import re
from functools import lru_cache

from agent_srl.rewards.similarity import ratio
from agent_srl.rewards.tokens import MAX_TOKENS, code_tokens, dice

_PATTERNS = frozenset(["search", "find", "list", "view"])
_SUBWORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\w\s]")
_FRAME = frozenset(
    ["def", "class", "import", "from", "return", "self", "(", ")", ":", ".", "*", "^", "$", "[", "]", "\\"]
)
_MAX_ALTERNATIVES = 12
_SHORT = 200


def content_similarity(kind: str, left: str, right: str) -> float:
    """In [0, 1], symmetric."""
    if left == right:
        return 1.0
    if not left or not right:
        return 0.0
    if kind in _PATTERNS:
        return pattern_similarity(*sorted((left, right)))
    if max(len(left), len(right)) < _SHORT:
        return dice(words(left), words(right))
    return dice(
        code_tokens(left, indented=False)[: 2 * MAX_TOKENS], code_tokens(right, indented=False)[: 2 * MAX_TOKENS]
    )


@lru_cache(maxsize=16384)
def pattern_similarity(left: str, right: str) -> float:
    """Alternatives (`a|b`) with their best counterparts; two alternatives by sub-words and characters."""
    a, b = (re.split(r"[|\n]", text)[:_MAX_ALTERNATIVES] for text in (left, right))
    rows = [[_one(x, y) for y in b] for x in a]
    best = [max(row) for row in rows] + [max(column) for column in zip(*rows, strict=True)]
    return sum(best) / len(best)


def _one(left: str, right: str) -> float:
    if left == right:
        return 1.0
    left, right = sorted((left[:_SHORT], right[:_SHORT]))
    return 0.7 * dice(_telling(left), _telling(right)) + 0.25 * ratio(left, right) ** 2


def _telling(text: str) -> list[str]:
    """Sub-words without the frame of the language, unless there is nothing else."""
    found = words(text)
    return [word for word in found if word not in _FRAME] or found


def words(text: str) -> list[str]:
    """Sub-words in lower case (`MAX_value2` gives max, value, 2) and single signs."""
    return [word.lower() for word in _SUBWORD.findall(text)]
