"""The interface of a sandbox, and the plain data that goes in and comes out.

Left out for now: persistent shells, snapshots, a pool, disk quotas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Outcome(StrEnum):
    """How a command ended."""

    OK = "ok"
    NONZERO = "nonzero"
    TIMEOUT = "timeout"
    """Out of time: its whole process tree is dead, what it printed is kept, the sandbox is usable."""
    OOM = "oom"


@dataclass(frozen=True)
class Limits:
    """Ceilings of one sandbox."""

    memory_mb: int = 1024
    processes: int = 256
    output_bytes: int = 64 * 1024
    """Of one command; head and tail are kept, the middle is dropped and counted."""


@dataclass(frozen=True)
class SandboxSpec:
    """What to make. Bubblewrap uses `read_only` mounts over the host's `/usr`; Docker uses `image`."""

    workdir: str = "/testbed"
    image: str = ""
    read_only: Mapping[str, Path] = field(default_factory=dict)
    """Path inside -> folder of the host."""
    hidden: tuple[str, ...] = ()
    """Folders that must appear empty inside (bubblewrap), such as the host's site-packages."""
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class ExecResult:
    """What a command did. A non-zero exit is a value."""

    outcome: Outcome
    exit_code: int | None
    """None exactly if the command was killed."""
    output: str
    """Standard output and error, merged, decoded with replacement."""
    dropped_bytes: int
    duration_s: float


class Sandbox(Protocol):
    """One isolated place with a writable work folder. No network, no capabilities."""

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> ExecResult:
        """Run `command` in a fresh `bash -c`. Commands run one at a time.

        Raises:
            SandboxGone: the sandbox died; nothing is known of the command.
        """
        ...

    async def read(self, path: str, *, max_bytes: int = 10 * 1024 * 1024) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError, IsADirectoryError, PermissionError, ValueError (too large): as named.
            SandboxGone: the sandbox died.
        """
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Create or overwrite a file, making its parents. Raises as `read`."""
        ...

    async def upload(self, source: Path, target: str) -> None:
        """Copy the content of a folder of the host into `target`, symbolic links as links."""
        ...

    async def download(self, source: str, target: Path, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        """Copy a folder of the sandbox into the host folder `target`.

        Symbolic links stay links, special files are left out.

        Raises:
            FileNotFoundError, ValueError (more than `max_bytes`), SandboxGone.
        """
        ...

    async def kill(self) -> None:
        """End it and remove all that it left. Idempotent."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """Makes sandboxes."""

    name: str

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        """A fresh sandbox. Raises SandboxUnavailable with what to do."""
        ...

    async def close(self) -> None:
        """Kill every sandbox made here that is still alive. Idempotent."""
        ...
