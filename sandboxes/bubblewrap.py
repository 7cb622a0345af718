"""Sandboxes from bubblewrap: the host's `/usr` read-only, one writable work folder, no network, no image.

One kept-open stream per sandbox leads to `supervisor.py` inside it. Memory and processes are limited by
control groups where this process may make them, else by resource limits (for processes that takes Linux 5.14
and a user other than root). Left out: disk quotas, CPU shares, a seccomp filter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from sandboxes import cgroups, folders, mounts, trees
from sandboxes.base import ExecResult, Limits, Outcome, SandboxSpec
from sandboxes.cgroups import Cgroup
from sandboxes.channel import Channel
from sandboxes.errors import SandboxGone, SandboxUnavailable

START_S = 30.0
END_S = 3.0
BASE_ENV = {
    "HOME": mounts.HOME,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TERM": "dumb",
    "USER": "agent",
}
ENTER = 'for group in $1; do echo $$ > "$group" || exit 125; done; shift; exec "$@"'
"""Joins the control groups, then becomes bubblewrap."""


class BubblewrapSandbox:
    """One bubblewrap process with its work folder on the host."""

    def __init__(
        self, process: asyncio.subprocess.Process, spec: SandboxSpec, folder: Path, group: Cgroup | None
    ) -> None:
        self.spec = spec
        self.folder = folder
        self._process = process
        self._group = group
        self._channel = Channel(process, self.kill)
        self._ending: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._channel.alive

    async def exec(
        self,
        command: str,
        *,
        timeout_s: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> ExecResult:
        """See `Sandbox.exec`. Cancelling it kills the command; the sandbox stays usable."""
        kills = self._group.oom_kills() if self._group else 0
        request = {
            "op": "exec",
            "command": command,
            "timeout_s": timeout_s,
            "cwd": self._absolute(cwd or "."),
            "env": {**BASE_ENV, **self.spec.env, **(env or {})},
            "stdin": stdin,
            "output_bytes": self.spec.limits.output_bytes,
        }
        answer = await self._channel.request(request, timeout_s)
        outcome = Outcome.OK if answer["exit_code"] == 0 else Outcome.NONZERO
        if answer["timed_out"]:
            outcome = Outcome.TIMEOUT
        elif outcome is Outcome.NONZERO and self._group is not None and self._group.oom_kills() > kills:
            outcome = Outcome.OOM
        killed = outcome in (Outcome.TIMEOUT, Outcome.OOM)
        return ExecResult(
            outcome=outcome,
            exit_code=None if killed else answer["exit_code"],
            output=answer["output"],
            dropped_bytes=answer["dropped"],
            duration_s=answer["duration_s"],
        )

    async def read(self, path: str, *, max_bytes: int = 10 * 1024 * 1024) -> bytes:
        """See `Sandbox.read`; the path is opened inside, so links lead where they lead for a command."""
        return await self._channel.read(self._absolute(path), max_bytes)

    async def write(self, path: str, data: bytes) -> None:
        """See `Sandbox.write`; as `read`."""
        await self._channel.write(self._absolute(path), data)

    async def upload(self, source: Path, target: str) -> None:
        """See `Sandbox.upload`; the target lies in the work folder, reached without links."""
        parts = self._beneath(target)
        await asyncio.to_thread(folders.upload, source, self.folder / "work", parts)

    async def download(self, source: str, target: Path, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        """See `Sandbox.download`; the source lies in the work folder. What cannot be read is left out."""
        parts = self._beneath(source)
        await asyncio.to_thread(folders.download, self.folder / "work", parts, target, max_bytes)

    async def kill(self) -> None:
        """See `Sandbox.kill`."""
        if self._ending is None:
            self._channel.close()
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.kill()

    async def wait_ready(self) -> None:
        """Wait for the supervisor. Raises SandboxUnavailable with what bubblewrap said."""
        try:
            await asyncio.wait_for(self._channel.ready(), START_S)
        except (EOFError, TimeoutError, ValueError) as error:
            self._kill_process()
            assert self._process.stderr is not None
            said = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise SandboxUnavailable(_advice(said[-1] if said else repr(error))) from None

    def _absolute(self, path: str) -> str:
        return os.path.normpath(PurePosixPath(self.spec.workdir) / path)

    def _beneath(self, path: str) -> tuple[str, ...]:
        """Parts of a path below the work folder, for an upload or a download."""
        if not self.alive:
            raise SandboxGone("the sandbox was killed or has died")
        absolute = PurePosixPath(self._absolute(path))
        if not absolute.is_relative_to(self.spec.workdir):
            raise PermissionError(f"{path} does not lie below {self.spec.workdir}")
        return absolute.relative_to(self.spec.workdir).parts

    def _kill_process(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _end(self) -> None:
        """The stream is closed, so the supervisor kills everything and leaves; SIGKILL if it does not."""
        try:
            await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            self._kill_process()
            await self._process.wait()
        await asyncio.to_thread(_remove, self.folder, self._group)


class BubblewrapBackend:
    """Makes bubblewrap sandboxes below the temporary folder of the system."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._sandboxes: set[BubblewrapSandbox] = set()
        self._root: Path | None = None
        self._features = mounts.Features()
        self._preparing = asyncio.Lock()

    def check(self) -> None:
        """Prove that bubblewrap works here, in about 10 ms, blocking. Raises SandboxUnavailable if not."""
        if shutil.which("bwrap") is None:
            raise SandboxUnavailable("bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)")
        said = ""
        for own_proc, lock_userns in itertools.product((True, False), repeat=2):
            features = mounts.Features(lock_userns=lock_userns, own_proc=own_proc)
            place = ["--ro-bind", "/", "/", "--dev", "/dev", *mounts.proc(features), "--", "/bin/true"]
            command = [*mounts.guard(), "bwrap", *mounts.isolation(features), *place]
            tried = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if tried.returncode == 0:
                self._features = features
                return
            said = said or tried.stderr.strip()
        raise SandboxUnavailable(_advice(said))

    async def acquire(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """See `Backend.acquire`; `spec.image` is not used."""
        _check_spec(spec)
        async with self._preparing:
            if self._root is None:
                await asyncio.to_thread(self.check)
                await asyncio.to_thread(cgroups.reap)
                self._root = await asyncio.to_thread(folders.make_root)
        folder, group = await asyncio.to_thread(_make_place, self._root, spec.limits)
        try:
            sandbox = await self._start(spec, self._root / "etc", folder, group)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_remove, folder, group))
            raise
        self._sandboxes = {known for known in self._sandboxes if known.alive} | {sandbox}
        return sandbox

    async def close(self) -> None:
        """See `Backend.close`."""
        await asyncio.gather(*(sandbox.kill() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        if self._root is not None:
            await asyncio.to_thread(trees.remove_tree, self._root)
            self._root = None

    async def _start(self, spec: SandboxSpec, etc: Path, folder: Path, group: Cgroup | None) -> BubblewrapSandbox:
        inside = await asyncio.to_thread(mounts.arguments, spec, work=folder / "work", etc=etc, features=self._features)
        limits = {} if group else {"memory_mb": spec.limits.memory_mb, "processes": spec.limits.processes}
        entries = " ".join(str(file) for file in group.entry_files()) if group else ""
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", ENTER, "sh", entries, *mounts.guard(), "bwrap", *inside, "--"),
            *(str(mounts.python()), "-I", "-S", mounts.SUPERVISOR, json.dumps(limits)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        sandbox = BubblewrapSandbox(process, spec, folder, group)
        try:
            await sandbox.wait_ready()
        except BaseException:
            await asyncio.shield(sandbox.kill())
            raise
        return sandbox


def _make_place(root: Path, limits: Limits) -> tuple[Path, Cgroup | None]:
    folder = folders.make_folder(root)
    return folder, Cgroup.create(folder.name, limits)


def _remove(folder: Path, group: Cgroup | None) -> None:
    if group is not None:
        group.remove()
    if folder.exists():
        trees.remove_tree(folder)


def _check_spec(spec: SandboxSpec) -> None:
    first = [*PurePosixPath(spec.workdir).parts, "", ""][1]
    if spec.workdir != os.path.normpath(spec.workdir) or first in ("", "usr", "proc", "etc", "dev"):
        raise SandboxUnavailable(f"{spec.workdir!r} cannot be a work folder: give a path such as /testbed")
    for target, source in spec.read_only.items():
        if not Path(source).exists():
            raise SandboxUnavailable(f"{source} does not exist and cannot be mounted at {target}")


def _advice(said: str) -> str:
    words = ("namespace", "uid map", "mount proc", "pivot", "clone", "loopback", "not permitted")
    if any(word in said.lower() for word in words):
        return (
            f"bubblewrap may not make namespaces here ({said}): allow unprivileged user namespaces (sysctl "
            "kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), or in a "
            "container run it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
        )
    return f"bubblewrap could not start: {said}"
