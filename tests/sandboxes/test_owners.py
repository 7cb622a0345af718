"""An owner that dies by SIGKILL leaves nothing that lives, and the next start clears up the rest."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxes import cgroups, open_backend, owners
from sandboxes.base import SandboxSpec
from sandboxes.errors import SandboxUnavailable
from tests.contract.conftest import known_image
from tests.sandboxes.test_copies import deepen

ROOT = Path(__file__).parents[2]
OWNER = ROOT / "tests" / "sandboxes" / "owner.py"


def start(name: str, image: str, count: int, tmp: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen(
        [sys.executable, OWNER, name, image, str(count)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert owner.stdout is not None
    lines = [owner.stdout.readline() for _ in range(count + 1)]
    assert lines[-1] == "ready\n", lines
    return owner


def processes(part: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if part in line and "pytest" not in line:
                found.append(line)
    return found


def until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def needs(name: str) -> None:
    try:
        open_backend(name)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def test_a_killed_owner_leaves_no_process_and_its_folders_go_at_the_next_start(tmp_path, monkeypatch):
    needs("bubblewrap")
    owner = start("bubblewrap", "", 3, tmp_path)
    assert len(processes("sleep 4242")) >= 6
    owner.kill()
    owner.wait()
    assert until(lambda: not processes("sleep 4242") and not processes(str(tmp_path)), 3)
    base = tmp_path / f"agent-srl-sandboxes-{os.getuid()}"
    stale = list(base.iterdir())
    assert len(stale) == 1 and len(list(stale[0].glob("*/work/here"))) == 3
    deepen(next(stale[0].glob("*/work")), 1500)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    async def next_start() -> None:
        backend = open_backend("bubblewrap")
        await backend.acquire(SandboxSpec())
        assert len(list(base.iterdir())) == 1 and not stale[0].exists()
        await backend.close()

    asyncio.run(next_start())
    assert list(base.iterdir()) == []
    assert not [group for parent in cgroups.parents() for group in parent.glob(f"*-{owner.pid}-*")]


@pytest.mark.docker
def test_a_killed_owner_leaves_no_container(tmp_path):
    needs("docker")
    import docker

    api = docker.from_env().api
    owner = start("docker", known_image(), 2, tmp_path)
    mine = {"label": "agent-srl"}

    def left() -> bool:
        return any(f"-{owner.pid}-" in found["Labels"]["agent-srl"] for found in api.containers(all=True, filters=mine))

    assert left()
    owner.kill()
    owner.wait()
    assert until(lambda: not left(), 5)


@pytest.mark.docker
def test_containers_of_dead_owners_are_removed_at_the_next_start_and_others_are_not():
    needs("docker")
    import json
    import socket

    import docker

    api = docker.from_env().api
    image = known_image()
    dead = owners.identity().rsplit("-", 1)[0] + "-1"
    cases = [
        (dead, socket.gethostname(), 3600, False),
        (owners.identity(), socket.gethostname(), 3600, True),
        ("1-1-1", "another-machine", 3600, True),
        ("1-1-1", "another-machine", -1, False),
    ]
    made = []
    for owner, host, seconds, _ in cases:
        label = json.dumps({"owner": owner, "host": host, "until": time.time() + seconds})
        made.append(api.create_container(image, ["sleep", "60"], labels={"agent-srl": label})["Id"])
    try:
        open_backend("docker")
        here = {found["Id"] for found in api.containers(all=True, filters={"label": "agent-srl"})}
        assert [number in here for number in made] == [kept for *_, kept in cases]
    finally:
        for number in made:
            if any(found["Id"] == number for found in api.containers(all=True)):
                api.remove_container(number, force=True)


def test_only_a_living_process_counts_as_alive():
    namespace, pid, ticks = owners.identity().split("-")
    assert owners.is_alive(owners.identity())
    assert not owners.is_alive(f"{namespace}-{pid}-{int(ticks) - 1}")  # the number was used again
    child = subprocess.Popen(["true"])
    child_identity = f"{namespace}-{child.pid}-{ticks}"
    child.wait()
    assert not owners.is_alive(child_identity)
    assert owners.is_alive(f"1-{pid}-1")  # another PID namespace: cannot be told
    assert owners.is_alive("not an identity")


@pytest.mark.skipif(os.getuid() != 0, reason="already an ordinary user in the other tests")
def test_an_ordinary_user_without_control_groups_can_make_sandboxes(tmp_path):
    needs("bubblewrap")
    python = shutil.which("python3", path="/usr/bin") or "false"
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([python, "-c", new_enough]).returncode:
        pytest.skip("needs Python 3.11 in /usr/bin")
    place = Path("/tmp") / f"agent-srl-test-{os.getpid()}"
    shutil.copytree(ROOT / "sandboxes", place / "sandboxes", ignore=shutil.ignore_patterns("__pycache__"))
    script = """
import asyncio
from sandboxes import open_backend
from sandboxes.base import Limits, SandboxSpec
async def main():
    backend = open_backend("bubblewrap")
    sandbox = await backend.acquire(SandboxSpec(limits=Limits(memory_mb=300, processes=40)))
    print(repr((await sandbox.exec("id -u; python3 -c 'bytearray(10**9)'", timeout_s=20)).output))
    many = await sandbox.exec("for i in $(seq 60); do sleep 5 & done; wait", timeout_s=3)
    print("retry" in many.output)
    print((await sandbox.exec("mkdir -m 0 closed; touch closed; echo usable", timeout_s=20)).output)
    await backend.close()
asyncio.run(main())
"""
    try:
        (place / "tmp").mkdir()
        (place / "tmp").chmod(0o777)
        done = subprocess.run(
            [python, "-c", script],
            cwd=place,
            env={"TMPDIR": str(place / "tmp"), "PATH": os.environ["PATH"]},
            user="nobody",
            group="nogroup",
            extra_groups=[],
            capture_output=True,
            text=True,
        )
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stderr
        assert "1000" in lines[0] and "MemoryError" in lines[0]
        assert lines[1:3] == ["True", "usable"]
        assert list((place / "tmp" / f"agent-srl-sandboxes-{65534}").iterdir()) == []
    finally:
        shutil.rmtree(place)
