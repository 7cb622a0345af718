"""What the programs of a shell mean: a simple command becomes intents.

One short function per family of programs; `PROGRAMS` is the table. A program that is not in it is of kind `other`,
compared by its name and words. An empty list means that the command does nothing that counts (`cd`, `echo`, `true`).
"""

from __future__ import annotations

import re

from agent_srl.rewards.reading.intents import Change, Intent, Loss, loss, place, places
from agent_srl.rewards.reading.options import HELP, read_options
from agent_srl.rewards.reading.searches import grep, wanted_names
from agent_srl.rewards.reading.sed import SedCommand, read_sed
from agent_srl.rewards.reading.shell import Command
from agent_srl.rewards.reading.writers import WRITERS, Handler
from agent_srl.rewards.targets import Target

_VIEW_VALUES = {"head": frozenset("nc"), "tail": frozenset("nc"), "nl": frozenset("bvws")}
_LEFT_OUT = ("ignore", "ignore-glob", "deselect")
_TEST_VALUES = frozenset(
    ["k", "m", "p", "n", "c", "o", "W", "e", "maxfail", "tb", "rootdir", "settings", "parallel", "verbosity"]
).union(_LEFT_OUT)
_NEGATED = re.compile(r"\bnot\s+([\w.]+)")
_NOT_RUN = frozenset(["collect-only", "co", "collectonly", "setup-plan", "fixtures", "markers", "h", "listTests"])
_SCRIPTED = frozenset(["npm", "yarn", "pnpm"])


def understand(command: Command, folder: str) -> list[Intent]:
    """What one command does in a folder."""
    if not command.words or command.words[0].startswith("-"):
        return []
    name = command.words[0].rsplit("/", 1)[-1]
    handler = PROGRAMS.get(name)
    if handler is None:
        return other(command, folder)
    if handler is not grep and HELP & set(command.words):
        return [Intent("other", verb=f"{name} --help")]
    return handler(Command([name, *command.words[1:]], command.writes, command.stdin), folder)


def view(command: Command, folder: str) -> list[Intent]:
    """cat, nl, less, head, tail and their like."""
    name = command.words[0]
    counts = [w for w in command.words[1:] if re.fullmatch(r"-\d+", w)]
    options = read_options([w for w in command.words[1:] if w not in counts], _VIEW_VALUES.get(name, frozenset()))
    first, last = None, None
    if name in ("head", "tail"):
        first, last = _ends(name, options.value("n", "lines") or (counts[-1][1:] if counts else "10"))
    if command.stdin is not None and not options.rest:
        return []
    if not options.rest:
        return [Intent("view")]
    return [Intent("view", targets=(place(path, folder, first, last),)) for path in options.rest]


def count(command: Command, folder: str) -> list[Intent]:
    """wc: like `cat FILE | wc`."""
    paths = read_options(command.words[1:]).rest
    return [Intent("view", targets=places(paths, folder), flags=frozenset(["| wc"]))]


def _ends(program: str, count: str) -> tuple[int | None, int | None]:
    """The lines that `head -n COUNT` or `tail -n COUNT` prints."""
    number = re.fullmatch(r"([+-]?)(\d{1,9})", count)
    if number is None:
        return None, None
    n = max(1, int(number[2]))
    if program == "head":
        return (None, None) if number[1] == "-" else (1, n)
    return (n, None) if number[1] == "+" else (-n, None)


def sed(command: Command, folder: str) -> list[Intent]:
    """Printing lines is a view, or a search where a pattern picks them; `-i` is one edit per command and file."""
    words = ["-i" if re.match(r"-[nErs]*i", w) else w for w in command.words[1:]]
    options = read_options(words, {"e", "f", "expression"})
    scripts = [*options.values.get("e", ()), *options.values.get("expression", ())]
    script = "\n".join(scripts) if scripts else "".join(options.rest[:1])
    paths = options.rest if scripts else options.rest[1:]
    commands = read_sed(script)
    if "i" in options.flags or "in-place" in options.flags:
        changes = [(c.reach, c.change()) for c in commands] or [("", Change(script))]
        lost = any(c.letter == "d" and c.everything for c in commands)
        losses = tuple(loss(p, folder) for p in paths) if lost else ()
        return [
            Intent("edit", reach, places([p], folder), change=c, losses=losses)
            for p in paths
            for reach, c in changes
            if c is not None
        ]
    return [_sed_print(commands, paths, folder)]


