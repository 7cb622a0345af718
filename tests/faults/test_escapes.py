"""What an agent would try to reach beyond its sandbox: files, secrets, processes, the kernel, the network."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from sandboxes.base import Backend, Sandbox, SandboxSpec
from tests.faults.conftest import Attempt, findings

REFUSED = {"EPERM", "EACCES", "EROFS", "ENOSYS", "ENOENT", "ENXIO"}
CANARY = f"canary-{uuid.uuid4().hex}"


def only(backend: Backend, name: str) -> None:
    if backend.name != name:
        pytest.skip(f"what {backend.name} promises here is up to its engine")


async def test_files_of_the_host(sandbox: Sandbox, attack: Attempt, tmp_path: Path):
    secret = tmp_path / CANARY
    secret.write_text("of the host")
    ways = ["", "/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/cwd/../../../../..", "/dev/../..", "/.."]
    result = await attack(sandbox, "\n".join(f"cat {way}{secret}" for way in ways))
    assert "of the host" not in result.output
    found = await attack(sandbox, f"find / -path '/proc/[0-9]*' -prune -o -name {CANARY} -print 2>/dev/null")
    assert CANARY not in found.output
    home = await attack(sandbox, f"ls -A {Path.home()}/.ssh {Path.home()}/.cache /etc/ssl/private /var/lib")
    assert home.exit_code != 0
    shadow = await attack(sandbox, "cat /etc/shadow /etc/gshadow | grep -v '[*!]'")
    assert shadow.exit_code != 0


async def test_environment_and_token_of_the_server(
    backend: Backend, spec: SandboxSpec, attack: Attempt, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AGENT_SRL_TOKEN", CANARY)
    async with await backend.acquire(spec) as sandbox:
        look = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; grep -a canary /proc/*/mem"
        assert CANARY not in (await attack(sandbox, look)).output
        for path in ("/proc/1/environ", "/proc/self/environ", "/proc/1/cmdline", "/proc/self/mem", "/proc/1/maps"):
            try:
                data = await sandbox.read(path)
            except (OSError, ValueError) as error:
                data = type(error).__name__.encode()
            print(f"tried: read {path}\nfound: {data[:100]!r}")
            assert CANARY.encode() not in data
        assert (await attack(sandbox, "echo usable")).output == "usable\n"


async def test_files_and_processes_of_other_sandboxes(backend: Backend, spec: SandboxSpec, attack: Attempt):
    first, second = [await backend.acquire(spec) for _ in range(2)]
    plant = f"for place in . /tmp /dev/shm; do echo mine > $place/{CANARY}; done; sleep 4343 & ipcmk -M 4096 -p 0666"
    planted = await attack(first, plant)
    assert planted.exit_code == 0
    find = await attack(second, f"find / -path '/proc/[0-9]*' -prune -o -name {CANARY} -print 2>/dev/null; ipcs -m")
    assert CANARY not in find.output and " 4096 " not in find.output
    seen = await attack(second, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; kill -9 -1; pkill -9 -f 434[3]")
    assert "4343" not in seen.output
    left = await attack(first, f"cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat {CANARY}")
    assert "sleep 4343" in left.output and "mine" in left.output


async def test_proc_of_the_host(backend: Backend, sandbox: Sandbox, attack: Attempt):
    listed = await attack(sandbox, "ls -d /proc/[0-9]* | wc -l; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert int(listed.output.split()[0]) <= 8 and "pytest" not in listed.output
    own = os.getpid()
    alive = await attack(sandbox, f"kill -0 {own} && echo signalled; ls /proc/{own}/fd && echo looked")
    assert "signalled" not in alive.output and "looked" not in alive.output
    files = "kcore keys kmsg timer_list sched_debug"
    if backend.name == "bubblewrap":
        files += " kpagecount kpageflags kpagecgroup vmallocinfo slabinfo pagetypeinfo latency_stats"
    read = await attack(
        sandbox, f"cd /proc; for f in {files}; do [ $(head -c 9 $f | wc -c) = 0 ] || echo $f; done 2>/dev/null"
    )
    assert read.output == ""
    only(backend, "bubblewrap")
    kept = await attack(sandbox, "find /proc -maxdepth 1 -type f ! -perm -004 -readable")
    assert kept.output == ""
    writable = "find /proc -path '/proc/[0-9]*' -prune -o -type f -writable -exec test -f {} ';' -print 2>/dev/null"
    assert (await attack(sandbox, writable)).output == ""


async def test_device_nodes(backend: Backend, sandbox: Sandbox, attack: Attempt):
    made = await attack(
        sandbox, "mknod mem c 1 1; mknod disk b 254 0; mknod /tmp/kvm c 10 232; ls mem disk /tmp/kvm 2>/dev/null"
    )
    assert not made.output.endswith(("mem\n", "disk\n", "kvm\n"))
    names = "mem kmem port kmsg kvm fuse loop-control loop0 vda sda nvme0 vsock vhost-vsock net/tun uinput userfaultfd"
    present = await attack(sandbox, f"cd /dev; ls -d {names} 2>/dev/null; find / -xdev -type b 2>/dev/null")
    assert present.output == ""
    only(backend, "bubblewrap")
    allowed = {"console", "full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
    listed = set((await attack(sandbox, "find /dev -mindepth 1 -maxdepth 1 ! -type l -printf '%f\\n'")).output.split())
    assert listed <= allowed


async def test_device_nodes_of_the_host_keep_their_mode(backend: Backend, sandbox: Sandbox, attack: Attempt):
    only(backend, "bubblewrap")
    before = Path("/dev/null").stat()
    same = """
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    path = f"/dev/{name}"
    attempt(f"chmod {name}", lambda: call(libc.chmod, path.encode(), os.stat(path).st_mode & 0o777))
    attempt(f"utime {name}", lambda: os.utime(path, (1, 1)) or "ALLOWED")
