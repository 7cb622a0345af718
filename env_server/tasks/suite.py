"""A package's own tests, run in a sandbox on variants of its tree.

The sandbox of a `Lab` runs only what the package's author and our planted edits wrote, so one serves for many variants.
Left out: grading an agent's patch, which always gets a fresh sandbox (`env_server.grading`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from env_server.errors import TaskError
from env_server.tasks.environments import WORKDIR, Environment
from env_server.tasks.hidden import function_of
from sandboxes.base import Backend, ExecResult, Limits, Outcome, Sandbox

TEST_COMMAND = "python -m pytest -rA -o addopts= -p no:cacheprovider -p no:randomly"
FALLBACKS = (
    "",
    " --import-mode=importlib",
    " -o python_files='test*.py *_test.py tests.py'",
    " -W default -o required_plugins= -o xfail_strict=false",
)
"""Tried in turn where a suite cannot be collected; `-o addopts=` dropped what the author may need."""
COLLECT_S = 120.0
SLOW_SUITE_FILES = 12
NOTHING_COLLECTED = 5
WALL_FACTOR = 4.0
"""A run may take this times its CPU seconds: tests sleep, and machines are busy."""
LIMITS = Limits(memory_mb=2048, output_bytes=8 * 1024 * 1024)
MAX_NAMES_CHARS = 60_000
"""Linux takes no argument above 128 KiB."""
PRISTINE = "/tmp/pristine"
_BROKEN_FILE = re.compile(r"^ERROR (\S+?\.py)(?:::\S+)?(?: - .*)?$", re.M)
_TIMES = re.compile(r"^(\d+)m([\d.]+)s \d+m[\d.]+s$", re.M)
"""The last line of bash's `times`: user and system time of what it ran."""
_PASSED = ("PASSED", "XFAIL")


@dataclass(frozen=True)
class Run:
    """One run of a suite."""

    statuses: dict[str, str]
    """Test id -> PASSED, FAILED, ..., as swebench's parser reads them."""
    exit_code: int | None
    """None if it was killed."""
    output: str
    cpu_s: float
    """0 if it was killed."""

    def passed(self) -> set[str]:
        """Ids of tests that passed, or failed as they should."""
        return {test for test, status in self.statuses.items() if status in _PASSED}


@functools.cache
def log_parser(name: str) -> Any:
    """swebench's log parser of that name. Importing swebench takes seconds. Raises TaskError."""
    from swebench.harness.log_parsers import PARSER_REGISTRY

    if name not in PARSER_REGISTRY:
        raise TaskError(f"unknown log parser {name!r}")
    return PARSER_REGISTRY[name]


