"""`str_replace_editor`: SWE-agent's file editor, over a sandbox's `read` and `write`.

It needs no Python inside the sandbox. Unlike SWE-agent's own it leaves tabs, line ends and undecodable bytes
as they are. Left out: collapsing the functions of long files.
"""

from __future__ import annotations

import posixpath
import shlex
from typing import Any

from sandboxes.base import Outcome, Sandbox

SNIPPET_LINES = 4
"""Lines shown before and after an edit."""
MAX_SHOWN_CHARS = 16_000
UNDO_DEPTH = 20

_CAT = "Here's the result of running `cat -n` on"
_REVIEW = "Review the changes and make sure they are as expected. Edit the file again if necessary."
_CLIPPED = "(the file is long and its end was left out: look for line numbers with `grep -n`, then use `view_range`)"


class EditorRefusal(Exception):
    """The edit cannot be made; the message is for the model."""


def decode(data: bytes) -> str:
    """Bytes that are not UTF-8 survive a round trip through `encode`."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The inverse of `decode`."""
    return text.encode("utf-8", "surrogateescape")


def numbered(text: str, first_line: int = 1) -> str:
    """As `cat -n` prints it."""
    shown = encode(text).decode("utf-8", "replace")
    return "\n".join(f"{number:6}\t{line}" for number, line in enumerate(shown.split("\n"), first_line)) + "\n"


