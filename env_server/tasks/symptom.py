"""Find the symptom of a planted bug: a call that the failing tests make, what it gives now, and what it should give.

The tests run twice under `trace_plugin`, with and without the bug; the first call with equal inputs and another outcome
is the symptom. Where the call can be written as code it is run alone on both trees, so a reproduction always
reproduces.
Left out: the wording (`statement`).
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_server.tasks.hidden import function_of
from env_server.tasks.suite import Lab, Run

TRACE_FOLDER = "/tmp/agent_srl_trace"
PLUGIN = "agent_srl_trace_plugin"
MAX_TESTS = 10
STDLIB = ("datetime", "decimal", "fractions")
_PROBE = """
import json, re, sys
for line in sys.stdin:
    imports, code = json.loads(line)
    scope = {}
    try:
        exec(imports, scope)
        outcome = ["returns", repr(eval(code, scope))]
    except Exception as error:
        outcome = ["raises", type(error).__name__ + (": " + str(error) if str(error) else "")]
    print("\\n" + json.dumps([outcome[0], re.sub(r" at 0x[0-9a-fA-F]+", "", outcome[1])[:400]]))
"""


@dataclass(frozen=True)
class Symptom:
    """One observable difference."""

    call: str
    """As a reader sees it: `inflection.pluralize('ox')`. Empty if only a failed check is known."""
    actual: tuple[str, str]
    """`returns` and a repr, or `raises` and an exception; now, with the bug."""
    expected: tuple[str, str]
    code: str = ""
    """Lines that run on their own and show it; empty if the call is not expressible as code."""
    test: str = ""
    """The failing test that makes the call."""


@dataclass(frozen=True)
class Observed:
    """What the failing tests showed."""

    symptoms: tuple[Symptom, ...]
    crash: str
    """pytest's own words for the first failure; used where no call differs."""
    calls: tuple[str, ...]
    """The package's functions that the failing tests call."""
    distance: int | None
    confirmed: frozenset[str]
    """Ids that failed again with the bug and passed without."""


async def observe(
    lab: Lab,
    command: str,
    tests: Sequence[str],
    modules: Sequence[str],
    changes: Mapping[str, bytes],
    edited: Sequence[tuple[str, str]],
    cpu_s: float,
) -> Observed:
    """Run the failing tests with and without the bug and compare.

    Args:
        command: the suite's test command.
        tests: ids that fail under the bug.
        modules: files of the package.
        changes: the planted bug: path -> content.
        edited: (file, qualified function name) of every edit.
        cpu_s: limit of each run.
    """
    chosen = list(tests)[:MAX_TESTS]
    bug_run, bug = await _traced(lab, command, chosen, modules, changes, edited, cpu_s)
    gold_run, gold = await _traced(lab, command, chosen, modules, {}, edited, cpu_s)
    found = [{**s, "test": test} for test in chosen if (s := _difference(gold.get(test), bug.get(test)))]
    package = _module_names(modules)
    symptoms = await _probe(lab, changes, sorted(found, key=_rank), package)
    rows = [row for test in chosen if (row := bug.get(test)) is not None]
    distances = [row["distance"] for row in rows if row["distance"] is not None]
    names = [call["text"].partition("(")[0] for row in rows for call in row["calls"][-3:]]
    confirmed = gold_run.passed() & {t for t, s in bug_run.statuses.items() if s in ("FAILED", "ERROR")}
    return Observed(
        symptoms=tuple(symptoms),
        crash=_crash(bug_run.output),
        calls=tuple(dict.fromkeys(names)),
        distance=min(distances, default=None),
        confirmed=frozenset(confirmed),
    )


async def _traced(
    lab: Lab,
    command: str,
    tests: Sequence[str],
    modules: Sequence[str],
    changes: Mapping[str, bytes],
    edited: Sequence[tuple[str, str]],
    cpu_s: float,
) -> tuple[Run, dict[str, dict[str, Any]]]:
    files = sorted({test.split("::")[0] for test in tests})
    out = f"{TRACE_FOLDER}/calls.jsonl"
    config = {"tests": files, "modules": list(modules), "edited": [list(e) for e in edited], "out": out}
    plugin = Path(__file__).with_name("trace_plugin.py").read_bytes()
    await lab.sandbox.write(f"{TRACE_FOLDER}/{PLUGIN}.py", plugin)
    await lab.sandbox.write(out, b"")
    functions = " ".join(shlex.quote(test) for test in dict.fromkeys(function_of(t) for t in tests))
    run = await lab.run(
        changes,
        f"export AGENT_SRL_TRACE={shlex.quote(json.dumps(config))} PYTHONPATH={TRACE_FOLDER}:$PYTHONPATH; "
        f"{command} -p {PLUGIN} {functions}",
        cpu_s,
    )
    rows = (await lab.sandbox.read(out, max_bytes=64 * 1024 * 1024)).decode().splitlines()
    found: dict[str, dict[str, Any]] = {}
    for line in rows:
        row = json.loads(line)
        found.setdefault((row["test"].split() or [""])[0], row)
    return run, found


