"""The environment service: tasks, sessions and verdicts, in process. `env_server.app` puts it behind HTTP.

Left out: queues for callers above capacity, results that outlive their session, sharing sessions between
processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import Any

from env_server.errors import BadRequest, CapacityReached, TaskError, UnknownSession, UnknownTask
from env_server.schema import Action, Observation, SessionInfo, Task, TaskInfo, Verdict
from env_server.sessions import Budget, Session
from env_server.settings import Settings
from env_server.tasks.attempts import MathAttempt, SweAttempt, grade_answer
from env_server.tasks.base import Attempt
from sandboxes.base import Backend
from sandboxes.errors import SandboxError, SandboxUnavailable

log = logging.getLogger(__name__)


class EnvService:
    """Owns its sessions and the backend. Use it from one event loop.

    Args:
        tasks: all that can be attempted, with distinct `instance_id`s.
        backend: makes the sandboxes; None if no task needs one.
        settings: the defaults, and the most that a client may ask for.

    Raises:
        TaskError: two tasks share an `instance_id`.
    """

    def __init__(self, tasks: Iterable[Task], backend: Backend | None, settings: Settings) -> None:
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            if task.instance_id in self._tasks:
                raise TaskError(f"two tasks are called {task.instance_id}; remove one")
            self._tasks[task.instance_id] = task
        self._backend = backend
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._leases: dict[str, asyncio.Task[None]] = {}
        self._opening = 0
        self._closed = False
        # Tests that share a core with other tests run into their time limit, and a time limit is no verdict.
        self._grading = asyncio.Semaphore(os.cpu_count() or 1)

    async def list_tasks(self) -> list[TaskInfo]:
        """The public part of every task."""
        return [task.public() for task in self._tasks.values()]

    async def get_task(self, task_id: str) -> TaskInfo:
        """The public part of one task. Raises UnknownTask."""
        return self._task(task_id).public()

    async def create_session(
        self, task_id: str, *, max_steps: int | None = None, lease_s: float | None = None
    ) -> SessionInfo:
        """Lease an attempt at a task.

        Args:
            task_id: its `instance_id`.
            max_steps: actions it may take; never more than `Settings.max_steps`, the default.
            lease_s: seconds it lives without a request; never more than `Settings.lease_s`, the default.

        Raises:
            UnknownTask, BadRequest, CapacityReached, and SandboxUnavailable if no sandbox can be made.
        """
        task = self._task(task_id)
        budget = self._budget(max_steps, lease_s)
        session = Session(task, await self._open(task, budget), budget)
        if self._closed:
            await session.close()
            raise UnknownSession("the service is closed")
        self._sessions[session.id] = session
        self._leases[session.id] = asyncio.create_task(session.expire(lambda: self.close_session(session.id)))
        return session.info()

    async def get_session(self, session_id: str) -> SessionInfo:
        """Where a session stands; renews its lease. Raises UnknownSession."""
        session = self._session(session_id)
        session.renew()
        return session.info()

    async def step(self, session_id: str, action: Action, *, idempotency_key: str | None = None) -> Observation:
        """Carry out one action; with a key, never twice: the same key gets the stored answer.

        Raises:
            UnknownSession, SessionBusy, SessionDone, KeyReused.
            SandboxGone: infrastructure failed. Nothing is known of the action and nothing may be scored.
        """
        return await self._session(session_id).step(action, idempotency_key)

    async def heartbeat(self, session_id: str) -> None:
        """Renew the lease. Raises UnknownSession."""
        self._session(session_id).renew()

    async def evaluate(self, session_id: str) -> Verdict:
        """Judge the work of a session: its patch, in a fresh sandbox, or its submitted answer.

        Returns:
            A verdict; masked (`reward` is None) if infrastructure failed.

        Raises:
            UnknownSession, SessionBusy.
        """
        return await self._session(session_id).evaluate()

    async def grade(self, task_id: str, patch: str) -> Verdict:
        """Judge a patch, or for a math task an answer, without a session. Raises UnknownTask."""
        return await self._grade(self._task(task_id), patch)

    async def close_session(self, session_id: str) -> None:
        """End a session and kill its sandbox. Idempotent: an unknown session is a closed one."""
        lease = self._leases.pop(session_id, None)
        if lease is not None and lease is not asyncio.current_task():
            lease.cancel()
        session = self._sessions.pop(session_id, None)
        if session is not None:
            await session.close()

    async def close(self) -> None:
        """End every session and close the backend. Idempotent."""
        self._closed = True
        ends = (self.close_session(session_id) for session_id in list(self._sessions))
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                log.error("a session did not close: %r", failure)
        if self._backend is not None:
            await self._backend.close()

    async def healthy(self) -> dict[str, Any]:
        """`status`, live `sessions`, those that hold a sandbox, how many may, the backend's name, `tasks`."""
        return {
            "status": "ok",
            "sessions": len(self._sessions),
            "sandboxes": self._held(),
            "capacity": self._settings.max_sessions,
            "backend": self._backend.name if self._backend else None,
            "tasks": len(self._tasks),
        }

    def _task(self, task_id: str) -> Task:
        if task := self._tasks.get(task_id):
            return task
        raise UnknownTask(f"no task {task_id!r} here; {len(self._tasks)} tasks are served, see list_tasks")

    def _session(self, session_id: str) -> Session:
        if session := self._sessions.get(session_id):
            return session
        raise UnknownSession("no such session: it was closed or its lease expired; create a new one")

    def _budget(self, max_steps: int | None, lease_s: float | None) -> Budget:
        limits = self._settings
        if max_steps is not None and max_steps < 1:
            raise BadRequest(f"max_steps is {max_steps}; it must be at least 1")
        if lease_s is not None and not lease_s > 0:
            raise BadRequest(f"lease_s is {lease_s}; it must be above 0")
        return Budget(
            max_steps=min(max_steps or limits.max_steps, limits.max_steps),
            command_timeout_s=limits.command_timeout_s,
            lease_s=min(lease_s or limits.lease_s, limits.lease_s),
        )

    def _held(self) -> int:
        return self._opening + sum(session.kind == "swe" for session in self._sessions.values())

    async def _open(self, task: Task, budget: Budget) -> Attempt:
        if task.kind == "math":
            return MathAttempt(task, budget.max_steps)
        if self._held() >= self._settings.max_sessions:
            raise CapacityReached(f"{self._settings.max_sessions} sessions are live; close one or try later")
        self._opening += 1
        try:
            return await SweAttempt.open(task, self._need_backend(task), self._settings, self._grade)
        finally:
            self._opening -= 1

    async def _grade(self, task: Task, submission: str) -> Verdict:
        if task.kind == "math":
            return await grade_answer(task, submission)
        # swebench takes seconds to import
        from env_server.grading import grade_patch

        async with self._grading:
            try:
                return await grade_patch(task, submission, self._need_backend(task), self._settings)
            except SandboxError as error:
                return Verdict.masked(task.instance_id, "infra", str(error))

    def _need_backend(self, task: Task) -> Backend:
        if self._backend is None:
            raise SandboxUnavailable(f"{task.instance_id} needs a sandbox and the service has none")
        return self._backend
