"""Where an action acts: a path, lines of it, a symbol in it. Compared as places, not as text.

Working folders of harnesses (`/testbed`, `/workspace/NAME`, ...) are stripped: `/testbed/a.py`, `./a.py` and `a.py` are
one file.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agent_srl.rewards.tokens import matched

WRONG_FILE = 0.11
"""The most that another path can be worth: below the right path with the wrong lines."""
WRONG_LINES = 0.2
"""What the right path with lines far away is worth."""
_MAX_TARGETS = 24
_ROOTS = re.compile(
    r"^/(?:testbed|repo|repos|app|src|code|project|mnt/repo|[\w.-]+__[\w.-]+"
    r"|workspace/[\w.+-]+(?=/)|workspace/(?![\w.+-]*\.[A-Za-z]\w*$)[\w.+-]+|workspace)(?=/|$)"
)
"""Below `/workspace`, a name with a suffix is a file unless a slash follows it."""


@dataclass(frozen=True)
class Target:
    """A place. An empty path is one that the action does not name (a window's current file)."""

    path: str = ""
    first: int | None = None
    """First line, from 1; negative counts from the end. None: from the beginning."""
    last: int | None = None
    """Last line, included. None: to the end."""
    symbol: str = ""
    """A test or a class inside the file."""

    @property
    def whole(self) -> bool:
        return self.first is None and self.last is None


@lru_cache(maxsize=8192)
def normalise(path: str, folder: str = "") -> str:
    """The path below the repository's root: `.` for the root itself, absolute where it lies outside."""
    path = path.strip().strip("\"'")
    if not path:
        return ""
    if not path.startswith(("/", "~")):
        path = posixpath.join(folder, path)
    plain = posixpath.normpath(path)
    stripped = _ROOTS.sub("", f"{plain}/" if path.endswith("/") else plain)
    return plain if plain in (stripped, stripped[:-1]) else stripped.strip("/") or "."


def targets_similarity(left: Sequence[Target], right: Sequence[Target]) -> float:
    """In [0, 1], symmetric: each place with its best counterpart, averaged over both sides."""
    if not left or not right:
        return 1.0 if not left and not right else 0.35
    left, right = left[:_MAX_TARGETS], right[:_MAX_TARGETS]
    rows = [[target_similarity(a, b) for b in right] for a in left]
    best = [max(row) for row in rows] + [max(column) for column in zip(*rows, strict=True)]
    return sum(best) / len(best)


def target_similarity(left: Target, right: Target) -> float:
    """The right file counts first; in it, lines by how far they overlap."""
    path = path_similarity(left.path, right.path)
    if path <= WRONG_FILE:
        return path
    lines = _in_order(lines_similarity, left, right)
    return path * (WRONG_LINES + (1 - WRONG_LINES) * lines) * _symbols(left.symbol, right.symbol)


@lru_cache(maxsize=65536)
def path_similarity(left: str, right: str) -> float:
    """1 for the same path, up to 0.7 where one folder holds the other path, at most `WRONG_FILE` for another file."""
    if left == right:
        return 1.0
    if not left or not right:
        return 0.6
    if left.startswith("/") != right.startswith("/") and _ends(left, right):
        return 0.97
    a, b = left.split("/"), right.split("/")
    if left == "." or right == ".":
        if (right if left == "." else left).startswith(("/", "~", "..")):  # outside the repository
            return WRONG_FILE
        return max(0.2, 0.65 - 0.08 * len(b if left == "." else a))
    shorter, longer = sorted((a, b), key=len)
    if longer[: len(shorter)] == shorter and "." not in shorter[-1][1:]:
        return max(0.25, 0.7 - 0.12 * (len(longer) - len(shorter) - 1))
    folders = matched(*sorted((a[:-1], b[:-1]))) if len(a) > 1 or len(b) > 1 else 0.5
    return WRONG_FILE * (0.4 * folders + 0.6 * _names(a[-1], b[-1]))


def lines_similarity(left: Target, right: Target) -> float:
    """In [0, 1]: 1 for equal ranges; the whole file is near its head, and part of any range in it."""
    if (left.first, left.last) == (right.first, right.last):
        return 1.0
    if left.whole or right.whole:
        return _part(right if left.whole else left)
    (a, b), (c, d) = _bounds(left), _bounds(right)
    if (a < 0) != (c < 0):
        return 0.1
    shared, one, two = min(b, d) - max(a, c) + 1, b - a + 1, d - c + 1
    if shared > 0:
        return 0.25 + 0.75 * (0.7 * 2 * shared / (one + two) + 0.3 * shared / min(one, two))
    return 0.25 * math.exp(shared / (5 + (one + two) / 2))


def _part(part: Target) -> float:
    """A range against the whole file, whose length is not known."""
    first, last = _bounds(part)
    length = last - first + 1
    if first in (0, 1):
        return 0.97 * length / (length + 3)
    return 0.25 + 0.45 * length / (length + 200)


def _bounds(target: Target) -> tuple[int, int]:
    """Both ends as numbers; an open end lies 400 lines on."""
    first = 1 if target.first is None else target.first
    if first < 0:
        return first, -1 if target.last is None else max(first, target.last)
    last = first + 400 if target.last is None else target.last
    return min(first, last), max(first, last)


def _symbols(left: str, right: str) -> float:
    if left == right:
        return 1.0
    if not left or not right:
        return 0.6
    return 0.2 + 0.6 * matched(*sorted((left.split("::"), right.split("::"))))


def _names(left: str, right: str) -> float:
    words = re.compile(r"[A-Za-z]+|\d+")
    return matched(*sorted((words.findall(left), words.findall(right))))


def _ends(left: str, right: str) -> bool:
    absolute, relative = (left, right) if left.startswith("/") else (right, left)
    return relative != "." and absolute.endswith("/" + relative)


def _in_order(compare: Callable[[Target, Target], float], left: Target, right: Target) -> float:
    """Makes a comparison of two places symmetric."""
    return compare(left, right) if repr(left) <= repr(right) else compare(right, left)
