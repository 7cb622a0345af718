"""Make tasks from packages: plant bugs, keep those that one to ten of the package's own tests notice, write rows.

The same packages, seed and difficulty give the same tasks, unless a run is lost to a time limit.
Left out: judging the rows again (`validate`), and packages whose tests need the network or compiled code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from env_server.errors import TaskError
from env_server.schema import Task
from env_server.tasks.choose import LEVELS
from env_server.tasks.environments import Environment, build
from env_server.tasks.factory import Factory
from env_server.tasks.sources import Source, fetch
from env_server.tasks.suite import Lab, labs, log_parser, measure
from sandboxes.base import Backend

MAX_SUITE_S = 20.0
MIN_TESTS = 5
Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""
Note = Callable[[str], None]
"""Called with a line on what just happened."""


@dataclass
class PackageReport:
    """What came of one package."""

    made: int = 0
    tried: int = 0
    """Variants of the tree that were run."""
    kinds: dict[str, int] = field(default_factory=dict)
    difficulty: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    """Why it gave fewer tasks than its share; empty if it did not."""


class Writer:
    """Collects tasks and appends each to the file at once, so that an interruption loses none.

    An earlier file makes way when there is a first task, not before.
    """

    def __init__(self, out: Path, total: int, on_progress: Progress | None, on_note: Note | None) -> None:
        self.tasks: list[Task] = []
        self.say: Note = on_note or (lambda what: None)
        """Tells what just happened."""
        self._total = total
        self._on_progress = on_progress or (lambda made, total: None)
        self._out = out
        self._handle: TextIO | None = None
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        except OSError as error:
            raise TaskError(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from error

    def add(self, task: Task) -> None:
        """Keep one task."""
        if self._handle is None:
            self._handle = self._open()
        self.tasks.append(task)
        self._handle.write(json.dumps(task.row(), ensure_ascii=False) + "\n")
        self._handle.flush()
        self._on_progress(len(self.tasks), self._total)
        self.say(f"{task.repo}: {task.instance_id}")

    def close(self, report: dict[str, PackageReport], settings: dict[str, Any]) -> None:
        """Write report.json beside the tasks."""
        if self._handle is not None:
            self._handle.close()
        row = {**settings, "made": len(self.tasks), "packages": {k: vars(v) for k, v in report.items()}}
        (self._out / "report.json").write_text(json.dumps(row, indent=1) + "\n")

    def _open(self) -> TextIO:
        """An empty file is not worth a good one that was set aside before."""
        path = self._out / "tasks.jsonl"
        if path.exists() and path.stat().st_size:
            path.replace(self._out / "tasks.previous.jsonl")
        return path.open("w", encoding="utf-8")


async def make_tasks(
    packages: Sequence[str],
    count: int,
    out: Path,
    *,
    seed: int,
    difficulty: str,
    workers: int,
    backend: Backend,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> list[Task]:
    """Make `count` tasks, spread evenly over the packages; what one cannot give the others make up for.

    Args:
        packages: `NAME` or `NAME==VERSION`, of source distributions on the package index.
        count: tasks wanted. Fewer are returned where the packages do not have them; report.json says why.
        out: folder for tasks.jsonl and report.json; an earlier tasks.jsonl becomes tasks.previous.jsonl
            when the first task is made.
        difficulty: `easy`, `medium`, `hard` or `mixed`.
        workers: sandboxes at work at the same time.

    Raises:
        TaskError: bad arguments, or `out` cannot be written.
        SandboxError: no sandbox can be made.
    """
    if difficulty not in LEVELS:
        raise TaskError(f"unknown difficulty {difficulty!r}: choose {', '.join(LEVELS)}")
    if not packages or count < 1 or workers < 1:
        raise TaskError("tasks need at least one package, a count of 1 or more, and 1 or more workers")
    names = list(dict.fromkeys(packages))
    writer = Writer(out, count, on_progress, on_note)
    reports = {name: PackageReport() for name in names}
    maker = _Maker(names, count, writer, reports, seed, difficulty, workers, backend)
    warm = asyncio.create_task(asyncio.to_thread(log_parser, "parse_log_pytest"))
    try:
        await maker.run()
    finally:
        await warm
        writer.close(reports, {"seed": seed, "difficulty": difficulty, "wanted": count})
    return writer.tasks


class _Maker:
    """One call of `make_tasks`."""

    def __init__(
        self,
        names: Sequence[str],
        count: int,
        writer: Writer,
        reports: dict[str, PackageReport],
        seed: int,
        difficulty: str,
        workers: int,
        backend: Backend,
    ) -> None:
        self._names = names
        self._writer = writer
        self._reports = reports
        self._seed = seed
        self._difficulty = difficulty
        self._workers = workers
        self._backend = backend
        self._gate = asyncio.Semaphore(workers)
        self._count = count
        self._sources: dict[str, tuple[Source, Environment]] = {}
        self._factories: dict[str, Factory] = {}

    async def run(self) -> None:
        """Rounds: each package its share, then what some could not give is shared among the others."""
        live = list(self._names)
        while live and (missing := self._count - len(self._writer.tasks)) > 0:
            base, extra = divmod(missing, len(live))
            shares = {name: base + (i < extra) for i, name in enumerate(live)}
            await self._round({name: share for name, share in shares.items() if share})
            live = [name for name in live if not self._reports[name].reason]

    async def _round(self, shares: dict[str, int]) -> None:
        """As many packages side by side as there are workers; what is spare goes to parallel runs of one package."""
        side_by_side = asyncio.Semaphore(self._workers)
        width = max(1, self._workers // len(shares))

        async def one(name: str, share: int) -> None:
            async with side_by_side:
                try:
                    await self._fill(name, share, width)
                except TaskError as error:
                    self._reports[name].reason = str(error)
                    self._writer.say(f"skipped {error}")

        try:
            async with asyncio.TaskGroup() as group:
                for name, share in shares.items():
                    group.create_task(one(name, share))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one is enough for a person to act on

    async def _fill(self, name: str, share: int, width: int) -> None:
        report = self._reports[name]
        if name not in self._sources:
            self._writer.say(f"{name}: fetching and installing")
            async with self._gate:
                self._sources[name] = await asyncio.to_thread(_install, name)
        source, environment = self._sources[name]
        made = 0
        async with labs(width, source.tree, environment, self._backend, self._gate) as opened:
            factory = await self._factory(name, opened[0])
            async with contextlib.aclosing(factory.tasks(opened, share)) as stream:
                async for task in stream:
                    self._keep(task, report)
                    made += 1
        report.tried = factory.tried
        if made < share:
            report.reason = f"{name}: only {report.made} of {report.tried} planted bugs make a task"
            self._writer.say(report.reason)

    async def _factory(self, name: str, lab: Lab) -> Factory:
        """The package's factory, which keeps its place between rounds."""
        if name not in self._factories:
            self._writer.say(f"{name}: running its tests")
            async with self._gate:
                suite = await measure(name, lab, self._sources[name][1].modules, max_s=MAX_SUITE_S, min_tests=MIN_TESTS)
            self._factories[name] = await asyncio.to_thread(
                Factory, *self._sources[name], suite, self._gate, self._seed, self._difficulty
            )
        return self._factories[name]

    def _keep(self, task: Task, report: PackageReport) -> None:
        self._writer.add(task)
        report.made += 1
        assert task.difficulty is not None
        kinds = Counter(report.kinds) + Counter(task.difficulty.kinds)
        report.kinds = dict(kinds.most_common())
        edits = f"{task.difficulty.edits} edit{'s' if task.difficulty.edits > 1 else ''}"
        report.difficulty[edits] = report.difficulty.get(edits, 0) + 1


def _install(name: str) -> tuple[Source, Environment]:
    source = fetch(name)
    return source, build(source)
