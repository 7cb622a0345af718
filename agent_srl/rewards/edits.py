"""Edits compared as edits: is it the same place, and is it the same change.

A change is what differs between the old text and the new one, in tokens; so more context around it, another tool or a
remark in Python is the same change, while one sign turned round is another one. The place is read from line numbers
where both edits have them; where both quote the old text, from what they share of it and which of its lines they touch.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate

from agent_srl.rewards.blocks import MAX_WORK, matching_blocks
from agent_srl.rewards.reading.intents import Change
from agent_srl.rewards.targets import Target, lines_similarity
from agent_srl.rewards.tokens import MAX_TOKENS, code_tokens, common, dice, overlap

RIGHT_PLACE = 0.25
"""What an edit of the right place is worth whose change has nothing in common with the expert's."""
ANOTHER_CHANGE = 0.8
"""Most that the change is worth where it is not the expert's: one wrong sign in a long edit is a wrong edit."""
UNKNOWN_PLACE = 0.9
"""One edit gives lines, the other quotes the text."""
_BRACED = (
    ".js",
    ".jsx",
    ".ts",
    ".tsx",
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".hpp",
    ".java",
    ".go",
    ".rs",
    ".php",
    ".json",
    ".css",
    ".html",
)
_PYTHON = (".py", ".pyi")
_STRING = r"""(\"{3}(?:\\[\s\S]|[^\\])*?\"{3}|'{3}(?:\\[\s\S]|[^\\])*?'{3}|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
_REMARK, _SPACED_REMARK = (
    re.compile(_STRING + r"|(?<!\S)#.*"),
    re.compile(_STRING + r"|(?<!\S)#(?: .*|$)", re.MULTILINE),
)
"""A string, which is kept, or a remark to the end of the line; `#include` and `#define` are no spaced ones."""


def is_indented(path: str) -> bool:
    """Whether indentation carries meaning in the file; assumed where the language is not known."""
    return not path.endswith(_BRACED)


def edit_similarity(left: Change, right: Change, path: str) -> tuple[float, float]:
    """(place, change), each in [0, 1] and symmetric, for two edits of one file."""
    indented, code = is_indented(path), (without_comments(left, path), without_comments(right, path))
    if any(change.old == change.new for change in code):  # the remarks are the change
        code = left, right
    change = change_similarity(*code, indented=indented)
    place = place_similarity(left, right) * lines_touched_similarity(*code, indented=indented)
    return place, change if change == 1.0 else ANOTHER_CHANGE * change


def without_comments(change: Change, path: str) -> Change:
    """The same change of the same Python code, remarks left out; where no path tells the language, spaced ones alone.

    Kept as it is: any other language, where `#` may be code, and a piece of a longer string in triple quotes.
    """
    texts = (change.old or "", change.new)
    other = bool(path) and not path.endswith(_PYTHON)
    if other or any(text.count(mark) % 2 for text in texts for mark in ('"""', "'''")):
        return change
    remark = _REMARK if path else _SPACED_REMARK
    old, new = (remark.sub(lambda found: found[1] or "", text) for text in texts)
    return replace(change, old=None if change.old is None else old, new=new)


def place_similarity(left: Change, right: Change) -> float:
    """By lines, or by the quoted text: all of the shorter quote found in the longer one is the same place."""
    if left.at_end or right.at_end:
        return 1.0 if left.at_end and right.at_end else 0.3
    one, two = (left.first, left.last), (right.first, right.last)
    if one != (None, None) and two != (None, None):
        return lines_similarity(Target("", *one), Target("", *two))
    if left.old and right.old:
        a, b = code_tokens(left.old, indented=False), code_tokens(right.old, indented=False)
        long, short = overlap(a, b)
        return 0.9 * max(0.0, 1.4 * short - 0.4) + 0.1 * long if short < 1 else 0.95 + 0.05 * long
    if left.old is not None and right.old is not None:
        return 1.0 if left.old == right.old else 0.3
    return UNKNOWN_PLACE


def lines_touched_similarity(left: Change, right: Change, *, indented: bool) -> float:
    """How near the touched lines of two quotes of one file lie; 1 where the quotes do not say it."""
    if left.old is None or right.old is None:
        return 1.0
    shift = _shift(*sorted((left.old, right.old)), indented)
    one, two = touched(left.old, left.new, indented), touched(right.old, right.new, indented)
    if shift is None or not one or not two:
        return 1.0
    one = [line + shift for line in one] if left.old <= right.old else [line - shift for line in one]
    return (_nearness(one, two) + _nearness(two, one)) / 2


