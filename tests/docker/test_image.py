"""The built image under the restrictions that compose.yaml gives it. Build it first: `docker-compose build env`."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["env"]
TOKEN = "a-secret"
ROW = {"kind": "math", "instance_id": "sum", "problem_statement": "What is 1 + 1?", "answer": "2"}
SANDBOX = """
import asyncio
from sandboxes import open_backend
from sandboxes.base import SandboxSpec
async def main():
    sandbox = await open_backend("bubblewrap").acquire(SandboxSpec())
    look = "id -u; grep CapEff /proc/self/status; ls /var/lib /opt; env | grep TOKEN; cat <(echo works)"
    print((await sandbox.exec(look, timeout_s=20)).output)
    print((await sandbox.exec("setsid sleep 99 & sleep 99", timeout_s=0.5)).outcome)
    print((await sandbox.exec("echo usable; touch /usr/x /x", timeout_s=20)).output)
    await sandbox.kill()
asyncio.run(main())
"""

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def engine() -> Any:
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.images.get(SERVICE["image"])
    except docker.errors.DockerException as error:
        pytest.skip(f"no engine, or no image {SERVICE['image']}: {error}")
    return client


def run(engine: Any, tasks: Path, token: str) -> Any:
    options = []
    for option in SERVICE["security_opt"]:
        name, _, value = option.partition(":")
        text = json.dumps(json.loads((ROOT / value).read_text())) if name == "seccomp" else value
        options.append(f"{name}={text}" if value else name)
    return engine.containers.run(
        SERVICE["image"],
        SERVICE["command"],
        detach=True,
        environment={"AGENT_SRL_TOKEN": token},
        volumes={str(tasks): {"bind": "/tasks", "mode": "ro"}},
        ports={"8000/tcp": ("127.0.0.1", None)},
        cap_drop=SERVICE["cap_drop"],
        pids_limit=SERVICE["pids_limit"],
        security_opt=options,
    )


@pytest.fixture(scope="module")
def container(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    tasks = tmp_path_factory.mktemp("tasks")
    (tasks / "tasks.jsonl").write_text(json.dumps(ROW) + "\n")
    for folder in (tasks, *list(tasks.parents)[:2]):  # pytest closes its folders to others
        folder.chmod(0o755)
    made = run(engine, tasks, TOKEN)
    yield made
    made.remove(force=True, v=True)


def get(container: Any, path: str, token: str = "") -> Any:
    container.reload()
    port = container.ports["8000/tcp"][0]["HostPort"]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


def wait(container: Any) -> Any:
    for _ in range(100):
        try:
            return get(container, "/healthz")
        except (OSError, KeyError):
            time.sleep(0.3)
    pytest.fail(container.logs().decode())


def test_the_service_answers_and_asks_for_the_token(container):
    assert wait(container)["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(container, "/v1/tasks")
    assert [task["instance_id"] for task in get(container, "/v1/tasks", TOKEN)] == ["sum"]


def test_sandboxes_work_inside_without_root_or_capabilities(container):
    code, output = container.exec_run(["python3", "-c", SANDBOX])
    text = output.decode()
    assert code == 0, text
    assert "1000\nCapEff:\t0000000000000000\n" in text
    assert "agent-srl" not in text and "TOKEN" not in text
    assert "works\n" in text and "timeout\n" in text and "usable\n" in text
    assert text.count("Read-only file system") == 2
    assert container.exec_run(["grep", "CapBnd", "/proc/1/status"]).output == b"CapBnd:\t0000000000000000\n"


def test_the_health_check_of_the_image_passes(container):
    wait(container)
    command = container.image.attrs["Config"]["Healthcheck"]["Test"]
    code, output = container.exec_run(command[1:])
    assert code == 0, output.decode()


def test_it_stops_when_told_to(container):
    wait(container)
    start = time.monotonic()
    container.stop(timeout=30)
    assert time.monotonic() - start < 15


def test_without_a_token_it_refuses_to_be_reached_by_others(engine, tmp_path: Path):
    made = run(engine, tmp_path, "")
    try:
        assert made.wait(timeout=60)["StatusCode"] == 2
        said = made.logs().decode()
        assert "AGENT_SRL_TOKEN" in said and "Traceback" not in said
    finally:
        made.remove(force=True, v=True)
