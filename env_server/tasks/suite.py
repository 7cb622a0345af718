"""A package's own tests, run in a sandbox on variants of its tree.

The sandbox of a `Lab` runs only what the package's author and our planted edits wrote, so one serves for many variants.
Left out: grading an agent's patch, which always gets a fresh sandbox (`env_server.grading`).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from env_server.errors import TaskError
from env_server.tasks.environments import WORKDIR, Environment
from sandboxes.base import Backend, ExecResult, Limits, Outcome, Sandbox

TEST_COMMAND = "python -m pytest -rA -o addopts= -p no:cacheprovider -p no:randomly"
FALLBACKS = ("", " --import-mode=importlib", " -W default -o required_plugins= -o xfail_strict=false")
"""Tried in turn where a suite cannot be collected; `-o addopts=` dropped what the author may need."""
CLEAN_TIMEOUT_S = 60.0
LIMITS = Limits(memory_mb=2048, output_bytes=8 * 1024 * 1024)
PRISTINE = "/tmp/pristine"
_BROKEN_FILE = re.compile(r"^ERROR (\S+\.py)(?: - .*)?$", re.M)
_PASSED = ("PASSED", "XFAIL")


@dataclass(frozen=True)
class Run:
    """One run of a suite."""

    statuses: dict[str, str]
    """Test id -> PASSED, FAILED, ..., as swebench's parser reads them."""
    exit_code: int | None
    """None if it was killed."""
    output: str
    duration_s: float

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
        """Raises SandboxError."""
        sandbox = await backend.acquire(environment.spec(LIMITS))
        await sandbox.upload(tree, WORKDIR)
        await sandbox.exec(f"cp -a {WORKDIR} {PRISTINE}", timeout_s=60)
        return cls(sandbox)

    async def reset(self, changes: Mapping[str, bytes]) -> None:
        """The pristine tree with some files changed."""
        await self.sandbox.exec(f"find {WORKDIR} -mindepth 1 -delete; cp -a {PRISTINE}/. {WORKDIR}", timeout_s=60)
        for path, content in changes.items():
            await self.sandbox.write(f"{WORKDIR}/{path}", content)

    async def run(self, changes: Mapping[str, bytes], command: str, timeout_s: float) -> Run:
        """Run a test command on a variant of the tree."""
        await self.reset(changes)
        result = await self.sandbox.exec(command, timeout_s=timeout_s)
        return parse(result)

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
    return Run(statuses, None if killed else result.exit_code, result.output, result.duration_s)


@dataclass(frozen=True)
class Suite:
    """What a package's tests do on the pristine tree."""

    command: str
    passing: frozenset[str]
    """Ids that passed twice, all of them in `.py` files."""
    test_files: frozenset[str]
    duration_s: float
    """Of the slower of two runs."""


async def measure(name: str, lab: Lab, *, max_duration_s: float, min_tests: int) -> Suite:
    """Run the suite twice on the pristine tree.

    Raises:
        TaskError: why no tasks can be made of it.
    """
    command, first = await _collectable(name, lab)
    second = await lab.run({}, command, CLEAN_TIMEOUT_S)
    slowest = max(first.duration_s, second.duration_s)
    if second.exit_code is None or slowest > max_duration_s:
        raise TaskError(f"{name}: its tests take {slowest:.0f} s, more than {max_duration_s:.0f} s")
    passing = {test for test in first.passed() & second.passed() if ".py::" in test}
    flaky = first.passed() ^ second.passed()
    if len(passing) < min_tests:
        raise TaskError(f"{name}: only {len(passing)} tests pass{_last_words(first)}")
    if len(flaky) > max(3, len(passing) // 10):
        raise TaskError(f"{name}: {len(flaky)} tests pass in one run and not in the next")
    files = frozenset(test.split("::")[0] for test in passing)
    return Suite(command, frozenset(passing), files, slowest)


async def _collectable(name: str, lab: Lab) -> tuple[str, Run]:
    """The first test command under which enough can be collected; files that cannot are left out of it."""
    best: tuple[str, Run] | None = None
    for fallback in FALLBACKS:
        command = TEST_COMMAND + fallback
        run = await lab.run({}, command, CLEAN_TIMEOUT_S)
        if run.exit_code is None:
            raise TaskError(f"{name}: its tests take more than {CLEAN_TIMEOUT_S:.0f} s")
        if run.exit_code in (2, 3) and (broken := sorted(set(_BROKEN_FILE.findall(run.output)))):
            command += "".join(f" --ignore={file}" for file in broken)
            run = await lab.run({}, command, CLEAN_TIMEOUT_S)
        if run.exit_code is not None and (best is None or len(run.passed()) > len(best[1].passed())):
            best = command, run
        if run.exit_code in (0, 1):
            break
    assert best is not None
    if not best[1].passed():
        raise TaskError(f"{name}: no test can be run{_last_words(best[1])}")
    return best


def _last_words(run: Run) -> str:
    """The most telling line of a run that failed."""
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    telling = [line[2:].strip() for line in lines if line.startswith("E  ")] or [
        line for line in lines if re.match(r"(ERROR|ImportError|ModuleNotFoundError|no tests ran)", line)
    ]
    words = (telling or lines[-1:] or ["it prints nothing"])[0]
    return f" ({words[:200]})"


@contextlib.asynccontextmanager
async def labs(count: int, tree: Path, environment: Environment, backend: Backend) -> AsyncIterator[list[Lab]]:
    """Several labs of one package, closed at the end."""
    opened: list[Lab] = []
    try:
        for _ in range(count):
            opened.append(await Lab.open(tree, environment, backend))
        yield opened
    finally:
        for lab in opened:
            await lab.close()
