"""What the expert knows before its first recorded step: the edits, the names in the issue, a working
reproduction.

Found out in a session of its own that is thrown away: the recorded one holds only what a good engineer
would do. Left out: the route (`expert_routes`) and its words (`expert_thoughts`).
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_srl.data import expert_probe
from agent_srl.data.expert_thoughts import last_line
from agent_srl.errors import DataError
from env_server.schema import Action, Observation, Task

RawEdit = tuple[str, int, list[str], list[str]]
Act = Callable[[Action], Awaitable[Observation]]

HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")
FENCE = re.compile(r"```(?:python|py|pycon)?[ \t]*\n(.*?)\n?```", re.DOTALL)
PROMPT = re.compile(r"^[ \t]*(?:>>>|\.\.\.) ?(.*)$", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
WORKDIR = "/testbed"
MAX_GAP = 3
VOLATILE = re.compile(r"0x[0-9a-f]+|\d+\.\d+s")


@dataclass(frozen=True)
class Edit:
    """One `str_replace`."""

    path: str
    old: str
    new: str
    line: int
    """Where it begins in the file before any edit, from 1."""
    function: str
    """Innermost definition around it, or empty."""
    function_line: int
    word: str
    """A name in it that a search finds with few other hits, or empty."""


@dataclass(frozen=True)
class Stop:
    """A definition on the way from the issue to the bug."""

    name: str
    owner: str
    path: str
    line: int
    end: int
    kind: str
    common: bool
    """Too many definitions share the name to search for it."""


@dataclass(frozen=True)
class Facts:
    """All that a route is conditioned on."""

    task: Task
    edits: list[Edit]
    way: list[Stop]
    """From the definition that the issue names to the one with the first edit; never empty."""
    lengths: dict[str, int]
    """Lines of each file on the way."""
    snippet: str
    """Python that shows the symptom; empty if none does."""
    before: str
    """What it prints with the bug."""
    after: str
    """And without."""
    test_file: str
    """Existing tests next to the failing ones; empty if there are none."""

    @property
    def goal(self) -> Stop:
        """The definition with the first edit."""
        return self.way[-1]

    @property
    def named(self) -> str:
        """What the issue is about: a definition that it names, else the package."""
        first = self.way[0].name
        if first and re.search(rf"\b{re.escape(first)}\b", self.task.problem_statement):
            return first
        return self.goal.path.removeprefix("src/").partition("/")[0].removesuffix(".py")

    @property
    def error(self) -> str:
        """Name of the exception that the symptom raises, if it raises one."""
        found = re.findall(r"^([A-Za-z_][\w.]*)(?::|$)", self.before, re.MULTILINE)
        return str(found[-1]) if found and "Traceback" in self.before else ""


async def gather(task: Task, act: Act) -> Facts:
    """Look around in a session of `task`. `act` takes its steps; nothing here is recorded.

    Raises:
        DataError: the patch cannot be expressed as edits of this tree.
    """
    raw = parse_patch(task.patch)
    if not raw:
        raise DataError(f"{task.instance_id} has no patch to show; record tasks that have one")
    request = {"edits": raw, "named": names_in(task.problem_statement)}
    source = Path(expert_probe.__file__).read_text(encoding="utf-8")
    command = f"python - {shlex.quote(json.dumps(request))} <<'PROBE_END'\n{source}\nPROBE_END"
    answer = await act(Action(name="bash", arguments={"command": command}))
    try:
        found = json.loads(answer.output)
    except json.JSONDecodeError:
        why = last_line(answer.output, 200)
        raise DataError(f"{task.instance_id}: the expert cannot read this tree ({why})") from None
    edits = [
        Edit(edit["path"], edit["old"], edit["new"], start + 1, place["name"], place["line"], edit["word"])
        for edit, place, (_, start, _, _) in zip(found["edits"], found["places"], raw, strict=True)
    ]
    way = [Stop(**stop, common=found["homonyms"].get(stop["name"], 0) > 4) for stop in found["way"]]
    snippet, before, after = await _reproduce(task, edits, act)
    return Facts(task, edits, way, found["lengths"], snippet, before, after, test_file(task))


async def _reproduce(task: Task, edits: list[Edit], act: Act) -> tuple[str, str, str]:
    """A snippet of the issue whose output the fix changes, that output, and the right one."""
    before = {}
    for snippet in snippets_in(task.problem_statement):
        answer, again = await act(python(snippet)), await act(python(snippet))
        if answer.outcome in ("ok", "nonzero") and len(answer.output) < 4000 and answer.output == again.output:
            before[snippet] = answer.output
    for edit in edits:
        await act(replace(edit))
    for snippet, wrong in before.items():
        right = (await act(python(snippet))).output
        if VOLATILE.sub("", right) != VOLATILE.sub("", wrong) and "SyntaxError" not in right:
            return snippet, wrong, right
    return "", "", ""


def python(snippet: str) -> Action:
    """Run a snippet the way an engineer types it: `python -c` if it is short, else a here-document."""
    if len(snippet) <= 160 and snippet.count("\n") <= 2:
        line = snippet.replace("\n", "; ")
        simple = "\n" not in snippet or not re.search(r"^(?:\s|for |if |with |try|def |class )", snippet, re.MULTILINE)
        if simple and not re.search(r'["$`\\!]', line):
            return Action(name="bash", arguments={"command": f'python -c "{line}"'})
        if simple and "'" not in line:
            return Action(name="bash", arguments={"command": f"python -c '{line}'"})
    return Action(name="bash", arguments={"command": f"python - <<'EOF'\n{snippet}\nEOF"})


def replace(edit: Edit) -> Action:
    """The tool call of an edit."""
    arguments = {
        "command": "str_replace",
        "path": f"{WORKDIR}/{edit.path}",
        "old_str": edit.old,
        "new_str": edit.new,
    }
    return Action(name="str_replace_editor", arguments=arguments)


def parse_patch(patch: str) -> list[RawEdit]:
    """(path, first line from 0 before any edit, old lines, new lines) of every run of changed lines.

    Runs at most `MAX_GAP` lines apart are one edit, since most such pairs change one statement.
    """
    edits: list[RawEdit] = []
    path, line = "", 0
    gap: list[str] | None = None
    """Unchanged lines since the last change of this hunk; None before the first."""
    for text in patch.split("\n"):
        if text.startswith("--- "):
            path = re.sub(r"^a/", "", text[4:].split("\t")[0])
        elif hunk := HUNK.match(text):
            line, gap = max(int(hunk[1]) - 1, 0), None
        elif text.startswith(("-", "+")) and not text.startswith("+++ "):
            if gap is None or len(gap) > MAX_GAP:
                edits.append((path, line, [], []))
            else:
                edits[-1][2].extend(gap)
                edits[-1][3].extend(gap)
            (edits[-1][2] if text[0] == "-" else edits[-1][3]).append(text[1:])
            line, gap = line + (text[0] == "-"), []
        elif text.startswith(" "):
            line += 1
            if gap is not None:
                gap.append(text[1:])
    return edits


def names_in(statement: str) -> list[str]:
    """Identifiers in the code of an issue, in order, then those that are called in its prose."""
    code = [*FENCE.findall(statement), *PROMPT.findall(statement), *INLINE.findall(statement)]
    prose = re.findall(r"\b([A-Za-z_][\w.]*)\(", statement)
    words = [word for part in [*code, *prose] for word in re.findall(r"[A-Za-z_]\w+", part)]
    return list(dict.fromkeys(words))


def snippets_in(statement: str) -> list[str]:
    """Pieces of Python in an issue that can be run and print something, the longest kind first."""
    blocks = [block for block in FENCE.findall(statement) if ">>>" not in block]
    prompts = "\n".join(PROMPT.findall(statement))
    inline = [code for code in INLINE.findall(statement) if "(" in code]
    found = [printing(code) for code in [*blocks, *([prompts] if prompts else []), *inline]]
    return list(dict.fromkeys(code for code in found if code))


def printing(code: str) -> str:
    """The code with its bare last expression printed; empty if it is no Python or imports nothing."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return ""
    if not tree.body or not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)):
        return ""
    last = tree.body[-1]
    if isinstance(last, ast.Expr) and not _is_print(last.value):
        lines = code.split("\n")
        head, tail = lines[: last.lineno - 1], "\n".join(lines[last.lineno - 1 : last.end_lineno])
        return "\n".join([*(line for line in head if line.strip()), f"print({tail.strip()})"])
    return "\n".join(line for line in code.split("\n") if line.strip())


def _is_print(value: Any) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"


def test_file(task: Task) -> str:
    """The file of the failing tests if others in it pass, else the file with the most passing tests."""
    passing = Counter(test.partition("::")[0] for test in task.PASS_TO_PASS)
    for test in task.FAIL_TO_PASS:
        if passing[test.partition("::")[0]]:
            return test.partition("::")[0]
    return passing.most_common(1)[0][0] if passing else ""
