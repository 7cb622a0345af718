"""Sandboxes from Docker containers: any image with bash; no network, no capabilities.

PID 1 is a bash that reads its standard input, to which the owner stays attached. That one process does three
jobs without forking: it reaps orphans; for every line it kills everything else in the container, which works
even when a fork bomb has used up the processes; and when the owner dies its input ends, so the container ends
and removes itself. An ordinary init would not do: killing its only child ends the container.

Commands go through the engine's exec calls (tens of milliseconds each). Left out: pulling images, disk
quotas, CPU shares, `hidden` folders (the image decides what is in sight).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sandboxes import owners
from sandboxes.base import ExecResult, Outcome, SandboxSpec
from sandboxes.container import Container, Finished
from sandboxes.errors import SandboxGone, SandboxUnavailable

T = TypeVar("T")

LABEL = "agent-srl"
LEASE_S = 12 * 3600
"""A container of an owner on another machine is removed after this time."""
FILE_S = 60.0
INIT = "while read -r _; do kill -9 -1; done >/dev/null 2>&1"
MERGED = 'exec /bin/bash -c "$1" 2>&1'
"""The engine carries output and errors apart and loses their order."""
READ = """
[ -e "$1" ] || exit 41
[ -d "$1" ] && exit 42
[ -f "$1" ] && [ -r "$1" ] || exit 43
exec head -c "$2" -- "$1"
"""
WRITE = """
[ -d "$1" ] && exit 42
[ ! -e "$1" ] || [ -f "$1" ] || exit 43
mkdir -p -- "$(dirname -- "$1")" 2>/dev/null && cat 2>/dev/null > "$1" || exit 43
"""
FILE_ERRORS: dict[int, type[OSError]] = {41: FileNotFoundError, 42: IsADirectoryError, 43: PermissionError}
OOM_COUNT = "cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null"


class DockerSandbox:
    """One running container."""

    def __init__(self, container: Container, spec: SandboxSpec, threads: ThreadPoolExecutor) -> None:
        self.spec = spec
        self._container = container
        self._threads = threads
        self._lock = asyncio.Lock()
        self._oom_kills = 0
        self._running: asyncio.Task[Any] | None = None
        self._user: tuple[int, int] | None = None
        self._ending: asyncio.Future[None] | None = None

    @property
    def alive(self) -> bool:
        return self._ending is None

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
        done = await self._run(
            ["/bin/bash", "-c", MERGED, "bash", command],
            stdin.encode("utf-8", "replace"),
            self.spec.limits.output_bytes,
            timeout_s,
            cwd=self._absolute(cwd or "."),
            env=dict(env or {}),
        )
        outcome = Outcome.OK if done.exit_code == 0 else Outcome.NONZERO
        if done.exit_code is None:
            outcome = Outcome.TIMEOUT
        elif done.exit_code == 137 and await self._ran_out_of_memory():
            outcome = Outcome.OOM
        killed = outcome in (Outcome.TIMEOUT, Outcome.OOM)
        return ExecResult(
            outcome=outcome,
            exit_code=None if killed else done.exit_code,
            output=done.output.text(),
            dropped_bytes=done.output.dropped,
            duration_s=done.duration_s,
        )

    async def read(self, path: str, *, max_bytes: int = 10 * 1024 * 1024) -> bytes:
        """See `Sandbox.read`; links lead where they lead for a command."""
        argv = ["/bin/bash", "-c", READ, "bash", self._absolute(path), str(max_bytes + 1)]
        done = await self._file(argv, b"", 2 * (max_bytes + 1), path)
        data = bytes(done.output.head + done.output.tail)
        if len(data) > max_bytes:
            raise ValueError(f"{path} is larger than {max_bytes} bytes")
        return data

    async def write(self, path: str, data: bytes) -> None:
        """See `Sandbox.write`; as `read`."""
        await self._file(["/bin/bash", "-c", WRITE, "bash", self._absolute(path)], data, 4096, path)

    async def upload(self, source: Path, target: str) -> None:
        """See `Sandbox.upload`."""
        folder = self._absolute(target)
        if not source.is_dir():
            raise FileNotFoundError(f"{source} is not a folder")
        make = ["/bin/bash", "-c", 'mkdir -p -- "$1" || exit 43', "bash", folder]
        await self._file(make, b"", 4096, target)
        if self._user is None:
            numbers = (await self.exec("id -u; id -g", timeout_s=FILE_S)).output.split()
            self._user = int(numbers[0]), int(numbers[1])
        uid, gid = self._user
        await self._in_thread(lambda: self._container.upload(source, folder, uid, gid))

    async def download(self, source: str, target: Path, *, max_bytes: int = 512 * 1024 * 1024) -> None:
        """See `Sandbox.download`."""
        folder = self._absolute(source)
        await self._in_thread(lambda: self._container.download(folder, target, max_bytes))

    async def kill(self) -> None:
        """See `Sandbox.kill`."""
        if self._ending is None:
            loop = asyncio.get_running_loop()
            self._ending = loop.run_in_executor(self._threads, self._container.remove)
        await asyncio.shield(self._ending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.kill()

    async def _run(
        self,
        argv: list[str],
        stdin: bytes,
        limit: int,
        timeout_s: float,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Finished:
        async def one_at_a_time() -> Finished:
            async with self._lock:
                self._running = asyncio.current_task()
                return await self._in_thread(lambda: self._container.run(argv, stdin, limit, timeout_s, cwd, env or {}))

        task = asyncio.create_task(one_at_a_time())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # mark it as seen
            if task is not self._running:  # still waiting for its turn
                task.cancel()
            else:
                with contextlib.suppress(SandboxGone):
                    await asyncio.shield(asyncio.ensure_future(self._in_thread(self._container.kill_tree)))
            raise
        except SandboxGone:
            await self.kill()
            raise

    async def _file(self, argv: list[str], stdin: bytes, limit: int, path: str) -> Finished:
        done = await self._run(argv, stdin, limit, FILE_S)
        if done.exit_code == 0:
            return done
        kind = FILE_ERRORS.get(done.exit_code or 0, OSError)
        raise kind(f"{path}: {done.output.text().strip() or kind.__name__}")

    async def _ran_out_of_memory(self) -> bool:
        """Whether the kernel has killed something here since last asked; the engine's own flag is wrong."""
        done = await self._run(["/bin/bash", "-c", OOM_COUNT], b"", 4096, FILE_S)
        counts = [line.split()[1] for line in done.output.text().splitlines() if line.startswith("oom_kill ")]
        before, self._oom_kills = self._oom_kills, int(counts[0]) if counts else 0
        return self._oom_kills > before

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if not self.alive:
            raise SandboxGone("the sandbox was killed or has died")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _absolute(self, path: str) -> str:
        return posixpath.normpath(posixpath.join(self.spec.workdir, path))


