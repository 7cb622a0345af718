"""SWE-agent's windowed commands (0.7 and 1.x): open, goto, scroll, edit. Most name no file: a window shows one."""

from __future__ import annotations

import re
import shlex

from agent_srl.rewards.reading.intents import Change, Intent, place, places
from agent_srl.rewards.reading.searches import file_pattern
from agent_srl.rewards.targets import Target

WINDOW = 100
"""Lines of a window, by default."""

_LINE_EDIT = re.compile(r"\s*edit(?:[ \t]+(\d{1,9}):(\d{1,9}))?[ \t]*\n(.*?)(?:\n?end_of_edit\s*)?\Z", re.DOTALL)
_NAMES = frozenset(
    [
        "open",
        "goto",
        "scroll_down",
        "scroll_up",
        "create",
        "search_dir",
        "search_file",
        "find_file",
        "edit",
        "insert",
        "append",
        "set_cursors",
        "submit",
        "exit_cost",
        "exit_context",
        "exit_format",
        "filemap",
    ]
)


def read_windowed(text: str) -> list[Intent] | None:
    """The intents of one windowed command; None where the text is another language."""
    first = text.split(maxsplit=1)[:1]
    if not first or first[0] not in _NAMES:
        return None
    edit = _LINE_EDIT.match(text)
    if edit:
        start, end = (int(edit[1]), int(edit[2])) if edit[1] else (None, None)
        return [line_edit("", start, end, edit[3])]
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return [windowed(words[0], words[1:])]


def line_edit(path: str, start: int | None, end: int | None, new: str) -> Intent:
    """Lines replaced by their numbers."""
    return Intent("edit", targets=places([path]), change=Change(new, None, start, end))


def windowed(name: str, words: list[str]) -> Intent:
    """One command with its words."""
    first, second, *_ = [*words, "", ""]
    match name:
        case "open":
            return Intent("view", targets=(window(first, second),))
        case "goto":
            return Intent("view", targets=(window("", first),))
        case "scroll_down" | "scroll_up":
            return Intent("view", verb=name, targets=(Target(),))
        case "create":
            return Intent("create", targets=places([first]), change=Change(""))
        case "search_dir":
            return Intent("search", targets=places([second or "."]), content=first)
        case "search_file":
            return Intent("search", targets=places([second]), content=first)
        case "find_file":
            return Intent("find", targets=places([second or "."]), content=file_pattern(first))
        case "edit":
            return Intent("edit", targets=(Target(),), change=Change(second, first))
        case "insert" | "append":
            return insertion("", first, int(second) if re.fullmatch(r"\d{1,9}", second) else None)
        case "submit" | "exit_cost" | "exit_context" | "exit_format":
            return Intent("submit")
    return Intent("other", verb=name, content=" ".join(words))


def insertion(path: str, text: str, after: int | None) -> Intent:
    """Text put in after a line; at an unknown place without one."""
    line = None if after is None else after + 1
    return Intent("edit", targets=places([path]), change=Change(text, "" if line is None else None, line, line))


def window(path: str, line: str) -> Target:
    """What `open PATH LINE` shows: a window around the line, or the file's beginning."""
    if not re.fullmatch(r"\d{1,9}", line):
        return place(path)
    start = max(1, int(line) - WINDOW // 2)
    return place(path, "", start, start + WINDOW - 1)
