"""What a bubblewrap sandbox sees: the arguments of `bwrap`, as a function of the spec and of this machine.

Writable are the work folder and, in memory and limited in size, `/tmp` and the home. Read-only are the host's
`/usr`, the running Python, a made-up `/etc` and what the spec mounts. Installed packages of the host are
always hidden: a pristine copy of a package gives a planted bug away. Left out: images (the host's `/usr` is
the image), disk quotas.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sandboxes.base import SandboxSpec

HOME = "/home/agent"
USER_ID = "1000"
GUARD = 'mount -o remount,bind,ro,nosuid,noexec /dev && exec "$@"'
SUPERVISOR = "/run/supervisor.py"
PACKAGE_FOLDERS = {"site-packages", "dist-packages", "third_party", "_bundled"}
"""The last is the wheels of ensurepip."""
NOT_SEARCHED = {"/usr/share", "/usr/include", "/usr/src"}
PROC_READ_ONLY = ("sys", "bus", "fs", "irq", "sysrq-trigger", "driver", "mtrr", "pressure")
"""Root's files in /proc are writable for whoever has root's id on the host, capabilities or not."""
PROC_HIDDEN = ("acpi", "asound", "scsi", "keys", "sched_debug", "timer_list")
"""And every other file that not all may read."""
ETC_COPIES = ("ld.so.cache", "alternatives", "localtime", "mime.types")
ETC_FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/bash\nagent:x:{USER_ID}:{USER_ID}:agent:{HOME}:/bin/bash\n",
    "group": f"root:x:0:\nagent:x:{USER_ID}:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}


@dataclass(frozen=True)
class Features:
    """What bubblewrap may do on this machine."""

    lock_userns: bool = True
    """Forbid further user namespaces inside."""
    own_proc: bool = True
    """Mount a new `/proc`. In a container whose own has masked parts the kernel refuses that; sandboxes then
    see the command lines of the container's other processes, but can neither look into nor signal them."""


@dataclass(frozen=True)
class Mount:
    """A folder of the host as it appears inside."""

    target: PurePosixPath
    source: Path


def make_etc(folder: Path) -> None:
    """Fill an empty folder with the little of `/etc` that programs need and that holds no secret."""
    for name, text in ETC_FILES.items():
        (folder / name).write_text(text)
    for name in ETC_COPIES:
        source = Path("/etc") / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        elif source.exists():
            shutil.copyfile(source, folder / name)


def python() -> Path:
    """The interpreter behind this process, outside any virtual environment; it is mounted at its own path."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Path(sys.base_prefix).resolve() / "bin" / version


def guard() -> list[str]:
    """Words before `bwrap`. Root's device nodes belong to whoever has root's id on the host, capabilities or not: with
    them read-only, nobody inside can change their modes for the whole machine."""
    if os.getuid() != 0:
        return []
    return ["unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", GUARD, "sh"]


def isolation(features: Features) -> list[str]:
    """Arguments that cut a sandbox off from everything."""
    return [
        *("--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--as-pid-1"),
        *(["--disable-userns"] if features.lock_userns else []),
        *("--uid", USER_ID, "--gid", USER_ID, "--cap-drop", "ALL", "--clearenv", "--hostname", "sandbox"),
    ]


def proc(features: Features) -> list[str]:
    """Arguments that make `/proc`, without what root's id on the host could change."""
    return ["--proc", "/proc", *_proc_covers()] if features.own_proc else ["--ro-bind", "/proc", "/proc"]


def arguments(spec: SandboxSpec, *, work: Path, etc: Path, features: Features) -> list[str]:
    """Arguments of `bwrap`, the command left out.

    Args:
        work: host folder that becomes the work folder.
        etc: host folder made by `make_etc`.
        features: what bubblewrap may do here.
    """
    size = str(max(1, spec.limits.memory_mb // 2) * 2**20)
    memory = ["--size", size, "--tmpfs"]
    mounts = _mounts(spec)
    return [
        *isolation(features),
        *_links(),
        *("--ro-bind", str(etc), "/etc", "--dev", "/dev", *proc(features)),
        *(*memory, "/dev/shm", *memory, "/tmp", *memory, HOME),
        *("--bind", str(work), spec.workdir),
        *(word for mount in mounts for word in ("--ro-bind", str(mount.source), str(mount.target))),
        *(word for path in _hidden(spec, mounts) for word in ("--tmpfs", path, "--remount-ro", path)),
        *("--ro-bind", str(Path(__file__).with_name("supervisor.py")), SUPERVISOR),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", spec.workdir),
    ]


def _mounts(spec: SandboxSpec) -> list[Mount]:
    """Read-only mounts, parents before children."""
    mounts = [Mount(PurePosixPath("/usr"), Path("/usr"))]
    for prefix in {Path(sys.base_prefix), Path(sys.base_prefix).resolve()}:
        if not prefix.is_relative_to("/usr"):
            mounts.append(Mount(PurePosixPath(prefix), prefix))
    mounts += [Mount(PurePosixPath(target), Path(source)) for target, source in spec.read_only.items()]
    return sorted(mounts, key=lambda mount: len(mount.target.parts))


@functools.cache
def _proc_covers() -> tuple[str, ...]:
    words: list[str] = []
    for path in sorted(path for path in Path("/proc").iterdir() if not path.name.isdigit()):
        if path.name in PROC_READ_ONLY:
            words += ["--ro-bind", str(path), str(path)]
        elif path.is_dir() and path.name in PROC_HIDDEN:
            words += ["--tmpfs", str(path), "--remount-ro", str(path)]
        elif path.is_file() and (path.name in PROC_HIDDEN or not path.stat().st_mode & stat.S_IROTH):
            words += ["--ro-bind", "/dev/null", str(path)]
    return tuple(words)


def _links() -> Iterator[str]:
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), f"/{name}")
        elif path.is_dir():
            yield from ("--ro-bind", str(path), f"/{name}")


def _hidden(spec: SandboxSpec, mounts: list[Mount]) -> list[str]:
    """Paths inside that become empty: the host's packages, then the spec's."""
    inside = {_inside(path, mounts) for path in (*installed_packages(), *spec.hidden)}
    return sorted(path for path in inside if path is not None)


@functools.cache
def installed_packages() -> tuple[str, ...]:
    """Folders of installed packages below `/usr` and the running Python; the search takes half a second."""
    prefix = Path(sys.base_prefix).resolve()
    found = ["/usr/share/python-wheels", str(prefix / "pkgs"), str(prefix / "envs")]  # Debian's; conda's
    for root in ("/usr", str(prefix)):
        for folder, names, _ in os.walk(root):
            found += [f"{folder}/{name}" for name in names if name in PACKAGE_FOLDERS]
            names[:] = [
                name for name in names if name not in PACKAGE_FOLDERS and f"{folder}/{name}" not in NOT_SEARCHED
            ]
    return tuple(found)


def _inside(path: str, mounts: list[Mount]) -> str | None:
    """Where a folder to hide really lies inside, links followed; None if nothing is there to hide."""
    for mount in reversed(mounts):  # the deepest first
        if PurePosixPath(path).is_relative_to(mount.target):
            root = mount.source.resolve()
            real = (mount.source / PurePosixPath(path).relative_to(mount.target)).resolve()
            if not real.is_dir() or not real.is_relative_to(root):
                return None
            return str(mount.target / real.relative_to(root))
    return None