class Lab:
    """A sandbox that holds a package's tree and its environment, and starts every run from the pristine tree."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    @classmethod
    async def open(cls, tree: Path, environment: Environment, backend: Backend) -> Self:
        """Compile once, for every run to come: nothing is written later. Raises SandboxError."""
        sandbox = await backend.acquire(environment.spec(LIMITS))
        await sandbox.upload(tree, WORKDIR)
        collect = f"PYTHONDONTWRITEBYTECODE= {TEST_COMMAND} --collect-only"
        await sandbox.exec(f"{collect} >/dev/null 2>&1; cp -a {WORKDIR} {PRISTINE}", timeout_s=COLLECT_S)
        return cls(sandbox)

    async def reset(self, changes: Mapping[str, bytes]) -> None:
        """The pristine tree with some files changed."""
        await self.sandbox.exec(f"find {WORKDIR} -mindepth 1 -delete; cp -a {PRISTINE}/. {WORKDIR}", timeout_s=60)
        for path, content in changes.items():
            await self.sandbox.write(f"{WORKDIR}/{path}", content)

    async def run(self, changes: Mapping[str, bytes], command: str, cpu_s: float) -> Run:
        """Run a test command on a variant of the tree. CPU time is what is limited: it does not depend on the load."""
        await self.reset(changes)
        limited = f"ulimit -t {math.ceil(cpu_s)}; {command}; code=$?; times; exit $code"
        return parse(await self.sandbox.exec(limited, timeout_s=WALL_FACTOR * cpu_s))

    async def close(self) -> None:
        """Kill the sandbox."""
        await self.sandbox.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


def parse(result: ExecResult, parser: str = "parse_log_pytest") -> Run:
    """Read the output of a test command."""
    killed = result.outcome in (Outcome.TIMEOUT, Outcome.OOM)
    statuses = log_parser(parser)(result.output, None)
    found = _TIMES.findall(result.output)
    cpu_s = 60 * int(found[-1][0]) + float(found[-1][1]) if found else 0.0
    return Run(statuses, None if killed else result.exit_code, result.output, cpu_s)


@dataclass(frozen=True)
class Suite:
    """What a package's tests do on the pristine tree."""

    options: str
    """The test command, without the files."""
    part: str
    """The files that are run of a slow suite; empty for all."""
    passing: frozenset[str]
    """Ids that passed twice, all of them in `.py` files."""
    test_files: frozenset[str]
    cpu_s: float
    """Of one run, in CPU seconds."""
    callers: Mapping[tuple[str, str], frozenset[str]]
    """(file, qualified name) of a function -> ids of the tests that call it; the empty id: at import."""

    @property
    def command(self) -> str:
        """Runs every test of `passing`."""
        return self.options + self.part

    def reach(self, functions: Iterable[tuple[str, str]]) -> frozenset[str]:
        """Tests that a change of these functions can touch; all of them if one is called at import."""
        tests = frozenset().union(*(self.callers.get(function, frozenset()) for function in functions))
        if "" in tests:
            return self.passing
        names = {function_of(test) for test in tests}
        return frozenset(test for test in self.passing if function_of(test) in names)

    def run_only(self, tests: frozenset[str]) -> str:
        """The command that runs these tests; the whole suite where naming them would save little."""
        names = sorted({function_of(test) for test in tests})
        if 2 * len(tests) > len(self.passing) or sum(map(len, names)) > MAX_NAMES_CHARS:
            return self.command
        return f"{self.options} {' '.join(map(shlex.quote, names))}"