class DockerBackend:
    """Makes containers on the engine that the environment names (`DOCKER_HOST`, else the local socket)."""

    name = "docker"

    def __init__(self) -> None:
        self._api: Any = None
        self._sandboxes: set[DockerSandbox] = set()
        self._threads = ThreadPoolExecutor(max_workers=64, thread_name_prefix="docker")

    def check(self) -> None:
        """Prove that an engine answers, and clear up after dead owners. Blocks. Raises SandboxUnavailable."""
        try:
            import docker
            import docker.errors
            import requests
        except ImportError:
            raise SandboxUnavailable("the Docker SDK is not installed: pip install 'agent-srl[env]'") from None
        try:
            client = docker.from_env(timeout=120)
            client.ping()
            self._api = client.api
            _reap(self._api)
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise SandboxUnavailable(
                f"no Docker engine answers ({_short(error)}): start one (systemctl start docker), "
                "join the group docker, or set DOCKER_HOST"
            ) from None

    async def acquire(self, spec: SandboxSpec) -> DockerSandbox:
        """See `Backend.acquire`; `spec.hidden` is not used."""
        loop = asyncio.get_running_loop()
        making = loop.run_in_executor(self._threads, self._create, spec)
        try:
            container = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_remove_unwanted)
            raise
        sandbox = DockerSandbox(container, spec, self._threads)
        self._sandboxes = {known for known in self._sandboxes if known.alive} | {sandbox}
        return sandbox

    async def close(self) -> None:
        """See `Backend.close`."""
        await asyncio.gather(*(sandbox.kill() for sandbox in self._sandboxes))
        self._sandboxes.clear()

    def _create(self, spec: SandboxSpec) -> Container:
        import docker.errors
        import requests

        if self._api is None:
            self.check()
        if not spec.image:
            raise SandboxUnavailable("the Docker sandbox needs an image: name one in the task or the settings")
        number = ""
        try:
            number = self._api.create_container(**_container_config(self._api, spec))["Id"]
            stream = self._api.attach_socket(number, params={"stdin": 1, "stream": 1})
            self._api.start(number)
            container = Container(self._api, number, stream)
            container.check()
            return container
        except docker.errors.ImageNotFound:
            raise SandboxUnavailable(f"no image {spec.image} here: docker pull {spec.image}") from None
        except (docker.errors.DockerException, requests.RequestException, SandboxGone) as error:
            if number:
                with contextlib.suppress(docker.errors.APIError, requests.RequestException):
                    self._api.remove_container(number, force=True, v=True)
            raise SandboxUnavailable(f"no container from {spec.image} (needs bash): {_short(error)}") from None


def _container_config(api: Any, spec: SandboxSpec) -> dict[str, Any]:
    memory = f"{spec.limits.memory_mb}m"
    host = api.create_host_config(
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        pids_limit=spec.limits.processes,
        mem_limit=memory,
        memswap_limit=memory,
        auto_remove=True,
        binds=[f"{Path(source).resolve()}:{target}:ro" for target, source in spec.read_only.items()],
    )
    owner = {"owner": owners.identity(), "host": socket.gethostname(), "until": time.time() + LEASE_S}
    return {
        "image": spec.image,
        "entrypoint": ["/bin/bash", "-c", INIT],
        "stdin_open": True,
        "detach": False,  # input is kept for one attachment and ends with it
        "working_dir": spec.workdir,
        "environment": dict(spec.env),
        "labels": {LABEL: json.dumps(owner)},
        "host_config": host,
    }


def _reap(api: Any) -> None:
    import docker.errors

    for found in api.containers(all=True, filters={"label": LABEL}):
        try:
            owner = json.loads(found["Labels"][LABEL])
            here = owner["host"] == socket.gethostname()
            stale = time.time() > owner["until"] or (here and not owners.is_alive(owner["owner"]))
        except (ValueError, KeyError, TypeError):
            continue
        if stale:
            with contextlib.suppress(docker.errors.APIError):
                api.remove_container(found["Id"], force=True, v=True)


def _remove_unwanted(making: asyncio.Future[Container]) -> None:
    """The caller did not wait for this container."""
    if not making.cancelled() and making.exception() is None:
        making.get_loop().run_in_executor(None, making.result().remove)


def _short(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error).strip().splitlines()[0][:300]
