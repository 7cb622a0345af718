"""Whether an action is the expert's: exactly, in its tool, in the files it names. Independent of any reward.

Files: the `path` of an edit, and the words of a command that end in a known suffix. A here-document's body is not
read, and paths are compared without the repository's folder, `./` and pytest's `::test`. Two actions agree on files
if they name the same set; a step whose expert names none says nothing.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass

from env_server.schema import Action

_SUFFIXES = (
    "py pyi pyx md rst txt cfg toml ini in json ya?ml lock csv html css js ts sh c h cpp hpp patch diff ipynb po"
)
_FILE = re.compile(rf"(?<![\w./~-])[\w./~+-]*[\w+-]\.(?:{'|'.join(_SUFFIXES.split())})(?![\w/])")
_PATHS = ("path", "file_path", "file_name", "filename")
_HEREDOC = re.compile(r"(<<-?\s*['\"]?(\w+)['\"]?[^\n]*\n).*?(?:^\2$|\Z)", re.DOTALL | re.MULTILINE)
_ROOT = re.compile(r"\A/(?:testbed|workspace/[^/]+)/")
_CHANGE_DIR = re.compile(r"\A\s*cd \S+ && ")


@dataclass(frozen=True)
class Agreement:
    """One action beside the expert's."""

    exact: bool
    tool: bool
    file: bool | None
    """None where the expert's action names no file."""


def agreement(action: Action | None, expert: Action) -> Agreement:
    """`action` is None where the format was broken, which agrees in nothing."""
    wanted = files(expert)
    if action is None:
        return Agreement(False, False, False if wanted else None)
    return Agreement(
        exact=_bare(action) == _bare(expert),
        tool=action.name == expert.name,
        file=files(action) == wanted if wanted else None,
    )


def files(action: Action) -> frozenset[str]:
    """The files that an action names, relative to the repository."""
    found = [str(action.arguments[key]) for key in _PATHS if action.arguments.get(key)]
    command = action.arguments.get("command")
    if not found and isinstance(command, str):
        found = _FILE.findall(_HEREDOC.sub(r"\1", command))
    return frozenset(posixpath.normpath(_ROOT.sub("", path)) for path in found)


def _bare(action: Action) -> tuple[str, str]:
    """Name and arguments, a command without `cd X &&` and outer white space."""
    arguments = dict(action.arguments)
    if isinstance(arguments.get("command"), str):
        arguments["command"] = _CHANGE_DIR.sub("", arguments["command"]).strip()
    return action.name, json.dumps(arguments, sort_keys=True)
