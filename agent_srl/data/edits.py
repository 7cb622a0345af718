"""Which edits of a run came to nothing: the tool refused them, or a later action took them back.

Both are rules on names, arguments and answers; nothing is executed.
  failed    the answer begins with a refusal of SWE-agent's, OpenHands' or our editor, or of sed, patch or git apply. An
            exit code alone says nothing: a script that is written and run at once may be meant to fail.
  reverted  a later `undo_edit` of the file, the inverse replacement, or `git checkout | restore | reset --hard | stash`
            of it. What a shell command writes is read off its redirections, `sed -i`, `tee` and `open(..., 'w')`.

Left out: files that are written and removed again, and edits of SWE-agent's window, which name no file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from env_server.schema import Action, Step

FAILED = "failed edit"
REVERTED = "reverted edit"

_REFUSALS = re.compile(
    r"no replacement was performed|did not appear verbatim|no exact match found|multiple occurrences of|"
    r"your proposed edit has introduced new syntax error|"
    r"(edit|changes?) (was|were|have|has) not (been )?applied|not found in displayed|"
    r"file already exists at|cannot overwrite files|no file open|is not an absolute path|"
    r"invalid `(path|insert_line|old_str|view_range)`|parameter `\w+` is required|the path .{1,300} does not exist|"
    r"^(sed|perl|patch|tee): |error: patch failed|patch does not apply|corrupt patch at|^hunk .{1,20} failed",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL_CHARS = 400
"""A refusal comes first; further on the same words may be the text of the file."""
_SHELLS = ("bash", "execute_bash", "run", "shell", "terminal")
_NOTEBOOKS = ("run_ipython", "execute_ipython_cell", "execute_ipython")
_EDITORS = frozenset(
    {
        "str_replace_editor",
        "str_replace_based_edit_tool",
        "file_editor",
        "edit",
        "insert",
        "create",
        "append",
        "write",
        "str_replace",
        "replace",
        "edit_file",
        "write_file",
        "apply_patch",
    }
)
_EDITING_COMMANDS = ("str_replace", "insert", "create", "write", "edit", "append")
_WINDOW = re.compile(r"\A(edit|insert|create|append)\b")
_AGENT_SKILL = re.compile(r"\b(edit_file\w*|insert_content_at_line|append_file|create_file)\(")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?([^\n]*)\n.*?^\s*\1\s*$", re.DOTALL | re.MULTILINE)
_REDIRECTION = re.compile(r"(?<![<>&\d-])>>?\s*([\w./~+-]+)|\btee\s+(?:-a\s+)?([\w./~+-]+)")
_IN_PLACE = re.compile(r"\b(?:sed|perl)\s+(?=[^|;&\n]*\s?-\w*i)([^\n]*)")
_WRITTEN_BY_CODE = re.compile(r"open\(\s*['\"]([^'\"]+)['\"]\s*,\s*['\"][wa]|Path\(['\"]([^'\"]+)['\"]\)\.write_")
_PATCHES = re.compile(r"\bgit\s+apply\b|(?:\A|[\s;&|])patch\s+-")
_GIT_REVERT = re.compile(r"\bgit\s+(?:-C\s+\S+\s+)?(checkout|restore|stash|reset\s+--hard)\b([^&|;\n]*)")
_UNSTASH = re.compile(r"\bgit\s+stash\s+(pop|apply)\b")


@dataclass(frozen=True)
class _Edit:
    """An edit that was carried out, and the files it wrote; none where it names none."""

    step: int
    action: Action
    paths: tuple[str, ...]


def failed_edits(steps: list[Step]) -> set[int]:
    """Positions of the edits whose answer says that nothing was changed."""
    return {
        i
        for i, step in enumerate(steps)
        if step.action is not None and is_edit(step.action) and _REFUSALS.search(step.observation[:_REFUSAL_CHARS])
    }


def reverted_edits(steps: list[Step]) -> set[int]:
    """Positions of the edits that a later action of the same run undid."""
    failed, done, undone = failed_edits(steps), list[_Edit](), set[int]()
    unstashed = max((i for i, s in enumerate(steps) if s.action and _UNSTASH.search(_command(s.action))), default=-1)
    for i, step in enumerate(steps):
        if step.action is None or not step.is_target or i in failed:
            continue
        back = {edit.step for edit in _taken_back(step.action, done, stash_holds=i > unstashed)}
        undone |= back
        done = [edit for edit in done if edit.step not in back]
        if is_edit(step.action) and not back:
            done.append(_Edit(i, step.action, written_paths(step.action)))
    return undone


def is_edit(action: Action) -> bool:
    """Changes a file, by its name and arguments."""
    command = _command(action)
    if action.name in _SHELLS:
        return bool(_WINDOW.match(command) or _PATCHES.search(command) or written_paths(action))
    if action.name in _NOTEBOOKS:
        return bool(_AGENT_SKILL.search(str(action.arguments.get("code", ""))))
    return action.name in _EDITORS and (not command or command in _EDITING_COMMANDS)


def written_paths(action: Action) -> tuple[str, ...]:
    """The files that an edit names as its targets."""
    if action.name not in _SHELLS:
        keys = ("path", "file_path", "filename", "file")
        return tuple(str(action.arguments[key]) for key in keys if key in action.arguments)
    command = _command(action)
    outside = _HEREDOC.sub(r"\2", command)
    found = [a or b for a, b in _REDIRECTION.findall(outside) + _WRITTEN_BY_CODE.findall(command)]
    for rest in _IN_PLACE.findall(outside):
        words = _words(rest)
        found += [word for word in words[: _end(words)] if not word.startswith("-")][1:]
    return tuple(path for path in found if not path.startswith("/dev/"))


def _taken_back(action: Action, done: list[_Edit], *, stash_holds: bool) -> Iterator[_Edit]:
    """The edits that `action` undoes. A stash that is popped later undoes nothing."""
    command = _command(action)
    if action.name == "undo_edit" or command == "undo_edit":
        yield from [edit for edit in done if edit.paths == written_paths(action)][-1:]
    elif action.name in _SHELLS:
        for verb, rest in _GIT_REVERT.findall(_HEREDOC.sub(r"\2", command)):
            yield from (edit for edit in done if _covers(verb, _words(rest), edit, stash_holds=stash_holds))
    else:
        yield from [edit for edit in done if _inverse(edit.action, action)][-1:]


def _covers(verb: str, words: list[str], edit: _Edit, *, stash_holds: bool) -> bool:
    """Whether a git command restores what the edit changed."""
    if verb == "stash":
        return stash_holds and (not words or words[0] in ("push", "save", "-u"))
    if verb.startswith("reset"):
        return True
    if {"-b", "-B", "--staged"} & set(words):
        return False
    named = [word for word in words if not word.startswith("-")]
    return any(word in (".", "./", ":/") or _inside(edit, word) for word in named)


def _inside(edit: _Edit, place: str) -> bool:
    """An edited file is the place, or below it; relative paths are those of the tree."""
    place = place.removeprefix("./").strip("/")
    files = (f"/{path.removeprefix('./').strip('/')}/" for path in edit.paths)
    return bool(place) and any(f"/{place}/" in file for file in files)


def _inverse(edit: Action, later: Action) -> bool:
    """`later` puts back exactly what `edit` replaced, in the same file."""
    before, after = ((a.arguments.get("old_str"), a.arguments.get("new_str", "")) for a in (edit, later))
    same = written_paths(edit) == written_paths(later) != ()
    return same and bool(before[1]) and before[0] is not None and after == (before[1], before[0])


def _command(action: Action) -> str:
    return str(action.arguments.get("command", ""))


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _end(words: list[str]) -> int:
    """Where the next command of a line begins."""
    return next((i for i, word in enumerate(words) if word in ("&&", "||", ";", "|")), len(words))
