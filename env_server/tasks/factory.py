"""Turn planted edits of one package into tasks: run them, hide the failing tests, find the symptom, write the row.

Left out: which packages, and how many tasks of each (`make`).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from env_server.errors import TaskError
from env_server.schema import Difficulty, Task
from env_server.tasks import statement
from env_server.tasks.choose import Chooser
from env_server.tasks.environments import Environment
from env_server.tasks.hidden import function_of, without_tests
from env_server.tasks.mutate import Copies, Edit, candidates, overlap, splice
from env_server.tasks.sources import Source
from env_server.tasks.suite import Lab, Suite
from env_server.tasks.symptom import Observed, observe
from env_server.tasks.trees import copy_tree, diff_files, is_test_side, make_repository, write_files

MAX_FAILING = 10
BROAD = 60
"""Tests that call a function: above it, most bugs fail more than ten."""
SPARE = 3
"""Tasks without code that are set aside before one is taken: what the search may cost a package that has no other."""
PATIENCE = 12
"""Runs per wanted task before a package counts as exhausted."""


@dataclass(frozen=True)
class Planted:
    """Edits that make some tests fail."""

    edits: tuple[Edit, ...]
    failing: tuple[str, ...]
    parts: tuple[Planted, ...] = ()
    """What it was combined of: edits that were run alone."""

    def own(self) -> list[frozenset[str]]:
        """Of each edit, the tests that no other one makes fail."""
        return _own(self.parts or (self,))


def _own(parts: Sequence[Planted]) -> list[frozenset[str]]:
    return [frozenset(part.failing).difference(*(o.failing for o in parts if o is not part)) for part in parts]


class Factory:
    """Makes tasks of one package. Keeps its place: asked again, it goes on with other edits."""

    def __init__(
        self,
        source: Source,
        environment: Environment,
        suite: Suite,
        gate: asyncio.Semaphore,
        seed: int,
        difficulty: str,
    ) -> None:
        self.source = source
        self.environment = environment
        self.tried = 0
        self._suite = suite
        self._gate = gate
        self._files = {
            path.relative_to(source.tree).as_posix(): path.read_bytes()
            for path in sorted(source.tree.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        self._rng = random.Random(f"{seed} {source.name} {source.version}")
        modules = [m for m in environment.modules if m not in suite.test_files and not is_test_side(m)]
        every = [edit for module in modules for edit in candidates(module, self._files[module])]
        edits = [edit for edit in every if (edit.file, edit.function) in suite.callers]
        copies = Copies(self._files, environment.site_packages)
        broad = {function for function, tests in suite.callers.items() if len(tests) > BROAD or "" in tests}
        self._chooser = Chooser(edits, self._files, copies, self._rng, difficulty, broad)
        self._pool: list[Planted] = []
        self._spare: list[Task] = []
        self._cpu_s = 3 * suite.cpu_s + 3

    async def tasks(self, labs: Sequence[Lab], count: int) -> AsyncGenerator[Task, None]:
        """Up to `count` tasks; fewer if edits or patience run out."""
        plan = self._chooser.plan(count)
        made, size, last = 0, next(plan), self.tried + PATIENCE * count + 30
        while made < count and self.tried < last:
            planted = await self._next(labs, size)
            if planted is None:
                if size == 1:
                    break
                size = 1  # no edits left to combine
                continue
            task = await self._finish(labs[0], planted)
            if task is None:
                self._pool += planted.parts[1:]
                continue
            self._chooser.count(planted.edits)
            if (task := self._rather_code(task)) is not None:
                made += 1
                size = next(plan)
                yield task
        while made < count and self._spare:
            made += 1
            yield self._spare.pop(0)

    def _rather_code(self, task: Task) -> Task | None:
        """Set a few tasks whose statement holds no code aside, in the hope of better ones."""
        if statement.CODE in task.problem_statement:
            return task
        self._spare.append(task)
        return self._spare.pop(0) if len(self._spare) > SPARE else None

    async def _next(self, labs: Sequence[Lab], size: int) -> Planted | None:
        """Edits whose failing tests are few enough; None if there are no more, or too few that go together."""
        last = self.tried + PATIENCE
        while size == 1 or self.tried < last:
            if size == 1 and self._pool:
                return self._pool.pop(0)
            if size > 1 and (combined := await self._combined(labs[0], size)):
                return combined
            drawn = [edit for _ in labs if (edit := self._chooser.draw()) is not None]
            if not drawn:
                return None
            runs = [self._run(lab, [edit]) for lab, edit in zip(labs, drawn, strict=False)]
            self._pool += [planted for planted in await asyncio.gather(*runs) if planted is not None]
        return None

    async def _combined(self, lab: Lab, size: int) -> Planted | None:
        """Several edits of the pool as one; each was seen to break something on its own."""
        parts = self._combination(size)
        if parts is None:
            return None
        self._pool = [part for part in self._pool if part not in parts]
        combined = await self._run(lab, [edit for part in parts for edit in part.edits])
        if combined is None:
            self._pool += parts[1:]
            return None
        return replace(combined, parts=parts)

    def _combination(self, size: int) -> tuple[Planted, ...] | None:
        """Planted edits in different places, each with failing tests of its own; in one file if possible."""
        fitting = [
            parts
            for parts in combinations(self._pool[:8], size)
            if not overlap([edit for part in parts for edit in part.edits])
            and all(_own(parts))
            and len({test for part in parts for test in part.failing}) <= MAX_FAILING
        ]
        return min(fitting, key=lambda parts: len({part.edits[0].file for part in parts}), default=None)

    async def _run(self, lab: Lab, edits: Sequence[Edit]) -> Planted | None:
        """Run the tests that call the edited functions; None unless one to ten fail and the others still run."""
        self.tried += 1
        reached = self._suite.reach((edit.file, edit.function) for edit in edits)
        if not reached:
            return None
        command = f"{self._suite.run_only(reached)} --maxfail={MAX_FAILING + 1}"
        async with self._gate:
            run = await lab.run(self._changes(edits), command, self._cpu_s)
        if run.exit_code not in (0, 1) or not reached <= run.statuses.keys():
            return None
        failing = sorted(test for test in reached if run.statuses[test] in ("FAILED", "ERROR"))
        skipped = [test for test in reached if run.statuses[test] in ("SKIPPED", "XPASS")]
        if skipped or not 1 <= len(failing) <= MAX_FAILING or len(failing) == len(self._suite.passing):
            return None
        return Planted(tuple(edits), tuple(failing))

    def _changes(self, edits: Sequence[Edit]) -> dict[str, bytes]:
        files = {edit.file for edit in edits}
        return {f: splice(self._files[f], [edit for edit in edits if edit.file == f]) for f in sorted(files)}

    async def _finish(self, lab: Lab, planted: Planted) -> Task | None:
        """Hide the failing tests, look for the symptom, write the row; None if any of that cannot be done."""
        bug = self._changes(planted.edits)
        try:
            tests = self._without(planted.failing)
        except TaskError:
            return None
        edited = [(edit.file, edit.function) for edit in planted.edits]
        async with self._gate:
            observed = await observe(
                lab,
                self._suite.options,
                planted.failing,
                self.environment.modules,
                bug,
                edited,
                self._cpu_s,
            )
            told = _told(planted, observed)
            if told is None or not set(planted.failing) <= observed.confirmed:
                return None
            if not await self._still_runs(lab, {**bug, **tests}, planted):
                return None
        return await asyncio.to_thread(self._row, planted, bug, tests, told)

    def _without(self, failing: Sequence[str]) -> dict[str, bytes]:
        """The test files without the functions of the failing tests."""
        by_file: dict[str, list[str]] = {}
        for test in failing:
            file, _, rest = test.partition("::")
            by_file.setdefault(file, []).append(rest)
        return {file: without_tests(self._files[file], rests) for file, rests in by_file.items()}

    async def _still_runs(self, lab: Lab, changes: dict[str, bytes], planted: Planted) -> bool:
        """Whether the tests that stay pass in the agent's tree: of the changed files, and what the bug can touch."""
        gone = {function_of(test) for test in planted.failing}
        files = {test.split("::")[0] for test in planted.failing}
        reached = self._suite.reach((edit.file, edit.function) for edit in planted.edits)
        near = {test for test in self._suite.passing if test.split("::")[0] in files} | reached
        left = frozenset(test for test in near if function_of(test) not in gone)
        run = await lab.run(changes, self._suite.run_only(left), self._cpu_s)
        return run.exit_code in (0, 1, 5) and left <= run.passed()

    def _row(self, planted: Planted, bug: dict[str, bytes], tests: dict[str, bytes], told: Observed) -> Task | None:
        pristine = {file: self._files[file] for file in (*bug, *tests)}
        setup_patch = diff_files(pristine, {**bug, **tests})
        digest = hashlib.sha256(setup_patch.encode()).hexdigest()[:8]
        name, version = self.source.name, self.source.version
        instance_id = f"{name}-{version}__{digest}"
        python, edits = self.environment.record.python, len(planted.edits)
        text = statement.write(told, package=name, version=version, python=python, seed=instance_id, edits=edits)
        if text is None:
            return None
        return Task(
            instance_id=instance_id,
            repo=name,
            base_commit=self._commit({**bug, **tests}),
            problem_statement=text,
            patch=diff_files(bug, {file: pristine[file] for file in bug}),
            test_patch=diff_files(tests, {file: pristine[file] for file in tests}),
            FAIL_TO_PASS=list(planted.failing),
            PASS_TO_PASS=sorted(self._suite.passing - set(planted.failing)),
            version=version,
            created_at=self.source.created_at,
            test_cmd=self._suite.command,
            setup_patch=setup_patch,
            environment=self.environment.record,
            difficulty=Difficulty(
                kinds=[edit.kind for edit in planted.edits],
                edits=edits,
                function_lines=max(edit.function_lines for edit in planted.edits),
                call_distance=told.distance,
            ),
        )

    def _commit(self, changes: dict[str, bytes]) -> str:
        """The sha that every rebuild of the agent's tree has."""
        with tempfile.TemporaryDirectory(prefix="agent-srl-tree-") as folder:
            copy_tree(self.source.tree, Path(folder))
            write_files(Path(folder), dict(changes))
            return make_repository(Path(folder))


def _told(planted: Planted, observed: Observed) -> Observed | None:
    """What the statement may tell: of several edits a symptom each, or nothing; of one, its crash will do."""
    if not planted.parts:
        return observed if observed.symptoms or (observed.crash and observed.calls) else None
    each = [next((s for s in observed.symptoms if s.test in own), None) for own in planted.own()]
    found = [symptom for symptom in each if symptom is not None]
    if len(found) < len(each):
        return None
    return replace(observed, symptoms=tuple(sorted(found, key=lambda symptom: not symptom.code)))
