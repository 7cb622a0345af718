"""Copy folder trees into and out of a place whose content is not trusted.

Every step opens one name relative to an open folder and never follows a link, so a link planted by the other
side, even while the copy runs, cannot lead out. Special files are left out. Blocking: call from a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)
MAX_PATH = 1024
"""Bytes of the longest path that is copied: depth costs open files and recursion, here and in what reads the copy."""
MIN_PART = 16
"""Bytes that a part of a path counts for at least, so that no tree is deeper than 64 folders."""
MOVING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
"""What a name says that went away or became something else while the copy ran."""
CHUNK = 2**20
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


def copy_tree(source: int, target: int, *, max_bytes: int | None = None, max_path: int = MAX_PATH) -> int:
    """Copy the content of one open folder into another and return the bytes copied; links stay links.

    Existing files are overwritten; a link or file in the place of a folder (or the other way round) is
    replaced. With `max_bytes`, the source is not trusted: what this user may not read is left out, and what moves
    away meanwhile.

    Raises:
        ValueError: more than `max_bytes`, or a path of more than `max_path` bytes below `source`.
    """
    total = 0
    for name in os.listdir(source):
        left = None if max_bytes is None else max_bytes - total
        room = max_path - max(len(os.fsencode(name)) + 1, MIN_PART)
        if room < 0:
            raise ValueError(f"the folder is deeper than allowed: a path is longer than {MAX_PATH} bytes")
        try:
            info = os.stat(name, dir_fd=source, follow_symlinks=False)
            total += _copy_entry(source, target, name, info, left, room)
        except OSError as error:  # where the source is ours, a file that we cannot read is a mistake
            if max_bytes is None or not (isinstance(error, PermissionError) or error.errno in MOVING):
                raise
    return total


def _copy_entry(source: int, target: int, name: str, info: os.stat_result, left: int | None, room: int) -> int:
    if stat.S_ISDIR(info.st_mode):
        clear(target, name, keep_folder=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=target)
        with _opened(name, FOLDER, source) as inner, _opened(name, FOLDER, target) as outer:
            total = copy_tree(inner, outer, max_bytes=left, max_path=room)
            os.fchmod(outer, info.st_mode & 0o777 | stat.S_IRWXU)
        return total
    if stat.S_ISLNK(info.st_mode):
        clear(target, name)
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISREG(info.st_mode):
        return copy_file(source, name, target, name, max_bytes=left)
    return 0


def copy_file(source: int, source_name: str, target: int, target_name: str, *, max_bytes: int | None = None) -> int:
    """Copy one regular file with mode and time; returns its size. Raises ValueError if it is too large."""
    with _opened(source_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, source) as fd:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return 0
        if max_bytes is not None and info.st_size > max_bytes:
            raise ValueError(f"the folder is larger than allowed: {source_name} no longer fits")
        with os.fdopen(os.dup(fd), "rb") as content:
            return write_file(target, target_name, content, info.st_size, info.st_mode & 0o777, info.st_mtime_ns)


def write_file(folder: int, name: str, content: IO[bytes], size: int, mode: int, mtime_ns: int) -> int:
    """A new file in an open folder, in place of whatever has that name, of at most `size` bytes; returns how many."""
    clear(folder, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _opened(name, flags, folder) as fd:
        with os.fdopen(os.dup(fd), "wb") as file:
            left = size  # whoever writes to the source may make it grow for ever
            while left and (chunk := content.read(min(left, CHUNK))):
                file.write(chunk)
                left -= len(chunk)
        os.fchmod(fd, mode)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        return size - left


def clear(folder: int, name: str, *, keep_folder: bool = False) -> None:
    """Remove what has that name in an open folder, if anything, whatever it is."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=folder)
    elif not keep_folder:
        _remove(name, Path(f"/proc/{os.getpid()}/fd/{folder}"))


@contextlib.contextmanager
def _opened(name: str, flags: int, folder: int) -> Iterator[int]:
    fd = os.open(name, flags, 0o644, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def remove_tree(path: Path) -> None:
    """Remove a folder whatever modes and depth its content has. Nothing may write to it any more.

    Never raises: what cannot be removed is logged, and a later start tries again.
    """
    try:
        _remove(path.name, path.parent)
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error)


def _remove(name: str, parent: Path) -> None:
    """By `rm`, since Python's own removal recurses and fails in a tree of some hundred levels. Raises OSError."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        done = subprocess.run([*command, "--", name], cwd=parent, capture_output=True)
        if command[0] == "rm" and done.returncode == 0:
            return
    raise OSError(errno.EBUSY, done.stderr.decode(errors="replace").strip()[:300], str(parent / name))
