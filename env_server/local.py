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


def open_environment(tasks: Iterable[Task], sandbox: str = "auto", settings: Settings | None = None) -> EnvService:
    """An environment service with a sandbox backend where a task needs one.

    Raises:
        SandboxUnavailable: a task needs a sandbox and none works here; the message says what to install.
        TaskError: two tasks share an `instance_id`.
    """
    rows = list(tasks)
    backend = open_backend(sandbox) if any(task.kind == "swe" for task in rows) else None
    return EnvService(rows, backend, settings or Settings())


async def make_tasks(
    packages: list[str],
    count: int,
    out: Path,
    *,
    seed: int,
    difficulty: str,
    workers: int,
    on_progress: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> list[Task]:
    """`env_server.tasks.make.make_tasks` in the first sandbox that works here. Raises TaskError, SandboxError."""
    from env_server.tasks import make

    backend = open_backend()
    try:
        return await make.make_tasks(
            packages,
            count,
            out,
            seed=seed,
            difficulty=difficulty,
            workers=workers,
            backend=backend,
            on_progress=on_progress,
            on_note=on_note,
        )
    finally:
        await backend.close()


__all__ = [
    "available",
    "generate_problems",
    "load_math",
    "load_tasks",
    "make_tasks",
    "open_environment",
]