def _difference(gold: dict[str, Any] | None, bug: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first call of a test whose inputs are equal and whose outcome differs; one that is code, if there is any."""
    first = None
    for right, wrong in zip(gold["calls"] if gold else (), bug["calls"] if bug else (), strict=False):
        if right["text"] != wrong["text"]:
            break
        if right["outcome"] != wrong["outcome"]:
            found = {"call": wrong, "expected": right["outcome"], "actual": wrong["outcome"]}
            if wrong["code"]:
                return found
            first = first or found
    return first


def _rank(found: dict[str, Any]) -> tuple[bool, bool, int]:
    call = found["call"]
    return call["code"] is None, found["expected"][0] == "raises", len(call["code"] or call["text"])


def _module_names(modules: Sequence[str]) -> set[str]:
    """Dotted names under which the files may be imported, for any import root."""
    names: set[str] = set()
    for file in modules:
        parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
        names.update(".".join(parts[start:]) for start in range(len(parts)))
    return names


async def _probe(
    lab: Lab, changes: Mapping[str, bytes], found: Sequence[dict[str, Any]], package: set[str]
) -> list[Symptom]:
    """Run each call alone on both trees; those that differ are told with code, others as they were traced."""
    texts = list({entry["call"]["text"]: entry for entry in found}.values())
    codes = {e["call"]["code"]: _imports(e["call"]["code"], package) for e in texts if e["call"]["code"]}
    outcomes: list[dict[str, tuple[str, str]]] = []
    for variant in ({}, changes) if codes else ():
        lines = "".join(json.dumps([imports, code]) + "\n" for code, imports in codes.items())
        await lab.reset(variant)
        await lab.sandbox.write(f"{TRACE_FOLDER}/probe.py", _PROBE.encode())
        result = await lab.sandbox.exec(f"python {TRACE_FOLDER}/probe.py", timeout_s=30, stdin=lines)
        outcomes.append(dict(zip(codes, _json_lines(result.output), strict=False)))
    symptoms = []
    for entry in texts:
        code = entry["call"]["code"]
        expected, actual = (o.get(code) for o in outcomes) if code and outcomes else (None, None)
        if expected and actual and expected != actual:
            shown = f"{codes[code]}\n\nprint(repr({code}))"
            symptoms.append(Symptom(code, actual, expected, shown, entry["test"]))
        else:
            told = _told(entry["actual"]), _told(entry["expected"])
            symptoms.append(Symptom(entry["call"]["text"], *told, test=entry["test"]))
    return sorted(symptoms, key=lambda s: not s.code)


def _json_lines(output: str) -> Iterator[tuple[str, str]]:
    for line in output.splitlines():
        if line.startswith('["'):
            kind, value = json.loads(line)
            yield kind, value


def _told(outcome: Sequence[str]) -> tuple[str, str]:
    kind, type_name, value = outcome
    if kind == "returns":
        return kind, value
    message = value[1:-1] if value[:1] in "'\"" else value
    return kind, f"{type_name}: {message}" if message else type_name


def _imports(code: str, package: set[str]) -> str:
    """Import lines for every dotted name in the code whose head is a module."""
    found = set()
    for node in ast.walk(ast.parse(code, mode="eval")):
        if isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node)):
            parts = dotted.split(".")
            prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
            if known := next((p for p in prefixes if p in package or p in STDLIB), None):
                found.add(known)
    longest = {name for name in found if not any(other.startswith(name + ".") for other in found)}
    return "\n".join(f"import {name}" for name in sorted(longest))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := _dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def _crash(output: str) -> str:
    """The first block of pytest's `E` lines, shortened."""
    block: list[str] = []
    for line in output.splitlines():
        if line.startswith("E  "):
            block.append(line[1:].strip())
        elif block:
            break
    return "\n".join(line[:200] for line in block[:6])
