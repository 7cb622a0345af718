"""The folders on the host behind bubblewrap sandboxes: made, removed, and cleared away after a dead owner.

Layout: `TMPDIR/agent-srl-sandboxes-UID/OWNER.xxxx/{etc,xxxx/work}`, OWNER as in `owners.identity`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sandboxes import mounts, owners, trees
from sandboxes.errors import SandboxUnavailable

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def base_folder() -> Path:
    """Where the folders of all owners lie: one per user, closed to others."""
    return Path(tempfile.gettempdir()) / f"agent-srl-sandboxes-{os.getuid()}"


def make_root() -> Path:
    """The folder of one owner, after removing those of dead ones. Raises SandboxUnavailable."""
    base = base_folder()
    with _advice(base):
        base.mkdir(mode=0o700, exist_ok=True)
        info = base.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
            raise SandboxUnavailable(f"{base} belongs to somebody else: set TMPDIR to a folder of your own")
        for folder in base.iterdir():
            if not owners.is_alive(folder.name.split(".")[0]):
                trees.remove_tree(folder)
        root = Path(tempfile.mkdtemp(prefix=f"{owners.identity()}.", dir=base))
        (root / "etc").mkdir()
        mounts.make_etc(root / "etc")
    return root


def make_folder(root: Path) -> Path:
    """The folder of one sandbox, with an empty `work` in it. Raises SandboxUnavailable."""
    with _advice(root):
        folder = Path(tempfile.mkdtemp(dir=root))
        (folder / "work").mkdir(mode=0o755)
    return folder


def upload(source: Path, work: Path, parts: tuple[str, ...]) -> None:
    """Copy the content of `source` into `work/parts...`. Raises OSError, SandboxUnavailable (disk full)."""
    with _opened(source, ()) as outer, _opened(work, parts, make=True) as inner, _full_disk(work):
        trees.copy_tree(outer, inner)


def download(work: Path, parts: tuple[str, ...], target: Path, max_bytes: int) -> None:
    """Copy the content of `work/parts...` into `target`. Raises OSError, ValueError, SandboxUnavailable."""
    with _opened(work, parts) as inner, _full_disk(target):
        target.mkdir(parents=True, exist_ok=True)
        with _opened(target.resolve(), ()) as outer:
            trees.copy_tree(inner, outer, max_bytes=max_bytes)


@contextlib.contextmanager
def _opened(root: Path, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    fd = trees.open_folder(root, parts, make=make)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _advice(folder: Path) -> Iterator[None]:
    """Turn a folder that cannot be used into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = FULL.get(error.errno or 0) or error.strerror
        way_out = "free some space or set TMPDIR to another folder"
        raise SandboxUnavailable(f"cannot write in {folder} ({reason}): {way_out}") from error


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise SandboxUnavailable(f"{FULL[error.errno]} while copying to {folder}: free some space") from error
