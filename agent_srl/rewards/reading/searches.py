"""Searching in its dialects: text by a pattern, files by a name."""

from __future__ import annotations

import re
from dataclasses import replace

from agent_srl.rewards.reading.intents import Intent, Loss, places
from agent_srl.rewards.reading.options import read_options
from agent_srl.rewards.reading.shell import Command

_VALUES = frozenset(
    ["A", "B", "C", "m", "e", "g", "t", "T", "regexp", "include", "exclude", "exclude-dir", "glob", "type", "max-count"]
)
_INVERTED = frozenset(["v", "invert-match", "L", "files-without-match"])
_MEANT = frozenset(["l", "files-with-matches", "c", "count", "i", "ignore-case"])
_RECURSIVE = frozenset(["r", "R", "recursive"])
_NAME_TESTS = frozenset(["-name", "-iname", "-path", "-ipath", "-wholename", "-regex"])


def grep(command: Command, folder: str) -> list[Intent]:
    """grep, rg, ag, ack, git grep. Options that only alter the print (`-n`, `-A 5`) are left out."""
    name = command.words[0]
    words = [w for w in command.words[1:] if not re.fullmatch(r"-\d+", w)]
    options = read_options(words, _VALUES)
    given = options.values.get("e", []) + options.values.get("regexp", [])
    patterns = given or options.rest[:1]
    paths = options.rest if given else options.rest[1:]
    if "files" in options.flags:  # rg --files
        return [Intent("find", content=" ".join(options.values.get("g", [])), targets=places(options.rest, folder))]
    if not paths and (name != "grep" or options.flags & _RECURSIVE):
        paths = ["."]
    flags = frozenset(f"grep -{flag}" for flag in options.flags & _MEANT)
    pattern = pattern_text("|".join(patterns))
    verb = "not" if options.flags & _INVERTED else ""
    return [Intent("search", verb, places(paths, folder), pattern, flags=flags)]


def pattern_text(pattern: str) -> str:
    """A search pattern without what differs between dialects: escapes, word borders, kinds of space."""
    text = pattern.replace("\\|", "|").replace("\\b", "").replace("\\s*", " ").replace("\\s+", " ").replace("\\s", " ")
    return re.sub(r"\\(.)", r"\1", text).strip()


def file_pattern(pattern: str) -> str:
    """A pattern of file names without its stars."""
    return pattern.strip("*/ ").replace("*", " ")


def wanted_names(tests: list[str]) -> str:
    """The names that find's tests ask for, without those that they leave out."""
    around = zip(["", *tests], tests, tests[1:], [*tests[2:], ""], strict=False)
    return " ".join(
        file_pattern(value)
        for before, test, value, after in around
        if test in _NAME_TESTS and before not in ("-not", "!") and after != "-prune"
    )


def act_on(found: Intent, command: list[Intent]) -> Intent:
    """`find -exec COMMAND` and `| xargs COMMAND`: what the command does, on what was found."""
    if not command:
        return found
    does = command[0]
    everything = (Loss("*", True),)
    if does.kind in ("search", "test"):
        return replace(does, targets=found.targets)
    if does.kind == "run" and not does.losses:
        return does
    if does.kind in ("delete", "move"):
        return Intent("delete", targets=found.targets, content=found.content, losses=everything)
    if does.kind == "edit" or does.losses:
        lost = everything if does.losses else ()
        return replace(does, targets=found.targets, losses=lost)
    return found
