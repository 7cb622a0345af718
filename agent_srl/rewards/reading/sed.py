"""sed scripts: the lines they print, the changes they make. Only what agents write: addresses, p, d, s, i, a, c."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent_srl.rewards.reading.intents import Change

_ADDRESS = r"(?:\d+|\$|/(?:\\.|[^/\\])*/)"
_COMMAND = re.compile(rf"\s*({_ADDRESS})?(?:\s*,\s*(\+?\d+|{_ADDRESS}))?\s*(!?)\s*([a-zA-Z])", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t"}
_MAX_COMMANDS = 50


@dataclass(frozen=True)
class SedCommand:
    """One command of a script."""

    letter: str
    first: int | None = None
    last: int | None = None
    pattern: str = ""
    """An address that is a regular expression."""
    old: str = ""
    new: str = ""

    def change(self) -> Change | None:
        """What the command does to a file that it edits in place."""
        match self.letter:
            case "s":
                return Change(self.new, "" if self.old in ("$", "^") else self.old, self.first, self.last)
            case "d" | "c":
                return Change(self.new, self.pattern or None, self.first, self.last)
            case "i" | "a" if self.pattern:
                lines = (self.new, self.pattern) if self.letter == "i" else (self.pattern, self.new)
                return Change("\n".join(lines), self.pattern)
            case "i" | "a":
                line = None if self.first is None else self.first + (self.letter == "a")
                return Change(self.new, None, line, line)
        return None

    @property
    def reach(self) -> str:
        """How far a replacement goes: told from others of sed alone, as an editor replaces the one place it finds."""
        return "" if self.letter != "s" else "all lines" if self.everything else "some lines"

    @property
    def everything(self) -> bool:
        """Whether it acts on every line."""
        return not self.pattern and self.first in (None, 1) and self.last is None


def read_sed(script: str) -> list[SedCommand]:
    """The commands of a script; reading stops where it is not understood."""
    found: list[SedCommand] = []
    at = 0
    while len(found) < _MAX_COMMANDS:
        match = _COMMAND.match(script, at)
        if match is None:
            break
        start, end, _, letter = match.groups()
        first, last = _lines(start, end)
        pattern = start[1:-1] if start and start.startswith("/") else ""
        old, new, at = _body(script, match.end(), letter)
        found.append(SedCommand(letter, first, last, plain(pattern), old, new))
        rest = re.compile(r"[\s;}{]*").match(script, at)
        at = rest.end() if rest else at
    return found


def plain(pattern: str) -> str:
    """A regular expression as the text that it finds, roughly: escapes undone."""
    return _ESCAPE.sub(lambda m: _LETTERS.get(m[1], m[1]), pattern.removeprefix("^"))


def _lines(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    first = int(start) if start and start.isdigit() else (-1 if start == "$" else None)
    if end is None:
        return first, first
    if end.startswith("+"):
        return first, first + int(end[1:]) if first is not None else None
    return first, int(end) if end.isdigit() else None


def _body(script: str, at: int, letter: str) -> tuple[str, str, int]:
    """(old, new, where the next command begins)."""
    if letter in "iac":
        text = script[at:].lstrip(" \t")
        text = text[2:] if text.startswith("\\\n") else text.removeprefix("\\")
        return "", _ESCAPE.sub(lambda m: _LETTERS.get(m[1], m[1]), text), len(script)
    if letter != "s" or at >= len(script):
        return "", "", at
    parts = _delimited(script, at)
    end = at + 1 + sum(len(part) + 1 for part in parts)
    flags = re.compile(r"[gipIeEmM\d]*").match(script, end)
    return plain(parts[0]), plain(parts[1]) if len(parts) > 1 else "", flags.end() if flags else end


def _delimited(script: str, at: int) -> list[str]:
    """Both parts of `s/old/new/`, for any delimiter."""
    mark, current, i = script[at], at + 1, at + 1
    parts: list[str] = []
    while i < len(script) and len(parts) < 2:
        if script[i] == "\\":
            i += 1
        elif script[i] == mark:
            parts.append(script[current:i])
            current = i + 1
        i += 1
    return parts if len(parts) == 2 else [*parts, script[current:]]