@lru_cache(maxsize=4096)
def _shift(left: str, right: str, indented: bool) -> int | None:
    """Lines from the beginning of the second quote to that of the first, by the longest run that both hold.

    None where they share nothing, or where the run has more than one place in a quote.
    """
    if left == right:
        return 0
    a, b = (_tokens(text, indented)[:MAX_TOKENS] for text in (left, right))
    i, j, size = max(matching_blocks(a, b, MAX_WORK // 20), key=lambda block: block[2], default=(0, 0, 0))
    run = a[i : i + size]
    if not size or any(sum(side[k : k + size] == run for k in range(len(side))) > 1 for side in (a, b)):
        return None
    return _lines_of(b)[j] - _lines_of(a)[i]


def touched(old: str, new: str, indented: bool) -> list[int]:
    """The lines of the old text that are replaced, or where something is put in; blank ones do not count."""
    lines = _lines_of(_tokens(old, indented))
    found: set[int] = set()
    for at, out, put in hunks(old, new, indented):
        words = {lines[at + k] for k, token in enumerate(out) if token[0] != "\n"}
        found |= words or {lines[at if out or put[0][0] == "\n" else at - 1]}
    return sorted(found)


def _lines_of(tokens: list[str]) -> list[int]:
    """The line, from 0, of every token, and the line after them."""
    breaks = list(accumulate((token[0] == "\n" for token in tokens), initial=0))
    return [*(count - 1 for count in breaks[1:]), breaks[-1]]


def _nearness(lines: list[int], others: list[int]) -> float:
    """1 where every line is among the others; what an edit some lines off is worth for one that is not."""
    total = 0.0
    for line in lines:
        k = bisect_left(others, line)
        away = min(abs(other - line) for other in others[max(0, k - 1) : k + 1])
        total += lines_similarity(Target("", 1, 1), Target("", 1 + away, 1 + away))
    return total / len(lines)


def change_similarity(left: Change, right: Change, *, indented: bool) -> float:
    """By the tokens that are taken out and put in; where one edit does not quote what it replaces, by the new text."""
    if left.old is not None and right.old is not None:
        return dice(delta(left.old, left.new, indented), delta(right.old, right.new, indented))
    one, two = code_tokens(left.new, indented=indented), code_tokens(right.new, indented=indented)
    if left.old is None and right.old is None:
        return dice(one, two)
    quoted, other = (left, two) if left.old is not None else (right, one)
    long, short = overlap(one, two) if one and two else (float(one == two),) * 2
    added = [token[1:] for token in delta(quoted.old or "", quoted.new, indented) if token[0] == "+"]
    return max(0.5 * long + 0.5 * short, dice(added, other))


def delta(old: str, new: str, indented: bool) -> tuple[str, ...]:
    """The tokens taken out (`-`) and put in (`+`), in order."""
    if indented and not old.strip() and not new.strip():
        return (f"+{new}",) * (new != old)
    signed = (
        token
        for _, out, put in hunks(old, new, indented)
        for token in (*("-" + t for t in out), *("+" + t for t in put))
    )
    return tuple(token for token in signed if indented or token[1] != "\n")


Hunk = tuple[int, tuple[str, ...], tuple[str, ...]]
"""Where it stands among the old tokens, the tokens taken out there, the tokens put in."""


@lru_cache(maxsize=4096)
def hunks(old: str, new: str, indented: bool) -> tuple[Hunk, ...]:
    """What differs between two texts, in order; a bounded number of tokens is aligned."""
    before, after = _tokens(old, indented), _tokens(new, indented)
    head = common(before, after)
    tail = common(before[head:][::-1], after[head:][::-1])
    one, two = before[head : len(before) - tail], after[head : len(after) - tail]
    blocks = [] if max(len(one), len(two)) > MAX_TOKENS else matching_blocks(one, two, MAX_WORK // 20)
    found: list[Hunk] = []
    at, to, free = 0, 0, 0
    for i, j, size in [*blocks, (len(one), len(two), 0)]:
        if at < i or to < j:
            found.append(_at_line(before, free, head + at, one[at:i], two[to:j]))
            free = head + i
        at, to = i + size, j + size
    return tuple(found)


def _at_line(before: list[str], free: int, at: int, out: list[str], put: list[str]) -> Hunk:
    """Whole lines taken out or put in begin with the line, however much is quoted after them."""
    if not (out and put):
        moved, start = out or put, at
        while start > free and moved[0][0] != "\n" and before[start - 1] == moved[-1]:
            moved, start = [moved[-1], *moved[:-1]], start - 1
        if moved[0][0] == "\n":
            at, out, put = start, moved if out else [], moved if put else []
    return at, tuple(out), tuple(put)


def _tokens(text: str, indented: bool) -> list[str]:
    """Tokens of code, every line of text beginning with a break; its depth counts where indentation does."""
    tokens = code_tokens(text, indented=True)
    return tokens if indented else ["\n" if token[0] == "\n" else token for token in tokens]


def text_similarity(left: str, right: str, path: str) -> float:
    """Of two whole files: half by tokens in order, half by lines."""
    indented = is_indented(path)
    tokens = dice(code_tokens(left, indented=indented), code_tokens(right, indented=indented))
    lines = dice(_lines(left, indented), _lines(right, indented))
    return 0.5 * tokens + 0.5 * lines


def _lines(text: str, indented: bool) -> list[str]:
    return [line.rstrip() if indented else line.strip() for line in text[:20_000].splitlines() if line.strip()]
