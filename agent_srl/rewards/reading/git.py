"""git: looking, recording, and throwing work away."""

from __future__ import annotations

import re

from agent_srl.rewards.reading.intents import Intent, Loss, loss, places
from agent_srl.rewards.reading.options import DRY_RUN, HELP, read_options
from agent_srl.rewards.reading.patches import patch_edits
from agent_srl.rewards.reading.searches import file_pattern, grep, pattern_text
from agent_srl.rewards.reading.shell import Command
from agent_srl.rewards.reading.writers import move

_VALUED = frozenset(["m", "C", "c", "L", "S", "G", "format", "pretty", "author", "since"])
_LOGS = frozenset(["log", "show", "shortlog", "reflog", "format-patch"])
"""Where `-n COUNT` is a number of commits; elsewhere `-n` is a rehearsal."""
_SHOWN_ALIKE = frozenset(["no-pager", "color", "no-color", "p", "u", "patch", "stat", "oneline", "q", "quiet", "v"])
_STASHES = frozenset(["push", "save", "drop", "clear", "-u", "-q", "-a", "--all", "--include-untracked"])


def git(command: Command, folder: str) -> list[Intent]:
    """What a git command does: sub-commands are verbs, paths are targets, the rest is content."""
    words = command.words[1:]
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-C", "-c") else words[1:]
    verb, rest = (words[0], words[1:]) if words else ("", [])
    match verb:
        case "grep":
            return grep(Command(["git-grep", *rest]), folder)
        case "mv":
            return move(Command(["mv", *rest]), folder)
        case "ls-files":
            names = file_pattern(" ".join(rest))
            return [Intent("list", targets=places(["."], folder), content=names, flags=frozenset(["deep"]))]
        case "apply" | "am" if command.stdin and not {"-R", "--reverse"} & set(rest):
            return patch_edits(command.stdin, folder)
    if verb in _LOGS:
        rest = [re.sub(r"^-(\d+)$", r"-n\1", word) for word in rest]
    options = read_options(rest, _VALUED | {"n"} if verb in _LOGS else _VALUED)
    paths = [w for w in options.rest if _is_path(w)]
    count = options.values.pop("n", [])
    named = [w for w in options.rest if w not in paths] + [v for vs in options.values.values() for v in vs]
    flags = frozenset(f"git {f}" for f in (options.flags - _SHOWN_ALIKE) | {f"-n {n}" for n in count})
    if HELP & set(rest):
        return [Intent("other", verb="git --help")]
    losses = _losses(verb, rest, paths, options.flags, folder)
    content = pattern_text(" ".join(named))
    kind = "restore" if losses else "vcs"
    if verb == "restore" and losses:  # the newer name
        verb = "checkout"
    return [Intent(kind, verb, places(paths, folder), content, flags=flags, losses=losses)]


def _is_path(word: str) -> bool:
    if word in (".", "{}") or "/" in word.removeprefix("origin/"):
        return True
    return "." in word and ".." not in word and not word[0].isdigit()


def _losses(verb: str, words: list[str], paths: list[str], flags: set[str], folder: str) -> tuple[Loss, ...]:
    """What is thrown away: uncommitted changes, untracked files, commits."""
    everything = (Loss("*", True),)
    if flags & DRY_RUN:
        return ()
    match verb:
        case "checkout" if not flags & {"b", "B"}:
            return everything if "f" in flags and not paths else tuple(loss(p, folder) for p in paths)
        case "restore" if "staged" not in flags:
            return tuple(loss(p, folder) for p in paths)
        case "reset" if flags & {"hard", "merge"}:
            return everything
        case "clean":
            return everything
        case "apply" if flags & {"R", "reverse"}:
            return everything
        case "stash" if not words or words[0] in _STASHES:
            return everything
        case "rm" if "cached" not in flags:
            return tuple(loss(p, folder, recursive="r" in flags) for p in paths)
        case "push" | "branch" if flags & {"f", "force", "D"}:
            return everything
    return ()
