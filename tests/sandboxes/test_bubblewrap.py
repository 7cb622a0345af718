"""What only bubblewrap can get wrong: what of the host is in sight, and what it says where it cannot work."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes import available, mounts, open_backend
from sandboxes.base import Limits, Outcome, SandboxSpec
from sandboxes.bubblewrap import BubblewrapBackend
from sandboxes.cgroups import Cgroup
from sandboxes.errors import SandboxGone, SandboxUnavailable


@pytest.fixture
async def backend():
    try:
        made = open_backend("bubblewrap")
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield made
    await made.close()


async def test_no_installed_package_of_the_host_is_in_sight(backend):
    async with await backend.acquire(SandboxSpec()) as sandbox:
        find = "find / -path /proc -prune -o \\( -name site-packages -o -name dist-packages \\) -print"
        folders = (await sandbox.exec(f"{find} 2>/dev/null", timeout_s=60)).output.split()
        assert any(folder.startswith(str(mounts.python().parents[1])) for folder in folders)
        listed = await sandbox.exec(f"ls -A {' '.join(folders)} | grep -v : | grep .", timeout_s=20)
        assert listed.output == ""
        wheels = await sandbox.exec("find / -path /proc -prune -o -name 'pip*.whl' -print 2>/dev/null", timeout_s=60)
        assert wheels.output == ""
        found = await sandbox.exec(f"{mounts.python()} -c 'import pip'; python3 -c 'import pytest'", timeout_s=20)
        assert found.output.count("ModuleNotFoundError") == 2


async def test_a_mounted_environment_runs_and_its_hidden_folders_are_empty(backend, tmp_path: Path):
    (tmp_path / "venv" / "kept").mkdir(parents=True)
    (tmp_path / "venv" / "kept" / "file").write_text("kept")
    (tmp_path / "venv" / "secret").mkdir()
    (tmp_path / "venv" / "secret" / "file").write_text("gold")
    (tmp_path / "venv" / "link").symlink_to("secret")
    spec = SandboxSpec(
        read_only={"/opt/venv": tmp_path / "venv"},
        hidden=("/opt/venv/link", "/opt/venv/missing", "/usr/share/doc"),
    )
    async with await backend.acquire(spec) as sandbox:
        result = await sandbox.exec("cat /opt/venv/*/file; ls /usr/share/doc /opt/venv/secret", timeout_s=20)
        assert "kept" in result.output and "gold" not in result.output
        assert (await sandbox.exec("ls /usr/share/doc | wc -l", timeout_s=20)).output == "0\n"


async def test_only_the_work_folder_and_memory_are_writable(backend):
    async with await backend.acquire(SandboxSpec(limits=Limits(memory_mb=64))) as sandbox:
        find = "find / -path /proc -prune -o -type d -writable -print 2>/dev/null"
        found = set((await sandbox.exec(find, timeout_s=60)).output.split())
        assert found - {"/dev/pts"} == {"/testbed", "/tmp", "/home/agent", "/dev/shm"}
        full = await sandbox.exec("head -c 100000000 /dev/zero > /tmp/big", timeout_s=20)
        assert "No space left" in full.output


async def test_the_control_stream_is_out_of_reach_and_the_supervisor_cannot_be_killed(backend):
    async with await backend.acquire(SandboxSpec()) as sandbox:
        attack = "for n in 0 1 2; do echo forged > /proc/1/fd/$n; done; kill -9 1; kill -INT 1; kill -9 -1"
        result = await sandbox.exec(attack, timeout_s=20)
        assert result.output.count("Permission denied") == 3
        peek = "open('/proc/1/mem', 'rb')"
        assert "PermissionError" in (await sandbox.exec(f'python3 -c "{peek}"', timeout_s=20)).output
        assert (await sandbox.exec("ls /proc/self/fd", timeout_s=20)).output == "0\n1\n2\n3\n"
        assert (await sandbox.exec("echo alive", timeout_s=20)).output == "alive\n"


async def test_orphans_are_reaped_while_a_command_runs(backend):
    async with await backend.acquire(SandboxSpec(limits=Limits(processes=30))) as sandbox:
        count = "grep -l 'State:.Z' /proc/[0-9]*/status | wc -l"
        command = f"for i in $(seq 100); do (setsid true &); done; sleep 0.3; {count}"
        result = await sandbox.exec(command, timeout_s=30)
        assert (result.outcome, result.output) == (Outcome.OK, "0\n")


async def test_without_control_groups_resource_limits_hold_memory(backend, monkeypatch):
    monkeypatch.setattr(Cgroup, "create", classmethod(lambda *_: None))
    async with await backend.acquire(SandboxSpec(limits=Limits(memory_mb=300))) as sandbox:
        result = await sandbox.exec("python3 -c 'bytearray(10**9)'", timeout_s=20)
        assert result.outcome is Outcome.NONZERO and "MemoryError" in result.output


async def test_with_a_shared_proc_other_processes_can_neither_be_read_nor_killed(backend):
    bystander = await asyncio.create_subprocess_exec("sleep", "60", env={"SECRET": "of the host"})
    await (await backend.acquire(SandboxSpec())).kill()
    backend._features = mounts.Features(own_proc=False, lock_userns=backend._features.lock_userns)
    try:
        async with await backend.acquire(SandboxSpec()) as sandbox:
            prefix = f"/proc/{bystander.pid}"
            look = f"cat {prefix}/environ; ls {prefix}/root/; ls {prefix}/cwd/"
            attack = f"{look}; kill -9 {bystander.pid}; kill -9 -1"
            result = await sandbox.exec(attack, timeout_s=20)
            assert result.output.count("denied") == 3 and "SECRET" not in result.output
            assert (await sandbox.exec("echo x > /proc/sys/kernel/core_pattern", timeout_s=20)).exit_code == 1
            timed_out = await sandbox.exec("setsid sleep 60 & sleep 60", timeout_s=0.5)
            assert timed_out.outcome is Outcome.TIMEOUT
            assert (await sandbox.exec("cat <(echo usable)", timeout_s=20)).output == "usable\n"
        assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


async def test_a_sandbox_whose_process_dies_is_gone_and_never_hangs(backend):
    sandbox = await backend.acquire(SandboxSpec())
    folder = sandbox.folder
    sandbox._process.kill()
    with pytest.raises(SandboxGone):
        await sandbox.exec("sleep 60", timeout_s=60)
    await sandbox.kill()
    assert not folder.exists()


async def test_a_hundred_commands_leave_no_descriptors_behind(backend):
    async with await backend.acquire(SandboxSpec()) as sandbox:
        for _ in range(100):
            await sandbox.exec("cat; (sleep 0.01 &)", timeout_s=20, stdin="x")
        await sandbox.exec("sleep 0.2", timeout_s=20)
        found = await sandbox.exec("ls /proc/1/fd 2>/dev/null | wc -l", timeout_s=20)
        assert int(found.output) < 15


def test_the_supervisor_refuses_to_run_where_it_could_kill_the_host():
    script = Path(mounts.__file__).with_name("supervisor.py")
    done = subprocess.run([sys.executable, "-I", "-S", script, "{}"], capture_output=True, text=True)
    assert done.returncode != 0 and "PID 1" in done.stderr


@pytest.mark.parametrize("workdir", ["", "/", "testbed", "/usr/x", "/testbed/", "/a/../proc"])
async def test_a_work_folder_that_cannot_be_is_refused(backend, workdir):
    with pytest.raises(SandboxUnavailable, match="work folder"):
        await backend.acquire(SandboxSpec(workdir=workdir))


def test_without_bubblewrap_the_message_names_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
        BubblewrapBackend().check()


def test_where_namespaces_are_forbidden_the_message_says_how_to_allow_them(monkeypatch, tmp_path: Path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(SandboxUnavailable, match=r"sysctl.*seccomp=unconfined"):
        BubblewrapBackend().check()


def test_without_any_backend_the_message_names_both_ways_out(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(SandboxUnavailable, match=r"apt install bubblewrap.*no Docker engine answers"):
        open_backend()
    assert set(available()) == {"bubblewrap", "docker"}
    assert "ok" not in available().values()
    with pytest.raises(SandboxUnavailable, match="choose auto, bubblewrap or docker"):
        open_backend("podman")


async def test_a_folder_that_cannot_be_made_is_one_clear_line(monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(SandboxUnavailable, match="TMPDIR"):
        await open_backend("bubblewrap").acquire(SandboxSpec())


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
async def test_a_full_disk_is_one_clear_line(monkeypatch, tmp_path: Path):
    small, source = tmp_path / "small", tmp_path / "source"
    small.mkdir()
    source.mkdir()
    (source / "big").write_bytes(b"x" * 2_000_000)
    mount(small)
    monkeypatch.setattr("tempfile.tempdir", str(small))
    backend = open_backend("bubblewrap")
    try:
        sandbox = await backend.acquire(SandboxSpec())
        with pytest.raises(SandboxUnavailable, match="disk is full"):
            await sandbox.upload(source, "copy")
        with pytest.raises(SandboxUnavailable, match="disk is full"):
            await sandbox.write("big", b"x" * 2_000_000)
    finally:
        await backend.close()
        umount(small)


def mount(folder: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("mounting is not allowed here")


def umount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)
