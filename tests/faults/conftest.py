"""The same backends as in the contract, and a way to say what was tried and what was found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from sandboxes.base import ExecResult, Sandbox
from tests.contract.conftest import backend, sandbox, spec

__all__ = ["backend", "sandbox", "spec"]

Attempt = Callable[..., Awaitable[ExecResult]]
PRELUDE = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, act):
    try:
        found = act()
    except OSError as error:
        found = errno.errorcode.get(error.errno, error)
    print(f"{what}: {found}")
def call(function, *arguments):
    ctypes.set_errno(0)
    code = function(*arguments)
    return "ALLOWED" if code >= 0 else errno.errorcode[ctypes.get_errno()]
"""


@pytest.fixture
def attack() -> Attempt:
    """`attack(sandbox, command)`, or with `python=` a program that may use `attempt`, `call` and `libc`."""

    async def run(target: Sandbox, command: str = "", *, python: str = "", timeout_s: float = 20) -> ExecResult:
        if python:
            result = await target.exec("python3 -", timeout_s=timeout_s, stdin=PRELUDE + python)
        else:
            result = await target.exec(command, timeout_s=timeout_s)
        print(f"tried:\n{(command or python).strip()[:2000]}\nfound ({result.outcome}, {result.exit_code}):")
        print(result.output[:3000])
        return result

    return run


def findings(output: str) -> dict[str, str]:
    """What every `attempt` found, by what was tried."""
    return dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
