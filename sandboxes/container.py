"""One Docker container as blocking calls on the engine: run, kill the tree, copy folders, remove.

Left out: everything asynchronous, which is in `sandboxes.docker`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from sandboxes import archives
from sandboxes.errors import SandboxGone
from sandboxes.supervisor import Capture

FRAME = struct.Struct(">BxxxL")
CHUNK = 256 * 1024
KILL_S = 10.0
DRAIN_S = 3.0
NO_PROCESSES = b"temporarily unavailable"


@dataclass
class Finished:
    """How a command in a container ended."""

    exit_code: int | None
    """None if it ran out of time."""
    output: Capture
    duration_s: float


class Container:
    """A running container whose PID 1 obeys the attached stream.

    Args:
        api: low-level client of the Docker SDK.
        stream: attached to PID 1, see `sandboxes.docker`.
    """

    def __init__(self, api: Any, number: str, stream: Any) -> None:
        self.number = number
        self._api = api
        self._stream = stream  # the SDK closes the connection when this object goes
        self._socket: socket.socket = stream._sock
        self._socket.settimeout(KILL_S)
        self._killing = threading.Lock()

    def run(
        self,
        argv: list[str],
        stdin: bytes,
        limit: int,
        timeout_s: float,
        cwd: str | None,
        env: dict[str, str],
    ) -> Finished:
        """Run one command to its end or its deadline. Raises SandboxGone."""
        start = time.monotonic()
        output, code = self._run_once(argv, stdin, limit, start + timeout_s, cwd, env)
        if code == -1 and NO_PROCESSES in output.head:  # leftovers have used up the processes
            self.kill_tree()
            output, code = self._run_once(argv, stdin, limit, start + timeout_s, cwd, env)
        return Finished(126 if code == -1 else code, output, time.monotonic() - start)

    def _run_once(
        self, argv: list[str], stdin: bytes, limit: int, deadline: float, cwd: str | None, env: dict[str, str]
    ) -> tuple[Capture, int | None]:
        """Output and exit code; None if the deadline passed, -1 if the engine could not start the command."""
        output = Capture(limit)
        with self._engine():
            options = {"stdin": bool(stdin), "environment": env, "workdir": cwd}
            number = self._api.exec_create(self.number, argv, **options)["Id"]
            stream = self._api.exec_start(number, socket=True)
            with contextlib.closing(stream):
                if not _pump(stream._sock, stdin, output, deadline, lambda: not self._runs(number)):
                    self.kill_tree()
                    _pump(stream._sock, b"", output, time.monotonic() + DRAIN_S, lambda: True)
                    return output, None
            found = self._api.exec_inspect(number)
            if found["Pid"] == 0:
                return output, -1
            if found["ExitCode"] in (None, 137):
                self.check()
            return output, found["ExitCode"]

    def _runs(self, command: str) -> bool:
        return bool(self._api.exec_inspect(command)["Running"])

    def kill_tree(self) -> None:
        """Make PID 1 kill everything else, until the engine sees nothing else. Raises SandboxGone."""
        until = time.monotonic() + KILL_S
        with self._killing, self._engine():
            while time.monotonic() < until:
                self._socket.sendall(b"\n")
                if len(self._api.top(self.number)["Processes"]) == 1:
                    return
        raise SandboxGone("a process in the container cannot be killed")

    def check(self) -> None:
        """Raises SandboxGone if the container does not run any more."""
        with self._engine():
            if not self._api.inspect_container(self.number)["State"]["Running"]:
                raise SandboxGone("the container has stopped")

    def upload(self, source: Path, target: str, uid: int, gid: int) -> None:
        """Copy the content of a folder into an existing folder of the container. Raises SandboxGone."""
        with tempfile.TemporaryFile() as archive:
            archives.pack(source, archive, uid=uid, gid=gid)
            archive.seek(0)
            with self._engine():
                self._api.put_archive(self.number, target, archive)

    def download(self, source: str, target: Path, max_bytes: int) -> None:
        """Copy the content of a folder out. Raises FileNotFoundError, ValueError, SandboxGone."""
        import docker.errors

        target.mkdir(parents=True, exist_ok=True)
        self.check()
        with self._engine():
            try:
                chunks, _ = self._api.get_archive(self.number, source)
            except docker.errors.NotFound:
                raise FileNotFoundError(f"{source} does not exist in the container") from None
            with contextlib.closing(chunks):
                stream = cast("IO[bytes]", _Reader(chunks))
                archives.unpack(stream, target.resolve(), max_bytes=max_bytes)

    def remove(self) -> None:
        """Kill and remove it. Idempotent; also when the engine has gone."""
        import docker.errors
        import requests

        with contextlib.suppress(OSError):
            self._socket.close()
        with contextlib.suppress(docker.errors.APIError, requests.RequestException):
            self._api.remove_container(self.number, force=True, v=True)

    @contextlib.contextmanager
    def _engine(self) -> Iterator[None]:
        import docker.errors
        import requests

        try:
            yield
        except (docker.errors.APIError, requests.RequestException, ConnectionError) as error:
            raise SandboxGone(f"the container or its engine has gone: {error}") from None


def _pump(channel: socket.socket, stdin: bytes, output: Capture, deadline: float, ended: Callable[[], bool]) -> bool:
    """Feed the command and take its output until it ends; False if the deadline comes first.

    quiet = min(left, patience)
    ready, writable, _ = select.select([channel], [channel] if pending else [], [], quiet)
    """
    channel.setblocking(False)
    pending = memoryview(stdin)
    buffer = bytearray()
    patience = 0.05
    over = False
    while (left := deadline - time.monotonic()) > 0:
        ready, writable, _ = select.select([channel], [channel] if pending else [], [], min(left, patience))
        if writable:
            with contextlib.suppress(BlockingIOError):
                pending = _send(channel, pending)
        if ready:
            data = channel.recv(CHUNK)
            if not data:
                return True
            buffer += data
            _take_frames(buffer, output)
        elif over:
            return True
        elif not writable:
            over = ended()
            patience = min(1.0, patience * 1.5)
    return False


def _send(channel: socket.socket, pending: memoryview) -> memoryview:
    try:
        pending = pending[channel.send(pending[:CHUNK]) :]
    except (BrokenPipeError, ConnectionResetError):  # the command does not read its input
        return memoryview(b"")
    if not pending:
        channel.shutdown(socket.SHUT_WR)
    return pending


def _take_frames(buffer: bytearray, output: Capture) -> None:
    start = 0
    while len(buffer) - start >= FRAME.size:
        _, size = FRAME.unpack_from(buffer, start)
        end = start + FRAME.size + size
        if end > len(buffer):
            break
        output.add(bytes(buffer[start + FRAME.size : end]))
        start = end
    del buffer[:start]


class _Reader:
    """A file to read from over chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