def _sed_print(commands: list[SedCommand], paths: list[str], folder: str) -> Intent:
    printed = [c for c in commands if c.letter == "p"]
    pattern = " ".join(c.pattern for c in printed if c.pattern)
    if pattern:
        return Intent("search", content=pattern, targets=places(paths, folder))
    ranges = [(c.first, c.last) for c in printed] or [(None, None)]
    replaced = " ".join(f"{c.old} {c.new}" for c in commands if c.letter == "s")
    return Intent("view", content=replaced, targets=tuple(place(p, folder, a, b) for p in paths for a, b in ranges))


def awk(command: Command, folder: str) -> list[Intent]:
    """A range of NR is a view of it; anything else a view by its program."""
    options = read_options(command.words[1:], {"F", "v", "f"})
    program, paths = "".join(options.rest[:1]), options.rest[1:]
    numbers = [int(n) for n in re.findall(r"NR\s*[<>=]=?\s*(\d{1,9})", program)]
    if numbers:
        return [Intent("view", targets=tuple(place(p, folder, min(numbers), max(numbers)) for p in paths))]
    return [Intent("view", content=program, targets=places(paths, folder))]


def find(command: Command, folder: str) -> list[Intent]:
    """find and fd: files by name; with `-delete` they are gone."""
    words = command.words[1:]
    cut = next((i for i, w in enumerate(words) if w.startswith(("-", "(", "!"))), len(words))
    targets, tests = places(words[:cut] or ["."], folder), words[cut:]
    names = wanted_names(tests)
    found = Intent("find" if names else "list", targets=targets, content=names)
    if "-delete" in tests:
        return [Intent("delete", targets=targets, content=names, losses=(Loss("*", True),))]
    return [found]


def list_(command: Command, folder: str) -> list[Intent]:
    """ls and tree."""
    options = read_options(command.words[1:], {"L", "I", "P"} if command.words[0] == "tree" else ())
    deep = command.words[0] == "tree" or "R" in options.flags
    return [Intent("list", targets=places(options.rest or ["."], folder), flags=frozenset(["deep"] if deep else []))]


def diff(command: Command, folder: str) -> list[Intent]:
    """Two files, in their order."""
    return [Intent("other", "diff", places(read_options(command.words[1:], {"U", "x"}).rest, folder))]


def install(command: Command, folder: str) -> list[Intent]:
    """pip, conda, apt, npm: installing is one kind whoever does it; asking (`pip show`) is another."""
    words = [w for w in command.words[1:] if not w.startswith("-")]
    if command.words[0] in _SCRIPTED and words[:1] in (["run"], ["run-script"]):
        words = words[1:]
    action = words[0] if words else ""
    if command.words[0] in _SCRIPTED and re.match(r"test\b|t$", action):
        return [Intent("test", verb="npm", content=" ".join([*re.findall(r":(.*)", action), *words[1:]]))]
    if action == "activate":
        return []
    if action in ("uninstall", "remove"):
        lost = tuple(Loss(f"package {name}", False) for name in words[1:])
        return [Intent("delete", verb="package", content=" ".join(words[1:]), losses=lost)]
    if action in ("install", "add", "ci", "develop", "sync"):
        return [Intent("install", content=" ".join(words[1:]))]
    return [Intent("other", verb=f"{command.words[0].rstrip('3')} {action}", content=" ".join(words[1:]))]


