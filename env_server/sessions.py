"""One leased attempt at a task: steps, their replay, the lease, the verdict, the end.

Left out: what an action does (`env_server.tasks`), and which sessions there are (`env_server.service`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from env_server.errors import KeyReused, SessionBusy, SessionDone, UnknownSession
from env_server.schema import Action, Observation, SessionInfo, Task, Verdict
from env_server.tasks.base import Attempt
from sandboxes.errors import SandboxError, SandboxGone

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """What one session may use."""

    max_steps: int
    command_timeout_s: float
    lease_s: float


@dataclass(frozen=True)
class _KnownStep:
    action: Action
    task: asyncio.Task[Observation]


class Session:
    """Runs one step or one evaluation at a time, each to its end even if the caller goes away.

    So a client that lost its connection can ask again, with the same idempotency key, for the stored answer.
    """

    def __init__(self, task: Task, attempt: Attempt, budget: Budget) -> None:
        self.id = secrets.token_urlsafe(24)
        self._task = task
        self._attempt = attempt
        self._budget = budget
        self._steps = 0
        self._done = False
        self._closed = False
        self._lost = ""
        self._known: dict[str, _KnownStep] = {}
        self._stepping: asyncio.Task[Observation] | None = None
        self._judging: asyncio.Task[Verdict] | None = None
        self._judged_at = -1
        self._expires = time.monotonic() + budget.lease_s

    def info(self) -> SessionInfo:
        """What a client may know."""
        return SessionInfo(
            session_id=self.id,
            task=self._task.public(),
            tools=list(self._attempt.tools),
            max_steps=self._budget.max_steps,
            command_timeout_s=self._budget.command_timeout_s,
            lease_s=self._budget.lease_s,
            steps_taken=self._steps,
            done=self._done,
        )

    @property
    def kind(self) -> str:
        """Of its task: `swe` or `math`."""
        return self._task.kind

    def renew(self) -> None:
        """Any request extends the lease."""
        self._expires = time.monotonic() + self._budget.lease_s

    async def expire(self, close: Callable[[], Awaitable[None]]) -> None:
        """Wait until the lease has run out, then call `close`. A busy session never expires."""
        while (left := self._expires - time.monotonic()) > 0 or self._running():
            if left > 0:
                await asyncio.sleep(left)
            else:
                await asyncio.wait(self._running())
        log.warning("session %s on %s: lease expired", self.id, self._task.instance_id)
        await close()

    async def step(self, action: Action, key: str | None) -> Observation:
        """As `EnvService.step`."""
        self.renew()
        if key is not None and (known := self._known.get(key)):
            if known.action != action:
                raise KeyReused(f"idempotency key {key!r} was used for another action; take a new key per step")
            return await self._outcome(known.task)
        self._refuse_if_busy()
        if self._lost:
            raise SandboxGone(self._lost)
        if self._done:
            raise SessionDone(f"session on {self._task.instance_id} takes no further action; evaluate or close it")
        self._stepping = self._start(self._act(action))
        if key is not None:
            self._known[key] = _KnownStep(action, self._stepping)
        return await self._outcome(self._stepping)

    async def evaluate(self) -> Verdict:
        """As `EnvService.evaluate`. Asked again with no step in between, it joins or repeats the last."""
        self.renew()
        if self._judging is None or self._judged_at != self._steps or _is_masked(self._judging):
            self._refuse_if_busy()
            self._judging = self._start(self._judge())
            self._judged_at = self._steps
        return await self._outcome(self._judging)

    async def close(self) -> None:
        """End what runs and let go of the sandbox. Idempotent."""
        self._closed = True
        running = self._running()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._attempt.close()

    async def _act(self, action: Action) -> Observation:
        try:
            observation = await self._attempt.act(action)
        except SandboxError as error:
            self._lost = f"the sandbox of session on {self._task.instance_id} was lost: {error}"
            raise SandboxGone(self._lost) from error
        self._steps += 1
        left = self._budget.max_steps - self._steps
        self._done = observation.done or left <= 0
        return observation.model_copy(update={"done": self._done, "steps_left": left})

    async def _judge(self) -> Verdict:
        """Only a judgement of the work is a score; whatever else went wrong is masked."""
        name = self._task.instance_id
        if self._lost:
            return Verdict.masked(name, "sandbox_lost", self._lost)
        try:
            return await self._attempt.evaluate()
        except SandboxError as error:
            return Verdict.masked(name, "sandbox_lost", str(error))
        except Exception as error:
            log.exception("session %s on %s: evaluation failed", self.id, name)
            return Verdict.masked(name, "harness", f"{type(error).__name__}: {error}", retryable=False)

    def _running(self) -> list[asyncio.Task[Any]]:
        return [task for task in (self._stepping, self._judging) if task is not None and not task.done()]

    def _refuse_if_busy(self) -> None:
        if self._closed:
            raise UnknownSession(f"session on {self._task.instance_id} is closed; create a new one")
        if self._running():
            raise SessionBusy(f"session on {self._task.instance_id} is at work; wait for its answer")

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """The lease counts from the end of the work."""
        self.renew()
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it when the caller has gone away

    async def _outcome(self, task: asyncio.Task[T]) -> T:
        """Wait for shared work without owning it: a waiter that goes away must not stop it."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise UnknownSession(f"session on {self._task.instance_id} was closed while it was at work") from None


def _is_masked(task: asyncio.Task[Verdict]) -> bool:
    return task.done() and (task.cancelled() or task.result().failure is not None)
