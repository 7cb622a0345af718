"""Several processes (`torchrun`, `accelerate launch`): who they are, what they exchange, how they end together.

Without a launcher there is one process and everything here is a plain call. Every process holds the whole model and
knows every group; a collective that waits too long, or whose other side is gone, raises. Left out: sharded models.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch

from agent_srl.errors import PeerFailed, TrainingError

T = TypeVar("T")
_LIMIT = timedelta(minutes=30)
"""Of a collective within a step: processes are at most one sampling round apart."""
_STAGE_LIMIT = timedelta(days=7)
"""Of waiting for what the first process does alone. One that ends is noticed at once all the same."""


class Processes:
    """The processes of a run."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._step_group: Any = None
        self._stage_group: Any = None

    @classmethod
    def start(cls, device: torch.device) -> Processes:
        """Join the others that the launcher started, if it started any."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu", timeout=_LIMIT)
        self = cls(state.process_index, state.num_processes)
        self._step_group = torch.distributed.new_group(backend="gloo", timeout=_LIMIT)
        self._stage_group = torch.distributed.new_group(backend="gloo", timeout=_STAGE_LIMIT)
        atexit.register(self.close)  # gloo's threads end the process with a message of their own otherwise
        return self

    @property
    def main(self) -> bool:
        """Whether this one writes, prints and evaluates."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with self._connected():
            torch.distributed.all_gather_object(found, value, group=self._step_group)
        return found

    def sum_(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over all processes."""
        if self.count > 1:
            with self._connected():
                torch.distributed.all_reduce(tensor)

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """What fails inside on one process ends them all: the first one with its own error, the others with PeerFailed.

        Every process must come here, and nothing inside may wait for another one but by `first`.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = self.gather(error is not None)
        if any(failed) and failed.index(True) != self.rank:
            raise PeerFailed(f"process {failed.index(True)} failed") from error
        if error is not None:
            raise error

    def once(self, error: Exception) -> Exception:
        """What to raise where all processes find the same error: the first one tells it."""
        return error if self.main else PeerFailed("all processes failed")

    async def first(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns on the first process, which alone does it while the others wait."""
        if self.count == 1:
            return await work()
        outcome: list[Any] = [False, None]
        try:
            if self.main:
                outcome = [True, await work()]
        finally:
            with self._connected():
                torch.distributed.broadcast_object_list(outcome, src=0, group=self._stage_group)
        if not outcome[0]:
            raise PeerFailed("process 0 failed")
        result: T = outcome[1]
        return result

    def close(self) -> None:
        """Leave the others. The process goes on alone."""
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what torch raises for a time limit and for a closed connection
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"process {self.rank} lost the others ({reason}): the first message above says why; "
                "start the same command with the same --out to go on"
            ) from error
