"""A tool call as intents. Tools of many harnesses say the same things: they are told by their names and arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from agent_srl.rewards.reading.commands import read_command_line
from agent_srl.rewards.reading.intents import Change, Intent, place, places
from agent_srl.rewards.reading.interpreters import code
from agent_srl.rewards.reading.patches import patch_edits
from agent_srl.rewards.reading.searches import file_pattern, pattern_text
from agent_srl.rewards.reading.windowed import insertion, line_edit, window, windowed
from env_server.schema import Action

SHELLS = frozenset(
    [
        "bash",
        "execute_bash",
        "run",
        "shell",
        "terminal",
        "run_command",
        "execute_command",
        "run_shell_command",
        "cmd",
        "sh",
        "local_shell",
        "exec",
        "execute",
        "run_terminal_cmd",
        "bash_command",
        "swe_agent",
        "run_in_terminal",
    ]
)
_COMMAND_KEYS = ("command", "cmd", "script", "commands", "keystrokes", "input")
_PATH_KEYS = ("path", "file_path", "filename", "file", "file_name", "filepath", "target_file", "notebook_path")
_EDITOR_COMMANDS = frozenset(["view", "create", "str_replace", "insert", "undo_edit"])
Arguments = dict[str, Any]


def read_action(action: Action) -> tuple[Intent, ...]:
    """What an action does, in order; at least one intent. Never raises."""
    return _read(action.name, json.dumps(action.arguments, default=str))


@lru_cache(maxsize=8192)
def _read(name: str, arguments: str) -> tuple[Intent, ...]:
    given: Arguments = json.loads(arguments)
    found = _intents(name.strip().lower(), given)
    return tuple(found) or (Intent("other", verb=name, content=_rest(given)),)


def _intents(name: str, given: Arguments) -> list[Intent]:
    if name in SHELLS:
        return read_command_line(shell_text(given))
    command = given.get("command")
    if isinstance(command, str) and command in _EDITOR_COMMANDS:
        return [_editor(command, given)]
    if name in ("apply_patch", "patch"):
        return patch_edits(_text(given, "input", "patch", "diff", "command"))
    handler = TOOLS.get(name)
    if handler is not None:
        return [handler(given)]
    if name in ("execute_ipython_cell", "ipython", "run_ipython", "python", "jupyter"):
        return code(_text(given, "code", "command"), "")
    path = _text(given, *_PATH_KEYS)
    rest = _rest({k: v for k, v in given.items() if k not in _PATH_KEYS})
    return [Intent("tool", verb=name, targets=places([path] if path else []), content=rest)]


def shell_text(given: Arguments) -> str:
    """The command line of a shell call; a list such as `["bash", "-lc", LINE]` gives its line."""
    for key in (*_COMMAND_KEYS, *given):
        value = given.get(key)
        if isinstance(value, list) and value:
            words = [str(part) for part in value]
            return words[-1] if len(words) == 3 and words[1].startswith("-") and "c" in words[1] else " ".join(words)
        if isinstance(value, str):
            return value
    return ""


def _text(given: Arguments, *keys: str) -> str:
    return next((str(given[key]) for key in keys if given.get(key) is not None), "")


def _number(given: Arguments, *keys: str) -> int | None:
    found = re.search(r"-?\d{1,9}", _text(given, *keys))
    return int(found[0]) if found else None


def _rest(given: Arguments) -> str:
    return " ".join(f"{key} {value}" for key, value in sorted(given.items()))


def _editor(command: str, given: Arguments) -> Intent:
    """str_replace_editor of Anthropic, SWE-agent and OpenHands."""
    path = place(_text(given, *_PATH_KEYS))
    match command:
        case "view":
            numbers = [int(n) for n in re.findall(r"-?\d{1,9}", _text(given, "view_range"))[:2]]
            if len(numbers) < 2:
                folder = path.path == "." or "." not in path.path.rsplit("/", 1)[-1]
                return Intent("list" if folder else "view", targets=(path,))
            last = None if numbers[1] < 0 else numbers[1]
            return Intent("view", targets=(place(path.path, "", max(1, numbers[0]), last),))
        case "create":
            return Intent("create", targets=(path,), change=Change(_text(given, "file_text", "content")))
        case "insert":
            return insertion(path.path, _text(given, "new_str"), _number(given, "insert_line"))
        case "str_replace":
            return Intent("edit", targets=(path,), change=Change(_text(given, "new_str"), _text(given, "old_str")))
    return Intent("restore", verb="undo", targets=(path,))


def _open(given: Arguments) -> Intent:
    """A file or a range of it: SWE-agent's open, OpenHands' read, and readers with offset and limit."""
    path = _text(given, *_PATH_KEYS)
    line, start, end = _number(given, "line_number"), _number(given, "offset", "start", "start_line"), None
    if line is not None:
        return Intent("view", targets=(window(path, str(line)),))
    if start is not None:
        limit = _number(given, "limit")
        end = start + limit - 1 if limit is not None else _number(given, "end", "end_line")
    if (start is None or start <= 0) and (end is None or end < 0):
        return Intent("view", targets=places([path]))
    return Intent("view", targets=(place(path, "", start, end),))


def _edit(given: Arguments) -> Intent:
    """An edit by search and replace, or by line numbers."""
    path = _text(given, *_PATH_KEYS)
    old = _text(given, "search", "old_str", "old_string", "old_text")
    new = _text(
        given, "replace", "new_str", "new_string", "new_text", "replacement_text", "content", "text", "code_edit"
    )
    start, end = _number(given, "start", "start_line"), _number(given, "end", "end_line")
    numbers = re.findall(r"\d{1,9}", _text(given, "line_numbers", "lines"))[:2]
    if len(numbers) == 2:
        start, end = int(numbers[0]), int(numbers[1])
    if not old:
        return line_edit(path, start, end, new)
    return Intent("edit", targets=places([path]), change=Change(new, old))


def _write(given: Arguments) -> Intent:
    path, new = _text(given, *_PATH_KEYS), _text(given, "content", "file_text", "text", "contents")
    return Intent("create", targets=places([path]), change=Change(new))


def _insert(given: Arguments) -> Intent:
    line = _number(given, "line", "line_number", "insert_line")
    return insertion(_text(given, *_PATH_KEYS), _text(given, "text", "new_str", "content"), line)


def _search(given: Arguments) -> Intent:
    pattern = pattern_text(_text(given, "pattern", "search_term", "query", "regex", "keyword"))
    scope = _text(given, "dir", "directory", *_PATH_KEYS) or "."
    return Intent("search", targets=places([scope]), content=pattern)


def _search_file(given: Arguments) -> Intent:
    return Intent("search", targets=(place(_text(given, *_PATH_KEYS)),), content=_text(given, "search_term", "pattern"))


def _find(given: Arguments) -> Intent:
    name = file_pattern(_text(given, "file_name", "pattern", "glob_pattern", "name", "query"))
    return Intent("find", targets=(place(_text(given, "dir", "directory", "path") or "."),), content=name)


def _list(given: Arguments) -> Intent:
    return Intent("list", targets=(place(_text(given, "path", "dir", "directory") or "."),))


TOOLS: dict[str, Callable[[Arguments], Intent]] = {
    **dict.fromkeys(["open", "read", "read_file", "open_file", "view", "view_file", "cat"], _open),
    **dict.fromkeys(["edit", "edit_file", "str_replace", "replace", "search_replace", "edit_file_by_replace"], _edit),
    **dict.fromkeys(["create", "write", "write_file", "create_file"], _write),
    **dict.fromkeys(["insert", "append", "append_file", "insert_content_at_line"], _insert),
    **dict.fromkeys(["search_dir", "grep", "search", "grep_search", "search_code", "search_files"], _search),
    "search_file": _search_file,
    **dict.fromkeys(["find_file", "glob", "find", "file_search", "find_files"], _find),
    **dict.fromkeys(["ls", "list", "list_dir", "list_files", "list_directory"], _list),
    **dict.fromkeys(["submit", "finish", "task_complete", "complete", "exit_cost", "done"], lambda _: Intent("submit")),
    "think": lambda given: Intent("think", content=_rest(given)),
    "step": lambda given: Intent("text", content=_text(given, "text")),
    "goto": lambda given: windowed("goto", [_text(given, "line_number", "line")]),
    "scroll_down": lambda _: windowed("scroll_down", []),
    "scroll_up": lambda _: windowed("scroll_up", []),
}
