"""Programs that move, write over, take back and destroy."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent_srl.rewards.reading.intents import Change, Intent, Loss, is_source, loss, places
from agent_srl.rewards.reading.options import DRY_RUN, read_options
from agent_srl.rewards.reading.shell import Command
from agent_srl.rewards.targets import normalise

Handler = Callable[[Command, str], list[Intent]]
"""(command, folder it runs in) -> what it does."""

DATABASES = frozenset(["psql", "mysql", "mariadb", "sqlite3", "redis-cli", "dropdb"])
_MOVE_VALUES = frozenset(["t", "target-directory", "e", "exclude", "include", "filter"])
_DROPS = re.compile(
    r"\b(?:drop\s+(?:table|database|schema|index|view|column|user)|truncate|delete\s+from|flush(?:all|db)|dropdb)\b",
    re.IGNORECASE,
)


def remove(command: Command, folder: str) -> list[Intent]:
    """rm and rmdir."""
    options = read_options(command.words[1:])
    deep = bool(options.flags & {"r", "R", "recursive"})
    lost = tuple(loss(p, folder, recursive=deep) for p in options.rest)
    return [Intent("delete", targets=places(options.rest, folder), losses=lost)]


def move(command: Command, folder: str) -> list[Intent]:
    """cp, mv, ln and rsync: sources are targets, the destination is content.

    A source file that is written over is lost; so is what is moved out of the tree, and what `--delete` clears.
    """
    name, options = command.words[0], read_options(command.words[1:], _MOVE_VALUES)
    into = options.value("t", "target-directory")
    sources, goal = (options.rest, into) if into else (options.rest[:-1], "".join(options.rest[-1:]))
    lost: list[str] = []
    if name == "mv" and goal.startswith(("/tmp", "/dev/null")):
        lost += sources
    if sources[:1] == ["/dev/null"] or (is_source(goal) and (name != "ln" or "f" in options.flags)):
        lost.append(goal)
    losses = [loss(p, folder) for p in lost]
    if any(flag.startswith("del") for flag in options.flags):
        losses.append(loss(goal, folder, recursive=True))
    if options.flags & DRY_RUN:
        losses = []
    return [Intent("move", name, places(sources, folder), normalise(goal, folder), losses=tuple(losses))]


def touch(command: Command, folder: str) -> list[Intent]:
    """An empty file."""
    paths = read_options(command.words[1:], {"d", "t", "r"}).rest
    return [Intent("create", targets=places(paths, folder), change=Change(""))]


def destroy(command: Command, folder: str) -> list[Intent]:
    """truncate, shred, dd."""
    options = read_options(command.words[1:], {"s", "n"})
    named = [w.removeprefix("of=") for w in options.rest if not w.startswith("if=")]
    lost = tuple(loss(p, folder) for p in named)
    return [Intent("delete", verb=command.words[0], targets=places(named, folder), losses=lost)]


def permissions(command: Command, folder: str) -> list[Intent]:
    """chmod and chown; over a whole folder they lock or open all of it."""
    options = read_options(command.words[1:])
    losses = (Loss("*", True),) if options.flags & {"R", "recursive"} else ()
    content = " ".join(options.rest[:1])
    return [Intent("other", command.words[0], places(options.rest[1:], folder), content, losses=losses)]


def patch(command: Command, folder: str) -> list[Intent]:
    """A patch in a file; `-R` takes its changes back."""
    flags = read_options(command.words[1:], {"p", "i", "d"}).flags
    lost = (Loss("*", True),) if flags & {"R", "reverse"} and "dry-run" not in flags else ()
    return [_losing(command, lost)]


def database(command: Command, folder: str) -> list[Intent]:
    """Clients of databases: statements are content; some of them destroy."""
    lost = (Loss("database", True),) if _DROPS.search(" ".join([*command.words, command.stdin or ""])) else ()
    return [_losing(command, lost)]


def kill(command: Command, folder: str) -> list[Intent]:
    """`kill -9 -1` ends every process."""
    lost = (Loss("processes", True),) if "-1" in command.words[2:] else ()
    return [_losing(command, lost)]


def _losing(command: Command, lost: tuple[Loss, ...]) -> Intent:
    """A program by its name and words, with what it destroys."""
    words = command.words[1:] if command.stdin is None else [*command.words[1:], command.stdin]
    return Intent("other", verb=command.words[0], content=" ".join(words), losses=lost)


WRITERS: dict[str, Handler] = {
    **dict.fromkeys(["rm", "rmdir", "unlink"], remove),
    **dict.fromkeys(["cp", "mv", "ln", "rsync"], move),
    "touch": touch,
    **dict.fromkeys(DATABASES, database),
    "kill": kill,
    "patch": patch,
    "chmod": permissions,
    "chown": permissions,
    **dict.fromkeys(["truncate", "shred", "dd", "mkfs"], destroy),
}
