"""Record how an expert that knows the gold patch solves tasks in real sandboxes.

The observations are what the sandbox printed and the verdict is the service's own; a run that does not end
resolved is dropped and named. Left out: looking around (`expert_facts`), routes (`expert_routes`), words
(`expert_thoughts`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agent_srl.data.expert_facts import Act, Facts, gather
from agent_srl.data.expert_routes import Run
from agent_srl.errors import DataError
from env_server.errors import EnvError
from env_server.schema import Action, Observation, Task, Trajectory
from env_server.service import EnvService

log = logging.getLogger(__name__)
SOURCE = "expert"


@dataclass(frozen=True)
class Dropped:
    """A run that was not kept."""

    instance_id: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.instance_id} (seed {self.seed}): {self.reason}"


class Part:
    """Finished runs in a file beside the output: an interruption loses none, and the next start takes them from there.

    A run counts as finished for the same task row and seed only. Runs that were not kept are tried again.

    Args:
        out: where the trajectories will go; the file is called the same, with `.part` at the end.

    Raises:
        DataError: the file cannot be read or, later, written.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + ".part")
        self._runs: dict[str, Trajectory] = {}
        try:
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}; remove it") from None
        for line in lines:
            try:
                row = json.loads(line)
                self._runs[row["run"]] = Trajectory.model_validate(row["trajectory"])
            except (ValueError, TypeError, KeyError, ValidationError):
                continue  # torn by the interruption

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, task: Task, seed: int) -> Trajectory | None:
        """The run, if it is finished."""
        return self._runs.get(_key(task, seed))

    def add(self, task: Task, seed: int, run: Trajectory) -> None:
        """Keep a run."""
        self._runs[_key(task, seed)] = run
        line = json.dumps({"run": _key(task, seed), "trajectory": run.model_dump()})
        try:
            with self.path.open("a") as handle:
                handle.write(f"\n{line}\n")  # the line before may be torn
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}") from None

    def drop(self) -> None:
        """Once the output is written."""
        self.path.unlink(missing_ok=True)


def _key(task: Task, seed: int) -> str:
    return hashlib.sha256(f"{seed} {task.model_dump_json()}".encode()).hexdigest()


async def record_trajectory(task: Task, service: EnvService, seed: int) -> Trajectory:
    """One resolved run. The same task, tree and seed take the same actions.

    Raises:
        DataError: the patch cannot be shown, or the run did not end resolved.
        EnvError, SandboxError: the service failed.
    """
    return await _record(task, await scout(task, service), service, seed)


async def record_trajectories(
    tasks: Iterable[Task],
    service: EnvService,
    *,
    seed: int,
    workers: int,
    per_task: int = 1,
    part: Part | None = None,
    on_progress: Callable[[], None] | None = None,
    on_drop: Callable[[Dropped], None] | None = None,
) -> list[Trajectory]:
    """`per_task` runs of every task, with seeds `seed`, `seed + 1`, ...; at most `workers` tasks at a time.

    Args:
        part: keeps finished runs, and gives those that it has.
        on_progress: called when a task is finished.
        on_drop: called for each run that is not kept; without it, such a run is logged as a warning.

    Raises:
        SandboxError: no sandbox can be made, so that no task can be recorded.
    """
    gate = asyncio.Semaphore(workers)

    async def one(task: Task) -> list[Trajectory | Dropped]:
        async with gate:
            results = await _attempts(task, service, range(seed, seed + per_task), part)
        if on_progress is not None:
            on_progress()
        return results

    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(task)) for task in tasks]
    except ExceptionGroup as failures:  # the first says enough
        raise failures.exceptions[0] from None
    results = [result for task in running for result in task.result()]
    for result in results:
        if isinstance(result, Dropped):
            on_drop(result) if on_drop else log.warning("not kept: %s", result)
    return [result for result in results if isinstance(result, Trajectory)]


async def scout(task: Task, service: EnvService) -> Facts:
    """Gather the facts in a session that leaves no trace. Raises as `record_trajectory`."""
    info = await service.create_session(task.instance_id)
    try:
        return await gather(task, _stepper(service, info.session_id))
    finally:
        await service.close_session(info.session_id)


async def _attempts(task: Task, service: EnvService, seeds: range, part: Part | None) -> list[Trajectory | Dropped]:
    """Failures of one task are its own; a missing sandbox or a full disk ends everything."""
    done = {seed: run for seed in seeds if part is not None and (run := part.get(task, seed))}
    left = [seed for seed in seeds if seed not in done]
    results: dict[int, Trajectory | Dropped] = {**done}
    try:
        facts = await scout(task, service) if left else None
    except (DataError, EnvError) as error:
        return [done.get(seed) or Dropped(task.instance_id, seed, str(error)) for seed in seeds]
    for seed in left:
        assert facts is not None
        try:
            run = await _record(task, facts, service, seed)
        except (DataError, EnvError) as error:
            results[seed] = Dropped(task.instance_id, seed, str(error))
            continue
        results[seed] = run
        if part is not None:
            part.add(task, seed, run)
    return [results[seed] for seed in seeds]


async def _record(task: Task, facts: Facts, service: EnvService, seed: int) -> Trajectory:
    info = await service.create_session(task.instance_id)
    try:
        run = Run(facts, random.Random(f"{task.instance_id} {seed}"), _stepper(service, info.session_id))
        await run.record()
        verdict = await service.evaluate(info.session_id)
    finally:
        await service.close_session(info.session_id)
    if not verdict.resolved:
        why = verdict.failure.reason if verdict.failure else "the tests do not pass after the expert's edits"
        raise DataError(f"{task.instance_id}: not resolved ({why})")
    return Trajectory(
        instance_id=task.instance_id,
        repo=task.repo,
        problem_statement=task.problem_statement,
        steps=run.steps,
        source=SOURCE,
        resolved=True,
        patch=verdict.patch,
    )


def _stepper(service: EnvService, session_id: str) -> Act:
    async def act(action: Action) -> Observation:
        return await service.step(session_id, action)

    return act
