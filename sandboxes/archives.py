"""Folder trees as tar streams, for engines that speak tar. Unpacking trusts nothing in the stream.

Left out: owners, special files, hard links that lead nowhere. Blocking: call from a thread.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from sandboxes import trees


def pack(source: Path, target: IO[bytes], *, uid: int, gid: int) -> None:
    """Write the content of a folder as a tar archive in which all belongs to one user."""

    def keep(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            return None
        member.uid, member.gid, member.uname, member.gname = uid, gid, "", ""
        return member

    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(source, arcname=".", filter=keep)


def unpack(stream: IO[bytes], target: Path, *, max_bytes: int) -> None:
    """Unpack an archive of one folder into `target`, dropping the first part of every name, the folder's own.

    Raises:
        ValueError: more than `max_bytes`, or a name that leads out.
        NotADirectoryError: the archive is not of a folder.
    """
    total = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"the archive holds a name that leads out: {member.name}")
            parts = name.parts[1:]
            if not parts and not member.isdir():
                raise NotADirectoryError(f"{member.name} is not a folder")
            total += member.size
            if total > max_bytes:
                raise ValueError(f"the folder is larger than allowed: {member.name} no longer fits")
            _unpack_member(archive, member, target, parts)


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, parts: tuple[str, ...]) -> None:
    if member.isdir():
        os.close(trees.open_folder(target, parts, make=True))
        return
    content = archive.extractfile(member) if member.isreg() else None
    folder = trees.open_folder(target, parts[:-1], make=True)
    try:
        if member.issym():
            trees.clear(folder, parts[-1])
            os.symlink(member.linkname, parts[-1], dir_fd=folder)
        elif content is not None:
            trees.write_file(folder, parts[-1], content, member.size, member.mode & 0o777, int(member.mtime * 1e9))
        elif member.islnk():
            _unpack_hard_link(member, target, folder, parts[-1])
    finally:
        os.close(folder)


def _unpack_hard_link(member: tarfile.TarInfo, target: Path, folder: int, name: str) -> None:
    """A second name of a file that came earlier in the archive becomes a copy."""
    source = PurePosixPath(member.linkname).parts[1:]
    if not source or ".." in source:
        return
    origin = trees.open_folder(target, source[:-1])
    try:
        trees.copy_file(origin, source[-1], folder, name)
    finally:
        os.close(origin)
