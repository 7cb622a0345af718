"""What engines in this process share: callers that wait, and one thread that works for all who wait at the same time.

A failure reaches every caller it concerns as an EngineError; a caller that gives up is forgotten. Left out: how a batch
is run.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from agent_srl.errors import EngineError
from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion

T = TypeVar("T")


@dataclass(eq=False)
class Request:
    """One call of `generate`."""

    prompt: tuple[int, ...]
    n: int
    sampling: Sampling
    result: asyncio.Future[list[Completion]]

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.result.done()


class BatchingEngine(ABC):
    """Requests wait, are admitted, and advance in a thread until they are finished."""

    def __init__(self, *, inline: bool = False) -> None:
        """`inline`: work in the caller's thread, which serves others after each pass. On a CPU that is half as fast
        again: OpenMP keeps a team for each thread that ever computed, and lets all of them sleep early once there are
        more than cores."""
        self.inline = inline
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._worker: asyncio.Task[None] | None = None
        # One thread of its own: glibc keeps a heap for each thread that ever allocated.
        self._thread = ThreadPoolExecutor(1, "engine")
        self._closed = False

    async def generate(self, prompt_P: tuple[int, ...], n: int, sampling: Sampling) -> list[Completion]:
        """See `Engine.generate`."""
        if self._closed:
            raise EngineError("generation failed: the engine is closed")
        if not prompt_P or n < 1:
            raise EngineError(
                f"generation failed: a prompt of {len(prompt_P)} tokens, {n} samples: both must be 1 or more"
            )
        request = Request(prompt_P, n, sampling, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._serve())
        return await request.result

    async def close(self) -> None:
        """Whoever still waits gets an EngineError; what runs stops after its current token."""
        self._closed = True
        self._fail([*self._waiting, *self._running], EngineError("generation failed: the engine was closed"))
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False)

    @abstractmethod
    def _admit(self) -> None:
        """Move requests from `_waiting` to `_running`; at least one if nothing runs."""

    @abstractmethod
    def _advance(self) -> list[tuple[Request, list[Completion] | EngineError]]:
        """Work for `_running`, in the thread. Returns what is finished or refused; what is no longer wanted may be
        left out."""

    @abstractmethod
    def _forget(self) -> None:
        """When nothing is left of `_running`, be it by a failure, in the thread: drop what is left of its work."""

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self.inline:
            await asyncio.sleep(0)
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _serve(self) -> None:
        await asyncio.sleep(0)  # let everything that was asked for at the same time arrive
        while True:
            self._waiting, self._running = _wanted(self._waiting), _wanted(self._running)
            if not self._running:
                await self._in_thread(self._forget)
            if not self._waiting and not self._running:
                return
            try:
                self._admit()
                finished = await self._in_thread(self._advance)
            except Exception as error:  # whatever it is, callers must not wait for ever
                self._fail(self._running, failed(error))
                continue
            for request, outcome in finished:
                if isinstance(outcome, EngineError):
                    self._fail([request], outcome)
                elif request.wanted:
                    request.result.set_result(outcome)

    def _fail(self, requests: list[Request], error: EngineError) -> None:
        for request in requests:
            if request.wanted:
                request.result.set_exception(EngineError(str(error)))  # each caller adds its own traceback to it


def _wanted(requests: list[Request]) -> list[Request]:
    return [r for r in requests if r.wanted]


def failed(error: Exception) -> EngineError:
    """What callers get to see, in one line; where memory ran out, with the way out."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if "memory" in text.lower() and ("allocate" in text.lower() or "out of" in text.lower()):
        text += "; lower rollout.max_rows or train.max_new_tokens"
    return EngineError(text if isinstance(error, EngineError) else f"generation failed: {text}")
