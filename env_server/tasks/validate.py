"""Prove every row on this machine: its gold patch resolves it, and an empty patch does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from env_server.grading import grade_patch
from env_server.schema import Task, Verdict
from env_server.settings import Settings
from env_server.tasks.make import Progress
from sandboxes.base import Backend


@dataclass(frozen=True)
class Validation:
    """What came of one row."""

    instance_id: str
    gold: bool | None
    """Whether the gold patch resolves it; None if that could not be judged."""
    empty: bool | None
    """Whether the empty patch resolves it, which it must not."""
    problem: str
    """Empty if the row is good."""

    @property
    def ok(self) -> bool:
        """Whether the row may be trained and scored on."""
        return not self.problem


async def validate_tasks(
    tasks: Sequence[Task],
    backend: Backend,
    settings: Settings,
    workers: int,
    on_progress: Progress | None = None,
) -> list[Validation]:
    """Grade gold and empty for every row, `workers` at a time; results in the order of the rows.

    A row that cannot be judged here is a row that fails, with the reason.
    """
    gate = asyncio.Semaphore(workers)
    done = 0

    async def one(task: Task) -> Validation:
        nonlocal done
        async with gate:
            found = await _validate(task, backend, settings)
        done += 1
        if on_progress:
            on_progress(done, len(tasks))
        return found

    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(one(task)) for task in tasks]
    return [job.result() for job in jobs]


async def _validate(task: Task, backend: Backend, settings: Settings) -> Validation:
    if task.kind != "swe":
        return Validation(task.instance_id, None, None, f"a {task.kind} task has no patch to validate")
    gold = await grade_patch(task, task.patch, backend, settings)
    empty = await grade_patch(task, "", backend, settings)
    problems = [_gold_problem(gold), _empty_problem(empty)]
    return Validation(task.instance_id, gold.resolved, empty.resolved, "; ".join(p for p in problems if p))


def _gold_problem(verdict: Verdict) -> str:
    if verdict.failure:
        return f"gold could not be judged ({verdict.failure.reason})"
    if verdict.resolved:
        return ""
    if not verdict.patch_applied:
        return "the gold patch does not apply"
    bad = [f"{test} {status}" for test, status in verdict.tests.items() if status not in ("PASSED", "XFAIL")]
    return f"gold does not resolve ({', '.join(bad[:3]) or verdict.log[-200:]})"


def _empty_problem(verdict: Verdict) -> str:
    if verdict.failure:
        return f"empty could not be judged ({verdict.failure.reason})"
    return "the empty patch resolves it" if verdict.resolved else ""
