"""The backends under contract. Docker needs an engine and an image: `AGENT_SRL_TEST_IMAGE` or a known one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from sandboxes import open_backend
from sandboxes.base import Backend, Limits, Sandbox, SandboxSpec
from sandboxes.errors import SandboxUnavailable

IMAGES = (os.environ.get("AGENT_SRL_TEST_IMAGE", ""), "agent-srl-base:bookworm", "python:3.11-slim")
LIMITS = Limits(memory_mb=256, processes=64, output_bytes=20_000)


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.docker)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    try:
        made = open_backend(request.param)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield made
    await made.close()


@pytest.fixture
def spec(backend: Backend) -> SandboxSpec:
    return SandboxSpec(image=known_image() if backend.name == "docker" else "", limits=LIMITS)


@pytest.fixture
async def sandbox(backend: Backend, spec: SandboxSpec) -> Sandbox:
    return await backend.acquire(spec)


def known_image() -> str:
    import docker

    here = {tag for image in docker.from_env().images.list() for tag in image.tags}
    for image in IMAGES:
        if image in here:
            return image
    pytest.skip("no image for the Docker sandbox here: set AGENT_SRL_TEST_IMAGE to one with bash and Python")
