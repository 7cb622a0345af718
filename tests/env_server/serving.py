"""The service in process and over HTTP, for tests; and the sandboxes that a process has."""

import asyncio
import contextlib
import threading
from pathlib import Path

import uvicorn

from env_server.app import create_app
from env_server.cli import listen, url
from env_server.client import EnvClient
from env_server.service import EnvService

TOKEN = "a-token-of-the-tests"


@contextlib.asynccontextmanager
async def served(service: EnvService, token: str | None = TOKEN):
    """The address of a real server that runs in a thread."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(create_app(service, token), log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield url(listener)
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join)


@contextlib.asynccontextmanager
async def reachable(service: EnvService, how: str):
    """The service itself, or a client of it."""
    if how == "process":
        yield service
        await service.close()
        return
    async with served(service) as address, EnvClient(address, TOKEN) as client:
        yield client


def sandbox_processes(parent: int) -> set[int]:
    """Process ids of every bubblewrap below a process."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text()
                names[int(folder.name)] = stat[stat.index("(") + 1 : stat.rindex(")")]
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = set()
    for pid, name in names.items():
        above = pid
        while above in parents and above != parent:
            above = parents[above]
        if name == "bwrap" and above == parent:
            found.add(pid)
    return found
