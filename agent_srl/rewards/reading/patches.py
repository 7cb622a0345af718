"""Patches as edits: unified diffs, and the `*** Update File` form of apply_patch."""

from __future__ import annotations

import re

from agent_srl.rewards.reading.intents import Change, Intent, places

_FILE = re.compile(r"^(?:\+\+\+ (?:b/)?|\*\*\* (?:Update|Add|Delete) File: )(\S+)", re.MULTILINE)
_HUNK = re.compile(r"^@@(?: -(\d+)[^@]*@@)?.*$")
_MAX_HUNKS = 30


def patch_edits(text: str, folder: str = "") -> list[Intent]:
    """One edit per hunk, in order; an empty list where the text is no patch."""
    found: list[Intent] = []
    path = ""
    hunk: list[str] = []
    first: int | None = None
    for line in [*text.splitlines(), "@@"]:
        file, mark = _FILE.match(line), _HUNK.match(line)
        if file or mark or line.startswith(("--- ", "diff ", "*** ")):
            if path and any(row[:1] in "+-" for row in hunk if row):
                found.append(_edit(path, folder, hunk, first))
            hunk, first = [], int(mark[1]) if mark and mark[1] else None
            path = file[1] if file else path
        else:
            hunk.append(line)
    return found[:_MAX_HUNKS]


def _edit(path: str, folder: str, hunk: list[str], first: int | None) -> Intent:
    old = "\n".join(row[1:] for row in hunk if not row.startswith("+"))
    new = "\n".join(row[1:] for row in hunk if not row.startswith("-"))
    last = None if first is None else first + max(0, old.count("\n"))
    if not old.strip():
        return Intent("create", targets=places([path], folder), change=Change(new))
    return Intent("edit", targets=places([path], folder), change=Change(new, old, first, last))
