"""PID 1 of a sandbox: runs commands for the owner, who talks to it over standard input and output.

Runs inside the sandbox as `python -I -S supervisor.py LIMITS`, standard library only. A frame is four bytes
of big-endian length and a JSON object. Requests: `exec`, `read`, `write`, and `cancel` while a command runs.
Being PID 1, it cannot be killed from inside, adopts and reaps every orphan, and its end is the end of all the
others; being undumpable, its control stream cannot be reached through /proc. Left out: persistent shells,
separate output and error streams.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import resource
import selectors
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEADER = struct.Struct(">I")
CHUNK = 256 * 1024
DRAIN_S = 0.2
PR_SET_DUMPABLE = 4
CANNOT_RUN = 126
"""Exit code of a command that could not be started, as a shell would report it."""

Frame = dict[str, Any]


class ControlClosed(Exception):
    """The owner is gone."""


class Capture:
    """Head and tail of a stream, at most `limit` bytes; what falls out between is counted."""

    def __init__(self, limit: int) -> None:
        self.head_limit = limit // 2
        self.tail_limit = limit - self.head_limit
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = 0

    def add(self, data: bytes) -> None:
        room = self.head_limit - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        excess = len(self.tail) - self.tail_limit
        if excess > 0:
            del self.tail[:excess]
            self.dropped += excess

    def text(self) -> str:
        gap = f"\n[... {self.dropped} bytes left out ...]\n".encode() if self.dropped else b""
        return bytes(self.head + gap + self.tail).decode("utf-8", "replace")


class Command:
    """One running `bash -c` with its pipes and its deadline."""

    def __init__(self, request: Frame, limits: dict[str, int]) -> None:
        stdin = request["stdin"].encode("utf-8", "replace")
        self.capture = Capture(request["output_bytes"])
        self.deadline = time.monotonic() + request["timeout_s"]
        self.timed_out = False
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", request["command"]],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=request["cwd"],
            env=request["env"],
            bufsize=0,
            start_new_session=True,
            preexec_fn=lambda: _before_exec(limits),  # safe: the supervisor has one thread
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        os.set_blocking(self.output, False)
        self.stdin_left = memoryview(stdin)
        self.input = -1
        if self.process.stdin is not None:
            self.input = self.process.stdin.fileno()
            os.set_blocking(self.input, False)

    def feed(self) -> bool:
        """Write what fits of the standard input; False once nothing is left to write."""
        try:
            self.stdin_left = self.stdin_left[os.write(self.input, self.stdin_left[:CHUNK]) :]
        except BlockingIOError:
            return True
        except OSError:
            self.stdin_left = memoryview(b"")
        return len(self.stdin_left) > 0


def _before_exec(limits: dict[str, int]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.get("memory_mb"):
        size = limits["memory_mb"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    if limits.get("processes"):
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], limits["processes"]))
    with contextlib.suppress(OSError):  # the kernel should kill a command before it kills us
        Path("/proc/self/oom_score_adj").write_text("1000")


class Supervisor:
    """Serves one owner, one request at a time."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits
        self.buffer = bytearray()
        self.command: Command | None = None
        self.leftovers: dict[int, Any] = {}
        self.selector = selectors.DefaultSelector()
        self.wake, wake_write = os.pipe()
        for fd in (0, self.wake, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the default never reaches PID 1 from inside
        self.selector.register(0, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self) -> None:
        self.reply({"ready": True})
        handlers = {"exec": self.execute, "read": _read, "write": _write}
        while True:
            request = self.next_request()
            handler = handlers.get(request["op"])
            if handler is not None:  # a `cancel` that came too late has none
                self.reply({"id": request["id"], **handler(request)})

    def reply(self, frame: Frame) -> None:
        data = json.dumps(frame).encode()
        view = memoryview(HEADER.pack(len(data)) + data)
        while view:
            view = view[os.write(1, view) :]

    def next_request(self) -> Frame:
        while (request := self.parse()) is None:
            self.pump(None)
        return request

    def parse(self) -> Frame | None:
        if len(self.buffer) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(self.buffer)[0]
        if len(self.buffer) < end:
            return None
        request: Frame = json.loads(self.buffer[HEADER.size : end])
        del self.buffer[:end]
        return request

    def pump(self, timeout_s: float | None) -> None:
        """Wait for events and handle them: requests, dead children, output, input."""
        for key, _ in self.selector.select(timeout_s):
            if key.fd == 0:
                data = os.read(0, CHUNK)
                if not data:
                    raise ControlClosed
                self.buffer += data
            elif key.fd == self.wake:
                os.read(self.wake, CHUNK)
                self.reap()
            elif self.command and key.fd == self.command.input:
                if not self.command.feed():
                    self.selector.unregister(key.fd)
                    self.command.process.stdin.close()  # type: ignore[union-attr]
            else:
                self.drain(key.fd)

    def drain(self, fd: int) -> bool:
        """Take one chunk of output; False at its end, or when there is none now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if self.command and fd == self.command.output:
            self.command.capture.add(data)
        if not data:
            self.selector.unregister(fd)
            if fd in self.leftovers:
                self.leftovers.pop(fd).close()
        return bool(data)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.command and pid == self.command.process.pid:
                self.command.process.returncode = os.waitstatus_to_exitcode(status)

    def kill_all(self) -> None:
        """SIGKILL everything but us, again and again until nothing is left."""
        while True:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.reap()
            time.sleep(0.001)

    def execute(self, request: Frame) -> Frame:
        start = time.monotonic()
        try:
            self.command = self.start(request)
        except (OSError, ValueError) as error:
            text = f"cannot run the command: {error}\n"
            return {
                "exit_code": CANNOT_RUN,
                "timed_out": False,
                "output": text,
                "dropped": 0,
                "duration_s": 0.0,
            }
        self.run(self.command)
        command, self.command = self.command, None
        code = command.process.returncode
        return {
            "exit_code": code if code is None or code >= 0 else 128 - code,
            "timed_out": command.timed_out,
            "output": command.capture.text(),
            "dropped": command.capture.dropped,
            "duration_s": time.monotonic() - start,
        }

    def start(self, request: Frame) -> Command:
        try:
            command = Command(request, self.limits)
        except BlockingIOError:  # leftovers of earlier commands have used up the processes
            self.kill_all()
            command = Command(request, self.limits)
        self.selector.register(command.output, selectors.EVENT_READ)
        if command.input >= 0:
            self.selector.register(command.input, selectors.EVENT_WRITE)
        return command

    def run(self, command: Command) -> None:
        while command.process.returncode is None:
            left = command.deadline - time.monotonic()
            cancelled = (frame := self.parse()) is not None and frame["op"] == "cancel"
            if left <= 0 or cancelled:
                command.timed_out = True
                self.kill_all()
                break
            self.pump(left)
        until = time.monotonic() + DRAIN_S
        while time.monotonic() < until and command.output in self.selector.get_map():
            if not self.drain(command.output):
                break
        self.release(command)

    def release(self, command: Command) -> None:
        """Forget the command. Output of its background jobs is thrown away, so that they can go on."""
        if command.process.stdin is not None and not command.process.stdin.closed:
            self.selector.unregister(command.input)
            command.process.stdin.close()
        assert command.process.stdout is not None
        if command.output in self.selector.get_map():
            self.leftovers[command.output] = command.process.stdout
        else:
            command.process.stdout.close()


def _read(request: Frame) -> Frame:
    try:
        fd = os.open(request["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(21, "Is a directory")
            if not stat.S_ISREG(mode):
                raise PermissionError(13, "Not a regular file")
            data = file.read(request["max_bytes"] + 1)
    except (OSError, ValueError) as error:
        return _failure(error)
    if len(data) > request["max_bytes"]:
        return {"too_large": True}
    return {"data": base64.b64encode(data).decode()}


def _write(request: Frame) -> Frame:
    path = Path(request["path"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise PermissionError(13, "Not a regular file")
            os.ftruncate(fd, 0)
            file.write(base64.b64decode(request["data"]))
    except (OSError, ValueError) as error:
        return _failure(error)
    return {}


def _failure(error: OSError | ValueError) -> Frame:
    number = error.errno if isinstance(error, OSError) else None
    return {"errno": number or 22, "message": getattr(error, "strerror", None) or str(error)}


def main() -> None:
    if os.getpid() != 1:  # `kill_all` would end the owner's whole machine
        sys.exit("the supervisor only runs as PID 1 of a sandbox")
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    supervisor = Supervisor(json.loads(sys.argv[1]))
    try:
        supervisor.serve()
    except (ControlClosed, BrokenPipeError):
        supervisor.kill_all()


if __name__ == "__main__":
    main()
