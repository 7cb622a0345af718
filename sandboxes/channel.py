"""The owner's end of the stream to a `supervisor.py`: one request at a time, answers matched by number."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import itertools
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from sandboxes.errors import SandboxGone, SandboxUnavailable

HEADER = struct.Struct(">I")
FILE_S = 30.0
"""Time for reading or writing one file."""
GRACE_S = 15.0
"""How much later than its deadline an answer may come before the sandbox counts as lost."""
MAX_FRAME = 256 * 2**20

Frame = dict[str, Any]


class Channel:
    """Requests over the standard streams of a process.

    Args:
        lost: awaited when the other end stops answering; removes the sandbox.
    """

    def __init__(self, process: asyncio.subprocess.Process, lost: Callable[[], Awaitable[None]]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._lost = lost
        self._lock = asyncio.Lock()
        self._ids = itertools.count()
        self._closed = False
        self._running: asyncio.Task[Any] | None = None

    @property
    def alive(self) -> bool:
        return not self._closed and self._process.returncode is None

    def close(self) -> None:
        """Hang up: the supervisor kills everything and leaves."""
        self._closed = True
        self._stdin.close()

    async def ready(self) -> None:
        """Wait for the supervisor's greeting. Raises EOFError or ValueError if something else comes."""
        await self._receive()

    async def request(self, frame: Frame, timeout_s: float) -> Frame:
        """Send a request and wait for its answer. Cancelling it kills the command, if it is one.

        Raises:
            SandboxGone: the sandbox is dead, or did not answer in time and was removed.
        """
        task = asyncio.create_task(self._request(frame, timeout_s))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # mark it as seen
            if task is not self._running:  # still waiting for its turn
                task.cancel()
            else:
                with contextlib.suppress(SandboxGone):
                    await self._send({"op": "cancel"})
            raise

    async def read(self, path: str, max_bytes: int) -> bytes:
        """A regular file's content, opened inside. Raises as `Sandbox.read`."""
        answer = await self.request({"op": "read", "path": path, "max_bytes": max_bytes}, FILE_S)
        if answer.get("too_large"):
            raise ValueError(f"{path} is larger than {max_bytes} bytes")
        _raise_failure(answer, path)
        return base64.b64decode(answer["data"])

    async def write(self, path: str, data: bytes) -> None:
        """Create or overwrite a file, opened inside. Raises as `Sandbox.write`."""
        text = base64.b64encode(data).decode()
        _raise_failure(await self.request({"op": "write", "path": path, "data": text}, FILE_S), path)

    async def _request(self, frame: Frame, timeout_s: float) -> Frame:
        async with self._lock:
            self._running = asyncio.current_task()
            number = next(self._ids)
            try:
                async with asyncio.timeout(timeout_s + GRACE_S):
                    await self._send({**frame, "id": number})
                    while (answer := await self._receive()).get("id") != number:
                        pass
                return answer
            except (EOFError, TimeoutError, ValueError, OSError):
                await self._lost()
                raise SandboxGone("the sandbox stopped answering and was removed") from None

    async def _send(self, frame: Frame) -> None:
        if not self.alive:
            raise SandboxGone("the sandbox was killed or has died")
        data = json.dumps(frame).encode()
        self._stdin.write(HEADER.pack(len(data)) + data)
        await self._stdin.drain()

    async def _receive(self) -> Frame:
        (size,) = HEADER.unpack(await self._stdout.readexactly(HEADER.size))
        if size > MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        frame: Frame = json.loads(await self._stdout.readexactly(size))
        return frame


def _raise_failure(answer: Frame, path: str) -> None:
    if "errno" not in answer:
        return
    number, message = answer["errno"], answer["message"]
    if number == errno.ENOSPC:
        raise SandboxUnavailable(f"the disk is full: {path} could not be written; free some space")
    if number in (errno.EROFS, errno.ENXIO, errno.ELOOP):
        number = errno.EACCES
    raise OSError(number, message, path)  # Python picks FileNotFoundError and the like by the number
