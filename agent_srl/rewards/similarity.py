"""The training default: 2M/T over matching blocks of the bare calls (arXiv 2510.25992, section 4.2).

The wrapper is gone before anything is compared: on wrapped calls `ls` scores 0.68 against a pytest command. The
matcher's `autojunk` is off: with it, near-identical texts of a thousand characters score 0.07. Left out: structure.
Paths, flags and arguments are compared as characters.
"""

from __future__ import annotations

import re

from agent_srl.rewards.blocks import matches
from env_server.schema import Action

INVALID_REWARD = -1.0
"""Of a reply with a broken format (section 4.2)."""

MAX_CHARS = 4000
"""Longer calls are compared by their beginnings: matching is quadratic."""

_CHANGE_DIR = re.compile(r"^cd \S+ && ")


def bare_call(action: Action) -> str:
    """The text that is compared: a command of any tool without a leading `cd X &&`; an edit as sub-command, path, then
    its texts in the order in which they were given."""
    arguments = dict(action.arguments)
    if "command" in arguments:
        arguments["command"] = _CHANGE_DIR.sub("", str(arguments["command"]))
    if action.name == "bash":
        return str(arguments.get("command", ""))
    if not arguments:
        return action.name
    first = " ".join(str(arguments.pop(key)) for key in ("command", "path") if key in arguments)
    return "\n".join([first, *map(str, arguments.values())] if first else map(str, arguments.values()))


def ratio(left: str, right: str) -> float:
    """2M/T in [0, 1], as CPython's difflib gives it with autojunk=False, on the first `MAX_CHARS` of each.

    Not symmetric: matching blocks depend on the order of the arguments.
    """
    left, right = left[:MAX_CHARS], right[:MAX_CHARS]
    return 1.0 if left == right else 2.0 * matches(left, right) / (len(left) + len(right))