"""
    found = findings((await attack(sandbox, python=same)).output)
    assert len(found) == 12 and set(found.values()) <= REFUSED
    assert Path("/dev/null").stat().st_mtime == before.st_mtime
    written = await attack(
        sandbox, "echo x > /dev/null && head -c 4 /dev/zero | wc -c && (: < /dev/urandom) && echo can"
    )
    assert written.output == "4\ncan\n"


async def test_mounts_and_namespaces(sandbox: Sandbox, attack: Attempt):
    code = """
attempt("tmpfs", lambda: call(libc.mount, b"x", b"/tmp", b"tmpfs", 0, None))
attempt("proc", lambda: call(libc.mount, b"proc", b"/tmp", b"proc", 0, None))
attempt("bind", lambda: call(libc.mount, b"/usr", b"/tmp", None, 0x1000, None))
attempt("remount", lambda: call(libc.mount, None, b"/", None, 0x20 | 0x1000, None))
attempt("umount", lambda: call(libc.umount2, b"/proc/sys", 2))
attempt("umount2", lambda: call(libc.umount2, b"/usr", 2))
attempt("pivot_root", lambda: call(libc.syscall, 155 if os.uname().machine == "x86_64" else 41, b"/", b"/tmp"))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("fsopen", lambda: call(libc.syscall, 430, b"tmpfs", 0))
attempt("open_tree", lambda: call(libc.syscall, 428, -100, b"/", 1))
attempt("setns", lambda: call(libc.setns, os.open("/proc/1/ns/net", 0), 0))
for name, flag in {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000}.items():
    attempt(f"unshare {name}", lambda: call(libc.unshare, flag))
attempt("clone", lambda: call(libc.syscall, 56 if os.uname().machine == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0))
"""
    found = findings((await attack(sandbox, python=code)).output)
    # Locked user namespaces answer ENOSPC; setns with a descriptor that is no longer ours EINVAL.
    assert len(found) == 16 and set(found.values()) <= REFUSED | {"ENOSPC", "EINVAL"}
    assert "ALLOWED" not in found.values()


async def test_the_supervisor_and_its_memory(sandbox: Sandbox, attack: Attempt):
    code = """
