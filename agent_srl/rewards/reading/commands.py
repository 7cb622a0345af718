"""A whole command line as intents: pipelines are read from their first program, later ones filter; `cd` is followed."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from agent_srl.rewards.reading.git import git
from agent_srl.rewards.reading.intents import Change, Intent, is_scratch, is_source, loss, places
from agent_srl.rewards.reading.interpreters import OTHERS, is_python, other_interpreter, python
from agent_srl.rewards.reading.patches import patch_edits
from agent_srl.rewards.reading.programs import understand
from agent_srl.rewards.reading.searches import act_on, file_pattern, grep, pattern_text
from agent_srl.rewards.reading.shell import Command, read_commands
from agent_srl.rewards.reading.windowed import read_windowed
from agent_srl.rewards.reading.writers import DATABASES
from agent_srl.rewards.targets import Target, normalise

FALLBACK_WEIGHT = 0.3
"""Of what stands after `||`."""

_MAX_INTENTS = 16
"""Later ones are left out, but for the first that destroys something."""
_MAX_NESTING = 3
_SUBMITS = re.compile(r"\s*(?:echo|printf)\s+\S*(?:COMPLETE_TASK_AND_SUBMIT|MINI_SWE_AGENT_FINAL_OUTPUT)")
_PREFIXES = frozenset(["sudo", "time", "nohup", "env", "command", "exec", "xvfb-run", "stdbuf", "nice", "timeout"])
_RUNNERS = frozenset(["poetry", "uv", "pipenv", "hatch", "coverage"])
"""Only as `poetry run COMMAND`."""
_GREPS = frozenset(["grep", "egrep", "fgrep", "rg"])
_FILTERS = frozenset(
    ["head", "tail", "cat", "less", "more", "sort", "tee", "nl", "column", "uniq", "tr", "fold", "strings"]
)
_TAKES_INPUT = DATABASES | {"bash", "sh", "patch", "git", "sed", "awk", "tee"}
_PASSES = {"false": False, "true": True, ":": True}
_SKIPPED = (("&&", False), ("||", True))
"""What never runs: (joint, whether the command before it passes)."""
_RUN_ON_FOUND = frozenset(["-exec", "-execdir", "-ok"])
_OUTPUTS = {"sort": ("-o", "--output"), "curl": ("-o", "--output"), "wget": ("-O", "--output-document")}
"""Options that name a file to write."""
_PROMPT = re.compile(r"\A\s*\$\s+")
_ASSIGNMENT = re.compile(r"\w+=")


def read_command_line(text: str, folder: str = "", depth: int = 0) -> list[Intent]:
    """The intents of a command line, in order. Empty where nothing in it counts."""
    windowed = read_windowed(text)
    if windowed is not None:
        return windowed
    if _SUBMITS.match(text):
        return [Intent("submit")]
    found: list[Intent] = []
    logs: set[str] = set()
    passed: bool | None = None
    before = passed
    for pipeline in read_commands(_PROMPT.sub("", text)):
        commands = [_with_outputs(_unwrap(command)) for command in pipeline]
        first = commands[0]
        if not first.hidden:
            if (first.joint, passed) in _SKIPPED:
                continue
            before, passed = passed, _status(commands, passed)
        if first.words[:1] == ["cd"] and not first.hidden:
            folder = normalise("".join(first.words[1:2]) or ".", folder)
            folder = "" if folder == "." else folder
            continue
        intents = _pipeline(commands, folder, depth)
        if first.hidden:
            intents = [i for i in intents if i.losses]
        if first.joint == "||" and before is None:
            intents = [replace(i, weight=FALLBACK_WEIGHT) for i in intents]
        logs |= {normalise(path, folder) for command in commands for _, path in command.writes}
        found += intents
    made = {target.path for intent in found if intent.change for target in intent.targets}
    shown = [i for i in found if i.kind != "view" or not {t.path for t in i.targets} & (logs - made)]
    kept = [part for intent in shown or found for part in _parts(intent)]
    return kept[:_MAX_INTENTS] + [i for i in kept[_MAX_INTENTS:] if i.losses][:1]


def _status(commands: list[Command], before: bool | None) -> bool | None:
    """Whether a chain passes up to this pipeline, where that is certain: `x && true` is not, `x || true` is."""
    first = commands[0]
    passed = _PASSES.get(" ".join(first.words)) if len(commands) == 1 else None
    return None if before is None and (first.joint, passed) in (("&&", True), ("||", False)) else passed


def _parts(intent: Intent) -> list[Intent]:
    """Several places that are shown are as many views: `sed -n '1,5p;9,12p' FILE` is two commands."""
    if intent.kind != "view" or len(intent.targets) < 2:
        return [intent]
    return [replace(intent, targets=(target,)) for target in intent.targets]


def _unwrap(command: Command) -> Command:
    """Without `timeout 60`, `env A=1`, `sudo` and their like before the program."""
    words = command.words
    if words[:2] in (["command", "-v"], ["type", "-p"]):
        words = ["which", *words[2:]]
    while words and (words[0] in _PREFIXES or (words[0] in _RUNNERS and words[1:2] == ["run"])):
        name, words = words[0], words[2 if words[0] in _RUNNERS else 1 :]
        while words and (words[0].startswith("-") or _ASSIGNMENT.match(words[0])):
            words = words[2:] if words[0] in ("-k", "-s", "-n", "-u") and len(words) > 2 else words[1:]
        if name == "timeout":
            words = words[1:]
    return replace(command, words=words)


def _with_outputs(command: Command) -> Command:
    """With the files that `tee FILE` and `sort -o FILE` write among its redirections."""
    name, words = _name(command), command.words[1:]
    if name == "tee":
        sign = ">>" if "-a" in words else ">"
        paths = [word for word in words if not word.startswith("-")]
    else:
        sign = ">"
        paths = [path for option, path in pairwise(words) if option in _OUTPUTS.get(name, ())]
    return replace(command, writes=[*command.writes, *((sign, path) for path in paths)]) if paths else command


def _name(command: Command) -> str:
    return command.words[0].rsplit("/", 1)[-1] if command.words else ""


def _pipeline(commands: list[Command], folder: str, depth: int) -> list[Intent]:
    intents = _one(commands[0], folder, depth)
    for command in commands[1:]:
        name = _name(command)
        if not intents and (name in _TAKES_INPUT or is_python(name)):
            intents = _fed(commands[0], command, folder, depth)
            continue
        if name == "xargs":
            intents = _on_arguments(intents, commands[0], command, folder, depth)
        elif len(intents) == 1:
            intents = [_filtered(intents[0], name, command, folder)]
        intents += [i for i in _run(command, folder, depth) if i.losses] + _written(command, folder, None)
    return intents


def _on_arguments(found: list[Intent], source: Command, command: Command, folder: str, depth: int) -> list[Intent]:
    """`| xargs PROGRAM`: the program, run on what was found or on the words of an echo."""
    words = command.words[1:]
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-n", "-I", "-P", "-d", "-L") else words[1:]
    if not found:
        return _run(Command([*words, *source.words[1:]]), folder, depth)
    does = _run(Command(words if "{}" in words else [*words, "{}"]), folder, depth)
    return [act_on(intent, does) for intent in found]


def _on_found(words: list[str], folder: str, depth: int) -> list[Intent]:
    """`find ... -exec PROGRAM`: the program, run on what was found."""
    at = next(i for i, word in enumerate(words) if word in _RUN_ON_FOUND)
    does = _run(Command([w for w in words[at + 1 :] if w not in (";", "+")]), folder, depth + 1)
    return [act_on(intent, does) for intent in understand(Command(words[:at]), folder)]


def _fed(source: Command, command: Command, folder: str, depth: int) -> list[Intent]:
    """`cat <<EOF | python` and `echo TEXT | tee FILE`: what the first program prints is the input of the second."""
    text = source.stdin if source.stdin is not None else " ".join(source.words[1:])
    return _one(replace(command, stdin=text), folder, depth)


def _one(command: Command, folder: str, depth: int) -> list[Intent]:
    """What the first program of a pipeline does, with what it writes."""
    written = _written(command, folder, _printed(command))
    if any(intent.change for intent in written):
        return written
    return _run(command, folder, depth) + written


def _run(command: Command, folder: str, depth: int) -> list[Intent]:
    name = _name(command)
    nested = _nested(name, command) if depth < _MAX_NESTING else None
    if nested is not None:
        return read_command_line(nested, folder, depth + 1)
    if name == "find" and depth < _MAX_NESTING and _RUN_ON_FOUND & set(command.words):
        return _on_found(command.words, folder, depth)
    if is_python(name):
        return python(command, folder)
    if name == "git":
        return git(command, folder)
    if name in ("patch", "apply_patch") and not {"-R", "--reverse"} & set(command.words):
        return patch_edits(command.stdin or command.words[-1], folder) or understand(command, folder)
    if name == "manage.py":
        return python(replace(command, words=["python", *command.words]), folder)
    return other_interpreter(command, folder) if name in OTHERS else understand(command, folder)


def _nested(name: str, command: Command) -> str | None:
    """The command line in `bash -c LINE`, `eval LINE`, `trap LINE EXIT` and `bash <<EOF`."""
    words = command.words[1:]
    if name == "eval":
        return " ".join(words)
    if name == "trap":
        return "".join(words[:1])
    if name not in ("bash", "sh", "zsh"):
        return None
    for option, value in pairwise(words):
        if re.fullmatch(r"-\w*c", option):
            return value
    return command.stdin if command.stdin and all(w.startswith("-") for w in words) else None


def _printed(command: Command) -> str | None:
    """The text that a command is known to print: a here-document, or the words of echo."""
    name = _name(command)
    if name in ("cat", "tee") and command.stdin is not None:
        return command.stdin
    text = " ".join(w for w in command.words[1:] if w not in ("-e", "-n", "-en"))
    return text if name in ("echo", "printf") and text.strip() else None


def _written(command: Command, folder: str, text: str | None) -> list[Intent]:
    """What redirections do: a known text makes a file; output over a source file destroys it; logs do not count."""
    found = []
    for sign, path in command.writes:
        targets = places([path], folder)
        if text is not None and sign == ">>":
            found.append(Intent("edit", targets=targets, change=Change(text, "", at_end=True)))
        elif text is not None:
            found.append(Intent("create", targets=targets, change=Change(text)))
        elif sign == ">" and not is_scratch(path) and (_empties(command) or is_source(path)):
            found.append(Intent("delete", verb=">", targets=targets, losses=(loss(path, folder),), weight=0.3))
    return found


def _empties(command: Command) -> bool:
    """`> FILE`, `: > FILE`, `cat /dev/null > FILE`, `echo > FILE`."""
    return _name(command) in ("", ":", "true", "echo", "cat")


def _filtered(intent: Intent, name: str, command: Command, folder: str) -> Intent:
    """What a later program of a pipeline leaves of the first one's print."""
    if intent.kind == "view" and name in ("head", "tail", "sed", "awk"):
        return _cut(intent, command, folder)
    if name in _GREPS:
        return _picked(intent, grep(Command([name, *command.words[1:]]), folder)[0])
    if name in _FILTERS or not name:
        return intent
    return replace(intent, flags=intent.flags | {f"| {name}"})


