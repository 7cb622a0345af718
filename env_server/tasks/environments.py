"""Python environments for the tests of one package: pytest and the dependencies, but not the package's own code.

The metadata of the package stays, so entry points and `importlib.metadata` work; its modules are deleted, so that the
only copy of the code is the task's tree. Building runs the package's own build script on this machine, as pip does.
Left out: packages with compiled modules, and Python versions that are not installed here.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from env_server.errors import TaskError
from env_server.schema import PythonEnvironment
from env_server.settings import cache_home
from env_server.tasks import needs
from env_server.tasks.sources import Source, fetch, file_lock, normalise, pip
from sandboxes.base import Limits, SandboxSpec

INSIDE = "/opt/env"
WORKDIR = "/testbed"
LAYOUT = 3
"""Part of the cache key: raise it when what is built changes."""


@dataclass(frozen=True)
class Environment:
    """A built environment in the cache."""

    root: Path
    record: PythonEnvironment
    import_roots: tuple[str, ...]
    """Folders of the tree that hold the package, relative: `` or `src`."""
    modules: tuple[str, ...]
    """The package's own Python files, relative to the tree, as the author installs them."""

    @property
    def site_packages(self) -> Path:
        """Where the dependencies are."""
        return self.root / "lib" / f"python{self.record.python}" / "site-packages"

    def spec(self, limits: Limits | None = None) -> SandboxSpec:
        """A sandbox with this environment at `/opt/env` and no other Python packages in sight."""
        base = _base_prefix(self.record.python)
        mounts = {INSIDE: self.root}
        if not base.is_relative_to("/usr"):
            mounts[str(base)] = base
        roots = [f"{WORKDIR}/{root}" if root else WORKDIR for root in self.import_roots]
        return SandboxSpec(
            workdir=WORKDIR,
            read_only=mounts,
            hidden=_second_copies(base, self.record.python),
            env={**test_env(roots, self.record), "PATH": f"{INSIDE}/bin:/usr/local/bin:/usr/bin:/bin"},
            limits=limits or Limits(),
        )


