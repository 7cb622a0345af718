"""What every sandbox promises, whatever makes it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from sandboxes.base import Backend, Outcome, Sandbox, SandboxSpec
from sandboxes.errors import SandboxGone, SandboxUnavailable

LIST_PROCESSES = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done 2>/dev/null"


async def output(sandbox: Sandbox, command: str, **options) -> str:
    return (await sandbox.exec(command, timeout_s=20, **options)).output


@pytest.mark.parametrize(
    ("command", "code", "printed"),
    [
        ("for i in 1 2 3; do echo out; echo error >&2; done", 0, "out\nerror\n" * 3),
        ("exit 3", 3, ""),
        ("set -e; false; echo not reached", 1, ""),
        ("kill -9 $$", 137, ""),
        ("nosuchprogram", 127, "command not found"),
        ("echo 'unterminated", 2, "unexpected EOF"),
        ("printf '\\xff\\xfeok'", 0, "\ufffd\ufffdok"),
        ("printf 'a\\0b'", 0, "a\0b"),
    ],
)
async def test_exit_code_and_output_are_those_of_bash(sandbox: Sandbox, command, code, printed):
    result = await sandbox.exec(command, timeout_s=20)
    assert (result.exit_code, result.outcome) == (code, Outcome.NONZERO if code else Outcome.OK)
    assert printed in result.output
    assert result.dropped_bytes == 0


async def test_commands_share_files_but_no_shell_state(sandbox: Sandbox):
    await output(sandbox, "echo kept > file; cd /; LOST=1; export LOST")
    assert await output(sandbox, 'cat file; pwd; echo "[$LOST]"') == "kept\n/testbed\n[]\n"


async def test_folder_environment_and_input_are_those_asked_for(sandbox: Sandbox):
    await output(sandbox, "mkdir deep")
    result = await output(sandbox, 'pwd; echo "$A"; cat', cwd="deep", env={"A": "x y"}, stdin="line\n")
    assert result == "/testbed/deep\nx y\nline\n"


async def test_reading_an_empty_input_does_not_hang(sandbox: Sandbox):
    result = await sandbox.exec("cat; read x; echo end", timeout_s=5)
    assert (result.outcome, result.output) == (Outcome.OK, "end\n")


async def test_input_larger_than_a_pipe_arrives_whole_even_if_it_is_echoed(sandbox: Sandbox):
    text = "0123456789" * 100_000
    assert await output(sandbox, "tee copy | wc -c; wc -c < copy", stdin=text) == "1000000\n1000000\n"
    assert (await sandbox.exec("exit 4", timeout_s=20, stdin=text)).exit_code == 4


@pytest.mark.parametrize("command", ["cd /nowhere", "x" * 200_000, "echo a\0b"])
async def test_a_command_that_cannot_run_is_a_result(sandbox: Sandbox, command):
    cwd = "/no/such/folder" if command.startswith("cd") else None
    result = await sandbox.exec(command, timeout_s=10, cwd=cwd)
    assert result.outcome is Outcome.NONZERO
    assert result.output
    assert await output(sandbox, "echo usable") == "usable\n"


STUBBORN = {
    "plain": "sleep 1001",
    "own session": "setsid sleep 1002 & sleep 1002",
    "double fork": "( ( sleep 1003 & ) & ); sleep 1003",
    "ignores TERM": "trap '' TERM INT HUP; while :; do sleep 0.1; done",
    "new group in the background": "set -m; nohup sleep 1004 & disown; sleep 1004",
    "kills back": "while :; do kill -STOP 1; kill -9 1; sleep 0.05; done 2>/dev/null",
}


@pytest.mark.parametrize("command", STUBBORN.values(), ids=STUBBORN.keys())
async def test_timeout_kills_the_whole_tree_and_keeps_the_partial_output(sandbox: Sandbox, command):
    start = time.monotonic()
    result = await sandbox.exec(f"echo before; {command}; echo after", timeout_s=0.7)
    assert time.monotonic() - start < 5
    assert (result.outcome, result.exit_code, result.output) == (Outcome.TIMEOUT, None, "before\n")
    left = await output(sandbox, LIST_PROCESSES)
    assert "sleep" not in left
    assert len([line for line in left.splitlines() if line.strip()]) <= 4  # PID 1, this bash and its children
    assert await output(sandbox, "echo usable") == "usable\n"


async def test_a_background_job_does_not_hold_the_answer_and_lives_on(sandbox: Sandbox):
    start = time.monotonic()
    assert await output(sandbox, "(sleep 1; while echo noise; do sleep 0.1; done) & echo started") == "started\n"
    assert time.monotonic() - start < 1
    await asyncio.sleep(1.5)
    assert "noise" in await output(sandbox, LIST_PROCESSES)


async def test_a_flood_of_output_is_bounded_with_head_and_tail_kept(sandbox: Sandbox):
    result = await sandbox.exec("echo first; head -c 200000000 /dev/zero | tr '\\0' a; echo; echo last", timeout_s=60)
    assert result.outcome is Outcome.OK
    assert len(result.output.encode()) < 20_100
    assert result.output.startswith("first\n") and result.output.endswith("\nlast\n")
    assert result.dropped_bytes == 200_000_000 + len("first\n\nlast\n") - 20_000


async def test_cancelling_kills_the_command_and_leaves_the_sandbox_usable(sandbox: Sandbox):
    task = asyncio.create_task(sandbox.exec("sleep 1005", timeout_s=30))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "1005" not in await output(sandbox, "sleep 0.2; " + LIST_PROCESSES)


async def test_cancelling_a_command_that_waits_its_turn_spares_the_one_that_runs(sandbox: Sandbox):
    first = asyncio.create_task(sandbox.exec("sleep 1; echo finished", timeout_s=20))
    await asyncio.sleep(0.3)
    second = asyncio.create_task(sandbox.exec("touch ran", timeout_s=20))
    await asyncio.sleep(0.1)
    second.cancel()
    assert (await first).output == "finished\n"
    assert await output(sandbox, "ls") == ""


async def test_sandboxes_run_side_by_side(backend: Backend, spec: SandboxSpec):
    both = [await backend.acquire(spec) for _ in range(2)]
    start = time.monotonic()
    await asyncio.gather(*(sandbox.exec("sleep 1; touch mine", timeout_s=20) for sandbox in both))
    assert time.monotonic() - start < 1.8
    await both[0].exec("rm mine", timeout_s=20)
    assert await output(both[1], "ls") == "mine\n"


async def test_a_fork_bomb_is_bounded_and_the_sandbox_survives_it(sandbox: Sandbox):
    await sandbox.exec("bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1", timeout_s=3)
    threads = len([entry for entry in Path("/proc").iterdir() if entry.name.isdigit()])
    assert threads < 1500
    result = await sandbox.exec("sleep 1006", timeout_s=0.5)
    assert result.outcome is not Outcome.OK
    assert await output(sandbox, "echo usable") == "usable\n"


async def test_memory_is_limited_and_the_sandbox_survives(sandbox: Sandbox):
    result = await sandbox.exec("exec python3 -c 'x = bytearray(b\"x\") * 10**9'", timeout_s=30)
    assert result.outcome in (Outcome.OOM, Outcome.NONZERO)
    assert result.outcome is Outcome.OOM or "MemoryError" in result.output
    assert await output(sandbox, "echo usable") == "usable\n"


async def test_no_network(sandbox: Sandbox):
    reach = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
    result = await sandbox.exec(f'python3 -c "{reach}"', timeout_s=20)
    assert "Network is unreachable" in result.output
    assert "lo:" in await output(sandbox, "cat /proc/net/dev")
    assert "eth" not in await output(sandbox, "cat /proc/net/dev")


async def test_no_capabilities_and_no_way_to_get_them(sandbox: Sandbox):
    status = await output(sandbox, "grep -E 'Cap|NoNewPrivs' /proc/self/status")
    values = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines()}
    assert values.pop("NoNewPrivs:") == 1
    assert len(values) == 5 and not any(values.values())
    assert (await sandbox.exec("unshare -Ur true", timeout_s=10)).exit_code != 0


@pytest.mark.parametrize(
    "file", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/proc/mtrr"]
)
async def test_settings_of_the_kernel_cannot_be_changed(sandbox: Sandbox, file):
    result = await sandbox.exec(f"exec 3> {file} && echo opened", timeout_s=10)
    assert "opened" not in result.output


async def test_nothing_of_the_hosts_home_secrets_or_processes_is_in_sight(
    sandbox: Sandbox, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("AGENT_SRL_TOKEN", "secret")
    (tmp_path / "private").write_text("secret")
    assert "No such file" in await output(sandbox, f"cat {tmp_path}/private")
    assert (await sandbox.exec("cat /etc/shadow | grep -v '[*!]'", timeout_s=10)).exit_code != 0
    assert "secret" not in await output(sandbox, "env; cat /proc/*/environ | tr '\\0' '\\n'")
    assert "pytest" not in await output(sandbox, LIST_PROCESSES)


async def test_files_are_written_and_read_back(sandbox: Sandbox):
    data = bytes(range(256)) * 5000
    await sandbox.write("new/deep/file", data)
    assert await sandbox.read("/testbed/new/deep/file") == data
    await sandbox.write("new/deep/file", b"")
    assert await sandbox.read("new/deep/file") == b""
    assert await output(sandbox, "stat -c %s new/deep/file; echo more >> new/deep/file") == "0\n"
    await sandbox.write("/tmp/outside", b"also")
    assert await output(sandbox, "cat /tmp/outside") == "also"


async def test_reading_what_cannot_be_read_says_so(sandbox: Sandbox):
    await output(sandbox, "mkdir folder; mkfifo pipe; head -c 1000 /dev/zero > file")
    with pytest.raises(FileNotFoundError):
        await sandbox.read("missing")
    with pytest.raises(IsADirectoryError):
        await sandbox.read("folder")
    with pytest.raises(PermissionError):
        await sandbox.read("pipe")
    with pytest.raises(ValueError, match="larger than 999"):
        await sandbox.read("file", max_bytes=999)
    assert len(await sandbox.read("file", max_bytes=1000)) == 1000
    with pytest.raises(IsADirectoryError):
        await sandbox.write("folder", b"x")
    with pytest.raises(PermissionError):
        await sandbox.write("/proc/sys/kernel/core_pattern", b"core")


async def test_links_of_the_sandbox_never_lead_into_the_host(sandbox: Sandbox, tmp_path: Path):
    secret = tmp_path / "host"
    secret.mkdir()
    (secret / "file").write_text("of the host")
    await output(sandbox, f"ln -s {secret}/file a; ln -s {secret} b; ln -s ../../../../../../../..{secret} c")
    for path in ("a", "b/file", "c/file", f"../../../../..{secret}/file"):
        with pytest.raises(OSError):  # missing or forbidden: both are refusals
            await sandbox.read(path)
    await asyncio.gather(*(sandbox.write(path, b"changed") for path in ("a", "b/new", "c/new")), return_exceptions=True)
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "b" / "file").write_text("uploaded")
    (source / "a").write_text("uploaded")
    await sandbox.upload(source, "/testbed")
    assert await output(sandbox, "cat a b/file") == "uploadeduploaded"
    await asyncio.gather(sandbox.upload(source, "c"), return_exceptions=True)
    assert [path.name for path in secret.iterdir()] == ["file"]
    assert (secret / "file").read_text() == "of the host"


async def test_trees_go_in_and_come_out_the_same(sandbox: Sandbox, tmp_path: Path):
    source = tmp_path / "source"
    (source / "pkg" / "empty").mkdir(parents=True)
    (source / "pkg" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (source / "pkg" / "run.sh").chmod(0o755)
    (source / "pkg" / "data").write_bytes(b"\0\xff")
    (source / "pkg" / "link").symlink_to("data")
    (source / "absolute").symlink_to("/usr/bin/env")
    await sandbox.upload(source, "new/place")
    assert (
        await output(sandbox, "cd new/place && pkg/run.sh && readlink pkg/link absolute") == "ran\ndata\n/usr/bin/env\n"
    )
    await output(sandbox, "cd new/place && ln pkg/data hard && mkfifo pipe && echo x > made")
    await sandbox.download("new/place", tmp_path / "target")
    found = {str(path.relative_to(tmp_path / "target")) for path in (tmp_path / "target").rglob("*")}
    assert found == {"pkg", "pkg/empty", "pkg/run.sh", "pkg/data", "pkg/link", "absolute", "hard", "made"}
    assert (tmp_path / "target" / "hard").read_bytes() == b"\0\xff"
    assert (tmp_path / "target" / "pkg" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "target" / "pkg" / "link").readlink() == Path("data")


async def test_a_download_is_bounded_and_names_what_is_missing(sandbox: Sandbox, tmp_path: Path):
    await output(sandbox, "mkdir big; truncate -s 50M big/sparse")
    with pytest.raises(ValueError, match="sparse"):
        await sandbox.download("big", tmp_path / "target", max_bytes=2**20)
    with pytest.raises(FileNotFoundError):
        await sandbox.download("missing", tmp_path / "target")


async def test_a_killed_sandbox_says_gone_and_dies_once(sandbox: Sandbox, tmp_path: Path):
    await asyncio.gather(sandbox.kill(), sandbox.kill())
    await sandbox.kill()
    with pytest.raises(SandboxGone):
        await sandbox.exec("true", timeout_s=5)
    with pytest.raises(SandboxGone):
        await sandbox.read("x")
    with pytest.raises(SandboxGone):
        await sandbox.upload(tmp_path, ".")
    with pytest.raises(SandboxGone):
        await sandbox.download(".", tmp_path)


async def test_killing_during_a_command_ends_it_as_gone(sandbox: Sandbox):
    task = asyncio.create_task(sandbox.exec("sleep 1007", timeout_s=60))
    await asyncio.sleep(0.3)
    await sandbox.kill()
    with pytest.raises(SandboxGone):
        await asyncio.wait_for(task, 10)


async def test_leaving_the_block_kills(backend: Backend, spec: SandboxSpec):
    async with await backend.acquire(spec) as sandbox:
        assert await output(sandbox, "echo in") == "in\n"
    with pytest.raises(SandboxGone):
        await sandbox.exec("true", timeout_s=5)


async def test_read_only_mounts_are_seen_and_not_writable(backend: Backend, spec: SandboxSpec, tmp_path: Path):
    (tmp_path / "file").write_text("mounted")
    mounted = SandboxSpec(image=spec.image, limits=spec.limits, read_only={"/opt/data": tmp_path})
    async with await backend.acquire(mounted) as sandbox:
        assert await output(sandbox, "cat /opt/data/file; echo x > /opt/data/file || echo refused") in (
            "mounted/bin/bash: line 1: /opt/data/file: Read-only file system\nrefused\n",
        )
    with pytest.raises(SandboxUnavailable):
        await backend.acquire(
            SandboxSpec(image=spec.image, workdir="/proc/x", read_only={"/opt/data": tmp_path / "missing"})
        )