def tests(runner: str) -> Handler:
    """A runner of tests: places are files, labels and nodes; `-k` is content."""

    def run_tests(command: Command, folder: str) -> list[Intent]:
        options = read_options(command.words[1:], _TEST_VALUES, clustered=runner == "pytest")
        picked = [_NEGATED.sub(_negated, v) for name in ("k", "m", "e") for v in options.values.get(name, ())]
        picked += [_negated(v) for name in _LEFT_OUT for v in options.values.get(name, ())]
        labels = [w for w in options.rest if not w.isdigit() and w not in ("test", "discover")]
        targets = tuple(_test_target(label, folder) for label in labels)
        if options.flags & _NOT_RUN:
            return [Intent("list", verb="tests", targets=targets, content=" ".join(picked))]
        return [Intent("test", verb=runner, targets=targets, content=" ".join(picked))]

    return run_tests


def _negated(name: re.Match[str] | str) -> str:
    """One word for a name that is left out, which has nothing in common with the name."""
    return "not" + re.sub(r"\W|_", "", name if isinstance(name, str) else name[1]).lower()


def _test_target(label: str, folder: str) -> Target:
    """`path::Class::test`, or a dotted label whose capitalised part is a class."""
    path, _, symbol = label.partition("::")
    if "/" not in path and not path.endswith((".py", ".js", ".ts", ".go", ".rs")) and "." in path.strip("."):
        parts = path.split(".")
        cut = next((i for i, part in enumerate(parts) if part[:1].isupper()), len(parts))
        path, symbol = "/".join(parts[:cut]), "::".join(parts[cut:])
        path += ".py" if parts[cut - 1].startswith("test") and cut else ""
    return Target(place(path, folder).path, symbol=re.sub(r"\[.*", "", symbol))


def other(command: Command, folder: str) -> list[Intent]:
    """Any program: a script of the tree is run, the rest is compared by name and words."""
    name, words = command.words[0], command.words[1:]
    content = " ".join(words if command.stdin is None else [*words, command.stdin])
    if "/" in name or name.endswith((".py", ".sh")):
        return [Intent("run", targets=places([name], folder), content=content)]
    return [Intent("other", verb=name, content=content)]


def nothing(command: Command, folder: str) -> list[Intent]:
    """What changes and shows nothing of the tree."""
    return []


def submit(command: Command, folder: str) -> list[Intent]:
    """The end of an episode."""
    return [Intent("submit")]


PROGRAMS: dict[str, Handler] = {
    **WRITERS,
    **dict.fromkeys(["cat", "nl", "head", "tail", "less", "more", "bat", "batcat"], view),
    **dict.fromkeys(["grep", "egrep", "fgrep", "zgrep", "rg", "ag", "ack"], grep),
    **dict.fromkeys(["find", "fd", "fdfind"], find),
    **dict.fromkeys(["ls", "tree", "dir", "exa"], list_),
    **dict.fromkeys(["sed", "gsed"], sed),
    **dict.fromkeys(["awk", "gawk", "mawk"], awk),
    **dict.fromkeys(["diff", "cmp"], diff),
    "wc": count,
    **dict.fromkeys(
        ["pip", "pip3", "conda", "mamba", "apt", "apt-get", "npm", "yarn", "pnpm", "uv", "poetry", "brew"], install
    ),
    **{name: tests(name) for name in ["tox", "nosetests", "nose2", "unittest", "nox", "ctest"]},
    **dict.fromkeys(["pytest", "py.test"], tests("pytest")),
    "runtests.py": tests("runtests"),
    "test": tests("bin/test"),
    **dict.fromkeys(
        [
            "echo",
            "printf",
            "true",
            "false",
            ":",
            "cd",
            "pushd",
            "popd",
            "export",
            "set",
            "unset",
            "source",
            ".",
            "sleep",
            "clear",
        ],
        nothing,
    ),
    **dict.fromkeys(["wait", "exit", "shopt", "alias", "[", "[[", "pwd", "date"], nothing),
    **dict.fromkeys(["submit", "finish", "exit_cost", "exit_context"], submit),
}