def test_env(import_roots: Sequence[str], record: PythonEnvironment) -> dict[str, str]:
    """Variables of every command of a task: deterministic hashes and examples, no bytecode left in the tree."""
    variables = {
        "PYTHONPATH": ":".join(dict.fromkeys([*import_roots, WORKDIR])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    if any(pin.startswith("hypothesis==") for pin in record.requirements):
        variables["CI"] = "true"  # its profile of that name: no random examples, no deadlines
    return variables


def build(source: Source) -> Environment:
    """The environment of a source distribution with the newest dependencies, or the one built before.

    Raises:
        TaskError: it cannot be installed, has compiled modules, or pytest itself needs it.
    """
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = _home() / f"{source.name}-{source.version}-{source.sha256[:12]}-py{minor}-v{LAYOUT}.json"
    with file_lock(f"env-{source.name}"):
        if pins.exists():
            record = PythonEnvironment.model_validate_json(pins.read_text())
            return _open(record) or _make(source, record, minor)
        environment = _make(source, None, minor)
        pins.write_text(environment.record.model_dump_json())
        return environment


def ensure(record: PythonEnvironment) -> Environment:
    """The environment with exactly these pins, built if it is not in the cache. Raises TaskError."""
    if found := _open(record):
        return found
    with file_lock(f"env-{record.package}"):
        return _open(record) or _make(source_of(record), record, record.python)


def source_of(record: PythonEnvironment) -> Source:
    """The source distribution a task was made from, its sha256 checked. Raises TaskError."""
    return fetch(f"{record.package}=={record.version}", sha256=record.sha256)


def _home() -> Path:
    home = cache_home() / "envs"
    home.mkdir(parents=True, exist_ok=True)
    return home


def _folder(record: PythonEnvironment) -> Path:
    """A base interpreter that moved makes another environment: the links in it would be broken."""
    text = f"{LAYOUT} {_base_prefix(record.python)} {record.model_dump_json()}"
    return _home() / f"{record.package}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _open(record: PythonEnvironment) -> Environment | None:
    folder = _folder(record)
    meta = folder / "agent-srl.json"
    if not meta.exists():
        return None
    row = json.loads(meta.read_text())
    return Environment(folder, record, tuple(row["import_roots"]), tuple(row["modules"]))


def _make(source: Source, record: PythonEnvironment | None, minor: str) -> Environment:
    """Build aside, then rename: a half-built environment is never seen."""
    with tempfile.TemporaryDirectory(dir=_home(), prefix=".new-") as scratch:
        folder = Path(scratch) / "env"
        _venv(folder, minor)
        _install(source, record, folder / "bin" / "python")
        site = folder / "lib" / f"python{minor}" / "site-packages"
        needed = _needed_by_pytest(site)
        if source.name in needed:
            raise TaskError(f"{source.name}: pytest itself needs it, so a bug in it would break every test run")
        roots, modules = _take_out(source, site)
        _move_scripts(folder)
        if record is None:
            record = _freeze(source, site, minor)
        meta = {"import_roots": roots, "modules": modules}
        (folder / "agent-srl.json").write_text(json.dumps(meta))
        target = _folder(record)
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return Environment(target, record, tuple(roots), tuple(modules))


def _venv(folder: Path, minor: str) -> None:
    python = _interpreter(minor)
    done = subprocess.run(
        [python, "-m", "venv", "--without-pip", str(folder)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise TaskError(f"cannot make a virtual environment with {python}: {last[0]}")


def _interpreter(minor: str) -> str:
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    if found := shutil.which(f"python{minor}"):
        return found
    raise TaskError(f"a task needs Python {minor}, which is not on PATH: install it, or make the tasks again")


@functools.cache
def _base_prefix(minor: str) -> Path:
    command = [_interpreter(minor), "-c", "import sys; print(sys.base_prefix)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return Path(done.stdout.strip())


def _second_copies(base: Path, minor: str) -> tuple[str, ...]:
    """Folders of the host where a package under test could be lying about."""
    folders = [base / "lib" / f"python{minor}" / name for name in ("site-packages", "ensurepip/_bundled")]
    for pattern in ("lib/python3*/*-packages", "local/lib/python3*/*-packages", "share/python-wheels"):
        folders += sorted(Path("/usr").glob(pattern))
    return tuple(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))


def _install(source: Source, record: PythonEnvironment | None, python: Path) -> None:
    archive = str(source.archive)
    if record is not None:
        pip("install", "--no-deps", *record.requirements, archive, python=python)
        return
    wanted = [needs.extras(source), *needs.groups(source), *needs.declared_imports(source)]
    if any(wanted):
        extra, *more = wanted
        try:
            pip("install", "pytest", archive + extra, *more, python=python)
            return
        except TaskError:
            pass  # a test requirement that cannot be had here is no reason to give up
    try:
        pip("install", "pytest", archive, python=python)
    except TaskError as error:
        raise TaskError(f"{source.name}: cannot be installed ({error})") from None


def _needed_by_pytest(site: Path) -> set[str]:
    """Names of pytest and of all it needs."""
    dists = {normalise(d.name): d for d in importlib.metadata.distributions(path=[str(site)])}
    needed: set[str] = set()
    todo = ["pytest"]
    while todo:
        name = todo.pop()
        if name in needed or name not in dists:
            continue
        needed.add(name)
        wanted = [line for line in dists[name].requires or [] if "extra ==" not in line]
        todo += [normalise(re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0]) for line in wanted]
    return needed


def _freeze(source: Source, site: Path, minor: str) -> PythonEnvironment:
    dists = importlib.metadata.distributions(path=[str(site)])
    pins = sorted(f"{normalise(d.name)}=={d.version}" for d in dists if normalise(d.name) != source.name)
    return PythonEnvironment(
        package=source.name, version=source.version, sha256=source.sha256, python=minor, requirements=pins
    )


def _take_out(source: Source, site: Path) -> tuple[list[str], list[str]]:
    """Delete the package's own files; return where they stand in the source tree."""
    found = [d for d in importlib.metadata.distributions(path=[str(site)]) if normalise(d.name) == source.name]
    if not found:
        raise TaskError(f"{source.name}: installed, but under another name")
    info = next(p for p in site.glob("*.dist-info") if normalise(_dist_name(p)) == source.name)
    with (info / "RECORD").open(newline="") as handle:
        files = [row[0] for row in csv.reader(handle) if row]
    if compiled := [file for file in files if file.endswith((".so", ".pyd"))]:
        raise TaskError(f"{source.name}: has compiled modules ({Path(compiled[0]).name})")
    scripts = {point.name for point in found[0].entry_points if point.group.endswith("_scripts")}
    for file in files:
        path = (site / file).resolve()
        if not path.is_relative_to(info) and not ("bin" in path.parts[-2:-1] and path.name in scripts):
            path.unlink(missing_ok=True)
    (info / "direct_url.json").unlink(missing_ok=True)
    _remove_empty(site)
    return _locate(source, [file for file in files if file.endswith(".py") and not file.startswith("..")])


def _dist_name(info: Path) -> str:
    return info.name.removesuffix(".dist-info").rsplit("-", 1)[0]


def _remove_empty(site: Path) -> None:
    for folder in sorted((p for p in site.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)):
        if not any(folder.iterdir()):
            folder.rmdir()


def _locate(source: Source, installed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find the installed modules in the tree. A vendored second copy has fewer matches and loses."""
    tree_files = [path.relative_to(source.tree).as_posix() for path in source.tree.rglob("*.py")]
    places: dict[str, list[str]] = {}
    for file in installed:
        hits = [t for t in tree_files if t == file or t.endswith("/" + file)]
        places[file] = [hit[: -len(file)].rstrip("/") for hit in hits]
    counts = Counter(root for roots in places.values() for root in roots)
    best = {file: max(roots, key=lambda r: (counts[r], -len(r))) for file, roots in places.items() if roots}
    if not best:
        raise TaskError(f"{source.name}: none of its modules is in the source tree")
    modules = sorted(f"{root}/{file}" if root else file for file, root in best.items())
    roots = sorted(set(best.values()), key=lambda root: -counts[root])
    return roots, modules


def _move_scripts(folder: Path) -> None:
    """Scripts start the interpreter where the sandbox sees it; activation scripts go."""
    for script in (folder / "bin").iterdir():
        if script.name.lower().startswith("activate"):
            script.unlink()
        elif not script.is_symlink() and (content := script.read_bytes()).startswith(b"#!"):
            first, _, rest = content.partition(b"\n")
            if str(folder).encode() in first or b"/bin/python" in first:
                script.write_bytes(b"#!" + f"{INSIDE}/bin/python".encode() + b"\n" + rest)
