"""The wire: who is let in, what errors look like, how a server starts and what its end leaves behind."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from serving import TOKEN, sandbox_processes, served

from env_server.api.problem import from_error, to_error
from env_server.app import MAX_BODY_BYTES
from env_server.cli import serve
from env_server.client import EnvClient
from env_server.errors import EnvError, ServeError, ServerUnreachable, TaskError, Unauthorized
from env_server.schema import Action
from env_server.service import EnvService
from env_server.settings import Settings
from sandboxes.errors import SandboxError, SandboxUnavailable

pytestmark = pytest.mark.timeout(60)

COMMAND = "import typer; from env_server.cli import serve; typer.run(serve)"


@pytest.fixture
async def address(math_task):
    async with served(EnvService([math_task], None, Settings())) as address:
        yield address


@pytest.fixture
async def http(address):
    async with httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        yield http


@contextlib.contextmanager
def server_process(tasks, *arguments: str):
    """`agent-srl serve` in a process of its own, and its address."""
    command = [sys.executable, "-c", COMMAND, "--tasks", str(tasks), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield process, line.split(" at ")[1].split()[0]
        finally:
            process.kill()


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
async def test_only_the_token_opens_a_route(address, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    routes = [("GET", "/v1/tasks"), ("POST", "/v1/sessions"), ("GET", "/docs"), ("GET", "/nothing")]
    async with httpx.AsyncClient(base_url=address) as http:
        for method, path in routes:
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 401 and answer.json()["code"] == "unauthorized"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await http.get("/healthz", headers=headers)).json()["status"] == "ok"


async def test_a_client_with_a_wrong_token_is_told(address, monkeypatch):
    async with EnvClient(address, "wrong") as client:
        with pytest.raises(Unauthorized, match="AGENT_SRL_TOKEN"):
            await client.list_tasks()
    monkeypatch.setenv("AGENT_SRL_TOKEN", TOKEN)
    async with EnvClient(address) as client:
        assert await client.list_tasks()


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("PUT", "/v1/sessions", "", 405, "method_not_allowed"),
        ("POST", "/v1/sessions", "{", 422, "bad_request"),
        ("POST", "/v1/sessions", "[" * 100_000, 400, "bad_request"),
        ("POST", "/v1/sessions", '{"task_id": "sum", "seed": 1}', 422, "bad_request"),
        ("POST", "/v1/sessions", '{"task_id": "\\ud800"}', 404, "unknown_task"),
        ("POST", "/v1/sessions", '{"\\ud800": 1}', 422, "bad_request"),
        ("POST", "/v1/sessions", '{"task_id": "sum", "max_steps": 0}', 422, "bad_request"),
        ("POST", "/v1/sessions/guess/step", '{"action": {"arguments": {}}}', 422, "bad_request"),
        ("POST", "/v1/sessions/guess/evaluate", "", 404, "unknown_session"),
    ],
)
async def test_every_error_is_problem_json(http, method, path, content, status, code):
    headers = {"Content-Type": "application/json"}
    answer = await http.request(method, path, content=content, headers=headers)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["retryable"] is False and problem["title"] and problem["detail"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_above_the_limit_is_refused(http, announced):
    async def chunks():
        for _ in range(MAX_BODY_BYTES // 2**20 + 1):
            yield b" " * 2**20

    content = b" " * (MAX_BODY_BYTES + 1) if announced else chunks()
    answer = await http.post("/v1/sessions", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert (await http.get("/healthz")).status_code == 200


async def test_a_task_id_may_hold_any_character(math_task):
    task = math_task.model_copy(update={"instance_id": "owner/name__1 ?#%2F"})
    async with served(EnvService([task], None, Settings()), None) as address, EnvClient(address) as client:
        assert (await client.get_task(task.instance_id)).instance_id == task.instance_id
        assert (await client.grade(task.instance_id, "Answer: 2")).resolved


def _subclasses(kind):
    return {kind}.union(*(_subclasses(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize(
    "kind",
    sorted((_subclasses(EnvError) | _subclasses(SandboxError)) - {ServeError, ServerUnreachable}, key=str),
)
def test_every_error_crosses_the_wire_as_itself(kind):
    body = json.loads(json.dumps(from_error(kind("because"))))
    error = to_error(body)
    assert type(error) is kind and str(error) == "because"
    assert body["retryable"] == getattr(kind, "retryable", kind.__name__ == "SandboxGone")


def test_an_unknown_code_is_no_import():
    assert type(to_error({"code": "os.system", "detail": "x"})) is EnvError


async def test_no_server_is_one_clear_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for wrong in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}", "http://[broken"):
        with pytest.raises(ServerUnreachable, match="agent-srl serve"):
            async with EnvClient(wrong) as client:
                await client.list_tasks()


async def test_another_server_is_told_apart():
    def answer(listener):
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        async with EnvClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            with pytest.raises(EnvError, match="answered 500; is it an agent-srl"):
                await client.list_tasks()
        thread.join()


async def test_a_dropped_connection_does_not_repeat_a_step(address):
    """A proxy that swallows the first answer: the client asks again, and the step was done once."""
    host, port = address.removeprefix("http://").split(":")
    dropped = []

    async def pump(reader, writer, seen):
        """Hand on what comes, until the answer to a step comes for the first time."""
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                seen.append(data)
                if data.startswith(b"HTTP") and any(b"/step" in part for part in seen) and not dropped:
                    dropped.append(data)
                    break
                writer.write(data)
        writer.close()

    async def relay(reader, writer):
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        seen = []
        await asyncio.gather(pump(reader, up_writer, seen), pump(up_reader, writer, seen))

    proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with EnvClient(f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", TOKEN) as client:
        session = await client.create_session("sum")
        observation = await client.step(session.session_id, Action(name="step", arguments={"text": "a"}))
        assert dropped and observation.output == "Next step."
        assert (await client.get_session(session.session_id)).steps_taken == 1
    proxy.close()


async def test_a_client_that_ends_closes_its_sessions(address):
    async with EnvClient(address, TOKEN) as client:
        await client.create_session("sum")
        assert (await client.healthy())["sessions"] == 1
    async with EnvClient(address, TOKEN) as client:
        assert (await client.healthy())["sessions"] == 0


def test_a_server_that_cannot_start_says_why(tmp_path, math_task, swe_task):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(math_task.model_dump_json() + "\n")
    for host in ("0.0.0.0", "::", "", "example.org"):
        with pytest.raises(ServeError, match="pass --token"):
            serve(tasks, host=host)
    with pytest.raises(ServeError, match="printable"):
        serve(tasks, token="two words")
    in_use = pytest.raises(ServeError, match="Address already in use; pass another --port")
    with socket.create_server(("127.0.0.1", 0)) as taken, in_use:
        serve(tasks, port=taken.getsockname()[1])
    with pytest.raises(ServeError, match="cannot listen on"):
        serve(tasks, host="203.0.113.1", token="x")
    tasks.write_text(swe_task.model_dump_json() + "\n")
    with pytest.raises(SandboxUnavailable, match="unknown sandbox 'vm'"):
        serve(tasks, sandbox="vm")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "holds no task"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"instance_id": "a", "problem_statement": "p"}\n{"instance_id"', "jsonl:2: not JSON"),
        (b'\n{"instance_id": "a"}', "jsonl:2: problem_statement: Field required"),
        (b'{"instance_id": "a", "problem_statement": "p"}\n' * 2, "jsonl:2: a second task"),
        (b'{"instance_id": "a", "problem_statement": "p", "FAIL_TO_PASS": "[x"}', "jsonl:1: "),
        (b"7", "jsonl:1: the row: "),
        (b"[" * 100_000, "not JSON"),
        (b'[{"instance_id": "a", "problem_statement": "p"}, {}]', "row 2: instance_id: Field required"),
    ],
)
def test_a_broken_task_file_is_named_by_its_line(tmp_path, content, said):
    tasks = tmp_path / "tasks.jsonl"
    if content is not None:
        tasks.write_bytes(content)
    with pytest.raises(TaskError, match=said):
        serve(tasks)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
async def test_the_end_of_a_server_is_the_end_of_its_sandboxes(tmp_path, swe_task, end):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(swe_task.model_dump_json() + "\n")
    with server_process(tasks) as (process, address):
        client = EnvClient(address)
        session = await client.create_session(swe_task.instance_id)
        action = Action(name="bash", arguments={"command": "sleep 600 & sleep 600"})
        running = asyncio.create_task(client.step(session.session_id, action))
        await asyncio.sleep(0.5)
        sandboxes = sandbox_processes(process.pid)
        assert sandboxes
        process.send_signal(end)
        process.wait(10)
        with pytest.raises((EnvError, SandboxError)):
            await running
        await client.close()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in sandboxes):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
