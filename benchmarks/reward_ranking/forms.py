"""The few forms of real actions that the rules rewrite: what an action looks at, runs or changes, and how it is
written.

A form is recognised only where the whole command matches it; anything else has no form and no rule touches it. This
is no shell parser, on purpose: a rule that rewrites what it does not fully understand makes doubtful pairs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from env_server.schema import Action

SHELL_TOOLS = ("bash", "execute_bash", "run", "execute", "terminal")
EDITORS = ("str_replace_editor", "str_replace_based_edit_tool", "edit_anthropic")

WORD = r"""(?:[^\s"'\\|;&<>()$`]|\\.|"(?:[^"\\$`]|\\[^$`])*"|'[^']*')+"""
PATH = r"[\w./+-]*\w/?"
_WORDS = re.compile(rf"{WORD}(?: +{WORD})*")
_PREFIX = re.compile(r"\A(?:cd \S+ && )?")
_TAIL = re.compile(r"(?: 2>&1)?(?: \| (?:head|tail) (?:-n ?)?-?\d+)?\Z")
_RANGE = re.compile(rf"(?:(nl -ba|cat -n|cat) ({PATH}) \| )?sed -n ['\"](\d+)(?:,(\d+))?p['\"](?: ({PATH}))?")
_WHOLE = re.compile(rf"(?:cat|cat -n|nl -ba) ({PATH})")
_HEAD = re.compile(rf"head (?:-n ?|-)(\d+) ({PATH})")
_PIPED_SEARCH = re.compile(rf"(?:cat|nl -ba) ({PATH}) \| grep (.+)")
_SUBSTITUTE = re.compile(rf"sed -i (?:-e )?'(\d*)s([/|#])((?:(?!\2).)+)\2((?:(?!\2).)*)\2(g?)' ({PATH})")
_DELETE = re.compile(rf"sed -i '(\d+)(?:,(\d+))?d' ({PATH})")
_HEREDOC = re.compile(rf"cat (?:<< ?'?EOF'? ?> ?({PATH})|> ?({PATH}) ?<< ?'?EOF'?)\n(.*)\nEOF\s*", re.DOTALL)
_WINDOW = re.compile(r"edit (\d+):(\d+)\n(.*)\nend_of_edit\s*", re.DOTALL)
_SEARCH_VALUES = re.compile(r"-\w*[ABCm]|--(?:include|exclude|exclude-dir)")
_TEST_FLAG = re.compile(r"-[vqxs]+|-r\w+|--[\w-]+=\S+")
"""Flags that take no further word."""


@dataclass(frozen=True)
class View:
    """Looking at a file; `first` is None for the whole of it."""

    path: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True)
class Search:
    """grep: raw words, quotes kept."""

    flags: tuple[str, ...]
    pattern: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A script run by Python."""

    interpreter: str
    path: str
    rest: tuple[str, ...]


@dataclass(frozen=True)
class Tests:
    """A test runner, its flags and what it runs."""

    runner: str
    flags: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class ListDir:
    """ls: flags and one folder."""

    flags: str
    path: str


@dataclass(frozen=True)
class Substitute:
    """sed -i, one expression."""

    line: str
    delimiter: str
    old: str
    new: str
    flags: str
    path: str


@dataclass(frozen=True)
class Delete:
    """sed -i, lines deleted."""

    first: int
    last: int
    path: str


@dataclass(frozen=True)
class Write:
    """A file written whole."""

    path: str
    text: str


@dataclass(frozen=True)
class Replace:
    """An editor's exchange of one text for another."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Window:
    """SWE-agent's windowed edit: lines of the open file exchanged for a text."""

    first: int
    last: int
    text: str


Form = View | Search | Run | Tests | ListDir | Substitute | Delete | Write | Replace | Window


@dataclass(frozen=True)
class Call:
    """An action taken apart. For a shell command, `prefix + body + tail` is the command."""

    action: Action
    form: Form | None
    body: str = ""
    prefix: str = ""
    tail: str = ""

    @property
    def is_shell(self) -> bool:
        return bool(self.body)

    def say(self, body: str, *, prefix: str | None = None, tail: str | None = None) -> Action:
        """The same tool with another command."""
        before = self.prefix if prefix is None else prefix
        return self.shell(before + body + (self.tail if tail is None else tail))

    def shell(self, command: str) -> Action:
        """The same tool with this whole command; `bash` where the tool is no shell."""
        name = self.action.name if self.is_shell else "bash"
        return Action(name=name, arguments={**(self.action.arguments if self.is_shell else {}), "command": command})

    def edited(self, **changes: Any) -> Action:
        """The same tool with some arguments changed."""
        return Action(name=self.action.name, arguments={**self.action.arguments, **changes})


def take_apart(action: Action) -> Call:
    """Any action; `form` is None where it matches none of the forms."""
    command = action.arguments.get("command")
    if action.name in SHELL_TOOLS and isinstance(command, str) and command.strip():
        prefix = _PREFIX.match(command)[0]  # type: ignore[index]
        rest = command[len(prefix) :]
        found = _TAIL.search(rest) if "\n" not in rest else None
        tail = found[0] if found else ""
        body = rest[: len(rest) - len(tail)]
        return Call(action, _shell_form(body), body, prefix, tail)
    if action.name in EDITORS:
        return Call(action, _editor_form(action.arguments))
    return Call(action, None)


def raw_words(body: str) -> list[str] | None:
    """Words of one simple command, quotes kept; None where there is any pipe, list, redirection or expansion."""
    return re.findall(WORD, body) if _WORDS.fullmatch(body) else None


def unquoted(word: str) -> str:
    return "".join(shlex.split(word))


def _shell_form(body: str) -> Form | None:
    if found := _RANGE.fullmatch(body):
        path = found[2] or found[5]
        return View(path, int(found[3]), int(found[4] or found[3])) if path and not (found[2] and found[5]) else None
    if found := _WHOLE.fullmatch(body):
        return View(found[1])
    if found := _HEAD.fullmatch(body):
        return View(found[2], 1, int(found[1]))
    if found := _SUBSTITUTE.fullmatch(body):
        return Substitute(*found.groups())
    if found := _DELETE.fullmatch(body):
        return Delete(int(found[1]), int(found[2] or found[1]), found[3])
    if found := _HEREDOC.fullmatch(body):
        expands = "'EOF'" not in body and re.search(r"[$`\\]", found[3])
        return None if expands else Write(found[1] or found[2], found[3])
    if found := _WINDOW.fullmatch(body):
        return Window(int(found[1]), int(found[2]), found[3])
    if found := _PIPED_SEARCH.fullmatch(body):
        return _search(raw_words(found[2]) or [], found[1])
    words = raw_words(body)
    return _simple_form(words) if words else None


def _simple_form(words: list[str]) -> Form | None:
    head, *rest = words
    if head == "grep":
        return _search(rest)
    if head == "ls" and len(rest) == 2 and rest[0].startswith("-"):
        return ListDir(*rest)
    if head in ("python", "python3") and rest[:2] == ["-m", "pytest"]:
        return _tests(f"{head} -m pytest", rest[2:])
    if head in ("pytest", "./tests/runtests.py", "bin/test", "./bin/test"):
        return _tests(head, rest)
    if head in ("python", "python3") and rest and re.fullmatch(rf"{PATH}\.py", rest[0]):
        return (
            _tests(f"{head} {rest[0]}", rest[1:])
            if rest[0].endswith("runtests.py")
            else Run(head, rest[0], tuple(rest[1:]))
        )
    return None


def _search(words: list[str], piped_from: str = "") -> Search | None:
    flags: list[str] = []
    plain: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("-") and _SEARCH_VALUES.fullmatch(word) and words:
            flags.append(f"{word} {words.pop(0)}")
        elif word.startswith("-"):
            flags.append(word)
        else:
            plain.append(word)
    if piped_from:
        plain.append(piped_from)
    if len(plain) < 2 or any(f.startswith(("-e", "-f")) for f in flags):
        return None
    return Search(tuple(flags), plain[0], tuple(plain[1:]))


def _tests(runner: str, words: list[str]) -> Tests | None:
    flags = tuple(w for w in words if w.startswith("-"))
    targets = tuple(w for w in words if not w.startswith("-"))
    return Tests(runner, flags, targets) if targets and all(map(_TEST_FLAG.fullmatch, flags)) else None


def _editor_form(arguments: dict[str, Any]) -> Form | None:
    path = arguments.get("path")
    if not isinstance(path, str) or not path:
        return None
    match arguments.get("command"):
        case "view":
            return _editor_view(path, arguments.get("view_range"))
        case "create" if isinstance(arguments.get("file_text"), str):
            return Write(path, arguments["file_text"])
        case "str_replace" if isinstance(arguments.get("old_str"), str) and arguments["old_str"].strip():
            return Replace(path, arguments["old_str"], str(arguments.get("new_str", "")))
    return None


def _editor_view(path: str, view_range: Any) -> View | None:
    """XML calls hold the range as text, native calls as a list."""
    if view_range in (None, ""):
        return View(path)
    numbers = re.fullmatch(r"\[([1-9]\d*), ?(\d+)\]", str(view_range))
    return View(path, int(numbers[1]), int(numbers[2])) if numbers else None