class Editor:
    """The edits of one session, so that they can be undone."""

    def __init__(self) -> None:
        self._history: dict[str, list[bytes]] = {}

    async def run(
        self, sandbox: Sandbox, command: str, path: str, given: dict[str, Any], *, timeout_s: float
    ) -> tuple[str, bool]:
        """Carry out one command with the arguments it needs.

        Returns:
            The text for the model, and whether some of it was left out.

        Raises:
            EditorRefusal: it cannot be done; nothing was changed.
            SandboxError: the sandbox died.
        """
        if not path.startswith("/"):
            raise EditorRefusal(f"The path {path} is not an absolute path, it should start with `/`.")
        path = posixpath.normpath(path)
        match command:
            case "view":
                return await _view(sandbox, path, given.get("view_range"), timeout_s)
            case "create":
                return await _create(sandbox, path, given["file_text"]), False
            case "str_replace":
                return await self._replace(sandbox, path, given["old_str"], given.get("new_str", ""))
            case "insert":
                return await self._insert(sandbox, path, given["insert_line"], given["new_str"])
            case _:
                return await self._undo(sandbox, path)

    async def _replace(self, sandbox: Sandbox, path: str, old: str, new: str) -> tuple[str, bool]:
        before = await _read(sandbox, path)
        text = decode(before)
        old, new = _with_line_ends(old, text), _with_line_ends(new, text)
        if not old:
            raise EditorRefusal("No replacement was performed: old_str is empty. Use `insert` to add lines.")
        if old == new:
            raise EditorRefusal(f"No replacement was performed, old_str `{old}` is the same as new_str in {path}.")
        starts = _occurrences(text, old)
        if not starts:
            raise EditorRefusal(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
        lines = [text.count("\n", 0, start) + 1 for start in starts]
        if len(lines) > 1:
            raise EditorRefusal(
                f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines {lines}. "
                "Please ensure it is unique."
            )
        after = text[: starts[0]] + new + text[starts[0] + len(old) :]
        await self._save(sandbox, path, before, after)
        return _edited(path, after, lines[0] - 1, new.count("\n"))

    async def _insert(self, sandbox: Sandbox, path: str, line: int, new: str) -> tuple[str, bool]:
        before = await _read(sandbox, path)
        text = decode(before)
        lines = text.split("\n")
        if not 0 <= line <= len(lines):
            raise EditorRefusal(
                f"Invalid `insert_line` parameter: {line}. "
                f"It should be within the range of lines of the file: {[0, len(lines)]}."
            )
        if line == len(lines) and not lines[-1]:
            line -= 1  # `view` numbers the emptiness after the last line end
        new = _with_line_ends(new, text).removesuffix("\n")
        if "\r\n" in text and not new.endswith("\r"):
            new += "\r"
        after = "\n".join([*lines[:line], new, *lines[line:]])
        await self._save(sandbox, path, before, after)
        return _edited(path, after, line, new.count("\n"))

    async def _undo(self, sandbox: Sandbox, path: str) -> tuple[str, bool]:
        history = self._history.get(path)
        if not history:
            raise EditorRefusal(f"No edit history found for {path}.")
        await _write(sandbox, path, history[-1])
        text, clipped = _clip(numbered(decode(history.pop())))
        return f"Last edit to {path} undone successfully. {_CAT} {path}:\n{text}", clipped

    async def _save(self, sandbox: Sandbox, path: str, before: bytes, after: str) -> None:
        await _write(sandbox, path, encode(after))
        self._history[path] = [*self._history.get(path, []), before][-UNDO_DEPTH:]


async def _view(sandbox: Sandbox, path: str, view_range: tuple[int, int] | None, timeout_s: float) -> tuple[str, bool]:
    try:
        text = decode(await sandbox.read(path))
    except IsADirectoryError:
        if view_range:
            raise EditorRefusal(
                "The `view_range` parameter is not allowed when `path` points to a directory."
            ) from None
        return await _view_folder(sandbox, path, timeout_s)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from None
    first = 1
    if view_range:
        first, last = _checked_range(view_range, text.count("\n") + 1)
        text = "\n".join(text.split("\n")[first - 1 : last])
    shown, clipped = _clip(numbered(text, first))
    return f"{_CAT} {path}:\n{shown}", clipped


def _checked_range(view_range: tuple[int, int], line_count: int) -> tuple[int, int]:
    first, last = view_range
    wrong = f"Invalid `view_range`: {[first, last]}. "
    if not 1 <= first <= line_count:
        raise EditorRefusal(
            wrong + f"Its first element should be within the range of lines of the file: {[1, line_count]}."
        )
    if last == -1:
        return first, line_count
    if last < first:
        raise EditorRefusal(wrong + f"Its second element should be -1 or at least the first, {first}.")
    return first, min(last, line_count)


async def _view_folder(sandbox: Sandbox, path: str, timeout_s: float) -> tuple[str, bool]:
    find = f"find {shlex.quote(path)} -mindepth 1 -maxdepth 2 -name '.*' -prune -o -print | LC_ALL=C sort"
    result = await sandbox.exec(find, timeout_s=timeout_s)
    if result.outcome != Outcome.OK:
        raise EditorRefusal(f"The folder {path} cannot be listed: {result.output.strip() or result.outcome}")
    shown, clipped = _clip(f"{path}\n{result.output}")
    heading = f"Here's the files and directories up to 2 levels deep in {path}, excluding hidden items:\n"
    return heading + shown, clipped or result.dropped_bytes > 0


async def _create(sandbox: Sandbox, path: str, text: str) -> str:
    try:
        await sandbox.read(path, max_bytes=0)
    except FileNotFoundError:
        await _write(sandbox, path, encode(text))
        return f"File created successfully at: {path}"
    except IsADirectoryError:
        raise EditorRefusal(f"The path {path} is a directory.") from None
    except ValueError:
        pass  # it exists and is not empty
    except OSError as error:
        raise _refusal(path, error) from None
    raise EditorRefusal(f"File already exists at: {path}. Cannot overwrite files using command `create`.")


async def _read(sandbox: Sandbox, path: str) -> bytes:
    try:
        return await sandbox.read(path)
    except IsADirectoryError:
        raise EditorRefusal(
            f"The path {path} is a directory and only the `view` command can be used on directories."
        ) from None
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from None


async def _write(sandbox: Sandbox, path: str, data: bytes) -> None:
    try:
        await sandbox.write(path, data)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from None


def _refusal(path: str, error: Exception) -> EditorRefusal:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return EditorRefusal(f"The path {path} does not exist. Please provide a valid path.")
        case PermissionError():
            return EditorRefusal(f"The path {path} cannot be opened: permission denied.")
        case OSError():
            return EditorRefusal(f"The path {path} cannot be used: {error.strerror or error}.")
        case _:
            return EditorRefusal(f"The path {path} cannot be used: {error}.")


def _occurrences(text: str, part: str) -> list[int]:
    starts, start = [], text.find(part)
    while start >= 0:
        starts.append(start)
        start = text.find(part, start + 1)
    return starts


def _with_line_ends(part: str, text: str) -> str:
    """A model writes line feeds; in a file that ends its lines with CRLF they must become that."""
    if "\r" in part or "\r\n" not in text:
        return part
    return part.replace("\n", "\r\n")


def _edited(path: str, text: str, line: int, added: int) -> tuple[str, bool]:
    """What the model sees after an edit of the lines from `line` (from 0) to `line + added`."""
    first = max(0, line - SNIPPET_LINES)
    snippet = "\n".join(text.split("\n")[first : line + added + SNIPPET_LINES + 1])
    shown, clipped = _clip(numbered(snippet, first + 1))
    heading = f"The file {path} has been edited. Here's the result of running `cat -n` on a snippet of {path}:\n"
    return heading + shown + _REVIEW, clipped


def _clip(text: str) -> tuple[str, bool]:
    if len(text) <= MAX_SHOWN_CHARS:
        return text, False
    return text[:MAX_SHOWN_CHARS].rpartition("\n")[0] + "\n" + _CLIPPED + "\n", True
