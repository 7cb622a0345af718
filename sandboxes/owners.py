"""Who owns a sandbox, written down outside memory so that a later start can clear up after a dead owner."""

from __future__ import annotations

import os
from pathlib import Path


def identity() -> str:
    """This process: its PID namespace, its id and its start time (clock ticks since boot)."""
    return f"{_namespace()}-{os.getpid()}-{_start_ticks(os.getpid())}"


def is_alive(owner: str) -> bool:
    """Whether the process of an `identity()` still runs; True for another PID namespace (unknown)."""
    try:
        namespace, pid, ticks = (int(part) for part in owner.split("-"))
    except ValueError:
        return True
    return namespace != _namespace() or _start_ticks(pid) == ticks


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def _start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
