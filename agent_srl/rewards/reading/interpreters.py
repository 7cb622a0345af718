"""Interpreters: scripts that are run, modules that are tools, code on the command line, and code that edits files."""

from __future__ import annotations

import re

from agent_srl.rewards.reading.intents import Intent, Loss, places
from agent_srl.rewards.reading.options import read_options
from agent_srl.rewards.reading.programs import understand
from agent_srl.rewards.reading.scripts import scripted_edits
from agent_srl.rewards.reading.shell import Command

OTHERS = frozenset(
    ["bash", "sh", "zsh", "node", "ruby", "perl", "go", "cargo", "make", "java", "php", "Rscript", "deno"]
)

_PYTHON = re.compile(r"python[\d.]*|pypy\d*|ipython")
_DELETES = re.compile(r"\b(?:shutil\.rmtree|os\.(?:remove|unlink|rmdir|removedirs)|\.unlink\()|\brm\s+-\w*r")
_REHEARSES = frozenset(["-n", "--dry-run", "--just-print", "--no-run"])
_PROGRAMS = {"sphinx": "sphinx-build"}
"""Modules whose program has another name."""


def is_python(program: str) -> bool:
    return _PYTHON.fullmatch(program) is not None


def python(command: Command, folder: str) -> list[Intent]:
    """`python` in all its uses: `-m TOOL` is the tool itself, so `python -m pytest` is `pytest`."""
    words = command.words[1:]
    while words and words[0].startswith("-") and words[0] not in ("-m", "-c", "-"):
        words = words[2:] if words[0] in ("-W", "-X") else words[1:]
    match words:
        case [] | ["-", *_]:
            return code(command.stdin, folder) if command.stdin else [Intent("other", verb="python")]
        case ["-m", name, *rest] if "." not in name or name == "py.test":
            return understand(Command([_PROGRAMS.get(name, name), *rest]), folder)
        case ["-m", name, *rest]:
            return [Intent("run", targets=places([name.replace(".", "/")], folder), content=" ".join(rest))]
        case ["-c", *given]:
            return code("".join(given[:1]), folder)
    return _script(words, command, folder)


def _script(words: list[str], command: Command, folder: str) -> list[Intent]:
    """A script with its arguments; the well-known ones are what they do."""
    name = words[0].rsplit("/", 1)[-1]
    if name == "runtests.py" or words[0].endswith("bin/test"):
        return understand(Command(words), folder)
    if name == "manage.py" and words[1:2] == ["test"]:
        return understand(Command(["runtests.py", *words[2:]]), folder)
    if name == "setup.py" and words[1:2] and words[1] in ("develop", "install", "build_ext", "build"):
        return [Intent("install", content="-e .")]
    lost = (Loss("database", True),) if name == "manage.py" and words[1:2] in (["flush"], ["reset_db"]) else ()
    content = " ".join([*words[1:], command.stdin or ""]).strip()
    return [Intent("run", targets=places(words[:1], folder), content=content, losses=lost)]


def other_interpreter(command: Command, folder: str) -> list[Intent]:
    """bash, node, perl, make ...: a script, or code after `-c` and `-e`."""
    name = command.words[0].rsplit("/", 1)[-1]
    if name == "perl" and any(re.match(r"-[pn0]*i", w) for w in command.words[1:]):
        return _perl_in_place(command.words[1:], folder)
    if name in ("go", "cargo", "make") and "test" in command.words[1:3]:
        rest = [w for w in command.words[1:] if w != "test" and not w.startswith("-")]
        kind = "list" if _REHEARSES & set(command.words) else "test"
        return [Intent(kind, verb=name, targets=places(rest, folder))]
    words = [w for w in command.words[1:] if not w.startswith("-")]
    inline = any(w in ("-c", "-e") for w in command.words[1:3])
    if inline or command.stdin is not None or not words:
        return [Intent("run", verb=name, content=" ".join([*words, command.stdin or ""]).strip())]
    return [Intent("run", verb=name, targets=places(words[:1], folder), content=" ".join(words[1:]))]


def _perl_in_place(words: list[str], folder: str) -> list[Intent]:
    """`perl -pi -e 's/a/b/' FILE` is `sed -i`."""
    options = read_options(words, {"e"})
    scripts = [part for script in options.values.get("e", ()) for part in ("-e", script)]
    return understand(Command(["sed", "-i", *scripts, *options.rest]), folder)


def code(text: str, folder: str) -> list[Intent]:
    """Python given in place: the edits that it makes where they can be read off, else a run of it."""
    losses = (Loss("*", True),) if _DELETES.search(text) else ()
    return scripted_edits(text, folder) or [Intent("run", content=text, losses=losses)]