async def measure(name: str, lab: Lab, modules: Sequence[str], *, max_s: float, min_tests: int) -> Suite:
    """Run the suite twice on the pristine tree, the second time to see which test calls which function.

    Args:
        modules: files of the package.
        max_s: CPU seconds that one run may take.
        min_tests: that must pass.

    Raises:
        TaskError: why no tasks can be made of it.
    """
    options, part, first = await _collectable(name, lab, max_s)
    second, callers = await _traced(lab, options + part, modules, 4 * max_s)
    passing = {test for test in first.passed() & second.passed() if ".py::" in test}
    flaky = first.passed() ^ second.passed()
    if len(passing) < min_tests:
        raise TaskError(f"{name}: only {len(passing)} tests pass{_last_words(first)}")
    if len(flaky) > max(3, len(passing) // 10):
        raise TaskError(f"{name}: {len(flaky)} tests pass in one run and not in the next")
    files = frozenset(test.split("::")[0] for test in passing)
    return Suite(options, part, frozenset(passing), files, first.cpu_s, callers)


async def _traced(
    lab: Lab, command: str, modules: Sequence[str], cpu_s: float
) -> tuple[Run, dict[tuple[str, str], frozenset[str]]]:
    """Run the suite under `cover_plugin`."""
    folder, plugin = "/tmp/agent_srl_cover", "agent_srl_cover_plugin"
    code = Path(__file__).with_name("cover_plugin.py").read_bytes()
    await lab.sandbox.write(f"{folder}/{plugin}.py", code)
    config = json.dumps({"modules": list(modules), "out": f"{folder}/calls.json"})
    export = f"export AGENT_SRL_COVER={shlex.quote(config)} PYTHONPATH={folder}:$PYTHONPATH"
    run = await lab.run({}, f"{export}; {command} -p {plugin}", cpu_s)
    callers: dict[tuple[str, str], set[str]] = {}
    try:
        rows = json.loads(await lab.sandbox.read(f"{folder}/calls.json", max_bytes=256 * 1024 * 1024))
    except (FileNotFoundError, ValueError):
        rows = {}  # the run was lost; so few tests then pass twice that nothing is made of the package
    for test, functions in rows.items():
        for file, name in functions:
            callers.setdefault((file, name), set()).add(test)
    return run, {function: frozenset(tests) for function, tests in callers.items()}


async def _collectable(name: str, lab: Lab, max_s: float) -> tuple[str, str, Run]:
    """The first test command under which enough can be collected, the files if not all, and its run."""
    best: tuple[str, Run] | None = None
    for fallback in FALLBACKS:
        command = TEST_COMMAND + fallback
        run = await lab.run({}, command, max_s)
        if run.exit_code in (2, 3) and (broken := sorted(set(_BROKEN_FILE.findall(run.output)))):
            without = command + "".join(f" --ignore={file}" for file in broken)
            others = await lab.run({}, without, max_s)
            if others.passed() or _lost(others):
                command, run = without, others
        if _lost(run):
            return command, *await _quick_part(name, lab, command, max_s)
        if best is None or len(run.passed()) > len(best[1].passed()) or best[1].exit_code == NOTHING_COLLECTED:
            best = command, run
        if run.exit_code in (0, 1):
            break
    assert best is not None
    if not best[1].passed():
        raise TaskError(f"{name}: no test can be run{_last_words(best[1])}")
    return best[0], "", best[1]


def _lost(run: Run) -> bool:
    """Whether a limit ended it, or a crash."""
    return run.exit_code is None or run.exit_code > 128


async def _quick_part(name: str, lab: Lab, command: str, max_s: float) -> tuple[str, Run]:
    """Test files of a slow suite that together take half of the time allowed, the smallest first."""
    listing = await lab.run({}, f"{command} --collect-only -q", max_s)
    sizes = Counter(line.split("::")[0] for line in listing.output.splitlines() if ".py::" in line)
    chosen: list[str] = []
    left = max_s / 2
    for file, _ in sorted(sizes.items(), key=lambda item: item[1])[:SLOW_SUITE_FILES]:
        run = await lab.run({}, f"{command} {shlex.quote(file)}", left)
        if run.exit_code in (0, 1) and run.cpu_s < left:
            chosen.append(shlex.quote(file))
            left -= run.cpu_s
        if left < 1:
            break
    if not chosen:
        raise TaskError(f"{name}: its tests take more than {max_s:.0f} s of CPU time, wait for something, or crash")
    part = "".join(f" {file}" for file in chosen)
    return part, await lab.run({}, command + part, max_s)


def _last_words(run: Run) -> str:
    """The most telling line of a run that failed."""
    lines = [line for raw in run.output.splitlines() if (line := raw.strip("= "))]
    telling = [line[2:].strip() for line in lines if line.startswith("E  ")] or [
        line for line in lines if re.match(r"(ERROR|ImportError|ModuleNotFoundError|no tests ran)", line)
    ]
    words = (telling or lines[-1:] or ["it prints nothing"])[0]
    return f" ({words[:200]})"


@contextlib.asynccontextmanager
async def labs(
    count: int, tree: Path, environment: Environment, backend: Backend, gate: asyncio.Semaphore
) -> AsyncIterator[list[Lab]]:
    """Several labs of one package, closed at the end."""
    opened: list[Lab] = []
    try:
        for _ in range(count):
            async with gate:
                opened.append(await Lab.open(tree, environment, backend))
        yield opened
    finally:
        for lab in opened:
            await lab.close()