attempt("attach", lambda: call(libc.ptrace, 16, 1, None, None))
attempt("seize", lambda: call(libc.ptrace, 0x4206, 1, None, None))
buffer = ctypes.create_string_buffer(16)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
ours, theirs = Vector(ctypes.addressof(buffer), 16), Vector(0x400000, 16)
attempt("read memory", lambda: call(libc.process_vm_readv, 1, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))
attempt("write memory", lambda: call(libc.process_vm_writev, 1, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))
def steal():
    pidfd = os.pidfd_open(1)
    return call(libc.syscall, 438, pidfd, 1, 0)
attempt("steal its output", steal)
for name in ("mem", "fd/0", "fd/1", "environ", "maps", "root", "cwd", "exe"):
    attempt(name, lambda: os.open(f"/proc/1/{name}", os.O_RDONLY) and "OPENED")
"""
    found = findings((await attack(sandbox, python=code)).output)
    assert len(found) == 13 and set(found.values()) <= REFUSED
    assert (await attack(sandbox, "echo usable")).output == "usable\n"


def own_addresses() -> list[str]:
    return subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()


async def test_network_in_every_family(sandbox: Sandbox, attack: Attempt, tmp_path: Path):
    listeners = [
        socket.create_server(("0.0.0.0", 0)),
        socket.create_server(("::", 0), family=socket.AF_INET6) if socket.has_ipv6 else socket.socket(),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    ]
    listeners[2].bind(f"\0{CANARY}")
    listeners[3].bind(str(tmp_path / "s"))
    for listener in listeners[2:]:
        listener.listen()
    port, port6 = (listener.getsockname()[1] for listener in listeners[:2])
    addresses = ["127.0.0.1", "1.1.1.1", *own_addresses()]
    code = f"""
import fcntl, struct
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(2)
        return s.connect(address) or "CONNECTED"
for address in {addresses!r}:
    v6 = ":" in address
    where = (address, {port6} if v6 else {port})
    attempt(f"tcp to {{address.replace(':', '.')}}", lambda: connect(socket.AF_INET6 if v6 else socket.AF_INET, where))
attempt("tcp to the host's ..1", lambda: connect(socket.AF_INET6, ("::1", {port6})))
def send(family, address):
    return socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, 53)) and "SENT"
attempt("udp", lambda: send(socket.AF_INET, "8.8.8.8"))
attempt("udp6", lambda: send(socket.AF_INET6, "2001:4860:4860::8888"))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and "OPENED")
attempt("abstract", lambda: connect(socket.AF_UNIX, "\\0{CANARY}"))
attempt("path", lambda: connect(socket.AF_UNIX, "{tmp_path}/s"))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) and "OPENED")
def netlink():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        s.bind((0, 0))
        up = struct.pack("=IHHII", 32, 16, 5, 1, 0) + struct.pack("=BxHiII", 0, 0, 1, 1, 1)
        s.send(up)  # set the loopback interface up
        kind, code = struct.unpack_from("=4xH10xi", s.recv(4096))
        return errno.errorcode.get(-code, "ALLOWED") if kind == 2 else "ANSWERED"
attempt("netlink", netlink)
attempt("interfaces", lambda: "ENXIO" if [n for _, n in socket.if_nameindex()] == ["lo"] else "MORE")
attempt("name", lambda: socket.getaddrinfo("example.com", 80) and "RESOLVED")
"""
    try:
        found = findings((await attack(sandbox, python=code)).output)
    finally:
        for listener in listeners:
            listener.close()
    print(found)
    assert len(found) == len(addresses) + 10
    fine = REFUSED | {"ECONNREFUSED", "ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"}
    assert {value for key, value in found.items() if key != "name"} <= fine
    assert "RESOLVED" not in found["name"]


ALONE = """
if os.fork():
    os._exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
