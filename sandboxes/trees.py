"""Copy folder trees into and out of a place whose content is not trusted.

Every step opens one name relative to an open folder and never follows a link, so a link planted by the other
side, even while the copy runs, cannot lead out. Special files are left out. Blocking: call from a thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_folder(root: Path, parts: Iterable[str], *, make: bool = False) -> int:
    """Descriptor of the folder `root/parts...`; no part after `root` may be a link.

    Raises:
        FileNotFoundError, NotADirectoryError: as named; a link counts as no folder.
    """
    current = os.open(root, FOLDER)
    for part in parts:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            following = os.open(part, FOLDER, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def copy_tree(source: int, target: int, *, max_bytes: int | None = None) -> int:
    """Copy the content of one open folder into another and return the bytes copied; links stay links.

    Existing files are overwritten; a link or file in the place of a folder (or the other way round) is
    replaced. With `max_bytes`, the source is not trusted, and what this user may not read is left out.

    Raises:
        ValueError: more than `max_bytes`.
    """
    total = 0
    for name in os.listdir(source):
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        left = None if max_bytes is None else max_bytes - total
        try:
            total += _copy_entry(source, target, name, info, left)
        except PermissionError:
            if max_bytes is None:  # the source is ours: a file that we cannot read is a mistake
                raise
    return total


def _copy_entry(source: int, target: int, name: str, info: os.stat_result, left: int | None) -> int:
    if stat.S_ISDIR(info.st_mode):
        _clear(target, name, keep=stat.S_ISDIR)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=target)
        with _opened(name, FOLDER, source) as inner, _opened(name, FOLDER, target) as outer:
            total = copy_tree(inner, outer, max_bytes=left)
            os.fchmod(outer, stat.S_IMODE(info.st_mode) | stat.S_IRWXU)
        return total
    if stat.S_ISLNK(info.st_mode):
        _clear(target, name, keep=None)
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(info.st_mode):
        if left is not None and info.st_size > left:
            raise ValueError(f"the folder is larger than allowed: {name} no longer fits")
        _clear(target, name, keep=None)
        return _copy_file(source, target, name, left)
    return 0


def _copy_file(source: int, target: int, name: str, left: int | None) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with _opened(name, os.O_RDONLY | flags, source) as inner:
        info = os.fstat(inner)
        if not stat.S_ISREG(info.st_mode):
            return 0
        with _opened(name, create | flags, target) as outer:
            copied = 0
            while data := os.read(inner, 1024 * 1024):
                copied += len(data)
                if left is not None and copied > left:
                    raise ValueError(f"the folder is larger than allowed: {name} no longer fits")
                view = memoryview(data)
                while view:
                    view = view[os.write(outer, view) :]
            os.fchmod(outer, stat.S_IMODE(info.st_mode) & 0o777)
            os.utime(outer, ns=(info.st_atime_ns, info.st_mtime_ns))
            return copied


def _clear(folder: int, name: str, *, keep: Callable[[int], bool] | None) -> None:
    """Remove `name` unless it is of the kind to keep."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if keep is not None and keep(mode):
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    fd = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a folder whatever modes its content has. Nothing may write to it any more."""

    def open_up(_: object, failed: str, __: object) -> None:
        for folder in (Path(failed).parent, Path(failed)):
            if folder.is_dir() and not folder.is_symlink():
                folder.chmod(0o700)
        if Path(failed).is_dir() and not Path(failed).is_symlink():
            shutil.rmtree(failed, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(failed).unlink()

    shutil.rmtree(path, onerror=open_up)
