"""A process that makes sandboxes and waits to be killed. Arguments: backend, image, count."""

from __future__ import annotations

import asyncio
import sys

from sandboxes import open_backend
from sandboxes.base import Limits, SandboxSpec


async def main(name: str, image: str, count: int) -> None:
    backend = open_backend(name)
    spec = SandboxSpec(image=image, limits=Limits(memory_mb=256, processes=64))
    for _ in range(count):
        sandbox = await backend.acquire(spec)
        command = "echo $UID; touch here; (setsid sleep 4242 &) ; sleep 4242 & trap '' TERM; true"
        print(repr((await sandbox.exec(command, timeout_s=20)).output), flush=True)
    print("ready", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
