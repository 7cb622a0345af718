"""What an action is for, whatever tool says it: kind, places, content. Actions are compared as these."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agent_srl.rewards.targets import Target, normalise

SCRATCH = (
    "repro",
    "debug",
    "verify",
    "tmp",
    "temp",
    "scratch",
    "demo",
    "check_",
    "inspect",
    "test_fix",
    "test_issue",
    "/tmp",
)
"""Beginnings of names that agents give to files of their own."""

_SOURCE = re.compile(r"\.(?:py|pyx|pyi|c|h|cc|cpp|hpp|js|jsx|ts|tsx|java|go|rs|rb|php|toml|cfg|ini|yaml|yml)$")


@dataclass(frozen=True)
class Change:
    """A change of a file's text."""

    new: str
    old: str | None = None
    """The text that is replaced, with whatever context the tool wanted; None where lines alone say the place."""
    first: int | None = None
    last: int | None = None
    """Lines that are replaced; an insertion takes the number of the line that it becomes."""
    at_end: bool = False


@dataclass(frozen=True)
class Loss:
    """Work that an action destroys: deleted, reset or overwritten."""

    path: str
    broad: bool
    """More than one named file."""


@dataclass(frozen=True)
class Intent:
    """One thing that an action does."""

    kind: str
    """A key of `structured.RULES`."""
    verb: str = ""
    """The program or sub-command, where another one of the same kind does another thing."""
    targets: tuple[Target, ...] = ()
    content: str = ""
    """A pattern, code, arguments or packages."""
    change: Change | None = None
    flags: frozenset[str] = frozenset()
    """Options that alter what is done; those that only alter the print are left out."""
    losses: tuple[Loss, ...] = ()
    weight: float = 1.0


def place(path: str, folder: str = "", first: int | None = None, last: int | None = None) -> Target:
    """A target with its path normalised."""
    return Target(normalise(path, folder), first, last)


def places(paths: Iterable[str], folder: str = "") -> tuple[Target, ...]:
    """Targets of whole files or folders."""
    return tuple(place(path, folder) for path in paths)


def loss(path: str, folder: str = "", *, recursive: bool = False) -> Loss:
    """The loss of a path; broad for folders, patterns and the root."""
    path = normalise(path, folder)
    return Loss(path, recursive or path in (".", "/", "..", "~") or "*" in path or "$" in path)


def is_source(path: str) -> bool:
    """A file of the tree that is work, by its name: what is written over it destroys it."""
    return _SOURCE.search(path) is not None and not is_scratch(path)


def is_scratch(path: str) -> bool:
    """A file that an agent made for itself, by its name."""
    return path.startswith("/tmp") or path.rsplit("/", 1)[-1].startswith(SCRATCH)
