"""NVIDIA NeMo-Gym's `swe_pivot` rule, written anew from a published description of it; none of its code was read.

The levels, as described: 0, both tools are of one category; 1, both have the same target (file by the end of its
path, the editor's sub-command, a viewed range that covers 80 percent of the expert's; for bash the first word,
overlapping paths and a ratio of at least 0.3); 2, difflib's ratio of each argument, cut at 2,000 characters, for an
exchange the lower of old and new text; last, a penalty of 0.1 for an edit larger than the expert's. Failing level 0
or 1 gives 0. difflib's autojunk stays on and the first word of `cd X && pytest` is `cd`, both as described.

Where the description leaves a choice this takes the one meant to rank better (not compared): the continuous mode
(similarity itself, not 0 or 1 at a threshold), the mean over arguments, and paths that agree in their last two parts.
"""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from typing import Any

from env_server.schema import Action

CATEGORIES = {
    "shell": {"bash", "execute_bash", "run", "terminal", "execute"},
    "editor": {"str_replace_editor", "str_replace_based_edit_tool", "edit_anthropic"},
    "windowed edit": {"edit", "insert"},
    "look": {"open", "goto", "scroll_up", "scroll_down", "view"},
    "search": {"find_file", "search_file", "search_dir"},
    "end": {"submit", "finish"},
}
COVER = 0.8
BASH_FLOOR = 0.3
MAX_CHARS = 2000
SIZE_PENALTY = 0.1
_PATH = re.compile(r"[\w.-]*/[\w./-]+|[\w-]+\.\w+")


def swe_pivot(candidate: Action, expert: Action) -> float:
    """In [0, 1]; 1 for the expert's own action."""
    if category(candidate.name) != category(expert.name) or not same_target(candidate, expert):
        return 0.0
    return max(0.0, similarity(candidate, expert) - SIZE_PENALTY * _excess(candidate, expert))


def category(tool: str) -> str:
    """A tool of no known category is its own."""
    return next((name for name, tools in CATEGORIES.items() if tool in tools), tool)


def same_target(candidate: Action, expert: Action) -> bool:
    """Level 1."""
    left, right = candidate.arguments, expert.arguments
    if category(expert.name) == "shell":
        return _same_bash_target(str(left.get("command", "")), str(right.get("command", "")))
    if left.get("command") != right.get("command"):
        return False
    if not _same_path(str(left.get("path", "")), str(right.get("path", ""))):
        return False
    return _covers(left.get("view_range"), right.get("view_range"))


def similarity(candidate: Action, expert: Action) -> float:
    """Level 2: the mean over the arguments of either; old and new text count as one, by the lower."""
    names = {*candidate.arguments, *expert.arguments} - {"path"}
    values = {n: _ratio(candidate.arguments.get(n, ""), expert.arguments.get(n, "")) for n in sorted(names)}
    if "old_str" in values and "new_str" in values:
        values["old_str"] = min(values["old_str"], values.pop("new_str"))
    return sum(values.values()) / len(values) if values else 1.0


def _same_bash_target(left: str, right: str) -> bool:
    if left.split()[:1] != right.split()[:1] or _ratio(left, right) < BASH_FLOOR:
        return False
    mine, theirs = ({_end(p) for p in _PATH.findall(text)} for text in (left, right))
    return not theirs or bool(mine & theirs)


def _same_path(left: str, right: str) -> bool:
    return _end(left) == _end(right)


def _end(path: str) -> str:
    return "/".join(path.rstrip("/").split("/")[-2:])


def _covers(left: Any, right: Any) -> bool:
    """Whether 80 percent of the expert's lines are seen; the whole file is seen without a range."""
    wanted, seen = _lines(right), _lines(left)
    if wanted is None or seen is None:
        return seen is None
    common = min(wanted[1], seen[1]) - max(wanted[0], seen[0]) + 1
    return common >= COVER * (wanted[1] - wanted[0] + 1)


def _lines(view_range: Any) -> tuple[int, int] | None:
    """XML calls hold the range as text, native calls as a list."""
    try:
        value = json.loads(view_range) if isinstance(view_range, str) else view_range
        return (int(value[0]), int(value[1])) if value else None
    except (ValueError, TypeError, IndexError, KeyError):
        return None


def _ratio(left: Any, right: Any) -> float:
    return SequenceMatcher(None, str(left)[:MAX_CHARS], str(right)[:MAX_CHARS]).ratio()


def _excess(candidate: Action, expert: Action) -> float:
    """How much larger the edit's new text is than the expert's, as a share of it, at most 1."""
    mine, theirs = (len(str(a.arguments.get("new_str", ""))) for a in (candidate, expert))
    return min(1.0, max(0.0, mine / theirs - 1)) if theirs else 0.0
