"""Sandboxes from bubblewrap: the host's `/usr` read-only, one writable work folder, no network, no root, no image.

One kept-open stream per sandbox leads to `supervisor.py` inside it. Memory and processes are limited by control groups
where this process may make them, else by resource limits (processes then need Linux 5.14). Left out: disk quotas, CPU
shares, a seccomp filter.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import itertools
import json
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from sandboxes import cgroups, mounts, owners, trees
from sandboxes.base import ExecResult, Limits, Outcome, SandboxSpec
from sandboxes.cgroups import Cgroup
from sandboxes.errors import SandboxGone, SandboxUnavailable

HEADER = struct.Struct(">I")
START_S = 30.0
ANSWER_S = 15.0
"""How much later than its deadline a command's answer may come before the sandbox counts as lost."""
END_S = 3.0
MAX_FRAME = 256 * 2**20
BASE_ENV = {
    "HOME": mounts.HOME,
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TERM": "dumb",
    "USER": "agent",
}
ENTER = 'for group in $1; do echo $$ > "$group" || exit 125; done; shift; exec "$@"'
INSTALL = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap)"


class BubblewrapSandbox:
    """One bubblewrap process with its work folder on the host."""

    def __init__(
        self, process: asyncio.subprocess.Process, spec: SandboxSpec, folder: Path, group: Cgroup | None
    ) -> None:
        self.spec = spec
        self.folder = folder
        self._process = process
        self._group = group
        self._lock = asyncio.Lock()
        self._ids = itertools.count()
        self._closing: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._closing is None and self._process.returncode is None

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
        request = {
            "op": "exec",
            "command": command,
            "timeout_s": timeout_s,
            "cwd": cwd or self.spec.workdir,
            "env": {**BASE_ENV, **self.spec.env, **(env or {})},
            "stdin": stdin,
            "output_bytes": self.spec.limits.output_bytes,
        }
        task = asyncio.create_task(self._exec(request))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            with contextlib.suppress(SandboxGone):
                self._send({"op": "cancel", "id": -1})
            raise

    async def _exec(self, request: dict[str, Any]) -> ExecResult:
        async with self._lock:
            kills = self._group.oom_kills() if self._group else 0
            answer = await self._ask(request, request["timeout_s"])
            killed = self._group is not None and self._group.oom_kills() > kills
        outcome = Outcome.OK if answer["exit_code"] == 0 else Outcome.NONZERO
        if answer["timed_out"]:
            outcome = Outcome.TIMEOUT
        elif killed and outcome is Outcome.NONZERO:
            outcome = Outcome.OOM
        lost = outcome in (Outcome.TIMEOUT, Outcome.OOM)
        return ExecResult(
            outcome=outcome,
            exit_code=None if lost else answer["exit_code"],
            output=answer["output"],
            dropped_bytes=answer["dropped"],
            duration_s=answer["duration_s"],
        )

    async def read(self, path: str, *, max_bytes: int = 10 * 1024 * 1024) -> bytes:
        """See `Sandbox.read`; the path is opened inside, so links lead where they lead for a command."""
        answer = await self._file({"op": "read", "path": self._absolute(path), "max_bytes": max_bytes})
        if answer.get("too_large"):
            raise ValueError(f"{path} is larger than {max_bytes} bytes")
        return base64.b64decode(answer["data"])

    async def write(self, path: str, data: bytes) -> None:
        """See `Sandbox.write`."""
        text = base64.b64encode(data).decode()
        await self._file({"op": "write", "path": self._absolute(path), "data": text})

    async def upload(self, source: Path, target: str) -> None:
        """See `Sandbox.upload`; the target lies in the work folder."""
        self._check()
        await asyncio.to_thread(self._upload, source, self._beneath(target))

    async def download(self, source: str, target: Path, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        """See `Sandbox.download`; the source lies in the work folder. What cannot be read is left out."""
        self._check()
        await asyncio.to_thread(self._download, self._beneath(source), target, max_bytes)

    async def kill(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end())
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.kill()

    async def wait_ready(self) -> None:
        """Wait for the supervisor. Raises SandboxUnavailable with what bubblewrap said."""
        try:
            await asyncio.wait_for(self._receive(), START_S)
        except (asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self._process.kill() if self._process.returncode is None else None
            assert self._process.stderr is not None
            said = (await self._process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise SandboxUnavailable(_advice(said[-1] if said else repr(error))) from None

    async def _file(self, request: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            answer = await asyncio.shield(asyncio.ensure_future(self._ask(request, START_S)))
        if "errno" in answer:
            raise _file_error(answer["errno"], answer["message"], request["path"])
        return answer

    async def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        number = next(self._ids)
        self._send({**request, "id": number})
        try:
            async with asyncio.timeout(timeout_s + ANSWER_S):
                while (answer := await self._receive()).get("id") != number:
                    pass
            return answer
        except (asyncio.IncompleteReadError, TimeoutError, ValueError, OSError):
            await self.kill()
            raise SandboxGone("the sandbox stopped answering and was removed") from None

    def _send(self, frame: dict[str, Any]) -> None:
        self._check()
        data = json.dumps(frame).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(HEADER.pack(len(data)) + data)

    async def _receive(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        (size,) = HEADER.unpack(await stdout.readexactly(HEADER.size))
        if size > MAX_FRAME:
            raise ValueError(f"a frame of {size} bytes")
        frame: dict[str, Any] = json.loads(await stdout.readexactly(size))
        return frame

    def _check(self) -> None:
        if not self.alive:
            raise SandboxGone("the sandbox was killed or has died")

    def _absolute(self, path: str) -> str:
        return str(PurePosixPath(self.spec.workdir) / path)

    def _beneath(self, path: str) -> tuple[str, ...]:
        parts = PurePosixPath(os.path.normpath(self._absolute(path)))
        if not parts.is_relative_to(self.spec.workdir):
            raise PermissionError(errno.EACCES, f"not below {self.spec.workdir}", path)
        return parts.relative_to(self.spec.workdir).parts

    def _upload(self, source: Path, parts: tuple[str, ...]) -> None:
        with contextlib.ExitStack() as stack:
            outer = trees.open_folder(source, ())
            stack.callback(os.close, outer)
            inner = trees.open_folder(self.folder / "work", parts, make=True)
            stack.callback(os.close, inner)
            with _disk_full():
                trees.copy_tree(outer, inner)

    def _download(self, parts: tuple[str, ...], target: Path, max_bytes: int) -> None:
        with contextlib.ExitStack() as stack:
            inner = trees.open_folder(self.folder / "work", parts)
            stack.callback(os.close, inner)
            target.mkdir(parents=True, exist_ok=True)
            outer = trees.open_folder(target.resolve(), ())
            stack.callback(os.close, outer)
            with _disk_full():
                trees.copy_tree(inner, outer, max_bytes=max_bytes)

    async def _end(self) -> None:
        """Closing the stream makes the supervisor kill everything and leave; SIGKILL if it does not."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), END_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.to_thread(_remove, self.folder, self._group)


class BubblewrapBackend:
    """Makes bubblewrap sandboxes below the temporary folder of the system."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._sandboxes: set[BubblewrapSandbox] = set()
        self._root: Path | None = None
        self._lock_userns = True
        self._starting = asyncio.Lock()

    async def acquire(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """See `Backend.acquire`; `spec.image` is not used."""
        _check_spec(spec)
        async with self._starting:
            if self._root is None:
                self._root = await self._prepare()
        folder, group = await asyncio.to_thread(_make_folder, self._root, spec.limits)
        try:
            sandbox = await self._start(spec, folder, group)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_remove, folder, group))
            raise
        self._sandboxes = {known for known in self._sandboxes if known.alive} | {sandbox}
        return sandbox

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.kill() for sandbox in self._sandboxes))
        self._sandboxes.clear()
        if self._root is not None:
            await asyncio.to_thread(trees.remove_tree, self._root)
            self._root = None

    async def _prepare(self) -> Path:
        """The folder of this backend, after a proof that bubblewrap works here and a clean-up after dead owners."""
        self._lock_userns = await _probe()
        return await asyncio.to_thread(_make_root)

    async def _start(self, spec: SandboxSpec, folder: Path, group: Cgroup | None) -> BubblewrapSandbox:
        assert self._root is not None
        inside = mounts.arguments(
            spec, work=folder / "work", etc=self._root / "etc", lock_userns=self._lock_userns
        )
        limits = {} if group else {"memory_mb": spec.limits.memory_mb, "processes": spec.limits.processes}
        entries = " ".join(str(file) for file in group.entry_files()) if group else ""
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", ENTER, "sh", entries, "bwrap", *inside, "--"),
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


async def _probe() -> bool:
    """Whether user namespaces can be locked inside. Raises SandboxUnavailable if bubblewrap does not work at all."""
    if shutil.which("bwrap") is None:
        raise SandboxUnavailable(f"bubblewrap is not installed: {INSTALL}")
    said = ""
    for lock in (["--disable-userns"], []):
        process = await asyncio.create_subprocess_exec(
            *(
                "bwrap",
                "--unshare-all",
                "--unshare-user",
                *lock,
                "--uid",
                mounts.USER_ID,
                "--ro-bind",
                "/",
                "/",
            ),
            *("--proc", "/proc", "--dev", "/dev", "--", "/bin/true"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, stderr = await process.communicate()
        if process.returncode == 0:
            return bool(lock)
        said = stderr.decode(errors="replace").strip()
    raise SandboxUnavailable(_advice(said))


def _advice(said: str) -> str:
    lowered = said.lower()
    if any(word in lowered for word in ("namespace", "uid map", "mount proc", "pivot", "clone", "loopback")):
        return (
            f"bubblewrap may not make namespaces here ({said}): allow unprivileged user namespaces (sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0 or kernel.unprivileged_userns_clone=1), or in a container "
            "run it with --security-opt seccomp=unconfined --security-opt systempaths=unconfined"
        )
    return f"bubblewrap could not start: {said}"


def _check_spec(spec: SandboxSpec) -> None:
    normal = os.path.normpath(spec.workdir)
    if (
        not normal.startswith("/")
        or normal != spec.workdir
        or normal.split("/")[1] in ("", "usr", "proc", "etc")
    ):
        raise SandboxUnavailable(
            f"{spec.workdir!r} cannot be a work folder: give an absolute path like /testbed"
        )
    for target, source in spec.read_only.items():
        if not Path(source).exists():
            raise SandboxUnavailable(f"{source} does not exist and cannot be mounted at {target}")


def base_folder() -> Path:
    """Where the folders of all owners lie: one per user, closed to others."""
    return Path(tempfile.gettempdir()) / f"agent-srl-sandboxes-{os.getuid()}"


def _make_root() -> Path:
    base = base_folder()
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        info = base.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise SandboxUnavailable(f"{base} belongs to somebody else: set TMPDIR to a folder of your own")
        for folder in base.iterdir():
            if not owners.is_alive(folder.name.split(".")[0]):
                trees.remove_tree(folder)
        cgroups.reap()
        root = Path(tempfile.mkdtemp(prefix=f"{owners.identity()}.", dir=base))
        (root / "etc").mkdir()
        mounts.make_etc(root / "etc")
    except OSError as error:
        raise SandboxUnavailable(_folder_advice(base, error)) from error
    return root


def _make_folder(root: Path, limits: Limits) -> tuple[Path, Cgroup | None]:
    try:
        folder = Path(tempfile.mkdtemp(dir=root))
        (folder / "work").mkdir(mode=0o755)
    except OSError as error:
        raise SandboxUnavailable(_folder_advice(root, error)) from error
    return folder, Cgroup.create(folder.name, limits)


def _folder_advice(folder: Path, error: OSError) -> str:
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
    return f"no sandbox folder can be made in {folder} ({reason}): free some space or set TMPDIR to another folder"


def _remove(folder: Path, group: Cgroup | None) -> None:
    if group is not None:
        group.remove()
    if folder.exists():
        trees.remove_tree(folder)


@contextlib.contextmanager
def _disk_full() -> Any:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SandboxUnavailable(
                f"the disk is full ({error.filename or 'copying a folder'}): free some space"
            ) from error
        raise


def _file_error(number: int, message: str, path: str) -> Exception:
    if number == errno.ENOSPC:
        return SandboxUnavailable(f"the disk is full: {path} could not be written; free some space")
    if number in (errno.EROFS, errno.ENXIO, errno.ELOOP):
        number = errno.EACCES
    return OSError(number, message, path)  # Python picks FileNotFoundError and the like by the number
