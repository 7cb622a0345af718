"""Options of a command line, told from its other words."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

DRY_RUN = frozenset(["n", "dry-run"])
"""Of programs that take these for a rehearsal, which destroys nothing."""

HELP = frozenset(["--help", "--version"])
"""With one of these a program does nothing else."""


@dataclass
class Options:
    """Options without values, options with values, and the words that are neither."""

    flags: set[str] = field(default_factory=set)
    """Single letters and long names, without dashes."""
    values: dict[str, list[str]] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    def value(self, *names: str) -> str | None:
        """The last value given under any of the names."""
        found = [v for name in names for v in self.values.get(name, ())]
        return found[-1] if found else None


def read_options(words: list[str], valued: Container[str] = (), *, clustered: bool = True) -> Options:
    """Options as getopt reads them: `-rn` is `-r -n`, `-A3` and `-A 3` are one where `valued` holds `A`."""
    found, i = Options(), 0
    while i < len(words):
        current, i = words[i], i + 1
        if current == "--":
            found.rest += words[i:]
            break
        if not current.startswith("-") or current == "-":
            found.rest.append(current)
            continue
        name, equals, value = current.lstrip("-").partition("=")
        short = clustered and not current.startswith("--")
        if short and name and not name[0].isdigit():
            name, value = _cluster(found, current[1:], valued)
            equals = value
        if not name:
            continue
        if name in valued and not equals:
            value, i = (words[i] if i < len(words) else ""), i + 1
            equals = "="
        if equals:
            found.values.setdefault(name, []).append(value)
        else:
            found.flags.add(name)
    return found


def _cluster(found: Options, letters: str, valued: Container[str]) -> tuple[str, str]:
    """Takes single letters up to the first that has a value, which is returned with what follows it."""
    for place, letter in enumerate(letters):
        if letter in valued:
            return letter, letters[place + 1 :]
        found.flags.add(letter)
    return "", ""
