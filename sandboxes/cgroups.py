"""Memory and process limits by control groups (v1 or v2), where this process may make one.

`Cgroup.create` returns None where it may not; the caller then falls back to resource limits. Left out: CPU
shares.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from sandboxes import owners
from sandboxes.base import Limits

ROOT = Path("/sys/fs/cgroup")
PREFIX = "agent-srl."
OWN_PROCESSES = 4
"""Of bubblewrap and the supervisor, on top of what the commands may have."""


@dataclass(frozen=True)
class Cgroup:
    """One group: a folder under v2, one for memory and one for processes under v1."""

    folders: tuple[Path, ...]

    @classmethod
    def create(cls, name: str, limits: Limits) -> Cgroup | None:
        """A group with the limits set, or None where the file system does not let us."""
        memory = str(limits.memory_mb * 2**20)
        processes = str(limits.processes + OWN_PROCESSES)
        folders = tuple(parent / f"{PREFIX}{owners.identity()}.{name}" for parent in parents())
        if not folders:
            return None
        group = cls(folders)
        try:
            for folder in folders:
                folder.mkdir()
            for file, value in (
                ("memory.limit_in_bytes", memory),
                ("memory.memsw.limit_in_bytes", memory),
                ("memory.max", memory),
                ("memory.swap.max", "0"),
                ("pids.max", processes),
            ):
                for folder in folders:
                    if (folder / file).exists():
                        (folder / file).write_text(value)
        except OSError:
            group.remove()
            return None
        return group

    def entry_files(self) -> list[Path]:
        """Writing a process id into each of these puts the process in."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        for folder in self.folders:
            for file in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / file).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def remove(self) -> None:
        """Blocks up to a second: the kernel lets go of a group a little after its last process."""
        for folder in self.folders:
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break


def parents() -> tuple[Path, ...]:
    """Folders in which a child with both limits can be made: one under v2, two under v1, or none."""
    groups = _own_groups()
    if "memory" in groups and "pids" in groups:
        found = tuple(ROOT / name / groups[name] for name in ("memory", "pids"))
        return found if all(os.access(folder, os.W_OK) for folder in found) else ()
    own = ROOT / groups.get("", "")
    for folder in (own, own.parent):  # a group with processes of its own may not have limited children
        control = folder / "cgroup.subtree_control"
        if not folder.is_relative_to(ROOT) or not control.exists() or not os.access(folder, os.W_OK):
            continue
        if {"memory", "pids"} <= set(control.read_text().split()):
            return (folder,)
    return ()


def _own_groups() -> dict[str, str]:
    """Controller -> path below its mount; the v2 hierarchy has the empty name."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path.lstrip("/")
    return groups


def reap() -> None:
    """Remove groups of owners that are dead."""
    for parent in parents():
        for folder in parent.glob(f"{PREFIX}*"):
            if not owners.is_alive(folder.name.removeprefix(PREFIX).split(".")[0]):
                with contextlib.suppress(OSError):
                    folder.rmdir()