"""
"""Go on in the background; the command ends at once."""


async def test_loopback_of_another_sandbox(backend: Backend, spec: SandboxSpec, attack: Attempt):
    first, second = [await backend.acquire(spec) for _ in range(2)]
    serve = f"""{ALONE}tcp = socket.create_server(("127.0.0.1", 4344))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0shared")
unix.listen()
open("listening", "w").close()
import time
time.sleep(30)
"""
    await attack(first, python=serve)
    connect = """
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 4344), 2) and "CONNECTED")
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0shared") or "CONNECTED")
"""
    await attack(first, "until [ -e listening ]; do sleep 0.05; done")
    assert set(findings((await attack(first, python=connect)).output).values()) == {"CONNECTED"}
    assert set(findings((await attack(second, python=connect)).output).values()) == {"ECONNREFUSED"}


async def test_setuid_programs(sandbox: Sandbox, attack: Attempt, tmp_path: Path):
    listed = await attack(sandbox, "find / -xdev -perm /6000 -type f 2>/dev/null; (su -c id; sudo -n id) </dev/null")
    assert "uid=0" not in listed.output
    user = (await attack(sandbox, "id -u")).output
    own = "mkdir s; cp /bin/bash s/shell; chmod 6755 s/shell s; s/shell -p -c 'id -u; grep CapEff /proc/self/status'"
    lines = (await attack(sandbox, own)).output.splitlines(keepends=True)
    assert lines[0] == user and int(lines[1].split()[1], 16) == 0
    await sandbox.download(".", tmp_path / "out")
    modes = {path.name: oct(path.lstat().st_mode & 0o7777) for path in (tmp_path / "out").rglob("*")}
    print("copied out:", modes)
    assert modes == {"s": "0o755", "shell": "0o755"}


RACE = f"""
os.makedirs("dir")
open("dir/inside", "w").write("inside")
os.symlink("%s", "link")
{ALONE}
while True:
    libc.renameat2(-100, b"dir", -100, b"link", 2)
"""


async def test_file_calls_while_a_folder_turns_into_a_link_and_back(sandbox: Sandbox, attack: Attempt, tmp_path: Path):
    secret, source = tmp_path / "secret", tmp_path / "source"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "planted").write_text("planted")
    secret.mkdir()
    (secret / "inside").write_text("of the host")
    await attack(sandbox, python=RACE % secret)
    end, tries, refused = threading.Event(), 0, 0
    timer = threading.Timer(1.5, end.set)
    timer.start()
    while not end.is_set():
        for act in (
            lambda n: sandbox.download("dir", tmp_path / f"a{n}"),
            lambda n: sandbox.download(".", tmp_path / f"b{n}"),
            lambda n: sandbox.upload(source, "."),
            lambda n: sandbox.upload(source / "dir", "dir"),
            lambda n: sandbox.read("dir/inside"),
            lambda n: sandbox.write("dir/written", b"written"),
        ):
            tries += 1
            try:
                await act(tries)
            except (OSError, ValueError):
                refused += 1
    found = {
        Path(folder, name).read_text()
        for folder, _, names in os.walk(tmp_path)
        if not Path(folder).is_relative_to(secret)
        for name in names
        if not Path(folder, name).is_symlink()
    }
    print(f"tried: {tries} calls in a race, {refused} refused; found: {found}, {sorted(secret.iterdir())}")
    assert tries > 20 and "of the host" not in found
    assert [path.name for path in secret.iterdir()] == ["inside"]
    assert (secret / "inside").read_text() == "of the host"


@pytest.mark.parametrize("target", ["/proc/self/fd/0", "/proc/self/fd/1", "/dev/zero", "/dev/tty", "/dev/ptmx"])
async def test_file_calls_on_what_is_no_file(sandbox: Sandbox, attack: Attempt, target):
    await attack(sandbox, f"ln -s {target} link")
    for path in (target, "link"):
        with pytest.raises(OSError):
            await sandbox.read(path)
        with pytest.raises(OSError):
            await sandbox.write(path, b"\0\0\0\2{}")
    assert (await attack(sandbox, "echo usable")).output == "usable\n"
