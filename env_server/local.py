"""The environment in this process: what a trainer uses where no server runs. Same interface, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from env_server.schema import Task
from env_server.service import EnvService
from env_server.settings import Settings
from env_server.tasks.base import load_tasks
from env_server.tasks.math import generate_problems, load_math
from sandboxes import available, open_backend

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


def open_environment(tasks: Iterable[Task], sandbox: str = "auto", settings: Settings | None = None) -> EnvService:
    """An environment service with a sandbox backend where a task needs one.

    Raises:
        SandboxUnavailable: a task needs a sandbox and none works here; the message says what to install.
        TaskError: two tasks share an `instance_id`.
    """
    rows = list(tasks)
    backend = open_backend(sandbox) if any(task.kind == "swe" for task in rows) else None
    return EnvService(rows, backend, settings or Settings())


async def make_valid_tasks(
    packages: list[str],
    count: int,
    out: Path,
    *,
    seed: int,
    difficulty: str,
    workers: int,
    on_progress: Progress,
) -> list[Task]:
    """Make tasks from packages and keep those where gold resolves and empty does not. Raises TaskError,
    SandboxError."""
    from env_server.tasks.make import make_tasks
    from env_server.tasks.validate import validate_tasks

    backend = open_backend()
    try:
        tasks = await make_tasks(
            packages,
            count,
            out,
            seed=seed,
            difficulty=difficulty,
            workers=workers,
            backend=backend,
            on_progress=lambda done, total: on_progress("making tasks", done, total),
        )
        results = await validate_tasks(
            tasks,
            backend,
            Settings(),
            workers,
            on_progress=lambda done, total: on_progress("validating tasks", done, total),
        )
    finally:
        await backend.close()
    good = {r.instance_id for r in results if r.ok}
    return [t for t in tasks if t.instance_id in good]


__all__ = [
    "Progress",
    "available",
    "generate_problems",
    "load_math",
    "load_tasks",
    "make_valid_tasks",
    "open_environment",
]
