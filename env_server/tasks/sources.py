"""Source distributions from the package index: fetched, checked, unpacked and cleaned once, then kept in the cache.

The cleaned tree is "pristine": it holds what the author released and nothing that a build or a test run leaves behind.
Left out: installing anything (`environments`), and which of its files are tests (`suite`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from env_server.errors import TaskError
from env_server.settings import cache_home

FRESH_S = 24 * 3600
"""A name without a version means the newest release; asked for again within a day, the cached one serves."""
PIP_TIMEOUT_S = 600
JUNK_FOLDERS = frozenset(
    {"__pycache__", ".git", ".hg", ".svn", ".tox", ".nox", ".eggs", ".venv", "htmlcov", "node_modules", "_build"}
    | {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
)
JUNK_SUFFIXES = (".pyc", ".pyo", ".orig", ".rej")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*?)\s*(?:==\s*([A-Za-z0-9][A-Za-z0-9.!+_-]*))?$")


@dataclass(frozen=True)
class Source:
    """An unpacked source distribution in the cache."""

    name: str
    """As in the index, normalised: lower case, with `-`."""
    version: str
    sha256: str
    """Of the archive."""
    created_at: str
    """Newest file in the archive, ISO 8601: about the day of the release."""
    archive: Path
    tree: Path
    """The pristine tree. Read only by agreement: copy it before changing anything."""


def normalise(name: str) -> str:
    """A distribution's name as the index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def fetch(requirement: str, *, sha256: str = "") -> Source:
    """The source distribution of `NAME` or `NAME==VERSION`.

    Args:
        requirement: what to fetch.
        sha256: if given, the archive must have it.

    Raises:
        TaskError: not a requirement, no such source distribution, or another archive than the one asked for.
    """
    match = _REQUIREMENT.match(requirement.strip())
    if match is None:
        raise TaskError(f"{requirement!r} is not NAME or NAME==VERSION")
    name, version = normalise(match[1]), match[2] or ""
    with file_lock(f"source-{name}"):
        found = _cached(name, version, sha256) or _download(name, version)
    if sha256 and found.sha256 != sha256:
        raise TaskError(
            f"{name}=={version}: the index now has an archive with sha256 {found.sha256[:12]}..., "
            f"the task was made from {sha256[:12]}...; make the task again"
        )
    return found


@contextmanager
def file_lock(name: str) -> Iterator[None]:
    """One process or thread at a time per name; the lock ends with the process."""
    folder = cache_home() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except PermissionError as error:
        raise TaskError(f"cannot write to the cache {cache_home()}: set AGENT_SRL_HOME to a folder") from error


def pip(*arguments: str, python: Path | None = None) -> None:
    """Run our own pip, for another interpreter if given. Raises TaskError with pip's last error line."""
    target = ["--python", str(python)] if python else []
    command = [sys.executable, "-m", "pip", *target, *arguments, "--quiet", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PIP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise TaskError(f"pip took more than {PIP_TIMEOUT_S} s") from None
    if done.returncode:
        raise TaskError(_pip_error(done.stderr))


def _pip_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return f"{sys.executable} has no pip: install it"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return "pip: " + (errors[0] if errors else lines[-1] if lines else "failed without a word")[:300]


def _cached(name: str, version: str, sha256: str) -> Source | None:
    """The newest fitting entry of the cache."""
    entries = sorted((cache_home() / "sources").glob(f"{name}-*/source.json"), key=lambda p: p.stat().st_mtime)
    for entry in reversed(entries):
        row = json.loads(entry.read_text())
        fits = row["name"] == name and (not version or row["version"] == version)
        fresh = bool(version) or time.time() - entry.stat().st_mtime < FRESH_S
        if fits and fresh and (not sha256 or row["sha256"] == sha256):
            folder = entry.parent
            clean(folder / "tree")  # whoever runs Python in it leaves bytecode behind
            return Source(archive=folder / row.pop("archive"), tree=folder / "tree", **row)
    return None


def _download(name: str, version: str) -> Source:
    home = cache_home() / "sources"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".new-") as scratch:
        folder = Path(scratch) / "entry"
        folder.mkdir()
        requirement = f"{name}=={version}" if version else name
        try:
            pip("download", "--no-deps", "--no-binary", name, "--dest", str(folder), requirement)
        except TaskError as error:
            raise TaskError(f"{requirement}: no usable source distribution ({error})") from None
        archive = next(path for path in folder.iterdir() if path.is_file())
        source = _unpack(name, archive, folder / "tree")
        target = home / f"{name}-{source.version}-{source.sha256[:12]}"
        row = {**asdict(source), "archive": archive.name}
        del row["tree"]
        (folder / "source.json").write_text(json.dumps(row))
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return Source(**{**asdict(source), "archive": target / archive.name, "tree": target / "tree"})


def _unpack(name: str, archive: Path, tree: Path) -> Source:
    """Unpack into `tree`; the version is read from the archive's name."""
    stem = re.sub(r"\.(tar\.(gz|bz2|xz)|tgz|zip)$", "", archive.name)
    version = stem.rsplit("-", 1)[-1]
    scratch = tree.with_name("unpacked")
    try:
        newest = _extract(archive, scratch)
    except (tarfile.TarError, zipfile.BadZipFile, OSError) as error:
        raise TaskError(f"{name}: cannot unpack {archive.name} ({error})") from error
    tops = list(scratch.iterdir())
    (tops[0] if len(tops) == 1 and tops[0].is_dir() else scratch).rename(tree)
    shutil.rmtree(scratch, ignore_errors=True)
    clean(tree)
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    created = datetime.fromtimestamp(newest, UTC).isoformat().replace("+00:00", "Z")
    return Source(name, version, sha256, created, archive, tree)


def _extract(archive: Path, target: Path) -> float:
    """Unpack without leaving `target`; the time of the newest member, in seconds since 1970."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(target)
            dates = [info.date_time for info in packed.infolist()]
            return max(datetime(*date, tzinfo=UTC).timestamp() for date in dates)
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
        for member in members:
            _extract_member(opened, member, target)
        return float(max(member.mtime for member in members))


def _extract_member(opened: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Folders and plain files beneath `target`, with one of two modes; links and devices are left out.

    By hand, since tarfile's own filters are not in every Python 3.11.
    """
    path = target / member.name
    if ".." in Path(member.name).parts or Path(member.name).is_absolute():
        raise tarfile.TarError(f"{member.name} leads out of the archive")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.isfile() and (content := opened.extractfile(member)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read())
        path.chmod(0o755 if member.mode & 0o100 else 0o644)


def clean(tree: Path) -> None:
    """Delete what builds, tests and version control leave in a tree, so that no second copy of the code is in sight."""
    for root, folders, files in os.walk(tree, topdown=True):
        here = Path(root)
        for folder in list(folders):
            if _is_junk_folder(here / folder, top=here == tree):
                folders.remove(folder)
                shutil.rmtree(here / folder) if not (here / folder).is_symlink() else (here / folder).unlink()
        for file in files:
            if file.endswith(JUNK_SUFFIXES) or file == ".coverage":
                (here / file).unlink()


def _is_junk_folder(folder: Path, *, top: bool) -> bool:
    """`build` and `dist` are junk at the top; a package of such a name never is."""
    if (folder / "__init__.py").exists():
        return False
    if folder.name in JUNK_FOLDERS or folder.name.endswith(".egg-info"):
        return True
    return top and folder.name in ("build", "dist")