def _picked(intent: Intent, searched: Intent) -> Intent:
    """`cat F | grep X` is a search in F, `ls -R | grep X` one for a file; grep on other output only shortens it."""
    if searched.verb:
        return intent
    if intent.kind == "view":
        return Intent("search", targets=tuple(Target(t.path) for t in intent.targets), content=searched.content)
    if intent.kind == "list":
        return Intent("find", targets=intent.targets, content=file_pattern(searched.content.strip("$^")))
    return replace(intent, flags=intent.flags | {f"| grep {pattern_text(searched.content)}"})


def _cut(intent: Intent, command: Command, folder: str) -> Intent:
    """Lines of lines: `nl F | sed -n 10,20p` and `cat F | head -20 | tail -5`."""
    read = understand(Command([*command.words, "-"]), folder)
    if not read or not read[0].targets:
        return intent
    if read[0].kind == "search":
        return Intent("search", targets=intent.targets, content=read[0].content)
    cuts = [(t.first, t.last) for t in read[0].targets]
    return replace(intent, targets=tuple(_within(target, a, b) for target in intent.targets for a, b in cuts))


def _within(target: Target, first: int | None, last: int | None) -> Target:
    """Lines `first` to `last` of what is shown of a file."""
    if target.whole:
        return replace(target, first=first, last=last)
    start = 1 if target.first is None else target.first
    if first is None or start < 0:
        return target
    if first < 0:
        return target if target.last is None else replace(target, first=max(start, target.last + first + 1))
    ends = [end for end in (target.last, None if last is None else start + last - 1) if end is not None]
    return replace(target, first=start + first - 1, last=min(ends, default=None))
