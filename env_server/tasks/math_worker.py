"""Compare two mathematical expressions with math-verify, in a process of its own that can be killed.

math-verify's own time limits are signals: they work in the main thread only, and a power tower inside sympy
can ignore them and eat the memory. So this file runs as `python -m env_server.tasks.math_worker`, takes JSON
lines `[gold, answer]` and gives JSON lines `true` or `false`; `Comparer` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import select
import subprocess
import sys
import threading
import time

from env_server.errors import EnvError

MEMORY_BYTES = 2 * 1024**3
START_S = 60.0
"""Importing sympy takes seconds on a busy machine; it does not count against the answer."""


class Comparer:
    """A worker started at first use, shared by threads, killed and replaced when it takes too long."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, answer: str) -> bool:
        """Whether both mean the same. False if that takes longer than `timeout_s` or kills the worker.

        Raises:
            EnvError: the worker cannot start, so nothing is known of the answer.
        """
        with self._lock:
            process = self._running()
            try:
                reply = _ask(process, [gold, answer], self._timeout_s)
            except OSError:
                reply = b""
            if not reply:
                self._stop()
            return reply.strip() == b"true"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "env_server.tasks.math_worker"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if _ask(self._process, ["1", "1"], START_S).strip() != b"true":
                self._stop()
                raise EnvError("math-verify does not start; install it with `pip install 'agent-srl[env]'`")
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._stop()


def _ask(process: subprocess.Popen[bytes], question: list[str], timeout_s: float) -> bytes:
    """One line there, one line back; empty if it did not come in time or the worker died."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(question).encode() + b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + timeout_s
    reply = b""
    while not reply.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not part:
            return b""
        reply += part
    return reply


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.WARNING)  # math-verify warns at every call without its own time limit
    from math_verify import parse, verify

    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what sympy prints must not pass for an answer
    for line in sys.stdin.buffer:
        same = False
        with contextlib.suppress(Exception):
            gold, answer = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in json.loads(line))
            same = bool(verify(gold, answer, timeout_seconds=None))
        answers.write(b"true\n" if same else b"false\n")


if __name__ == "__main__":
    _main()
