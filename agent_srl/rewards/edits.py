"""Edits compared as edits: is it the same place, and is it the same change.

A change is what differs between the old text and the new one, in tokens; so more context around it, another tool or a
remark is the same change, while one sign turned round is another one. The place is read from line numbers where both
edits have them, and from the old text where both quote it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

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
_STRING = r"""('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")"""
_HASH, _SLASHES = re.compile(_STRING + r"|#.*"), re.compile(_STRING + r"|//.*")
_PROSE = (".md", ".rst", ".txt", ".html", ".css", ".json")
"""Where these signs begin no comment."""


def is_indented(path: str) -> bool:
    """Whether indentation carries meaning in the file; assumed where the language is not known."""
    return not path.endswith(_BRACED)


def edit_similarity(left: Change, right: Change, path: str) -> tuple[float, float]:
    """(place, change), each in [0, 1] and symmetric, for two edits of one file."""
    indented, code = is_indented(path), (without_comments(left, path), without_comments(right, path))
    if any(change.old == change.new for change in code):  # the remarks are the change
        code = left, right
    change = change_similarity(*code, indented=indented)
    return place_similarity(left, right), change if change == 1.0 else ANOTHER_CHANGE * change


def without_comments(change: Change, path: str) -> Change:
    """The same change of the same code, remarks to the end of the line left out; prose is kept as it is."""
    if path.endswith(_PROSE):
        return change
    comment = _HASH if is_indented(path) else _SLASHES

    def code(text: str) -> str:
        return comment.sub(lambda found: found[1] or "", text)

    return replace(change, old=None if change.old is None else code(change.old), new=code(change.new))


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


@lru_cache(maxsize=4096)
def delta(old: str, new: str, indented: bool) -> tuple[str, ...]:
    """The tokens taken out (`-`) and put in (`+`), in order; a bounded number of tokens is aligned."""
    if indented and not old.strip() and not new.strip():
        return (f"+{new}",) * (new != old)
    before, after = code_tokens(old, indented=indented), code_tokens(new, indented=indented)
    head = common(before, after)
    tail = common(before[head:][::-1], after[head:][::-1])
    before, after = before[head : len(before) - tail], after[head : len(after) - tail]
    blocks = [] if max(len(before), len(after)) > MAX_TOKENS else matching_blocks(before, after, MAX_WORK // 20)
    found: list[str] = []
    at, to = 0, 0
    for i, j, size in [*blocks, (len(before), len(after), 0)]:
        found += [*(f"-{t}" for t in before[at:i]), *(f"+{t}" for t in after[to:j])]
        at, to = i + size, j + size
    return tuple(found)


def text_similarity(left: str, right: str, path: str) -> float:
    """Of two whole files: half by tokens in order, half by lines."""
    indented = is_indented(path)
    tokens = dice(code_tokens(left, indented=indented), code_tokens(right, indented=indented))
    lines = dice(_lines(left, indented), _lines(right, indented))
    return 0.5 * tokens + 0.5 * lines


def _lines(text: str, indented: bool) -> list[str]:
    return [line.rstrip() if indented else line.strip() for line in text[:20_000].splitlines() if line.strip()]
